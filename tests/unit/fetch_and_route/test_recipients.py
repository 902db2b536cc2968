"""The table of Odoo's addresses: what gets into it, and that nothing but a clear answer changes it."""

from __future__ import annotations

import dataclasses
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fetch_and_route import durable, recipients
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
SECOND = dataclasses.replace(DATABASE, name="second", domains=("second.example",))
SALES = ("sales", "example.com")
NAMES = {"prod", "second"}


def table(directory: Path, database: str = "prod") -> list[str]:
    """The addresses in a database's part of the table; its domains are there, too."""
    text = path_of(directory).read_text()
    (part,) = [part for part in text.split("# ") if part.startswith(f"{database}:")]
    lines = part.splitlines()[1:]
    domains = {"prod": DATABASE, "second": SECOND}[database].domains
    assert {f"{domain} OK" for domain in domains} <= set(lines)
    return [line for line in lines if "@" in line]


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
    assert refresh(tmp_path, DATABASE, [SALES, ("jobs", "example.com")], NAMES).endswith(
        "Odoo has 2 addresses, new: jobs@example.com sales@example.com"
    )
    assert table(tmp_path) == ["jobs@example.com OK", "sales@example.com OK"]
    assert stat.S_IMODE(path_of(tmp_path).stat().st_mode) == 0o600
    assert refresh(tmp_path, DATABASE, [SALES], NAMES).endswith("Odoo has 1 addresses, gone: jobs@example.com")
    assert table(tmp_path) == ["sales@example.com OK"]
    many = refresh(tmp_path, DATABASE, [SALES, *((f"a{number}", "example.org") for number in range(9))], NAMES)
    assert many.endswith("a4@example.org and 4 more")


def test_each_database_has_its_own_part_of_the_table(tmp_path: Path) -> None:
    refresh(tmp_path, DATABASE, [SALES], NAMES)
    refresh(tmp_path, SECOND, [("info", "")], NAMES)
    assert (table(tmp_path), table(tmp_path, "second")) == (["sales@example.com OK"], ["info@second.example OK"])
    assert refresh(tmp_path, DATABASE, [], NAMES).endswith("Odoo has 0 addresses, gone: sales@example.com")
    assert (table(tmp_path), table(tmp_path, "second")) == ([], ["info@second.example OK"])


def test_a_database_that_the_inventory_has_no_longer_loses_its_part(tmp_path: Path) -> None:
    refresh(tmp_path, SECOND, [("info", "")], NAMES)
    refresh(tmp_path, DATABASE, [SALES], {"prod"})
    assert "second" not in path_of(tmp_path).read_text()


def test_databases_that_answer_at_once_all_get_their_part(tmp_path: Path) -> None:
    names = [f"db{number}" for number in range(20)]
    databases = [dataclasses.replace(DATABASE, name=name, domains=(f"{name}.example",)) for name in names]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda database: refresh(tmp_path, database, [SALES, ("info", "")], names), databases))
    assert {f"info@{name}.example OK" for name in names} <= set(path_of(tmp_path).read_text().splitlines())


def test_what_is_as_it_was_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refresh(tmp_path, DATABASE, [SALES], NAMES)
    monkeypatch.setattr(durable, "replace", None)
    assert refresh(tmp_path, DATABASE, [SALES], NAMES) == ""


def test_too_many_addresses_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refresh(tmp_path, DATABASE, [SALES], NAMES)
    monkeypatch.setattr(recipients, "MOST", 3)
    with pytest.raises(Broken, match="has 4 addresses, more than 3"):
        refresh(tmp_path, DATABASE, [("a", ""), ("b", "")], NAMES)
    assert table(tmp_path) == ["sales@example.com OK"]


@pytest.fixture
def known(configure: Configure, imap_server: ImapScript, http_server: HttpServer, state_directory: Path) -> Path:
    """The configuration of a database with an empty mailbox, whose table has one address."""
    refresh(state_directory, DATABASE, [SALES], NAMES)
    path = configure(http_server.server_port, prod=imap_server(*LOGIN, select(0)).port)
    path.write_text(path.read_text().replace("action = 7", 'action = 7\ndomains = ["example.com", "example.org"]'))
    return path


def test_each_run_asks_odoo_though_no_mail_waits(
    known: Path, http_server: HttpServer, state_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    http_server.answers = [(200, json.dumps({"mailroom": {"addresses": [["jobs", ""]]}}).encode())]
    assert main(["--config", str(known), "run"]) == 0
    assert table(state_directory) == ["jobs@example.com OK", "jobs@example.org OK"]
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
    assert table(state_directory) == ["sales@example.com OK"]
    assert capsys.readouterr().out.count(text) == 1
