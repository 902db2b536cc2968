"""A POP3 maildrop as the queue: it has no folders, so a message is deleted once its verdict is known and kept.

What waits stays on the server; what Odoo refused is on this host's disk before it is deleted. A deletion counts only
when QUIT is answered (RFC 1939, section 6): a session that dies before leaves everything, and Odoo answers `duplicate`
for what it has. UIDs are the message numbers of the first session; the server's unique-ids find the messages again
after the session was renewed, and name their originals.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from . import message
from .config import Mailbox
from .originals import Originals
from .pop3 import Pop3, Refusal
from .routing import Entry, key_of
from .trouble import Denied, Trouble, Unavailable

COMMIT_EVERY = 500
"""So many deletions at most are lost when a session dies: servers limit how long one may last."""


class Pop3Mailbox:
    """A maildrop and the quarantine that belongs to it. Every method raises Unavailable, Denied or Misconfigured."""

    def __init__(self, config: Mailbox, connect: Callable[[], Pop3], originals: Originals) -> None:
        """Connect; `connect` makes a session that is logged in. Raises LoginRefused, too."""
        self._config = config
        self._where = f"mailbox {config.name} at {config.host}:{config.port}"
        self._connect = connect
        self._originals = originals
        self._pop = connect()
        self._deleted = 0
        self._known: dict[int, tuple[bytes, bytes]] = {}
        """Unique-id and key of the Message-ID, by UID."""
        self._numbers: dict[int, int] | None = None
        """Message numbers by UID, once they differ."""
        try:
            self._again = dict(enumerate(originals.waiting(), -len(originals.waiting())))
            self._on_server = int(self._pop.ask("counting", "STAT").split()[0])
        except (ValueError, IndexError) as error:
            self._pop.drop()
            raise Unavailable(f"{self._where}: counting: not an answer of POP3: the next run tries again") from error
        except BaseException:
            self._pop.drop()
            raise

    def __enter__(self) -> Self:
        """Use the session in a `with`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the session; deletions are done even after an error, since each had its verdict. Raises Unavailable."""
        if kind is None:
            self._pop.quit()
        else:
            self.close()

    def close(self) -> None:
        """End the session; never raises."""
        with suppress(Trouble):
            self._pop.quit()

    @property
    def count(self) -> int:
        """How many messages waited when the session began, copies and those to be tried again counted."""
        return self._on_server + len(self._again)

    @property
    def can_move(self) -> bool:
        """Every server can delete."""
        return True

    def index(self) -> list[Entry]:
        """What waits, oldest first: UID (below 0: on this host, to be tried again), size and key of its Message-ID."""
        entries = []
        for uid, name in self._again.items():
            raw = self._originals.read(name)
            if raw is not None:
                entries.append(Entry(uid, len(raw), _key(raw)))
        if self._on_server:
            entries += self._index_server()
        return entries

    def fetch(self, uids: Sequence[int], *, header_only: bool = False) -> dict[int, bytes]:
        """The bytes (or only headers) of messages by UID; those that are gone meanwhile are left out."""
        if self._deleted >= COMMIT_EVERY:
            self._renew()
        found = {uid: self._originals.read(self._again[uid]) for uid in uids if uid in self._again}
        known = [uid for uid in uids if self._number(uid)]
        numbers = [self._number(uid) for uid in known]
        found.update(zip(known, self._headers(numbers) if header_only else self._whole(numbers), strict=True))
        return {uid: raw for uid, raw in found.items() if raw is not None}

    def move(self, uids: Sequence[int], folder: str) -> None:
        """Delete messages whose verdict is known; what goes to quarantine is on this host's disk before."""
        for uid in sorted(uid for uid in uids if uid in self._again or uid in self._known):
            name = self._name(uid)
            if folder != self._config.quarantine:
                self._originals.forget(name)  # held since a session that died before its QUIT, or tried again
            elif uid in self._again:
                self._originals.hold(name)
            elif (number := self._number(uid)) and (raw := next(self._whole([number]))) is not None:
                self._originals.keep(name, raw)
        here = [uid for uid in uids if self._number(uid)]
        commands = [f"DELE {self._number(uid)}" for uid in here]
        for uid, answer in zip(here, list(self._pop.each("deleting messages", commands)), strict=True):
            if answer is None:
                raise Unavailable(f"{self._where}: deleting a message: the server says no: the next run tries again")
            del self._known[uid]
            self._deleted += 1

    def size_of(self, folder: str) -> int:
        """How many messages the quarantine holds; 0 for any other folder, since there is none."""
        return len(self._originals.held()) if folder == self._config.quarantine else 0

    def message_ids(self, folder: str) -> list[str]:
        """The Message-IDs in the quarantine, oldest first; none for any other folder."""
        return list(self._originals.message_ids()) if folder == self._config.quarantine else []

    def _index_server(self) -> list[Entry]:
        sizes = self._pop.table("looking what is there", "LIST")
        unique = self._unique_ids()
        numbers = sorted(sizes.keys() & unique.keys())
        entries, nameless = [], []

        def found(number: int, key: bytes) -> None:
            size = int(sizes[number]) if sizes[number].isdigit() else 0
            entries.append(Entry(number, size, key))
            self._known[number] = (unique[number], key)

        for number, header in zip(numbers, self._headers(numbers), strict=True):
            if header is not None and message.message_id(header):
                found(number, _key(header))
            else:
                nameless.append(number)
        for number, raw in zip(nameless, self._whole(nameless), strict=True):
            if raw is not None:
                found(number, _key(raw))
        return sorted(entries)

    def _unique_ids(self) -> dict[int, bytes]:
        try:
            unique = self._pop.table("asking for unique-ids", "UIDL")
        except Refusal as error:
            raise Denied(f"{error}: it has no UIDL: use IMAP or another server") from error
        if len(set(unique.values())) < len(unique):
            raise Denied(f"{self._where}: two messages have one unique-id (UIDL): use IMAP or another server")
        return unique

    def _headers(self, numbers: Sequence[int]) -> Iterator[bytes | None]:
        """The header of each message, or more of it; None where it is gone."""
        doing = "reading headers"
        if self._pop.has("TOP"):
            yield from self._pop.each(doing, [f"TOP {number} 0" for number in numbers], content=True)
        elif self._pop.announces:
            yield from self._whole(numbers)
        else:
            for number in numbers:
                (header,) = self._pop.each(doing, [f"TOP {number} 0"], content=True)
                yield next(self._whole([number])) if header is None else header

    def _whole(self, numbers: Sequence[int]) -> Iterator[bytes | None]:
        yield from self._pop.each("reading messages", [f"RETR {number}" for number in numbers], content=True)

    def _renew(self) -> None:
        """Have the deletions done, and go on in a new session, in which the messages have new numbers."""
        self._pop.quit()
        self._deleted = 0
        self._pop = self._connect()
        numbers = {unique: number for number, unique in self._unique_ids().items()}
        self._numbers = {uid: numbers[unique] for uid, (unique, _) in self._known.items() if unique in numbers}

    def _number(self, uid: int) -> int:
        """The present number of a message on the server, 0 when it is not there."""
        if uid not in self._known:
            return 0
        return uid if self._numbers is None else self._numbers.get(uid, 0)

    def _name(self, uid: int) -> str:
        """What the original of a message is called. Unique-ids may come again for other messages, keys do not."""
        if uid in self._again:
            return self._again[uid]
        unique, key = self._known[uid]
        return hashlib.blake2b(unique + b"\0" + key, digest_size=16).hexdigest()


def _key(raw: bytes) -> bytes:
    return key_of(message.message_id(raw) or message.made_message_id(raw))
