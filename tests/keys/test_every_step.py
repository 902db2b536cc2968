"""A run of playbooks/rotate_keys.yml is killed at each of its steps, and run again, while mail leaves and comes.

Of two kinds of run each: in one the next DKIM keys are published, in the other they take over; in both the certificate
takes its next key. Which tasks change something the first run of a kind shows. It is killed as each of them begins, and
as the one after it does: in between nothing changes, so that it makes no difference where it ends. Nothing is played:
a day is a second, and what others may remember they do remember.

By hand, see CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.acme import test_acme as acme
from tests.rotation import CLOCK, FOR_EVER, RETIRED, TTL, Rounds
from tests.story import ROOT, Hosts

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
BEGIN, TAKE_OVER = "next DKIM keys begin", "the next DKIM keys take over"

root = acme.root  # the authority


@pytest.fixture(autouse=True)
def names() -> Iterator[None]:
    """The hosts are found by their names."""
    with HOSTS.names():
        yield


@dataclass
class Steps(Rounds):
    """points: by kind of run, at the begin of which of its tasks one is still to be killed."""

    kinds: tuple[str, ...] = (BEGIN, TAKE_OVER)
    points: dict[str, list[int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """What is wrong, in one line each."""
        return [*super().faults, *self.wrong]

    def _round(self) -> None:
        kind = self._due()
        following = self._digests()[1]
        if kind not in self.points:
            run = self._run(dns_records_tlsa_days=0)
            before_and_after = {place + more for place in run.changed for more in (0, 1)}
            self.points[kind] = sorted(before_and_after & set(range(1, len(run.tasks) + 1)))
        else:
            if self.points[kind]:
                self._run(self.points[kind].pop(0), dns_records_tlsa_days=0)
            self._run(dns_records_tlsa_days=0)
        where = f"{kind}, killed at {self.killed[-1] if self.killed else 'no task'}"
        if self._digests()[0] != following:
            self.wrong.append(f"{where}: the certificate has not taken its next key")
        if len(self.kinds) > 1 and self._kind() == kind:
            self.wrong.append(f"{where}: the DKIM keys are where they were")
        over = {*self.kinds} <= {*self.points} and not any(self.points.values())
        self.wanted = self.done + (1 if over else 2)

    def _digests(self) -> list[str]:
        if "certificate_mode" not in self.options:
            return super()._digests()
        return [acme.digest(file).split()[-1] for file in ("pair.pem", "next.key")]

    def _dkim(self) -> list[tuple[str, int]]:
        """In which phase each DKIM key is, and since when."""
        content = json.loads((self.hosts.secrets / "dkim" / "selectors.json").read_text(encoding="utf-8"))
        return [(key["phase"], key["since"]) for key in content["domains"][self.hosts.domain["name"]]]

    def _kind(self) -> str:
        """What a run will do with the DKIM keys."""
        return TAKE_OVER if {"new", "shown"} & {phase for phase, _ in self._dkim()} else BEGIN

    def _due(self) -> str:
        """Wait until all keys may go a step further; answer the kind of run."""
        certificates = json.loads((self.hosts.secrets / "ca" / "keys.json").read_text(encoding="utf-8"))
        shown = certificates["hosts"][self.hosts.mail.name]["shown"]
        waits = {"new": TTL, "shown": TTL, "retired": RETIRED}
        due = [shown + 2 * TTL, *(since + waits.get(phase, 0) for phase, since in self._dkim())]
        time.sleep(max(0, max(due) + 2 * CLOCK + 1 - time.time()))  # for a clock
        return self._kind()


def play(steps: Steps) -> None:
    try:
        steps.play(limit=5400)
    finally:
        print(steps.table(), *steps.killed, sep="\n")
    assert steps.faults == []
    assert {*steps.kinds} <= {*steps.points}
    assert not any(steps.points.values()), "there was no time for all"
    assert len(steps.killed) > 5 * len(steps.kinds)


def test_private_certificates_and_dkim() -> None:
    play(Steps(HOSTS, 2, say=print))


def test_issued_certificates(root: Path) -> None:
    acme.site(root)
    HOSTS.tls.load_verify_locations(root)
    options = acme.ACME | {"certificate_ca_file": str(root), "dns_records_dkim_days": FOR_EVER}
    play(Steps(HOSTS, 2, say=print, options=options, kinds=(BEGIN,)))
