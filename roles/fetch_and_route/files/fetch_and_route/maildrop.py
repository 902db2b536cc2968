"""A POP3 maildrop as the queue: it has no folders, so a message is deleted once its verdict is known and kept.

What waits stays on the server; what Odoo refused is on this host's disk before it is deleted. A deletion counts only
when QUIT is answered (RFC 1939, section 6): a session that dies before leaves everything, and Odoo answers `duplicate`
for what it has. UIDs are the message numbers of the first session; the server's unique-ids find the messages again
after the session was renewed, and name their originals. UIDs below 0 are originals on this host.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from . import message
from .config import Mailbox
from .originals import Originals
from .pop3 import WINDOW, Pop3, Refusal
from .routing import Entry, Listed, key_of
from .trouble import Denied, Trouble, Unavailable

DIGEST = 16
"""Bytes that stand for a unique-id, which may have 70: a large maildrop is kept in memory as digests."""
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
        self._known: dict[int, bytes] = {}
        """Digest of the unique-id and key of the Message-ID, one after the other, by UID."""
        self._numbers: dict[int, int] | None = None
        """Message numbers by UID, once they differ."""
        self._kept: dict[int, str] = {}
        """Names of originals, by UID: those to be tried again and, once the quarantine was opened, those in it."""
        try:
            self._again = self._numbered(originals.waiting())
            self._on_server = self._counted()
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
        """What waits, oldest first: UID (below 0: to be tried again), size and key of its Message-ID."""
        return sorted(Entry(uid, size, key_of(identity)) for uid, size, identity in self._scan())

    def fetch(self, uids: Sequence[int], *, header_only: bool = False) -> dict[int, bytes]:
        """The bytes (or only headers) of messages by UID; those that are gone meanwhile are left out."""
        if self._deleted >= COMMIT_EVERY:
            self._renew()
        found = {uid: self._originals.read(self._kept[uid]) for uid in uids if uid in self._kept}
        known = [uid for uid in uids if self._number(uid)]
        numbers = [self._number(uid) for uid in known]
        found.update(zip(known, self._headers(numbers) if header_only else self._whole(numbers), strict=True))
        return {uid: _header(raw) if header_only else raw for uid, raw in found.items() if raw is not None}

    def move(self, uids: Sequence[int], folder: str) -> None:
        """Delete messages whose verdict is known; what goes to quarantine is on this host's disk before.

        What goes back to the inbox waits there, on this host, from the next session on.
        """
        if folder not in (self._config.inbox, self._config.routed, self._config.quarantine):
            raise Denied(f"{self._where}: a POP3 mailbox has no folder {folder}: use IMAP")
        if folder == self._config.inbox:
            for uid in uids:
                if uid in self._kept:
                    self._originals.try_again(self._kept[uid])
            return
        here = []
        for uid in sorted(uid for uid in uids if uid in self._kept or uid in self._known):
            if folder == self._config.quarantine:
                settled = self._quarantine(uid)
            else:
                self._originals.forget(self._name(uid))  # tried again, or held since a session died before its QUIT
                settled = True
            if settled and self._number(uid):
                here.append(uid)
        commands = [f"DELE {self._number(uid)}" for uid in here]
        for uid, answer in zip(here, list(self._pop.each("deleting messages", commands)), strict=True):
            if answer is None:
                raise Unavailable(f"{self._where}: deleting a message: the server says no: the next run tries again")
            del self._known[uid]
            self._deleted += 1

    def remove(self, uids: Sequence[int]) -> None:
        """Remove messages for good; messages that are gone meanwhile do not matter."""
        self.move(uids, self._config.routed)  # which is nowhere

    def make(self, folder: str) -> bool:  # noqa: ARG002 -- as every source
        """Make nothing: there are no folders on the server, and the quarantine is made when it is needed."""
        return False

    def waiting_since(self) -> tuple[int, int | None]:
        """How many messages wait by now. When the oldest of them came POP3 does not tell: None."""
        return self._counted() + len(self._originals.waiting()), None

    def _quarantine(self, uid: int) -> bool:
        """Have a message on this host's disk; False when the server does not hand it out now: it has to stay."""
        if uid in self._kept:
            self._originals.hold(self._name(uid))
            return True
        number = self._number(uid)
        raw = next(self._whole([number])) if number else None
        if raw is not None:
            self._originals.keep(self._name(uid), raw)
        return raw is not None

    def size_of(self, folder: str) -> int:
        """How many messages the quarantine holds; 0 for any other folder, since there is none."""
        return len(self._originals.held()) if folder == self._config.quarantine else 0

    def message_ids(self, folder: str) -> list[str]:
        """The Message-IDs in a folder, oldest first."""
        with self.opened(folder) as listed:
            return [identity for _, identity in listed]

    def search(self, folder: str, message_id: str) -> list[str]:  # noqa: ARG002 -- as every source
        """Find nothing: POP3 cannot search."""
        return []

    @contextmanager
    def opened(self, folder: str, *, writable: bool = False) -> Iterator[list[Listed]]:  # noqa: ARG002 -- as every source
        """Yield what the inbox or the quarantine holds, oldest first, and nothing for any other folder.

        Fetch, move and remove act on it from then on, whether `writable` or not.
        """
        if folder == self._config.inbox:
            yield [Listed(uid, identity) for uid, _, identity in sorted(self._scan())]
        elif folder == self._config.quarantine:
            yield [Listed(uid, identity) for uid, _, identity in self._read(self._numbered(self._originals.held()))]
        else:
            yield []

    def _counted(self) -> int:
        """How many messages are on the server, those without that are deleted."""
        answer = self._pop.ask("counting", "STAT").split()
        if not answer or not answer[0].isdecimal():
            raise Unavailable(f"{self._where}: counting: not an answer of POP3: the next run tries again")
        return int(answer[0])

    def _numbered(self, names: Sequence[str]) -> range:
        """Give originals new UIDs, below all there are, in their order."""
        lowest = min(self._kept, default=0)
        uids = range(lowest - len(names), lowest)
        self._kept.update(zip(uids, names, strict=True))
        return uids

    def _read(self, uids: Sequence[int]) -> Iterator[tuple[int, int, str]]:
        """UID, size and Message-ID of originals; those that are gone meanwhile are left out."""
        for uid in uids:
            raw = self._originals.read(self._kept[uid])
            if raw is not None:
                yield uid, len(raw), _identity(raw)

    def _scan(self) -> Iterator[tuple[int, int, str]]:
        """UID, size and Message-ID of what waits, those on the server without one last."""
        yield from self._read(self._again)
        if self._on_server:
            yield from self._scan_server()

    def _scan_server(self) -> Iterator[tuple[int, int, str]]:
        unique = self._unique_ids()
        nameless: dict[int, int] = {}

        def found(number: int, size: int, identity: str) -> tuple[int, int, str]:
            self._known[number] = unique.pop(number) + key_of(identity)
            return number, size, identity

        table = self._pop.table("looking what is there", "LIST")
        listed = ((number, int(size)) for number, size in table if size.isdigit() and number in unique)
        while window := dict(itertools.islice(listed, WINDOW)):
            for number, header in zip(window, self._headers(list(window)), strict=True):
                if header is not None and message.message_id(header):
                    yield found(number, window[number], _identity(header))
                else:
                    nameless[number] = window[number]
        for number, raw in zip(nameless, self._whole(list(nameless)), strict=True):
            if raw is not None:
                yield found(number, nameless[number], _identity(raw))

    def _unique_ids(self) -> dict[int, bytes]:
        """The digest of each message's unique-id, by its present number."""
        try:
            table = self._pop.table("asking for unique-ids", "UIDL")
            unique = {number: hashlib.blake2b(word, digest_size=DIGEST).digest() for number, word in table}
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
        known = ((uid, names[:DIGEST]) for uid, names in self._known.items())
        self._numbers = {uid: numbers[unique] for uid, unique in known if unique in numbers}

    def _number(self, uid: int) -> int:
        """The present number of a message on the server, 0 when it is not there."""
        if uid not in self._known:
            return 0
        return uid if self._numbers is None else self._numbers.get(uid, 0)

    def _name(self, uid: int) -> str:
        """What the original of a message is called. Unique-ids may come again for other messages, keys do not."""
        return self._kept[uid] if uid in self._kept else self._known[uid].hex()


def _identity(raw: bytes) -> str:
    return message.message_id(raw) or message.made_message_id(raw)


def _header(raw: bytes) -> bytes:
    return raw[: len(raw) - len(message.split(raw).rest)]
