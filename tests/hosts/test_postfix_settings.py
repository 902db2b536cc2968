"""Postfix's other settings: mail leaves by way of smarthosts, and a list in DNS says who is bad."""

from __future__ import annotations

import copy
import email.utils
import json
import os
import smtplib
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests import attacks
from tests.story import ROOT, WAIT, Hosts, StoryError, wait_for_message

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
DOMAIN = HOSTS.domain["name"]
OTHER = f"other.{DOMAIN}"
LOGIN = HOSTS.database["name"]
CUSTOMER = "customer@customer.example"
LISTED, UNKNOWN = "10.77.0.183", "10.77.0.184"  # the zone customer.example has a list with both


@pytest.fixture(scope="module", autouse=True)
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The settings, and a second domain of the same database; afterwards everything is as it was."""
    databases: list[dict[str, Any]] = [copy.deepcopy(HOSTS.database)]
    databases[0]["domains"].append({"name": OTHER})
    databases[0]["ca_file"] = str(HOSTS.secrets / "ca" / "ca.pem")
    file = tmp_path_factory.mktemp("settings") / "settings.json"
    file.write_text(
        json.dumps(
            {
                "odoo_databases": databases,
                "postfix_dnsbl_sites": ["dnsbl.customer.example=127.0.0.[2..11]*3"],
                "postfix_smarthosts": [
                    {"host": "mx.customer.example", "login": "customer", "password": "customer"},
                    {
                        "host": "mx.customer.example",
                        "tls": "starttls",
                        "login": "relay",
                        "password": "customer",
                        "domains": [DOMAIN],
                    },
                    # The same server by a name that its certificate does not have.
                    {"host": "smtp.customer.example", "login": "relay", "password": "customer", "domains": [OTHER]},
                ],
            }
        )
    )
    HOSTS.site("--tags", "postfix", "--extra-vars", f"@{file}")
    yield
    HOSTS.site("--tags", "postfix")
    with pytest.raises(StoryError, match="No such file"):
        HOSTS.ssh(HOSTS.mail, "cat /etc/postfix/smarthost_passwords")


def send(sender: str, message: EmailMessage) -> None:
    with HOSTS.names(), smtplib.SMTP_SSL(HOSTS.mail.name, 465, timeout=WAIT, context=HOSTS.tls) as session:
        session.login(LOGIN, HOSTS.secret(f"mailbox-{LOGIN}"))
        session.send_message(message, sender, [CUSTOMER])


def letter(sender: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, CUSTOMER, "By way of a smarthost"
    message["Message-ID"] = email.utils.make_msgid(domain=DOMAIN)
    message.set_content("Good day\n")
    return message


def received(message_id: str) -> str:
    """How the customer's server got it: the first Received field."""
    with HOSTS.names():
        mailbox = HOSTS.customer_mailbox()
    try:
        return str(wait_for_message(mailbox, "Message-ID", message_id)["Received"])
    finally:
        mailbox.shutdown()


def test_mail_leaves_by_the_smarthost_of_its_domain() -> None:
    message = letter(f"boss@{DOMAIN}")
    send(f"boss@{DOMAIN}", message)
    how = received(message["Message-ID"])
    assert "Authenticated sender: relay" in how
    assert "ESMTPSA" in how


@pytest.mark.parametrize("sender", ["", f"root@{HOSTS.mail.name}"])
def test_other_mail_leaves_by_the_smarthost_for_the_rest(sender: str) -> None:
    """Reports, which have no sender, too."""
    message_id = letter(f"root@{HOSTS.mail.name}")["Message-ID"]
    text = f"From: root\\nMessage-ID: {message_id}\\n\\nhello\\n"
    HOSTS.ssh(HOSTS.mail, f"printf '{text}' | sendmail -f '{sender}' {CUSTOMER}")
    how = received(message_id)
    assert "Authenticated sender: customer" in how
    assert "ESMTPSA" in how


def test_a_smarthost_that_is_not_the_one_gets_neither_mail_nor_password() -> None:
    send(f"boss@{OTHER}", letter(f"boss@{OTHER}"))
    deadline = time.monotonic() + WAIT
    while not (reasons := waiting(f"boss@{OTHER}")):
        assert time.monotonic() < deadline, "it did not come back to the queue"
    assert "certificate" in reasons[0].lower()


def waiting(sender: str) -> list[str]:
    """Why the mail of a sender waits; it is removed."""
    reasons = []
    for line in HOSTS.ssh(HOSTS.mail, "postqueue -j").splitlines():
        entry = json.loads(line)
        if entry["sender"] == sender and entry["queue_name"] == "deferred":
            reasons += [recipient["delay_reason"] for recipient in entry["recipients"]]
            HOSTS.ssh(HOSTS.mail, "postsuper", "-d", entry["queue_id"])
    return reasons


def test_the_passwords_are_for_root_alone() -> None:
    assert HOSTS.ssh(HOSTS.mail, "stat -c '%U %a' /etc/postfix/smarthost_passwords").split() == ["root", "600"]


def test_a_domain_that_odoo_was_not_asked_about_puts_off_what_a_known_one_refuses() -> None:
    """fetch-and-route's own configuration has not got the second domain yet, as between the two roles of a run."""
    addresses = [f"catchall@{OTHER}", f"nobody@{OTHER}", f"nobody@{DOMAIN}"]
    with smtplib.SMTP(HOSTS.mail.address, 25, "client.customer.example", timeout=WAIT) as session:
        session.ehlo()
        session.mail(CUSTOMER)
        assert [session.rcpt(address)[0] for address in addresses] == [250, 450, 550]


def test_a_listed_client_is_refused_and_an_error_of_the_list_is_not_an_answer() -> None:
    alias = f"{HOSTS.domain['aliases'][0]['name']}@{DOMAIN}"
    assert attacks.run(HOSTS, attacks.try_each, [LISTED, UNKNOWN], alias, [LISTED, UNKNOWN]) == [550, 250]
