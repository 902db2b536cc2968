"""playbooks/rotate_odoo_key.yml: another key, and mail is routed all the while."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.story import ROOT, Hosts, Odoo, Story, StoryError, wait_for_message

pytestmark = [pytest.mark.hosts, pytest.mark.once]

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
ALIAS = f"{HOSTS.domain['aliases'][0]['name']}@{HOSTS.domain['name']}"
KEY = f"gateway-{HOSTS.database['name']}"


@pytest.fixture(autouse=True)
def names() -> Iterator[None]:
    """The hosts are found by their names."""
    with HOSTS.names():
        yield


def test_routing_goes_on_while_the_key_is_replaced() -> None:
    story, former, since = Story(HOSTS), HOSTS.secret(KEY), int(time.time())
    sent: list[str] = []
    over = threading.Event()

    def write_and_route() -> None:
        while not over.is_set():
            message = EmailMessage()
            message["To"] = ALIAS
            message["Subject"] = "While the key is replaced"
            message.set_content("Good day\n")
            sent.append(story.send_from_outside(message))
            HOSTS.ssh(HOSTS.mail, "systemctl", "start", "fetch-and-route.service")

    customer = threading.Thread(target=write_and_route)
    customer.start()
    try:
        output = HOSTS.site(playbook="playbooks/rotate_odoo_key.yml")
    finally:
        over.set()
        customer.join()
    assert "gateway keys: 2 -> 1" in output
    assert HOSTS.secret(KEY) != former
    for secret in (former, HOSTS.secret(KEY)):
        assert secret not in output
    with pytest.raises(StoryError, match="refuses the login"):
        Odoo(HOSTS, "mailroom-gateway", former)
    Odoo(HOSTS, "mailroom-gateway", HOSTS.secret(KEY)).close()

    assert len(sent) > 1
    with HOSTS.mailbox() as session:
        for message_id in sent:
            wait_for_message(session, "Message-ID", message_id, ("INBOX", "Routed"))
        HOSTS.ssh(HOSTS.mail, "systemctl", "start", "fetch-and-route.service")
        for message_id in sent:
            wait_for_message(session, "Message-ID", message_id, ("Routed",))
    journal = HOSTS.ssh(HOSTS.mail, "journalctl", "--unit=fetch-and-route", "--output=cat", f"--since=@{since}")
    assert "refuse" not in journal, journal
