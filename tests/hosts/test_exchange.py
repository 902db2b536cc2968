"""Two domains outside and ours write to each other: each recipient gets each mail once, whole, in his own name."""

from __future__ import annotations

import contextlib
import email
import email.policy
import email.utils
import hashlib
import os
import random
import smtplib
import time
from collections.abc import Iterator, Sequence
from email.message import EmailMessage
from pathlib import Path

import pytest
from imapclient import IMAPClient  # type: ignore[import-untyped]

from tests.story import ROOT, WAIT, Hosts, last_line, wait_for_message

pytestmark = [pytest.mark.hosts, pytest.mark.once]

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
DOMAIN = HOSTS.domain["name"]
LOGIN = HOSTS.database["name"]
CATCHALL = HOSTS.domain.get("catchall", "catchall")
ALIASES = [alias["name"] for alias in HOSTS.domain["aliases"]]
BOSS = f"boss@{DOMAIN}"
FOLDERS = ("INBOX", "Routed", "Quarantine")
CUSTOMER = "customer.example"
INTERNATIONAL = "xn--mller-kva.customer.example"  # müller
OUTSIDE = [f"customer@{CUSTOMER}", f"customer@{INTERNATIONAL}"]
LARGE = 20 * 1024 * 1024
PROLOGUE = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nMIME-Version: 1.0\r\n"
EIGHT_BIT = "Grüße aus Łódź, zehn Stühle für 900 €\r\n".encode()


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    """A second domain with letters beyond ASCII, whose mail server is the first one's; and nothing goes on to Odoo."""
    records = [("MX", "10 mx.customer.example."), ("TXT", r"\"v=spf1 mx:customer.example -all\"")]
    settings = [f"mydestination={CUSTOMER},{INTERNATIONAL},mx.{CUSTOMER}", "message_size_limit=50000000"]
    names = [setting.partition("=")[0] for setting in settings]

    def zone(action: str) -> None:
        lines = [f"zone-{action} {CUSTOMER} {INTERNATIONAL}. {kind}" for kind, _ in records]
        if action == "set":
            lines = [f"zone-set {CUSTOMER} {INTERNATIONAL}. 60 {kind} {data}" for kind, data in records]
        commands = [f"zone-begin {CUSTOMER}", *lines, f"zone-commit {CUSTOMER}"]
        HOSTS.ssh(HOSTS.dns, " && ".join(f"knotc {command} >/dev/null" for command in commands))

    HOSTS.ssh(HOSTS.mail, "systemctl stop fetch-and-route.timer fetch-and-route.service")
    HOSTS.ssh(HOSTS.outside, "cp /etc/postfix/main.cf /run/main.cf")
    try:
        zone("set")
        assignments = " ".join(f"'{setting}'" for setting in settings)
        HOSTS.ssh(HOSTS.outside, f"postconf {assignments} && postfix reload 2>/dev/null")
        assert len(HOSTS.ssh(HOSTS.outside, "postconf", *names).splitlines()) == len(names)
        with HOSTS.names():
            yield
    finally:
        zone("unset")
        HOSTS.ssh(HOSTS.outside, "cp /run/main.cf /etc/postfix/main.cf && postfix reload 2>/dev/null")
        HOSTS.ssh(HOSTS.mail, "systemctl start fetch-and-route.timer")


class Side:
    """One that sends and has a mailbox: the customers outside, or our own."""

    def __init__(self, ours: bool) -> None:
        self.ours = ours
        self.session: IMAPClient = HOSTS.mailbox() if ours else HOSTS.customer_mailbox()
        self.folders = FOLDERS if ours else ("INBOX",)

    @contextlib.contextmanager
    def smtp(self) -> Iterator[smtplib.SMTP]:
        """A session in which it sends: Odoo logs in at ours, the customer's own server takes its people's mail."""
        if self.ours:
            with smtplib.SMTP_SSL(HOSTS.mail.name, 465, "odoo.example.com", timeout=WAIT, context=HOSTS.tls) as session:
                session.login(LOGIN, HOSTS.secret(f"mailbox-{LOGIN}"))
                yield session
        else:
            with HOSTS.smtp(HOSTS.outside) as session:
                session.ehlo()
                yield session

    def copies(self, message_id: str) -> list[EmailMessage]:
        """The messages with that Message-ID."""
        found: list[EmailMessage] = []
        for folder in self.folders:
            self.session.select_folder(folder, readonly=True)
            uids = self.session.search(["HEADER", "Message-ID", message_id])
            fetched = self.session.fetch(uids, ["BODY.PEEK[]"]).values() if uids else ()
            found += [email.message_from_bytes(data[b"BODY[]"], policy=email.policy.default) for data in fetched]
        return found

    def wait(self, message_id: str, count: int) -> list[EmailMessage]:
        """The copies, when there are at least so many; they do not stay."""
        deadline = time.monotonic() + WAIT
        while len(found := self.copies(message_id)) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} copies of {message_id} after {WAIT:.0f} s"
            self.session.select_folder("INBOX", readonly=True)
            self.session.idle()
            self.session.idle_check(timeout=1)
            self.session.idle_done()
        for folder in self.folders:
            self.session.select_folder(folder)
            if uids := self.session.search(["HEADER", "Message-ID", message_id]):
                self.session.delete_messages(uids)
                self.session.expunge(uids)
        return found


