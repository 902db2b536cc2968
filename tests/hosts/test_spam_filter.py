"""The filter judged from outside: who is believed, who is refused, and who believes us."""

from __future__ import annotations

import base64
import contextlib
import email.policy
import email.utils
import os
import re
import smtplib
import textwrap
import uuid
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from imapclient import IMAPClient  # type: ignore[import-untyped]

from tests.story import ROOT, WAIT, Hosts, wait_for_message

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
DOMAIN = HOSTS.domain["name"]
POSTMASTER = f"postmaster@{DOMAIN}"
OURS = f"sales@{DOMAIN}"
STRICT = "somebody@customer.example"  # its DMARC policy is to refuse what is not its own
CAREFUL = "somebody@careful.customer.example"  # its policy is to mark it
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


def message(sender: str, to: str = POSTMASTER, text: str = "Good day", **headers: str) -> EmailMessage:
    made = EmailMessage()
    made["From"] = sender
    made["To"] = to
    made["Subject"] = "About the filter"
    made["Date"] = email.utils.localtime()
    made["Message-ID"] = email.utils.make_msgid(domain="stranger.example")
    for name, value in headers.items():
        made[name.replace("_", "-")] = value
    made.set_content(f"{text}\n")
    return made


def send(raw: bytes, envelope_sender: str = STRICT) -> tuple[int, bytes]:
    """Hand a message to port 25 as a stranger; the answer to it."""
    with smtplib.SMTP(HOSTS.mail.address, 25, "client.customer.example", timeout=WAIT) as session:
        session.ehlo()
        assert session.mail(envelope_sender)[0] == 250
        assert session.rcpt(POSTMASTER)[0] == 250
        return session.data(raw)


def remove(session: IMAPClient, message_id: str) -> None:
    session.select_folder("INBOX")
    session.delete_messages(session.search(["HEADER", "Message-ID", message_id]))
    session.expunge()


@contextlib.contextmanager
def arrived(message_id: str) -> Iterator[EmailMessage]:
    """The message in the postmaster's mailbox, where it does not stay."""
    session = HOSTS.imap(HOSTS.mail, "postmaster", HOSTS.secret("mailbox-postmaster"))
    try:
        yield wait_for_message(session, "Message-ID", message_id)
        remove(session, message_id)
    finally:
        session.logout()


def verdicts(received: EmailMessage) -> str:
    """Our own Authentication-Results, on one line; there is one, and it comes first."""
    (field,) = (value for value in received.get_all("Authentication-Results", []) if value.startswith(HOSTS.mail.name))
    return " ".join(str(field).split())


@pytest.fixture(autouse=True)
def names() -> Iterator[None]:
    """Certificates are verified by name."""
    with HOSTS.names():
        yield


@pytest.mark.parametrize(
    ("refused", "word"),
    [
        (message(STRICT), b"DMARC policy asks to refuse"),
        (message("spammer@stranger.example", text=GTUBE), b"Gtube"),
    ],
    ids=["p=reject", "spam"],
)
def test_what_is_refused_is_refused_while_its_sender_is_there(refused: EmailMessage, word: bytes) -> None:
    code, text = send(refused.as_bytes())
    assert (code, word in text) == (554, True), text
    assert refused["Message-ID"] not in HOSTS.ssh(HOSTS.mail, "postqueue", "-p")


def test_a_domain_that_asks_for_quarantine_has_its_forgeries_marked() -> None:
    """Who forges it is not refused, and no reader is left without a warning."""
    forged = message(CAREFUL, Authentication_Results=f"{HOSTS.mail.name}; dmarc=pass header.from={DOMAIN}")
    forged["X-Spam"] = "No"
    assert send(forged.as_bytes())[0] == 250
    with arrived(forged["Message-ID"]) as received:
        for verdict in ("dkim=none", "spf=fail", "dmarc=fail", "(policy=quarantine)"):
            assert verdict in verdicts(received)
        assert "Yes" in received.get_all("X-Spam", [])


@pytest.mark.parametrize(
    "sender",
    [
        f"Boss <boss@{DOMAIN}>",
        f"boss@{DOMAIN.upper()}",
        f"=?utf-8?q?=42oss?= <boss@{DOMAIN}>",
        f"boss@{DOMAIN}, spammer@stranger.example",
        f"spammer@stranger.example, boss@{DOMAIN}",
        f"spammer@stranger.example\r\nFrom: boss@{DOMAIN}",
        f"boss@{DOMAIN}\r\nFrom: spammer@stranger.example",
    ],
)
def test_nobody_outside_writes_as_one_of_us(sender: str) -> None:
    """Odoo takes mail for that of the user who has the address, with all that the user may do."""
    raw = message("somebody@stranger.example").as_bytes(policy=email.policy.SMTP)
    code, text = send(raw.replace(b"From: somebody@stranger.example", f"From: {sender}".encode()))
    assert (code, b"this From address is ours" in text) == (554, True), text


