"""The table of Odoo's addresses: what gets into it, and that nothing but a clear answer changes it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from fetch_and_route import recipients
from fetch_and_route.__main__ import main
from fetch_and_route.config import Database
from fetch_and_route.odoo import Broken
from fetch_and_route.recipients import allowed, path_of, refresh

from .conftest import Configure, HttpServer, ImapScript
from .test_mailbox import LOGIN, select

DATABASE = Database(
    name="prod",
    url="https://x",
    protocol="json2",
    login="gate",
    key="key",
    action=7,
    domains=("example.com", "example.org"),
)
SALES = ("sales", "example.com")


def table(directory: Path) -> list[str]:
    return path_of(directory, "prod").read_text().splitlines()[1:]


@pytest.mark.parametrize(
    ("name", "domain", "addresses"),
    [
        ("Sales", "Example.com", {"sales@example.com"}),
        ("sales", "", {"sales@example.com", "sales@example.org"}),
        ("sales", "elsewhere.example", set()),
        ("sales", "sub.example.com", set()),
        ("jörg", "example.com", set()),
        ("a b", "example.com", set()),
        ("a\n@evil.example x", "", set()),
        ("a@evil.example", "", set()),
        ("a..b", "", set()),
        ("#a", "", set()),
        ("", "example.com", set()),
        ("a" * 64, "example.org", {"a" * 64 + "@example.org"}),
        ("a" * 65, "example.org", set()),
        ("new.job_1+x-y", "example.org", {"new.job_1+x-y@example.org"}),
    ],
)
def test_only_sound_addresses_of_the_database_s_own_domains(name: str, domain: str, addresses: set[str]) -> None:
    assert allowed([(name, domain)], DATABASE.domains) == addresses


def test_the_table_follows_odoo_and_says_what_is_new(tmp_path: Path) -> None:
    assert refresh(tmp_path, DATABASE, [SALES, ("jobs", "example.com")]).endswith(
        "Odoo has 2 addresses, new: jobs@example.com sales@example.com"
    )
    assert table(tmp_path) == ["jobs@example.com accepted", "sales@example.com accepted"]
    assert stat.S_IMODE(path_of(tmp_path, "prod").stat().st_mode) == 0o600
    assert refresh(tmp_path, DATABASE, [SALES]).endswith("Odoo has 1 addresses, gone: jobs@example.com")
    assert table(tmp_path) == ["sales@example.com accepted"]
    many = refresh(tmp_path, DATABASE, [SALES, *((f"a{number}", "example.org") for number in range(9))])
    assert many.endswith("a4@example.org and 4 more")


def test_what_is_as_it_was_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refresh(tmp_path, DATABASE, [SALES])
    monkeypatch.setattr(recipients, "durable", None)
    assert refresh(tmp_path, DATABASE, [SALES]) == ""


def test_too_many_addresses_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refresh(tmp_path, DATABASE, [SALES])
    monkeypatch.setattr(recipients, "MOST", 3)
    with pytest.raises(Broken, match="has 4 addresses, more than 3"):
        refresh(tmp_path, DATABASE, [("a", ""), ("b", "")])
    assert table(tmp_path) == ["sales@example.com accepted"]


@pytest.fixture
def known(configure: Configure, imap_server: ImapScript, http_server: HttpServer, state_directory: Path) -> Path:
    """The configuration of a database with an empty mailbox, whose table has one address."""
    refresh(state_directory, DATABASE, [SALES])
    path = configure(http_server.server_port, prod=imap_server(*LOGIN, select(0)).port)
    path.write_text(path.read_text().replace("action = 7", 'action = 7\ndomains = ["example.com", "example.org"]'))
    return path


def test_each_run_asks_odoo_though_no_mail_waits(
    known: Path, http_server: HttpServer, state_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    http_server.answers = [(200, json.dumps({"mailroom": {"addresses": [["jobs", ""]]}}).encode())]
    assert main(["--config", str(known), "run"]) == 0
    assert table(state_directory) == ["jobs@example.com accepted", "jobs@example.org accepted"]
    assert "new: jobs@example.com jobs@example.org, gone: sales@example.com" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answers", "code", "text"),
    [
        ([(503, b"")], 75, "HTTP 503"),
        ([(401, b"Invalid apikey")], 77, "HTTP 401"),
        ([(500, b"{}"), (200, b'{"mailroom": {"verdicts": []}}')], 75, "HTTP 500"),
        ([(200, b'{"mailroom": {"verdicts": []}}')], 75, "does not know which addresses there are"),
    ],
)
def test_without_a_clear_answer_the_table_stays(
    known: Path,
    http_server: HttpServer,
    state_directory: Path,
    capsys: pytest.CaptureFixture[str],
    answers: list[tuple[int, bytes]],
    code: int,
    text: str,
) -> None:
    http_server.answers = answers
    assert main(["--config", str(known), "run"]) == code
    assert table(state_directory) == ["sales@example.com accepted"]
    assert capsys.readouterr().out.count(text) == 1
