"""playbooks/rotate_dkim.yml: other DKIM keys, and every mail is believed all the while."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rotation import Traffic
from tests.story import ROOT, Hosts

pytestmark = [pytest.mark.hosts, pytest.mark.once]

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
STATE = HOSTS.secrets / "dkim" / "selectors.json"


@pytest.fixture(autouse=True)
def names() -> Iterator[None]:
    """The hosts are found by their names."""
    with HOSTS.names():
        yield


def keys() -> dict[str, str]:
    """What becomes of each key."""
    content = json.loads(STATE.read_text(encoding="utf-8"))
    return {key["selector"]: key["phase"] for key in content["domains"][HOSTS.domain["name"]]}


def let_days_pass(days: float) -> None:
    """For the rotation: each key has been what it is for so many days longer."""
    content: Any = json.loads(STATE.read_text(encoding="utf-8"))
    for key in content["domains"][HOSTS.domain["name"]]:
        key["since"] -= int(days * 86400)
    STATE.write_text(json.dumps(content), encoding="utf-8")


def test_mail_is_believed_before_during_and_after_a_rotation() -> None:
    traffic = Traffic(HOSTS)
    while STATE.exists() and set(keys().values()) != {"signs"}:  # an earlier rotation is not over
        let_days_pass(8)
        HOSTS.site("-e", "dns_records_dkim_days=36500", playbook="playbooks/rotate_dkim.yml")
    former = HOSTS.selector
    traffic.send()
    with traffic.flowing():
        first = HOSTS.site("-e", "dns_records_dkim_days=0", playbook="playbooks/rotate_dkim.yml")
        assert keys()[former] == "signs"
        let_days_pass(1)
        HOSTS.site(playbook="playbooks/rotate_dkim.yml")
    traffic.send()
    traffic.wait()
    assert f"{former} signs; {HOSTS.selector} is shown everywhere and signs from" in first
    assert keys() == {former: "retired", HOSTS.selector: "signs"}
    used = {tuple(sent.selectors) for sent in traffic.sent.values()}
    assert used == {(one, f"{one}-ed25519") for one in (former, HOSTS.selector)}
    assert traffic.faults == []
    assert len(traffic.sent) > 4
    files = HOSTS.ssh(HOSTS.mail, "ls /var/lib/rspamd/dkim").split()
    assert sorted(files) == sorted(
        f"{HOSTS.domain['name']}.{one}{kind}.key" for one in (former, HOSTS.selector) for kind in ("", "-ed25519")
    )
