"""Figures for Prometheus, through the textfile directory of its node exporter.

Counters must not fall when a run ends, so their totals are kept in the state directory; losing them is a counter reset
to Prometheus, and nothing to mail. The format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from . import durable
from .config import Config
from .routing import WORDS
from .trouble import Misconfigured, Trouble

FILE = "fetch-and-route.prom"
TOTALS = ".metrics.json"
"""In the state directory; no mailbox may have a name that begins with a dot."""
PREFIX = "fetch_and_route_"
KINDS = {75: "unavailable", 77: "denied", 78: "misconfigured", 70: "other"}
"""Kinds of trouble by exit code."""


class Folders(NamedTuple):
    """What a mailbox held at a time; `at` and `oldest`, when the oldest waiting message came, are Unix times."""

    at: int
    waiting: int
    oldest: int | None
    routed: int
    quarantined: int


@dataclasses.dataclass
class Tally:
    """What one run, or all runs so far, did with a mailbox."""

    verdicts: Counter[str] = dataclasses.field(default_factory=Counter)
    """Messages by verdict."""
    failures: Counter[str] = dataclasses.field(default_factory=Counter)
    """Runs that ended in trouble, by its kind."""
    seconds: float = 0.0
    """Of all messages together, each its share of the call to Odoo."""
    success: int = 0
    """When a run of this mailbox last ended without trouble (Unix time); 0: never."""
    folders: Folders | None = None
    """As they were looked at last; None: never."""

    def plus(self, other: Tally) -> Tally:
        """This one and a later one together."""
        return Tally(
            self.verdicts + other.verdicts,
            self.failures + other.failures,
            self.seconds + other.seconds,
            other.success or self.success,
            other.folders or self.folders,
        )


class Session(Protocol):
    """The part of a mailbox session that is looked at; see sources.Source."""

    def waiting_since(self) -> tuple[int, int | None]: ...
    def size_of(self, folder: str) -> int: ...


def kind_of(trouble: Trouble) -> str:
    """What kind of trouble ended a run, one of KINDS."""
    return KINDS.get(trouble.exit_code, "other")


def look(session: Session, routed: str, quarantine: str) -> Folders | None:
    """What a mailbox holds now; None when it does not answer any more."""
    try:
        waiting, oldest = session.waiting_since()
        return Folders(int(time.time()), waiting, oldest, session.size_of(routed), session.size_of(quarantine))
    except Trouble:
        return None


def write(config: Config, tallies: Mapping[str, Tally], now: int) -> None:
    """Add a run's tallies, by mailbox, to the totals, and publish all. Raises Misconfigured."""
    path = Path(config.state_directory) / TOTALS
    before = _load(path)
    databases = {mailbox.name: mailbox.database for mailbox in config.mailboxes}
    after = {name: before.get(name, Tally()).plus(tallies.get(name, Tally())) for name in databases}
    durable.replace(path, json.dumps({name: _plain(tally) for name, tally in after.items()}, indent=1).encode())
    lines = render([({"mailbox": name, "database": databases[name]}, tally) for name, tally in after.items()], now)
    _publish(Path(config.metrics_directory) / FILE, "".join(f"{line}\n" for line in lines).encode())


def render(entries: Sequence[tuple[Mapping[str, str], Tally]], now: int) -> Iterator[str]:
    """The lines of the text format for mailboxes, each with its labels. `now` is a Unix time."""
    looked = [(labels, tally.folders) for labels, tally in entries if tally.folders is not None]
    yield from _metric(
        "waiting_messages", "gauge", "Messages in INBOX", ((labels, folders.waiting) for labels, folders in looked)
    )
    yield from _metric(
        "oldest_waiting_seconds",
        "gauge",
        "Age of the oldest message in INBOX, 0 when there is none, absent when nobody knows",
        (
            (labels, max(now - folders.oldest, 0) if folders.waiting and folders.oldest else 0)
            for labels, folders in looked
            if folders.oldest or not folders.waiting
        ),
    )
    yield from _metric(
        "routed_messages", "gauge", "Messages in Routed", ((labels, folders.routed) for labels, folders in looked)
    )
    yield from _metric(
        "quarantine_messages",
        "gauge",
        "Messages in Quarantine",
        ((labels, folders.quarantined) for labels, folders in looked),
    )
    yield from _metric(
        "looked_timestamp_seconds",
        "gauge",
        "When the folders were looked at last, in Unix time",
        ((labels, folders.at) for labels, folders in looked),
    )
    yield from _metric(
        "verdicts_total",
        "counter",
        "Verdicts of Odoo on messages",
        (
            ({**labels, "verdict": word}, count)
            for labels, tally in entries
            for word, count in _counts(WORDS, tally.verdicts)
        ),
    )
    yield from _metric(
        "failures_total",
        "counter",
        "Runs that ended in trouble",
        (
            ({**labels, "reason": kind}, count)
            for labels, tally in entries
            for kind, count in _counts(KINDS.values(), tally.failures)
        ),
    )
    name = "message_seconds"
    yield from _head(name, "summary", "Seconds in the call to Odoo, each message its share")
    for labels, tally in entries:
        yield _sample(f"{name}_sum", labels, round(tally.seconds, 3))
        yield _sample(f"{name}_count", labels, sum(tally.verdicts.values()))
    yield from _metric(
        "last_success_timestamp_seconds",
        "gauge",
        "When a run last ended without trouble, in Unix time, 0 if never",
        ((labels, tally.success) for labels, tally in entries),
    )


def _counts(names: Iterable[str], counts: Counter[str]) -> Iterator[tuple[str, int]]:
    """The counts of these names, 0 too: a series that appears with its first event hides that event from rate()."""
    for name in names:
        yield name, counts[name]


def _metric(name: str, kind: str, meaning: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> Iterator[str]:
    yield from _head(name, kind, meaning)
    for labels, value in samples:
        yield _sample(name, labels, value)


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {PREFIX}{name} {meaning}."
    yield f"# TYPE {PREFIX}{name} {kind}"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    quoted = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{PREFIX}{name}{{{quoted}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _plain(tally: Tally) -> dict[str, Any]:
    return {
        "verdicts": tally.verdicts,
        "failures": tally.failures,
        "seconds": round(tally.seconds, 3),
        "success": tally.success,
        "folders": tally.folders and tally.folders._asdict(),
    }


def _load(path: Path) -> dict[str, Tally]:
    """The totals so far; a file that is missing or cannot be understood counts as none. Raises Misconfigured."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: Tally(
                Counter({str(word): int(count) for word, count in entry["verdicts"].items()}),
                Counter({str(kind): int(count) for kind, count in entry["failures"].items()}),
                float(entry["seconds"]),
                int(entry["success"]),
                Folders(**entry["folders"]) if entry["folders"] else None,
            )
            for name, entry in table.items()
        }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}: run this as root") from error
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def _publish(path: Path, content: bytes) -> None:
    """Write a file that all may read in one instant; the exporter passes over names that do not end in .prom.

    It belongs to whoever runs the program, and is replaced by whoever runs it next: what both need is the directory.
    """
    temporary = path.with_suffix(".new")
    try:
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:  # noqa: PTH123 - fd
            os.fchmod(file.fileno(), 0o644)  # whatever the umask is
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        raise Misconfigured(
            f"{path}: {error.strerror}: run the role fetch_and_route, which makes the directory"
        ) from error
