"""Scripted servers on loopback: each says what a test wrote down, and nothing else."""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from fetch_and_route import state
from lookup_plugins.private_certificate import private_certificate

Exchange = tuple[str, bytes]
"""A pattern that the client's next line must match without its tag, and the answer, in which %t is the tag. An empty
answer: the server closes the connection."""


class Certificate(NamedTuple):
    """A server's certificate for mail.example.com and the authority that signed it."""

    ca_file: str
    context: ssl.SSLContext


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    directory = tmp_path_factory.mktemp("ca")
    made = private_certificate(directory, ["mail.example.com"], 90, datetime.now(UTC))
    (directory / "own.pem").write_text(made["ca"])
    (directory / "pair.pem").write_text(made["key"] + made["chain"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "pair.pem")
    return Certificate(str(directory / "own.pem"), context)


class ImapServer:
    """Serves one connection by a script; `problems` says where the client did not follow it.

    TLS is there from the start, or with `starttls` after the script has answered that command.
    """

    def __init__(
        self, context: ssl.SSLContext, script: Sequence[Exchange], greeting: bytes, *, starttls: bool = False
    ) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.problems: list[str] = []
        self._context, self._greeting, self._starttls = context, greeting, starttls
        self._script = [*script, ("LOGOUT", b"* BYE\r\n%t OK bye\r\n")]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._socket, contextlib.suppress(OSError):
            plain, _ = self._socket.accept()
            plain.settimeout(10)
            with contextlib.ExitStack() as stack:
                connection = stack.enter_context(plain) if self._starttls else self._upgrade(stack, plain)
                lines = stack.enter_context(connection.makefile("rb"))
                connection.sendall(self._greeting)
                tag = ""
                for pattern, answer in self._script:
                    line = lines.readline().decode().rstrip("\r\n")
                    if " " in line:
                        tag, _, line = line.partition(" ")
                    if not re.fullmatch(pattern, line):
                        self.problems.append(f"{line!r} is not {pattern!r}")
                        return
                    if not answer:
                        return
                    connection.sendall(answer.replace(b"%t", tag.encode()))
                    if line == "STARTTLS" and b"OK" in answer:
                        connection = self._upgrade(stack, connection)
                        lines = stack.enter_context(connection.makefile("rb"))

    def _upgrade(self, stack: contextlib.ExitStack, plain: socket.socket) -> ssl.SSLSocket:
        return stack.enter_context(self._context.wrap_socket(plain, server_side=True))

    def end(self) -> None:
        """Wait for the connection's end; fail when the client did not follow the script."""
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        self._thread.join(20)
        assert self.problems == []


ImapScript = Callable[..., ImapServer]


@pytest.fixture
def imap_server(certificate: Certificate) -> Iterator[ImapScript]:
    servers: list[ImapServer] = []

    def start(
        *script: Exchange, capabilities: str = "IMAP4rev1 AUTH=PLAIN", starttls: bool = False, welcome: str = "OK"
    ) -> ImapServer:
        greeting = f"* {welcome} [CAPABILITY {capabilities}] hello\r\n".encode()
        asked = ("CAPABILITY", f"* CAPABILITY {capabilities}\r\n%t OK done\r\n".encode())
        servers.append(ImapServer(certificate.context, [asked, *script], greeting, starttls=starttls))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


class PopServer:
    """A POP3 server with one maildrop, for any number of sessions, one after the other.

    A test sets what it needs before it connects, and reads what the client did.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.messages: dict[str, bytes] = {}
        """What is in the maildrop, by unique-id; lines end as they are, dots at their start are stuffed."""
        self.capabilities = ["TOP", "UIDL", "PIPELINING", "SASL PLAIN XOAUTH2"]
        """Empty: no CAPA."""
        self.starttls = False
        self.answers: dict[str, bytes] = {}
        """Answers to be given instead of the right ones, by command; an empty one: the server hangs up."""
        self.credentials = [b"\0prod\0secret"]
        """What AUTH takes; a login by USER and PASS always works."""
        self.dies_at = 0
        """The n-th command from now is not heard; the connection breaks. 0: never."""
        self.commands: list[str] = []
        self.sessions = 0
        self.ahead = 0
        """So many commands were there at once."""
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def end(self) -> None:
        """Stop serving."""
        self._ended = True
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        self._thread.join(20)

    _ended = False

    def _serve(self) -> None:
        with self._socket:
            while True:
                connection, _ = self._socket.accept()
                if self._ended:
                    connection.close()
                    return
                connection.settimeout(10)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.sessions += 1
                with contextlib.suppress(OSError):
                    self._session(connection)

    def _session(self, connection: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            if not self.starttls:
                connection = stack.enter_context(self._context.wrap_socket(connection, server_side=True))
            connection.sendall(self.answers.get("greeting", b"+OK hello\r\n"))
            drop = list(self.messages.items())
            deleted: set[str] = set()
            waiting = b""
            while True:
                while b"\r\n" not in waiting:
                    more = connection.recv(65536)
                    if not more:
                        return
                    waiting += more
                self.ahead = max(self.ahead, waiting.count(b"\r\n"))
                line, _, waiting = waiting.partition(b"\r\n")
                self.dies_at -= 1
                if self.dies_at == 0:
                    return
                command = line.decode()
                self.commands.append(command)
                answer = self.answers.get(command)
                if answer is None:
                    answer = self._answer(command, drop, deleted)
                if not answer:
                    return
                if command == "QUIT" and answer.startswith(b"+OK"):
                    for unique in deleted:
                        del self.messages[unique]
                connection.sendall(answer)
                if command == "STLS" and answer.startswith(b"+OK"):
                    connection = stack.enter_context(self._context.wrap_socket(connection, server_side=True))
                if command == "QUIT":
                    return

    def _answer(self, command: str, drop: list[tuple[str, bytes]], deleted: set[str]) -> bytes:
        words = command.split(" ")
        there = [(number, unique) for number, (unique, _) in enumerate(drop, 1) if unique not in deleted]
        if words[0] in ("USER", "PASS", "STLS", "QUIT"):
            return b"+OK\r\n"
        if words[0] == "CAPA" and self.capabilities:
            return self._lines([*self.capabilities, *(["STLS"] if self.starttls else [])])
        if words[0] == "AUTH":
            return b"+ \r\n"
        if words[0] == "STAT":
            return f"+OK {len(there)} 0\r\n".encode()
        if words[0] == "LIST":
            return self._lines([f"{number} {len(drop[number - 1][1])}" for number, _ in there])
        if words[0] == "UIDL":
            return self._lines([f"{number} {unique}" for number, unique in there])
        if words[0] in ("TOP", "RETR", "DELE"):
            unique, raw = drop[int(words[1]) - 1]
            if unique in deleted or (words[0] == "TOP" and not self._has_top):
                return b"-ERR no\r\n"
            if words[0] == "DELE":
                deleted.add(unique)
                return b"+OK\r\n"
            return b"+OK\r\n" + stuffed(raw.partition(b"\r\n\r\n")[0] if words[0] == "TOP" else raw)
        if command and base64.b64decode(command) in self.credentials:
            return b"+OK\r\n"
        return b"-ERR [AUTH] no\r\n"

    @property
    def _has_top(self) -> bool:
        return "TOP" in self.capabilities

    @staticmethod
    def _lines(lines: Sequence[str]) -> bytes:
        return "".join(f"{line}\r\n" for line in ["+OK", *lines, "."]).encode()


def stuffed(raw: bytes) -> bytes:
    """A message as POP3 sends it: a dot before each dot that begins a line, and the end. A line ends at CRLF."""
    return re.sub(rb"(\A|(?<=\r\n))\.", rb"..", raw.removesuffix(b"\r\n") + b"\r\n") + b".\r\n"


@pytest.fixture
def pop_server(certificate: Certificate) -> Iterator[PopServer]:
    server = PopServer(certificate.context)
    yield server
    server.end()


class Request(NamedTuple):
    """What came in over HTTP."""

    path: str
    headers: dict[str, str]
    body: bytes


class HttpServer(HTTPServer):
    """Answers what it is told: a list of (status, body), the last one again and again; status 0 hangs up."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, bytes]] = []
        self.requests: list[Request] = []
        self.connections = 0
        self.retry_after = ""

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5  # seconds; a failing test may leave its connection open
    server: HttpServer

    def setup(self) -> None:
        self.server.connections += 1
        super().setup()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(Request(self.path, dict(self.headers), body))
        answers = self.server.answers
        status, answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.close_connection = not status
        if status:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.send_header("Location", "https://elsewhere.example.com/")
            if self.server.retry_after:
                self.send_header("Retry-After", self.server.retry_after)
            self.end_headers()
            self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def http_server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(20)


class SmtpServer:
    """Takes mail over SMTP, one connection after the other; `refuse` says no to that command."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.refuse = ""
        self.commands: list[str] = []
        self.mails: list[bytes] = []
        self._ended = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._socket:
            while not self._ended:
                connection, _ = self._socket.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(10)
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        connection.sendall(b"220 mail.example.com\r\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                command = line.decode().rstrip("\r\n")
                self.commands.append(command)
                word = command.split(" ")[0].upper()
                if word == self.refuse:
                    connection.sendall(b"554 5.7.1 not today\r\n")
                elif word == "DATA":
                    connection.sendall(b"354 go on\r\n")
                    self.mails.append(b"".join(itertools.takewhile(lambda text: text != b".\r\n", lines)))
                    connection.sendall(b"250 taken\r\n")
                elif word == "QUIT":
                    connection.sendall(b"221 bye\r\n")
                    return
                else:
                    connection.sendall(b"250 fine\r\n")

    def end(self) -> None:
        """Stop serving."""
        self._ended = True
        socket.create_connection(("127.0.0.1", self.port), 10).close()
        self._thread.join(20)


@pytest.fixture
def smtp_server() -> Iterator[SmtpServer]:
    server = SmtpServer()
    yield server
    server.end()


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Is released each time that somebody begins to wait for a database's lock."""
    begun = threading.Semaphore(0)
    waited = state._waited

    def wait(descriptor: int, stop: int) -> bool:
        begun.release()
        return waited(descriptor, stop)

    monkeypatch.setattr(state, "_waited", wait)
    return begun


@pytest.fixture
def state_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


Configure = Callable[..., Path]
"""Writes a configuration: the port of all Odoos, and for each mailbox its name and port. Returns its path."""


@pytest.fixture
def configure(
    tmp_path: Path, state_directory: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> Configure:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (tmp_path / "secrets").mkdir()
    for name in ("key", "password"):
        (tmp_path / "secrets" / name).write_text("secret")

    def write(odoo_port: int, **imap_ports: int) -> Path:
        lines = [f'state_directory = "{state_directory}"']
        for name, port in imap_ports.items():
            lines += [
                f'[[databases]]\nname = "{name}"\nurl = "http://127.0.0.1:{odoo_port}"\nprotocol = "json2"',
                'login = "gate"\nkey = "key"\naction = 7',
                f'[[mailboxes]]\nname = "{name}"\ndatabase = "{name}"\nhost = "mail.example.com"',
                f'address = "127.0.0.1"\nport = {port}\nlogin = "{name}"\npassword = "password"',
                f'ca_file = "{certificate.ca_file}"',
            ]
        path = tmp_path / "config.toml"
        path.write_text("\n".join(lines))
        return path

    return write
