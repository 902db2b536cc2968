"""host_files, run as Ansible runs it: arguments in, JSON out."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

from library import host_files

ROOT = Path(__file__).resolve().parents[3]
NOBODY = "no-such-user"

Run = Callable[..., dict[str, Any]]


def owned(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry that whoever runs the tests may write."""
    return {"owner": str(os.getuid()), "group": str(os.getgid()), **entry}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(
        *entries: dict[str, Any], check: bool = False, owed: Path | None = None, validate: list[str] | None = None
    ) -> dict[str, Any]:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        arguments = {
            "files": [owned(entry) for entry in entries],
            "validate": validate or [],
            "owed": owed and str(owed),
            "_ansible_check_mode": check,
            "_ansible_diff": True,
            "_ansible_tmpdir": str(scratch),
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            host_files.main()
        assert not list(scratch.iterdir()), "nothing is left of what was validated"
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return run


def mode_of(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def checker(tmp_path: Path, body: str) -> list[str]:
    """A program that checks the new files, in the directory where those of `tmp_path` are; the `validate` to run it."""
    program = tmp_path / "checker"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return [f"{program} %s{tmp_path}"]


def test_a_file_is_written_once(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "main.cf"
    entry = {"path": str(path), "content": "a = ä\n"}
    first = run(entry)
    assert (first["changed"], first["changed_paths"]) == (True, [str(path)])
    assert path.read_bytes() == "a = ä\n".encode()
    assert mode_of(path) == "0644"
    inode = path.stat().st_ino
    second = run(entry)
    assert (second["changed"], second["changed_paths"], second["diff"]) == (False, [], [])
    assert path.stat().st_ino == inode


@pytest.mark.parametrize(("before", "after"), [("a", "a\n"), ("a\r\n", "a\n"), ("", "\n"), ("a\n", "")])
def test_content_is_compared_byte_for_byte(run: Run, tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(before.encode())
    assert run({"path": str(path), "content": after})["changed"]
    assert path.read_bytes() == after.encode()


def test_the_diff_shows_before_and_after_under_the_path(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old\n")
    (diff,) = run({"path": str(path), "content": "new\n"})["diff"]
    assert diff == {"before": "old\n", "after": "new\n", "before_header": str(path), "after_header": str(path)}


def test_a_wrong_mode_is_corrected_without_a_new_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("same\n")
    path.chmod(0o666)
    inode = path.stat().st_ino
    answer = run({"path": str(path), "content": "same\n", "mode": "0640"})
    assert answer["changed_paths"] == [str(path)]
    assert (mode_of(path), path.stat().st_ino) == ("0640", inode)
    assert answer["diff"][0]["before"].startswith("mode 0666\n")
    assert answer["diff"][0]["after"].startswith("mode 0640\n")


def test_the_umask_has_no_say(run: Run, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run({"path": str(tmp_path / "a/b/file"), "content": ""})
    finally:
        os.umask(before)
    assert [mode_of(tmp_path / name) for name in ("a", "a/b", "a/b/file")] == ["0755", "0755", "0644"]


def test_directories_are_made_before_the_files_in_them(run: Run, tmp_path: Path) -> None:
    answer = run(
        {"path": str(tmp_path / "private/key"), "content": "x", "mode": "0600"},
        {"path": str(tmp_path / "private"), "state": "directory", "mode": "0700"},
    )
    assert answer["changed_paths"] == [str(tmp_path / "private"), str(tmp_path / "private/key")]
    assert mode_of(tmp_path / "private") == "0700"


def test_a_directory_is_corrected_and_keeps_what_is_in_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir(0o755)
    (tmp_path / "mail/message").write_text("kept")
    entry = {"path": str(tmp_path / "mail"), "state": "directory", "mode": "0750"}
    assert run(entry)["changed"]
    assert mode_of(tmp_path / "mail") == "0750"
    assert (tmp_path / "mail/message").read_text() == "kept"
    assert not run(entry)["changed"]


def test_absent_removes_a_file_once(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_text("gone soon\n")
    entry = {"path": str(path), "state": "absent"}
    answer = run(entry)
    assert (answer["changed"], answer["diff"][0]["before"]) == (True, "gone soon\n")
    assert not path.exists()
    assert not run(entry)["changed"]


def test_absent_removes_an_empty_directory_only(run: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    answer = run({"path": str(tmp_path / "full"), "state": "absent"})
    assert answer["failed"]
    assert "something in it" in answer["msg"]
    (tmp_path / "full/file").unlink()
    assert run({"path": str(tmp_path / "full"), "state": "absent"})["changed"]
    assert not (tmp_path / "full").exists()


def test_refused_files_leave_every_file_as_it_was(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second.conf"
    first.write_text("old")
    body = 'echo noise >&2; grep -q good "$1"/second.conf || { echo "$1/second.conf: line 1: bad word" >&2; exit 3; }'
    answer = run(
        {"path": str(first), "content": "new"},
        {"path": str(tmp_path / "made"), "state": "directory"},
        {"path": str(second), "content": "wrong\n"},
        validate=[*checker(tmp_path, body), "/bin/false"],
        owed=tmp_path / "owed",
    )
    assert answer["failed"]
    assert answer["msg"] == (
        f"{tmp_path}/checker: refuses the new files, so none was written (exit 3): noise | {second}: line 1: bad word"
    )
    assert first.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checker", "first", "scratch"]


def test_a_warning_is_a_refusal(run: Run, tmp_path: Path) -> None:
    """Postfix warns of a parameter that it does not know, and goes on without it."""
    validate = checker(tmp_path, "echo 'warning: unused parameter: smtp_tls_polcy' >&2")
    answer = run({"path": str(tmp_path / "main.cf"), "content": ""}, validate=validate)
    assert answer["msg"].endswith("(exit 0): warning: unused parameter: smtp_tls_polcy")
    assert not (tmp_path / "main.cf").exists()


def test_a_checker_sees_all_files_as_they_will_be_but_no_secret(run: Run, tmp_path: Path) -> None:
    (tmp_path / "same").write_text("same")
    (tmp_path / "old").write_text("old")
    validate = checker(tmp_path, f'cd "$1" && cat etc/main.cf same > {tmp_path}/seen && test ! -e old -a ! -e key')
    answer = run(
        {"path": str(tmp_path / "etc/main.cf"), "content": "new, "},
        {"path": str(tmp_path / "same"), "content": "same"},
        {"path": str(tmp_path / "old"), "state": "absent"},
        {"path": str(tmp_path / "key"), "content": "secret", "sensitive": True},
        validate=validate,
    )
    assert answer["changed_paths"] == [str(tmp_path / name) for name in ("etc/main.cf", "key", "old")]
    assert (tmp_path / "seen").read_text() == "new, same"


def test_a_checker_is_not_run_for_what_is_there_already(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("same")
    entry = {"path": str(tmp_path / "file"), "content": "same", "mode": "0600"}
    assert run(entry, validate=checker(tmp_path, "exit 1"))["changed"]
    assert not run(entry, validate=checker(tmp_path, "exit 1"))["changed"]


def test_a_checker_that_hangs_is_given_up(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_files, "VALIDATION_SECONDS", 0.1)
    validate = checker(tmp_path, "exec cat /dev/zero > /dev/null")
    answer = run({"path": str(tmp_path / "file"), "content": ""}, validate=validate)
    assert answer["msg"] == f"{tmp_path}/checker: did not end within 0.1 s; nothing was written"


def test_a_missing_checker_is_an_error_but_in_check_mode_it_may_come_later(run: Run, tmp_path: Path) -> None:
    entry, validate = {"path": str(tmp_path / "file"), "content": "x"}, ["/nonexistent/postconf -c %s"]
    assert run(entry, check=True, validate=validate)["changed"]
    answer = run(entry, validate=validate)
    assert answer["msg"] == "/nonexistent/postconf: is not installed, but is to check the new files: install it first"
    assert not (tmp_path / "file").exists()


def test_check_mode_on_a_virgin_host_tells_everything_and_changes_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("")
    answer = run(
        {"path": str(tmp_path / "etc/x/main.cf"), "content": "a\n"},
        {"path": str(tmp_path / "var/mail"), "state": "directory", "owner": NOBODY, "group": NOBODY},
        {"path": str(tmp_path / "old"), "state": "absent"},
        {"path": str(tmp_path / "never/was"), "state": "absent"},
        check=True,
        validate=["/nonexistent/check %s"],
    )
    assert answer["changed"]
    assert answer["changed_paths"] == [str(tmp_path / name) for name in ("var/mail", "etc/x/main.cf", "old")]
    assert [diff["before_header"] for diff in answer["diff"]] == answer["changed_paths"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "scratch"]


def test_check_mode_runs_the_checkers_there_are(run: Run, tmp_path: Path) -> None:
    entry = {"path": str(tmp_path / "file"), "content": "x"}
    assert run(entry, check=True, validate=checker(tmp_path, "echo no; exit 1"))["msg"].endswith("(exit 1): no")


def test_an_owner_who_does_not_exist_is_an_error_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    answer = run(
        {"path": str(tmp_path / "file"), "content": ""},
        {"path": str(tmp_path / "mail"), "state": "directory", "owner": NOBODY},
    )
    assert answer["msg"] == f"{tmp_path}/mail: there is no user {NOBODY} on this host: make it first"
    assert not (tmp_path / "file").exists()


def test_a_link_is_replaced_and_its_target_not_touched(run: Run, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    answer = run({"path": str(tmp_path / "link"), "content": "ours\n"})
    assert answer["diff"][0]["before"] == f"symbolic link to {tmp_path}/target\n"
    assert (tmp_path / "target").read_text() == "precious"
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_text() == "ours\n"


def test_a_link_to_the_wanted_content_is_replaced_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("same")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert run({"path": str(tmp_path / "link"), "content": "same"})["changed"]
    assert not (tmp_path / "link").is_symlink()


def test_a_link_planted_as_temporary_file_is_not_followed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / ".file.mailroom").symlink_to(tmp_path / "target")
    assert run({"path": str(tmp_path / "file"), "content": "ours"})["changed"]
    assert (tmp_path / "target").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "ours"


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("elsewhere")])
def test_a_directory_takes_the_place_of_nothing(run: Run, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "there")
    answer = run({"path": str(tmp_path / "there"), "state": "directory"})
    assert "where a directory is to be" in answer["msg"]


def test_what_is_no_file_is_left_alone(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    answer = run(
        {"path": str(tmp_path / "fifo"), "content": ""},
        {"path": str(tmp_path / "directory"), "content": ""},
    )
    assert answer["msg"].splitlines() == [
        f"{tmp_path}/fifo: is neither a file nor a directory: move it away",
        f"{tmp_path}/directory: is a directory where a file is to be: move it away",
    ]


def test_a_secret_is_seen_nowhere(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(AnsibleModule, "log", lambda _self, message, **_: logged.append(message))
    path = tmp_path / "key"
    path.write_text("old hunter2")
    good = {"path": str(path), "content": "new hunter2", "mode": "0600", "sensitive": True}
    show_all = "/bin/sh -c 'find %s -type f -exec cat {} +; exit 1'"
    refused = run({**good, "content": "bad hunter2"}, validate=[show_all])
    answers = [refused, run(good, check=True), run(good), run(good)]
    assert refused["msg"].endswith("(exit 1): (it said nothing)")
    assert [answer["changed"] for answer in answers[1:]] == [True, True, False]
    assert "hunter2" not in json.dumps(answers)
    assert "Invoked" in "".join(logged)
    assert "hunter2" not in "".join(logged)


def test_a_secret_is_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    opened = os.open

    def watch(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor = opened(path, flags, mode, dir_fd=dir_fd)
        if flags & os.O_CREAT:
            modes.append(f"{stat.S_IMODE(os.fstat(descriptor).st_mode):04o}")
        return descriptor

    monkeypatch.setattr(os, "open", watch)
    monkeypatch.setattr(os, "umask", lambda _mask: 0)
    entry = owned({"path": str(tmp_path / "key"), "content": "x", "mode": "0644", "state": "file"})
    host_files.write_file(host_files.wanted_from({"sensitive": True, **entry}), b"x")
    assert modes == ["0600"]


def test_a_write_is_durable_before_and_after_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, rename = os.fsync, os.rename

    def watch_sync(descriptor: int) -> None:
        steps.append("sync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        sync(descriptor)

    def watch_rename(*arguments: Any, **options: Any) -> None:
        steps.append("rename")
        rename(*arguments, **options)

    monkeypatch.setattr(os, "fsync", watch_sync)
    monkeypatch.setattr(os, "rename", watch_rename)
    entry = owned({"path": str(tmp_path / "new/file"), "content": "x", "mode": None, "state": "file"})
    host_files.write_file(host_files.wanted_from({"sensitive": False, **entry}), b"x")
    assert steps == ["sync directory", "sync file", "rename", "sync directory"]  # the first for the new directory


@pytest.mark.parametrize("step", ["fchown", "fchmod", "fsync", "rename"])
def test_a_killed_write_leaves_the_old_file_and_the_next_run_writes_it(run: Run, tmp_path: Path, step: str) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    program = f"""
import os, signal
from library import host_files
os.{step} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
wanted = host_files.Wanted({str(path)!r}, "file", b"new", 0o644, str(os.getuid()), str(os.getgid()), False)
host_files.write_file(wanted, b"new")
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert run({"path": str(path), "content": "new"})["changed"]
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_a_failed_write_says_what_was_done_before_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def full(source: str, target: str, **options: Any) -> None:
        if target == "second":
            raise OSError(28, "No space left on device")
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", full)
    answer = run(*({"path": str(tmp_path / name), "content": "x"} for name in ("first", "second", "third")))
    assert answer["msg"] == f"{tmp_path}/second: No space left on device"
    assert (answer["changed"], answer["changed_paths"]) == (True, [str(tmp_path / "first")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "scratch"]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"path": "etc/x", "content": ""}, "is not a plain absolute path"),
        ({"path": "/etc/../x", "content": ""}, "is not a plain absolute path"),
        ({"path": "/etc/x/", "state": "directory"}, "is not a plain absolute path"),
        ({"path": "/x"}, "/x: state file needs a content"),
        ({"path": "/x", "state": "absent", "content": ""}, "/x: state absent takes no content"),
        ({"path": "/x", "content": {"a": 1}}, "/x: content is a dict, not text"),
        ({"path": "/x", "content": "", "mode": 420}, "/x: mode 420 is not octal digits in quotes"),
        ({"path": "/x", "content": "", "mode": "u=rw"}, "/x: mode 'u=rw' is not octal digits in quotes"),
    ],
)
def test_a_wrong_entry_is_said_in_one_line(run: Run, entry: dict[str, Any], problem: str) -> None:
    answer = run(entry)
    assert answer["failed"]
    assert answer["msg"].startswith(problem) or problem in answer["msg"]
    assert "\n" not in answer["msg"]


def test_all_wrong_entries_are_said_at_once(run: Run, tmp_path: Path) -> None:
    entry = {"path": str(tmp_path / "file"), "content": ""}
    answer = run(entry, entry, {"path": "relative", "content": ""})
    assert len(answer["msg"].splitlines()) == 2
    assert "is given twice" in answer["msg"]
    assert not (tmp_path / "file").exists()


def test_a_parent_that_is_a_file_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = run({"path": str(tmp_path / "file/x"), "content": ""})
    assert answer["msg"] == f"{tmp_path}/file/x: one of its parents is not a directory: move that away"


def test_what_a_crash_leaves_owed_is_told_until_somebody_settles_it(run: Run, tmp_path: Path) -> None:
    note, entry = tmp_path / "owed" / "example", {"path": str(tmp_path / "file"), "content": "new\n"}
    first = run(entry, owed=note)
    assert (first["changed"], first["owed"], note.exists()) == (True, False, True)

    # The handlers have not run: the next run has nothing to write, but still something to do.
    second = run(entry, owed=note)
    assert (second["changed"], second["owed"], second["changed_paths"]) == (True, True, [])
    assert run(entry, owed=note, check=True)["changed"] is True

    note.unlink()  # as the last handler does
    third = run(entry, owed=note)
    assert (third["changed"], third["owed"], note.exists()) == (False, False, False)


def test_the_note_is_there_before_the_first_write(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "owed" / "example"

    def die(_change: host_files.Change) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(host_files, "apply", die)
    with pytest.raises(KeyboardInterrupt):
        run({"path": str(tmp_path / "file"), "content": "new\n"}, owed=note)
    assert note.exists()


def test_nothing_is_owed_when_nothing_is_written(run: Run, tmp_path: Path) -> None:
    note, entry = tmp_path / "owed" / "example", {"path": str(tmp_path / "file"), "content": "same\n"}
    run(entry)
    run({**entry, "content": "other\n"}, owed=note, check=True)
    run(entry, owed=note)
    assert not note.exists()


def test_a_purged_directory_holds_what_is_named_and_its_directories(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "program"
    (directory / "__pycache__").mkdir(parents=True)
    (directory / "old.py").write_text("old\n")
    (directory / "link").symlink_to(tmp_path)
    entries = (
        {"path": str(directory), "state": "directory", "purge": True},
        {"path": str(directory / "new.py"), "content": "new\n"},
    )

    assert run(*entries, check=True)["changed"] is True
    assert (directory / "old.py").exists()
    run(*entries)

    assert sorted(path.name for path in directory.iterdir()) == ["__pycache__", "new.py"]
    assert tmp_path.is_dir()
    assert run(*entries)["changed"] is False


def test_only_a_directory_can_be_purged(run: Run, tmp_path: Path) -> None:
    answer = run({"path": str(tmp_path / "file"), "content": "", "purge": True})
    assert answer["failed"]
    assert "purge needs state directory" in answer["msg"]


def test_a_directory_that_is_not_there_yet_is_purged_of_nothing(run: Run, tmp_path: Path) -> None:
    entry = {"path": str(tmp_path / "new"), "state": "directory", "purge": True}
    assert run(entry, check=True)["changed_paths"] == [str(tmp_path / "new")]
    assert run(entry)["changed_paths"] == [str(tmp_path / "new")]


def test_a_purged_secret_is_not_shown(run: Run, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "old").write_text("s3cret")
    answer = run({"path": str(tmp_path / "secrets"), "state": "directory", "purge": True, "sensitive": True})
    assert "s3cret" not in json.dumps(answer)
