"""Notes and the lock."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from fetch_and_route.state import Note, State, lock, telling
from fetch_and_route.trouble import Misconfigured
from fetch_and_route.watch import Stop

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


def test_one_at_a_time_serves_a_database(state_directory: Path) -> None:
    directory = state_directory / "new"
    with lock(directory, "prod") as first, lock(directory, "prod") as second, lock(directory, "other") as third:
        assert (first, second, third) == (True, False, True)
    with lock(directory, "prod") as fourth:
        assert fourth
    (state_directory / "file").touch()
    with pytest.raises(Misconfigured, match="File exists"), lock(state_directory / "file", "prod"):
        pass
    with pytest.raises(Misconfigured, match="File exists"), telling(state_directory / "file"):
        pass


def test_a_lock_is_waited_for(state_directory: Path, waits: threading.Semaphore) -> None:
    stop = Stop()
    with ThreadPoolExecutor(1) as pool:

        def wait() -> bool:
            with lock(state_directory, "prod", stop.descriptor) as ours:
                return ours

        for _ in range(300):  # whoever is next has it without waiting, however soon
            with lock(state_directory, "prod"):
                waiting = pool.submit(wait)
                assert waits.acquire(timeout=10)
                assert not waiting.done()
            assert waiting.result(10)
            with lock(state_directory, "prod") as ours:
                assert ours, "it was given back"


def test_waiting_for_a_lock_ends_with_the_program(state_directory: Path) -> None:
    stop = Stop()
    with lock(state_directory, "prod"):
        stop.set()
        with lock(state_directory, "prod", stop.descriptor) as ours:
            assert not ours
    with lock(state_directory, "prod", Stop().descriptor) as ours:
        assert ours, "whoever gave up waiting does not keep it"


def test_two_who_tell_wait_for_each_other(state_directory: Path) -> None:
    told: list[str] = []
    with ThreadPoolExecutor(1) as pool:

        def tell() -> None:
            with telling(state_directory):
                told.append("second")

        with telling(state_directory):
            second = pool.submit(tell)
            told.append("first")
        second.result(10)
    assert told == ["first", "second"]


def test_the_lock_dies_with_its_holder(state_directory: Path) -> None:
    program = (
        "import os, sys, pathlib; from fetch_and_route.state import lock\n"
        "with lock(pathlib.Path(sys.argv[1]), 'prod') as ours: assert ours; os.kill(os.getpid(), 9)"
    )
    package = Path(__file__).resolve().parents[3] / "roles/fetch_and_route/files"
    died = subprocess.run(
        [sys.executable, "-c", program, state_directory], env={"PYTHONPATH": str(package)}, check=False
    )
    assert died.returncode == -9
    with lock(state_directory, "prod") as ours:
        assert ours
