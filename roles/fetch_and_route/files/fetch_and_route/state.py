"""What the mailbox cannot hold: how often Odoo failed on a message that waits, and why one is in quarantine.

One JSON file per mailbox, keyed by Message-ID and replaced in one instant, written before the message is moved: what is
in quarantine has its reason here whatever dies. Losing the file loses no mail: counts begin anew, reasons are still in
the journal. A person's command may change notes while a run does: each adds its own to what the file holds by then.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import select
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from . import durable
from .trouble import Misconfigured


@dataclasses.dataclass(frozen=True)
class Note:
    """About one message: Odoo's failures on it so far, the last reason, who received it, when (Unix time)."""

    attempts: int
    reason: str
    recipients: tuple[str, ...]
    at: int


class State:
    """The notes about a mailbox's messages."""

    def __init__(self, directory: Path, mailbox: str) -> None:
        """Read the notes; a file that cannot be understood counts as empty. Raises Misconfigured."""
        self._path = directory / f"{mailbox}.json"
        self._notes: dict[str, Note] = {}
        self._version: tuple[int, ...] = ()
        self._read()

    def __getitem__(self, message_id: str) -> Note | None:
        """The note about a message, None when there is none."""
        return self._notes.get(message_id)

    def __iter__(self) -> Iterator[str]:
        """The Message-IDs that there are notes about."""
        return iter(tuple(self._notes))

    @property
    def newest(self) -> int:
        """When the newest note was made (Unix time); 0 when there is none."""
        return max((note.at for note in self._notes.values()), default=0)

    def update(self, notes: dict[str, Note | None]) -> None:
        """Add notes, or remove those given as None; durable when it returns. Raises Misconfigured."""
        if _merged(self._notes, notes) == self._notes:
            return
        with durable.alone(self._path.with_suffix(".lock")):
            self._read()
            merged = _merged(self._notes, notes)
            if merged != self._notes:
                self._write(merged)
                self._notes = merged

    def keep_only(self, wanted: Callable[[str], bool]) -> None:
        """Forget the messages whose Message-ID is not wanted. Raises Misconfigured."""
        self.update({key: None for key in self._notes if not wanted(key)})

    def _read(self) -> None:
        """Take the file's notes, unless it is the one that was read or written last."""
        try:
            status = self._path.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if version == self._version:
                return
            table = json.loads(self._path.read_text(encoding="utf-8"))
            self._notes = {
                key: Note(int(note["attempts"]), str(note["reason"]), tuple(note["recipients"]), int(note["at"]))
                for key, note in table["messages"].items()
            }
            self._version = version
        except FileNotFoundError:
            self._notes = {}
        except OSError as error:
            raise Misconfigured(f"{self._path}: {error.strerror}: run this as root") from error
        except (ValueError, TypeError, KeyError, AttributeError):
            self._notes = {}

    def _write(self, notes: dict[str, Note]) -> None:
        table = {"version": 1, "messages": {key: dataclasses.asdict(note) for key, note in notes.items()}}
        durable.replace(self._path, json.dumps(table, indent=1).encode())
        status = self._path.stat()
        self._version = (status.st_ino, status.st_mtime_ns, status.st_size)


def _merged(notes: Mapping[str, Note], changes: Mapping[str, Note | None]) -> dict[str, Note]:
    return {key: note for key, note in {**notes, **changes}.items() if note is not None}


@contextmanager
def lock(directory: Path, database: str, stop: int | None = None) -> Iterator[bool]:
    """Hold the one lock that keeps two apart who serve a database; yields False at once when another has it.

    With `stop`, a descriptor, it is waited for: False then says that `stop` became readable before. The lock is a file
    of its own, the same for the units and a run by hand, and the kernel lets go of it when its holder dies. Raises
    Misconfigured when the directory is missing and cannot be made.
    """
    path = directory / f"{database}.busy"  # mailboxes have .json and .lock
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}: run this as root") from error
    try:
        durable.give_away(descriptor, directory)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        except BlockingIOError:
            ours = stop is not None and _waited(descriptor, stop)
        yield ours
    finally:
        os.close(descriptor)


@contextmanager
def telling(directory: Path) -> Iterator[None]:
    """Keep two apart who tell what was done; they wait for each other. Raises Misconfigured.

    The lock is the state directory's own.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Misconfigured(f"{directory}: {error.strerror}: run this as root") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _waited(descriptor: int, stop: int) -> bool:
    """Wait for a lock that another has; False when `stop` is readable first.

    The kernel lets nobody wait for both, so that a thread waits for the lock. When it is left behind, it waits on until
    the program ends or the lock comes, which then goes with the last descriptor.
    """
    got = os.eventfd(0)
    same = os.dup(descriptor)

    def wait() -> None:
        fcntl.flock(same, fcntl.LOCK_EX)
        os.eventfd_write(got, 1)
        os.close(same)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    ready, _, _ = select.select([got, stop], [], [])
    if got not in ready:
        return False
    waiting.join()  # until its descriptor is closed, nobody else could have the lock
    os.close(got)
    return True
