"""IMAP IDLE (RFC 2177): a server tells at once when the selected folder changes.

Python has it from 3.14 on. What the server sends at any other time must not be overlooked either, so that the
connection does its own reading, for which imaplib leaves room.
"""

from __future__ import annotations

import imaplib
import re
import select
import socket
import ssl
import time
from contextlib import suppress
from enum import Enum
from io import BufferedReader

LONGEST_LINE = 1_000_000
"""Bytes."""
PARTING = 2
"""Seconds that a server has for each of its last answers when the program is to end."""
KEEPALIVE = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 60,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 15,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 4,
}
"""A peer that is gone without a word is noticed after two minutes, and a router between us does not forget us."""


class Heard(Enum):
    """What one line of a server means to a client that idles."""

    NEWS = "there may be new mail"
    ACCEPTED = "it tells from now on"
    END = "it tells no longer"
    NOTHING = "nothing to us"


def understood(line: bytes, tag: bytes) -> Heard:
    """Read a line that comes while the command `tag` is IDLE.

    Raises imaplib.IMAP4.abort when the connection ends, imaplib.IMAP4.error when the server refuses.
    """
    if not line:
        raise imaplib.IMAP4.abort("the server hung up")
    text = line.rstrip(b"\r\n")
    if text.startswith(b"+"):
        return Heard.ACCEPTED
    if text.startswith(tag + b" "):
        if text[len(tag) + 1 :].upper().startswith(b"OK"):
            return Heard.END
        raise imaplib.IMAP4.error(text[len(tag) + 1 :])
    if text[:5].upper() == b"* BYE":
        raise imaplib.IMAP4.abort(text[2:].decode(errors="replace"))
    return Heard.NEWS if re.fullmatch(rb"\* [0-9]+ EXISTS ?", text, re.IGNORECASE) else Heard.NOTHING


def keep_alive(connection: socket.socket) -> socket.socket:
    """Let the kernel ask a silent peer whether it is there; returns the connection. Raises OSError."""
    for (level, option), value in KEEPALIVE.items():
        connection.setsockopt(level, option, value)
    return connection


class IdleConnection(imaplib.IMAP4):
    """An IMAP connection over TLS that can wait for news."""

    _reader: BufferedReader | None = None
    _read_from: socket.socket | None = None
    _idled = 0

    def read(self, size: int) -> bytes:
        """Read so many bytes."""
        return self._buffered().read(size)

    def readline(self) -> bytes:
        """Read a line, empty when the connection has ended. Raises imaplib.IMAP4.error for an endless one."""
        line = self._buffered().readline(LONGEST_LINE + 1)
        if len(line) > LONGEST_LINE:
            raise self.error(f"a line of more than {LONGEST_LINE} bytes")
        return line

    def shutdown(self) -> None:
        """Close the connection."""
        if self._reader is not None:
            self._reader.close()
        super().shutdown()

    def wait_for_news(self, seconds: float, stop: int) -> bool:
        """Wait for a change of the selected folder, at most so long or until the descriptor `stop` is readable.

        Returns whether there may be new mail, what the server had to say before included. Raises imaplib.IMAP4.abort
        and OSError when the connection ends, imaplib.IMAP4.error when the server does not idle.
        """
        self._idled += 1
        tag = b"Z%d" % self._idled  # imaplib's own begin with letters up to P
        end = time.monotonic() + seconds
        self.send(tag + b" IDLE\r\n")
        news = accepted = False
        while not accepted or (not news and self._readable(end, stop)):
            heard = understood(self.readline(), tag)
            news = news or heard is Heard.NEWS
            accepted = accepted or heard is Heard.ACCEPTED
            if heard is Heard.END:
                return news
        if _is_readable(stop):
            self.sock.settimeout(PARTING)
        self.send(b"DONE\r\n")
        while heard is not Heard.END:
            heard = understood(self.readline(), tag)
            news = news or heard is Heard.NEWS
        return news

    def _readable(self, end: float, stop: int) -> bool:
        """Wait until the server says something or the connection ends; not after `end` (monotonic) or `stop`."""
        reader = self._buffered()
        timeout = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            while True:
                # A line may have come together with an earlier one, and what wakes us may be of TLS alone.
                with suppress(ssl.SSLWantReadError):
                    reader.peek(1)
                    return True
                left = max(end - time.monotonic(), 0)
                ready, _, _ = select.select([self.sock.fileno(), stop], [], [], left)
                if stop in ready or not ready:
                    return False
        finally:
            self.sock.settimeout(timeout)

    def _buffered(self) -> BufferedReader:
        """What reads from the present socket; STARTTLS replaces that, and what was read ahead in clear text with it."""
        if self._reader is None or self._read_from is not self.sock:
            self._read_from = self.sock
            self._reader = self.sock.makefile("rb")
        return self._reader


def _is_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])