@pytest.mark.parametrize("sender", [f"{DOMAIN} <somebody@stranger.example>", f"boss@{DOMAIN}.stranger.example"])
def test_who_only_mentions_us_may_write(sender: str) -> None:
    mentioned = message("somebody@stranger.example")
    raw = mentioned.as_bytes(policy=email.policy.SMTP)
    assert send(raw.replace(b"From: somebody@stranger.example", f"From: {sender}".encode()))[0] == 250
    with arrived(mentioned["Message-ID"]):
        pass


def test_who_wants_the_answer_at_a_free_mailbox_is_seen() -> None:
    begging = message("somebody@stranger.example", Reply_To="somebody.else@outlook.com")
    assert send(begging.as_bytes())[0] == 250
    with arrived(begging["Message-ID"]):
        journal = HOSTS.ssh(HOSTS.mail, "journalctl", "--unit=rspamd", "--output=cat", "--since=-5min")
    [line] = [
        line for line in journal.splitlines() if begging["Message-ID"].strip("<>") in line and "task_write" in line
    ]
    assert "FREEMAIL_REPLYTO(" in line, line


@pytest.fixture(scope="module")
def forwarder() -> Iterator[Callable[[EmailMessage], bytes]]:
    """Seals a message (RFC 8617) as a forwarder would who found its sender to be right; unbound has its key."""
    own, name = rsa.generate_private_key(65537, 2048), f"{uuid.uuid4().hex}.example"
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    public = own.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    strings = textwrap.wrap(f"v=DKIM1;p={base64.b64encode(public).decode()}", 255)
    record = " ".join(f'"{string}"' for string in strings)
    HOSTS.ssh(HOSTS.mail, f"unbound-control local_data 'arc._domainkey.{name}. 60 IN TXT {record}'")

    def seal(made: EmailMessage) -> bytes:
        found = f"Authentication-Results: {name}; dmarc=pass header.from={made['From'].rpartition('@')[2]}\r\n"
        raw = found.encode() + made.as_bytes(policy=email.policy.SMTP)
        covered = [b"from", b"to", b"subject", b"date", b"message-id"]
        fields = dkim.arc_sign(raw, b"arc", name.encode(), own.private_bytes(*pem), name.encode(), covered)
        return b"".join(fields) + raw

    yield seal
    HOSTS.ssh(HOSTS.mail, f"unbound-control local_data_remove arc._domainkey.{name}")


@pytest.mark.parametrize(("change", "verdict"), [(b"Good day", "arc=pass"), (b"Bad day", "arc=(fail|reject)")])
def test_a_forwarder_s_seal_is_verified(
    forwarder: Callable[[EmailMessage], bytes], change: bytes, verdict: str
) -> None:
    sealed = message("somebody@stranger.example")
    assert send(forwarder(sealed).replace(b"Good day", change))[0] == 250
    with arrived(sealed["Message-ID"]) as received:
        assert re.search(verdict, verdicts(received)), verdicts(received)
        assert not received.get_all("X-Spam")


def test_what_a_forwarder_says_of_a_strict_domain_is_not_believed(forwarder: Callable[[EmailMessage], bytes]) -> None:
    """There is no list of forwarders: anybody can seal."""
    assert send(forwarder(message(STRICT)))[0] == 554
    code, text = send(forwarder(message(f"boss@{DOMAIN}")))
    assert (code, b"this From address is ours" in text) == (554, True), text


def test_our_mail_has_two_signatures_and_either_kind_of_receiver_believes_it() -> None:
    sent = message(OURS, to="customer@customer.example")
    with smtplib.SMTP_SSL(HOSTS.mail.name, 465, "odoo.example.com", timeout=WAIT, context=HOSTS.tls) as session:
        session.login(HOSTS.database["name"], HOSTS.secret(f"mailbox-{HOSTS.database['name']}"))
        session.send_message(sent, OURS, ["customer@customer.example"])
    customer = HOSTS.customer_mailbox()
    try:
        received = wait_for_message(customer, "Message-ID", sent["Message-ID"])
        remove(customer, sent["Message-ID"])
    finally:
        customer.logout()
    theirs = " ".join(str(value) for value in received.get_all("Authentication-Results", []))
    assert "dkim=pass" in theirs
    assert "dmarc=pass" in theirs
    signatures = [str(value) for value in received.get_all("DKIM-Signature", [])]
    assert sorted(re.findall(r"a=(\S+);", " ".join(signatures))) == ["ed25519-sha256", "rsa-sha256"]
    assert all(f"d={DOMAIN};" in signature for signature in signatures)
    assert send(received.as_bytes())[0] == 250  # rspamd knows both kinds, so it may say whether the records are right
    with arrived(sent["Message-ID"]) as returned:
        seen = re.findall(rf"dkim=pass header\.d={re.escape(DOMAIN)} header\.s=(\S+)", verdicts(returned))
        assert sorted(seen) == [HOSTS.selector, f"{HOSTS.selector}-ed25519"], verdicts(returned)
        assert "dmarc=pass" in verdicts(returned)
