"""The daily mail about the quarantine, to an SMTP server that says what it is told."""

from __future__ import annotations

import email
import email.policy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fetch_and_route.config import Config, Mailbox
from fetch_and_route.state import Note, State
from fetch_and_route.summary import DAY, MOST, SENT, Item, compose, tell
from fetch_and_route.trouble import Misconfigured, Unavailable

from .conftest import SmtpServer

NOW = 1700000000
TO = "postmaster@mail.example.com"
ITEM = Item("prod", "<1@x>", ("nobody@example.com",), "No possible route", NOW - 60)


class World:
    """What is in quarantine, by mailbox, and a program that may tell of it."""

    def __init__(self, directory: Path, port: int) -> None:
        self.quarantine: dict[str, list[str]] = {"prod": [], "test": []}
        self.asked: list[str] = []
        self.directory = directory
        mailboxes = (Mailbox(name=name, database="odoo", host="h", login="l", password="p") for name in self.quarantine)
        self.config = Config(
            databases=(),
            mailboxes=tuple(mailboxes),
            state_directory=str(directory),
            summary_to=TO,
            summary_smtp=f"127.0.0.1:{port}",
        )

    def add(self, mailbox: str, message_id: str, at: int) -> None:
        self.quarantine[mailbox].append(message_id)
        State(self.directory, mailbox).update({message_id: Note(0, "No possible route", ("nobody@example.com",), at)})

    @contextmanager
    def open(self, mailbox: Mailbox) -> Iterator[Session]:
        self.asked.append(mailbox.name)
        yield Session(self.quarantine[mailbox.name])

    def tell(self, now: int, *served: str) -> bool:
        return tell(self.config, self.open, served or tuple(self.quarantine), now)


class Session:
    """A mailbox whose other folder holds these."""

    def __init__(self, message_ids: list[str]) -> None:
        self._message_ids = message_ids

    def message_ids(self, folder: str) -> list[str]:
        assert folder == "Quarantine"
        return self._message_ids


@pytest.fixture
def world(state_directory: Path, smtp_server: SmtpServer) -> World:
    return World(state_directory, smtp_server.port)


def body(raw: bytes) -> str:
    content: str = email.message_from_bytes(raw, policy=email.policy.default).get_content()
    return content


def test_what_is_new_is_told_once_a_day(world: World, smtp_server: SmtpServer) -> None:
    assert not world.tell(NOW), "nothing is there"
    world.add("prod", "<1@x>", NOW)
    assert world.tell(NOW)
    assert smtp_server.commands[1:3] == ["mail FROM:<>", f"rcpt TO:<{TO}>"], "nobody can answer it, nobody else gets it"
    assert "<1@x>" in body(smtp_server.mails[0])
    assert not world.tell(NOW + DAY), "nothing is new"
    world.add("test", "<2@x>", NOW + 300)
    world.add("prod", "<3@x>", NOW + 600)
    assert not world.tell(NOW + DAY - 1), "not twice a day"
    assert world.tell(NOW + DAY)
    (mail,) = smtp_server.mails[1:]
    assert b"Subject: 3 in quarantine, 2 new\r\n" in mail
    assert not world.tell(NOW + 3 * DAY)


def test_nobody_is_asked_when_no_note_is_new(world: World) -> None:
    world.add("prod", "<1@x>", NOW)
    world.tell(NOW)
    world.asked.clear()
    world.tell(NOW + DAY)
    assert world.asked == []


def test_what_waits_or_was_moved_back_is_not_told(world: World, smtp_server: SmtpServer) -> None:
    world.add("prod", "<1@x>", NOW)
    world.quarantine["prod"].clear()
    assert not world.tell(NOW)
    assert smtp_server.mails == []


def test_a_mailbox_that_is_away_is_told_of_when_it_answers(world: World, smtp_server: SmtpServer) -> None:
    world.add("prod", "<1@x>", NOW)
    world.add("test", "<2@x>", NOW)
    assert world.tell(NOW, "prod")
    assert world.asked == ["prod"]
    assert "<2@x>" not in body(smtp_server.mails[0])
    assert world.tell(NOW + DAY)
    assert b"Subject: 2 in quarantine, 1 new\r\n" in smtp_server.mails[1]


