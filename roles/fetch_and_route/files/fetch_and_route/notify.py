"""What systemd is told by a service of Type=notify (sd_notify(3)): a datagram to the socket that it names."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def tell(*assignments: str) -> None:
    """Tell systemd, such as `READY=1`; nobody is told where it does not ask. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.connect("\0" + address[1:] if address.startswith("@") else address)
            client.send("\n".join(assignments).encode())


def watchdog_seconds() -> float:
    """How long systemd waits for the next `WATCHDOG=1` before it restarts us; 0: it does not watch us."""
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return 0
