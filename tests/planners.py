"""Two planners who both want the same names otherwise, and a stranger who edits text beside them, all at once.

Each planner publishes one state of its own after the other.  A state is spread over several names, so that it shows
when one was written in part.  `tests/servers/test_planners.py` plays it small, `bench/planners` large.
"""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.update

from library import dns_rrsets
from tests.name_servers import APEX, SECRET, NameServer

if TYPE_CHECKING:
    from module_utils import dns_zone, spf
else:  # the same modules that the module has
    from ansible.module_utils import dns_zone, spf

DMARC, DKIM, HOST = "_dmarc.example.com.", "mailroom1._domainkey.example.com.", "mail.example.com."
PLANNERS = ("a", "b")
SHARED = (APEX, HOST)
"""Names with text of the stranger's."""
FIRST = {'"google-site-verification=a  B" "in two strings"', '"MS=ms1"'}
KEPT = 8
"""So many texts the stranger has at a name, at most."""


def records(state: str) -> list[dict[str, Any]]:
    """A state such as a17, the seventeenth of planner a; every value is of this state alone."""
    values: list[tuple[str, str, list[str], bool]] = [
        (APEX, "MX", [f"10 {state}.example.net.", f"20 {state}.example.net."], False),
        (APEX, "TXT", [f"v=spf1 {_term(state)} ~all", f"planner-{state}"], True),
        (DKIM, "TXT", [f"v=DKIM1; n={state}; p={'A' * 392}"], False),
        (DMARC, "TXT", [f"v=DMARC1; p=none; rua=mailto:{state}@example.com"], False),
        (HOST, "TXT", [f"planner-{state}"], True),
    ]
    return [
        {
            "name": name,
            "type": kind,
            "ttl": 3600,
            "values": texts,
            "why": "",
            "rfc": "",
            "level": "required",
            "ownership": "shared" if shared else "exclusive",
        }
        for name, kind, texts, shared in values
    ]


def _term(state: str) -> str:
    planner, number = PLANNERS.index(state[0]), int(state[1:])
    return f"ip4:10.{planner}.{number // 250}.{number % 250 + 1}"


def _values(record: dict[str, Any]) -> set[str]:
    """The values of a record as a zone file has them."""
    return {dns_zone.to_rdata(record["type"], value).to_text() for value in record["values"]}


def _beginning(text: str, values: set[str]) -> set[str]:
    return {value for value in values if value.startswith(f'"{text}')}


@dataclass
class Outcome:
    """What happened, and every breach of what was promised."""

    counts: Counter[str] = field(default_factory=Counter)
    breaches: list[str] = field(default_factory=list)


