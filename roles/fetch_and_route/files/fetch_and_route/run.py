"""The cycle: what waits in INBOX goes to Odoo, and by Odoo's verdict to Routed, to Quarantine or nowhere.

Safe to be killed at any instruction, by the order of steps: Odoo commits, then the reason is noted, then the message is
moved. Killed in between, a message is still in INBOX; the next run asks again and Odoo answers `duplicate`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from . import config as configuration
from .config import Config, Database, Mailbox
from .message import Prepared, prepare
from .metrics import look
from .odoo import Broken, OdooGateway, TooBig
from .report import Report
from .routing import Decision, Entry, Folder, Mail, Verdict, batches, decide, key_of, merge
from .sources import queue_for
from .state import Note, State
from .trouble import Trouble


class Queue(Protocol):
    """The part of a mailbox session that the cycle needs; see sources.Source."""

    @property
    def count(self) -> int: ...
    def index(self) -> list[Entry]: ...
    def fetch(self, uids: Sequence[int], *, header_only: bool = False) -> dict[int, bytes]: ...
    def move(self, uids: Sequence[int], folder: str) -> None: ...
    def message_ids(self, folder: str) -> list[str]: ...


class Gateway(Protocol):
    """The part of Odoo that the cycle needs; see odoo.OdooGateway."""

    def ping(self) -> None: ...
    def route(self, messages: Sequence[Prepared]) -> list[Verdict]: ...


def run(config: Config, config_path: Path, report: Report, stop: threading.Event) -> int:
    """Serve all databases, each on its own so that one that is away delays no other. Returns the exit code."""
    if not config.databases:
        return 0
    with ThreadPoolExecutor(len(config.databases)) as pool:
        codes = pool.map(lambda database: serve(database, config, config_path, report, stop), config.databases)
        return max(codes)


def serve(database: Database, config: Config, config_path: Path, report: Report, stop: threading.Event) -> int:
    """Serve one database's mailboxes. Returns the highest exit code of what went wrong, 0 when nothing did."""
    code = 0
    gateway: OdooGateway | None = None
    for mailbox in (mailbox for mailbox in config.mailboxes if mailbox.database == database.name):
        try:
            gateway = gateway or OdooGateway(database, configuration.secret(database.key, config_path))
            state = State(Path(config.state_directory), mailbox.name)
            with queue_for(mailbox, config, config_path) as queue:
                try:
                    cycle(mailbox, queue, gateway, state, config, report, stop.is_set)
                finally:
                    if config.metrics_directory:
                        report.looked(mailbox.name, look(queue, mailbox.routed, mailbox.quarantine))
            report.served(mailbox.name)
        except Trouble as trouble:
            report.trouble(trouble, mailbox.name)
            code = max(code, trouble.exit_code)
    if gateway is not None:
        gateway.close()
    return code


def cycle(
    mailbox: Mailbox,
    queue: Queue,
    gateway: Gateway,
    state: State,
    config: Config,
    report: Report,
    stopped: Callable[[], bool],
) -> None:
    """Handle each message that waits now, once, oldest first. Raises Trouble; what is not done by then still waits."""
    if not queue.count:
        return
    entries = queue.index()
    mails = merge(entries)
    report.waiting(len(mails))
    quarantined = False
    for batch in batches(mails, config.batch_messages, config.batch_bytes):
        if stopped():
            return
        messages = _read(queue, batch, mailbox)
        began = time.monotonic()
        verdicts = ask(gateway, [message for _, message in messages])
        seconds = (time.monotonic() - began) / max(len(messages), 1)
        decisions = [
            decide(verdict, _attempts(state, message), config.attempts)
            for (_, message), verdict in zip(messages, verdicts, strict=True)
        ]
        _settle(mailbox, queue, state, messages, decisions)
        for (_, message), verdict, decision in zip(messages, verdicts, decisions, strict=True):
            report.message(mailbox.name, message, verdict, decision, _folder(mailbox, decision.folder), seconds)
            quarantined = quarantined or decision.folder == "quarantine"
        report.batch_done()
    if quarantined:
        waiting = {entry.key for entry in entries}
        kept = set(queue.message_ids(mailbox.quarantine))
        state.keep_only(lambda message_id: message_id in kept or key_of(message_id) in waiting)


def ask(gateway: Gateway, messages: Sequence[Prepared]) -> list[Verdict]:
    """Get a verdict for each message. A call that dies is taken apart, to find the message that kills it.

    Nothing is held against a message unless Odoo answers a ping right after: then it is not Odoo that is in trouble.
    What Odoo wants to be asked about again is, as long as each call settles at least one message.
    Raises Unavailable and Denied.
    """
    if not messages:
        return []
    try:
        verdicts = gateway.route(messages)
    except Broken as error:
        gateway.ping()
        if len(messages) == 1:
            return [Verdict("refused" if isinstance(error, TooBig) else "error", reason=str(error))]
        return [verdict for message in messages for verdict in ask(gateway, [message])]
    again = [number for number, verdict in enumerate(verdicts) if verdict.word == "retry"]
    if len(again) < len(messages):
        for number, verdict in zip(again, ask(gateway, [messages[number] for number in again]), strict=True):
            verdicts[number] = verdict
    return verdicts


def _read(queue: Queue, batch: Sequence[Mail], mailbox: Mailbox) -> list[tuple[Mail, Prepared]]:
    """Fetch a batch; mail whose first copy is gone meanwhile is left for the next run."""
    bodies = queue.fetch([mail.uids[0] for mail in batch])
    headers = queue.fetch([uid for mail in batch for uid in mail.uids[1:]], header_only=True)
    messages = []
    for mail in batch:
        first = bodies.pop(mail.uids[0], None)
        if first is not None:
            copies = [first, *(headers[uid] for uid in mail.uids[1:] if uid in headers)]
            messages.append((mail, prepare(copies, mailbox.former_names)))
    return messages


def _settle(
    mailbox: Mailbox,
    queue: Queue,
    state: State,
    messages: Sequence[tuple[Mail, Prepared]],
    decisions: Sequence[Decision],
) -> None:
    """Note what stays or is quarantined, move what is decided, forget what is done; in this order."""
    notes: dict[str, Note | None] = {}
    uids: dict[Folder, list[int]] = {"inbox": [], "routed": [], "quarantine": []}
    for (mail, message), decision in zip(messages, decisions, strict=True):
        uids[decision.folder] += mail.uids
        if decision.folder != "routed" and decision.reason:
            note = Note(decision.attempts, decision.reason, message.recipients, int(time.time()))
            notes[message.message_id] = note
    state.update(notes)
    for folder in ("routed", "quarantine"):
        if uids[folder]:
            queue.move(uids[folder], _folder(mailbox, folder))
    state.update(
        {message.message_id: None for (_, message), d in zip(messages, decisions, strict=True) if d.folder == "routed"}
    )


def _attempts(state: State, message: Prepared) -> int:
    note = state[message.message_id]
    return note.attempts if note else 0


def _folder(mailbox: Mailbox, folder: Folder) -> str:
    return {"inbox": mailbox.inbox, "routed": mailbox.routed, "quarantine": mailbox.quarantine}[folder]
