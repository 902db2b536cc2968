"""The ledger: what we wrote, kept whole whatever happens."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from module_utils import dns_ledger

LEDGER = {
    ("example.com.", "MX"): frozenset({"10 mail.example.com.", "10 mail2.example.com."}),
    ("example.com.", "SPF"): frozenset({"ip4:192.0.2.25", "~all"}),
    ("caf\xe9.example.", "TXT"): frozenset({'a "quoted" \xe9\n text'}),
}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    dns_ledger.save(tmp_path / "ledger", LEDGER)
    assert dns_ledger.load(tmp_path / "ledger") == LEDGER
    assert stat.S_IMODE((tmp_path / "ledger").stat().st_mode) == 0o600


def test_without_a_file_nothing_is_ours(tmp_path: Path) -> None:
    assert dns_ledger.load(tmp_path / "ledger") == {}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"version": 1}',
        '{"version": 2, "records": {}}',
        '{"version": 1, "records": []}',
        '{"version": 1, "records": {"a.": ["x"]}}',
        '{"version": 1, "records": {"a. MX": [1]}}',
        '{"version": 1, "records": {"a. A',
    ],
)
def test_a_file_that_is_no_ledger_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text(content, encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"ledger is no ledger of this version: restore it from a backup, or remove it"
    ):
        dns_ledger.load(tmp_path / "ledger")


def test_the_same_ledger_is_not_written_again(tmp_path: Path) -> None:
    dns_ledger.save(tmp_path / "ledger", LEDGER)
    before = (tmp_path / "ledger").stat()
    dns_ledger.save(tmp_path / "ledger", dict(reversed(LEDGER.items())))
    assert (tmp_path / "ledger").stat().st_ino == before.st_ino


def test_a_write_that_fails_leaves_the_old_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    dns_ledger.save(tmp_path / "ledger", LEDGER)
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space left"):
        dns_ledger.save(tmp_path / "ledger", {})
    assert dns_ledger.load(tmp_path / "ledger") == LEDGER
    assert [path.name for path in tmp_path.iterdir()] == ["ledger"]


def test_the_lock_makes_the_directory_for_its_owner_only(tmp_path: Path) -> None:
    with dns_ledger.locked(tmp_path / "secrets" / "ledger"):
        assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_one_at_a_time_has_the_ledger(tmp_path: Path) -> None:
    path, seen = tmp_path / "ledger", []

    def second() -> None:
        with dns_ledger.locked(path):
            seen.append(dns_ledger.load(path))

    with dns_ledger.locked(path):
        thread = threading.Thread(target=second)
        thread.start()
        dns_ledger.save(path, LEDGER)  # the other waits for the lock, so it always sees this
    thread.join(5)
    assert seen == [LEDGER]
