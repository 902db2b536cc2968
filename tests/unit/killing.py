"""A run that is killed before or after any of its writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


class Killed(BaseException):
    """The run is killed."""


class Killer:
    """Raises Killed at a step; before and after each file that is replaced or removed is one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Watch the writes; nothing is killed until `left` says when."""
        self.left = 0
        monkeypatch.setattr(Path, "replace", self._dying(Path.replace))
        monkeypatch.setattr(Path, "unlink", self._dying(Path.unlink))

    def _step(self) -> None:
        self.left -= 1
        if not self.left:
            raise Killed

    def _dying(self, write: Callable[..., object]) -> Callable[..., object]:
        def written(*arguments: object, **options: object) -> object:
            self._step()
            answer = write(*arguments, **options)
            self._step()
            return answer

        return written