@pytest.mark.parametrize("refuse", ["MAIL", "RCPT", "DATA"])
def test_what_is_not_taken_is_tried_again(world: World, smtp_server: SmtpServer, refuse: str) -> None:
    world.add("prod", "<1@x>", NOW)
    smtp_server.refuse = refuse
    with pytest.raises(Unavailable, match=rf"summary for {TO} by 127\.0\.0\.1:\d+: .*not today.*: the next") as caught:
        world.tell(NOW)
    assert "\n" not in str(caught.value)
    smtp_server.refuse = ""
    assert world.tell(NOW + 300)


def test_nobody_listens(world: World, closed_port: int) -> None:
    world.add("prod", "<1@x>", NOW)
    world.config = replace(world.config, summary_smtp=f"127.0.0.1:{closed_port}")
    with pytest.raises(Unavailable, match="Connection refused: the next run tries again"):
        world.tell(NOW)


def test_what_cannot_be_noted_is_not_sent_every_five_minutes(world: World, smtp_server: SmtpServer) -> None:
    world.add("prod", "<1@x>", NOW)
    (world.directory / f"{SENT}.new").mkdir()
    with pytest.raises(Misconfigured, match=r"\.summary\.json: Is a directory"):
        world.tell(NOW)
    assert smtp_server.mails == []


@pytest.mark.parametrize("content", [b"", b"[]", b'{"prod": null}', b"\xff"])
def test_a_broken_note_counts_as_none(world: World, content: bytes) -> None:
    world.add("prod", "<1@x>", NOW)
    (world.directory / SENT).write_bytes(content)
    assert world.tell(NOW)
    assert json.loads((world.directory / SENT).read_text()) == {"prod": NOW, "test": NOW}


def text(items: list[Item], sent: Mapping[str, int]) -> list[str]:
    mail = compose(items, sent, TO, "mail.example.com")
    return body(mail.as_bytes()).splitlines()


def test_the_summary_says_what_is_there_and_what_to_do() -> None:
    mail = compose([ITEM], {}, TO, "mail.example.com")
    assert {name: mail[name] for name in ("From", "To", "Subject", "Auto-Submitted")} == {
        "From": "fetch-and-route <postmaster@mail.example.com>",
        "To": TO,
        "Subject": "1 in quarantine, 1 new",
        "Auto-Submitted": "auto-generated",
    }
    lines = text([ITEM], {})
    at = lines.index("  <1@x>")
    assert lines[at - 1].startswith("NEW  2023-11-1")
    assert lines[at - 1].endswith("  mailbox prod")
    assert lines[at + 1 : at + 3] == ["  to nobody@example.com", "  No possible route"]
    assert lines[-1].startswith("  fetch-and-route quarantine drop MESSAGE-ID")


def test_the_newest_come_first_and_what_was_told_is_not_new() -> None:
    older = ITEM._replace(message_id="<0@x>", at=NOW - DAY)
    unknown = Item("prod", "<?@x>", (), "", 0)
    lines = text([unknown, older, ITEM], {"prod": NOW - 3600})
    assert [line for line in lines if line.endswith("@x>")] == ["  <1@x>", "  <0@x>", "  <?@x>"]
    assert [line[:5] for line in lines if line.endswith("mailbox prod")] == ["NEW  ", "2023-", "?  ma"]
    assert "  no reason is noted" in lines


def test_a_stranger_can_write_neither_a_line_nor_a_header() -> None:
    evil = ITEM._replace(message_id="<1@x>\r\nBcc: victim@example.net\r\n\r\n\x1b[2J", reason="a\nNEW  b")
    mail = compose([evil], {}, TO, "mail.example.com")
    assert "Bcc" not in mail
    assert [line for line in text([evil], {}) if line.startswith(("NEW  b", "Bcc"))] == []
    assert b"\x1b" not in mail.as_bytes()


def test_a_long_list_ends() -> None:
    items = [ITEM._replace(message_id=f"<{number}@x>") for number in range(MOST + 20)]
    lines = text(items, {})
    assert sum(line.endswith("@x>") for line in lines) == MOST
    assert "... and 20 more: fetch-and-route quarantine list" in lines
