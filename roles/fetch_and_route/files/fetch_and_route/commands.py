"""What a person asks or does by command: each mailbox and database is asked on its own, and one that fails stops none.

Every command prints an answer as soon as it has it, or everything as one JSON document at the end, and returns the
highest exit code of what went wrong.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from . import config as configuration
from . import tables
from .config import Config, Database, Mailbox
from .odoo import Known, OdooGateway
from .routing import Listed
from .sources import Source, queue_for
from .state import Note, State
from .trouble import Denied, NotFound, Trouble

Answer = dict[str, Any]
"""What one mailbox or database says, as it stands in a JSON document."""


@dataclasses.dataclass(frozen=True)
class Asker:
    """What all commands need: whom to ask, and how to show what they say."""

    config: Config
    config_path: Path
    as_json: bool = False

    def session(self, mailbox: Mailbox) -> Source:
        """Log in to a mailbox. Raises Trouble."""
        return queue_for(mailbox, self.config, self.config_path)

    def gateway(self, database: Database) -> OdooGateway:
        """Prepare a database's gateway action to be asked. Raises Trouble."""
        return OdooGateway(database, configuration.secret(database.key, self.config_path))

    def state(self, mailbox: Mailbox) -> State:
        """The notes about a mailbox's messages. Raises Misconfigured."""
        return State(Path(self.config.state_directory), mailbox.name)

    def each(
        self,
        show: Callable[[Answer], Iterable[str]],
        mailbox: Callable[[Mailbox], Answer] | None = None,
        database: Callable[[Database], Answer] | None = None,
    ) -> int:
        """Ask each mailbox, then each database; show each answer, or what went wrong. Returns the highest exit code."""
        questions: list[tuple[Answer, Callable[[], Answer]]] = []
        if mailbox:
            questions += [({"mailbox": one.name}, partial(mailbox, one)) for one in self.config.mailboxes]
        if database:
            questions += [({"database": one.name}, partial(database, one)) for one in self.config.databases]
        code = 0
        answers = []
        for subject, question in questions:
            try:
                answers.append({**subject, **question()})
                lines = show(answers[-1])
            except Trouble as trouble:
                code = max(code, trouble.exit_code)
                answers.append({**subject, "failed": str(trouble), "exit_code": trouble.exit_code})
                lines = [f"FAILED: {trouble}"]
            if not self.as_json:
                for line in lines:
                    print(line)
        if self.as_json:
            print(json.dumps(answers, indent=1))
        return code


def status(asker: Asker) -> int:
    """Say of each mailbox how much waits and is routed, and what is in quarantine and why."""

    def ask(mailbox: Mailbox) -> Answer:
        state = asker.state(mailbox)
        with asker.session(mailbox) as session:
            return {
                "host": mailbox.host,
                "for_database": mailbox.database,
                "waiting": session.count,
                "routed": session.size_of(mailbox.routed),
                "quarantine": [_noted(state, identity) for identity in session.message_ids(mailbox.quarantine)],
            }

    def show(answer: Answer) -> Iterator[str]:
        yield f"mailbox {answer['mailbox']} at {answer['host']}, for database {answer['for_database']}"
        yield f"  waiting    {answer['waiting']:>7}"
        yield f"  routed     {answer['routed']:>7}"
        yield f"  quarantine {len(answer['quarantine']):>7}"
        for entry in answer["quarantine"]:
            recipients = ", ".join(entry["recipients"])
            yield f"    {tables.when(entry['time'])}  {entry['message_id']}  {recipients}".rstrip()
            yield f"      {entry['reason'] or 'no reason is noted here: search the journal for this id'}"

    return asker.each(show, ask)


def check(asker: Asker) -> int:
    """Try every login, every folder and every gateway action."""

    def try_mailbox(mailbox: Mailbox) -> Answer:
        with asker.session(mailbox) as session:
            if not session.can_move:
                raise Denied(
                    f"mailbox {mailbox.name} at {mailbox.host}: has neither MOVE nor UIDPLUS: use another server"
                )
            made = [folder for folder in (mailbox.routed, mailbox.quarantine) if session.make(folder)]
            return {
                "at": f"{mailbox.host}:{mailbox.port}",
                "waiting": session.count,
                "folders": [mailbox.inbox, mailbox.routed, mailbox.quarantine],
                "made": made,
            }

    def try_database(database: Database) -> Answer:
        with closing(asker.gateway(database)) as gateway:
            gateway.find([])
        return {"at": database.url}

    def show(answer: Answer) -> Iterator[str]:
        if "database" in answer:
            yield f"ok: database {answer['database']} at {answer['at']}: the gateway action answers"
            return
        folders = ", ".join(f"{name} (made now)" if name in answer["made"] else name for name in answer["folders"])
        yield f"ok: mailbox {answer['mailbox']} at {answer['at']}: {answer['waiting']} waiting; folders {folders}"

    return asker.each(show, try_mailbox, try_database)


