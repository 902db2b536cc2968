"""Playbooks that cannot be tried without doing it say so; nothing is connected to before that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("playbook", ["authorize", "verify_mail"])
def test_check_mode_is_refused_where_there_is_none(playbook: str) -> None:
    ansible = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [ansible, "-i", "inventory/example", "--check", f"playbooks/{playbook}.yml"]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert run.returncode == 2, run.stdout
    assert "leave out --check" in " ".join(run.stdout.split()), run.stdout
