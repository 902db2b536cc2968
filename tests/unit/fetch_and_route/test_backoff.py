"""How long a database is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from fetch_and_route.backoff import LONGEST, LONGEST_ASKED, BackOff, seconds_after
from fetch_and_route.trouble import Misconfigured, Unavailable

NOW = 1_700_000_000.5


def test_it_doubles_up_to_half_an_hour() -> None:
    assert [seconds_after(failures, 0) // 60 for failures in (1, 2, 3, 4, 5, 6, 7, 1000)] == [
        1,
        2,
        4,
        8,
        16,
        30,
        30,
        30,
    ]


def test_what_odoo_asks_for_counts_within_reason() -> None:
    assert seconds_after(1, 300) == 300
    assert seconds_after(9, 300) == LONGEST
    assert seconds_after(1, 10**9) == LONGEST_ASKED


def test_a_pause_outlives_the_program_and_ends(state_directory: Path) -> None:
    BackOff(state_directory, "prod").failed(Unavailable("away"), NOW)
    again = BackOff(state_directory, "prod")
    pause = again.pause(NOW + 59)
    assert pause is not None
    assert (pause.failures, pause.reason) == (1, "away")
    assert again.pause(NOW + 60) is None
    assert again.failed(Unavailable("away"), NOW + 60).until == int(NOW) + 60 + 120
    assert BackOff(state_directory, "other").pause(NOW) is None


def test_an_answer_ends_it(state_directory: Path) -> None:
    backoff = BackOff(state_directory, "prod")
    backoff.failed(Unavailable("away"), NOW)
    backoff.answered()
    assert list(state_directory.iterdir()) == []
    assert BackOff(state_directory, "prod").failed(Unavailable("away"), NOW).failures == 1


def test_a_clock_that_was_set_back_keeps_no_mail_waiting(state_directory: Path) -> None:
    BackOff(state_directory, "prod").failed(Unavailable("away"), NOW + 86_400)
    assert BackOff(state_directory, "prod").pause(NOW) is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"failures": "x"}', b"\xff"])
def test_a_broken_file_is_no_pause(state_directory: Path, content: bytes) -> None:
    (state_directory / "prod.backoff").write_bytes(content)
    backoff = BackOff(state_directory, "prod")
    assert backoff.pause(NOW) is None
    backoff.answered()
    assert list(state_directory.iterdir()) == []


def test_a_file_that_cannot_be_read_is_named(state_directory: Path) -> None:
    (state_directory / "prod.backoff").mkdir()
    with pytest.raises(Misconfigured, match=r"prod\.backoff: Is a directory"):
        BackOff(state_directory, "prod")