def quarantine_list(asker: Asker) -> int:
    """List what is in quarantine: one table for each mailbox that has something there."""
    width = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0

    def ask(mailbox: Mailbox) -> Answer:
        state = asker.state(mailbox)
        with asker.session(mailbox) as session:
            listed = session.message_ids(mailbox.quarantine)
        return {"quarantine": [_noted(state, identity) for identity in listed]}

    def show(answer: Answer) -> Iterator[str]:
        rows = [
            (tables.when(entry["time"]), entry["message_id"], ", ".join(entry["recipients"]), entry["reason"] or "?")
            for entry in answer["quarantine"]
        ]
        yield f"mailbox {answer['mailbox']}: {len(rows) or 'nothing'} in quarantine"
        if rows:
            yield from tables.table(("TIME", "MESSAGE-ID", "RECIPIENTS", "REASON"), rows, width)

    return asker.each(show, ask)


def quarantine_show(asker: Asker, message_id: str, *, raw: bool) -> int:
    """Print a quarantined message's reason and header, or its raw bytes and nothing else."""

    def act(session: Source, mailbox: Mailbox, found: Sequence[Listed]) -> Iterator[str]:
        if raw:
            for content in session.fetch([found[0].uid]).values():
                sys.stdout.flush()
                sys.stdout.buffer.write(content)
            return
        note = asker.state(mailbox)[found[0].message_id]
        yield f"mailbox    {mailbox.name}"
        yield f"time       {tables.when(note.at if note else None)}"
        yield f"recipients {', '.join(note.recipients) if note else '?'}"
        yield f"attempts   {note.attempts if note else '?'}"
        yield f"reason     {note.reason if note else 'none is noted here: search the journal for this id'}"
        yield ""
        for content in session.fetch([found[0].uid], header_only=True).values():
            yield from tables.header_lines(content.rstrip(b"\r\n"))

    return _in_quarantine(asker, [message_id], act)


def quarantine_retry(asker: Asker, message_ids: Sequence[str] | None) -> int:
    """Move messages (None: all) back to where they wait, their attempts forgotten; the reason stays noted."""

    def act(session: Source, mailbox: Mailbox, found: Sequence[Listed]) -> Iterator[str]:
        state = asker.state(mailbox)
        notes = {entry.message_id: state[entry.message_id] for entry in found}
        # In this order: whenever it is cut off, no message is in quarantine without its reason.
        state.update({identity: dataclasses.replace(note, attempts=0) for identity, note in notes.items() if note})
        session.move([entry.uid for entry in found], mailbox.inbox)
        for identity in notes:
            yield f"{tables.safe(identity)}: waits again in {mailbox.inbox} of {mailbox.name}"

    return _in_quarantine(asker, message_ids, act)


def quarantine_drop(asker: Asker, message_id: str, *, yes: bool) -> int:
    """Remove a message for good. Asks first unless `yes`; where nobody can be asked, `yes` is needed."""
    if not yes and not sys.stdin.isatty():
        print("fetch-and-route: drop removes mail for good: add --yes", file=sys.stderr)
        return 2

    def act(session: Source, mailbox: Mailbox, found: Sequence[Listed]) -> Iterator[str]:
        identity = found[0].message_id
        state = asker.state(mailbox)
        note = state[identity]
        question = f"Remove {tables.safe(identity)} of {mailbox.name} for good ({note.reason if note else '?'})? [y/N] "
        if not yes and not _agreed(question):
            yield "kept"
            return
        session.remove([entry.uid for entry in found])
        state.update({identity: None})
        yield f"{tables.safe(identity)}: removed from the quarantine of {mailbox.name}"

    return _in_quarantine(asker, [message_id], act)


