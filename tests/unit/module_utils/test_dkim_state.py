"""Which keys sign, kept on the control node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from module_utils import dkim_state

if TYPE_CHECKING:
    from module_utils.dkim_rotation import Key
else:  # the same class that the module under test has
    from ansible.module_utils.dkim_rotation import Key

STATE = {
    "example.com": (Key("mailroom1", "retired", 1_700_000_000), Key("mailroom2", "signs", 1_700_000_001)),
    "customer.example": (Key("mailroom1", "signs", 5),),
}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    dkim_state.save(tmp_path / "state", STATE)
    assert dkim_state.load(tmp_path / "state") == STATE


def test_without_a_file_no_domain_is_known(tmp_path: Path) -> None:
    assert dkim_state.load(tmp_path / "state") == {}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"version": 2, "domains": {}}',
        '{"version": 1}',
        '{"version": 1, "domains": []}',
        '{"version": 1, "domains": {"example.com": []}}',
        '{"version": 1, "domains": {"example.com": [{"selector": "s", "since": 1}]}}',
        '{"version": 1, "domains": {"example.com": [{"selector": "s", "phase": "signs", "since": "x"}]}}',
        json.dumps({"version": 1, "domains": {"a": [{"selector": "s", "phase": "signs", "since": 1}] * 2}}),
        json.dumps(
            {"version": 1, "domains": {"a": [{"selector": s, "phase": s, "since": 1} for s in ("signs", "gone")]}}
        ),
    ],
)
def test_a_file_that_says_something_else_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "state").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="state does not say which DKIM keys sign: restore it from a backup"):
        dkim_state.load(tmp_path / "state")
