"""Push: one connection for each IMAP mailbox waits in IDLE (RFC 2177), and what comes is routed at once over it.

It does less than a run, which stays the safety net: a message that was tried before, a mailbox over POP3 or at a server
without IDLE, the figures of a mailbox where nothing happens are left to the timer's runs. A watcher and a run never
serve a database at the same time: a run leaves it to the watcher, the watcher waits until the run is done.

No wake-up is lost. The inbox is looked at before each wait; a server must tell of what comes after that as soon as it
is told IDLE (RFC 3501, section 5.2), and the connection overlooks nothing that it says in between.
"""

from __future__ import annotations

import math
import os
import random
import select
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from . import notify
from .backoff import BackOff, Pause
from .config import Config, Database, Mailbox
from .mailbox import ImapMailbox
from .report import Report
from .run import attend
from .sources import queue_for
from .state import lock
from .trouble import Trouble, Unavailable

REISSUE = 9 * 60
"""Seconds of one IDLE. A server may end it after 30 minutes (RFC 2177), and one that hangs is noticed by the next."""
FIRST, LONGEST = 1, 5 * 60
"""Seconds before connecting again after a connection broke, doubled with each further failure, and at most."""
FIRST_REFUSED, LONGEST_REFUSED = 60, 30 * 60
"""The same where a person has to act: a server that is asked again and again with a wrong password locks us out."""
STABLE = 60
"""A connection that lasted so many seconds was a good one: what breaks it is the first failure."""
SHARE = 10
"""Seconds after which a backlog lets another mailbox of its database go first, after the batch under way."""
GRACE = 10 * 60
"""Seconds by which a watcher may be late before it is taken for hung."""
TELL_EVERY = 15
"""Seconds between two times that figures are written and the postmaster is perhaps told, at least."""
LAST_BATCH, LAST_WORDS = 25, 5
"""Seconds that ending waits for a watcher that serves, and for one that does not. The unit's TimeoutStopSec is 30."""


class Stop:
    """Told once to end; threads that wait for a server hear it, too."""

    def __init__(self) -> None:
        """Make the descriptor that is readable from `set` on.

        It is never closed: a thread that is left behind at the end may still look at it.
        """
        self.descriptor = os.eventfd(0)

    def set(self) -> None:
        """Say that it is time to end."""
        os.eventfd_write(self.descriptor, 1)

    def is_set(self) -> bool:
        """Whether it is."""
        return self.wait(0)

    def wait(self, seconds: float) -> bool:
        """Wait for it, at most so long; whether it is time to end."""
        return bool(select.select([self.descriptor], [], [], seconds)[0])


class Line:
    """How many mailboxes of a database stand in line to be served."""

    def __init__(self) -> None:
        """Nobody does."""
        self._lock = threading.Lock()
        self.length = 0

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Stand in line within this block."""
        with self._lock:
            self.length += 1
        try:
            yield
        finally:
            with self._lock:
                self.length -= 1


class Watcher:
    """Keeps a mailbox watched, whatever breaks; runs in a thread of its own."""

    def __init__(
        self,
        mailbox: Mailbox,
        database: Database,
        config: Config,
        config_path: Path,
        report: Report,
        stop: Stop,
        line: Line,
    ) -> None:
        """Prepare; nothing is connected yet."""
        self.name = mailbox.name
        self.does = "connecting"
        """What a person is told."""
        self.due = math.inf
        """When it is to be heard of again (monotonic); never, while it does what may take any time."""
        self.broken: BaseException | None = None
        """What ended the thread, other than `stop`: a fault of the program."""
        self._mailbox, self._database = mailbox, database
        self._config, self._config_path = config, config_path
        self._report, self._stop, self._line = report, stop, line
        self._thread = threading.Thread(target=self._run, name=mailbox.name, daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def ended(self) -> None:
        """Wait until it has ended, if it does so in time: it may be killed at any instant."""
        self._thread.join(LAST_BATCH if self.does == "routing" else LAST_WORDS)

    def _run(self) -> None:
        try:
            self._keep_watched()
        except BaseException as error:
            self.broken = error
            self._stop.set()

    def _keep_watched(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            self._busy("connecting", 0)
            try:
                with queue_for(self._mailbox, self._config, self._config_path) as session:
                    if not isinstance(session, ImapMailbox) or not session.can_idle:
                        self._busy("left to the timer", math.inf)
                        self._report.say(f"mailbox {self.name}: its server has no IDLE: left to the timer's runs")
                        return
                    self._watch(session)
            except Trouble as trouble:
                failures = 1 if time.monotonic() - began > STABLE else failures + 1
                refused = not isinstance(trouble, Unavailable)
                delay = reconnect_after(failures, refused=refused, chance=random.random())  # noqa: S311 -- no secret
                text = f"{trouble}: connecting again in {delay:.0f} s"
                if failures == 1 and not refused:
                    self._report.say(text)  # servers end connections, if only to be updated
                else:
                    self._report.trouble(type(trouble)(text))
                self._busy("waiting to connect again", delay)
                self._stop.wait(delay)

    def _watch(self, session: ImapMailbox) -> None:
        """Serve the inbox whenever there is something new. Raises Trouble when the connection is of no more use."""
        tried: int | None = None
        while not self._stop.is_set():
            self._busy("looking", 0)
            inbox, pause = session.look_again(), self._pause()
            if inbox.waiting and inbox.mark != tried and not pause:
                tried = self._serve(session)
                continue  # and look again, for what came meanwhile
            seconds: float = REISSUE
            if inbox.waiting and pause:
                seconds = min(REISSUE, max(pause.until - time.time(), 0))
            self._busy("watching", seconds)
            session.wait_for_news(seconds, self._stop.descriptor)

    def _serve(self, session: ImapMailbox) -> int | None:
        """Route what waits and was never tried; returns the inbox's mark then, None when something was not tried.

        Raises Trouble that is the connection's, and says what is Odoo's.
        """
        self._busy("waiting for a run to end", math.inf)
        with ExitStack() as stack:
            with self._line.joined():
                held = lock(Path(self._config.state_directory), self._database.name, self._stop.descriptor)
                ours = stack.enter_context(held)
            if not ours:
                return None
            self._busy("routing", math.inf)
            inbox = session.look_again()  # the run may have left nothing, or found the database away
            if inbox.waiting and not self._pause():
                gives_way = GivesWay(self._stop, self._line)
                try:
                    attend(
                        self._database,
                        [self._mailbox],
                        lambda _: nullcontext(session),
                        self._config,
                        self._config_path,
                        self._report,
                        gives_way,
                        fresh=True,
                    )
                except Trouble as trouble:
                    self._report.trouble(trouble)
                if gives_way.gave:
                    return None
            return None if self._pause() else inbox.mark

    def _pause(self) -> Pause | None:
        """The database's pause, if it was away."""
        return BackOff(Path(self._config.state_directory), self._database.name).pause(time.time())

    def _busy(self, does: str, seconds: float) -> None:
        """Say what it does from now on, and how long that is meant to take."""
        self.does, self.due = does, time.monotonic() + seconds + GRACE


