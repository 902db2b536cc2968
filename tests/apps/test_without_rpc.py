"""Odoo 19 without its module rpc, which is its external API: as it is where nobody loads it, and where it is gone.

Odoo removes it from a database only where it is none of the server_wide_modules, so Odoo starts twice without it there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from library.odoo_probe import ask
from module_utils.odoo_rpc import NO_API, Odoo, OdooError
from tests.story import Hosts

pytestmark = pytest.mark.hosts

NAME = "without"
HOSTS = Hosts()
CONFIGURATION = "/etc/odoo/odoo.conf"


def restart(configure: str) -> None:
    """Configure Odoo and start it anew; it answers when this is done."""
    HOSTS.ssh(HOSTS.odoo, f"{configure} && systemctl restart odoo")
    database = HOSTS.database | {"ca_file": str(HOSTS.secrets / "ca" / "ca.pem")}
    while "Odoo is starting or down" in str(ask(database, 60)[1]):
        pass


@pytest.fixture(scope="module")
def database() -> Iterator[dict[str, Any]]:
    postgres = "cd / && runuser -u postgres --"
    HOSTS.ssh(HOSTS.odoo, f"{postgres} createdb --owner odoo --template pristine {NAME}")
    try:
        ca_file = str(HOSTS.secrets / "ca" / "ca.pem")
        yield HOSTS.database | {"name": NAME, "ca_file": ca_file, "domains": [{"name": "without.example.com"}]}
    finally:
        HOSTS.ssh(HOSTS.odoo, f"{postgres} dropdb --force {NAME}")


@pytest.fixture
def not_for_all_databases() -> Iterator[None]:
    """Odoo loads what each database has installed, and for all of them less than by itself."""
    restart(f"sed -i '1a server_wide_modules = base,web' {CONFIGURATION}")
    try:
        yield
    finally:
        restart(f"sed -i /^server_wide_modules/d {CONFIGURATION}")


@contextlib.contextmanager
def administrator(database: dict[str, Any]) -> Iterator[tuple[Odoo, int]]:
    """A connection, and the number of the module."""
    with contextlib.closing(Odoo(database["url"], NAME, database["ca_file"], timeout=300)) as odoo:
        odoo.log_in(database["login"], database["password"])
        if odoo.version() < 19:
            pytest.skip("before 19 the API is part of Odoo's base")
        (module,) = odoo.search_read("ir.module.module", [["name", "=", "rpc"]], ["state"])
        assert module["state"] == "installed"
        yield odoo, module["id"]


def test_odoo_keeps_what_it_loads_for_all_databases(database: dict[str, Any]) -> None:
    with administrator(database) as (odoo, module), pytest.raises(OdooError, match="cannot be uninstalled: rpc"):
        odoo.call("ir.module.module", "button_immediate_uninstall", [module])


@pytest.mark.usefixtures("not_for_all_databases")
def test_an_api_of_some_databases_is_found_and_one_that_is_gone_told(database: dict[str, Any]) -> None:
    assert ask(database, 60)[1] == []

    with administrator(database) as (odoo, module):
        odoo.call("ir.module.module", "button_immediate_uninstall", [module])

    where = f"odoo_databases[{NAME}].url: {database['url']}"
    assert ask(database, 60)[1] == [f"{where} has no external API (HTTP 404): {NO_API}"]
    assert ask(HOSTS.database | {"ca_file": database["ca_file"]}, 60)[1] == []
