"""The script ./demo around the demo itself, which is replaced here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize("status", [0, 1])
def test_through_sudo_it_ends_as_the_demo_does(tmp_path: Path, status: int) -> None:
    shutil.copy(ROOT / "demo", tmp_path)
    script(tmp_path / "bin" / "id", "echo 0")  # as sudo makes it look
    script(tmp_path / "tests" / "setup", f"echo {tmp_path}/venv")
    script(tmp_path / "venv" / "bin" / "python", f"exit {status}")
    environment = os.environ | {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "SUDO_UID": str(os.getuid()),
        "SUDO_GID": str(os.getgid()),
    }
    done = subprocess.run([tmp_path / "demo"], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == status, "what is not there has no owner to give back, and is no failure"
    assert done.stderr == ""
