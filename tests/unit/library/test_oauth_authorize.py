"""oauth_authorize: a provider and a browser of our own on loopback."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from library.oauth_authorize import PATH, Listener, begin, finish

AUTHORIZATION = {
    "name": "prod",
    "login": "odoo@example.com",
    "url": "https://login.example.com/authorize",
    "client_id": "me",
    "client_secret": "hush",
    "scope": "mail offline_access",
    "more": {"prompt": "consent"},
}


class Provider:
    """Token endpoint: what it was asked, and what it answers."""

    def __init__(self) -> None:
        self.forms: list[dict[str, str]] = []
        self.status, self.answer = 200, json.dumps({"access_token": "a", "refresh_token": "granted"})
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                provider.forms.append(dict(urllib.parse.parse_qsl(body)))
                self.send_response(provider.status)
                self.send_header("Content-Length", str(len(provider.answer)))
                self.send_header("Location", "http://127.0.0.1:9/")
                self.end_headers()
                self.wfile.write(provider.answer.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/token"


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    thread = Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


class Person:
    """Opens what is shown, and is sent back with answers."""

    def __init__(self, provider: Provider, directory: Path) -> None:
        self.authorization = {**AUTHORIZATION, "token_url": provider.url}
        self.directory = directory
        self.statuses: list[int] = []

    def authorise(self, *paths: str, timeout: float = 10) -> tuple[list[str], list[str]]:
        """Run both steps. STATE in a path becomes the right one."""
        with Listener(0, states := []) as listener:
            port = listener.server_port
            start = begin(self.authorization, f"http://localhost:{port}{PATH}")
            self.asked = dict(urllib.parse.parse_qsl(start["url"].partition("?")[2]))
            states.append(start["state"])
            browser = Thread(
                target=self._browse, args=[port, [path.replace("STATE", start["state"]) for path in paths]]
            )
            browser.start()
            try:
                params = {"timeout": timeout, "port": port, "directory": str(self.directory)}
                return finish(listener, [self.authorization], [start], params)
            finally:
                browser.join()

    def _browse(self, port: int, paths: list[str]) -> None:
        for path in paths:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path)
            self.statuses.append(connection.getresponse().status)
            connection.close()


@pytest.fixture
def person(provider: Provider, tmp_path: Path) -> Person:
    return Person(provider, tmp_path)


def test_the_token_is_kept_and_shown_to_nobody(person: Person, provider: Provider) -> None:
    lines, problems = person.authorise(f"{PATH}?state=STATE&code=c0de")
    kept = person.directory / "oauth-prod"
    assert kept.read_text() == "granted\n"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert problems == []
    assert lines == [
        "odoo_databases[prod].provider.oauth: write refresh_token: \"{{ lookup('ansible.builtin.file', "
        "secrets_directory ~ '/oauth-prod') }}\" and run site.yml"
    ]
    (form,) = provider.forms
    assert form.items() >= {"grant_type": "authorization_code", "code": "c0de", "client_secret": "hush"}.items()
    assert form["redirect_uri"] == person.asked["redirect_uri"]
    challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
    assert (person.asked["code_challenge"], person.asked["code_challenge_method"]) == (challenge, "S256")
    assert person.asked.items() >= {"login_hint": "odoo@example.com", "prompt": "consent", "client_id": "me"}.items()
    assert "hush" not in person.asked.values()


def test_an_answer_to_somebody_else_s_question_is_not_taken(person: Person, provider: Provider) -> None:
    others = ("/favicon.ico", f"{PATH}?state=other&code=evil", "/x?state=STATE&code=evil")
    lines, _ = person.authorise(*others, f"{PATH}?state=STATE&code=c0de")
    assert person.statuses == [404, 404, 404, 200]
    assert [form["code"] for form in provider.forms] == ["c0de"]
    assert len(lines) == 1


def test_a_person_who_does_not_come_back_is_told(person: Person) -> None:
    assert person.authorise(timeout=0.01) == (
        [],
        ["odoo_databases[prod].provider.oauth: nobody came back within 0.01 s: run again"],
    )


def test_a_person_who_does_not_agree_is_told(person: Person, provider: Provider) -> None:
    path = f"{PATH}?state=STATE&error=access_denied&error_description=The+user%0Adenied"
    assert person.authorise(path)[1] == [
        "odoo_databases[prod].provider.oauth: the provider says The user denied: run again, and agree to all that is "
        "asked"
    ]
    assert provider.forms == []


@pytest.mark.parametrize(
    ("status", "answer", "problem"),
    [
        (401, '{"error": "invalid_client", "error_description": "Bad\\nsecret"}', "says Bad secret: correct client_id"),
        (500, "<html>", "says Internal Server Error: correct client_id and client_secret, or run again"),
        (200, "<html>", "gives no token (Expecting value"),
        (200, '{"access_token": "a"}', "gives no refresh token: take the application's access back there"),
        (302, "{}", "says Found"),
    ],
)
def test_an_endpoint_that_gives_no_token_is_told(
    person: Person, provider: Provider, status: int, answer: str, problem: str
) -> None:
    provider.status, provider.answer = status, answer
    lines, (line,) = person.authorise(f"{PATH}?state=STATE&code=c0de")
    assert lines == []
    assert f"{provider.url} {problem}" in line
    assert "hush" not in line
    assert list(person.directory.iterdir()) == []
