"""A POP3 session, against a server with a maildrop."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from fetch_and_route.config import Mailbox, OAuth
from fetch_and_route.pop3 import WINDOW, Pop3, Refusal
from fetch_and_route.trouble import Denied, LoginRefused, Misconfigured, Unavailable

from .conftest import Certificate, PopServer

TOKEN: dict[str, Any] = {"auth": "oauth2", "oauth": OAuth(token_url="t", client_id="c", refresh_token="granted")}


def mailbox(port: int, certificate: Certificate, **more: Any) -> Mailbox:
    values = {
        "name": "prod",
        "database": "prod",
        "host": "mail.example.com",
        "address": "127.0.0.1",
        "port": port,
        "login": "prod",
        "password": "mailbox-prod",
        "ca_file": certificate.ca_file,
        "timeout": 10,
        "protocol": "pop3",
    }
    return Mailbox(**{**values, **more})


def open_session(server: PopServer, certificate: Certificate, password: str = "secret", **more: Any) -> Pop3:
    return Pop3(mailbox(server.port, certificate, **more), password)


@pytest.mark.parametrize(
    "raw",
    [
        b"A: b\r\n\r\n.\r\n..\r\n.x\r\n",
        b"A: b\r\n\r\n" + b"x" * 100_000 + b"\r\n",
        b"a\n.\r\n+OK\r\n.\r\n\n.\n..\n\r\n",
        b"\0\xff\r.\r\n",
    ],
)
def test_a_message_is_what_it_was_and_cannot_end_itself(
    pop_server: PopServer, certificate: Certificate, raw: bytes
) -> None:
    pop_server.messages = {"u1": raw, "u2": b"next\r\n"}
    session = open_session(pop_server, certificate)
    assert list(session.each("reading", ["RETR 1", "RETR 2"], content=True)) == [raw, b"next\r\n"]
    session.quit()


@pytest.mark.parametrize("announced", [True, False])
def test_commands_are_sent_ahead_only_where_the_server_says_so(
    pop_server: PopServer, certificate: Certificate, announced: bool
) -> None:
    pop_server.messages = {f"u{number}": b"x\r\n" for number in range(WINDOW + 5)}
    if not announced:
        pop_server.capabilities.remove("PIPELINING")
    session = open_session(pop_server, certificate)
    commands = [f"RETR {number + 1}" for number in range(WINDOW + 5)]
    assert list(session.each("reading", commands, content=True)) == [b"x\r\n"] * (WINDOW + 5)
    assert pop_server.ahead == (WINDOW if announced else 1)
    session.drop()


def test_what_is_said_before_tls_is_not_believed(pop_server: PopServer, certificate: Certificate) -> None:
    pop_server.starttls = True
    pop_server.answers["STLS"] = b"+OK go\r\n+OK\r\nSASL EVIL\r\nTOP\r\n.\r\n+OK injected\r\n"
    session = open_session(pop_server, certificate, tls="starttls")
    assert pop_server.commands[:4] == ["CAPA", "STLS", "CAPA", "AUTH PLAIN"]
    assert session.ask("counting", "STAT") == "0 0"
    session.drop()


def test_nobody_logs_in_without_tls(pop_server: PopServer, certificate: Certificate) -> None:
    pop_server.starttls = True
    pop_server.answers["CAPA"] = b"+OK\r\nTOP\r\n.\r\n"
    with pytest.raises(Denied, match="offers no STLS: use tls = "):
        open_session(pop_server, certificate, tls="starttls")
    pop_server.answers = {"STLS": b"-ERR not now\r\n"}
    with pytest.raises(Unavailable, match="starting TLS: the server says no: not now"):
        open_session(pop_server, certificate, tls="starttls")
    assert set(pop_server.commands) == {"CAPA", "STLS"}


@pytest.mark.parametrize("tls", ["on_connect", "starttls"])
def test_the_certificate_is_verified(pop_server: PopServer, certificate: Certificate, tls: str) -> None:
    pop_server.starttls = tls == "starttls"
    with pytest.raises(Denied, match="its certificate is not trusted"):
        open_session(pop_server, certificate, tls=tls, host="pop.example.com")
    with pytest.raises(Denied, match="its certificate is not trusted"):
        open_session(pop_server, certificate, tls=tls, ca_file="")


def test_a_password_logs_in_the_best_way_there_is(pop_server: PopServer, certificate: Certificate) -> None:
    pop_server.credentials = ["\0prod\0sécret".encode()]
    open_session(pop_server, certificate, "sécret").drop()
    pop_server.capabilities = []
    open_session(pop_server, certificate, "with a space").drop()
    assert pop_server.commands[-2:] == ["USER prod", "PASS with a space"]
    for password in ("sécret", "a\r\nDELE 1"):
        with pytest.raises(Misconfigured, match="change the password"):
            open_session(pop_server, certificate, password)


def test_an_access_token_logs_in(pop_server: PopServer, certificate: Certificate) -> None:
    pop_server.credentials = [b"user=prod\1auth=Bearer abc\1\1"]
    open_session(pop_server, certificate, "abc", **TOKEN).quit()
    assert pop_server.commands[1] == "AUTH XOAUTH2"


def test_a_refused_token_is_told_apart(pop_server: PopServer, certificate: Certificate) -> None:
    said = base64.b64encode(b"user=prod\1auth=Bearer old\1\1").decode()
    pop_server.answers[said] = b"+ " + base64.b64encode(b'{"status":"401"}') + b"\r\n"
    with pytest.raises(LoginRefused, match=r"\[AUTH\] no: check the login 'prod'.* authorise again"):
        open_session(pop_server, certificate, "old", **TOKEN)
    assert pop_server.commands[-1] == ""
    pop_server.capabilities = ["TOP"]
    with pytest.raises(Denied, match="takes no XOAUTH2"):
        open_session(pop_server, certificate, "old", **TOKEN)


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (b"-ERR [AUTH] bad\r\n", LoginRefused, "check the login 'prod' and the secret 'mailbox-prod'"),
        (b"-ERR bad\r\n", LoginRefused, "the server says no: bad"),
        (b"-ERR [IN-USE] locked\r\n", Unavailable, "locked"),
        (b"-ERR [SYS/TEMP] later\r\n", Unavailable, "later"),
        (b"-ERR [LOGIN-DELAY] wait\r\n", Unavailable, "wait"),
        (b"", Unavailable, "the server hung up"),
        (b"hello\r\n", Unavailable, "not an answer of POP3"),
        (b"+OK" + b"x" * 10_000 + b"\r\n", Unavailable, "a line without an end"),
    ],
)
def test_a_login_that_fails_says_why_and_keeps_the_password(
    pop_server: PopServer, certificate: Certificate, answer: bytes, kind: type[Exception], text: str
) -> None:
    pop_server.capabilities = []
    pop_server.answers["PASS s3same"] = answer
    with pytest.raises(kind, match=text) as caught:
        open_session(pop_server, certificate, "s3same")
    assert str(caught.value).startswith("mailbox prod at mail.example.com:")
    assert "s3same" not in str(caught.value)
    assert isinstance(caught.value, LoginRefused) == (kind is LoginRefused)


def test_a_server_that_is_busy_or_away_is_no_denial(
    pop_server: PopServer, certificate: Certificate, closed_port: int
) -> None:
    pop_server.answers["greeting"] = b"-ERR too many connections\r\n"
    with pytest.raises(Unavailable, match="connecting: the server says no: too many connections"):
        open_session(pop_server, certificate)
    with pytest.raises(Unavailable, match="Connection refused"):
        Pop3(mailbox(closed_port, certificate), "secret")


def test_a_table_has_what_is_listed_and_a_refusal_says_so(pop_server: PopServer, certificate: Certificate) -> None:
    pop_server.messages = {"u1": b"x\r\n"}
    pop_server.answers["LIST"] = b"+OK\r\n1 3 and more\r\nodd\r\n2\r\n.\r\n"
    session = open_session(pop_server, certificate)
    assert list(session.table("looking", "LIST")) == [(1, b"3")]
    pop_server.answers["LIST"] = b"-ERR no\r\n"
    with pytest.raises(Refusal, match="looking: the server says no"):
        session.table("looking", "LIST")
    session.quit()


def test_a_broken_answer_is_not_taken_for_the_end(pop_server: PopServer, certificate: Certificate) -> None:
    pop_server.messages = {"u1": b"x\r\n", "u2": b"y\r\n"}
    pop_server.answers["RETR 1"] = b""
    session = open_session(pop_server, certificate)
    with pytest.raises(Unavailable, match="reading: the connection broke"):
        list(session.each("reading", ["RETR 1", "RETR 2"], content=True))
    with pytest.raises(Unavailable, match="broke off"):
        session.quit()
