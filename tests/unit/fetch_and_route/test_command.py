"""The command as people and systemd call it, with both servers scripted."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fetch_and_route.__main__ import main
from fetch_and_route.state import Note, State, lock

from .conftest import Configure, Exchange, HttpServer, ImapScript
from .test_mailbox import FIELDS, LOGIN, OK, literal, login, select

RAW = b"Delivered-To: sales@example.com\r\nReceived: x\r\nMessage-ID: <1@x>\r\n\r\nhello"
INDEX = literal(1, "UID 4 RFC822.SIZE 70", FIELDS, b"Message-ID: <1@x>\r\n\r\n") + OK
ONE_MESSAGE: list[Exchange] = [
    *LOGIN,
    select(1),
    (r"FETCH 1:1 .*", INDEX),
    (r"UID FETCH 4 .*", literal(1, "UID 4", "", RAW) + OK),
    ('UID MOVE 4 "Routed"', OK),
]
ROUTED = {"mailroom": {"version": 1, "verdicts": [{"id": "0", "verdict": "routed", "model": "crm.lead", "res_id": 7}]}}
PONG = json.dumps({"mailroom": {"version": 1, "verdicts": [], "found": []}}).encode()


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """The command takes over two signals; pytest gets them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_message_goes_all_the_way(
    configure: Configure, imap_server: ImapScript, http_server: HttpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    http_server.answers = [(200, json.dumps(ROUTED).encode())]
    config = configure(http_server.server_port, prod=imap_server(*ONE_MESSAGE).port)
    assert main(["--config", str(config), "run"]) == 0
    assert "message-id=<1@x> mailbox=prod recipients=sales@example.com verdict=routed" in capsys.readouterr().out


def test_machines_get_an_object_for_each_message(
    configure: Configure, imap_server: ImapScript, http_server: HttpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    http_server.answers = [(200, json.dumps(ROUTED).encode())]
    config = configure(http_server.server_port, prod=imap_server(*ONE_MESSAGE).port)
    assert main(["--config", str(config), "run", "--json"]) == 0
    message, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert (message["message_id"], message["recipients"], message["record"]) == (
        "<1@x>",
        ["sales@example.com"],
        "crm.lead/7",
    )
    assert (end["event"], end["verdicts"]) == ("end", {"routed": 1})


def test_a_database_that_is_down_delays_no_other(
    configure: Configure,
    imap_server: ImapScript,
    http_server: HttpServer,
    closed_port: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    http_server.answers = [(200, json.dumps(ROUTED).encode())]
    config = configure(http_server.server_port, down=closed_port, prod=imap_server(*ONE_MESSAGE).port)
    assert main(["--config", str(config), "run"]) == 75
    output = capsys.readouterr().out
    assert "mailbox=prod" in output
    assert "mailbox down at mail.example.com" in output
    assert "Connection refused" in output


def test_a_refused_key_is_said_loudly_and_keeps_the_mail(
    configure: Configure, imap_server: ImapScript, http_server: HttpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    http_server.answers = [(401, b"Invalid apikey")]
    config = configure(http_server.server_port, prod=imap_server(*ONE_MESSAGE[:-1]).port)
    assert main(["--config", str(config), "run"]) == 77
    assert "HTTP 401: Invalid apikey: run the roles" in capsys.readouterr().out


@pytest.fixture
def with_metrics(configure: Configure, tmp_path: Path) -> Configure:
    def write(odoo_port: int, **imap_ports: int) -> Path:
        path = configure(odoo_port, **imap_ports)
        (tmp_path / "metrics").mkdir()
        path.write_text(f'metrics_directory = "{tmp_path / "metrics"}"\n' + path.read_text())
        return path

    return write


def looks(waiting: int) -> list[Exchange]:
    """The exchanges of looking what a mailbox holds."""
    date = b'* 1 FETCH (INTERNALDATE "14-Nov-2023 22:13:20 +0000")\r\n'
    return [
        select(waiting),
        *([("FETCH 1 \\(INTERNALDATE\\)", date + OK)] if waiting else []),
        (r'STATUS "Routed" .*', b'* STATUS "Routed" (MESSAGES 120)\r\n' + OK),
        (r'STATUS "Quarantine" .*', b'* STATUS "Quarantine" (MESSAGES 2)\r\n' + OK),
    ]


def test_a_run_leaves_figures(
    with_metrics: Configure, imap_server: ImapScript, http_server: HttpServer, tmp_path: Path
) -> None:
    http_server.answers = [(200, json.dumps(ROUTED).encode())]
    config = with_metrics(http_server.server_port, prod=imap_server(*ONE_MESSAGE, *looks(0)).port)
    assert main(["--config", str(config), "run"]) == 0
    lines = (tmp_path / "metrics/fetch-and-route.prom").read_text().splitlines()
    at = 'mailbox="prod",database="prod"'
    assert f'fetch_and_route_verdicts_total{{{at},verdict="routed"}} 1' in lines
    assert f"fetch_and_route_waiting_messages{{{at}}} 0" in lines
    assert f"fetch_and_route_routed_messages{{{at}}} 120" in lines
    (success,) = [line for line in lines if line.startswith("fetch_and_route_last_success")]
    assert float(success.split()[-1]) > 1700000000


def test_what_waits_while_odoo_is_away_is_in_the_figures(
    with_metrics: Configure, imap_server: ImapScript, http_server: HttpServer, tmp_path: Path
) -> None:
    http_server.answers = [(503, b"")]
    config = with_metrics(http_server.server_port, prod=imap_server(*ONE_MESSAGE[:-1], *looks(1)).port)
    assert main(["--config", str(config), "run"]) == 75
    lines = (tmp_path / "metrics/fetch-and-route.prom").read_text().splitlines()
    at = 'mailbox="prod",database="prod"'
    assert f"fetch_and_route_waiting_messages{{{at}}} 1" in lines
    assert f'fetch_and_route_failures_total{{{at},reason="unavailable"}} 1' in lines
    assert f"fetch_and_route_last_success_timestamp_seconds{{{at}}} 0" in lines
    (age,) = [line for line in lines if line.startswith("fetch_and_route_oldest_waiting_seconds")]
    assert float(age.split()[-1]) > 10_000_000, "since November 2023"


def test_figures_that_cannot_be_written_are_no_failure_of_the_run(
    with_metrics: Configure,
    imap_server: ImapScript,
    http_server: HttpServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    http_server.answers = [(200, json.dumps(ROUTED).encode())]
    config = with_metrics(http_server.server_port, prod=imap_server(*ONE_MESSAGE, *looks(0)).port)
    (tmp_path / "metrics").rmdir()
    assert main(["--config", str(config), "run"]) == 0
    assert "fetch-and-route.prom: No such file or directory: run the role" in capsys.readouterr().out


def test_a_mailbox_that_is_down_delays_no_other_of_its_database(
    configure: Configure,
    imap_server: ImapScript,
    http_server: HttpServer,
    closed_port: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    http_server.answers = [(200, json.dumps(ROUTED).encode())]
    config = configure(http_server.server_port, down=closed_port, prod=imap_server(*ONE_MESSAGE).port)
    config.write_text(config.read_text().replace('database = "down"', 'database = "prod"'))
    assert main(["--config", str(config), "run"]) == 75
    output = capsys.readouterr().out
    assert "mailbox=prod" in output
    assert "mailbox down at mail.example.com" in output


def test_a_scheduled_run_leaves_a_database_alone_that_was_away(
    configure: Configure,
    imap_server: ImapScript,
    http_server: HttpServer,
    state_directory: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    http_server.answers = [(503, b"")]
    config = configure(http_server.server_port, prod=imap_server(*ONE_MESSAGE[:-1]).port)
    assert main(["--config", str(config), "run", "--scheduled"]) == 75
    away, left = capsys.readouterr().out.splitlines()
    assert "HTTP 503: mail waits" in left
    assert away.startswith("database prod: the timer's runs leave it alone until ")
    assert main(["--config", str(config), "run", "--scheduled"]) == 75
    (line,) = capsys.readouterr().out.splitlines()
    assert "HTTP 503: mail waits, the next run tries again: left alone until " in line
    assert line.endswith(", after 1 failures in a row")
    assert len(http_server.requests) == 1
    http_server.answers = [(200, json.dumps(ROUTED).encode())]
    config = configure(http_server.server_port, prod=imap_server(*ONE_MESSAGE).port)
    assert main(["--config", str(config), "run"]) == 0, "a person's run asks all the same"
    assert not (state_directory / "prod.backoff").exists()


def test_a_second_run_leaves_at_once(
    configure: Configure, state_directory: Path, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(closed_port, prod=closed_port)
    with lock(state_directory, "prod"):
        assert main(["--config", str(config), "run"]) == 0
    assert "another fetch-and-route is running" in capsys.readouterr().out


def test_status_shows_what_is_in_quarantine_and_why(
    configure: Configure,
    imap_server: ImapScript,
    state_directory: Path,
    closed_port: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    State(state_directory, "prod").update({"<1@x>": Note(0, "No possible route", ("nobody@example.com",), 1700000000)})
    other = INDEX.replace(b"<1@x>", b"<2@x>")
    server = imap_server(
        *LOGIN,
        select(3),
        (r'STATUS "Routed" .*', b'* STATUS "Routed" (MESSAGES 120)\r\n' + OK),
        (r'STATUS "Quarantine" .*', b'* STATUS "Quarantine" (MESSAGES 2)\r\n' + OK),
        ('EXAMINE "Quarantine"', b"* 2 EXISTS\r\n" + OK),
        (r"FETCH 1:2 .*", INDEX.removesuffix(OK) + other),
        select(3),
    )
    assert main(["--config", str(configure(closed_port, prod=server.port)), "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:4]] == [["waiting", "3"], ["routed", "120"], ["quarantine", "2"]]
    assert lines[4].split()[2:] == ["<1@x>", "nobody@example.com"]
    assert lines[5].strip() == "No possible route"
    assert "<2@x>" in lines[6]
    assert "search the journal" in lines[7]


def test_check_tries_everything_and_says_what_fails(
    configure: Configure,
    imap_server: ImapScript,
    http_server: HttpServer,
    closed_port: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    http_server.answers = [(200, PONG)]
    folders: list[Exchange] = [
        (r'STATUS "Routed" .*', b'* STATUS "Routed" (MESSAGES 0)\r\n' + OK),
        (r'STATUS "Quarantine" .*', b"%t NO no such mailbox\r\n"),
        ('CREATE "Quarantine"', OK),
        ('SUBSCRIBE "Quarantine"', OK),
    ]
    config = configure(http_server.server_port, prod=imap_server(*LOGIN, select(2), *folders).port)
    assert main(["--config", str(config), "check"]) == 0
    port = config.read_text().partition("port = ")[2].splitlines()[0]
    assert capsys.readouterr().out.splitlines() == [
        f"ok: mailbox prod at mail.example.com:{port}: 2 waiting; folders INBOX, Routed, Quarantine (made now)",
        f"ok: database prod at http://127.0.0.1:{http_server.server_port}: the gateway action answers",
    ]
    unable = imap_server(*login("IMAP4rev1"), select(2)).port
    assert main(["--config", str(configure(closed_port, prod=unable)), "check"]) == 77
    assert [line[:16] for line in capsys.readouterr().out.splitlines()] == ["FAILED: mailbox ", "FAILED: database"]


def test_an_offline_check_needs_no_server_and_no_secret(
    configure: Configure, tmp_path: Path, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(closed_port, prod=closed_port)
    (tmp_path / "secrets/key").unlink()
    assert main(["--config", str(config), "check", "--offline"]) == 0
    config.write_text("bogus = 1")
    assert main(["--config", str(config), "check", "--offline"]) == 78
    assert "config.toml: bogus: unknown key" in capsys.readouterr().err


def test_wrong_use_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "usage: fetch-and-route" in capsys.readouterr().err


def test_a_summary_that_cannot_be_sent_is_no_failure_of_the_run(
    configure: Configure,
    imap_server: ImapScript,
    http_server: HttpServer,
    state_directory: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    State(state_directory, "prod").update({"<9@x>": Note(0, "No possible route", (), 1700000000)})
    http_server.answers = [(200, json.dumps(ROUTED).encode())]
    config = configure(http_server.server_port, prod=imap_server(*ONE_MESSAGE).port)  # serves the run, not the summary
    config.write_text('summary_to = "postmaster@mail.example.com"\n' + config.read_text())
    assert main(["--config", str(config), "run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "verdict=routed" in lines[0]
    assert lines[1].startswith("mailbox prod at mail.example.com:")
    assert "1 messages in" in lines[2]