class GivesWay:
    """Whether to end after the batch under way: for good, or because another mailbox's turn has come."""

    def __init__(self, stop: Stop, line: Line) -> None:
        """Begin at the first question, which comes once the backlog is known: at least one batch is served."""
        self._stop, self._line = stop, line
        self._began = 0.0
        self.gave = False
        """Whether it was ended."""

    def __call__(self) -> bool:
        """Answer."""
        now = time.monotonic()
        self._began = self._began or now
        over = self._line.length > 0 and now - self._began > SHARE
        self.gave = self.gave or over or self._stop.is_set()
        return self.gave


def reconnect_after(failures: int, *, refused: bool, chance: float) -> float:
    """Seconds to wait after so many failures in a row; `chance` (0 to 1) keeps many from coming back at once."""
    first, longest = (FIRST_REFUSED, LONGEST_REFUSED) if refused else (FIRST, LONGEST)
    return min(first << min(failures - 1, 20), longest) * (0.5 + chance / 2)


def watch(config: Config, config_path: Path, report: Report, stop: Stop, afterwards: Callable[[], None]) -> int:
    """Watch all mailboxes until told to end; returns the exit code.

    `afterwards` tells of what was done; it is called now and then, when something was. Raises whatever is a fault of
    the program: systemd starts it again.
    """
    databases = {database.name: database for database in config.databases}
    lines: defaultdict[str, Line] = defaultdict(Line)
    watchers = []
    for mailbox in config.mailboxes:
        if mailbox.protocol == "imap":
            database = databases[mailbox.database]
            line = lines[mailbox.database]
            watchers.append(Watcher(mailbox, database, config, config_path, report, stop, line))
        else:
            report.say(f"mailbox {mailbox.name}: POP3 does not tell of new mail: left to the timer's runs")
    for watcher in watchers:
        watcher.start()
    teller = threading.Thread(target=_tell, args=(report, stop, afterwards), daemon=True)
    teller.start()
    _stay(watchers, report, stop)
    notify.tell("STOPPING=1")
    for watcher in watchers:
        watcher.ended()
    teller.join(LAST_WORDS)
    if report.tallies:
        afterwards()
    for watcher in watchers:
        if watcher.broken is not None:
            raise watcher.broken
    return 0


def _tell(report: Report, stop: Stop, afterwards: Callable[[], None]) -> None:
    """Tell of what was done every now and then: not after each message, and never in the way of one."""
    while not stop.wait(TELL_EVERY):
        if report.tallies:
            afterwards()


def _stay(watchers: list[Watcher], report: Report, stop: Stop) -> None:
    """Tell systemd that all is well, as long as it is, until it is time to end: often at first, while much changes."""
    patience = notify.watchdog_seconds()
    longest = min(patience / 3 or TELL_EVERY, TELL_EVERY)
    pulse = min(1, longest)
    notify.tell("READY=1")
    late: set[str] = set()
    while True:
        now = time.monotonic()
        for watcher in watchers:
            if watcher.due < now and watcher.name not in late:
                late.add(watcher.name)
                report.trouble(Unavailable(f"mailbox {watcher.name}: its watcher hangs in {watcher.does!r}"))
        status = ", ".join(f"{watcher.name} {watcher.does}" for watcher in watchers) or "nothing to watch"
        notify.tell(f"STATUS={status}", *([] if late else ["WATCHDOG=1"]))
        if stop.wait(pulse):
            return
        pulse = min(2 * pulse, longest)
