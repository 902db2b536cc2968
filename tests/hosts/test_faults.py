"""A daemon is away or dies, or the disk is full: mail waits, is neither lost nor bounced, and none leaves unsigned."""

from __future__ import annotations

import contextlib
import email.utils
import os
import smtplib
import socket
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.story import ROOT, WAIT, Host, Hosts, wait_for_message

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
MAIL, OUTSIDE = HOSTS.mail, HOSTS.outside
LOGIN = HOSTS.database["name"]
ALIAS = f"{HOSTS.domain['aliases'][0]['name']}@{HOSTS.domain['name']}"
QUOTA = 500 << 20  # as in the inventory
CUSTOMER = "customer@customer.example"
STRANGER = "stranger@stranger.example"  # no policy forbids others the use of this domain (DMARC)


@pytest.fixture(autouse=True, scope="module")
def calm() -> Iterator[None]:
    """Certificates are verified by name, and nothing is routed into Odoo meanwhile."""
    HOSTS.ssh(MAIL, "systemctl stop fetch-and-route.timer fetch-and-route.service")
    with HOSTS.names():
        yield
    HOSTS.ssh(MAIL, "systemctl start fetch-and-route.timer")


def letter(sender: str, to: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = to
    message["Subject"] = "In spite of all"
    message["Date"] = email.utils.localtime()
    message["Message-ID"] = email.utils.make_msgid(domain="stranger.example")
    message.set_content("Good day\n")
    return message


@pytest.fixture
def coming() -> Iterator[EmailMessage]:
    """A stranger's message to us, removed in the end."""
    message = letter(STRANGER, ALIAS)
    yield message
    removed(message)


def removed(message: EmailMessage, folder: str = "INBOX") -> None:
    """It was there, and is no longer."""
    with HOSTS.mailbox() as session:
        session.select_folder(folder)
        uids = session.search(["HEADER", "Message-ID", message["Message-ID"]])
        assert uids
        session.delete_messages(uids)
        session.uid_expunge(uids)


@pytest.fixture
def going() -> EmailMessage:
    """A message of Odoo's to a customer."""
    return letter(ALIAS, CUSTOMER)


def take(message: EmailMessage) -> None:
    """Give our server a stranger's message. Raises SMTPException when it is not taken."""
    with smtplib.SMTP(MAIL.name, 25, local_hostname="client.customer.example", timeout=WAIT) as session:
        session.send_message(message, CUSTOMER)


def submit(message: EmailMessage) -> None:
    """Give it a message of Odoo's. Raises SMTPException when it is not taken."""
    with smtplib.SMTP_SSL(MAIL.name, 465, timeout=WAIT, context=HOSTS.tls) as session:
        session.login(LOGIN, HOSTS.secret(f"mailbox-{LOGIN}"))
        session.send_message(message)


def has_come(message: EmailMessage) -> None:
    """It is in the mailbox, once."""
    with HOSTS.mailbox() as session:
        received = wait_for_message(session, "Message-ID", message["Message-ID"])
        assert received.get_all("Delivered-To") == [message["To"]]
        assert len(session.search(["HEADER", "Message-ID", message["Message-ID"]])) == 1


def has_gone_signed(message: EmailMessage) -> None:
    """The customer has it, and our signature was good."""
    with HOSTS.customer_mailbox() as session:
        received = wait_for_message(session, "Message-ID", message["Message-ID"])
    assert "dkim=pass" in " ".join(received.get_all("Authentication-Results", []))


def wait_until(host: Host, condition: str, seconds: float = WAIT) -> None:
    """Return as soon as a command on a host succeeds."""
    HOSTS.ssh(host, f"timeout {seconds:.0f} sh -c 'until {condition}; do sleep 0.05; done'")


def listens(port: int) -> str:
    """A condition: something listens on a TCP port."""
    return f'ss -Hltn "sport = :{port}" | grep -q .'


def waits(recipient: str, why: str) -> None:
    """A message to the recipient is in Postfix's queue, was tried, and has to be tried again."""
    wait_until(MAIL, f'postqueue -p | grep -B1 "^ *{recipient}" | grep -qi "({why}"')


def flush() -> None:
    """Try all in the queue again, as Postfix does by itself after some minutes."""
    HOSTS.ssh(MAIL, "postqueue -f")


@contextlib.contextmanager
def stopped(host: Host, service: str) -> Iterator[None]:
    HOSTS.ssh(host, f"systemctl stop {service}")
    try:
        yield
    finally:
        HOSTS.ssh(host, f"systemctl start {service}")


def refused_for_now(error: smtplib.SMTPException) -> bool:
    """Whether whoever sends will try again."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(400 <= code < 500 for code, _ in error.recipients.values())
    return isinstance(error, smtplib.SMTPServerDisconnected) or (
        isinstance(error, smtplib.SMTPResponseException) and 400 <= error.smtp_code < 500
    )


def test_without_rspamd_mail_is_put_off_and_none_leaves_unsigned(coming: EmailMessage, going: EmailMessage) -> None:
    with stopped(MAIL, "rspamd"):
        for send, message in ((take, coming), (submit, going)):
            with pytest.raises(smtplib.SMTPException) as refusal:
                send(message)
            assert refused_for_now(refusal.value), refusal.value
    wait_until(MAIL, listens(11332))
    take(coming)
    submit(going)
    has_come(coming)
    has_gone_signed(going)


def test_without_dovecot_mail_waits_in_the_queue(coming: EmailMessage, going: EmailMessage) -> None:
    with stopped(MAIL, "dovecot"):
        take(coming)
        waits(coming["To"], "connect to")
        with pytest.raises(smtplib.SMTPException) as refusal:
            submit(going)
        assert refused_for_now(refusal.value), refusal.value
    flush()
    has_come(coming)
    submit(going)
    has_gone_signed(going)


def test_without_a_resolver_mail_is_put_off_or_waits(coming: EmailMessage, going: EmailMessage) -> None:
    own = "nameserver 127." in HOSTS.ssh(MAIL, "cat /etc/resolv.conf")
    with stopped(MAIL if own else HOSTS.dns, "unbound"):
        with pytest.raises(smtplib.SMTPException) as refusal:
            take(coming)
        assert refused_for_now(refusal.value), refusal.value
        submit(going)
        waits(going["To"], "Host or domain name not found")
    flush()
    has_gone_signed(going)
    take(coming)
    has_come(coming)


def test_on_a_full_disk_mail_waits_in_the_queue() -> None:
    """The mailbox is on a small file system for as long as it lasts."""
    coming = letter(STRANGER, ALIAS)
    home = HOSTS.ssh(MAIL, f"doveadm user -f home {LOGIN}").strip()
    coming.set_content("Good day\n" * 15_000)
    HOSTS.ssh(
        MAIL, f"mount -t tmpfs -o size=1M,mode=0700,uid=$(stat -c %u {home}),gid=$(stat -c %g {home}) full {home}"
    )
    try:
        fill = f"dd if=/dev/zero of={home}/filler bs=64k 2>/dev/null; truncate --size=-64K {home}/filler"
        HOSTS.ssh(MAIL, f"doveadm mailbox status -u {LOGIN} messages INBOX; {fill}")  # a new mailbox needs room itself
        take(coming)
        waits(coming["To"], "host .* said: 4")
        HOSTS.ssh(MAIL, f"rm {home}/filler")
        flush()
        has_come(coming)
    finally:
        HOSTS.ssh(MAIL, f"umount --lazy {home}")


def test_mail_for_a_full_mailbox_waits_in_the_queue(coming: EmailMessage) -> None:
    """Filled by one large message without content: the quota believes what a file's name says of its size."""
    home = HOSTS.ssh(MAIL, f"doveadm user -f home {LOGIN}").strip()
    filler = f"{home}/Maildir/.Filler/cur/1.M1P1.filler,S={QUOTA},W={QUOTA}:2,S"
    early = letter(STRANGER, ALIAS)
    take(early)
    has_come(early)
    HOSTS.ssh(
        MAIL, f"doveadm mailbox create -u {LOGIN} Filler; truncate --size={QUOTA} {filler}; chown vmail: {filler}"
    )
    try:
        take(coming)
        waits(ALIAS, "host .* said: 452")
        with HOSTS.mailbox() as mailbox:  # what came before can be routed, or it would be full forever
            mailbox.select_folder("INBOX")
            mailbox.move(mailbox.search(["HEADER", "Message-ID", early["Message-ID"]]), "Routed")
        removed(early, "Routed")
    finally:
        HOSTS.ssh(MAIL, f"doveadm mailbox delete -u {LOGIN} Filler")
    flush()
    has_come(coming)


def test_strangers_who_say_nothing_keep_nobody_out() -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(socket.create_connection((MAIL.address, 993), WAIT))
        with HOSTS.mailbox() as session:
            assert session.folder_exists("Routed")


MAIN_PIDS = {
    "postfix": "cat /var/spool/postfix/pid/master.pid",
    "dovecot": "cat /run/dovecot/master.pid",
    "rspamd": "systemctl show --value --property=MainPID rspamd",
}


@pytest.mark.parametrize(("daemons", "ports"), [(("postfix", "dovecot"), (25, 465, 587, 993)), (("rspamd",), (11332,))])
def test_what_is_killed_comes_back_within_seconds(
    daemons: tuple[str, ...], ports: tuple[int, ...], coming: EmailMessage, going: EmailMessage
) -> None:
    """Also while somebody is about to send: rspamd's workers would wait for the end of that."""
    ask = [MAIN_PIDS[daemon] for daemon in daemons]
    killed = [f"[ $({each}) != {HOSTS.ssh(MAIL, each).strip()} ]" for each in ask]
    with smtplib.SMTP(MAIL.name, 25, local_hostname="client.customer.example", timeout=WAIT) as session:
        session.ehlo()
        assert session.mail(STRANGER)[0] == 250
        HOSTS.ssh(MAIL, "kill -KILL", *(f"$({each})" for each in ask))
        active = f"systemctl is-active --quiet {' '.join(daemons)}"
        wait_until(MAIL, " && ".join([*killed, active, *map(listens, ports)]), seconds=30)
    take(coming)
    submit(going)
    has_come(coming)
    has_gone_signed(going)