class Game:
    """One game on a server whose zones are as at the beginning."""

    def __init__(self, server: NameServer, directory: Path, updates: int, seed: int) -> None:
        """updates: for each planner; directory: for its files."""
        self.server, self.directory, self.updates = server, directory, updates
        self.outcome = Outcome()
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._texts: dict[str, set[str]] = {name: set() for name in SHARED}
        self._over = threading.Event()
        self._turns = threading.Semaphore(0)
        (directory / "key").write_text(SECRET, encoding="ascii")
        (directory / "key").chmod(0o600)

    def play(self) -> Outcome:
        """Let all three work at the same time until both planners are done, and look at the end."""
        failures: list[BaseException] = []

        def guarded(work: Callable[..., None], *arguments: str) -> None:
            try:
                work(*arguments)
            except BaseException as failure:
                failures.append(failure)
                self._over.set()

        workers = [threading.Thread(target=guarded, args=[self._plan, planner]) for planner in PLANNERS]
        stranger = threading.Thread(target=guarded, args=[self._interfere])
        for thread in (*workers, stranger):
            thread.start()
        for worker in workers:
            worker.join()
        self._over.set()
        self._turns.release()
        stranger.join()
        if failures:
            raise failures[0]
        self._look(last=True)
        return self.outcome

    def _plan(self, planner: str) -> None:
        for number in range(1, self.updates + 1):
            while not self._publish(planner, number):
                self.outcome.counts["runs that came too late twice"] += 1

    def _publish(self, planner: str, number: int) -> bool:
        """Publish a state; answer whether it was written."""
        if self._over.is_set():
            return True
        self._turns.release()
        parameters = {
            "records": records(f"{planner}{number}"),
            "zones": [
                {
                    "name": "example.com",
                    "server": "127.0.0.1",
                    "port": self.server.port,
                    "key_name": "mailroom",
                    "key_algorithm": "hmac-sha256",
                    "key_file": str(self.directory / "key"),
                }
            ],
            "elsewhere": [],
            "ledger": str(self.directory / planner / "ledger.json"),
            "adopt": [DKIM, DMARC],
            "remove": [],
            "mx_takeover": True,
            "spf_consolidate": False,
            "prune": False,
            "resolver": "127.0.0.1",
            "resolver_port": self.server.port,
            "timeout": 10.0,
            "readback_timeout": 0.0,  # the other planner may have gone on already
        }
        try:
            dns_rrsets.run(parameters, check_mode=False)
        except dns_rrsets.Refused as refused:
            if not refused.changed and "somebody else is editing" not in str(refused):
                raise
            self.outcome.counts["updates of the planners"] += refused.changed
            return refused.changed
        self.outcome.counts["updates of the planners"] += 1
        return True

    def _interfere(self) -> None:
        """Add, change and take away text, as those do who look at nothing before."""
        number = 0
        while not self._over.is_set():
            self._turns.acquire(timeout=1)
            number += 1
            name = self._random.choice(SHARED)
            texts = self._texts[name]
            old = self._random.choice(sorted(texts)) if texts else ""
            new = "" if len(texts) >= KEPT else f'"stranger {number}"'
            if old and self._random.random() < 0.5:
                new = self._random.choice([new, ""])
            else:
                old = old if not new else ""

            def edit(message: dns.update.UpdateMessage, name: str = name, old: str = old, new: str = new) -> None:
                if old:
                    message.delete(name, "TXT", old)
                if new:
                    message.add(name, 3600, "TXT", new)

            self.server.change(edit)
            self._texts[name] = (texts - {old}) | ({new} - {""})
            self.outcome.counts["edits of the stranger"] += 1
            if number % 5 == 0:
                self._look()

    def _look(self, last: bool = False) -> None:
        """Judge the zone as it is at one moment; the stranger does nothing meanwhile."""
        self.server.settle()
        found: dict[tuple[str, str], set[str]] = {}
        for name, kind, _, value in self.server.records():
            found.setdefault((name, kind), set()).add(value)
        self.outcome.counts["looks at the whole zone"] += 1
        ends = {f"{planner}{self.updates}" for planner in PLANNERS}
        texts = {name: found.get((name, "TXT"), set()) for name in SHARED}
        for name in SHARED:
            self._expect(f"text of others at {name}", _beginning("stranger ", texts[name]), self._texts[name])
        self._expect("the first text of others", texts[APEX] & FIRST, FIRST)

        exclusive = [found.get(key, set()) for key in ((APEX, "MX"), (DKIM, "TXT"), (DMARC, "TXT"))]
        state = next(iter(re.findall(r"mailto:(\w+)@", "".join(exclusive[-1]))), "")
        wanted = [_values(one) for one in records(state) if one["ownership"] == "exclusive"] if state else [set()] * 3
        self._expect("the state at names that hold one alone", exclusive, wanted)

        states = {value.strip('"').partition("-")[2] for value in _beginning("planner-", texts[APEX])}
        self._expect("planners with more than one state", len(states), len({state[0] for state in states}))
        self._expect(
            "states at the other name", _beginning("planner-", texts[HOST]), {f'"planner-{one}"' for one in states}
        )
        policies = [spf.terms(value.strip('"')) for value in texts[APEX] if spf.is_spf(value.strip('"'))]
        terms = sorted(term for policy in policies for term in policy)
        self._expect("terms of SPF", terms, sorted([*map(_term, states), *(["~all"] if states else [])]))
        self._expect("SPF records", len(policies), bool(states))
        if last:
            self._expect("states in the end", states, ends)
            self._expect("the last state is whole", state in ends, True)

    def _expect(self, what: str, found: object, right: object) -> None:
        if found != right:
            self.outcome.breaches.append(f"{what}: {found}, and should be {right}")