def explain(asker: Asker, message_id: str) -> int:
    """Say of a Message-ID where it is in each mailbox and why, and what each database's Odoo has of it."""
    wanted = bare(message_id)

    def ask_mailbox(mailbox: Mailbox) -> Answer:
        state = asker.state(mailbox)

        def look(identities: Callable[[str], Iterable[str]]) -> dict[str, list[str]]:
            folders = (mailbox.inbox, mailbox.routed, mailbox.quarantine)
            found = {folder: [name for name in identities(folder) if bare(name) == wanted] for folder in folders}
            return {folder: names for folder, names in found.items() if names}

        with asker.session(mailbox) as session:
            # What the server's search does not find anywhere is looked for message by message.
            found = look(lambda folder: session.search(folder, f"<{wanted}>")) or look(session.message_ids)
        copies = {folder: len(names) for folder, names in found.items()}
        identity = next((names[0] for names in found.values()), f"<{wanted}>")
        note = state[identity] if mailbox.inbox in copies or mailbox.quarantine in copies else None
        return {
            "message_id": identity,
            "copies": copies,
            "why": _why(mailbox, copies, note),
            "attempts": note.attempts if note else 0,
            "reason": note.reason if note else "",
            "time": note.at if note else None,
        }

    def ask_database(database: Database) -> Answer:
        with closing(asker.gateway(database)) as gateway:
            known = gateway.find([f"<{wanted}>", wanted])
        return {"known": [entry._asdict() for entry in known], "why": _has(known)}

    def show(answer: Answer) -> Iterator[str]:
        kind = "mailbox" if "mailbox" in answer else "database"
        yield f"{kind} {answer[kind]}: {answer['why']}"

    return asker.each(show, ask_mailbox, ask_database)


def bare(message_id: str) -> str:
    """A Message-ID as a person may write it, without the angle brackets."""
    return message_id.strip().removeprefix("<").removesuffix(">")


def _in_quarantine(
    asker: Asker,
    message_ids: Sequence[str] | None,
    act: Callable[[Source, Mailbox, Sequence[Listed]], Iterable[str]],
) -> int:
    """Act on the copies of these messages (None: of all) in each mailbox's quarantine; say which are in none."""
    wanted = None if message_ids is None else {bare(message_id) for message_id in message_ids}
    seen: set[str] = set()

    def ask(mailbox: Mailbox) -> Answer:
        with asker.session(mailbox) as session, session.opened(mailbox.quarantine, writable=True) as listed:
            found = [entry for entry in listed if wanted is None or bare(entry.message_id) in wanted]
            seen.update(bare(entry.message_id) for entry in found)
            return {"lines": list(act(session, mailbox, found)) if found else []}

    code = asker.each(lambda answer: answer["lines"], ask)
    for missing in sorted((wanted or set()) - seen):
        names = ", ".join(mailbox.name for mailbox in asker.config.mailboxes)
        trouble = NotFound(f"<{tables.safe(missing)}>: is not in quarantine of {names}: explain says where it is")
        print(f"fetch-and-route: {trouble}", file=sys.stderr)
        code = max(code, trouble.exit_code)
    return code


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _noted(state: State, identity: str) -> Answer:
    note = state[identity]
    return {
        "message_id": identity,
        "time": note.at if note else None,
        "recipients": list(note.recipients) if note else [],
        "attempts": note.attempts if note else None,
        "reason": note.reason if note else "",
    }


def _why(mailbox: Mailbox, copies: dict[str, int], note: Note | None) -> str:
    """Where a mailbox's copies of a message are and why, in one line."""
    noted = f", {tables.when(note.at)}: {note.reason}" if note else ""
    parts = []
    for folder, count in copies.items():
        where = f"{folder} ({count} copies)" if count > 1 else folder
        if folder == mailbox.inbox:
            failed = f"; Odoo has failed on it {note.attempts} times" if note and note.attempts else ""
            parts.append(f"waits in {where}{failed}{noted or ' for the next run'}")
        elif folder == mailbox.quarantine:
            parts.append(f"in {where}{noted or ', and no reason is noted here: search the journal for this id'}")
        else:
            parts.append(f"done, in {where}")
    return "; ".join(parts) or (
        f"not in {mailbox.inbox}, {mailbox.routed} or {mailbox.quarantine}: never arrived, or expired or removed"
    )


def _has(known: Sequence[Known]) -> str:
    if not known:
        return "Odoo has no message with this Message-ID"
    places = [f"message {entry.number}" + (f" on {entry.record}" if entry.record else "") for entry in known]
    return "Odoo has it: " + ", ".join(places)
