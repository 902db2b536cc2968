"""Two companies with two domains on one database: what answers a mail, or comes back, stays in its company's domain."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from library.odoo_mail import Database
from tests.story import WAIT, Hosts, Story, StoryError, wait_for_message

pytestmark = pytest.mark.hosts


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    hosts = Hosts(Path(os.environ["MAILROOM_INVENTORY"]), "second")
    with hosts.names(), contextlib.closing(Story(hosts)) as story:
        if not story.admin("ir.model", "search_count", [("model", "=", "mail.alias.domain")]):
            pytest.skip("Odoo has one alias domain for everything before 17")
        yield story


class Thread:
    """A thread of a company, and what its people write there."""

    def __init__(self, story: Story, domain: dict[str, Any]) -> None:
        self.story = story
        self.domain = domain
        names = [entry["name"] for entry in domain.get("companies", [{"name": "My Company"}])]
        (self.company,) = story.admin("res.company", "search", [("name", "in", names)])
        values = {"name": f"Thread at {domain['name']}", "company_id": self.company}
        self.id = story.admin("res.partner", "create", values)

    def address(self, name: str) -> str:
        """The address of catchall or bounce, as the inventory has it."""
        return f"{self.domain[name]}@{self.domain['name']}"

    def write(self, address: str) -> tuple[int, str]:
        """Write to somebody outside; returns the message's id and its Message-ID."""
        partner = self.story.admin("res.partner", "create", {"name": address, "email": address})
        posted = self.story.admin("res.partner", "message_post", [self.id], body="Hello", partner_ids=[partner])
        identity = posted if isinstance(posted, int) else posted[0]
        (message,) = self.story.admin("mail.message", "read", [identity], ["message_id"])
        return identity, message["message_id"]

    def wait_for_bounce(self, message: int) -> None:
        """Wait until the message's notification is red."""
        deadline = time.monotonic() + WAIT
        wanted = [("mail_message_id", "=", message), ("notification_status", "=", "bounce")]
        while not self.story.admin("mail.notification", "search_count", wanted):
            if time.monotonic() > deadline:
                raise StoryError(f"nothing came back to {self.address('bounce')} within {WAIT:.0f} s")
            self.story.hosts.ssh(self.story.hosts.mail, "systemctl", "start", "fetch-and-route.service")


def test_an_alias_outside_of_its_owner_s_company_is_told_before_odoo_would_refuse_it(story: Story) -> None:
    database = story.hosts.database
    first, sister = (domain["name"] for domain in database["domains"])
    (company,) = story.admin("res.company", "search", [("name", "=", "Sister")])
    team = story.admin("crm.team", "create", {"name": "Sisters", "company_id": company})
    domain = {**database["domains"][0], "aliases": [{"name": "sisters", "model": "crm.team", "record": "Sisters"}]}
    settings = {**database, "domains": [domain, *database["domains"][1:]]}
    settings["ca_file"] = str(story.hosts.secrets / "ca" / "ca.pem")
    params = {"secrets_directory": str(story.hosts.secrets), "timeout": 60, "gateway_key": "keep", "gateway_code": ""}
    one = Database(settings, [], params, check_mode=True)
    try:
        one.read()
        one.odoo.close()
        assert one.problems == [
            f"odoo_databases[second].domains[{first}].aliases[sisters]: 'Sisters' is the company Sister's, whose "
            f"domain is {sister}: list the alias there, or the company under companies of {first}"
        ]
        (identity,) = story.admin("mail.alias.domain", "search", [("name", "=", first)])
        with pytest.raises(StoryError, match="belongs to company"):
            story.admin("crm.team", "write", [team], {"alias_name": "sisters", "alias_domain_id": identity})
    finally:
        story.admin("crm.team", "unlink", [team])


@pytest.mark.parametrize("number", [0, 1], ids=["first", "sister"])
def test_answers_and_bounces_stay_in_the_company_s_domain(story: Story, number: int) -> None:
    thread = Thread(story, story.hosts.database["domains"][number])
    lost, _ = thread.write(f"nobody-{number}@customer.example")
    _, message_id = thread.write(story.customer)
    with story.hosts.customer_mailbox() as session:
        received = wait_for_message(session, "Message-ID", message_id)

    assert thread.address("catchall") in str(received["Reply-To"])
    assert str(received["Return-Path"]) == f"<{thread.address('bounce')}>"
    assert "dmarc=pass" in " ".join(received.get_all("Authentication-Results", []))

    answer = EmailMessage()
    answer["To"] = str(received["Reply-To"])
    answer["Subject"] = "Re: Hello"
    answer["In-Reply-To"] = answer["References"] = message_id
    answer.set_content("Hello, too.\n")
    answer_id = story.send_from_outside(answer)
    story.route(answer_id)
    found = story.admin("mail.message", "search_read", [("message_id", "=", answer_id)], ["model", "res_id"])
    assert [(entry["model"], entry["res_id"]) for entry in found] == [("res.partner", thread.id)]

    thread.wait_for_bounce(lost)
    with story.hosts.mailbox() as session:
        wait_for_message(session, "To", thread.address("bounce"), ("Routed",))
