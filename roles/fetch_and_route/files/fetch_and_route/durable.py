"""Files that are whole and on the disk when a call returns, or as they were before, whatever dies when.

For their owner alone, and for the unit's own user when root runs the program by hand.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .trouble import Misconfigured


def replace(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 in one instant; durable when it returns. Raises Misconfigured."""
    temporary = path.with_name(f"{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)  # one that an earlier death left behind keeps no mode of its own
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - fd
            file.write(content)
            file.flush()
            give_away(file.fileno(), path.parent)
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _explained(path, error) from error


def remove(path: Path) -> None:
    """Remove a file, if it is there; durable when it returns. Raises Misconfigured."""
    try:
        path.unlink()
        _sync(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _explained(path, error) from error


def rename(path: Path, other: Path) -> None:
    """Rename a file within its directory, if it is there; durable when it returns. Raises Misconfigured."""
    try:
        path.replace(other)
        _sync(other.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _explained(path, error) from error


def directory(path: Path) -> Path:
    """Make a directory of mode 0700 and those above it that are missing; returns it. Raises Misconfigured."""
    try:
        if not path.is_dir():
            if path.parent != path:
                directory(path.parent)
            path.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                give_away(descriptor, path.parent)
            finally:
                os.close(descriptor)
            _sync(path.parent)
    except OSError as error:
        raise _explained(path, error) from error
    return path


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep others who would lock the same file from writing meanwhile; they wait. Raises Misconfigured.

    It is a file of its own: one that is replaced locks nobody out.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            give_away(descriptor, path.parent)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _explained(path, error) from error


def give_away(descriptor: int, parent: Path) -> None:
    """Let what root makes belong to the owner of the directory it is in: the unit's own user goes on with it."""
    if os.geteuid() == 0:
        owner = parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(path: Path, error: OSError) -> Misconfigured:
    return Misconfigured(f"{path}: {error.strerror}: make room or mend its owner")
