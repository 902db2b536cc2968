"""playbooks/rotate_odoo_key.yml: another key, and mail is routed all the while."""

from __future__ import annotations

import contextlib
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
    told: set[bytes] = set()
    over = threading.Event()

    def write_and_route() -> None:
        while not over.is_set():
            message = EmailMessage()
            message["To"] = ALIAS
            message["Subject"] = "While the key is replaced"
            message.set_content("Good day\n")
            sent.append(story.send_from_outside(message))
            HOSTS.ssh(HOSTS.mail, "systemctl", "start", "fetch-and-route.service")

    def look_at_processes() -> None:
        """Those of the hosts are among this machine's."""
        while not over.wait(0.1):
            for path in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        told.add((path / name).read_bytes())

    threads = [threading.Thread(target=target) for target in (write_and_route, look_at_processes)]
    for thread in threads:
        thread.start()
    try:
        output = HOSTS.site(playbook="playbooks/rotate_odoo_key.yml")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert "gateway keys: 2 -> 1" in output
    assert HOSTS.secret(KEY) != former
    assert any(b"rotate_odoo_key.yml" in text for text in told)
    assert any(b"fetch-and-route" in text for text in told)
    for secret in (former, HOSTS.secret(KEY), HOSTS.secret(f"mailbox-{HOSTS.database['name']}")):
        assert secret not in output
        assert [text for text in told if secret.encode() in text] == []
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
