"""What holds for every file of the repository: it stands alone, it is tidy, it runs on the oldest Python promised."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]

# Character classes keep a pattern from finding itself in this file.
STRANGERS = {
    r"(^|[\s\"'=:(])/([U]sers|[w]ork)/\w": "a path of one machine: make it relative to the repository",
    r"[.]pyenv|/[t]mp/venv": "a path of one machine: use what is on PATH",
    r"[.]\./shared\b|\b[k]nowledge/": "a file that is not in the repository: say here what it says",
    r"\b([f]iles\.pythonhosted\.org|[p]ypi\.org|[g]alaxy\.ansible\.com)\b": "a registry: pip knows its own",
    r"\b([d]eb|[s]ecurity|[s]napshot|ftp\.\w+)\.debian\.org\b": "a mirror: use the one the machine has",
    r"\b([d]ocker|[g]hcr|[q]uay)\.io\b": "a registry: images are built here",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}": "a private key: make one when it is needed",
}
PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^\s;]+)(?P<rest>.*)$", re.MULTILINE)


def repository_files() -> list[Path]:
    """Returns what is in the repository or about to be, as text files; messages kept as tests' input are left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return sorted(file for file in files if file.is_file() and file.suffix != ".eml" and b"\0" not in file.read_bytes())


FILES = repository_files()
TEXTS = {str(file.relative_to(ROOT)): file.read_bytes().decode(errors="replace") for file in FILES}


def named(pattern: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [name for name in TEXTS if re.search(pattern, name)])


@pytest.mark.parametrize("pattern", STRANGERS)
def test_nothing_refers_to_what_is_outside(pattern: str) -> None:
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}"
        for name, text in TEXTS.items()
        for match in re.finditer(pattern, text, re.MULTILINE)
    ]
    assert not found, STRANGERS[pattern]


def test_text_is_tidy() -> None:
    untidy = {
        name: complaint
        for name, text in TEXTS.items()
        for complaint, wrong in {
            "carriage return": "\r" in text,
            "tab": "\t" in text,
            "space at the end of a line": re.search(r" $", text, re.MULTILINE) is not None,
            "no line end at the end": text != "" and not text.endswith("\n"),
        }.items()
        if wrong
    }
    assert not untidy


def test_executable_files_say_what_runs_them() -> None:
    executable = [name for name in TEXTS if os.access(ROOT / name, os.X_OK)]
    assert executable
    assert not [name for name in executable if not TEXTS[name].startswith("#!/")]


def test_scripts_are_executable() -> None:
    scripts = [name for name, text in TEXTS.items() if text.startswith("#!/usr/bin/env ")]
    assert not [name for name in scripts if not os.access(ROOT / name, os.X_OK)]


@named(r"\.py$")
def test_python_is_of_the_oldest_version_promised(name: str) -> None:
    ast.parse(TEXTS[name], name, feature_version=(3, 11))


def test_shell_scripts_parse() -> None:
    scripts = [name for name, text in TEXTS.items() if re.match(r"#!.*\b(ba)?sh\b", text)]
    assert scripts
    for name in scripts:
        parsed = subprocess.run(["bash", "-n", name], cwd=ROOT, capture_output=True, text=True, check=False)
        assert not parsed.stderr, parsed.stderr


@named(r"\.md$")
def test_links_between_documents_lead_somewhere(name: str) -> None:
    targets = re.findall(r"\]\((?![a-z]+:)([^)#\s]+)", TEXTS[name])
    folder = (ROOT / name).parent
    assert not [target for target in targets if not (folder / target).resolve().is_relative_to(ROOT)]
    assert not [target for target in targets if not (folder / target).exists()]


def pins(lock: str) -> dict[str, str]:
    return {match["name"]: match["version"] for match in PIN.finditer(TEXTS[lock])}


def test_locks_are_of_the_dependencies_asked_for() -> None:
    project = tomllib.loads(TEXTS["pyproject.toml"])
    wanted = {
        "requirements.lock": project["project"]["dependencies"],
        "requirements-dev.lock": project["project"]["dependencies"] + project["dependency-groups"]["dev"],
    }
    for lock, requirements in wanted.items():
        for requirement in map(Requirement, requirements):
            version = pins(lock).get(requirement.name.lower())
            assert version, f"{lock} lacks {requirement.name}: run tests/tools/lock"
            assert Version(version) in requirement.specifier, f"{lock}: {requirement.name}: run tests/tools/lock"


def test_tests_run_on_what_users_install() -> None:
    assert pins("requirements.lock").items() <= pins("requirements-dev.lock").items()


@named(r"^requirements.*\.lock$")
def test_locks_hold_names_versions_and_hashes_only(name: str) -> None:
    line = re.compile(r"#.*|[a-z0-9-]+==\S+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert not [text for text in TEXTS[name].splitlines() if not line.fullmatch(text)]


def test_changes_that_are_not_released_have_their_place() -> None:
    assert "\n## [Unreleased]\n" in TEXTS["CHANGELOG.md"]


@named(r"^molecule/[^/]+/molecule\.yml$")
def test_every_step_of_a_scenario_has_its_playbook(name: str) -> None:
    """Molecule only remarks on a step that it has no playbook for, and goes on without it."""
    config = yaml.safe_load(TEXTS[".config/molecule/config.yml"].replace("${MOLECULE_PROJECT_DIRECTORY}", str(ROOT)))
    known: dict[str, str] = config["ansible"]["playbooks"]
    derived = {"check": "converge", "idempotence": "converge"}
    for step in config["scenario"]["test_sequence"]:
        action, *playbooks = step.split()
        assert action in known or derived.get(action) in known, f"{action}: name its playbook in ansible.playbooks"
        for playbook in playbooks or [known[derived.get(action, action)]]:
            assert ((ROOT / name).parent / playbook).is_file(), f"{step}: {playbook} is not there for {name}"
