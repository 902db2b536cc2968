"""What a person asks and does, with both servers scripted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fetch_and_route.__main__ import main
from fetch_and_route.commands import bare
from fetch_and_route.originals import Originals
from fetch_and_route.state import Note, State

from .conftest import Configure, Exchange, HttpServer, ImapScript, PopServer
from .test_mailbox import LOGIN, OK, literal, login, select

NOTE = Note(5, "No possible route", ("nobody@example.com",), 1700000000)
HEADER = b"Message-ID: <1@x>\r\nSubject: \x1b[2Jhello\r\n\r\n"


def holds(folder: str, *identities: str, writable: bool = False) -> list[Exchange]:
    """The exchanges of opening a folder with these messages, UIDs from 7 on."""
    count = len(identities)
    listing = b"".join(
        literal(number, f"UID {number + 6} RFC822.SIZE 9", "HEADER.FIELDS (MESSAGE-ID)", f"Message-ID: {name}".encode())
        for number, name in enumerate(identities, 1)
    )
    status = (rf'STATUS "{folder}" .*', f'* STATUS "{folder}" (MESSAGES {count})\r\n'.encode() + OK)
    if not count:
        return [status]
    word = "SELECT" if writable else "EXAMINE"
    return [status, (f'{word} "{folder}"', f"* {count} EXISTS\r\n".encode() + OK), (r"FETCH 1:\d .*", listing + OK)]


def finds(folder: str, *identities: str) -> list[Exchange]:
    """The exchanges of a search for <1@x> in a folder of two messages more than it finds."""
    count = len(identities) + 2
    uids = range(7, 7 + len(identities))
    hits = " ".join(map(str, uids)).encode()
    headers = b"".join(
        literal(uid, f"UID {uid}", "HEADER", f"Message-ID: {name}".encode())
        for uid, name in zip(uids, identities, strict=True)
    )
    return [
        (rf'STATUS "{folder}" .*', f'* STATUS "{folder}" (MESSAGES {count})\r\n'.encode() + OK),
        (f'EXAMINE "{folder}"', f"* {count} EXISTS\r\n".encode() + OK),
        ('UID SEARCH HEADER Message-ID "<1@x>"', b"* SEARCH " + hits + b"\r\n" + OK),
        *([(r"UID FETCH \S+ \(UID BODY\.PEEK\[HEADER\]\)", headers + OK)] if identities else []),
        select(0),
    ]


def quarantine(*identities: str) -> list[Exchange]:
    return [*LOGIN, select(0), *holds("Quarantine", *identities, writable=True)]


@pytest.fixture
def state(state_directory: Path) -> State:
    state = State(state_directory, "prod")
    state.update({"<1@x>": NOTE})
    return state


@pytest.mark.usefixtures("state")
def test_the_quarantine_is_a_table(
    configure: Configure, imap_server: ImapScript, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    script = [*LOGIN, select(0), *holds("Quarantine", "<1@x>", "<2@x>"), select(0)]
    empty = [*LOGIN, select(0), *holds("Quarantine")]
    config = configure(closed_port, prod=imap_server(*script).port, test=imap_server(*empty).port)
    assert main(["--config", str(config), "quarantine", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mailbox prod: 2 in quarantine"
    assert lines[1].split() == ["TIME", "MESSAGE-ID", "RECIPIENTS", "REASON"]
    assert lines[2].endswith("  <1@x>       nobody@example.com  No possible route")
    assert lines[3].split() == ["?", "<2@x>", "?"]
    assert lines[4] == "mailbox test: nothing in quarantine"


@pytest.mark.usefixtures("state")
def test_machines_get_the_quarantine_as_one_document(
    configure: Configure, imap_server: ImapScript, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    script = [*LOGIN, select(0), *holds("Quarantine", "<1@x>"), select(0)]
    config = configure(closed_port, prod=imap_server(*script).port, down=closed_port)
    assert main(["--config", str(config), "quarantine", "list", "--json"]) == 75
    prod, down = json.loads(capsys.readouterr().out)
    assert prod["quarantine"] == [
        {
            "message_id": "<1@x>",
            "time": 1700000000,
            "recipients": ["nobody@example.com"],
            "attempts": 5,
            "reason": "No possible route",
        }
    ]
    assert (down["mailbox"], down["exit_code"]) == ("down", 75)
    assert "Connection refused" in down["failed"]


@pytest.mark.usefixtures("state")
def test_a_quarantined_message_is_shown_with_its_reason(
    configure: Configure, imap_server: ImapScript, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch = (r"UID FETCH 8 \(UID BODY\.PEEK\[HEADER\]\)", literal(2, "UID 8", "HEADER", HEADER) + OK)
    server = imap_server(*quarantine("<0@x>", "<1@x>"), fetch, select(0))
    assert main(["--config", str(configure(closed_port, prod=server.port)), "quarantine", "show", "1@x"]) == 0
    output = capsys.readouterr().out
    assert "reason     No possible route\n" in output
    assert "recipients nobody@example.com\n" in output
    assert output.endswith("\nMessage-ID: <1@x>\nSubject: \ufffd[2Jhello\n"), "a stranger's bytes stay bytes"


def test_the_raw_message_is_its_bytes_and_nothing_else(
    configure: Configure, imap_server: ImapScript, closed_port: int, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    raw = HEADER + b"\x00\xff"
    server = imap_server(
        *quarantine("<1@x>"), (r"UID FETCH 7 \(UID BODY.PEEK\[\]\)", literal(1, "UID 7", "", raw) + OK), select(0)
    )
    config = configure(closed_port, prod=server.port)
    assert main(["--config", str(config), "quarantine", "show", "--raw", "<1@x>"]) == 0
    assert capfdbinary.readouterr().out == raw


def test_another_try_moves_it_back_and_forgets_its_attempts(
    configure: Configure,
    imap_server: ImapScript,
    state: State,
    state_directory: Path,
    closed_port: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state.update({"<2@x>": NOTE})
    server = imap_server(*quarantine("<1@x>", "<2@x>", "<1@x>"), ('UID MOVE 7,9 "INBOX"', OK), select(2))
    assert main(["--config", str(configure(closed_port, prod=server.port)), "quarantine", "retry", "1@x"]) == 0
    assert capsys.readouterr().out == "<1@x>: waits again in INBOX of prod\n"
    after = State(state_directory, "prod")
    assert after["<1@x>"] == Note(0, NOTE.reason, NOTE.recipients, NOTE.at), "the reason stays until there is another"
    assert after["<2@x>"] == NOTE


def test_all_are_tried_again_in_every_mailbox(
    configure: Configure, imap_server: ImapScript, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    first = imap_server(*quarantine("<1@x>", "<2@x>"), ('UID MOVE 7:8 "INBOX"', OK), select(2))
    second = imap_server(*quarantine())
    config = configure(closed_port, prod=first.port, test=second.port)
    assert main(["--config", str(config), "quarantine", "retry", "--all"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["<1@x>", "<2@x>"]


def test_a_move_that_fails_leaves_the_reason(
    configure: Configure, imap_server: ImapScript, state_directory: Path, state: State, closed_port: int
) -> None:
    server = imap_server(*quarantine("<1@x>"), ('UID MOVE 7 "INBOX"', b""))
    assert main(["--config", str(configure(closed_port, prod=server.port)), "quarantine", "retry", "1@x"]) == 75
    note = State(state_directory, "prod")["<1@x>"]
    assert note is not None
    assert note.reason == state["<1@x>"].reason  # type: ignore[union-attr]


def test_what_is_not_there_is_said(
    configure: Configure, imap_server: ImapScript, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    server = imap_server(*quarantine("<1@x>"), select(0))
    assert main(["--config", str(configure(closed_port, prod=server.port)), "quarantine", "retry", "9@x"]) == 1
    assert "<9@x>: is not in quarantine of prod: explain" in capsys.readouterr().err


@pytest.mark.usefixtures("state")
def test_a_message_is_dropped_only_when_that_is_meant(
    configure: Configure,
    imap_server: ImapScript,
    state_directory: Path,
    closed_port: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["--config", str(configure(closed_port, prod=closed_port)), "quarantine", "drop", "1@x"]
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert main(command) == 2
    assert "add --yes" in capsys.readouterr().err

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer in ("", "n", None):
        asked: list[str] = []

        def reply(question: str, answer: str | None = answer, asked: list[str] = asked) -> str:
            asked.append(question)
            if answer is None:
                raise EOFError
            return answer

        monkeypatch.setattr("builtins.input", reply)
        configure(closed_port, prod=imap_server(*quarantine("<1@x>"), select(0)).port)
        assert main(command) == 0
        assert asked == ["Remove <1@x> of prod for good (No possible route)? [y/N] "]
        assert capsys.readouterr().out == "kept\n"
    assert State(state_directory, "prod")["<1@x>"] == NOTE

    removed = [(r"UID STORE 7 \+FLAGS\.SILENT \(\\Deleted\)", OK), ("UID EXPUNGE 7", OK), select(0)]
    configure(closed_port, prod=imap_server(*quarantine("<1@x>"), *removed).port)
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert main(command) == 0
    assert State(state_directory, "prod")["<1@x>"] is None
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    configure(closed_port, prod=imap_server(*quarantine("<1@x>"), *removed).port)
    assert main([*command, "--yes"]) == 0


def test_one_mailbox_can_be_chosen(
    configure: Configure, imap_server: ImapScript, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    server = imap_server(*LOGIN, select(0), *holds("Quarantine"))
    config = configure(closed_port, down=closed_port, prod=server.port)
    assert main(["--config", str(config), "quarantine", "list", "--mailbox", "prod"]) == 0
    assert capsys.readouterr().out == "mailbox prod: nothing in quarantine\n"
    with pytest.raises(SystemExit, match="2"):
        main(["--config", str(config), "status", "--mailbox", "bogus"])
    assert "there is no mailbox 'bogus' (known: down, prod)" in capsys.readouterr().err


def known(*places: tuple[int, str, int]) -> tuple[int, bytes]:
    found = [{"message_id": "<1@x>", "mail_message_id": at, "model": model, "res_id": to} for at, model, to in places]
    return 200, json.dumps({"mailroom": {"version": 1, "verdicts": [], "found": found}}).encode()


@pytest.mark.parametrize(
    ("inbox", "routed", "quarantined", "place", "mailbox_says", "odoo_says"),
    [
        (0, 0, 1, (), "in Quarantine, 2023-11-1", "Odoo has no message with this Message-ID"),
        (2, 0, 0, (), "waits in INBOX (2 copies); Odoo has failed on it 5 times, 2023-11-1", "Odoo has no message"),
        (0, 1, 0, ((5, "crm.lead", 7),), "done, in Routed", "Odoo has it: message 5 on crm.lead/7"),
        (1, 1, 0, ((5, "", 0),), "waits in INBOX; Odoo has failed", "Odoo has it: message 5"),
        (
            0,
            0,
            0,
            (),
            "not in INBOX, Routed or Quarantine: never arrived, or expired or removed",
            "Odoo has no message",
        ),
    ],
)
@pytest.mark.usefixtures("state")
def test_where_a_message_is_and_why(
    configure: Configure,
    imap_server: ImapScript,
    http_server: HttpServer,
    capsys: pytest.CaptureFixture[str],
    inbox: int,
    routed: int,
    quarantined: int,
    place: tuple[tuple[int, str, int], ...],
    mailbox_says: str,
    odoo_says: str,
) -> None:
    script: list[Exchange] = [*LOGIN, select(0)]
    places = (("INBOX", inbox), ("Routed", routed), ("Quarantine", quarantined))
    for folder, copies in places:
        script += finds(folder, "<1@x>.other", *["<1@x>"] * copies)
    for folder, _ in places if not inbox + routed + quarantined else ():
        script += [*holds(folder, "<0@x>"), select(0)]
    http_server.answers = [known(*place)]
    config = configure(http_server.server_port, prod=imap_server(*script).port)
    assert main(["--config", str(config), "explain", "1@x"]) == 0
    mailbox, database = capsys.readouterr().out.splitlines()
    assert mailbox.startswith(f"mailbox prod: {mailbox_says}")
    assert (": No possible route" in mailbox) == bool(inbox or quarantined)
    assert database.startswith(f"database prod: {odoo_says}")
    asked = json.loads(http_server.requests[0].body)["context"]["mailroom"]
    assert asked == {"version": 1, "messages": [], "find": ["<1@x>", "1@x"]}, "nothing is handed over"


def test_an_explanation_goes_on_without_odoo(
    configure: Configure, imap_server: ImapScript, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    search = [*finds("INBOX"), *holds("Routed"), *holds("Quarantine")]
    script = [*LOGIN, select(0), *search, *holds("INBOX", "1@x"), select(1), *holds("Routed"), *holds("Quarantine")]
    config = configure(closed_port, prod=imap_server(*script).port)
    assert main(["--config", str(config), "explain", "--json", "<1@x>"]) == 75
    mailbox, database = json.loads(capsys.readouterr().out)
    assert mailbox["copies"] == {"INBOX": 1}
    assert mailbox["why"] == "waits in INBOX for the next run"
    assert mailbox["message_id"] == "1@x", "as it is written in the message"
    assert database["database"] == "prod"
    assert "cannot connect" in database["failed"]


def test_a_check_says_what_is_the_matter_with_each(
    configure: Configure, imap_server: ImapScript, http_server: HttpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    http_server.answers = [(200, b'{"mailroom": {"version": 1, "verdicts": []}}')]
    refused = imap_server(*LOGIN[:1], (r"\S+", b"%t NO [AUTHENTICATIONFAILED] bad\r\n"))
    unable = imap_server(
        *login(),
        select(0),
        *holds("Routed"),
        (r'STATUS "Quarantine" .*', b"%t NO no such mailbox\r\n"),
        ('CREATE "Quarantine"', b"%t NO [NOPERM] not here\r\n"),
    )
    config = configure(http_server.server_port, prod=refused.port, test=unable.port)
    assert main(["--config", str(config), "check", "--json"]) == 77
    prod, test, *databases = json.loads(capsys.readouterr().out)
    assert "check the login 'prod' and the secret 'password'" in prod["failed"]
    assert "making folder Quarantine: the server says no: [NOPERM] not here" in test["failed"]
    assert ["run the role odoo_mail" in database["failed"] for database in databases] == [True, True]


def test_a_pop3_mailbox_obeys_the_same_commands(
    configure: Configure,
    pop_server: PopServer,
    state: State,
    state_directory: Path,
    closed_port: int,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    state.update({"<2@x>": NOTE})
    raw = HEADER + b"body\x00\xff\n"
    originals = Originals(state_directory, "prod")
    originals.keep("one", raw)
    originals.keep("two", raw.replace(b"<1@x>", b"<2@x>"))
    pop_server.messages = {"u3": raw.replace(b"<1@x>", b"<3@x>")}
    config = configure(closed_port, prod=pop_server.port)
    config.write_text(config.read_text().replace("[[mailboxes]]", '[[mailboxes]]\nprotocol = "pop3"'))

    def said(*command: str, code: int = 0) -> bytes:
        assert main(["--config", str(config), *command]) == code
        return capfdbinary.readouterr().out

    lines = said("quarantine", "list").decode().splitlines()
    assert lines[0] == "mailbox prod: 2 in quarantine"
    assert lines[2].endswith("  <1@x>       nobody@example.com  No possible route")
    shown = said("quarantine", "show", "1@x").decode()
    assert "reason     No possible route\n" in shown
    assert shown.endswith("\nMessage-ID: <1@x>\nSubject: \ufffd[2Jhello\n"), "the header and no more"
    assert said("quarantine", "show", "--raw", "1@x") == raw

    assert said("quarantine", "retry", "1@x") == b"<1@x>: waits again in INBOX of prod\n"
    assert (originals.held(), originals.waiting()) == (["two"], ["one"])
    assert State(state_directory, "prod")["<1@x>"] == Note(0, NOTE.reason, NOTE.recipients, NOTE.at)
    assert b"waits in INBOX, 2023-11-1" in said("explain", "1@x", code=75), "Odoo is away"
    assert b"waits in INBOX for the next run" in said("explain", "3@x", code=75)
    assert b"  waiting          2\n  routed           0\n  quarantine       1\n" in said("status")

    assert said("quarantine", "drop", "--yes", "2@x") == b"<2@x>: removed from the quarantine of prod\n"
    assert (originals.held(), originals.waiting()) == ([], ["one"])
    assert State(state_directory, "prod")["<2@x>"] is None
    said("quarantine", "retry", "3@x", code=1)
    assert b"ok: mailbox prod at mail.example.com:" in said("check", code=75)
    assert len(pop_server.messages) == 1, "what waits is left alone"


def test_message_ids_are_taken_as_people_write_them() -> None:
    assert bare(" <1@x>") == bare("1@x") == "1@x"
    assert bare("<>") == ""
