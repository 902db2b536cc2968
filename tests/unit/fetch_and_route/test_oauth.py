"""Access tokens: asked for when needed, kept while they last, and whom to tell when there are none."""

from __future__ import annotations

import dataclasses
import json
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fetch_and_route.config import Mailbox, OAuth
from fetch_and_route.oauth import MARGIN, Tokens
from fetch_and_route.trouble import Denied, Misconfigured, Unavailable

from .conftest import HttpServer

SECRETS = {"client": "c-secret", "granted": "r-secret"}
MAILBOX = Mailbox(name="prod", database="prod", host="h", login="info@example.com", auth="oauth2")


class Clock:
    """Says what time it is."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.5

    def __call__(self) -> float:
        return self.now


def token(text: str, lasts: object = 3600, **more: object) -> tuple[int, bytes]:
    """An endpoint's answer (RFC 6749, section 5.1)."""
    return 200, json.dumps({"access_token": text, "token_type": "Bearer", "expires_in": lasts, **more}).encode()


def error(status: int, code: str, **more: object) -> tuple[int, bytes]:
    return status, json.dumps({"error": code, **more}).encode()


@pytest.fixture
def clock() -> Clock:
    return Clock()


Open = Callable[..., Tokens]


@pytest.fixture
def tokens(http_server: HttpServer, state_directory: Path, clock: Clock) -> Open:
    def make(secrets: dict[str, str] | None = None, **more: Any) -> Tokens:
        url = f"http://127.0.0.1:{http_server.server_port}/tenant/token?v=2"
        values = {"token_url": url, "client_id": "me", "client_secret": "client", "refresh_token": "granted"}
        oauth = OAuth(**{**values, **more})
        return Tokens(MAILBOX, oauth, state_directory, (secrets or SECRETS).__getitem__, clock)

    return make


def forms(server: HttpServer) -> list[dict[str, str]]:
    """What the endpoint was asked with."""
    return [dict(urllib.parse.parse_qsl(request.body.decode())) for request in server.requests]


def test_a_refresh_token_gives_an_access_token(http_server: HttpServer, tokens: Open) -> None:
    http_server.answers = [token("a1")]
    assert tokens(scope="https://mail.example.com/ offline").token() == "a1"
    (request,) = http_server.requests
    assert request.path == "/tenant/token?v=2"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert forms(http_server) == [
        {
            "grant_type": "refresh_token",
            "client_id": "me",
            "refresh_token": "r-secret",
            "client_secret": "c-secret",
            "scope": "https://mail.example.com/ offline",
        }
    ]


def test_a_client_may_ask_for_itself(http_server: HttpServer, tokens: Open) -> None:
    http_server.answers = [token("a1", refresh_token="of no use")]
    assert tokens(grant="client_credentials", refresh_token="", scope="s").token() == "a1"
    assert forms(http_server) == [
        {"grant_type": "client_credentials", "client_id": "me", "client_secret": "c-secret", "scope": "s"}
    ]


def test_a_public_client_has_no_secret(http_server: HttpServer, tokens: Open) -> None:
    http_server.answers = [token("a1")]
    tokens(client_secret="").token()
    assert forms(http_server) == [{"grant_type": "refresh_token", "client_id": "me", "refresh_token": "r-secret"}]


@pytest.mark.parametrize("lasts", [3600, "3600"])
def test_an_access_token_serves_until_shortly_before_its_end(
    http_server: HttpServer, tokens: Open, clock: Clock, lasts: object
) -> None:
    http_server.answers = [token("a1", lasts), token("a2", lasts)]
    first = tokens()
    assert first.token() == "a1"
    assert first.asked
    assert first.token() == "a1"
    assert not first.asked
    clock.now += 3599 - MARGIN
    assert tokens().token() == "a1", "in another run, too"
    clock.now += 1
    assert tokens().token() == "a2"
    assert len(http_server.requests) == 2


@pytest.mark.parametrize("lasts", [None, "soon", [], 60])
def test_a_token_that_does_not_say_how_long_serves_once(http_server: HttpServer, tokens: Open, lasts: object) -> None:
    http_server.answers = [token("a1", lasts), token("a2", lasts)]
    assert tokens().token() == "a1"
    assert tokens().token() == "a2"


def test_a_refused_token_is_replaced_unless_somebody_did(http_server: HttpServer, tokens: Open) -> None:
    http_server.answers = [token("a1"), token("a2"), token("a3")]
    first, second = tokens(), tokens()
    assert first.token() == "a1"
    assert second.token() == "a1"
    assert first.token(refused="a1") == "a2"
    assert second.token(refused="a1") == "a2"
    assert not second.asked
    assert len(http_server.requests) == 2


