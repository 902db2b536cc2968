#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep a set of files, directories and absences on a host, all of a role in one step."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import grp
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_files
short_description: Keep a set of files on the host exactly as given
description:
  - Compares every file with its wanted content, mode, owner and group, has checkers judge all of them together if any
    differs, and only then writes what differs. Nothing is written unless everything is valid.
  - A file is replaced in one instant (temporary file in the same directory, fsync, rename, fsync of the directory), so
    a crash leaves the old file or the new one, never a part of it.
  - Never writes through a symbolic link. A link that stands in a file's place is replaced, its target is not touched.
  - Directories come first, then files in the order given, then absences. Missing parents are made (root, 0755).
options:
  files:
    description: What is to be on the host.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: str
        required: true
      state:
        description: V(absent) removes a file, a symbolic link or an empty directory.
        type: str
        choices: [file, directory, absent]
        default: file
      content:
        description: The whole content, byte for byte (UTF-8). Required for V(state=file).
        type: str
      mode:
        description: Octal mode as a quoted string; by default V(0644) for files and V(0755) for directories.
        type: str
      owner:
        description: Name or number of the user. In check mode it need not exist yet.
        type: str
        default: root
      group:
        description: Name or number of the group. In check mode it need not exist yet.
        type: str
        default: root
      purge:
        description: With V(state=directory), remove files and links in it that O(files) does not name, not directories.
        type: bool
        default: false
      sensitive:
        description: Keep the content out of diffs, and out of the sight of O(validate).
        type: bool
        default: false
  validate:
    description:
      - Commands that exit 0 and write nothing to standard error when the files are valid, such as those that a daemon
        brings to check its configuration. The first that refuses them ends the run before anything is written.
      - C(%s) is a private directory in which all of O(files) lie under their whole paths, whether they differ or not.
        Those that are sensitive are not there, so that no error can show them.
      - Run without a shell, only if a content differs from the host's. In check mode those are left out whose program
        is not installed.
    type: list
    elements: str
    default: []
  owed:
    description:
      - Absolute path of a note that is made before the first change and stays until somebody removes it. While it is
        there the module reports a change, so that handlers run which an earlier run was cut off before.
      - The last handler of a role removes the note.
    type: str
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: Mailroom contributors
"""

EXAMPLES = r"""
- name: Write the configuration
  host_files:
    files:
      - path: /etc/example/example.conf
        content: "{{ lookup('ansible.builtin.template', 'etc/example/example.conf.j2') }}"
      - {path: /etc/example/key.pem, content: "{{ example_key }}", mode: "0600", sensitive: true}
      - {path: /var/lib/example, state: directory, owner: example, group: example, mode: "0750"}
      - {path: /etc/example/conf.d/old.conf, state: absent}
    validate: [/usr/sbin/example --check --config %s/etc/example/example.conf]
  no_log: "{{ example_no_log }}"
  notify: [Check example, Reload example]
"""

RETURN = r"""
changed_paths:
  description: The paths that were (in check mode, would be) made, changed or removed, in the order of the work.
  returned: always
  type: list
  elements: str
  sample: [/etc/example/example.conf]
owed:
  description: Whether an earlier run made changes and was cut off before its handlers had run.
  returned: when O(owed) is given
  type: bool
"""

VALIDATION_SECONDS = 60


class Refused(Exception):
    """What is asked cannot be done; the text is one line: what, where, what to do."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One entry of O(files), checked. `content` is None for directories and absences."""

    path: str
    state: str
    content: bytes | None
    mode: int
    owner: str
    group: str
    sensitive: bool
    purge: bool = False


@dataclasses.dataclass(frozen=True)
class Found:
    """What a path holds: `kind` is absent, file, directory or link, `content` a file's bytes or a link's target."""

    kind: str
    content: bytes = b""
    mode: int = 0
    uid: int = 0
    gid: int = 0


@dataclasses.dataclass(frozen=True)
class Change:
    """A difference between the two; `content` is false when only mode, owner or group differ."""

    wanted: Wanted
    found: Found
    content: bool


