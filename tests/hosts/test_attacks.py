"""Attacks on the mail server, through the front door: nothing is relayed, smuggled, forged or bounced."""

from __future__ import annotations

import contextlib
import email.utils
import os
import smtplib
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from imapclient import IMAPClient  # type: ignore[import-untyped]

from tests import attacks
from tests.story import ROOT, WAIT, Hosts, wait_for_message

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
DOMAIN = HOSTS.domain["name"]
LOGIN = HOSTS.database["name"]
ALIAS = f"{HOSTS.domain['aliases'][0]['name']}@{DOMAIN}"
STRANGER = "stranger@customer.example"
FOLDERS = ("INBOX", "Routed", "Quarantine")
# More addresses of the attacker's host; ours counts by address, and what others did must not count for the tests.
# The last is another one each time, since it is known for a minute how much it asked.
ATTACKERS = ["10.77.0.180", "10.77.0.181", f"10.77.0.{200 + int(time.time()) % 50}"]
FEW = attacks.PATIENT  # errors in one session, before each further one takes a second
ENDS = (  # what some server or other takes for the end of the data, besides \r\n.\r\n
    *("\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\n.\r"),
    *("\r\r\n.\r\r\n", "\r\n\0.\r\n", "\n\n.\r\n"),
)
ADDRESSES = HOSTS.mail_addresses


@pytest.fixture(autouse=True)
def names() -> Iterator[None]:
    """Certificates are verified by name."""
    with HOSTS.names():
        yield


def session_on(port: int, address: str = HOSTS.mail.address, login: bool = False) -> smtplib.SMTP:
    """A session on any of the ports, with TLS where it is asked for; the certificate is not what is tested here."""
    tls = HOSTS.tls
    session: smtplib.SMTP
    with HOSTS.names():
        if port == 465:
            session = smtplib.SMTP_SSL(local_hostname="client.customer.example", timeout=WAIT, context=tls)
        else:
            session = smtplib.SMTP(local_hostname="client.customer.example", timeout=WAIT)
        session._host = HOSTS.mail.name  # type: ignore[attr-defined] # whose certificate it is, at either address
        session.connect(address, port)
        if port == 587:
            session.starttls(context=tls)
    session.ehlo()
    if login:
        session.login(LOGIN, HOSTS.secret(f"mailbox-{LOGIN}"))
    return session


def code_for(session: smtplib.SMTP, sender: str, recipient: str) -> int:
    """The code that ends the attempt, at MAIL or at RCPT; both are sent as they are, without smtplib's brackets."""
    session.rset()
    code, _ = session.docmd("MAIL", f"FROM:<{sender}>")
    return code if code >= 400 else session.docmd("RCPT", f"TO:<{recipient}>")[0]


