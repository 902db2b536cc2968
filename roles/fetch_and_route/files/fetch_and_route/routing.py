"""Decisions, pure: which messages travel together and when, what a verdict means for a message's folder."""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections import deque
from collections.abc import Container, Iterable, Sequence
from typing import Literal, NamedTuple, get_args

WORTH_A_CALL = 5
"""Mails for which another call at the same time is worth what a call costs besides them."""

Folder = Literal["inbox", "routed", "quarantine"]
Word = Literal["routed", "duplicate", "bounce", "ignored", "report", "refused", "retry", "error"]
"""What Odoo says; and `report`, which the program says of what it keeps from Odoo."""
WORDS: tuple[str, ...] = get_args(Word)


class Entry(NamedTuple):
    """A message that waits: its UID, its size in bytes, what makes copies of one mail equal, and the same of others.

    `references` are the keys of the messages that it answers, whether they wait, too, or came long ago.
    """

    uid: int
    size: int
    key: bytes
    references: tuple[bytes, ...] = ()


class Listed(NamedTuple):
    """A message in a folder that is open."""

    uid: int
    message_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Mail:
    """All copies of one mail in a mailbox; the first one's bytes go to Odoo, of the others only who received them."""

    uids: tuple[int, ...]
    size: int
    thread: int = 0
    """The same for mails whose order matters."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a message in Odoo; `record` is `model/id` or empty, `reason` one line or empty."""

    word: Word
    record: str = ""
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """Where a message goes now, how often Odoo has failed on it by now, and why (one line or empty)."""

    folder: Folder
    attempts: int
    reason: str


def key_of(message_id: str) -> bytes:
    """What makes copies of one mail equal: 12 bytes, since a large mailbox is kept in memory as keys."""
    return hashlib.blake2b(message_id.encode(), digest_size=12).digest()


