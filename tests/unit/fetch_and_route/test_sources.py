"""Which session a mailbox gets, and what happens when its token is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from fetch_and_route import maildrop
from fetch_and_route.config import Config, Database, OAuth
from fetch_and_route.mailbox import ImapMailbox
from fetch_and_route.maildrop import Pop3Mailbox
from fetch_and_route.report import Report
from fetch_and_route.run import run
from fetch_and_route.sources import queue_for
from fetch_and_route.trouble import Denied, LoginRefused, Unavailable

from .conftest import Certificate, HttpServer, ImapScript, PopServer
from .test_mailbox import LOGIN, select
from .test_maildrop import raw_of
from .test_oauth import token
from .test_pop3 import mailbox


def said(access_token: str) -> bytes:
    return f"user=prod\1auth=Bearer {access_token}\1\1".encode()


@pytest.fixture
def config_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (tmp_path / "secrets").mkdir()
    for name in ("mailbox-prod", "granted"):
        (tmp_path / "secrets" / name).write_text("secret\n")
    return tmp_path / "config.toml"


@pytest.fixture
def config(state_directory: Path) -> Config:
    return Config(databases=(), mailboxes=(), state_directory=str(state_directory))


@pytest.fixture
def by_token(http_server: HttpServer) -> dict[str, Any]:
    url = f"http://127.0.0.1:{http_server.server_port}/"
    oauth = OAuth(token_url=url, client_id="me", refresh_token="granted")
    return {"auth": "oauth2", "password": "", "oauth": oauth}


def test_the_protocol_decides(
    imap_server: ImapScript, pop_server: PopServer, certificate: Certificate, config: Config, config_path: Path
) -> None:
    port = imap_server(*LOGIN, select(0)).port
    with queue_for(mailbox(port, certificate, protocol="imap"), config, config_path) as session:
        assert isinstance(session, ImapMailbox)
    with queue_for(mailbox(pop_server.port, certificate), config, config_path) as session:
        assert isinstance(session, Pop3Mailbox)


def test_mail_from_elsewhere_goes_all_the_way_while_another_mailbox_is_down(
    pop_server: PopServer,
    http_server: HttpServer,
    certificate: Certificate,
    config: Config,
    config_path: Path,
    closed_port: int,
) -> None:
    (config_path.parent / "secrets/key").write_text("secret")
    verdict = {"id": "0", "verdict": "routed", "model": "crm.lead", "res_id": 7}
    http_server.answers = [(200, json.dumps({"mailroom": {"version": 1, "verdicts": [verdict]}}).encode())]
    pop_server.messages = {"u1": raw_of("a")}
    url = f"http://127.0.0.1:{http_server.server_port}"
    database = Database(name="prod", url=url, protocol="json2", login="gate", key="key", action=7)
    down = dataclasses.replace(mailbox(closed_port, certificate, protocol="imap"), name="down")
    whole = dataclasses.replace(config, databases=(database,), mailboxes=(down, mailbox(pop_server.port, certificate)))
    output = io.StringIO()
    assert run(whole, config_path, Report(output), threading.Event()) == 75
    assert "message-id=<a@x> mailbox=prod recipients=sales@example.com verdict=routed" in output.getvalue()
    assert "mailbox down" in output.getvalue()
    assert pop_server.messages == {}


def test_a_kept_token_that_is_refused_is_replaced_once(
    pop_server: PopServer,
    http_server: HttpServer,
    certificate: Certificate,
    config: Config,
    config_path: Path,
    by_token: dict[str, Any],
) -> None:
    http_server.answers = [token("a1"), token("a2"), token("a3")]
    source = mailbox(pop_server.port, certificate, **by_token)
    pop_server.credentials = [said("a1")]
    for _ in range(2):
        with queue_for(source, config, config_path):
            pass
    assert len(http_server.requests) == 1, "a kept token serves the next run"
    pop_server.credentials = [said("a2")]  # as if a1 had been revoked
    with queue_for(source, config, config_path):
        pass
    assert len(http_server.requests) == 2
    pop_server.credentials = []
    with pytest.raises(LoginRefused, match="authorise again"):
        queue_for(source, config, config_path)
    assert len(http_server.requests) == 3
    assert issubclass(LoginRefused, Denied)


def test_a_new_token_that_is_refused_is_no_reason_to_ask_again(
    pop_server: PopServer,
    http_server: HttpServer,
    certificate: Certificate,
    config: Config,
    config_path: Path,
    by_token: dict[str, Any],
) -> None:
    http_server.answers = [token("a1")]
    pop_server.credentials = []
    with pytest.raises(LoginRefused):
        queue_for(mailbox(pop_server.port, certificate, **by_token), config, config_path)
    assert (len(http_server.requests), pop_server.sessions) == (1, 1)


def test_a_busy_server_costs_no_token(
    pop_server: PopServer,
    http_server: HttpServer,
    certificate: Certificate,
    config: Config,
    config_path: Path,
    by_token: dict[str, Any],
) -> None:
    http_server.answers = [token("a1")]
    source = mailbox(pop_server.port, certificate, **by_token)
    pop_server.credentials = [said("a1")]
    with queue_for(source, config, config_path):
        pass
    pop_server.answers["AUTH XOAUTH2"] = b"-ERR [IN-USE] locked\r\n"
    with pytest.raises(Unavailable, match="locked"):
        queue_for(source, config, config_path)
    assert (len(http_server.requests), pop_server.sessions) == (1, 2)


def test_a_token_that_ends_during_a_run_is_replaced(
    pop_server: PopServer,
    http_server: HttpServer,
    certificate: Certificate,
    config: Config,
    config_path: Path,
    by_token: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(maildrop, "COMMIT_EVERY", 1)
    http_server.answers = [token("a1"), token("a2")]
    pop_server.messages = {"u1": raw_of("a"), "u2": raw_of("b")}
    pop_server.credentials = [said("a1")]
    with queue_for(mailbox(pop_server.port, certificate, **by_token), config, config_path) as queue:
        uids = [entry.uid for entry in queue.index()]
        queue.move(uids[:1], "Routed")
        pop_server.credentials = [said("a2")]
        assert queue.fetch(uids) == {uids[1]: raw_of("b")}
    assert list(pop_server.messages) == ["u2"]


def test_no_token_reaches_a_line_that_is_shown(
    pop_server: PopServer,
    http_server: HttpServer,
    certificate: Certificate,
    config: Config,
    config_path: Path,
    by_token: dict[str, Any],
) -> None:
    http_server.answers = [(200, json.dumps({"access_token": "a1-token", "token_type": "bearer"}).encode())]
    pop_server.answers["AUTH XOAUTH2"] = b"-ERR no\r\n"
    with pytest.raises(LoginRefused) as caught:
        queue_for(mailbox(pop_server.port, certificate, **by_token), config, config_path)
    assert "a1-token" not in str(caught.value)
