"""Planners at the same time keep what others wrote, and never write a state in part."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.name_servers import NameServer
from tests.planners import Game

pytestmark = pytest.mark.hosts


def test_two_planners_and_a_stranger_share_a_zone(name_server: NameServer, tmp_path: Path) -> None:
    outcome = Game(name_server, tmp_path, updates=10, seed=1).play()
    assert outcome.breaches == []
    assert outcome.counts["updates of the planners"] == 20
