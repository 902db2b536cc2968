"""What a person or the journal sees of a run.

On a terminal: a progress line for the backlog and, above it, only what needs a person. Otherwise one line per message
in `key=value` form, values with spaces or odd characters in JSON quotes, so that no message can forge a line; or, for
machines, one JSON object per line.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections import Counter, defaultdict
from typing import TextIO

from .message import Prepared
from .metrics import Folders, Tally, kind_of
from .routing import Decision, Verdict
from .trouble import Trouble, Unavailable

_PLAIN = re.compile(r"[!-!#-<>-~]+")
BAR = 24
"""Characters of the progress bar."""
LONGEST = 998
"""Characters of a Message-ID or an address that are shown: no line of a mail has more (RFC 5322, section 2.1.1)."""


class Report:
    """Collects and shows; used by several threads at once."""

    def __init__(self, stream: TextIO, *, terminal: bool | None = None, as_json: bool = False) -> None:
        """Write to `stream`; whether that is a terminal is found out unless it is given."""
        self._stream = stream
        self._terminal = not as_json and (stream.isatty() if terminal is None else terminal)
        self._json = as_json
        self._journal = "JOURNAL_STREAM" in os.environ  # systemd.exec(5): priorities as <N> prefixes are understood
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._waiting = 0
        self.counts: Counter[str] = Counter()
        """Messages by verdict."""
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        """The same and more, by mailbox."""

    def waiting(self, count: int) -> None:
        """So many more messages wait."""
        with self._lock:
            self._waiting += count
            self._progress()

    def message(
        self, mailbox: str, message: Prepared, verdict: Verdict, decision: Decision, folder: str, seconds: float
    ) -> None:
        """One message has its verdict and is in its folder; `seconds` is its share of the call to Odoo."""
        identity, recipients = _cut(message.message_id), tuple(map(_cut, message.recipients))
        values = {
            "message-id": identity,
            "mailbox": mailbox,
            "recipients": ",".join(recipients),
            "verdict": verdict.word,
            "record": verdict.record,
            "folder": folder,
            "attempts": str(decision.attempts) if decision.attempts else "",
            "seconds": f"{seconds:.3f}",
            "reason": decision.reason,
        }
        needs_person = verdict.word in ("refused", "error")
        with self._lock:
            self.counts[verdict.word] += 1
            self.tallies[mailbox].verdicts[verdict.word] += 1
            self.tallies[mailbox].seconds += seconds
            if self._json:
                more = {"recipients": recipients, "attempts": decision.attempts, "seconds": round(seconds, 3)}
                self._object("message", **{key.replace("-", "_"): value for key, value in {**values, **more}.items()})
            elif not self._terminal:
                self._line(" ".join(f"{key}={_value(value)}" for key, value in values.items() if value), needs_person)
            elif needs_person:
                self._line(f"{verdict.word}: {_safe(identity)} -> {folder}: {decision.reason}", needs_person)

    def batch_done(self) -> None:
        """A batch is settled and all its messages are reported."""
        with self._lock:
            self._progress()

    def take(self) -> dict[str, Tally]:
        """The tallies since they were taken last."""
        with self._lock:
            taken, self.tallies = self.tallies, defaultdict(Tally)
            return taken

    def served(self, mailbox: str) -> None:
        """A mailbox is done without trouble."""
        with self._lock:
            self.tallies[mailbox].success = int(time.time())

    def looked(self, mailbox: str, folders: Folders | None) -> None:
        """What a mailbox holds by now."""
        with self._lock:
            self.tallies[mailbox].folders = folders

    def trouble(self, trouble: Trouble, mailbox: str = "", *, quiet: bool = False) -> None:
        """Something a person should know; as an error in the journal where nothing goes on without a person.

        `mailbox` is the one whose run it ended, if any; `quiet` only counts what is said elsewhere.
        """
        with self._lock:
            if mailbox:
                self.tallies[mailbox].failures[kind_of(trouble)] += 1
            if quiet:
                return
            if self._json:
                self._object("trouble", text=str(trouble), exit_code=trouble.exit_code)
            else:
                self._line(str(trouble), True, "<4>" if isinstance(trouble, Unavailable) else "<3>")
            self._progress()

    def say(self, text: str) -> None:
        """A line of plain information."""
        with self._lock:
            if self._json:
                self._object("information", text=text)
            else:
                self._line(text, False)

    def finish(self) -> None:
        """Say what was done, if anything was or a person is watching."""
        with self._lock:
            total = sum(self.counts.values())
            seconds = time.monotonic() - self._began
            if self._json:
                self._object("end", messages=total, seconds=round(seconds, 1), verdicts=dict(self.counts))
            elif total or self._terminal:
                parts = [f"{count} {word}" for word, count in sorted(self.counts.items())]
                self._line(f"{total} messages in {seconds:.1f} s" + (": " + ", ".join(parts) if parts else ""), False)

    def _object(self, event: str, **values: object) -> None:
        self._stream.write(json.dumps({"event": event, **values}) + "\n")
        self._stream.flush()

    def _line(self, text: str, needs_person: bool, priority: str = "<4>") -> None:
        prefix = priority if needs_person and self._journal else ""
        erase = "\r\x1b[K" if self._terminal else ""
        self._stream.write(f"{erase}{prefix}{text}\n")
        self._stream.flush()

    def _progress(self) -> None:
        if not self._terminal or not self._waiting:
            return
        done, seconds = sum(self.counts.values()), time.monotonic() - self._began
        filled = BAR * done // self._waiting
        bar = "#" * filled + "." * (BAR - filled)
        rate = f", {done / seconds:.1f}/s, {(self._waiting - done) * seconds / done:.0f} s left" if done else ""
        self._stream.write(f"\r\x1b[K[{bar}] {done}/{self._waiting} messages{rate}")
        self._stream.write("\r\x1b[K" if done >= self._waiting else "")
        self._stream.flush()


def standard() -> Report:
    """The report on standard output."""
    return Report(sys.stdout)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _value(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


def _safe(text: str) -> str:
    return json.dumps(text)[1:-1]
