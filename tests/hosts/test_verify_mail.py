"""playbooks/verify_mail.yml: a mail goes out, is answered and bounces; what is wrong on its way is told."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.story import ROOT, Hosts, Story

pytestmark = pytest.mark.hosts

PLAYBOOK = "playbooks/verify_mail.yml"


@pytest.fixture
def story() -> Iterator[Story]:
    hosts = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
    with hosts.names(), contextlib.closing(Story(hosts)) as story:
        yield story


def probes(story: Story) -> int:
    """How many of the contacts made for it Odoo has."""
    return int(story.admin("res.partner", "search_count", [("name", "=", "Mailroom probe")]))


def test_answer_and_bounce_are_seen_in_odoo(story: Story) -> None:
    output = " ".join(story.hosts.site(playbook=PLAYBOOK).split())

    line = "aligned, the answer is in its thread, what came back is marked"
    assert f"domains[{story.hosts.domain['name']}]: {line}" in output
    assert probes(story) == 0


@pytest.mark.once
def test_an_odoo_that_cannot_send_is_told(story: Story) -> None:
    servers = story.admin("ir.mail_server", "search", [("smtp_host", "=", story.hosts.mail.name)])
    password = story.hosts.secret(f"mailbox-{story.hosts.database['name']}")
    story.admin("ir.mail_server", "write", servers, {"smtp_pass": "another"})
    try:
        with pytest.raises(subprocess.CalledProcessError) as raised:
            story.hosts.site(playbook=PLAYBOOK)
    finally:
        story.admin("ir.mail_server", "write", servers, {"smtp_pass": password})

    output = " ".join(raised.value.stdout.split())
    assert f"domains[{story.hosts.domain['name']}]: Odoo cannot send (" in output
    assert "run playbooks/odoo_mail.yml" in output
    assert probes(story) == 0
