"""Whatever dies, and whenever: no message is lost and none is posted twice (the large play is bench/chaos).

MAILROOM_SEED plays an earlier run's messages and events again.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.story import ROOT, Hosts

pytestmark = [pytest.mark.hosts, pytest.mark.once]

MESSAGES, EVENTS = 300, 30


def test_every_message_is_once_in_odoo_or_in_quarantine_whatever_dies() -> None:
    hosts = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
    seed = int(os.environ.get("MAILROOM_SEED", random.randrange(1_000_000)))  # noqa: S311 - no secret
    chaos = Chaos(hosts, MESSAGES, EVENTS, seed, print)
    hosts.ssh(hosts.mail, "logger --tag chaos begins")  # tests/journals judges what was logged before and after
    try:
        outcome = chaos.play()
    finally:
        hosts.ssh(hosts.mail, "logger --tag chaos ends")
    print(outcome.table())
    assert not any(outcome.faults.values()), "\n".join([outcome.table(), "", *chaos.said[-300:]])
