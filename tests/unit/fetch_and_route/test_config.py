"""What a person can write wrong in the configuration, and the one line that says so."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from fetch_and_route.config import load, parse, secret
from fetch_and_route.trouble import Misconfigured

GOOD: dict[str, Any] = {
    "attempts": 3,
    "databases": [
        {"name": "prod", "url": "https://odoo.example.com", "protocol": "json2", "login": "g", "key": "k", "action": 7}
    ],
    "mailboxes": [
        {
            "name": "prod",
            "database": "prod",
            "host": "mail.example.com",
            "login": "prod",
            "password": "p",
            "former_names": {"old@example.com": "new@example.com"},
        }
    ],
}
OAUTH = {"token_url": "https://login.example.com/token", "client_id": "c", "refresh_token": "r"}


def token_login(oauth: dict[str, Any] | None) -> dict[str, Any]:
    """Changes the mailbox to log in by token."""
    return {"mailboxes.0.auth": "oauth2", "mailboxes.0.password": "", **({"mailboxes.0.oauth": oauth} if oauth else {})}


@pytest.mark.parametrize(
    ("protocol", "tls", "port"),
    [("imap", "on_connect", 993), ("imap", "starttls", 143), ("pop3", "on_connect", 995), ("pop3", "starttls", 110)],
)
def test_each_way_to_connect_has_its_port(protocol: str, tls: str, port: int) -> None:
    table = copy.deepcopy(GOOD)
    table["mailboxes"][0] |= {"protocol": protocol, "tls": tls}
    assert parse(table, "x").mailboxes[0].port == port
    table["mailboxes"][0]["port"] = 1143
    assert parse(table, "x").mailboxes[0].port == 1143


def test_a_login_by_token_needs_no_password() -> None:
    table = copy.deepcopy(GOOD)
    del table["mailboxes"][0]["password"]
    table["mailboxes"][0] |= {"auth": "oauth2", "oauth": OAUTH}
    oauth = parse(table, "x").mailboxes[0].oauth
    assert oauth is not None
    assert (oauth.grant, oauth.refresh_token, oauth.client_secret) == ("refresh_token", "r", "")


def test_a_configuration_is_read_with_its_defaults(tmp_path: Path) -> None:
    config = parse(GOOD, "x")
    assert (config.attempts, config.batch_messages) == (3, 20)
    assert config.databases[0].timeout == 300
    assert config.mailboxes[0].port == 993
    assert config.mailboxes[0].former_names == {"old@example.com": "new@example.com"}
    assert parse({**GOOD, "summary_smtp": "[::1]:2525"}, "x").summary_smtp == "[::1]:2525"
    path = tmp_path / "config.toml"
    path.write_text("databases = []\nmailboxes = []\n")
    assert load(path).databases == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bogus": 1}, "x: bogus: unknown key"),
        ({"databases.0.bogus": 1}, r"x: databases\[0\]\.bogus: unknown key"),
        ({"mailboxes.0.former_names": 1}, r"mailboxes\[0\]\.former_names: 1 is not a table of texts"),
        ({"mailboxes.0.former_names": {"a": 1}}, r"mailboxes\[0\]\.former_names\.a: 1 is not a text"),
        ({"attempts": "5"}, "attempts: '5' is not a whole number"),
        ({"attempts": True}, "attempts: True is not a whole number"),
        ({"attempts": -1}, "attempts: -1 is not a whole number"),
        ({"attempts": 0}, "attempts: 0: must be at least 1"),
        ({"mailboxes.0.port": 0}, r"mailboxes\[0\]\.port: 0: must be at least 1"),
        ({"metrics_directory": "metrics"}, "metrics_directory: 'metrics': write the whole path"),
        ({"summary_to": "postmaster"}, "summary_to: 'postmaster' is not a mail address"),
        ({"summary_to": "a@b\nc"}, "summary_to: .* is not a mail address"),
        ({"summary_smtp": "127.0.0.1"}, "summary_smtp: '127.0.0.1': write the port"),
        ({"summary_smtp": "127.0.0.1:x"}, "summary_smtp: .* write the port"),
        ({"summary_smtp": "mx.example.net:25"}, "summary_smtp: .* on this host"),
        ({"databases": {}}, "databases: {} is not a list"),
        ({"databases.0": 5}, r"databases\[0\]: 5 is not a table"),
        ({"databases.0.protocol": "soap"}, r"databases\[0\]\.protocol: 'soap' is not one of json2, xmlrpc"),
        ({"databases.0.url": "http://odoo.example.com"}, r"databases\[0\]\.url: .* use https"),
        ({"databases.0.url": "odoo.example.com"}, r"databases\[0\]\.url: .* is no address"),
        ({"databases.0.url": "https://[odoo"}, r"databases\[0\]\.url: .* is no address"),
        ({"databases.0.url": "https://odoo.example.com:http"}, r"databases\[0\]\.url: .* is no address"),
        ({"mailboxes.0.database": "test"}, r"mailboxes\[0\]\.database: there is no database 'test' \(known: prod\)"),
        ({"mailboxes.0.name": "../x"}, r"mailboxes\[0\]\.name: '\.\./x' cannot be a file name"),
        ({"mailboxes.0.protocol": "pop"}, r"mailboxes\[0\]\.protocol: 'pop' is not one of imap, pop3"),
        ({"mailboxes.0.tls": "none"}, r"mailboxes\[0\]\.tls: 'none' is not one of on_connect, starttls"),
        ({"mailboxes.0.password": ""}, r"mailboxes\[0\]\.password: is missing"),
        ({"mailboxes.0.oauth": OAUTH}, r"mailboxes\[0\]\.oauth: is not used: write auth = \"oauth2\""),
        ({"mailboxes.0.auth": "oauth2"}, r"mailboxes\[0\]\.password: is not used"),
        (token_login(None), r"mailboxes\[0\]\.oauth: is missing"),
        (token_login({**OAUTH, "tenant": "t"}), r"mailboxes\[0\]\.oauth\.tenant: unknown key"),
        (
            token_login({**OAUTH, "refresh_token": ""}),
            r"oauth\.refresh_token: is missing: the grant refresh_token needs",
        ),
        (token_login({**OAUTH, "grant": "client_credentials"}), r"oauth\.client_secret: is missing"),
        (token_login({**OAUTH, "token_url": "http://login.example.com/"}), r"oauth\.token_url: .* use https"),
        (token_login({**OAUTH, "token_url": "login"}), r"oauth\.token_url: 'login' is no address of a token endpoint"),
        ({"mailboxes.0.protocol": "pop3", "mailboxes.0.host": "pop.gmail.com"}, r"use imap\.gmail\.com"),
        ({"mailboxes.0.routed": "Geroutet-für"}, r"mailboxes\[0\]\.routed: .* plain ASCII"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(change: dict[str, Any], message: str) -> None:
    table = copy.deepcopy(GOOD)
    for path, value in change.items():
        *parents, last = path.split(".")
        target: Any = table
        for parent in parents:
            target = target[int(parent) if isinstance(target, list) else parent]
        target[int(last) if isinstance(target, list) else last] = value
    with pytest.raises(Misconfigured, match=message) as caught:
        parse(table, "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["databases", "mailboxes"])
def test_a_missing_key_and_a_name_given_twice_are_named(kind: str) -> None:
    table = copy.deepcopy(GOOD)
    del table[kind][0]["login"]
    with pytest.raises(Misconfigured, match=rf"x: {kind}\[0\]\.login: is missing"):
        parse(table, "x")
    table = copy.deepcopy(GOOD)
    table[kind].append(table[kind][0])
    with pytest.raises(Misconfigured, match=rf"x: {kind}\[1\]\.name: 'prod' is there twice"):
        parse(table, "x")


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"none\.toml: No such file"):
        load(tmp_path / "none.toml")
    for content in (b"= 1", b"\xff"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(Misconfigured, match=r"bad\.toml: is not TOML"):
            load(tmp_path / "bad.toml")


def test_secrets_come_from_systemd_or_from_beside_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/key").write_text("by hand\n")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/key").write_text("by systemd")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert secret("key", tmp_path / "config.toml") == "by hand"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    assert secret("key", tmp_path / "config.toml") == "by systemd"
    (tmp_path / "credentials/key").write_text("\n")
    with pytest.raises(Misconfigured, match="is empty"):
        secret("key", tmp_path / "config.toml")
    with pytest.raises(Misconfigured, match="No such file"):
        secret("other", tmp_path / "config.toml")
