"""IDLE, against a server that follows a script."""

from __future__ import annotations

import imaplib
import socket

import pytest

from fetch_and_route.idle import Heard, understood
from fetch_and_route.trouble import Unavailable
from fetch_and_route.watch import Stop

from .conftest import Certificate, Exchange, ImapScript
from .test_mailbox import OK, login, open_mailbox, select

IDLES: list[Exchange] = [*login("IMAP4rev1 IDLE"), select(0)]
LONG = 60.0
"""Seconds that no test waits."""


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.mark.parametrize(
    ("line", "heard"),
    [
        (b"+ idling\r\n", Heard.ACCEPTED),
        (b"+\r\n", Heard.ACCEPTED),
        (b"* 3 EXISTS\r\n", Heard.NEWS),
        (b"* 3 exists \r\n", Heard.NEWS),
        (b"* 3 EXPUNGE\r\n", Heard.NOTHING),
        (b"* 3 FETCH (FLAGS (\\Seen))\r\n", Heard.NOTHING),
        (b"* 0 RECENT\r\n", Heard.NOTHING),
        (b"* OK 3 EXISTS\r\n", Heard.NOTHING),
        (b"Z1 OK done\r\n", Heard.END),
        (b"Z12 OK done\r\n", Heard.NOTHING),
    ],
)
def test_a_line_is_understood(line: bytes, heard: Heard) -> None:
    assert understood(line, b"Z1") is heard


def test_the_end_of_a_connection_and_a_refusal_are_told_apart() -> None:
    for line in (b"", b"* BYE too late\r\n", b"* bye\r\n"):
        with pytest.raises(imaplib.IMAP4.abort):
            understood(line, b"Z1")
    with pytest.raises(imaplib.IMAP4.error, match="NO not today"):
        understood(b"Z1 NO not today\r\n", b"Z1")


@pytest.mark.parametrize(
    ("before", "answer", "after"),
    [
        (b"* 1 EXISTS\r\n", b"+ idling\r\n", b""),  # said behind the answer to the command before
        (b"", b"* 1 EXISTS\r\n+ idling\r\n", b""),
        (b"", b"+ idling\r\n* OK still here\r\n* 1 EXISTS\r\n", b""),  # all at once: the socket has nothing more
        (b"", b"+ idling\r\n* 2 EXPUNGE\r\n* 1 EXISTS\r\n", b"* 3 EXISTS\r\n"),
    ],
)
def test_news_is_heard_whenever_it_is_said(
    imap_server: ImapScript, certificate: Certificate, stop: Stop, before: bytes, answer: bytes, after: bytes
) -> None:
    selected = ('SELECT "INBOX"', b"* 0 EXISTS\r\n%t OK [READ-WRITE]\r\n" + before)
    server = imap_server(*IDLES[:-1], selected, ("IDLE", answer), ("DONE", after + OK), select(1))
    with open_mailbox(server.port, certificate) as mailbox:
        assert mailbox.wait_for_news(LONG, stop.descriptor)
        assert mailbox.look_again().waiting == 1


def test_news_at_the_last_moment_is_heard(imap_server: ImapScript, certificate: Certificate, stop: Stop) -> None:
    server = imap_server(*IDLES, ("IDLE", b"+ idling\r\n"), ("DONE", b"* 1 EXISTS\r\n" + OK))
    with open_mailbox(server.port, certificate) as mailbox:
        assert mailbox.wait_for_news(0, stop.descriptor)


def test_no_news_within_the_time(imap_server: ImapScript, certificate: Certificate, stop: Stop) -> None:
    server = imap_server(*IDLES, *[("IDLE", b"+ idling\r\n"), ("DONE", OK)] * 2, select(0))
    with open_mailbox(server.port, certificate) as mailbox:
        assert not mailbox.wait_for_news(0, stop.descriptor)
        assert not mailbox.wait_for_news(0, stop.descriptor), "each time by a tag of its own"
        assert mailbox.look_again().waiting == 0, "commands work as before"


def test_a_stop_ends_it_with_a_good_bye(imap_server: ImapScript, certificate: Certificate, stop: Stop) -> None:
    server = imap_server(*IDLES, ("IDLE", b"+ idling\r\n"), ("DONE", OK))
    with open_mailbox(server.port, certificate) as mailbox:
        stop.set()
        assert not mailbox.wait_for_news(LONG, stop.descriptor)


def test_a_server_may_end_it_by_itself(imap_server: ImapScript, certificate: Certificate, stop: Stop) -> None:
    server = imap_server(*IDLES, ("IDLE", b"+ idling\r\n%t OK enough\r\n"), select(0))
    with open_mailbox(server.port, certificate) as mailbox:
        assert not mailbox.wait_for_news(LONG, stop.descriptor)
        mailbox.look_again()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "the server hung up"),
        (b"+ idling\r\n* BYE session expired\r\n", "BYE session expired"),
        (b"%t NO not today\r\n", "the server says no: NO not today"),
    ],
)
def test_what_ends_it_is_said(
    imap_server: ImapScript, certificate: Certificate, stop: Stop, answer: bytes, says: str
) -> None:
    server = imap_server(*IDLES, ("IDLE", answer))
    with (
        open_mailbox(server.port, certificate) as mailbox,
        pytest.raises(Unavailable, match=f"mailbox prod at .*: waiting for new mail: .*{says}"),
    ):
        mailbox.wait_for_news(LONG, stop.descriptor)


def test_a_server_that_does_not_answer_is_given_up(
    imap_server: ImapScript, certificate: Certificate, stop: Stop
) -> None:
    server = imap_server(*IDLES, ("IDLE", b"* OK wait\r\n"))
    with open_mailbox(server.port, certificate, timeout=1) as mailbox:
        mailbox._imap.sock.settimeout(0.01)
        with pytest.raises(Unavailable, match="timed out"):
            mailbox.wait_for_news(LONG, stop.descriptor)


def test_the_kernel_looks_after_a_silent_connection(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server(*IDLES)
    with open_mailbox(server.port, certificate) as mailbox:
        assert mailbox._imap.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert mailbox._imap.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


def test_an_endless_line_is_refused(
    imap_server: ImapScript, certificate: Certificate, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = imap_server(*IDLES, ("IDLE", b"* OK " + b"x" * 1000))
    monkeypatch.setattr("fetch_and_route.idle.LONGEST_LINE", 500)
    with (
        open_mailbox(server.port, certificate) as mailbox,
        pytest.raises(Unavailable, match="a line of more than 500 bytes"),
    ):
        mailbox.wait_for_news(LONG, stop.descriptor)
