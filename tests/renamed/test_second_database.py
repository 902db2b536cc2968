"""A second database on the same hosts: each gets its own mail, and one that is down delays no other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.story import Hosts, Story, wait_for_message

pytestmark = pytest.mark.hosts


@contextlib.contextmanager
def story_of(database: str) -> Iterator[Story]:
    hosts = Hosts(Path(os.environ["MAILROOM_INVENTORY"]), database)
    with hosts.names(), contextlib.closing(Story(hosts, subject=f"Ten chairs for {database}")) as story:
        yield story


@pytest.fixture
def first() -> Iterator[Story]:
    with story_of("prod") as story:
        yield story


@pytest.fixture
def second() -> Iterator[Story]:
    with story_of("second") as story:
        yield story


def messages(story: Story, message_id: str) -> int:
    """How often Odoo has the message in the story's database."""
    return int(story.admin("mail.message", "search_count", [("message_id", "=", message_id)]))


def test_odoo_s_own_tests_pass_for_the_second_too(second: Story) -> None:
    second.connections_pass()


def test_a_mail_to_both_is_in_each_once(first: Story, second: Story) -> None:
    message = EmailMessage()
    message["To"] = "sales@example.com, sales@second.example.com"
    message["Subject"] = "Ten chairs for both"
    message.set_content("Which of you is faster?\n")
    message_id = second.send_from_outside(message)

    first.route(message_id)
    second.route(message_id)

    assert messages(first, message_id) == 1
    assert messages(second, message_id) == 1


def test_the_second_answers_from_its_own_domain(first: Story, second: Story) -> None:
    second.customer_writes()
    (lead,) = second.admin("crm.lead", "read", [second.lead], ["name"])

    assert lead["name"] == second.subject
    assert not first.admin("crm.lead", "search_count", [("name", "=", second.subject)])


@contextlib.contextmanager
def closed(hosts: Hosts) -> Iterator[None]:
    """PostgreSQL lets nobody into the second database within this block."""
    statement = "ALTER DATABASE second ALLOW_CONNECTIONS"
    hosts.ssh(hosts.odoo, f"runuser -u postgres -- psql --quiet --command '{statement} false'")
    try:
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $$second$$"
        hosts.ssh(hosts.odoo, f"runuser -u postgres -- psql --quiet --command '{end}'")
        yield
    finally:
        hosts.ssh(hosts.odoo, f"runuser -u postgres -- psql --quiet --command '{statement} true'")


def write(story: Story, subject: str) -> str:
    """The customer writes to the story's sales; returns the Message-ID when the mail is in the mailbox."""
    message = EmailMessage()
    message["To"] = f"sales@{story.hosts.domain['name']}"
    message["Subject"] = subject
    message.set_content("There is no hurry.\n")
    message_id = story.send_from_outside(message)
    with story.hosts.mailbox() as session:
        wait_for_message(session, "Message-ID", message_id, ("INBOX", "Routed"))
    return message_id


def test_one_that_is_down_delays_no_other(first: Story, second: Story) -> None:
    mail = second.hosts.mail
    with closed(second.hosts):
        for_second = write(second, "Ten chairs later")
        for_first = write(first, "Ten chairs at once")

        code = first.hosts.ssh(mail, "fetch-and-route run >/dev/null 2>&1; echo $?").strip()

        assert code == "75", "a database that is away is told by the exit code"
        assert messages(first, for_first) == 1
        with second.hosts.mailbox() as session:
            wait_for_message(session, "Message-ID", for_second, ("INBOX",))

    second.hosts.ssh(mail, "fetch-and-route", "run")  # a person's run does not wait for the end of the pause

    assert messages(second, for_second) == 1
