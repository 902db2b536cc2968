"""The real Odoo has the fields that tests/odoo_shapes.py says it has, so that what is tested with those holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from module_utils.odoo_rpc import Odoo, OdooError
from tests import odoo_shapes
from tests.story import ROOT, Hosts

pytestmark = pytest.mark.hosts


@pytest.fixture(scope="module")
def odoo() -> Iterator[Odoo]:
    hosts = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
    database = hosts.database
    odoo = Odoo(database["url"], database["name"], str(hosts.secrets / "ca" / "ca.pem"), timeout=60)
    odoo.log_in(database["login"], database["password"])
    yield odoo
    odoo.close()


def test_the_fields_of_the_real_odoo_are_those_recorded(odoo: Odoo) -> None:
    shape = odoo_shapes.shape(str(odoo.version()))
    every = list(odoo_shapes.ever())
    models = sorted({model for model, _ in every})
    domain = [["model", "in", models], ["name", "in", sorted({name for _, name in every})]]
    rows = odoo.search_read("ir.model.fields", domain, ["model", "name", "ttype"])
    real = {(row["model"], row["name"]): row["ttype"] for row in rows}

    recorded = {(model, name): kind for model, fields in shape.fields.items() for name, kind in fields.items()}
    assert {place: kind for place, kind in real.items() if place in every} == recorded


def test_the_choices_of_the_real_odoo_are_those_recorded(odoo: Odoo) -> None:
    shape = odoo_shapes.shape(str(odoo.version()))
    for (model, name), recorded in shape.choices.items():
        if name in shape.fields.get(model, {}):
            described = odoo.call(model, "fields_get", [name], ["selection"])
            assert recorded <= {value for value, _ in described[name]["selection"]}, f"{model}.{name}"
    strict = {"starttls_strict", "ssl_strict"} & shape.choices["ir.mail_server", "smtp_encryption"]
    described = odoo.call("ir.mail_server", "fields_get", ["smtp_encryption"], ["selection"])
    assert strict == {value for value, _ in described["smtp_encryption"]["selection"] if value.endswith("_strict")}


def test_json_2_is_there_where_recorded(odoo: Odoo) -> None:
    with pytest.raises(OdooError) as raised:
        odoo.json2("no key", "res.users", "context_get", {})
    assert raised.value.refused == odoo_shapes.shape(str(odoo.version())).json2


def test_what_is_not_there_is_said_as_recorded(odoo: Odoo) -> None:
    for model, text in (("no.model", "Odoo has no model no.model"), ("res.partner", "Invalid field 'no_field' on")):
        with pytest.raises(OdooError, match=text):
            odoo.search_read(model, [], ["no_field"])
