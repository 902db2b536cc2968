"""What the role fetch_and_route writes."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import jinja2
import pytest

from fetch_and_route.config import Mailbox, OAuth, parse
from filter_plugins.fetch_and_route import (
    MAILBOX_SETTINGS,
    OAUTH_SETTINGS,
    FilterModule,
    former_addresses,
    mailbox_files,
    mailbox_sources,
    mailboxes,
    program_files,
    routes,
    secret_files,
    sources,
)

TEMPLATES = Path(__file__).resolve().parents[3] / "roles/fetch_and_route/templates/etc"
DATABASE: dict[str, Any] = {
    "name": "prod",
    "url": "https://odoo.example.com",
    "ca_file": "/c/ca.pem",
    "domains": [{"name": "Example.com", "catchall": "reception", "former_names": ["Front"]}],
}
GATEWAYS = {"prod": {"action_id": 7, "protocol": "xmlrpc", "login": "gate"}}
FOUND = {"prod": {"version": "19.0", "former": {"Example.com": ["catchall", "bounces"]}}}
ROUTE = {
    "name": "prod",
    "database": "prod",
    "url": "https://odoo.example.com",
    "protocol": "xmlrpc",
    "login": "gate",
    "action": 7,
    "password_source": "/s/mailbox-prod",
    "key_source": "/s/gateway-prod",
    "ca_source": "/c/ca.pem",
    "ca_file": "/etc/fetch-and-route/prod-ca.pem",
    "domains": ["example.com"],
    "former_names": {
        "bounces@example.com": "bounce@example.com",
        "catchall@example.com": "reception@example.com",
        "front@example.com": "reception@example.com",
    },
}
TEXTS = {"/s/gateway-prod": "key\n", "/c/ca.pem": "PEM"}


def test_a_route_joins_what_the_roles_before_found_out() -> None:
    assert routes([DATABASE], "/s", GATEWAYS, FOUND) == [ROUTE]
    assert sources([ROUTE]) == ["/s/gateway-prod", "/c/ca.pem"]
    assert routes([{**DATABASE, "database": "main"}], "/s", GATEWAYS, FOUND) == [{**ROUTE, "database": "main"}]


def test_before_the_first_run_there_is_no_gateway() -> None:
    (route,) = routes([{"name": "prod", "url": "https://x"}], "/s", {}, {})
    assert (route["action"], route["protocol"], route["ca_file"], route["former_names"]) == (0, "json2", "", {})
    assert sources([route]) == ["/s/gateway-prod"]


def test_a_route_whose_mailbox_is_at_a_provider_has_none_here() -> None:
    (route,) = routes([{**DATABASE, "provider": {}}], "/s", GATEWAYS, FOUND)
    assert route == {**ROUTE, "password_source": ""}
    paths = [file["path"] for file in secret_files([route], {}, TEXTS, check_mode=False)]
    assert paths == ["/etc/fetch-and-route/secrets/gateway-prod", "/etc/fetch-and-route/prod-ca.pem"]


def test_a_former_name_that_means_something_else_today_is_left_alone() -> None:
    domain = {
        "name": "example.com",
        "aliases": [{"name": "Sales", "model": "crm.team", "record": "Sales"}],
        "people": [{"name": "anna", "relay_to": "mx.provider.example"}],
    }
    found = {"example.com": ["sales", "anna", "catchall", "bounce", "old"]}
    assert former_addresses([domain], found) == {"old@example.com": "catchall@example.com"}


def test_secrets_are_files_of_root_alone() -> None:
    files = secret_files([ROUTE], {"prod": "pass"}, TEXTS, check_mode=False)
    secret = {"mode": "0600", "sensitive": True}
    assert files == [
        {"path": "/etc/fetch-and-route/secrets/mailbox-prod", "content": "pass\n", **secret},
        {"path": "/etc/fetch-and-route/secrets/gateway-prod", "content": "key\n", **secret},
        {"path": "/etc/fetch-and-route/prod-ca.pem", "content": "PEM"},
    ]


@pytest.mark.parametrize(
    ("route", "texts", "message"),
    [
        ({**ROUTE, "action": 0}, TEXTS, "database prod: has no gateway action: run with --tags odoo_mail"),
        (ROUTE, {"/c/ca.pem": "PEM"}, "there is no file /s/gateway-prod: run with --tags odoo_mail"),
        (ROUTE, {"/s/gateway-prod": "key"}, "there is no file /c/ca.pem: correct ca_file"),
        (ROUTE, {**TEXTS, "/s/gateway-prod": "\n"}, "/s/gateway-prod is empty: run with --tags odoo_mail"),
    ],
)
def test_what_is_missing_is_said_but_not_in_check_mode(
    route: dict[str, Any], texts: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        secret_files([route], {"prod": "pass"}, texts, check_mode=False)
    assert len(secret_files([route], {"prod": "pass"}, texts, check_mode=True)) == 3


PLAIN = {
    "name": "old",
    "database": "prod",
    "protocol": "pop3",
    "host": "pop.provider.example",
    "port": "1995",
    "login": "info@example.com",
    "password": "hunter2",
    "ca_file": "/c/provider.pem",
}
BY_TOKEN = {
    "name": "info",
    "database": "prod",
    "host": "imap.provider.example",
    "login": "info@example.com",
    "auth": "oauth2",
    "oauth": {
        "token_url": "https://login.provider.example/token",
        "client_id": "me",
        "client_secret": "c-secret",
        "refresh_token": "r-secret\n",
        "ca_file": "/c/login.pem",
    },
}


def test_a_mailbox_elsewhere_is_told_by_names_of_secrets() -> None:
    plain, by_token = mailboxes([PLAIN, BY_TOKEN])
    assert plain == {
        "name": "old",
        "settings": {
            "name": "old",
            "database": "prod",
            "protocol": "pop3",
            "host": "pop.provider.example",
            "login": "info@example.com",
            "port": 1995,
            "password": "mailbox-old",
            "ca_file": "/etc/fetch-and-route/old-ca.pem",
        },
        "oauth": {},
        "secrets": {"mailbox-old": "hunter2"},
        "authorities": {"/etc/fetch-and-route/old-ca.pem": "/c/provider.pem"},
    }
    assert by_token["settings"]["auth"] == "oauth2"
    assert "password" not in by_token["settings"]
    assert by_token["oauth"] == {
        "token_url": "https://login.provider.example/token",
        "client_id": "me",
        "client_secret": "oauth-client-info",
        "refresh_token": "oauth-refresh-info",
        "ca_file": "/etc/fetch-and-route/info-token-endpoint.crt",
    }
    assert mailbox_sources([plain, by_token]) == ["/c/provider.pem", "/c/login.pem"]


def test_the_authorities_of_a_database_and_of_its_mailbox_are_two_files() -> None:
    (made,) = mailboxes([{**PLAIN, "name": "prod"}])
    files = mailbox_files([made], {}, check_mode=True) + secret_files([ROUTE], {}, TEXTS, check_mode=False)
    paths = [file["path"] for file in files]
    assert len(set(paths)) == len(paths) == 4
    assert "/etc/fetch-and-route/prod-mailbox-ca.pem" in paths


def test_the_program_understands_what_is_written_for_it() -> None:
    database = {"name": "prod", "url": "https://x", "protocol": "json2", "login": "g", "key": "k", "action": 7}
    table = [
        {**entry["settings"], **({"oauth": entry["oauth"]} if entry["oauth"] else {})}
        for entry in mailboxes([PLAIN, BY_TOKEN])
    ]
    config = parse({"databases": [database], "mailboxes": table}, "x")
    assert [mailbox.port for mailbox in config.mailboxes] == [1995, 993]
    assert {*MAILBOX_SETTINGS, "port", "password", "ca_file", "oauth"} <= {
        field.name for field in dataclasses.fields(Mailbox)
    }
    assert {*OAUTH_SETTINGS, "client_secret", "refresh_token", "ca_file"} == {
        field.name for field in dataclasses.fields(OAuth)
    }


def test_its_secrets_are_files_of_root_alone() -> None:
    texts = {"/c/provider.pem": "PEM1", "/c/login.pem": "PEM2"}
    secret = {"mode": "0600", "sensitive": True}
    made = mailboxes([PLAIN, BY_TOKEN])
    assert mailbox_files(made, texts, check_mode=False) == [
        {"path": "/etc/fetch-and-route/secrets/mailbox-old", "content": "hunter2\n", **secret},
        {"path": "/etc/fetch-and-route/old-ca.pem", "content": "PEM1"},
        {"path": "/etc/fetch-and-route/secrets/oauth-client-info", "content": "c-secret\n", **secret},
        {"path": "/etc/fetch-and-route/secrets/oauth-refresh-info", "content": "r-secret\n", **secret},
        {"path": "/etc/fetch-and-route/info-token-endpoint.crt", "content": "PEM2"},
    ]
    with pytest.raises(ValueError, match=r"mailbox old: there is no file /c/provider\.pem: correct ca_file"):
        mailbox_files(made, {}, check_mode=False)
    assert len(mailbox_files(made, {}, check_mode=True)) == 5


def test_the_configuration_and_the_units_name_them() -> None:
    loader = jinja2.FileSystemLoader(TEMPLATES.parent)
    environment = jinja2.Environment(  # noqa: S701 -- no HTML
        loader=loader, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"comment": lambda text: f"# {text}", "to_json": as_json}
    values: dict[str, Any] = {
        "__fetch_and_route_routes": [ROUTE],
        "__fetch_and_route_mailboxes": mailboxes([PLAIN, BY_TOKEN]),
    }
    values |= {"ansible_managed": "managed", "fetch_and_route_attempts": 5, "fetch_and_route_metrics_directory": ""}
    values |= {"fetch_and_route_concurrency": 2}
    values |= {"fetch_and_route_summary_to": "", "fetch_and_route_summary_smtp": "127.0.0.1:25"}
    values |= {"fetch_and_route_imap_host": "mail.example.com", "fetch_and_route_imap_address": "127.0.0.1"}
    text = environment.get_template("etc/fetch-and-route/config.toml.j2").render(values)
    config = parse(tomllib.loads(text), "x")
    assert [mailbox.name for mailbox in config.mailboxes] == ["prod", "old", "info"]
    assert config.mailboxes[0].former_names == ROUTE["former_names"]
    assert config.mailboxes[2].oauth is not None
    assert config.mailboxes[2].oauth.refresh_token == "oauth-refresh-info"
    assert not [secret for secret in ("hunter2", "c-secret", "r-secret") if secret in text]
    run, watch = (
        environment.get_template(f"etc/systemd/system/{name}.service.j2").render(values)
        for name in ("fetch-and-route", "fetch-and-route-watch")
    )
    secrets = "/etc/fetch-and-route/secrets"
    for name in ("mailbox-prod", "gateway-prod", "mailbox-old", "oauth-client-info", "oauth-refresh-info"):
        assert f"LoadCredential={name}:{secrets}/{name}\n" in run
    values["__fetch_and_route_routes"] = [{**ROUTE, "password_source": ""}]
    alone = environment.get_template("etc/fetch-and-route/config.toml.j2").render(values)
    assert [mailbox.name for mailbox in parse(tomllib.loads(alone), "x").mailboxes] == ["old", "info"]
    unit = environment.get_template("etc/systemd/system/fetch-and-route.service.j2").render(values)
    assert "mailbox-prod" not in unit
    assert "gateway-prod" in unit
    assert run.count("managed") == watch.count("managed") == 1
    shared = run[run.index("# A user of its own") :]
    assert shared in watch, "both are locked in alike"
    assert {"DynamicUser=yes", "User=fetch-and-route", "ProtectSystem=strict"} <= set(shared.splitlines())


def as_json(value: object, ensure_ascii: bool = True) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii)


def test_the_program_is_its_modules() -> None:
    assert program_files([("/r/files/x/b.py", "2"), ("/r/files/x/a.py", "1")]) == [
        {"path": "/usr/local/lib/fetch-and-route/fetch_and_route/a.py", "content": "1"},
        {"path": "/usr/local/lib/fetch-and-route/fetch_and_route/b.py", "content": "2"},
    ]


def test_the_names_that_the_role_uses() -> None:
    assert FilterModule().filters().keys() == {
        "fetch_and_route_routes",
        "fetch_and_route_sources",
        "fetch_and_route_secrets",
        "fetch_and_route_program",
        "fetch_and_route_mailboxes",
        "fetch_and_route_mailbox_sources",
        "fetch_and_route_mailbox_files",
    }
