"""Google's and Microsoft's part in sending by OAuth: token endpoints over TLS, and SMTP that takes XOAUTH2 alone.

One server for both; a client that has their names for its address meets the ways of each. What they answer is what
their documentation shows (https://developers.google.com/gmail/imap/xoauth2-protocol,
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow).
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import secrets
import socketserver
import ssl
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAMES = ("oauth2.googleapis.com", "login.microsoftonline.com", "smtp.gmail.com", "smtp.office365.com")
GOOGLE = "oauth2.googleapis.com"


@dataclass(frozen=True)
class Mail:
    """A mail that was taken, and who had logged in."""

    login: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes


@dataclass
class Provider:
    """Who may do what, and what was done. All tokens are worth what `granted` and `opens` say at the moment."""

    client_id: str
    client_secret: str
    granted: dict[str, str] = field(default_factory=dict)  # refresh tokens, and whose they are
    opens: dict[str, str] = field(default_factory=dict)  # access tokens likewise
    codes: dict[str, str] = field(default_factory=dict)  # and what a browser has brought back
    forms: list[dict[str, str]] = field(default_factory=list)  # what token endpoints were asked
    mails: list[Mail] = field(default_factory=list)
    refused: int = 0  # logins

    def token(self, host: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Answer a request (RFC 6749, section 6). Microsoft's refresh tokens bring the next one, and go on to count."""
        if (form.get("client_id"), form.get("client_secret")) != (self.client_id, self.client_secret):
            return 401, {
                "error": "invalid_client",
                "error_description": "AADSTS7000215: Invalid client secret provided.",
            }
        if form.get("grant_type") == "authorization_code":  # section 4.1.3
            login = self.codes.pop(form.get("code", ""), None)
        else:
            login = self.granted.get(form.get("refresh_token", ""))
        if not login:
            return 400, {"error": "invalid_grant", "error_description": "AADSTS700082: The refresh token has expired."}
        access, more = secrets.token_urlsafe(24), {}
        self.opens[access] = login
        if host != GOOGLE:
            scopes = form.get("scope", "offline_access https://outlook.office.com/SMTP.Send").split()
            assert {"offline_access", "https://outlook.office.com/SMTP.Send"} <= set(scopes)
            more["refresh_token"] = secrets.token_urlsafe(24)
            self.granted[more["refresh_token"]] = login
            if "openid" in scopes:
                more["id_token"] = "none"
        return 200, {"access_token": access, "token_type": "Bearer", "expires_in": 3599, **more}


def endpoint(provider: Provider) -> type[BaseHTTPRequestHandler]:
    """A server's handler for its token endpoints."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            provider.forms.append({"host": self.headers["Host"], "path": self.path, **form})
            status, answer = provider.token(self.headers["Host"], form)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _submission(provider: Provider, context: ssl.SSLContext) -> type[socketserver.StreamRequestHandler]:
    class Session(socketserver.StreamRequestHandler):
        """One session (RFC 5321, RFC 3207, RFC 4954)."""

        def say(self, *lines: str) -> None:
            self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # Odoo's Test Connection ends without a word
                self.converse()

        def finish(self) -> None:
            with contextlib.suppress(OSError):
                super().finish()
            self.connection.close()

        def converse(self) -> None:
            """Answer each line."""
            self.login, self.sender = "", ""
            self.recipients: list[str] = []
            self.say("220 ready")
            while line := self.rfile.readline(4096).decode().rstrip("\r\n"):
                verb = line.split(maxsplit=1)[0].upper()
                if verb == "QUIT":
                    self.say("221 bye")
                    return
                getattr(self, f"on_{verb.lower()}", self.on_other)(line)

        def on_other(self, _line: str) -> None:
            self.say("250 ok")

        def on_ehlo(self, _line: str) -> None:
            secured = isinstance(self.connection, ssl.SSLSocket)
            self.say("250-here", "250 AUTH LOGIN XOAUTH2" if secured else "250 STARTTLS")

        def on_starttls(self, _line: str) -> None:
            self.say("220 go ahead")
            self.rfile.close()
            self.wfile.close()
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)

        def on_auth(self, line: str) -> None:
            answer = base64.b64decode(line.removeprefix("AUTH XOAUTH2 ")).decode()
            found = re.fullmatch("user=(.+)\x01auth=Bearer (.+)\x01\x01", answer)
            if found and provider.opens.get(found[2]) == found[1]:
                self.login = found[1]
                self.say("235 2.7.0 accepted")
            else:
                provider.refused += 1
                self.say("535 5.7.3 Authentication unsuccessful")

        def on_mail(self, line: str) -> None:
            self.sender = line.partition("<")[2].partition(">")[0]
            self.say("250 ok" if self.login else "530 5.7.57 Client not authenticated to send mail.")

        def on_rcpt(self, line: str) -> None:
            self.recipients.append(line.partition("<")[2].partition(">")[0])
            self.say("250 ok")

        def on_data(self, _line: str) -> None:
            self.say("354 go ahead")
            lines = []
            while (line := self.rfile.readline()) not in {b".\r\n", b""}:
                lines.append(line)
            if line:
                provider.mails.append(Mail(self.login, self.sender, tuple(self.recipients), b"".join(lines)))
                self.say("250 2.0.0 taken")

    return Session


class _Submission(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextlib.contextmanager
def served(provider: Provider, address: str, chain: Path, key: Path, ports: tuple[int, int]) -> Iterator[None]:
    """Serve the provider's token endpoints and its SMTP, at these ports of an address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    tokens = ThreadingHTTPServer((address, ports[0]), endpoint(provider))
    tokens.daemon_threads = True
    tokens.socket = context.wrap_socket(tokens.socket, server_side=True)
    submission = _Submission((address, ports[1]), _submission(provider, context))
    servers: list[socketserver.BaseServer] = [tokens, submission]
    threads = [threading.Thread(target=server.serve_forever, args=[0.05]) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
