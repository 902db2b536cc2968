"""After `catchall: reception` and `bounce: returns`: the new names work, the earlier ones stay deliverable.

And without `mail_host_ipv6` nothing of IPv6 is left.
"""

from __future__ import annotations

import contextlib
import os
import poplib
import re
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.story import WAIT, Hosts, Story

pytestmark = pytest.mark.hosts


@pytest.fixture
def story() -> Iterator[Story]:
    hosts = Hosts(Path(os.environ["MAILROOM_INVENTORY"]))
    with hosts.names(), contextlib.closing(Story(hosts)) as story:
        yield story


def test_odoo_uses_the_new_names(story: Story) -> None:
    assert story.names_in_odoo() == ("reception", "returns")


@pytest.mark.parametrize("name", ["reception", "returns", "catchall", "bounce"])
def test_new_and_earlier_names_are_accepted(story: Story, name: str) -> None:
    with story.hosts.smtp(story.hosts.mail) as session:
        session.ehlo_or_helo_if_needed()
        session.mail("customer@customer.example")

        assert session.rcpt(f"{name}@example.com")[0] == 250


def test_inbox_is_offered_over_pop3(story: Story) -> None:
    hosts, name = story.hosts, story.hosts.database["name"]
    session = poplib.POP3_SSL(hosts.mail.name, context=hosts.tls, timeout=WAIT)
    with contextlib.closing(session):
        session.user(name)
        session.pass_(hosts.secret(f"mailbox-{name}"))
        assert session.stat()[0] >= 0


def test_no_service_listens_with_ipv6_any_more(story: Story) -> None:
    """Postfix has to be started anew for it. SSH is the host's own."""
    listening = story.hosts.ssh(story.hosts.mail, "ss -6 --no-header --listening --numeric --tcp --udp")
    assert {line.split()[4].rpartition(":")[2] for line in listening.splitlines()} == {"22"}


def test_no_name_leads_to_the_ipv6_address_any_more(story: Story) -> None:
    hosts = story.hosts
    names = f"{hosts.mail.name} A {hosts.mail.name} AAAA {hosts.domain['name']} TXT"
    records = hosts.ssh(hosts.dns, f"kdig @{hosts.dns.address} +short {names}")
    assert hosts.mail.address in records
    assert "ip4:" in records
    assert not re.findall("fd77:|ip6:", records)


def test_a_reply_to_the_earlier_catchall_reaches_its_thread(story: Story) -> None:
    story.reply_to("catchall@example.com")


def test_what_comes_back_to_the_earlier_bounce_address_is_a_bounce_still(story: Story) -> None:
    report = EmailMessage()
    report["To"] = "bounce+7-crm.lead-7@example.com"  # the form that Odoo 14 sends from
    report["Subject"] = "It could not be delivered"
    report.set_content("Mailbox full.\n")
    message_id = story.send_from_outside(report)

    story.route(message_id)  # what is no bounce has no route here, and would go to Quarantine

    assert story.admin("mail.message", "search_count", [("message_id", "=", message_id)]) == 0
