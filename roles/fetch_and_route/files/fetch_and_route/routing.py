"""Decisions, pure: which messages travel together, what a verdict means for a message's folder."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, get_args

Folder = Literal["inbox", "routed", "quarantine"]
Word = Literal["routed", "duplicate", "bounce", "ignored", "refused", "retry", "error"]
WORDS: tuple[str, ...] = get_args(Word)


class Entry(NamedTuple):
    """A message that waits: its UID, its size in bytes and what makes copies of one mail equal."""

    uid: int
    size: int
    key: bytes


class Listed(NamedTuple):
    """A message in a folder that is open."""

    uid: int
    message_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Mail:
    """All copies of one mail in a mailbox; the first one's bytes go to Odoo, of the others only who received them."""

    uids: tuple[int, ...]
    size: int


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
    """What makes copies of one mail equal: 16 bytes, since a large mailbox is kept in memory as keys."""
    return hashlib.blake2b(message_id.encode(), digest_size=16).digest()


def merge(entries: Iterable[Entry]) -> list[Mail]:
    """Gather copies of one mail, in the order in which each mail's first copy arrived."""
    mails: dict[bytes, tuple[list[int], int]] = {}
    for entry in sorted(entries):
        uids, _ = mails.setdefault(entry.key, ([], entry.size))
        uids.append(entry.uid)
    return [Mail(tuple(uids), size) for uids, size in mails.values()]


def batches(mails: Iterable[Mail], most_messages: int, most_bytes: int) -> Iterator[list[Mail]]:
    """Cut into batches within both limits, order kept; a mail above `most_bytes` is a batch of its own."""
    batch: list[Mail] = []
    total = 0
    for mail in mails:
        if batch and (len(batch) >= most_messages or total + mail.size > most_bytes):
            yield batch
            batch, total = [], 0
        batch.append(mail)
        total += mail.size
    if batch:
        yield batch


def decide(verdict: Verdict, attempts: int, most_attempts: int) -> Decision:
    """Turn Odoo's verdict into the message's place. `attempts` counts how often Odoo failed on it before."""
    match verdict.word:
        case "routed" | "duplicate" | "bounce" | "ignored":
            return Decision("routed", 0, verdict.reason)
        case "refused":
            return Decision("quarantine", attempts, verdict.reason or "refused without a reason")
        case "retry":
            return Decision("inbox", attempts, verdict.reason)
        case "error":
            attempts += 1
            reason = f"failed {attempts} times, at last: {verdict.reason}" if attempts > 1 else verdict.reason
            return Decision("quarantine" if attempts >= most_attempts else "inbox", attempts, reason)
