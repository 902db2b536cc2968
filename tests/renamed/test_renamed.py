"""After `catchall: reception` and `bounce: returns`: the new names work, the earlier ones stay deliverable."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.story import Hosts, Story

pytestmark = pytest.mark.hosts


@pytest.fixture
def story() -> Iterator[Story]:
    hosts = Hosts(Path(os.environ["MAILROOM_INVENTORY"]))
    with hosts.names(), contextlib.closing(Story(hosts)) as story:
        yield story


def test_odoo_uses_the_new_names(story: Story) -> None:
    fields = ["catchall_alias", "bounce_alias"]
    (domain,) = story.admin("mail.alias.domain", "search_read", [("name", "=", "example.com")], fields)

    assert (domain["catchall_alias"], domain["bounce_alias"]) == ("reception", "returns")


@pytest.mark.parametrize("name", ["reception", "returns", "catchall", "bounce"])
def test_new_and_earlier_names_are_accepted(story: Story, name: str) -> None:
    with story.hosts.smtp(story.hosts.mail) as session:
        session.ehlo_or_helo_if_needed()
        session.mail("customer@customer.example")

        assert session.rcpt(f"{name}@example.com")[0] == 250


def test_a_reply_to_the_earlier_catchall_reaches_its_thread(story: Story) -> None:
    story.reply_to("catchall@example.com")
