"""Mass mailings leave by a server of their own, and no other mail does: with Odoo's app Email Marketing, for real.

A copy of the database that nobody has used gets the app, which takes Odoo a minute. Our own mail host plays the
provider whom all other mail leaves by, the stranger's server the one for mass mailings. See CONTRIBUTING.md.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from filter_plugins.providers import odoo_servers
from library.odoo_mail import Database, on_all
from tests.story import ROOT, Hosts, Odoo, wait_for_message

pytestmark = pytest.mark.hosts

NAME = "marketing"
HOSTS = Hosts()
CODE = (ROOT / "roles/odoo_mail/files/gateway_action.py").read_text(encoding="utf-8")
CUSTOMER = "customer@customer.example"


@pytest.fixture(scope="module")
def settings() -> Iterator[dict[str, Any]]:
    """A database with the app. It logs in at the mail host as the demo's does, whose domain it has."""
    postgres = "cd / && runuser -u postgres --"
    install = f"cd / && runuser -u odoo -- odoo --config /etc/odoo/odoo.conf --database {NAME} --init mass_mailing"
    HOSTS.ssh(HOSTS.odoo, f"{postgres} createdb --owner odoo --template pristine {NAME}")
    try:
        HOSTS.ssh(HOSTS.odoo, f"{install} --workers 0 --max-cron-threads 0 --stop-after-init --no-http 2>&1")
        server = {"host": HOSTS.mail.name}
        login = HOSTS.database["name"]
        yield HOSTS.database | {
            "name": NAME,
            "ca_file": str(HOSTS.secrets / "ca" / "ca.pem"),
            "domains": [{"name": HOSTS.domain["name"]}],
            "provider": {
                "login": login,
                "password": HOSTS.secret(f"mailbox-{login}"),
                "imap": server,
                "smtp": server,
            },
            "mass_mailing_server": {"host": HOSTS.outside.name, "login": "relay", "password": "customer"},
        }
    finally:
        HOSTS.ssh(HOSTS.odoo, f"{postgres} dropdb --force {NAME}")


def converge(settings: dict[str, Any], secrets: Path) -> Database:
    params = {"secrets_directory": str(secrets), "timeout": 60, "gateway_key": "keep", "gateway_code": CODE}
    (servers,) = odoo_servers([settings], [], {})
    one = Database(settings, servers, params, check_mode=False)
    on_all([one], Database.read) and on_all([one], Database.apply) and on_all([one], Database.test)
    one.odoo.close()
    assert one.problems == []
    return one


def way_of(subject: str) -> str:
    """The servers that a mail came by, as the customer's own noted them."""
    with HOSTS.customer_mailbox() as session:
        return " ".join(wait_for_message(session, "Subject", subject).get_all("Received", []))


def test_mass_mailings_alone_leave_by_their_server(settings: dict[str, Any], tmp_path: Path) -> None:
    bulk, letter = (f"{kind} {uuid.uuid4().hex}" for kind in ("Chairs for all", "Chairs for you"))
    with HOSTS.names():
        assert converge(settings, tmp_path).tests == {"smtp": "passed", "imap": "passed"}
        assert converge(settings, tmp_path).changes == []
        hosts = Hosts()
        hosts.database = settings
        with contextlib.closing(Odoo(hosts, settings["login"], settings["password"])) as odoo:
            sender = {"email_from": f"Boss <boss@{HOSTS.domain['name']}>"}
            customer = odoo("res.partner", "create", {"name": "Customer", "email": CUSTOMER})
            (model,) = odoo("ir.model", "search", [("model", "=", "res.partner")])
            values = {"subject": bulk, "body_html": "<p>Ten for nine</p>", "mailing_model_id": model}
            mailing = odoo(
                "mailing.mailing", "create", {**values, **sender, "mailing_domain": f"[('id', '=', {customer})]"}
            )
            odoo("mailing.mailing", "action_send_mail", [mailing])
            odoo("res.partner", "message_post", [customer], subject=letter, partner_ids=[customer], **sender)

        by_bulk, by_letter = way_of(bulk), way_of(letter)

    assert "Authenticated sender: relay" in by_bulk
    assert HOSTS.mail.name not in by_bulk
    assert f"from {HOSTS.mail.name}" in by_letter
    assert "Authenticated sender" not in by_letter.partition(f"from {HOSTS.mail.name}")[0]
