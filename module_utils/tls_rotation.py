"""From one key of a mail host's certificate to the next, so that DNS always tells of the key that is shown. Pure.

TLSA records tell of the key in use and of the next one, which is made before anything needs it, and of a former one as
long as a daemon may still show it. The next key may be used when every name server has shown it for so long that nobody
remembers records without it. A key is named by its digest, as in TLSA records. Times are seconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from module_utils.dkim_rotation import moment
else:
    from ansible.module_utils.dkim_rotation import moment


@dataclass(frozen=True)
class Keys:
    """The keys of a mail host that exist. former: whether a daemon may still show one that was used before."""

    used: str
    following: str
    former: bool = False


@dataclass(frozen=True)
class Known:
    """What was seen of them. since: when `used` was first seen in use. shown: since when DNS shows both, else None."""

    used: str
    since: int
    following: str
    shown: int | None


@dataclass(frozen=True)
class Seen:
    """What DNS shows at this moment.

    missing: why it is not sure that nobody gets records without both keys; "" when it is: every name server shows
    them, or not one has any. cached: seconds for which others may remember what was there before.
    """

    missing: str = ""
    cached: int = 0


@dataclass(frozen=True)
class Times:
    """Seconds. used: for which a key is used before the next one is. clock: by which clocks may be wrong."""

    used: float
    clock: float = 0

    def remembered(self, seen: Seen) -> float:
        """For how long somebody may remember what was before a change: a resolver that asks another (RFC 7671 8.1)."""
        return 2 * seen.cached + 2 * self.clock


def noted(known: Known | None, keys: Keys, now: int, seen: Seen) -> Known:
    """Answer what is known by now."""
    since = known.since if known and known.used == keys.used else now
    shown = known.shown if known and known.following == keys.following else None
    if seen.missing:
        shown = None
    elif shown is None:
        shown = now
    return Known(keys.used, since, keys.following, shown)


def is_due(known: Known, keys: Keys, now: int, seen: Seen, times: Times) -> bool:
    """Say whether the certificate has to be made from the next key now."""
    waited = known.shown is not None and now - known.shown >= times.remembered(seen)
    return waited and not keys.former and keys.used != keys.following and now - known.since >= times.used


def story(known: Known, keys: Keys, seen: Seen, times: Times, due: bool) -> str:
    """Answer in one line where the keys are, what is waited for, and until when."""
    used, following = known.used[:8], known.following[:8]
    if due:
        return f"key {following} takes the place of {used}"
    told = f"key {used} is used until {moment(known.since + times.used)}"
    if keys.former:
        told += "; the former one is taken out of DNS"
    if known.shown is None:
        return f"{told}; {following} waits until all name servers show both ({seen.missing})"
    return f"{told}; {following} can take its place from {moment(known.shown + times.remembered(seen))}"