def letter(to: str, sender: str = "stranger@stranger.example", **headers: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    message["From"], message["To"] = sender, to
    message["Message-ID"] = email.utils.make_msgid(domain="stranger.example")
    message.set_content("Good day\n")
    return message


@contextlib.contextmanager
def opened(mailbox: IMAPClient) -> Iterator[IMAPClient]:
    try:
        yield mailbox
    finally:
        mailbox.shutdown()


def take(mailbox: IMAPClient, header: str, value: str, folders: tuple[str, ...] = ("INBOX",)) -> EmailMessage:
    """The message with that header, which is removed, so that no test mail goes on to Odoo."""
    message = wait_for_message(mailbox, header, value, folders)
    for folder in folders:
        mailbox.select_folder(folder)
        if uids := mailbox.search(["HEADER", header, value]):
            mailbox.delete_messages(uids)
            mailbox.expunge(uids)
    return message


class TestRelay:
    """Nobody sends through us to others without a login, and with one not as somebody else."""

    @pytest.mark.parametrize("address", ADDRESSES)
    @pytest.mark.parametrize("port", [25, 465, 587])
    @pytest.mark.parametrize("sender", [STRANGER, ALIAS, ""])
    def test_not_without_a_login(self, port: int, address: str, sender: str) -> None:
        recipients = [
            "victim@elsewhere.example",
            f"victim%elsewhere.example@{DOMAIN}",
            f"victim%elsewhere.example@[{HOSTS.mail.address}]",
            f"victim@elsewhere.example@{DOMAIN}",
            f"elsewhere.example!victim@{DOMAIN}",
            "elsewhere.example!victim",
            f"@{DOMAIN}:victim@elsewhere.example",
            f"@{HOSTS.mail.name},@{DOMAIN}:victim@elsewhere.example",
            f'"victim@elsewhere.example"@{DOMAIN}',
            f'"victim%elsewhere.example"@{DOMAIN}',
            '"victim@elsewhere.example"',
            "victim%elsewhere.example",
            f"victim@[{HOSTS.outside.address}]",
            "victim@[IPv6:fd77::80]",
        ]
        for first in range(0, len(recipients), FEW):
            with session_on(port, address) as session:
                for recipient in recipients[first : first + FEW]:
                    assert code_for(session, sender, recipient) in (501, 504, 550, 553, 554), recipient

    @pytest.mark.parametrize("address", ADDRESSES)
    @pytest.mark.parametrize("port", [465, 587])
    def test_not_as_somebody_else_with_a_login(self, port: int, address: str) -> None:
        senders = [
            STRANGER,
            f"boss@sub.{DOMAIN}",
            f"boss@{DOMAIN}.elsewhere.example",
            f"root@{HOSTS.mail.name}",
            f'"boss@{DOMAIN}"@elsewhere.example',
            f"boss%{DOMAIN}@elsewhere.example",
            f"@{DOMAIN}:boss@elsewhere.example",
            f"boss@{DOMAIN}@elsewhere.example",
            f"boss@[{HOSTS.mail.address}]",
            "boss",
        ]
        for first in range(0, len(senders), FEW):
            with session_on(port, address, login=True) as session:
                for sender in senders[first : first + FEW]:
                    assert code_for(session, sender, "victim@customer.example") in (501, 504, 553), sender
        with session_on(port, address, login=True) as session:
            assert code_for(session, f"boss@{DOMAIN}", "customer@customer.example") == 250


class TestSmuggling:
    """One message stays one, in and out, whatever stands in it."""

    def test_not_by_the_end_of_the_data_on_the_way_out(self) -> None:
        """What Odoo's users write may have any line ends; the customer's server may be one that believes them."""
        outer = [self.smuggle(end) for end in ENDS]
        with opened(HOSTS.customer_mailbox()) as mailbox:
            for message_id in outer:
                take(mailbox, "Message-ID", message_id)
            assert not mailbox.search(["SUBJECT", "smuggled"])

    @staticmethod
    def smuggle(end: str) -> str:
        """Send a message with another one in it; returns the Message-ID of the first."""
        message_id = email.utils.make_msgid(domain=DOMAIN)
        with session_on(465, login=True) as session:
            assert code_for(session, f"boss@{DOMAIN}", "customer@customer.example") == 250
            assert session.docmd("DATA")[0] == 354
            session.send(f"From: boss@{DOMAIN}\r\nMessage-ID: {message_id}\r\n\r\nouter{end}")
            session.send(f"MAIL FROM:<boss@{DOMAIN}>\r\nRCPT TO:<customer@customer.example>\r\nDATA\r\n")
            session.send(f"From: boss@{DOMAIN}\r\nSubject: smuggled\r\n\r\ninner\r\n.\r\nQUIT\r\n")
            assert [session.getreply()[0], session.getreply()[0]] == [250, 221], end
        return message_id

    def test_not_by_a_chunk_that_holds_the_end_of_another(self) -> None:
        message, inner = letter(ALIAS), letter(ALIAS)
        commands = f"MAIL FROM:<{STRANGER}>\r\nRCPT TO:<{ALIAS}>\r\nDATA\r\n"
        data = f"Message-ID: {message['Message-ID']}\r\n\r\nouter\r\n.\r\n"
        data += f"{commands}Message-ID: {inner['Message-ID']}\r\n\r\n.\r\n"
        with opened(HOSTS.mailbox()) as mailbox, session_on(25) as session:
            assert session.has_extn("chunking")
            assert code_for(session, STRANGER, ALIAS) == 250
            session.send(f"BDAT {len(data)}\r\n{data}BDAT 0 LAST\r\nQUIT\r\n")
            assert [session.getreply()[0] for _ in range(3)] == [250, 250, 221]
            received = take(mailbox, "Message-ID", message["Message-ID"], FOLDERS)
            assert inner["Message-ID"] in received.get_content()
            assert not mailbox.search(["HEADER", "Message-ID", inner["Message-ID"]])

    def test_not_behind_a_command_that_must_come_last(self) -> None:
        with session_on(25) as session:
            session.send(f"MAIL FROM:<{STRANGER}>\r\nRCPT TO:<{ALIAS}>\r\nDATA\r\nX: y\r\n\r\nx\r\n.\r\n")
            assert [session.getreply()[0] for _ in range(3)] == [250, 250, 554]


class TestForgery:
    """What a stranger writes into a message is not taken for our own word."""

    @pytest.mark.parametrize(
        "name",
        [
            HOSTS.mail.name,
            HOSTS.mail.name.upper(),
            f"{HOSTS.mail.name} 1",
            f"(a comment) {HOSTS.mail.name}",
            f'"{HOSTS.mail.name}"',
            f"\r\n {HOSTS.mail.name}",
        ],
    )
    def test_results_of_our_own_checks(self, name: str) -> None:
        message = letter(ALIAS)
        forged = f"Authentication-Results: {name}; dkim=pass header.d={DOMAIN}; spf=pass; dmarc=pass\r\n"
        with opened(HOSTS.mailbox()) as mailbox, session_on(25) as session:
            session.sendmail(STRANGER, [ALIAS], forged.encode() + message.as_bytes())
            received = take(mailbox, "Message-ID", message["Message-ID"], FOLDERS)
        results = received.get_all("Authentication-Results", [])
        assert len(results) == 1, results
        assert "dkim=pass" not in results[0]

    def test_a_sender_of_our_own(self) -> None:
        message = letter(ALIAS, sender=f"Boss <boss@{DOMAIN}>")
        with session_on(25) as session, pytest.raises(smtplib.SMTPDataError, match="this From address is ours"):
            session.send_message(message, STRANGER, [ALIAS])


@pytest.fixture(scope="module")
def storm() -> dict[str, Any]:
    """What attackers were told, and when they began."""
    began = time.time()
    told = attacks.run(HOSTS, attacks.storm, ATTACKERS, DOMAIN, 400, ALIAS, ATTACKERS)
    return {"began": began, **told}


class TestMany:
    """Attacks by the hundred; bench/attacks has them by the ten thousand."""

    def test_each_guessed_name_is_refused_until_the_guesser_is(self, storm: dict[str, Any]) -> None:
        guesses = storm["guesses"]
        assert set(guesses) <= {"550", "450", "421"}
        assert guesses["550"] == 300
        assert guesses["450"] > 0
        assert sum(guesses.values()) == 400

    def test_one_who_does_not_stop_is_cut_off(self, storm: dict[str, Any]) -> None:
        assert storm["stubborn"] == [550] * 10 + [421] * 10

    def test_one_who_does_not_wait_to_be_greeted_sends_nothing(self, storm: dict[str, Any]) -> None:
        assert storm["early"] == [250, 250, 550]

    def test_nobody_hears_of_it(self, storm: dict[str, Any]) -> None:
        assert attacks.since(HOSTS, storm["began"], "from=<>") == []
        assert "guessed" not in HOSTS.ssh(HOSTS.mail, "postqueue", "-p")

    def test_others_are_served_meanwhile(self, storm: dict[str, Any]) -> None:  # noqa: ARG002 - after it
        for port, login in ((25, False), (465, True), (587, True)):
            with session_on(port, login=login) as session:
                assert code_for(session, f"boss@{DOMAIN}" if login else STRANGER, ALIAS) == 250