def wanted_from(entry: Mapping[str, Any]) -> Wanted:
    """Check one entry of O(files). Raises Refused."""
    path, state, content = str(entry["path"]), str(entry["state"]), entry["content"]
    if not path.startswith("/") or os.path.normpath(path) != path or "\0" in path:
        raise Refused(f"{path!r}: is not a plain absolute path: write it from / without '..' or a final slash")
    if (state == "file") != (content is not None):
        raise Refused(f"{path}: state {state} {'needs a' if state == 'file' else 'takes no'} content")
    if content is not None and not isinstance(content, str):
        raise Refused(f"{path}: content is a {type(content).__name__}, not text: render or dump it first")
    mode = entry["mode"] if entry["mode"] is not None else "0755" if state == "directory" else "0644"
    if not isinstance(mode, str) or not re.fullmatch(r"[0-7]{3,4}", mode):
        raise Refused(f"{path}: mode {mode!r} is not octal digits in quotes, such as '0644'")
    if entry.get("purge") and state != "directory":
        raise Refused(f"{path}: purge needs state directory")
    return Wanted(
        path,
        state,
        None if content is None else content.encode("utf-8", "surrogateescape"),
        int(mode, 8),
        str(entry["owner"]),
        str(entry["group"]),
        bool(entry["sensitive"]),
        bool(entry.get("purge")),
    )


