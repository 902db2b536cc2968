"""Text for people, pure: tables, times, and nothing of a stranger's that a terminal would obey."""

from __future__ import annotations

import time
from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int = 0) -> list[str]:
    """Lines of a table, columns as wide as their widest cell; lines are cut at `width` characters (0: never)."""
    cells = [list(heads), *([safe(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = ["  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [line if not width or len(line) <= width else line[: width - 3] + "..." for line in lines]


def when(at: int | None) -> str:
    """A Unix time as local time to the minute; `?` when it is not known."""
    return "?" if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def safe(text: str) -> str:
    """Text with U+FFFD for what is not printable."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def header_lines(raw: bytes) -> list[str]:
    """The lines of a message's header as they are to be shown; Latin-1 where they are not UTF-8."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return [safe(line.replace("\t", "    ")) for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
