"""What the role fetch_and_route writes."""

from __future__ import annotations

from typing import Any

import pytest

from filter_plugins.fetch_and_route import FilterModule, former_addresses, program_files, routes, secret_files, sources

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
    "url": "https://odoo.example.com",
    "protocol": "xmlrpc",
    "login": "gate",
    "action": 7,
    "password_source": "/s/mailbox-prod",
    "key_source": "/s/gateway-prod",
    "ca_source": "/c/ca.pem",
    "ca_file": "/etc/fetch-and-route/prod-ca.pem",
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


def test_before_the_first_run_there_is_no_gateway() -> None:
    (route,) = routes([{"name": "prod", "url": "https://x"}], "/s", {}, {})
    assert (route["action"], route["protocol"], route["ca_file"], route["former_names"]) == (0, "json2", "", {})
    assert sources([route]) == ["/s/gateway-prod"]


def test_a_former_name_that_means_something_else_today_is_left_alone() -> None:
    domain = {
        "name": "example.com",
        "aliases": [{"name": "Sales", "model": "crm.team", "record": "Sales"}],
        "people": [{"name": "anna", "relay_to": "mx.provider.example"}],
    }
    found = {"example.com": ["sales", "anna", "catchall", "bounce", "old"]}
    assert former_addresses([domain], found) == {"old@example.com": "catchall@example.com"}


def test_secrets_are_files_of_root_alone() -> None:
    files = secret_files([(ROUTE, "pass")], TEXTS, check_mode=False)
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
        secret_files([(route, "pass")], texts, check_mode=False)
    assert len(secret_files([(route, "pass")], texts, check_mode=True)) == 3


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
    }
