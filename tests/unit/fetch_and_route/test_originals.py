"""The quarantine on this host's disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fetch_and_route.originals import Originals
from fetch_and_route.trouble import Misconfigured

RAW = b"Message-ID: <1@x>\r\n\r\n\xff\n"
NAMELESS = b"Subject: x\r\n\r\n"


def test_a_message_is_kept_as_it_is_for_the_program_alone(state_directory: Path) -> None:
    Originals(state_directory, "prod").keep("b1", RAW)
    again = Originals(state_directory, "prod")
    assert again.read("b1") == RAW
    path = state_directory / "quarantine/prod/b1.eml"
    assert path.read_bytes() == RAW
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert Originals(state_directory, "test").held() == []


def test_they_are_listed_oldest_first(state_directory: Path) -> None:
    originals = Originals(state_directory, "prod")
    for at, (name, raw) in enumerate([("b", RAW), ("a", NAMELESS)]):
        originals.keep(name, raw)
        os.utime(state_directory / f"quarantine/prod/{name}.eml", (at, at))
    assert originals.held() == ["b", "a"]


def test_one_may_be_tried_again_and_held_again_or_forgotten(state_directory: Path) -> None:
    originals = Originals(state_directory, "prod")
    originals.keep("a", RAW)
    originals.try_again("a")
    assert (originals.held(), originals.waiting(), originals.read("a")) == ([], ["a"], RAW)
    originals.hold("a")
    assert (originals.held(), originals.waiting()) == (["a"], [])
    originals.try_again("a")
    originals.forget("a")
    assert (originals.held(), originals.waiting(), originals.read("a")) == ([], [], None)


def test_what_is_not_there_is_no_trouble(state_directory: Path) -> None:
    originals = Originals(state_directory, "prod")
    originals.forget("a")
    originals.hold("a")
    originals.try_again("a")
    assert (originals.held(), originals.waiting(), originals.read("a")) == ([], [], None)


def test_what_cannot_be_written_or_read_is_named(state_directory: Path) -> None:
    originals = Originals(state_directory, "prod")
    (state_directory / "quarantine/prod/a.eml").mkdir(parents=True)
    with pytest.raises(Misconfigured, match=r"a\.eml: Is a directory"):
        originals.keep("a", RAW)
    with pytest.raises(Misconfigured, match=r"a\.eml: Is a directory"):
        originals.read("a")
