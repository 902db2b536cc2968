"""Notes and the lock."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from fetch_and_route.state import Note, State, lock
from fetch_and_route.trouble import Misconfigured

NOTE = Note(2, "böse", ("sales@example.com",), 1700000000)


def test_notes_outlive_the_program(state_directory: Path) -> None:
    state = State(state_directory, "prod")
    state.update({"<a@x>": NOTE, "<b@x>": NOTE})
    state.update({"<b@x>": None, "<never@x>": None})
    again = State(state_directory, "prod")
    assert again["<a@x>"] == NOTE
    assert again["<b@x>"] is None
    assert State(state_directory, "other")["<a@x>"] is None
    assert (again.newest, State(state_directory, "other").newest) == (NOTE.at, 0)
    again.keep_only(lambda message_id: message_id == "<c@x>")
    assert State(state_directory, "prod")["<a@x>"] is None


def test_two_who_change_different_notes_at_once_both_do(state_directory: Path) -> None:
    run = State(state_directory, "prod")
    run.update({"<a@x>": NOTE, "<b@x>": NOTE})
    person = State(state_directory, "prod")
    run.update({"<c@x>": NOTE})
    person.update({"<a@x>": replace(NOTE, attempts=0), "<b@x>": None})
    run.update({"<c@x>": replace(NOTE, attempts=3)})
    assert run["<a@x>"] == replace(NOTE, attempts=0), "what was not known here is what the file says"
    last = State(state_directory, "prod")
    assert [last[f"<{name}@x>"] for name in "abc"] == [replace(NOTE, attempts=0), None, replace(NOTE, attempts=3)]


def test_many_who_write_at_once_lose_nothing(state_directory: Path) -> None:
    def write(name: str) -> None:
        state = State(state_directory, "prod")
        for number in range(10):
            state.update({f"<{name}{number}@x>": NOTE})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    last = State(state_directory, "prod")
    assert all(last[f"<{name}{number}@x>"] for name in "abcd" for number in range(10))


def test_nothing_is_written_when_nothing_changes(state_directory: Path) -> None:
    state = State(state_directory, "prod")
    state.update({"<a@x>": None})
    assert list(state_directory.iterdir()) == []
    state.update({"<a@x>": NOTE})
    (state_directory / "prod.json").unlink()
    state.update({"<a@x>": NOTE})
    assert not (state_directory / "prod.json").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"messages": {"a": {}}}', b'{"messages": 1}', b"\xff"])
def test_a_broken_file_is_no_reason_to_keep_mail_waiting(state_directory: Path, content: bytes) -> None:
    (state_directory / "prod.json").write_bytes(content)
    state = State(state_directory, "prod")
    state.update({"<a@x>": NOTE})
    assert json.loads((state_directory / "prod.json").read_text())["messages"].keys() == {"<a@x>"}


def test_a_file_that_cannot_be_written_is_named(state_directory: Path) -> None:
    (state_directory / "prod.json.new").mkdir()
    with pytest.raises(Misconfigured, match=r"prod\.json: Is a directory"):
        State(state_directory, "prod").update({"<a@x>": NOTE})


def test_one_run_at_a_time(state_directory: Path) -> None:
    with lock(state_directory / "new") as first, lock(state_directory / "new") as second:
        assert (first, second) == (True, False)
    with lock(state_directory / "new") as third:
        assert third
    (state_directory / "file").touch()
    with pytest.raises(Misconfigured, match="File exists"), lock(state_directory / "file"):
        pass


def test_the_lock_dies_with_its_holder(state_directory: Path) -> None:
    program = (
        "import os, sys, pathlib; from fetch_and_route.state import lock\n"
        "with lock(pathlib.Path(sys.argv[1])) as ours: assert ours; os.kill(os.getpid(), 9)"
    )
    package = Path(__file__).resolve().parents[3] / "roles/fetch_and_route/files"
    died = subprocess.run(
        [sys.executable, "-c", program, state_directory], env={"PYTHONPATH": str(package)}, check=False
    )
    assert died.returncode == -9
    with lock(state_directory) as ours:
        assert ours
