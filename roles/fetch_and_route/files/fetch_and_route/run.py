"""The cycle: what waits in INBOX goes to Odoo, and by Odoo's verdict to Routed, to Quarantine or nowhere.

Safe to be killed at any instruction, by the order of steps: Odoo commits, then the reason is noted, then the message is
moved. Killed in between, a message is still in INBOX; the next run asks again and Odoo answers `duplicate`.

While Odoo works on batches, the next one is fetched. One thread alone uses a mailbox's session: the one that runs its
cycle.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from . import config as configuration
from . import delivery_report, recipients
from .backoff import BackOff, clock
from .calls import Answer, Calls
from .config import Config, Database, Mailbox
from .message import Prepared, prepare
from .message import report as report_kind
from .metrics import look
from .odoo import OdooGateway
from .report import Report
from .routing import Backlog, Decision, Entry, Folder, Mail, Verdict, decide, key_of, share
from .sources import Source, queue_for
from .state import Note, State, lock
from .trouble import Misconfigured, Trouble, Unavailable


class Queue(Protocol):
    """The part of a mailbox session that the cycle needs; see sources.Source."""

    @property
    def count(self) -> int: ...
    def index(self) -> Iterable[Entry]: ...
    def fetch(self, uids: Sequence[int], *, header_only: bool = False) -> dict[int, bytes]: ...
    def move(self, uids: Sequence[int], folder: str) -> None: ...
    def message_ids(self, folder: str) -> list[str]: ...


class Batch(NamedTuple):
    """What was taken out of the backlog, and what of it is still there."""

    mails: list[Mail]
    messages: list[tuple[Mail, Prepared]]


class Settled(NamedTuple):
    """A message with its verdict and what becomes of it; `seconds` is its share of the call."""

    mail: Mail
    message: Prepared
    verdict: Verdict
    decision: Decision
    seconds: float


def run(config: Config, config_path: Path, report: Report, stop: threading.Event, *, scheduled: bool = False) -> int:
    """Serve all databases, each on its own so that one that is away delays no other. Returns the exit code.

    A scheduled run leaves a database alone that was away a short while ago; a person's does not.
    """
    if not config.databases:
        return 0

    def serve_one(database: Database) -> int:
        try:
            return serve(database, config, config_path, report, stop, scheduled=scheduled)
        except Trouble as trouble:
            report.trouble(trouble)
            return trouble.exit_code

    with ThreadPoolExecutor(len(config.databases)) as pool:
        return max(pool.map(serve_one, config.databases))


def serve(
    database: Database, config: Config, config_path: Path, report: Report, stop: threading.Event, *, scheduled: bool
) -> int:
    """Serve one database's mailboxes, unless somebody else is at it or, on schedule, it was away a short while ago.

    Returns the highest exit code of what went wrong with a mailbox. Raises Trouble: what is wrong with the database.
    """
    mailboxes = [mailbox for mailbox in config.mailboxes if mailbox.database == database.name]
    if not mailboxes:
        return 0
    directory = Path(config.state_directory)
    with lock(directory, database.name) as ours:
        if not ours:
            report.say(f"database {database.name}: another fetch-and-route is running: left to that one")
            return 0
        pause = BackOff(directory, database.name).pause(time.time()) if scheduled else None
        if pause:
            until = clock(pause.until)
            report.say(f"{pause.reason}: left alone until {until}, after {pause.failures} failures in a row")
            return Unavailable.exit_code

        def open_queue(mailbox: Mailbox) -> Source:
            return queue_for(mailbox, config, config_path)

        return attend(database, mailboxes, open_queue, config, config_path, report, stop.is_set)


def attend(
    database: Database,
    mailboxes: Sequence[Mailbox],
    open_queue: Callable[[Mailbox], AbstractContextManager[Source]],
    config: Config,
    config_path: Path,
    report: Report,
    stopped: Callable[[], bool],
    *,
    fresh: bool = False,
) -> int:
    """Serve mailboxes of a database, each on its own, with the database's calls and back-off in common.

    Whoever calls it holds the database's lock. `fresh`: only what was never tried before, and Odoo is not asked which
    addresses there are. Returns the highest exit code of what went wrong with a mailbox, or with the addresses. Raises
    Trouble: what is wrong with the database.
    """
    directory = Path(config.state_directory)
    backoff = BackOff(directory, database.name)
    connect = partial(OdooGateway, database, configuration.secret(database.key, config_path))
    with Calls(connect, database.concurrency) as calls:

        def serve_one(mailbox: Mailbox) -> int:
            try:
                state = State(directory, mailbox.name)
                with open_queue(mailbox) as queue:
                    try:
                        cycle(mailbox, queue, calls, state, config, report, stopped, fresh=fresh)
                    finally:
                        if config.metrics_directory:
                            report.looked(mailbox.name, look(queue, mailbox.routed, mailbox.quarantine))
                report.served(mailbox.name)
            except Trouble as trouble:
                # Of the database's own trouble the mailbox keeps count, but it is said once.
                report.trouble(trouble, mailbox.name, quiet=trouble is calls.trouble)
                return trouble.exit_code
            return 0

        def look_up() -> int:
            try:
                if database.domains and not fresh:
                    names = {other.name for other in config.databases}
                    text = recipients.refresh(directory, database, calls.addresses(), names)
                    if text:
                        report.say(text)
            except Trouble as trouble:
                report.trouble(trouble, quiet=trouble is calls.trouble)
                return trouble.exit_code
            return 0

        with ThreadPoolExecutor(1 + len(mailboxes)) as pool:
            looked_up = pool.submit(look_up)
            code = max(*pool.map(serve_one, mailboxes), looked_up.result())
    if isinstance(calls.trouble, Unavailable):
        pause = backoff.failed(calls.trouble, time.time())
        report.say(f"database {database.name}: the timer's runs leave it alone until {clock(pause.until)}")
    elif calls.answered:
        backoff.answered()
    if calls.trouble:
        raise calls.trouble
    return code


def cycle(
    mailbox: Mailbox,
    queue: Queue,
    calls: Calls,
    state: State,
    config: Config,
    report: Report,
    stopped: Callable[[], bool],
    *,
    fresh: bool = False,
) -> None:
    """Handle each message that waits now, once, each thread oldest first.

    `fresh`: what there is a note about stays, and what follows it; its next attempt is a run's.
    Raises Trouble, after what Odoo answered meanwhile is settled; what is not done by then still waits.
    """
    if not queue.count:
        return
    backlog = Backlog(queue.index(), map(key_of, state) if fresh else ())
    gone = {message_id for message_id in state if key_of(message_id) not in backlog}
    report.waiting(len(backlog))
    out: dict[Future[Answer], Batch] = {}
    trouble: Trouble | None = None
    unnoted: Trouble | None = None
    quarantined = False
    try:
        while True:
            if trouble is None and not stopped():
                settled = _ask_more(mailbox, queue, calls, backlog, config, out, stopped)
            else:
                settled = []
                out = {future: batch for future, batch in out.items() if not future.cancel()}
            if not out and not settled:
                break
            finished = wait(out, return_when=FIRST_COMPLETED).done if out else set()
            for future in [future for future in out if future in finished]:
                batch = out.pop(future)
                try:
                    made = _decide(batch.messages, future.result(), state, config.attempts)
                except Trouble as error:
                    trouble = error
                    continue
                backlog.give_back(batch.mails, {item.mail.thread for item in made if item.decision.folder == "inbox"})
                settled += made
            settled, full = _settle(mailbox, queue, state, settled)
            unnoted = unnoted or full
            for item in settled:
                folder = _folder(mailbox, item.decision.folder)
                report.message(mailbox.name, item.message, item.verdict, item.decision, folder, item.seconds)
                quarantined = quarantined or item.decision.folder == "quarantine"
            report.batch_done()
    finally:
        for future in out:
            future.cancel()
    trouble = trouble or unnoted
    if trouble is not None:
        raise trouble
    if quarantined:
        kept = set(queue.message_ids(mailbox.quarantine))
        state.keep_only(lambda message_id: message_id in kept or message_id not in gone)


def _ask_more(
    mailbox: Mailbox,
    queue: Queue,
    calls: Calls,
    backlog: Backlog,
    config: Config,
    out: dict[Future[Answer], Batch],
    stopped: Callable[[], bool],
) -> list[Settled]:
    """Fetch and ask as much as Odoo works on at a time, and one batch more, which waits here for its turn.

    Returns what Odoo need not be asked about.
    """
    settled: list[Settled] = []
    while len(out) <= calls.most and not stopped():
        most = share(backlog.left, len(out), calls=calls.most, most=config.batch_messages)
        mails = backlog.take(most, config.batch_bytes)
        if not mails:
            break
        messages = []
        for mail, message in _read(queue, mails, mailbox):
            delivery = delivery_report.read(message.raw)
            kind = report_kind(message.raw) or (delivery.notice if delivery else "")
            if kind:
                verdict = Verdict("report", reason=f"{kind}: kept from Odoo, which would take it for a bounce")
                settled.append(Settled(mail, message, verdict, decide(verdict, 0, config.attempts), 0.0))
            else:
                messages.append((mail, delivery_report.for_odoo(message, delivery) if delivery else message))
        if messages:
            out[calls.ask([message for _, message in messages])] = Batch(mails, messages)
        else:
            backlog.give_back(mails)
    return settled


def _decide(
    messages: Sequence[tuple[Mail, Prepared]], answer: Answer, state: State, most_attempts: int
) -> list[Settled]:
    """What becomes of each message of a call."""
    seconds = answer.seconds / len(messages)
    settled = []
    for (mail, message), verdict in zip(messages, answer.verdicts, strict=True):
        decision = decide(verdict, _attempts(state, message), most_attempts)
        settled.append(Settled(mail, message, verdict, decision, seconds))
    return settled


def _read(queue: Queue, batch: Sequence[Mail], mailbox: Mailbox) -> list[tuple[Mail, Prepared]]:
    """Fetch a batch; mail whose first copy is gone meanwhile is left for the next run."""
    bodies = queue.fetch([mail.uids[0] for mail in batch])
    headers = queue.fetch([uid for mail in batch for uid in mail.uids[1:]], header_only=True)
    messages = []
    for mail in batch:
        first = bodies.pop(mail.uids[0], None)
        if first is not None:
            copies = [first, *(headers[uid] for uid in mail.uids[1:] if uid in headers)]
            prepared = prepare(copies, mailbox.former_names, mailbox.recipient_header)
            messages.append((mail, dataclasses.replace(prepared, thread=mail.thread)))
    return messages


def _settle(
    mailbox: Mailbox, queue: Queue, state: State, settled: list[Settled]
) -> tuple[list[Settled], Trouble | None]:
    """Note what stays or is quarantined, move what is decided, forget what is done; in this order.

    Returns what is settled now, and why the rest is not: on a full disk what needs a note stays as it was.
    """
    notes: dict[str, Note | None] = {}
    for item in settled:
        if item.decision.folder != "routed" and item.decision.reason:
            note = Note(item.decision.attempts, item.decision.reason, item.message.recipients, int(time.time()))
            notes[item.message.message_id] = note
    trouble = _note(state, notes)
    if trouble:
        settled = [item for item in settled if item.message.message_id not in notes]
    for folder in ("routed", "quarantine"):
        uids = [uid for item in settled if item.decision.folder == folder for uid in item.mail.uids]
        if uids:
            queue.move(uids, _folder(mailbox, folder))
    done = {item.message.message_id: None for item in settled if item.decision.folder == "routed"}
    return settled, _note(state, done) or trouble


def _note(state: State, notes: Mapping[str, Note | None]) -> Trouble | None:
    """Update the notes, or say why they cannot be."""
    try:
        state.update(dict(notes))
    except Misconfigured as error:
        return error
    return None


def _attempts(state: State, message: Prepared) -> int:
    note = state[message.message_id]
    return note.attempts if note else 0


def _folder(mailbox: Mailbox, folder: Folder) -> str:
    return {"inbox": mailbox.inbox, "routed": mailbox.routed, "quarantine": mailbox.quarantine}[folder]
