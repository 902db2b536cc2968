"""Which keys a domain has while one follows the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleLookupError
from ansible.plugins.loader import lookup_loader

from lookup_plugins.dkim_selectors import PUBLISHED, dkim_selectors
from module_utils import dkim_state
from module_utils.dkim_rotation import PHASES, Key


def told(directory: Path, *domains: str, removed: bool = False) -> list[tuple[str, str, str, bool]]:
    found = dkim_selectors(directory, domains or ["example.com"], "mailroom1", removed)
    return [(one["domain"], one["selector"], one["type"], one["signs"]) for one in found]


def test_a_domain_that_was_never_dealt_with_signs_with_its_first_keys(tmp_path: Path) -> None:
    first = [("mailroom1", "rsa", True), ("mailroom1-ed25519", "ed25519", True)]
    assert told(tmp_path / "missing", "Example.com", "example.com", "erp.example.com") == [
        (domain, *key) for domain in ("example.com", "erp.example.com") for key in first
    ]
    assert told(tmp_path, removed=True) == []


def test_all_that_may_be_needed_is_published_and_one_signs(tmp_path: Path) -> None:
    keys = [Key(phase, phase, 0) for phase in PHASES]
    dkim_state.save(tmp_path / dkim_state.FILE, {"example.com": keys})
    assert [one[1:] for one in told(tmp_path) if one[2] == "rsa"] == [
        (phase, "rsa", phase == "signs") for phase in PUBLISHED
    ]
    assert {*PUBLISHED} == {*PHASES} - {"removed"}
    assert [one[1] for one in told(tmp_path, removed=True)] == ["removed", "removed-ed25519"]
    assert told(tmp_path, "other.example")[0] == ("other.example", "mailroom1", "rsa", True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"domains": 1}', '{"domains": {"example.com": [{}]}}'])
def test_a_file_that_says_something_else_is_told_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "selectors.json").write_text(content, encoding="utf-8")
    with pytest.raises(AnsibleLookupError, match=r"selectors\.json does not say which .*: restore it") as error:
        run(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [None, {"other.example": (Key("mailroom1", "signs", 0),)}])
def test_keys_that_follow_the_first_are_not_forgotten_with_the_file(kept: Any, tmp_path: Path) -> None:
    """The first keys made anew would sign with what nobody finds in DNS yet."""
    if kept:
        dkim_state.save(tmp_path / dkim_state.FILE, kept)
    for selector in ("mailroom2", "mailroom2-ed25519"):
        (tmp_path / f"example.com.{selector}.key").touch()
    with pytest.raises(
        AnsibleLookupError, match=r"keys of example\.com sign, and .* of mailroom2: restore it"
    ) as error:
        run(tmp_path)
    assert "\n" not in str(error.value)
    assert dkim_selectors(tmp_path, ["example.com"], "mailroom2")[0]["selector"] == "mailroom2"


def test_the_first_keys_and_those_of_other_domains_are_not_taken_for_others(tmp_path: Path) -> None:
    for name in ("example.com.mailroom1", "example.com.mailroom1-ed25519", "example.com.au.mailroom2", "x.other"):
        (tmp_path / f"{name}.key").touch()
    assert told(tmp_path)[0][1] == "mailroom1"


def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "selectors.json").mkdir()
    with pytest.raises(AnsibleLookupError, match=r"selectors\.json: Is a directory: let the user"):
        run(tmp_path)


def test_ansible_finds_the_lookup(tmp_path: Path) -> None:
    assert [one["selector"] for one in run(tmp_path)] == ["mailroom1", "mailroom1-ed25519"]


def run(directory: Path) -> Any:
    lookup = lookup_loader.get("dkim_selectors", class_only=False)
    return lookup.run([str(directory)], domains=["example.com"], selector="mailroom1")
