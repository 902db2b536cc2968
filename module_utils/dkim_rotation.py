"""From one DKIM key of a domain to the next, so that no mail is ever without its key in DNS. Pure.

A key is new (published, but perhaps not everywhere), shown (every name server has it; others may still remember that
it was not there), signs, leaving (another signs, but perhaps not on all mail hosts yet), retired (no host signs with
it, but mail under way may be signed with it) and removed (no longer published). All but removed are published. One key
at a time signs; what is called a key here is a pair of RSA and Ed25519 with one selector. Times are seconds since 1970.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Phase = Literal["new", "shown", "signs", "leaving", "retired", "removed"]
PHASES = get_args(Phase)


@dataclass(frozen=True)
class Key:
    """A key by its selector, and since when it is in its phase."""

    selector: str
    phase: Phase
    since: int


@dataclass(frozen=True)
class Times:
    """Seconds.

    signs: for which a key signs before the next one is made. retired: for which it stays in DNS afterwards. clock: by
    which the clock that `since` and `now` are read from may be wrong.
    """

    signs: float
    retired: float
    clock: float = 0

    def over(self, key: Key, now: int, least: float) -> bool:
        """Say whether a key has been in its phase for so long, even if the clock was slow then and is fast now."""
        return now - key.since >= least + 2 * self.clock


@dataclass(frozen=True)
class Seen:
    """What DNS shows at this moment.

    shown: the selectors that every name server of their zones shows as they have to be. missing: why others are not
    among them. cached: seconds for which others may remember what was there before, or that nothing was (RFC 2308
    section 5).
    """

    shown: frozenset[str] = frozenset()
    missing: Mapping[str, str] = field(default_factory=dict)
    cached: int = 0


def noted(keys: Sequence[Key], now: int, seen: Seen, *, applied: bool = False) -> tuple[Key, ...]:
    """Answer the keys with what is the case by now, and nothing decided.

    applied: these very keys were published, and all mail hosts sign as they say.
    """
    found = []
    for key in keys:
        if key.phase == "new" and key.selector in seen.shown:
            key = Key(key.selector, "shown", now)
        elif key.phase == "shown" and key.selector not in seen.shown:
            key = Key(key.selector, "new", now)
        elif key.phase == "leaving" and applied:
            key = Key(key.selector, "retired", now)
        elif key.phase == "removed" and applied:
            continue
        found.append(key)
    return tuple(found)


def next_step(
    keys: Sequence[Key], now: int, seen: Seen, times: Times, successor: Callable[[str], str]
) -> tuple[Key, ...]:
    """Answer the keys with all that is due decided; afterwards they have to be published and told to the mail hosts.

    successor: names the key that comes after another. Where it gives the name of one that was removed but perhaps not
    taken out of DNS everywhere, nothing begins yet.
    """
    keys = noted(keys, now, seen)
    if any(key.phase == "shown" and times.over(key, now, seen.cached) for key in keys):
        after: dict[Phase, Phase] = {"shown": "signs", "signs": "leaving"}
        keys = tuple(Key(key.selector, after[key.phase], now) if key.phase in after else key for key in keys)
    keys = tuple(
        Key(key.selector, "removed", now) if key.phase == "retired" and times.over(key, now, times.retired) else key
        for key in keys
    )
    live = [key for key in keys if key.phase != "removed"]
    if [key.phase for key in live] == ["signs"] and now - live[0].since >= times.signs:
        selector = successor(live[0].selector)
        if selector not in {key.selector for key in keys}:
            keys = (*keys, Key(selector, "new", now))
    return keys


def story(keys: Sequence[Key], seen: Seen, times: Times) -> str:
    """Answer in one line where the keys are, what is waited for, and until when."""
    alone = [key.phase for key in keys if key.phase != "removed"] == ["signs"]

    def due(key: Key, least: float) -> str:
        return moment(key.since + least + 2 * times.clock)

    def told(key: Key) -> str:
        match key.phase:
            case "new":
                return f"{key.selector} waits until all name servers show it ({seen.missing.get(key.selector, 'soon')})"
            case "shown":
                return f"{key.selector} is shown everywhere and signs from {due(key, seen.cached)}"
            case "signs":
                return f"{key.selector} signs" + (f" until {moment(key.since + times.signs)}" if alone else "")
            case "leaving":
                return f"{key.selector} leaves"
            case "retired":
                return f"{key.selector} stays for mail under way until {due(key, times.retired)}"
            case "removed":
                return f"{key.selector} is taken out"

    return "; ".join(map(told, keys))


def moment(seconds: float) -> str:
    """Answer a time as people read it, not before it has come."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(-(-seconds // 60) * 60))


def numbered(selector: str, taken: Collection[str] = ()) -> str:
    """Answer the selector that follows another by its number, leaving out those that are taken."""
    stem = selector.rstrip("0123456789")
    number = int(selector[len(stem) :] or 1) + 1
    while f"{stem}{number}" in taken:
        number += 1
    return f"{stem}{number}"
