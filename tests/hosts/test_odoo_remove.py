"""playbooks/odoo_remove.yml on a database that nobody has used: Odoo is as it was; and drift before that."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from filter_plugins.providers import odoo_servers
from library.odoo_mail import Database, on_all
from tests.story import ROOT, Hosts, Odoo

pytestmark = pytest.mark.hosts

NAME = "removal"
HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
CODE = (ROOT / "roles/odoo_mail/files/gateway_action.py").read_text(encoding="utf-8")
# All that Mailroom writes to, as far as this Odoo has it; and what Odoo itself keeps up to date in it.
TABLES = [
    "crm_team",
    "fetchmail_server",
    "ir_act_server",
    "ir_config_parameter",
    "ir_cron",
    "ir_mail_server",
    "ir_model_data",
    "mail_alias",
    "mail_alias_domain",
    "mail_gateway_allowed",
    "res_company",
    "res_groups",
    "res_groups_users_rel",
    "res_partner",
    "res_users",
    "res_users_apikeys",
]
OWN = '"calendar_sms.last_sms_cron"'
"""Where Odoo 14's timer of calendar_sms notes when it ran, which may be for the first time meanwhile."""
VOLATILE = ["write_date", "write_uid", "nextcall", "lastcall", "failure_count", "first_failure_date"]


def psql(statement: str, database: str = "postgres") -> str:
    return HOSTS.ssh(
        HOSTS.odoo,
        f"runuser -u postgres -- psql --quiet --tuples-only --no-align --command {shlex.quote(statement)} {database}",
    )


def snapshot() -> set[str]:
    """All rows of the tables, without what changes by itself."""
    rows = f"SELECT to_jsonb(t) - ''{{{','.join(VOLATILE)}}}''::text[] AS %I FROM %I t ORDER BY 1"  # noqa: S608 - ours
    names = f"unnest(ARRAY{TABLES}) AS name WHERE to_regclass(name) IS NOT NULL"
    query = f"SELECT query_to_xml(format('{rows}', name, name), true, true, '') FROM {names}"  # noqa: S608 - ours
    return {line for line in psql(query, NAME).splitlines() if OWN not in line}


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[Path]:
    """An inventory with a database as it is before Mailroom comes. Its account on the mail host is not made."""
    facts = yaml.safe_load((HOSTS.inventory / "group_vars" / "all.yml").read_text())
    domain = {
        "name": "removal.example.com",
        "aliases": [{"name": "sales", "model": "crm.team", "record": "Sales"}],
        "companies": [{"name": "My Company", "email": "office@removal.example.com"}],
    }
    facts["odoo_databases"] = [HOSTS.database | {"name": NAME, "domains": [domain], "queue_minutes": 7}]
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all.yml").write_text(yaml.safe_dump(facts))
    (tmp_path / "hosts.yml").symlink_to((HOSTS.inventory / "hosts.yml").resolve())
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "ca").symlink_to((HOSTS.secrets / "ca").resolve())
    psql(f"CREATE DATABASE {NAME} OWNER odoo TEMPLATE pristine")
    try:
        with HOSTS.names():
            yield tmp_path
    finally:
        psql(f"DROP DATABASE {NAME} WITH (FORCE)")


def database(inventory: Path, check_mode: bool = False) -> Database:
    facts = yaml.safe_load((inventory / "group_vars" / "all.yml").read_text())
    settings = facts["odoo_databases"][0] | {"ca_file": str(inventory / "secrets" / "ca" / "ca.pem")}
    params = {"secrets_directory": str(inventory / "secrets"), "timeout": 60, "gateway_key": "keep"}
    (servers,) = odoo_servers([settings], [HOSTS.mail.name], {settings["name"]: "x" * 40})
    return Database(settings, servers, params | {"gateway_code": CODE}, check_mode)


def lines(one: Database) -> list[str]:
    """What was changed, or would be."""
    one.odoo.close()
    assert one.problems == []
    return [change.line().removeprefix(f"odoo_databases[{NAME}].") for change in one.changes]


def converge(inventory: Path) -> list[str]:
    """Set up all but the account on the mail host, so without Odoo's own tests."""
    one = database(inventory)
    on_all([one], Database.read) and on_all([one], Database.apply)
    return lines(one)


def removal(inventory: Path, check_mode: bool) -> list[str]:
    one = database(inventory, check_mode)
    on_all([one], Database.read_for_removal) and on_all([one], Database.remove)
    return lines(one)


def change_by_hand(odoo: Odoo) -> str:
    """What an administrator might do in Odoo; returns what is told of the domain."""
    domain = ("mail.alias.domain", "name", "removal.example.com", {"catchall_alias": "everything"})
    told = "domains[removal.example.com].catchall_alias: everything -> catchall"
    if not odoo("ir.model", "search_count", [("model", "=", "mail.alias.domain")]):  # before 17
        domain = ("ir.config_parameter", "key", "mail.catchall.domain", {"value": "elsewhere.example"})
        told = "parameter mail.catchall.domain.value: elsewhere.example -> removal.example.com"
    for model, key, name, values in [
        domain,
        ("ir.mail_server", "name", f"Mailroom {HOSTS.mail.name}", {"smtp_port": 25}),
        ("ir.actions.server", "name", "Mailroom gateway", {"code": "# 0123456789abcdef\npass"}),
    ]:
        (record,) = odoo(model, "search", [(key, "=", name)])
        odoo(model, "write", [record], values)
    return told


def test_what_somebody_changed_is_put_back_and_removal_leaves_odoo_as_it_was(inventory: Path) -> None:
    before = snapshot()
    assert converge(inventory)[0] == "parameter mailroom.before: none -> new"
    with contextlib.closing(Odoo(Hosts(inventory), HOSTS.database["login"], HOSTS.database["password"])) as odoo:
        told = change_by_hand(odoo)

    drift = converge(inventory)

    assert told in drift
    assert f"outgoing server {HOSTS.mail.name}.smtp_port: 25 -> 465" in drift
    assert [line for line in drift if line.startswith("gateway action.code: version 01234567, changed in Odoo -> ")]
    assert converge(inventory) == []
    settled = snapshot()
    foretold = removal(inventory, check_mode=True)
    assert snapshot() ^ settled == set()

    output = Hosts(inventory).site(playbook="playbooks/odoo_remove.yml")

    assert [line for line in foretold if line not in output] == []
    assert snapshot() ^ before == set()
    assert list((inventory / "secrets").glob("gateway-*")) == []
    assert removal(inventory, check_mode=False) == []
