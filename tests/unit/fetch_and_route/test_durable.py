"""Files that survive."""

from __future__ import annotations

from pathlib import Path

import pytest

from fetch_and_route import durable
from fetch_and_route.trouble import Misconfigured


def test_a_file_is_replaced_and_its_owner_s_alone(tmp_path: Path) -> None:
    directory = durable.directory(tmp_path / "a/b")
    path = directory / "file.json"
    path.write_bytes(b"old")
    path.with_name(f"{path.name}.new").write_bytes(b"left behind")
    path.with_name(f"{path.name}.new").chmod(0o644)
    durable.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in directory.iterdir()] == ["file.json"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.stat().st_mode & 0o777 for entry in (directory, directory.parent)] == [0o700, 0o700]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"old")
    path.with_name(f"{path.name}.new").mkdir()
    with pytest.raises(Misconfigured, match=r"file\.json: Is a directory: make room"):
        durable.replace(path, b"new")
    assert path.read_bytes() == b"old"


def test_removing_what_is_not_there_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    durable.remove(tmp_path / "file")
    durable.remove(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match=r"file: File exists"):
        durable.directory(tmp_path / "file")