@pytest.fixture
def ours() -> Iterator[Side]:
    side = Side(ours=True)
    yield side
    side.session.shutdown()


@pytest.fixture
def theirs() -> Iterator[Side]:
    side = Side(ours=False)
    yield side
    side.session.shutdown()


def letter(sender: str, to: Sequence[str]) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = f"Jürgen Müller <{sender}>", ", ".join(to)
    message["Subject"] = "Zehn Stühle"
    message["Date"] = email.utils.localtime()
    message["Message-ID"] = email.utils.make_msgid(domain=sender.rpartition("@")[2])
    message.set_content("Good day\n")
    return message


def exchange(sender: str, side: Side, other: Side, message: EmailMessage, recipients: Sequence[str]) -> list[str]:
    """Send in one transaction; returns who each copy on the other side says it was delivered to."""
    with side.smtp() as session:
        assert session.send_message(message, sender, recipients) == {}
    found = other.wait(message["Message-ID"], len(recipients))
    assert all(copy.get_content().splitlines() == ["Good day"] for copy in found)
    assert all(copy["Subject"] == "Zehn Stühle" for copy in found)
    return sorted(each for copy in found for each in delivered_to(copy))


def delivered_to(copy: EmailMessage) -> list[str]:
    """Exactly one address; letters of either case are the same mailbox, and Odoo's own."""
    values = copy.get_all("Delivered-To", [])
    assert len(values) == 1, values
    return [str(value).lower() for value in values]


def written(addresses: Sequence[str]) -> list[str]:
    return sorted(address.lower() for address in addresses)


@pytest.mark.parametrize("sender", OUTSIDE)
class TestIn:
    """From either domain outside to us."""

    def test_each_recipient_of_one_mail_has_a_copy_that_says_so(self, ours: Side, theirs: Side, sender: str) -> None:
        shown = [f"{ALIASES[0]}@{DOMAIN}", f"{ALIASES[1]}@{DOMAIN}"]
        hidden = [
            f"{CATCHALL}@{DOMAIN}",
            f"{ALIASES[0]}+ten.Chairs@{DOMAIN}",
            f"{ALIASES[1].title()}+X@{DOMAIN.upper()}",
        ]
        message = letter(sender, shown)
        assert exchange(sender, theirs, ours, message, shown + hidden) == written(shown + hidden)

    def test_a_large_file_and_eight_bits_arrive_as_they_were(self, ours: Side, theirs: Side, sender: str) -> None:
        unchanged(sender, f"{ALIASES[0]}@{DOMAIN}", theirs, ours)


