"""The mailbox over IMAP, against a server that follows a script."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from fetch_and_route.config import Mailbox, OAuth
from fetch_and_route.mailbox import SET_LENGTH, TRIES, ImapMailbox, Inbox, parse_fetch, uid_sets
from fetch_and_route.message import made_message_id
from fetch_and_route.routing import Entry, Listed, key_of
from fetch_and_route.trouble import Denied, LoginRefused, Misconfigured, Unavailable

from .conftest import Certificate, Exchange, ImapScript, PopServer

OK = b"%t OK done\r\n"
FIELDS = "HEADER.FIELDS (MESSAGE-ID REFERENCES IN-REPLY-TO)"


def login(capabilities: str = "IMAP4rev1 UIDPLUS MOVE") -> list[Exchange]:
    """Log in; only then the server says what it can."""
    can = ("CAPABILITY", f"* CAPABILITY {capabilities}\r\n%t OK done\r\n".encode())
    return [("AUTHENTICATE PLAIN", b"+ \r\n"), (r"\S+", OK), can]


LOGIN = login()
XOAUTH2 = "IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2"


def select(count: int) -> Exchange:
    return ('SELECT "INBOX"', f"* {count} EXISTS\r\n* OK [UIDVALIDITY 1]\r\n%t OK [READ-WRITE]\r\n".encode())


def literal(number: int, attributes: str, section: str, content: bytes) -> bytes:
    return f"* {number} FETCH ({attributes} BODY[{section}] {{{len(content)}}}\r\n".encode() + content + b")\r\n"


def open_mailbox(
    port: int, certificate: Certificate, password: str = "sécret", host: str = "mail.example.com", **more: object
) -> ImapMailbox:
    values: dict[str, object] = {
        "name": "prod",
        "database": "prod",
        "host": host,
        "address": "127.0.0.1",
        "port": port,
        "login": "prod",
        "password": "mailbox-prod",
        "ca_file": certificate.ca_file,
        "timeout": 10,
    }
    return ImapMailbox(Mailbox(**{**values, **more}), password)  # type: ignore[arg-type]


def test_messages_are_indexed_read_and_moved_in_batches(imap_server: ImapScript, certificate: Certificate) -> None:
    nameless = b"Subject: x\r\n\r\nbody"
    index = (
        literal(1, "UID 4 RFC822.SIZE 100", FIELDS, b"Message-ID: <1@x>\r\nReferences: <0@x>\r\n\r\n")
        + b"* 2 FETCH (FLAGS (\\Deleted))\r\n"
        + literal(2, "UID 5 RFC822.SIZE 50", FIELDS, b"\r\n")
        + b'* 3 FETCH (RFC822.SIZE 7 BODY[HEADER.FIELDS (MESSAGE-ID REFERENCES IN-REPLY-TO)] "" UID 9)\r\n'
    )
    server = imap_server(
        *LOGIN,
        select(3),
        (
            r"FETCH 1:3 \(UID RFC822\.SIZE BODY\.PEEK\[HEADER\.FIELDS \(MESSAGE-ID REFERENCES IN-REPLY-TO\)\]\)",
            index + OK,
        ),
        (r"UID FETCH 5 \(UID BODY\.PEEK\[\]\)", literal(2, "UID 5", "", nameless) + OK),
        (r"UID FETCH 9 \(UID BODY\.PEEK\[\]\)", OK),
        (r"UID FETCH 4:5 \(UID BODY\.PEEK\[\]\)", literal(1, "UID 4", "", b"A\x00\r\n)\r\n") + OK),
        (r"UID FETCH 4 \(UID BODY\.PEEK\[HEADER\]\)", literal(1, "UID 4", "HEADER", b"A") + OK),
        ('UID MOVE 4:5,9 "Routed"', b"* OK [COPYUID 1 4:5,9 1:3]\r\n* 1 EXPUNGE\r\n" + OK),
    )
    with open_mailbox(server.port, certificate) as mailbox:
        assert mailbox.count == 3
        assert list(mailbox.index()) == [
            Entry(4, 100, key_of("<1@x>"), (key_of("<0@x>"),)),
            Entry(5, 50, key_of(made_message_id(nameless))),
        ]
        assert mailbox.fetch([4, 5]) == {4: b"A\x00\r\n)\r\n"}, "a message that is gone is left out"
        assert mailbox.fetch([4], header_only=True) == {4: b"A"}
        assert mailbox.fetch([]) == {}
        mailbox.move([9, 5, 4], "Routed")


def test_the_inbox_is_looked_at_again(imap_server: ImapScript, certificate: Certificate) -> None:
    told = b"* 2 EXISTS\r\n* OK [UIDNEXT 9] next\r\n%t OK [READ-WRITE]\r\n"
    server = imap_server(*login("IMAP4rev1 IDLE"), select(0), ('SELECT "INBOX"', told), select(2))
    with open_mailbox(server.port, certificate) as mailbox:
        assert mailbox.can_idle
        assert mailbox.look_again() == Inbox(2, 9)
        assert mailbox.count == 2
        assert mailbox.look_again() == Inbox(2, 2), "a server that does not tell the next UID"
    server = imap_server(*LOGIN, select(0))
    with open_mailbox(server.port, certificate) as mailbox:
        assert not mailbox.can_idle


def test_a_missing_folder_is_made(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server(
        *LOGIN,
        select(1),
        ('UID MOVE 4 "Routed"', b"%t NO [TRYCREATE] no such mailbox\r\n"),
        ('CREATE "Routed"', OK),
        ('SUBSCRIBE "Routed"', OK),
        ('UID MOVE 4 "Routed"', OK),
    )
    with open_mailbox(server.port, certificate) as mailbox:
        mailbox.move([4], "Routed")


def test_what_another_session_takes_meanwhile_does_not_matter(
    imap_server: ImapScript, certificate: Certificate
) -> None:
    gone = b"%t NO [EXPUNGEISSUED] Some of the requested messages no longer exist\r\n"
    server = imap_server(
        *LOGIN,
        select(3),
        ("FETCH 1:3 .*", literal(2, "UID 5 RFC822.SIZE 9", FIELDS, b"Message-ID: <1@x>\r\n\r\n") + gone),
        ("UID FETCH 4:5 .*", literal(2, "UID 5", "", b"A") + gone),
        ("UID FETCH 4 .*", gone),
        ('UID MOVE 4:5 "Routed"', gone),
        ("NOOP", b"* 1 EXPUNGE\r\n" + OK),
        ('UID MOVE 4:5 "Routed"', OK),
    )
    with open_mailbox(server.port, certificate) as mailbox:
        assert list(mailbox.index()) == [Entry(5, 9, key_of("<1@x>"))]
        assert mailbox.fetch([4, 5]) == {5: b"A"}
        assert mailbox.fetch([4]) == {}
        mailbox.move([4, 5], "Routed")


def test_a_server_that_says_so_again_and_again_is_left(imap_server: ImapScript, certificate: Certificate) -> None:
    gone = b"%t NO [EXPUNGEISSUED] gone\r\n"
    again: list[Exchange] = [('UID MOVE 4 "Routed"', gone), ("NOOP", OK)]
    server = imap_server(*LOGIN, select(1), *(again * TRIES)[:-1])
    with open_mailbox(server.port, certificate) as mailbox, pytest.raises(Unavailable, match=r"moving messages.* gone"):
        mailbox.move([4], "Routed")


def test_without_move_only_the_messages_named_are_expunged(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server(
        *login("IMAP4rev1 UIDPLUS"),
        select(1),
        ('UID COPY 4 "Routed"', OK),
        (r"UID STORE 4 \+FLAGS\.SILENT \(\\Deleted\)", OK),
        ("UID EXPUNGE 4", OK),
    )
    with open_mailbox(server.port, certificate) as mailbox:
        assert mailbox.can_move
        mailbox.move([4], "Routed")


def test_without_move_and_uidplus_nothing_is_touched(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server(*login("IMAP4rev1"), select(1))
    with open_mailbox(server.port, certificate) as mailbox:
        assert not mailbox.can_move
        with pytest.raises(Denied, match="neither MOVE nor UIDPLUS"):
            mailbox.move([4], "Routed")


def test_the_quarantine_is_listed_and_the_inbox_selected_again(
    imap_server: ImapScript, certificate: Certificate
) -> None:
    listing = literal(1, "UID 1 RFC822.SIZE 5", FIELDS, b"Message-ID: <q@x>\r\n\r\n")
    server = imap_server(
        *LOGIN,
        select(0),
        (r'STATUS "Quarantine" \(MESSAGES\)', b'* STATUS "Quarantine" (MESSAGES 1)\r\n' + OK),
        ('EXAMINE "Quarantine"', b"* 1 EXISTS\r\n" + OK),
        (r"FETCH 1:1 .*", listing + OK),
        select(0),
        (r'STATUS "Routed" \(MESSAGES\)', b"%t NO no such mailbox\r\n"),
    )
    with open_mailbox(server.port, certificate) as mailbox:
        assert mailbox.message_ids("Quarantine") == ["<q@x>"]
        assert mailbox.message_ids("Routed") == []


def test_a_server_searches_as_far_as_it_will(imap_server: ImapScript, certificate: Certificate) -> None:
    there = (r'STATUS "Routed" .*', b'* STATUS "Routed" (MESSAGES 2)\r\n' + OK)
    opened = ('EXAMINE "Routed"', b"* 2 EXISTS\r\n" + OK)
    server = imap_server(
        *LOGIN,
        select(0),
        *(there, opened, (re.escape(r'UID SEARCH HEADER Message-ID "<\"q\\\"@x>"'), b"* SEARCH 5\r\n" + OK)),
        ("UID FETCH 5 .*", literal(1, "UID 5", "HEADER", rb'Message-ID: <"q\"@x>') + OK),
        select(3),
        *(there, opened, ("UID SEARCH .*", b"%t NO not this one\r\n"), select(0)),
        *(there, opened, ("UID SEARCH .*", OK), select(0)),
        (r'STATUS "Routed" .*', b"%t NO no such mailbox\r\n"),
    )
    with open_mailbox(server.port, certificate) as mailbox:
        assert mailbox.search("Routed", r'<"q\"@x>') == [r'<"q\"@x>']
        assert mailbox.count == 3
        assert mailbox.search("Routed", "<q@x>") == [], "refused"
        assert mailbox.search("Routed", "<q@x>") == [], "without an answer"
        assert mailbox.search("Routed", "<q@x>") == [], "without the folder"
        assert mailbox.search("Routed", "<\xfc@x>") == [], "not to be said in ASCII"
        assert mailbox.search("Routed", "<a\r\nb@x>") == [], "not to be said at all"


def test_what_is_in_another_folder_can_be_read_moved_and_removed(
    imap_server: ImapScript, certificate: Certificate
) -> None:
    listing = literal(1, "UID 7 RFC822.SIZE 5", "HEADER.FIELDS (MESSAGE-ID)", b"Message-ID: <q@x>\r\n\r\n")
    server = imap_server(
        *LOGIN,
        select(0),
        (r'STATUS "Quarantine" .*', b'* STATUS "Quarantine" (MESSAGES 1)\r\n' + OK),
        ('SELECT "Quarantine"', b"* 1 EXISTS\r\n" + OK),
        (r"FETCH 1:1 .*", listing + OK),
        (r"UID FETCH 7 .*", literal(1, "UID 7", "", b"A") + OK),
        ('UID MOVE 7 "INBOX"', OK),
        (r"UID STORE 7 \+FLAGS\.SILENT \(\\Deleted\)", OK),
        ("UID EXPUNGE 7", OK),
        select(1),
        (r'STATUS "Routed" .*', b"%t NO no such mailbox\r\n"),
    )
    with open_mailbox(server.port, certificate) as mailbox:
        with mailbox.opened("Quarantine", writable=True) as listed:
            assert listed == [Listed(7, "<q@x>")]
            assert mailbox.fetch([7]) == {7: b"A"}
            mailbox.move([7], "INBOX")
            mailbox.remove([7])
        assert mailbox.count == 1
        with mailbox.opened("Routed") as listed:
            assert listed == []


def test_without_uidplus_nothing_is_removed(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server(*login("IMAP4rev1 MOVE"), select(1))
    with open_mailbox(server.port, certificate) as mailbox, pytest.raises(Denied, match="no UIDPLUS: remove them with"):
        mailbox.remove([4])


def test_a_folder_is_made_only_where_there_is_none(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server(
        *LOGIN,
        select(0),
        (r'STATUS "Routed" .*', b'* STATUS "Routed" (MESSAGES 0)\r\n' + OK),
        (r'STATUS "Quarantine" .*', b"%t NO no such mailbox\r\n"),
        ('CREATE "Quarantine"', OK),
        ('SUBSCRIBE "Quarantine"', OK),
    )
    with open_mailbox(server.port, certificate) as mailbox:
        assert not mailbox.make("Routed")
        assert mailbox.make("Quarantine")


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (b"%t NO [AUTHENTICATIONFAILED] bad\r\n", Denied, "check the login 'prod' and the secret 'mailbox-prod'"),
        (b"%t NO [UNAVAILABLE] later\r\n", Unavailable, "later"),
        (b"", Unavailable, "the connection broke"),
    ],
)
def test_a_login_that_fails_says_why_and_keeps_the_password(
    imap_server: ImapScript, certificate: Certificate, answer: bytes, kind: type[Exception], text: str
) -> None:
    server = imap_server(LOGIN[0], (r"\S+", answer))
    with pytest.raises(kind, match=text) as caught:
        open_mailbox(server.port, certificate)
    assert "mailbox prod at mail.example.com" in str(caught.value)
    assert "cret" not in str(caught.value).replace("secret 'mailbox-prod'", "")


def test_the_old_login_where_there_is_no_other(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server(('LOGIN prod "a\\\\\\\\b"', OK), LOGIN[-1], select(0), capabilities="IMAP4rev1")
    open_mailbox(server.port, certificate, "a\\b").close()
    server = imap_server(capabilities="IMAP4rev1")
    with pytest.raises(Misconfigured, match="change the password"):
        open_mailbox(server.port, certificate)


STARTTLS: dict[str, Any] = {"capabilities": "IMAP4rev1 STARTTLS LOGINDISABLED AUTH=EVIL", "starttls": True}


def test_with_starttls_only_what_is_said_after_it_counts(imap_server: ImapScript, certificate: Certificate) -> None:
    injected = b"* CAPABILITY IMAP4rev1 AUTH=XOAUTH2\r\n* 1 FETCH (UID 66)\r\n%t OK go\r\n* CAPABILITY IMAP4rev1\r\n"
    server = imap_server(
        ("STARTTLS", injected),
        ("CAPABILITY", b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n" + OK),
        *LOGIN,
        select(1),
        (r"UID FETCH 4,66 .*", literal(1, "UID 4", "", b"true") + OK),
        **STARTTLS,
    )
    with open_mailbox(server.port, certificate, tls="starttls") as mailbox:
        assert mailbox.fetch([4, 66]) == {4: b"true"}


def test_capabilities_from_before_tls_do_not_stand_in_for_an_answer(
    imap_server: ImapScript, certificate: Certificate
) -> None:
    injected = b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n%t OK go\r\n"
    server = imap_server(("STARTTLS", injected), ("CAPABILITY", OK), ("", b""), **STARTTLS)
    with pytest.raises(Unavailable, match="no CAPABILITY response"):
        open_mailbox(server.port, certificate, tls="starttls")


@pytest.mark.parametrize(
    ("capabilities", "welcome", "text"),
    [("IMAP4rev1 AUTH=PLAIN", "OK", "offers no STARTTLS"), ("IMAP4rev1 STARTTLS", "PREAUTH", "before TLS")],
)
def test_nobody_logs_in_without_tls(
    imap_server: ImapScript, certificate: Certificate, capabilities: str, welcome: str, text: str
) -> None:
    nothing = ("", b"")
    server = imap_server(nothing, capabilities=capabilities, welcome=welcome, starttls=True)
    with pytest.raises(Denied, match=f"{text}: use tls = "):
        open_mailbox(server.port, certificate, tls="starttls")


def test_with_starttls_the_certificate_is_verified(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server(("STARTTLS", OK), **STARTTLS)
    with pytest.raises(Denied, match="its certificate is not trusted"):
        open_mailbox(server.port, certificate, tls="starttls", host="imap.example.com")


def test_a_refused_starttls_ends_it(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server(("STARTTLS", b"%t NO not now\r\n"), ("", b""), **STARTTLS)
    with pytest.raises(Unavailable, match="TLS"):
        open_mailbox(server.port, certificate, tls="starttls")


TOKEN: dict[str, Any] = {"auth": "oauth2", "oauth": OAuth(token_url="t", client_id="c", refresh_token="granted")}
SAID = base64.b64encode(b"user=prod\1auth=Bearer abc\1\1").decode()


def test_an_access_token_logs_in(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server(
        ("AUTHENTICATE XOAUTH2", b"+ \r\n"), (re.escape(SAID), OK), LOGIN[-1], select(0), capabilities=XOAUTH2
    )
    open_mailbox(server.port, certificate, "abc", **TOKEN).close()


def test_a_refused_token_is_told_apart(imap_server: ImapScript, certificate: Certificate) -> None:
    challenge = b"+ " + base64.b64encode(b'{"status":"401"}') + b"\r\n"
    server = imap_server(
        ("AUTHENTICATE XOAUTH2", b"+ \r\n"),
        (re.escape(SAID), challenge),
        ("", b"%t NO [AUTHENTICATIONFAILED] Invalid credentials\r\n"),
        capabilities=XOAUTH2,
    )
    with pytest.raises(LoginRefused, match=r"Invalid credentials: check the login 'prod' and .* authorise again"):
        open_mailbox(server.port, certificate, "abc", **TOKEN)


def test_a_server_without_xoauth2_is_named(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server()
    with pytest.raises(Denied, match="takes no XOAUTH2"):
        open_mailbox(server.port, certificate, "abc", **TOKEN)


def test_a_challenge_that_is_no_base64_is_no_crash(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server(("AUTHENTICATE PLAIN", b"+ a\r\n"))
    with pytest.raises(Unavailable, match="logging in"):
        open_mailbox(server.port, certificate)


def test_a_connection_that_breaks_is_no_verdict(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server(*LOGIN, select(1), ('UID MOVE 4 "Routed"', b""))
    with (
        open_mailbox(server.port, certificate) as mailbox,
        pytest.raises(Unavailable, match="moving messages to Routed"),
    ):
        mailbox.move([4], "Routed")


def test_a_certificate_for_another_name_is_refused(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server()
    with pytest.raises(Denied, match="its certificate is not trusted"):
        open_mailbox(server.port, certificate, host="imap.example.com")


def test_a_certificate_of_an_unknown_authority_is_refused(imap_server: ImapScript, certificate: Certificate) -> None:
    server = imap_server()
    with pytest.raises(Denied, match="its certificate is not trusted"):
        open_mailbox(server.port, certificate, ca_file="")


def test_nobody_listens(closed_port: int, certificate: Certificate) -> None:
    with pytest.raises(Unavailable, match="Connection refused"):
        open_mailbox(closed_port, certificate)


def test_a_server_of_another_protocol_is_named(pop_server: PopServer, certificate: Certificate) -> None:
    with pytest.raises(Unavailable, match="connecting: what it says is not IMAP: check host, port and protocol"):
        open_mailbox(pop_server.port, certificate)


def test_a_missing_authority_is_named(certificate: Certificate) -> None:
    with pytest.raises(Misconfigured, match=r"/none\.pem: No such file"):
        open_mailbox(1, certificate, ca_file="/none.pem")


def test_uid_sets_are_short_and_complete() -> None:
    assert list(uid_sets([3, 1, 2, 7, 2])) == ["1:3,7"]
    assert list(uid_sets([])) == []
    sets = list(uid_sets(range(1, 40000, 2)))
    assert all(len(line) < SET_LENGTH + 30 for line in sets)
    assert [int(uid) for line in sets for uid in line.split(",")] == list(range(1, 40000, 2))


def test_an_answer_with_attributes_after_the_literal_is_read() -> None:
    answer = [(b"1 (BODY[] {1}", b"x"), b" UID 3 RFC822.SIZE 1)", None, b"2 (FLAGS ())"]
    assert [tuple(item) for item in parse_fetch(answer)] == [(3, 1, b"x")]