class Backlog:
    """The mails of one mailbox that wait: copies joined, threads found, to be taken in batches.

    Mails belong to one thread when one refers to the other or both to the same message, however long ago that came;
    also by a chain of such mails. Of one thread only one batch is out at any time, oldest mail first.
    Holds numbers in arrays and no object per mail: a mailbox may hold very many.
    """

    def __init__(self, entries: Iterable[Entry], held: Iterable[bytes] = ()) -> None:
        """Gather what waits, in any order. Mails with the keys `held`, and what follows them, are not to be taken."""
        self._numbers: dict[bytes, int] = {}
        # By number of a message: UID of its first copy (0: it is only referred to), size, one step towards its thread.
        # Number 0 is nobody's. UIDs are signed: those below 0 are messages on this host (maildrop.Pop3Mailbox.index).
        self._uids, self._sizes, self._towards = array("q", [0]), array("Q", [0]), array("I", [0])
        self._copies: dict[int, list[int]] = {}
        for entry in entries:
            number = self._number(entry.key)
            if not self._uids[number]:
                self._uids[number], self._sizes[number] = entry.uid, entry.size
            else:
                self._copies.setdefault(number, []).append(entry.uid)
            for reference in entry.references:
                self._towards[self._thread(number)] = self._thread(self._number(reference))
        self._line_up({self._numbers[key] for key in held if key in self._numbers})

    @property
    def left(self) -> int:
        """How many mails were not taken yet, of those that may be."""
        return self._left

    def __len__(self) -> int:
        """How many mails there were in the beginning, copies not counted."""
        return self._count

    def __contains__(self, key: bytes) -> bool:
        """Whether a mail with this key was there in the beginning."""
        number = self._numbers.get(key)
        return number is not None and self._uids[number] != 0

    def take(self, most_messages: int, most_bytes: int) -> list[Mail]:
        """The next batch within both limits, oldest first; a mail above `most_bytes` is a batch of its own.

        A thread is taken as far as the batch reaches, so that as many threads as possible are left for other batches.
        Empty: there is nothing more, or all of it has to wait for a batch that is out.
        """
        batch: list[Mail] = []
        total = 0
        while self._ready and len(batch) < most_messages:
            number = self._ready[0]
            if batch and total + self._sizes[number] > most_bytes:
                break
            self._ready.popleft()
            thread = self._thread(number)
            batch.append(Mail(self._copies_of(number), self._sizes[number], thread))
            total += self._sizes[number]
            self._rest[thread] = self._following[number]
            if self._following[number]:
                self._ready.appendleft(self._following[number])
        if batch and self._ready and self._thread(self._ready[0]) == batch[-1].thread:
            self._ready.popleft()  # the rest of a thread that is out
        self._left -= len(batch)
        return sorted(batch, key=lambda mail: mail.uids)

    def give_back(self, batch: Iterable[Mail], held: Container[int] = ()) -> None:
        """The batch is settled: its threads may go on, but those in `held`, of which a mail could not be settled."""
        for thread in sorted({mail.thread for mail in batch}, reverse=True):
            rest = self._rest.pop(thread)
            if rest and thread not in held:
                self._ready.appendleft(rest)

    def _number(self, key: bytes) -> int:
        number = self._numbers.setdefault(key, len(self._uids))
        if number == len(self._uids):
            self._uids.append(0)
            self._sizes.append(0)
            self._towards.append(number)
        return number

    def _thread(self, number: int) -> int:
        """The thread of a message, by halving the path to it on the way (union-find)."""
        towards = self._towards
        while towards[number] != number:
            towards[number] = number = towards[towards[number]]
        return number

    def _copies_of(self, number: int) -> tuple[int, ...]:
        return (self._uids[number], *self._copies.get(number, ()))

    def _line_up(self, held: Container[int]) -> None:
        """Chain each thread's mails, oldest first and as far as the first in `held`; make the first of each ready."""
        for number, others in self._copies.items():
            self._uids[number], *others[:] = sorted([self._uids[number], *others])
        self._ready: deque[int] = deque()  # the next mail of each thread that is not out
        self._rest: dict[int, int] = {}  # of each thread that is out, its next mail
        self._following = array("I", [0]) * len(self._uids)  # by number, the next mail of its thread, 0: none
        last = array("I", [0]) * len(self._uids)  # by thread, its newest mail so far
        order = sorted((n for n in range(1, len(self._uids)) if self._uids[n]), key=self._uids.__getitem__)
        self._left = 0
        stuck: set[int] = set()
        for number in order:
            thread = self._thread(number)
            if number in held or thread in stuck:
                stuck.add(thread)
                continue
            if last[thread]:
                self._following[last[thread]] = number
            else:
                self._ready.append(number)
            last[thread] = number
            self._left += 1
        self._count = len(order)


def share(left: int, out: int, *, calls: int, most: int) -> int:
    """How many of the mails that are left the next call takes, at most `most`, while `out` calls have theirs.

    Odoo works on `calls` of them at the same time: few mails, and the last ones of many, keep none of these waiting for
    another that has them all.
    """
    takers = calls - out if out < calls else calls
    return min(most, max(WORTH_A_CALL, -(-left // takers)))


def held_back(threads: Sequence[int], verdicts: Sequence[Verdict]) -> list[bool]:
    """Whether an earlier message of the same thread failed, for each of a call's messages; threads are numbers above 0.

    Such a message has not been tried, and is not to be before that one has left the inbox.
    """
    failed: set[int] = set()
    held = []
    for thread, verdict in zip(threads, verdicts, strict=True):
        held.append(thread in failed)
        if verdict.word == "error" and thread:
            failed.add(thread)
    return held


def decide(verdict: Verdict, attempts: int, most_attempts: int) -> Decision:
    """Turn Odoo's verdict into the message's place. `attempts` counts how often Odoo failed on it before."""
    match verdict.word:
        case "routed" | "duplicate" | "bounce" | "ignored" | "report":
            return Decision("routed", 0, verdict.reason)
        case "refused":
            return Decision("quarantine", attempts, verdict.reason or "refused without a reason")
        case "retry":
            return Decision("inbox", attempts, verdict.reason)
        case "error":
            attempts += 1
            reason = f"failed {attempts} times, at last: {verdict.reason}" if attempts > 1 else verdict.reason
            return Decision("quarantine" if attempts >= most_attempts else "inbox", attempts, reason)
