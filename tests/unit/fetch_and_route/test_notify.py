"""What systemd hears."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fetch_and_route import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"{'@' if abstract else ''}{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(name.replace("@", "\0"))
        server.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify.tell("READY=1", "STATUS=well")
        assert server.recv(100) == b"READY=1\nSTATUS=well"


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.tell("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify.tell("READY=1")


@pytest.mark.parametrize(("value", "seconds"), [("120000000", 120), ("", 0), ("soon", 0)])
def test_the_watchdog_has_its_patience(monkeypatch: pytest.MonkeyPatch, value: str, seconds: float) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", value)
    assert notify.watchdog_seconds() == seconds
    monkeypatch.delenv("WATCHDOG_USEC")
    assert notify.watchdog_seconds() == 0
