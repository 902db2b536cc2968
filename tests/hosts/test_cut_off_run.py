"""A run that was cut off after its files were written and before its handlers ran: the next one catches up."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.story import ROOT, Hosts

pytestmark = [pytest.mark.hosts, pytest.mark.once]

OWED = "/var/lib/mailroom/owed"
ROLES = ("certificate", "rspamd", "dovecot", "postfix", "fetch_and_route")


@pytest.fixture
def hosts() -> Hosts:
    return Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))


def test_the_next_run_does_what_a_cut_off_run_owes(hosts: Hosts) -> None:
    # What such a run leaves behind: the files as they should be, and a note for each role.
    hosts.ssh(hosts.mail, f"mkdir -p {OWED} && cd {OWED} && touch {' '.join(ROLES)}")

    output = hosts.site()

    for handler in (
        "rspamd : Reload rspamd",
        "dovecot : Reload Dovecot",
        "postfix : Reload Postfix",
        "fetch_and_route : Run fetch-and-route",
    ):
        assert re.search(rf"RUNNING HANDLER \[{handler}\] \**\nchanged: \[{hosts.mail.name}\]", output), output
    assert "fetch_and_route : Reload fetch-and-route" in output
    assert hosts.ssh(hosts.mail, f"ls {OWED}") == ""
    assert f"{hosts.mail.name} " in output
    assert re.search(rf"{hosts.mail.name} +: ok=\d+ +changed=0 ", hosts.site())