def test_a_rotated_refresh_token_is_used_from_then_on(
    http_server: HttpServer, tokens: Open, state_directory: Path
) -> None:
    http_server.answers = [token("a1", 0, refresh_token="r2"), token("a2", 0), token("a3", 0, refresh_token="r3")]
    for _ in range(4):
        tokens().token()
    assert [form["refresh_token"] for form in forms(http_server)] == ["r-secret", "r2", "r2", "r3"]
    path = state_directory / "tokens/prod/token.json"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_who_authorises_again_is_heard(http_server: HttpServer, tokens: Open) -> None:
    http_server.answers = [token("a1", refresh_token="r2"), token("a2")]
    tokens().token()
    assert tokens({**SECRETS, "granted": "new"}).token() == "a2"
    assert forms(http_server)[1]["refresh_token"] == "new"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"configured": 1}', b"\xff"])
def test_a_broken_file_holds_nothing(
    http_server: HttpServer, tokens: Open, state_directory: Path, content: bytes
) -> None:
    http_server.answers = [token("a1")]
    (state_directory / "tokens/prod").mkdir(parents=True)
    (state_directory / "tokens/prod/token.json").write_bytes(content)
    assert tokens().token() == "a1"


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (
            error(400, "invalid_grant", error_description="AADSTS70008:\nexpired"),
            Denied,
            "AADSTS70008: expired: a person",
        ),
        (
            error(400, "invalid_grant"),
            Denied,
            "invalid_grant: a person must authorise again: renew the secret 'granted'",
        ),
        (error(401, "invalid_client"), Denied, "invalid_client: check token_url, client_id, client_secret and scope"),
        (error(400, "temporarily_unavailable"), Unavailable, "mail waits"),
        (error(429, "slow"), Unavailable, "HTTP 429"),
        ((503, b"<html>"), Unavailable, "HTTP 503: no token in it: mail waits"),
        ((200, b"<html>"), Unavailable, "HTTP 200"),
        ((404, b""), Denied, "HTTP 404: no token in it: check token_url"),
        ((302, b""), Denied, "HTTP 302"),
        ((0, b""), Unavailable, "mail waits"),
        ((200, b'{"access_token": "a\\u0001", "token_type": "Bearer"}'), Denied, "no bearer token"),
        ((200, b'{"access_token": "", "token_type": "Bearer"}'), Denied, "no bearer token"),
        ((200, b'{"access_token": "a", "token_type": "mac"}'), Denied, "no bearer token"),
    ],
)
def test_no_token_says_why_and_what_to_do(
    http_server: HttpServer, tokens: Open, answer: tuple[int, bytes], kind: type[Exception], text: str
) -> None:
    http_server.answers = [answer]
    with pytest.raises(kind, match=text) as caught:
        tokens().token()
    said = str(caught.value)
    assert said.startswith("mailbox prod: access token from http://127.0.0.1")
    assert "\n" not in said
    assert not [value for value in SECRETS.values() if value in said]
    assert len(http_server.requests) == 1


def test_nobody_listens_or_nobody_is_trusted(
    tokens: Open, closed_port: int, tmp_path: Path, http_server: HttpServer
) -> None:
    with pytest.raises(Unavailable, match="Connection refused"):
        tokens(token_url=f"https://localhost:{closed_port}/").token()
    with pytest.raises(Misconfigured, match="none"):
        tokens(token_url=f"https://localhost:{http_server.server_port}/", ca_file=str(tmp_path / "none")).token()


def test_what_was_rotated_is_kept_when_the_next_answer_is_an_error(http_server: HttpServer, tokens: Open) -> None:
    http_server.answers = [token("a1", 0, refresh_token="r2"), (503, b""), token("a2")]
    assert tokens().token() == "a1"
    with pytest.raises(Unavailable):
        tokens().token()
    assert tokens().token() == "a2"
    assert forms(http_server)[2]["refresh_token"] == "r2"


def test_nothing_is_asked_with_when_the_answer_could_not_be_kept(
    http_server: HttpServer, tokens: Open, state_directory: Path
) -> None:
    http_server.answers = [token("a1", refresh_token="r2")]
    ours = tokens()
    (state_directory / "tokens/prod/token.json.new").mkdir()
    with pytest.raises(Misconfigured, match="make room"):
        ours.token()


def test_each_mailbox_has_its_own(http_server: HttpServer, state_directory: Path) -> None:
    http_server.answers = [token("a1"), token("a2")]
    url = f"http://127.0.0.1:{http_server.server_port}/"
    oauth = OAuth(token_url=url, client_id="me", refresh_token="granted")
    for name, expected in (("prod", "a1"), ("test", "a2"), ("prod", "a1")):
        mailbox = dataclasses.replace(MAILBOX, name=name)
        assert Tokens(mailbox, oauth, state_directory, SECRETS.__getitem__, Clock()).token() == expected
