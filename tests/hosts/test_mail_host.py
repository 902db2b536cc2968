"""What else runs on the mail host: its resolver."""

from __future__ import annotations

import os
import smtplib
import uuid
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.story import ROOT, WAIT, Hosts

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
MAIL = HOSTS.mail
ALIAS = f"{HOSTS.domain['aliases'][0]['name']}@{HOSTS.domain['name']}"


def mail_host(command: str) -> str:
    return HOSTS.ssh(MAIL, command)


@pytest.fixture
def known_here() -> Iterator[str]:
    """A domain that unbound on the mail host knows and nobody else; it forbids others to write in its name."""
    name = f"{uuid.uuid4().hex}.customer.example"
    for record in (f"{name}. 60 IN MX 10 mx.customer.example.", f"_dmarc.{name}. 60 IN TXT \"v=DMARC1; p=reject\""):
        mail_host(f"unbound-control local_data '{record}'")
    yield name
    mail_host(f"unbound-control local_data_remove {name} && unbound-control local_data_remove _dmarc.{name}")


def answer(envelope_sender: str, from_domain: str) -> int:
    """The code that mail of a stranger is answered with."""
    message = EmailMessage()
    message["From"] = f"somebody@{from_domain}"
    message["To"] = ALIAS
    message["Message-ID"] = f"<{uuid.uuid4()}@customer.example>"
    message.set_content("Good day\n")
    with smtplib.SMTP(MAIL.address, 25, local_hostname="client.customer.example", timeout=WAIT) as session:
        try:
            session.send_message(message, envelope_sender, [ALIAS])
        except smtplib.SMTPRecipientsRefused as refused:
            return refused.recipients[ALIAS][0]
        except smtplib.SMTPDataError as refused:
            return refused.smtp_code
    return 250


class TestResolver:
    """Everybody on the mail host asks unbound."""

    def test_the_host_does(self, known_here: str) -> None:
        mail_host(f"unbound-control local_data '{known_here}. 60 IN A 192.0.2.1'")
        assert mail_host(f"getent ahostsv4 {known_here}").startswith("192.0.2.1 ")

    def test_postfix_and_rspamd_do(self, known_here: str) -> None:
        """Postfix refuses a sender whose domain does not exist, rspamd what the domain's DMARC policy forbids."""
        assert answer("stranger@unknown.customer.example", "stranger.example") == 450
        assert answer(f"stranger@{known_here}", known_here) == 554

    def test_it_asks_on_both_protocols(self) -> None:
        listening = mail_host("ss --no-header --listening --numeric --udp 'sport = :53' | awk '{print $4}'").split()
        assert sorted(listening) == ["127.0.0.1:53", "[::1]:53"]
