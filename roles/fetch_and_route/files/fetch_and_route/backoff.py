"""How long a database is left alone after it was away: kept in the state directory, where the next run finds it."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

from . import durable
from .trouble import Misconfigured, Unavailable

FIRST, LONGEST = 60, 30 * 60
"""Seconds to wait after the first failure, doubled with each further one, and at most."""
LONGEST_ASKED = 60 * 60
"""Seconds, at most, that an Odoo or a proxy may ask us to stay away (Retry-After)."""


@dataclasses.dataclass(frozen=True)
class Pause:
    """A database that is left alone: failures in a row, until when (Unix time), what the last one was."""

    failures: int
    until: int
    reason: str


def seconds_after(failures: int, asked: int) -> int:
    """How long to wait after so many failures in a row, when Odoo asked for so many seconds (0: it did not)."""
    own = min(FIRST << min(failures - 1, 10), LONGEST)
    return max(own, min(asked, LONGEST_ASKED))


class BackOff:
    """The pause of one database."""

    def __init__(self, directory: Path, database: str) -> None:
        """Read it; a file that cannot be understood counts as none. Raises Misconfigured."""
        self._path = directory / f"{database}.backoff"  # mailboxes have .json
        self._pause: Pause | None = None
        try:
            table = json.loads(self._path.read_text(encoding="utf-8"))
            self._pause = Pause(int(table["failures"]), int(table["until"]), str(table["reason"]))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Misconfigured(f"{self._path}: {error.strerror}: run this as root") from error
        except (ValueError, TypeError, KeyError, AttributeError):
            pass

    def pause(self, now: float) -> Pause | None:
        """The pause while it lasts. One that is longer than any can be says that the clock was set back: it is over."""
        pause = self._pause
        return pause if pause and now < pause.until <= now + LONGEST_ASKED else None

    def failed(self, trouble: Unavailable, now: float) -> Pause:
        """The database was away: leave it alone, each time for longer. Raises Misconfigured."""
        failures = 1 + (self._pause.failures if self._pause else 0)
        pause = Pause(failures, int(now) + seconds_after(failures, trouble.retry_after), str(trouble))
        durable.replace(self._path, json.dumps(dataclasses.asdict(pause), indent=1).encode())
        self._pause = pause
        return pause

    def answered(self) -> None:
        """The database has answered: begin anew. Raises Misconfigured."""
        durable.remove(self._path)
        self._pause = None


def clock(at: int) -> str:
    """A time of day as people read it, to the second, in the host's time zone."""
    return time.strftime("%H:%M:%S", time.localtime(at))