def found_at(path: str) -> Found:
    """Look at a path, not following a link in its last part. Raises Refused for what is no file, directory or link."""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return Found("link", os.fsencode(Path(path).readlink()))
        content = b""
        if stat.S_ISREG(status.st_mode):
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                content = file.read()
        elif not stat.S_ISDIR(status.st_mode):
            raise Refused(f"{path}: is neither a file nor a directory: move it away")
    except FileNotFoundError:
        return Found("absent")
    except NotADirectoryError as error:
        raise Refused(f"{path}: one of its parents is not a directory: move that away") from error
    kind = "directory" if stat.S_ISDIR(status.st_mode) else "file"
    return Found(kind, content, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def _number(lookup: Callable[[str], int], name: str) -> int | None:
    """Number of a user or group given by name or number; None when there is none of that name."""
    if re.fullmatch(r"[0-9]+", name):
        return int(name)
    try:
        return lookup(name)
    except KeyError:
        return None


def owner_of(wanted: Wanted) -> tuple[int | None, int | None]:
    """Numbers of the wanted user and group, None for one that does not exist (yet)."""
    uid = _number(lambda name: pwd.getpwnam(name).pw_uid, wanted.owner)
    gid = _number(lambda name: grp.getgrnam(name).gr_gid, wanted.group)
    return uid, gid


def change_for(wanted: Wanted, check_mode: bool) -> Change | None:
    """What has to be done for an entry, None when nothing. Raises Refused when it cannot be done safely."""
    found, path = found_at(wanted.path), wanted.path
    if wanted.state == "absent":
        if found.kind == "directory" and any(Path(path).iterdir()):
            raise Refused(f"{path}: is to be absent but is a directory with something in it: empty it")
        return None if found.kind == "absent" else Change(wanted, found, True)
    if wanted.state == "file" and found.kind == "directory":
        raise Refused(f"{path}: is a directory where a file is to be: move it away")
    if wanted.state == "directory" and found.kind in ("file", "link"):
        raise Refused(f"{path}: is a {found.kind} where a directory is to be: move it away (a bind mount is fine)")
    uid, gid = owner_of(wanted)
    if not check_mode and (uid is None or gid is None):
        missing = f"user {wanted.owner}" if uid is None else f"group {wanted.group}"
        raise Refused(f"{path}: there is no {missing} on this host: make it first")
    if found.kind != wanted.state or (wanted.content is not None and found.content != wanted.content):
        return Change(wanted, found, True)
    if (found.mode, found.uid, found.gid) != (wanted.mode, uid, gid):
        return Change(wanted, found, False)
    return None


def run_checker(checker: str, stage: str) -> None:
    """Have a checker judge the files below `stage`. Raises Refused."""
    command = shlex.split(checker)
    try:
        result = subprocess.run(  # noqa: S603 - the checker is the role author's choice, run without a shell
            [word.replace("%s", stage) for word in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=VALIDATION_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise Refused(f"{command[0]}: did not end within {VALIDATION_SECONDS} s; nothing was written") from error
    if result.returncode == 0 and not result.stderr.strip():
        return
    output = (result.stderr.strip() or result.stdout.strip()).decode(errors="replace").replace(stage, "")
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    said = " | ".join(lines[-3:]) or "(it said nothing)"
    raise Refused(f"{command[0]}: refuses the new files, so none was written (exit {result.returncode}): {said}")


def validate(checkers: Sequence[str], wanted: Sequence[Wanted], check_mode: bool, scratch: str | None = None) -> None:
    """Have the checkers judge all files but the sensitive, in a private directory below `scratch`. Raises Refused."""
    here = [checker for checker in checkers if shutil.which(shlex.split(checker)[0])]
    if len(here) < len(checkers) and not check_mode:
        missing = next(checker for checker in checkers if checker not in here)
        raise Refused(f"{shlex.split(missing)[0]}: is not installed, but is to check the new files: install it first")
    if not here:
        return
    with tempfile.TemporaryDirectory(prefix="host_files-", dir=scratch) as stage:
        for file in wanted:
            if file.content is not None and not file.sensitive:
                copy = Path(stage + file.path)
                copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                copy.write_bytes(file.content)
                os.utime(copy, (0, 0))  # Postfix waits until a file is two seconds old before it reads it
        for checker in here:
            run_checker(checker, stage)


def _set_attributes(descriptor: int, wanted: Wanted) -> None:
    uid, gid = owner_of(wanted)
    os.fchown(descriptor, -1 if uid is None else uid, -1 if gid is None else gid)
    os.fchmod(descriptor, wanted.mode)  # after the owner: a change of owner clears the set-id bits


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, mode: int = 0o755) -> None:
    """Make a directory with its parents, durably. What exists stays as it is. Raises OSError."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(0o700)
    path.chmod(mode)
    _sync_directory(path.parent)


def write_file(wanted: Wanted, content: bytes) -> None:
    """Replace a file in one instant; whoever reads or crashes meets the old file or the new one. Raises OSError."""
    path = Path(wanted.path)
    make_directory(path.parent)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # One writer at a time, so that the temporary file's name can be fixed and a crashed run's is found and removed.
        fcntl.flock(folder, fcntl.LOCK_EX)
        temporary = f".{path.name}.mailroom"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=folder), "wb") as file:
                file.write(content)
                file.flush()
                _set_attributes(file.fileno(), wanted)
                os.fsync(file.fileno())
            os.rename(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            raise
        os.fsync(folder)
    finally:
        os.close(folder)


def apply(change: Change) -> None:
    """Do one change on the host. Raises OSError."""
    wanted, path = change.wanted, Path(change.wanted.path)
    if wanted.state == "absent":
        if change.found.kind == "directory":
            path.rmdir()
        else:
            path.unlink()
        _sync_directory(path.parent)
    elif change.content and wanted.content is not None:
        write_file(wanted, wanted.content)
    else:
        if wanted.state == "directory":
            make_directory(path, 0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            _set_attributes(descriptor, wanted)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _name(lookup: Callable[[int], str], number: int) -> str:
    try:
        return lookup(number)
    except KeyError:
        return str(number)


def diff_of(change: Change) -> dict[str, str]:
    """A change as Ansible shows it: text before and after under the path; never the content of a sensitive file."""
    wanted, found = change.wanted, change.found
    if change.content and "directory" not in (wanted.state, found.kind):
        before = found.content.decode(errors="backslashreplace")
        after = (wanted.content or b"").decode(errors="backslashreplace")
        if wanted.sensitive:
            before = "(a secret)\n" if found.kind == "file" else ""
            after = "(a secret, new)\n" if wanted.content else ""
        if found.kind == "link":
            before = f"symbolic link to {os.fsdecode(found.content)}\n"
    else:
        is_now = {
            "mode": f"{found.mode:04o}",
            "owner": _name(lambda uid: pwd.getpwuid(uid).pw_name, found.uid),
            "group": _name(lambda gid: grp.getgrgid(gid).gr_name, found.gid),
        }
        to_be = {"mode": f"{wanted.mode:04o}", "owner": wanted.owner, "group": wanted.group}
        before = "" if found.kind == "absent" else "".join(f"{key} {value}\n" for key, value in is_now.items())
        after = "" if wanted.state == "absent" else "".join(f"{key} {value}\n" for key, value in to_be.items())
    return {"before_header": wanted.path, "after_header": wanted.path, "before": before, "after": after}


def leftovers(directory: Wanted, paths: set[str]) -> list[Change]:
    """The files and links in a directory to purge that are none of the wanted paths. Raises Refused and OSError."""
    if found_at(directory.path).kind != "directory":
        return []
    changes = []
    for path in sorted(str(entry) for entry in Path(directory.path).iterdir()):
        if path not in paths and not stat.S_ISDIR(os.lstat(path).st_mode):
            wanted = dataclasses.replace(directory, path=path, state="absent", purge=False)
            changes.append(Change(wanted, found_at(path), content=True))
    return changes


def changes_for(
    entries: Sequence[Mapping[str, Any]], checkers: Sequence[str], check_mode: bool, scratch: str | None = None
) -> list[Change]:
    """All that has to be done, valid, in the order of doing it. Raises Refused with all problems, one per line."""
    problems: list[str] = []
    changes: list[Change] = []
    all_wanted: list[Wanted] = []
    paths: set[str] = set()
    for entry in entries:
        try:
            wanted = wanted_from(entry)
            if wanted.path in paths:
                raise Refused(f"{wanted.path}: is given twice")
            paths.add(wanted.path)
            all_wanted.append(wanted)
            change = change_for(wanted, check_mode)
            if change is not None:
                changes.append(change)
        except Refused as refused:
            problems.append(str(refused))
        except OSError as error:
            problems.append(f"{entry['path']}: {error.strerror}")
    for directory in (wanted for wanted in all_wanted if wanted.purge):
        try:
            changes += leftovers(directory, paths)
        except Refused as refused:
            problems.append(str(refused))
        except OSError as error:
            problems.append(f"{directory.path}: {error.strerror}")
    if problems:
        raise Refused("\n".join(problems))
    if any(change.content for change in changes):
        validate(checkers, all_wanted, check_mode, scratch)
    directories = [change for change in changes if change.wanted.state == "directory"]
    files = [change for change in changes if change.wanted.state == "file"]
    absences = [change for change in changes if change.wanted.state == "absent"]
    return [*sorted(directories, key=lambda change: change.wanted.path), *files, *absences]


def note_what_is_owed(path: str) -> None:
    """Make the note that survives a crash of this run. Raises Refused."""
    user, group = str(os.geteuid()), str(os.getegid())
    try:
        write_file(Wanted(path, "file", b"", 0o600, user, group, sensitive=False), b"")
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error


def main() -> None:
    """Run as an Ansible module."""
    options = {
        "path": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["file", "directory", "absent"], "default": "file"},
        # Raw: Ansible would turn a dict or a number into text without a word, and we write what we are given.
        "content": {"type": "raw"},
        "mode": {"type": "raw"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "purge": {"type": "bool", "default": False},
        "sensitive": {"type": "bool", "default": False},
    }
    module = AnsibleModule(
        # no_log keeps all contents out of the host's syslog ...
        {
            "files": {"type": "list", "elements": "dict", "required": True, "no_log": True, "options": options},
            "validate": {"type": "list", "elements": "str", "default": []},
            "owed": {"type": "str"},
        },
        supports_check_mode=True,
    )
    # ... but it would also blank every path in the answer: the answer below holds nothing sensitive by itself.
    module.no_log_values.clear()
    entries = module.params["files"]
    answer: dict[str, Any] = {"invocation": {"module_args": {"files": [{"path": entry["path"]} for entry in entries]}}}
    note = module.params["owed"]
    if note:
        answer["owed"] = Path(note).exists()
    done: list[str] = []
    try:
        changes = changes_for(entries, module.params["validate"], module.check_mode, module.tmpdir)
        if module._diff:
            answer["diff"] = [diff_of(change) for change in changes]
        if note and changes and not module.check_mode:
            note_what_is_owed(note)
        for change in changes:
            if not module.check_mode:
                apply(change)
            done.append(change.wanted.path)
    except Refused as refused:
        module.fail_json(msg=str(refused), changed_paths=[], **answer)
    except OSError as error:
        message = f"{change.wanted.path}: {error.strerror}"
        module.fail_json(msg=message, changed=bool(done), changed_paths=done, **answer)
    module.exit_json(changed=bool(done) or answer.get("owed", False), changed_paths=done, **answer)


if __name__ == "__main__":
    main()