@pytest.mark.parametrize("domain", [CUSTOMER, INTERNATIONAL])
class TestOut:
    """From Odoo's login to either domain outside."""

    def test_each_recipient_of_one_mail_has_a_copy_that_says_so(self, ours: Side, theirs: Side, domain: str) -> None:
        other = f"customer+other@{INTERNATIONAL if domain == CUSTOMER else CUSTOMER}"
        shown = [f"customer@{domain}", other]
        hidden = [f"customer+hidden@{domain}", f"Customer+Case@{domain.upper()}"]
        message = letter(BOSS, shown)
        assert exchange(BOSS, ours, theirs, message, shown + hidden) == written(shown + hidden)

    def test_a_large_file_and_eight_bits_arrive_as_they_were(self, ours: Side, theirs: Side, domain: str) -> None:
        unchanged(BOSS, f"customer@{domain}", ours, theirs)

    def test_one_mail_to_us_and_to_them(self, ours: Side, theirs: Side, domain: str) -> None:
        message = letter(BOSS, [f"customer@{domain}", f"{ALIASES[0]}@{DOMAIN}"])
        recipients = [f"customer@{domain}", f"{ALIASES[0]}@{DOMAIN}"]
        assert exchange(BOSS, ours, theirs, message, recipients[:1]) == recipients[:1]
        message.replace_header("Message-ID", email.utils.make_msgid(domain=DOMAIN))
        with ours.smtp() as session:
            assert session.send_message(message, BOSS, recipients) == {}
        assert [delivered_to(copy) for copy in theirs.wait(message["Message-ID"], 1)] == [recipients[:1]]
        assert [delivered_to(copy) for copy in ours.wait(message["Message-ID"], 1)] == [recipients[1:]]


def unchanged(sender: str, recipient: str, side: Side, other: Side) -> None:
    """A file of 20 MB, and text that nobody encoded, as the other side has them."""
    message = letter(sender, [recipient])
    content = random.Random(recipient).randbytes(LARGE)  # noqa: S311 - the same each time
    message.add_attachment(content, maintype="application", subtype="pdf", filename="Angebot für Müller.pdf")
    plain = email.utils.make_msgid(domain=DOMAIN)
    head = f"From: {sender}\r\nTo: {recipient}\r\nMessage-ID: {plain}\r\n{PROLOGUE}\r\n"
    with side.smtp() as session:
        assert session.send_message(message, sender, [recipient]) == {}
        assert session.sendmail(sender, [recipient], head.encode() + EIGHT_BIT, ["BODY=8BITMIME"]) == {}
    (large,), (text,) = other.wait(message["Message-ID"], 1), other.wait(plain, 1)
    (file,) = large.iter_attachments()
    assert file.get_filename() == "Angebot für Müller.pdf"
    assert hashlib.sha256(file.get_content()).digest() == hashlib.sha256(content).digest()
    assert delivered_to(large) == delivered_to(text) == [recipient]
    assert text["Content-Transfer-Encoding"] == "8bit"
    assert text.get_payload(decode=True) == EIGHT_BIT


class TestLettersBeyondAscii:
    """In addresses (SMTPUTF8), on either side."""

    @pytest.fixture(autouse=True)
    def _taken(self) -> None:
        with HOSTS.smtp(HOSTS.mail) as session:
            session.ehlo()
            if not session.has_extn("smtputf8"):
                pytest.skip("Dovecot 2.3 takes none")

    def test_each_recipient_of_one_mail_has_a_copy_that_says_so(self, ours: Side, theirs: Side) -> None:
        sender, alias = f"customer+größe@{CUSTOMER}", f"{ALIASES[0]}@{DOMAIN}"
        recipients = [alias, alias.replace("@", "+größe@")]
        message = letter(sender, recipients)
        assert exchange(sender, theirs, ours, message, recipients) == written(recipients)

    def test_who_has_some_is_written_to(self, ours: Side, theirs: Side) -> None:
        recipients = [f"customer+größe@{CUSTOMER}", f"customer+ελληνικά@{INTERNATIONAL}"]
        message = letter(BOSS, recipients)
        assert exchange(BOSS, ours, theirs, message, recipients) == written(recipients)

    def test_a_report_about_some_comes_back(self, ours: Side) -> None:
        sender = f"{HOSTS.domain.get('bounce', 'bounce')}@{DOMAIN}"
        message = letter(sender, [f"größe@{CUSTOMER}"])
        with ours.smtp() as session:
            session.send_message(message, sender, [f"größe@{CUSTOMER}"])
        report = wait_for_message(ours.session, "Subject", "Undelivered")
        ours.wait(report["Message-ID"], 1)
        assert [part.get_content_type() for part in report.walk()][2] == "message/global-delivery-status"
        assert delivered_to(report) == [sender]

    def test_nobody_here_has_some(self) -> None:
        with HOSTS.smtp(HOSTS.mail) as session:
            session.ehlo()
            assert session.mail(f"customer@{CUSTOMER}", ["SMTPUTF8"])[0] == 250
            code, text = session.rcpt(f"größe@{DOMAIN}")
        assert (code, b"5.1.1" in text) == (550, True), last_line(text.decode())
