"""POP3 (RFC 1939 with CAPA of RFC 2449, STLS of RFC 2595, AUTH of RFC 5034): one session, logged in.

Certificates are always verified, and nothing that was said before TLS is believed. The standard library's client is not
used: it gives up at lines of more than 2048 bytes, so that one such message would keep a mailbox from being read.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

from . import tls, xoauth2
from .config import Mailbox
from .trouble import Denied, LoginRefused, Misconfigured, Unavailable, one_line

WINDOW = 100
"""Commands sent at once to a server that takes several: far below what buffers on the way hold."""
LONGEST = 8192
"""Bytes of a line that is no part of a message; RFC 2449 section 4 allows 512."""

_LISTED = re.compile(rb"^(\d{1,10})[ \t]+(\S+)", re.MULTILINE)
_LATER = re.compile(r"\[(IN-USE|LOGIN-DELAY|SYS/TEMP)", re.IGNORECASE)
"""Response codes of a refusal that passes by itself (RFC 2449, section 8.1; RFC 3206, section 4)."""


class Refused(Exception):
    """The server answered -ERR; the text is the server's."""


class Refusal(Unavailable):
    """The same in one line that says where."""


class Pop3:
    """A session. Every method raises Unavailable or Denied."""

    def __init__(self, config: Mailbox, password: str) -> None:
        """Connect and log in, by password, or by access token where `auth` says so.

        Raises LoginRefused and Misconfigured, too.
        """
        self._config = config
        self._where = f"mailbox {config.name} at {config.host}:{config.port}"
        self._owed = 0
        """Answers that are still to be read."""
        self._capabilities: frozenset[str] = frozenset()
        context = tls.context(config.ca_file)
        with self._explained("connecting"):
            address = config.address or config.host
            self._socket: socket.socket = socket.create_connection((address, config.port), config.timeout)
            self._listen()
        try:
            self._open(context)
            self._log_in(password)
        except BaseException:
            self.drop()
            raise

    def has(self, capability: str) -> bool:
        """Whether the server announces a capability. One without CAPA announces none."""
        return capability in self._capabilities

    @property
    def announces(self) -> bool:
        """Whether the server says at all what it can."""
        return bool(self._capabilities)

    def drop(self) -> None:
        """End the session without QUIT: whatever was deleted in it is not (RFC 1939, section 6). Never raises."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._socket.close()

    def quit(self) -> None:
        """Have the deletions done and end the session; when it raises nobody knows whether they are."""
        try:
            self.ask("ending the session", "QUIT")
        finally:
            self.drop()

    def ask(self, doing: str, command: str) -> str:
        """Give one command; returns the text of the answer."""
        with self._explained(doing):
            self._send([command])
            good, text = self._status()
            if not good:
                raise Refused(text)
            return text

    def table(self, doing: str, command: str) -> Iterator[tuple[int, bytes]]:
        """Give LIST or UIDL; yields what is listed, each with its message number. Raises Refusal at once."""
        (content,) = self.each(doing, [command], content=True)
        with self._explained(doing):
            if content is None:
                raise Refused(command)
        return ((int(line[1]), line[2]) for line in _LISTED.finditer(content))

    def each(self, doing: str, commands: Sequence[str], *, content: bool = False) -> Iterator[bytes | None]:
        """Give commands, several at once if the server takes that; yields what each brought, None where it says no.

        With `content` that is the message (or lines) after the answer, else nothing. All have to be taken.
        """
        window = WINDOW if self.has("PIPELINING") else 1
        for first in range(0, len(commands), window):
            part = commands[first : first + window]
            with self._explained(doing):
                self._send(part)
            for _ in part:
                with self._explained(doing):
                    good, _text = self._status(more=content)
                    brought = (self._content() if content else b"") if good else None
                yield brought

    def _open(self, context: ssl.SSLContext) -> None:
        with self._explained("connecting"):
            if self._config.tls == "on_connect":
                self._upgrade(context)
            self._owed = 1
            good, text = self._status()  # the greeting
            if not good:
                raise Refused(text)
        self._capabilities = self._asked_capabilities()
        if self._config.tls == "starttls":
            with self._explained("connecting"):
                if not self.has("STLS"):
                    raise tls.Missing("offers no STLS")
                self.ask("starting TLS", "STLS")
                self._upgrade(context)
            self._capabilities = self._asked_capabilities()  # RFC 2595, section 4

    def _upgrade(self, context: ssl.SSLContext) -> None:
        """Go on in TLS. What is buffered from before is dropped with its buffer."""
        self._file.close()
        self._socket = tls.wrap(self._socket, context, self._config.host)
        self._listen()

    def _listen(self) -> None:
        self._file = cast(BinaryIO, self._socket.makefile("rb"))

    def _asked_capabilities(self) -> frozenset[str]:
        """Each capability by its name, `SASL X` for each way to log in; empty where the server has no CAPA."""
        (content,) = self.each("asking what it can", ["CAPA"], content=True)
        lines = [line.split() for line in (content or b"").decode("ascii", "replace").upper().splitlines()]
        ways = {f"SASL {way}" for words in lines if words[:1] == ["SASL"] for way in words[1:]}
        return frozenset(words[0] for words in lines if words) | ways

    def _log_in(self, password: str) -> None:
        login = self._config.login
        try:
            with self._explained("logging in"):
                if self._config.auth == "oauth2":
                    if not self.has("SASL XOAUTH2"):
                        raise Denied(f"{self._where}: logging in: the server takes no XOAUTH2: use a password")
                    self._authenticate("XOAUTH2", xoauth2.answers(login, password))
                elif self.has("SASL PLAIN"):  # takes any character
                    self._authenticate("PLAIN", iter([f"\0{login}\0{password}".encode()]))
                elif re.fullmatch("[ -~]+", login) and re.fullmatch("[ -~]+", password):
                    self.ask("logging in", f"USER {login}")
                    self.ask("logging in", f"PASS {password}")
                else:
                    raise Misconfigured(f"{self._where}: logging in: the server takes only ASCII: change the password")
        except Refusal as error:
            if _LATER.search(str(error)):
                raise Unavailable(f"{error}: the next run tries again") from error
            raise LoginRefused(f"{error}: {xoauth2.remedy(self._config)}") from error

    def _authenticate(self, way: str, answers: Iterator[bytes]) -> None:
        """SASL in lines of its own: Exchange Online takes no initial answer beside the command."""
        self._send([f"AUTH {way}"])
        while True:
            line = self._line()
            if not re.match(rb"\+ |\+\r?\n", line):
                break
            said = next(answers, None)
            self._socket.sendall((b"*" if said is None else base64.b64encode(said)) + b"\r\n")
        self._owed -= 1
        if not line.upper().startswith(b"+OK"):
            raise Refused(_text(line))

    def _send(self, commands: Sequence[str]) -> None:
        if self._owed:  # what comes next answers an earlier command
            raise EOFError("it broke off before")
        self._owed += len(commands)
        self._socket.sendall("".join(f"{command}\r\n" for command in commands).encode("ascii"))

    def _status(self, *, more: bool = False) -> tuple[bool, str]:
        """Read whether the server says yes, and its text. With `more` a yes is only the beginning of the answer."""
        line = self._line()
        good = line.upper().startswith(b"+OK")
        if not good and not line.upper().startswith(b"-ERR"):
            raise EOFError(f"not an answer of POP3: {line!r}")
        if not (good and more):
            self._owed -= 1
        return good, _text(line)

    def _line(self) -> bytes:
        line = self._file.readline(LONGEST)
        if not line.endswith(b"\n"):
            raise EOFError("a line without an end" if line else "the server hung up")
        return line

    def _content(self) -> bytes:
        """Read what follows up to the line with a dot (RFC 1939, section 3).

        A line ends at CRLF alone. Were a bare LF an end, too, a message could hold an end of itself and go on to
        answer for the server.
        """
        content = bytearray()
        at_start = True
        while True:
            line = self._file.readline()
            if not line.endswith(b"\n"):
                raise EOFError("the server hung up")
            if at_start and line == b".\r\n":
                self._owed -= 1
                return bytes(content)
            content += line[1:] if at_start and line.startswith(b".") else line
            at_start = line.endswith(b"\r\n")

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Say in one line where and at what something failed."""
        where = f"{self._where}: {doing}"
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise Denied(
                f"{where}: its certificate is not trusted: {error.verify_message}: trust its authority or mend the name"
            ) from error
        except tls.Missing as error:
            raise Denied(f'{where}: the server {error}: use tls = "on_connect" or another server') from error
        except (EOFError, ValueError) as error:  # ValueError: the session is over
            raise Unavailable(f"{where}: the connection broke: {one_line(error)}: the next run tries again") from error
        except OSError as error:
            raise Unavailable(f"{where}: {one_line(error.strerror or error)}: the next run tries again") from error
        except Refused as error:
            raise Refusal(f"{where}: the server says no: {one_line(error)}") from error


def _text(line: bytes) -> str:
    """What a line says after its +OK or -ERR."""
    return line.decode("utf-8", "replace").strip().partition(" ")[2]
