"""Files on the control node that a crash leaves as they were or as they should be."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def replace(path: Path, content: str) -> None:
    """Replace a file as a whole, durably, mode 0600."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
