"""Scripted servers on loopback: each says what a test wrote down, and nothing else."""

from __future__ import annotations

import contextlib
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


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def state_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory
