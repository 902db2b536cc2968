"""The ledger on the control node: which values in DNS we wrote, so that we may change these and no others.

A JSON file, `{"version": 1, "records": {"<name> <type>": [<value>, ...]}}`, mode 0600. Losing it is no harm to the
zones: what equals a wanted value counts as ours again, and everything else as somebody else's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from module_utils import durable
    from module_utils.dns_plan import Key
else:
    from ansible.module_utils import durable
    from ansible.module_utils.dns_plan import Key

VERSION = 1


def load(path: Path) -> dict[Key, frozenset[str]]:
    """Answer our values by name and type, nothing when there is no file. Raises ValueError when it is no ledger."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError("another version")
        ledger = {}
        for entry, values in content["records"].items():
            name, kind = entry.split(" ")
            if not all(isinstance(value, str) for value in values):
                raise ValueError("a value is no text")
            ledger[name, kind] = frozenset(values)
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path} is no ledger of this version: restore it from a backup, or remove it "
            "(what equals a wanted value then counts as ours again)"
        ) from None
    return ledger


def save(path: Path, ledger: Mapping[Key, frozenset[str]]) -> None:
    """Replace the file as a whole, durably, unless it says the same already."""
    with contextlib.suppress(ValueError):
        if load(path) == ledger:
            return
    records = {f"{name} {kind}": sorted(values) for (name, kind), values in sorted(ledger.items())}
    content = json.dumps({"version": VERSION, "records": records}, indent=2) + "\n"
    durable.replace(path, content)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time work with the ledger; makes its directory (0700)."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _opened(path.parent) as directory:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """Hold a directory open."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
