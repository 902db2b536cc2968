"""The quarantine of a mailbox that has no folders: one file for each message, byte for byte as the server had it.

They lie in the state directory, for the program alone. One that is to be tried again has the suffix `.again`: it waits
as if it were in the mailbox.
"""

from __future__ import annotations

from pathlib import Path

from . import durable
from .trouble import Misconfigured

HELD, AGAIN = ".eml", ".again"


class Originals:
    """The quarantined messages of one mailbox, each under a name."""

    def __init__(self, state_directory: Path, mailbox: str) -> None:
        """Look nowhere yet."""
        self._directory = state_directory / "quarantine" / mailbox

    def keep(self, name: str, raw: bytes) -> None:
        """Write a message; durable when it returns. Raises Misconfigured."""
        durable.replace(durable.directory(self._directory) / (name + HELD), raw)

    def forget(self, name: str) -> None:
        """Remove a message if it is there, held or waiting; durable when it returns. Raises Misconfigured."""
        for suffix in (HELD, AGAIN):
            durable.remove(self._directory / (name + suffix))

    def held(self) -> list[str]:
        """The names of those that are in quarantine, oldest first. Raises Misconfigured."""
        return self._names(HELD)

    def waiting(self) -> list[str]:
        """The names of those that are to be tried again, oldest first. Raises Misconfigured."""
        return self._names(AGAIN)

    def try_again(self, name: str) -> None:
        """Have a message wait again; it keeps its place in the order. Raises Misconfigured."""
        durable.rename(self._directory / (name + HELD), self._directory / (name + AGAIN))

    def hold(self, name: str) -> None:
        """Put a message that waited again back into quarantine. Raises Misconfigured."""
        durable.rename(self._directory / (name + AGAIN), self._directory / (name + HELD))

    def read(self, name: str) -> bytes | None:
        """A message, held or waiting; None when there is none of that name. Raises Misconfigured."""
        for suffix in (HELD, AGAIN):
            path = self._directory / (name + suffix)
            try:
                return path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise Misconfigured(f"{path}: {error.strerror}: run this as root") from error
        return None

    def _names(self, suffix: str) -> list[str]:
        try:
            files = [(path.stat().st_mtime_ns, path.stem) for path in self._directory.glob(f"*{suffix}")]
        except OSError as error:
            raise Misconfigured(f"{self._directory}: {error.strerror}: run this as root") from error
        return [name for _, name in sorted(files)]
