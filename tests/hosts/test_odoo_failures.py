"""What keeps a real Odoo from being asked is told in one sentence: what, where, what to do.

Of one that is stopped or starts, test_fetch_and_route.py sees it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from library.odoo_probe import ask
from module_utils.odoo_rpc import NO_API, Odoo
from tests.story import ROOT, Hosts

pytestmark = pytest.mark.hosts

PLACE = "odoo_databases[prod]"
# A second nginx beside Odoo's own: each port is what may stand where Odoo is thought to be.
WEBSITE, MOVED, GUARDED, WITHOUT_RPC, WITHOUT_XMLRPC = range(4431, 4436)
DOORS = f"""
user www-data; # as for Odoo, or the directory for large requests changes hands
pid /run/doors.pid;
events {{}}
http {{
    access_log off;
    ssl_certificate /etc/nginx/chain.pem;
    ssl_certificate_key /etc/nginx/key.pem;
    server {{ listen {WEBSITE} ssl; location / {{ return 200 "<!DOCTYPE html><p>Welcome"; }} }}
    server {{ listen {MOVED} ssl; location / {{ return 301 https://www.example.com/; }} }}
    server {{ listen {GUARDED} ssl; location / {{ return 401; }} }}
    server {{
        listen {WITHOUT_RPC} ssl;
        location / {{ proxy_pass http://127.0.0.1:8069; }}
        location ~ ^/(xmlrpc|json)/ {{ return 404; }}
    }}
    server {{
        listen {WITHOUT_XMLRPC} ssl;
        location / {{ proxy_pass http://127.0.0.1:8069; }}
        location /xmlrpc/ {{ return 404; }}
    }}
}}
"""
# What makes an API key for the user who runs it (see odoo_mail).
MAKE_KEY = """key = env['res.users.apikeys'].with_user(env.user).sudo()._generate('rpc', 'Failures'{})
action = {{'type': 'ir.actions.act_window_close', 'key': key}}
"""


@pytest.fixture(scope="module")
def hosts() -> Hosts:
    return Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))


@pytest.fixture(scope="module")
def database(hosts: Hosts) -> dict[str, Any]:
    return {**hosts.database, "ca_file": str(hosts.secrets / "ca" / "ca.pem")}


@pytest.fixture(scope="module")
def admin(database: dict[str, Any]) -> Iterator[Odoo]:
    odoo = Odoo(database["url"], database["name"], database["ca_file"], timeout=60)
    odoo.log_in(database["login"], database["password"])
    yield odoo
    odoo.close()


@pytest.fixture(scope="module")
def doors(hosts: Hosts) -> Iterator[str]:
    """Starts what may stand where Odoo is thought to be; gives the address that lacks the port."""
    command = f"cat >/run/doors.conf <<'END'\n{DOORS}\nEND\n"
    start = "systemd-run --quiet --unit=doors --property=Type=forking --property=PIDFile=/run/doors.pid"
    hosts.ssh(hosts.odoo, f"{command} {start} nginx -c /run/doors.conf")
    yield f"https://{hosts.odoo.address}"
    hosts.ssh(hosts.odoo, "systemctl stop doors; rm /run/doors.conf")


def sql(hosts: Hosts, statement: str) -> None:
    """Have PostgreSQL change what no API would."""
    database = hosts.database["name"]
    hosts.ssh(hosts.odoo, f'runuser -u postgres -- psql --quiet --dbname={database} --command="{statement}"')


@pytest.fixture(scope="module")
def key(admin: Odoo, hosts: Hosts) -> Iterator[str]:
    """An API key of the administrator."""
    (model,) = admin.search_read("ir.model", [["model", "=", "res.partner"]], ["model"])  # any that it may write
    expires = ", False" if admin.fields({"res.users.apikeys": ["expiration_date"]}) else ""
    values = {"name": "Failures", "model_id": model["id"], "state": "code", "code": MAKE_KEY.format(expires)}
    action = admin.create("ir.actions.server", values)
    yield admin.call("ir.actions.server", "run", [action])["key"]
    admin.call("ir.actions.server", "unlink", [action])
    sql(hosts, "DELETE FROM res_users_apikeys WHERE name = 'Failures'")


@pytest.fixture
def two_factors(hosts: Hosts) -> Iterator[None]:
    """The salesperson signs in with a second factor."""
    set_secret = "UPDATE res_users SET totp_secret = {} WHERE login = 'salesperson'"
    sql(hosts, set_secret.format("'JBSWY3DPEHPK3PXP'"))
    yield
    sql(hosts, set_secret.format("NULL"))


def said(database: dict[str, Any], **wrong: Any) -> str:
    """The one line that is said of a database with something wrong."""
    told, problems = ask(database | wrong, 20)
    assert told == {}
    (line,) = problems
    return line


def test_a_wrong_database(database: dict[str, Any], key: str) -> None:
    expected = "odoo_databases[nope].name: Odoo has no database 'nope': check the name"
    assert said(database, name="nope") == said(database, name="nope", password=key) == expected


def test_a_wrong_password(database: dict[str, Any]) -> None:
    looks_like_a_key = "0" * 40  # so that both protocols are tried
    assert said(database, password=looks_like_a_key) == (
        f"{PLACE}.login: Odoo refuses the login 'admin': check login and password"
    )


@pytest.mark.usefixtures("two_factors")
def test_an_account_with_two_factors(database: dict[str, Any]) -> None:
    assert said(database, login="salesperson", password="salesperson") == (
        f"{PLACE}.login: Odoo refuses the login 'salesperson': the account has two-factor sign-in: "
        "make an API key in that user's preferences in Odoo, and give it as password"
    )


def test_an_employee_is_no_administrator(database: dict[str, Any]) -> None:
    assert said(database, login="salesperson", password="salesperson") == (
        f"{PLACE}.login: Odoo does not let 'salesperson' use ir.config_parameter: "
        "use one with the access right Administration: Settings"
    )


def test_an_app_that_is_not_installed(database: dict[str, Any]) -> None:
    alias = {"name": "jobs", "model": "hr.job", "record": "Cook"}
    _, problems = ask({**database, "domains": [{"name": "example.com", "aliases": [alias]}]}, 20)
    place = f"{PLACE}.domains[example.com].aliases[jobs]"
    assert problems == [f"{place}.model: Odoo has no model hr.job: install its app, or correct the name"]


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (1, "does not answer (connection refused): check the address and that Odoo runs there"),
        (22, "does not speak TLS properly (WRONG_VERSION_NUMBER): check the port"),
        (WEBSITE, "answers with a web page, not like Odoo: check the address"),
        (MOVED, "redirects to https://www.example.com/: give the address where it ends"),
        (
            GUARDED,
            "answers HTTP 401 Unauthorized: let the proxy before Odoo pass this machine without a login of its own",
        ),
        (
            WITHOUT_RPC,
            f"has no external API (HTTP 404): {NO_API}",
        ),
    ],
)
def test_something_else_than_odoo(database: dict[str, Any], doors: str, port: int, expected: str) -> None:
    assert said(database, url=f"{doors}:{port}") == f"{PLACE}.url: {doors}:{port} {expected}"


@contextlib.contextmanager
def silent(hosts: Hosts, command: str, back: str) -> Iterator[None]:
    """Odoo's machine says nothing between the two commands."""
    hosts.ssh(hosts.odoo, command)
    try:
        yield
    finally:
        hosts.ssh(hosts.odoo, back)


def test_a_machine_where_all_is_stopped(database: dict[str, Any], hosts: Hosts, admin: Odoo) -> None:
    admin.close()
    with silent(hosts, "systemctl stop nginx", "systemctl start nginx"):
        assert said(database) == (
            f"{PLACE}.url: {database['url']} does not answer (connection refused): "
            "check the address and that Odoo runs there"
        )


def test_an_odoo_that_hangs(database: dict[str, Any], hosts: Hosts) -> None:
    with silent(hosts, "systemctl kill --signal=STOP odoo", "systemctl kill --signal=CONT odoo"):
        assert ask(database, 1)[1] == [
            f"{PLACE}.url: {database['url']} does not answer within 1 s: "
            "check the address, the firewall and that Odoo is not overloaded"
        ]


def test_a_name_that_nobody_has(database: dict[str, Any]) -> None:
    assert said(database, url="https://odoo.invalid") == (
        f"{PLACE}.url: https://odoo.invalid has a host name without an address: "
        "check its spelling and the DNS of the control node"
    )


def test_a_certificate_that_does_not_prove_who_answers(database: dict[str, Any], hosts: Hosts) -> None:
    url, other = database["url"], f"https://[fd77::{hosts.odoo.address.rpartition('.')[2]}]"
    assert said(database, ca_file=None) == (
        f"{PLACE}.url: {url} shows a certificate that is not trusted (unable to get local issuer certificate): "
        "name its authority's file in ca_file"
    )
    assert f"{other} shows a certificate for another name" in said(database, url=other)
    assert "would send the password unencrypted: use https://" in said(database, url=url.replace("https", "http"))


def test_a_key_instead_of_the_password(database: dict[str, Any], key: str) -> None:
    assert ask(database | {"password": key}, 20)[1] == []


def test_an_odoo_without_xmlrpc_takes_keys_alone(database: dict[str, Any], admin: Odoo, doors: str, key: str) -> None:
    if admin.version() < 19:
        pytest.skip("Odoo has JSON-2 from 19 on")
    url = f"{doors}:{WITHOUT_XMLRPC}"
    assert ask(database | {"url": url, "password": key}, 20)[1] == []
    assert said(database, url=url).endswith(
        "make an API key in that user's preferences in Odoo, and give it as password"
    )
