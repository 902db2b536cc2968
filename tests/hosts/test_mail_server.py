"""The mail server judged from outside, by SMTP and IMAP: what it takes, whom it refuses, and what the mailbox shows."""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
import email.utils
import os
import re
import smtplib
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path

import pytest
from imapclient import IMAPClient  # type: ignore[import-untyped]

from tests.story import ROOT, WAIT, Hosts, StoryError

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
MAIL = HOSTS.mail
DOMAIN = HOSTS.domain["name"]
LOGIN = HOSTS.database["name"]
CATCHALL = HOSTS.domain.get("catchall", "catchall")
BOUNCE = HOSTS.domain.get("bounce", "bounce")
FORMER = HOSTS.domain.get("former_names", [])
ALIASES = [alias["name"] for alias in HOSTS.domain["aliases"]]
# The domain of the envelope has to exist in the DNS of the hosts; that of the From field must not forbid its use by
# others (DMARC).
STRANGER = "stranger@customer.example"
FROM = "stranger@stranger.example"
FOLDERS = ("INBOX", "Routed", "Quarantine")


@pytest.fixture(autouse=True)
def names() -> Iterator[None]:
    """Certificates are verified by name."""
    with HOSTS.names():
        yield


@dataclass
class Mailbox:
    """One mailbox of the mail host, with what the tests sent there."""

    session: IMAPClient
    sent: list[str] = field(default_factory=list)

    def message(self, to: str, subject: str = "Hello") -> EmailMessage:
        """A message of a stranger."""
        message = EmailMessage()
        message["From"] = f"Stranger <{FROM}>"
        message["To"] = to
        message["Subject"] = subject
        message["Date"] = email.utils.localtime()
        message["Message-ID"] = email.utils.make_msgid(domain="customer.example")
        message.set_content("Good day\n")
        self.sent.append(message["Message-ID"])
        return message

    def look(self, header: str, value: str) -> dict[tuple[str, int], EmailMessage]:
        """The messages with that header, by folder and UID."""
        found: dict[tuple[str, int], EmailMessage] = {}
        for folder in FOLDERS:
            self.session.select_folder(folder, readonly=True)
            uids = self.session.search(["HEADER", header, value])
            for uid, data in self.session.fetch(uids, ["BODY.PEEK[]"]).items() if uids else ():
                found[folder, uid] = email.message_from_bytes(data[b"BODY[]"], policy=email.policy.default)
        return found

    def wait(self, value: str, count: int = 1, header: str = "Message-ID") -> list[EmailMessage]:
        """The messages with that header as soon as there are `count` of them."""
        deadline = time.monotonic() + WAIT
        while len(found := self.look(header, value)) < count:
            assert time.monotonic() < deadline, f"{len(found)} instead of {count} with {header} {value} after {WAIT} s"
            self.session.select_folder("INBOX", readonly=True)
            self.session.idle()
            self.session.idle_check(timeout=1)
            self.session.idle_done()
        assert len(found) == count
        return list(found.values())

    def clean(self) -> None:
        """Remove what was sent, so that no test mail goes on to Odoo."""
        for message_id in self.sent:
            for folder, uid in self.look("Message-ID", message_id):
                self.session.select_folder(folder)
                self.session.delete_messages([uid])
                self.session.expunge([uid])


@contextlib.contextmanager
def opened(name: str) -> Iterator[Mailbox]:
    mailbox = Mailbox(HOSTS.imap(MAIL, name, HOSTS.secret(f"mailbox-{name}")))
    try:
        yield mailbox
        mailbox.clean()
    finally:
        mailbox.session.shutdown()


@pytest.fixture
def mailbox(names: None) -> Iterator[Mailbox]:  # noqa: ARG001 - the names come first
    """The mailbox of the database."""
    with opened(LOGIN) as mailbox:
        yield mailbox


@pytest.fixture
def postmaster(names: None) -> Iterator[Mailbox]:  # noqa: ARG001 - the names come first
    """The mailbox of whoever runs the host."""
    with opened("postmaster") as mailbox:
        yield mailbox


def stranger(address: str = MAIL.address) -> smtplib.SMTP:
    """A session on port 25 without login."""
    session = smtplib.SMTP(address, 25, local_hostname="client.customer.example", timeout=WAIT)
    session.ehlo()
    return session


def submission(port: int = 587) -> smtplib.SMTP:
    """A session of Odoo, over verified TLS, not logged in yet."""
    if port == 465:
        return smtplib.SMTP_SSL(MAIL.name, port, local_hostname="odoo.example.com", timeout=WAIT, context=HOSTS.tls)
    session = smtplib.SMTP(MAIL.name, port, local_hostname="odoo.example.com", timeout=WAIT)
    session.starttls(context=HOSTS.tls)
    return session


def logged_in(port: int = 587) -> smtplib.SMTP:
    session = submission(port)
    session.login(LOGIN, HOSTS.secret(f"mailbox-{LOGIN}"))
    return session


def send(message: EmailMessage, *recipients: str) -> None:
    with stranger() as session:
        assert session.send_message(message, STRANGER, recipients) == {}


def answers(session: smtplib.SMTP, sender: str, recipient: str) -> int:
    """The code of the answer to RCPT."""
    session.rset()
    assert session.mail(sender)[0] == 250
    return session.rcpt(recipient)[0]


def queued() -> str:
    return HOSTS.ssh(MAIL, "postqueue", "-p")


class TestDelivery:
    """Delivered-To is the address that was written to, whatever the header To says: Odoo routes by it."""

    @pytest.mark.parametrize("name", [*ALIASES, CATCHALL, *FORMER, BOUNCE, f"{BOUNCE}+12-crm.lead-7"])
    def test_each_address_of_odoo_has_its_mail_in_the_mailbox(self, mailbox: Mailbox, name: str) -> None:
        message = mailbox.message(f"{name}@{DOMAIN}")
        send(message, f"{name}@{DOMAIN}")
        (received,) = mailbox.wait(message["Message-ID"])
        assert received.get_all("Delivered-To") == [f"{name}@{DOMAIN}"]
        assert received.get_all("Return-Path") == [f"<{STRANGER}>"]
        assert received.get_content().splitlines() == ["Good day"]

    def test_an_address_in_the_envelope_only_is_seen(self, mailbox: Mailbox) -> None:
        message = mailbox.message("undisclosed-recipients:;")
        send(message, f"{ALIASES[0]}@{DOMAIN}")
        (received,) = mailbox.wait(message["Message-ID"])
        assert received.get_all("Delivered-To") == [f"{ALIASES[0]}@{DOMAIN}"]

    def test_two_addresses_in_one_mail_make_two_copies(self, mailbox: Mailbox) -> None:
        recipients = [f"{ALIASES[0]}@{DOMAIN}", f"{CATCHALL}@{DOMAIN}"]
        message = mailbox.message(", ".join(recipients))
        send(message, *recipients)
        received = mailbox.wait(message["Message-ID"], count=2)
        assert {str(copy.get_all("Delivered-To")) for copy in received} == {str([each]) for each in recipients}

    def test_a_mail_to_many_of_our_addresses_is_put_off_for_none(self, mailbox: Mailbox) -> None:
        """They are delivered side by side, and all to one mailbox."""
        recipients = [f"{ALIASES[0]}+{number}@{DOMAIN}" for number in range(100)]
        message = mailbox.message(f"{ALIASES[0]}@{DOMAIN}")
        send(message, *recipients)
        received = mailbox.wait(message["Message-ID"], count=100)
        assert sorted(str(copy["Delivered-To"]) for copy in received) == sorted(recipients)

    def test_a_strangers_own_claims_about_the_envelope_are_dropped(self, mailbox: Mailbox) -> None:
        message = mailbox.message(f"{ALIASES[0]}@{DOMAIN}")
        message["Delivered-To"] = f"{CATCHALL}@{DOMAIN}"
        message["DELIVERED-TO"] = "somebody@elsewhere.example"
        message["Return-Path"] = "<victim@elsewhere.example>"
        send(message, f"{ALIASES[0]}@{DOMAIN}")
        (received,) = mailbox.wait(message["Message-ID"])
        assert received.get_all("Delivered-To") == [f"{ALIASES[0]}@{DOMAIN}"]
        assert received.get_all("Return-Path") == [f"<{STRANGER}>"]

    def test_an_eight_bit_message_arrives_byte_for_byte(self, mailbox: Mailbox) -> None:
        message = mailbox.message(f"{ALIASES[0]}@{DOMAIN}")
        lines = [f"{name}: {message[name]}" for name in ("From", "To", "Date", "Message-ID")]
        lines += ["Subject: Grüße".encode().decode("latin-1"), "", "schöne Grüße", "..", "From here", ""]
        raw = "\r\n".join(lines).encode("latin-1")
        with stranger() as session:
            session.sendmail(STRANGER, [f"{ALIASES[0]}@{DOMAIN}"], raw, ["BODY=8BITMIME"])
        (key,) = self.after(mailbox, message["Message-ID"])
        mailbox.session.select_folder(key[0], readonly=True)
        stored = mailbox.session.fetch([key[1]], ["BODY.PEEK[]"])[key[1]][b"BODY[]"]
        assert stored.endswith(raw[raw.index(b"Subject:") :])

    @staticmethod
    def after(mailbox: Mailbox, message_id: str) -> list[tuple[str, int]]:
        mailbox.wait(message_id)
        return list(mailbox.look("Message-ID", message_id))

    @pytest.mark.parametrize("name", ["postmaster", "abuse"])
    def test_the_postmaster_has_a_mailbox_of_their_own(self, postmaster: Mailbox, name: str) -> None:
        message = postmaster.message(f"{name}@{DOMAIN}")
        send(message, f"{name}@{DOMAIN}")
        postmaster.wait(message["Message-ID"])

    @pytest.mark.parametrize("name", ["dmarc-reports", "tls-reports"])
    def test_reports_have_a_mailbox_that_is_not_odoos_and_expire(self, mailbox: Mailbox, name: str) -> None:
        message = mailbox.message(f"{name}@{DOMAIN}")
        send(message, f"{name}@{DOMAIN}")
        command = f"doveadm fetch -u reports@reports.localhost uid header message-id {message['Message-ID'][1:-1]}"
        deadline = time.monotonic() + WAIT
        while not HOSTS.ssh(MAIL, command):
            assert time.monotonic() < deadline, "no report has come"
        assert not mailbox.look("Message-ID", message["Message-ID"])
        folder = "/var/vmail/reports/Maildir/new"
        HOSTS.ssh(MAIL, f"touch -a -m -d '1 year ago' {folder}/* && touch {folder}/today")
        HOSTS.ssh(MAIL, "systemd-tmpfiles --clean /etc/tmpfiles.d/mailroom-reports.conf")
        assert HOSTS.ssh(MAIL, f"ls {folder} && rm {folder}/today").split() == ["today"]

    @pytest.mark.parametrize("user", ["root", "www-data"])
    def test_mail_of_the_host_itself_goes_to_the_postmaster(self, postmaster: Mailbox, user: str) -> None:
        message_id = postmaster.message(user)["Message-ID"]
        HOSTS.ssh(MAIL, f"printf 'Subject: cron\\nMessage-ID: {message_id}\\n\\nhello\\n' | sendmail {user}")
        postmaster.wait(message_id)

    def test_what_cannot_be_delivered_comes_back_to_the_bounce_address(self, mailbox: Mailbox) -> None:
        sender = f"{BOUNCE}+77-crm.lead-1@{DOMAIN}"
        message = mailbox.message("nobody@nowhere.invalid", subject="Offer")
        message.replace_header("From", f"Sales <{ALIASES[0]}@{DOMAIN}>")
        with logged_in() as session:
            session.send_message(message, sender, ["nobody@nowhere.invalid"])
        deadline = time.monotonic() + WAIT
        while not (found := self.reports(mailbox, message["Message-ID"])):
            assert time.monotonic() < deadline, "no bounce has come"
        assert found[0].get_all("Delivered-To") == [sender]
        mailbox.sent.append(found[0]["Message-ID"])

    @staticmethod
    def reports(mailbox: Mailbox, message_id: str) -> list[EmailMessage]:
        found = mailbox.look("Subject", "Undelivered Mail Returned to Sender").values()
        return [report for report in found if message_id in report.as_string()]


class TestRefusals:
    """What is not ours is refused at once, so that nothing has to be bounced."""

    @pytest.mark.parametrize("address", HOSTS.mail_addresses)
    @pytest.mark.parametrize(
        "recipient",
        [
            f"nobody@{DOMAIN}",
            f"nobody+{ALIASES[0]}@{DOMAIN}",
            f"{LOGIN}@{DOMAIN}",
            f"www-data@{MAIL.name}",
            "root@localhost",
            f"root@[{MAIL.address}]",
        ],
    )
    def test_an_address_that_nobody_has_is_unknown(self, address: str, recipient: str) -> None:
        with stranger(address) as session:
            assert answers(session, STRANGER, recipient) in (504, 550)
            assert session.docmd("DATA")[0] == 554
        assert recipient not in queued()

    @pytest.mark.parametrize("address", HOSTS.mail_addresses)
    @pytest.mark.parametrize(
        "recipient",
        [
            "victim@elsewhere.example",
            f"victim%elsewhere.example@{DOMAIN}",
            f"victim@elsewhere.example@{DOMAIN}",
            f"elsewhere.example!victim@{DOMAIN}",
            f"@{DOMAIN}:victim@elsewhere.example",
            f'"victim@elsewhere.example"@{DOMAIN}',
        ],
    )
    @pytest.mark.parametrize("sender", [STRANGER, f"{ALIASES[0]}@{DOMAIN}", ""])
    def test_no_mail_is_relayed_for_strangers(self, address: str, recipient: str, sender: str) -> None:
        with stranger(address) as session:
            assert answers(session, sender, recipient) in (501, 550, 553, 554)
        assert "elsewhere" not in queued()

    @pytest.mark.parametrize(
        ("sender", "recipient"),
        [("jörg@customer.example", f"{ALIASES[0]}@{DOMAIN}"), (STRANGER, f"{ALIASES[0]}+jörg@{DOMAIN}")],
    )
    def test_letters_beyond_ascii_that_were_not_announced_are_refused(self, sender: str, recipient: str) -> None:
        """Taken and refused by the mailbox, this would be a bounce for whoever the sender was forged from."""
        with stranger() as session:
            session.send(f"MAIL FROM:<{sender}>\r\n".encode())
            session.getreply()
            session.send(f"RCPT TO:<{recipient}>\r\n".encode())
            assert session.getreply()[0] in (503, 553)

    def test_letters_beyond_ascii_are_taken_if_the_mailbox_takes_them(self) -> None:
        """Dovecot 2.3 does not, and so would lose Postfix's report that one of them is wrong."""
        taken = HOSTS.ssh(MAIL, ". /etc/os-release && echo $VERSION_ID").strip() != "12"
        for session in (stranger(), submission()):
            with session:
                session.ehlo()
                assert session.has_extn("smtputf8") == taken
                assert session.docmd("MAIL", f"FROM:<{STRANGER}> SMTPUTF8")[0] == (250 if taken else 555)

    @pytest.mark.parametrize("port", [465, 587])
    def test_submission_is_for_logins_only(self, port: int) -> None:
        with submission(port) as session:
            session.ehlo()
            assert answers(session, STRANGER, f"{ALIASES[0]}@{DOMAIN}") == 554

    def test_a_password_is_never_asked_for_on_port_25(self) -> None:
        with stranger(MAIL.name) as session:
            assert not session.has_extn("auth")
            assert session.docmd("AUTH", "PLAIN AGEAYgBj")[0] == 503
            session.starttls(context=HOSTS.tls)
            session.ehlo()
            assert not session.has_extn("auth")

    def test_a_password_is_never_asked_for_before_tls(self) -> None:
        with smtplib.SMTP(MAIL.name, 587, timeout=WAIT) as session:
            session.ehlo()
            assert not session.has_extn("auth")
            assert session.docmd("AUTH", "PLAIN AGEAYgBj")[0] == 530

    def test_a_wrong_password_is_refused(self) -> None:
        with submission() as session:
            session.ehlo()
            plain = base64.b64encode(f"\0{LOGIN}\0wrong".encode()).decode()
            assert session.docmd("AUTH", f"PLAIN {plain}")[0] == 535

    @pytest.mark.parametrize(("number", "login"), [(1, LOGIN), (2, DOMAIN), (3, f"{ALIASES[0]}@{DOMAIN}")])
    def test_an_empty_password_opens_nothing(self, number: int, login: str) -> None:
        """Asked on the host, as from different addresses: Dovecot slows down one that has sent wrong passwords."""
        with pytest.raises(StoryError, match="ended with 77"):
            HOSTS.ssh(MAIL, f"doveadm auth test -x rip=192.0.2.{number} {login} ''")

    def test_a_client_has_to_name_itself_and_nothing_is_told_about_users(self) -> None:
        with smtplib.SMTP(MAIL.address, 25, timeout=WAIT) as session:
            assert session.docmd("MAIL", f"FROM:<{STRANGER}>")[0] == 503
        with stranger() as session:
            assert session.verify(f"{ALIASES[0]}@{DOMAIN}")[0] == 502
            assert not {"vrfy", "etrn", "dsn"} & set(session.esmtp_features)

    @pytest.mark.parametrize("sender", ["stranger@nowhere.invalid", "stranger"])
    def test_a_sender_that_cannot_be_answered_is_refused(self, sender: str) -> None:
        with stranger() as session:
            assert answers(session, sender, f"{ALIASES[0]}@{DOMAIN}") in (450, 504, 550)

    @pytest.mark.parametrize("port", [24, 110, 143, 995, 2525, 4190, 9900])
    @pytest.mark.parametrize("address", HOSTS.mail_addresses)
    def test_nothing_else_can_be_reached(self, address: str, port: int) -> None:
        with pytest.raises(TimeoutError):
            socket.create_connection((address, port), timeout=0.3)

    def test_a_message_beyond_the_limit_is_refused_before_it_is_sent(self) -> None:
        with stranger() as session:
            limit = int(session.esmtp_features["size"])
            assert limit >= 50_000_000
            assert session.mail(STRANGER, [f"SIZE={limit + 1}"])[0] == 552

    @pytest.mark.parametrize("end", ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r"])
    def test_no_second_message_can_be_smuggled(self, mailbox: Mailbox, end: str) -> None:
        to = f"{ALIASES[0]}@{DOMAIN}"
        outer, inner = mailbox.message(to), mailbox.message(to)
        with stranger() as session:
            assert answers(session, STRANGER, to) == 250
            assert session.docmd("DATA")[0] == 354
            session.send(f"Message-ID: {outer['Message-ID']}\r\nTo: {to}\r\n\r\nouter{end}")
            session.send(f"MAIL FROM:<boss@{DOMAIN}>\r\nRCPT TO:<{to}>\r\nDATA\r\n")
            session.send(f"Message-ID: {inner['Message-ID']}\r\nTo: {to}\r\n\r\ninner\r\n.\r\nQUIT\r\n")
            codes = [session.getreply()[0], session.getreply()[0]]
        assert codes == [250, 221]
        mailbox.wait(outer["Message-ID"])
        assert not mailbox.look("Message-ID", inner["Message-ID"])


class TestSubmission:
    """Odoo may send as every address of its domains, and as no other."""

    @pytest.mark.parametrize("port", [465, 587])
    def test_odoos_test_connection_passes(self, port: int) -> None:
        """What ir.mail_server.test_smtp_connection does; then it closes the connection without a word."""
        session = logged_in(port)
        assert session.mail(f"odoo@{DOMAIN}")[0] == 250
        assert session.rcpt("noreply@odoo.com")[0] == 250
        assert session.docmd("DATA")[0] == 354
        session.close()

    @pytest.mark.parametrize("port", [465, 587])
    @pytest.mark.parametrize("name", ["notifications", BOUNCE, f"{BOUNCE}+1-crm.lead-2", "any.user", "Any.User"])
    def test_every_local_part_of_the_domain_is_odoos(self, port: int, name: str) -> None:
        with logged_in(port) as session:
            assert answers(session, f"{name}@{DOMAIN}", "customer@customer.example") == 250

    @pytest.mark.parametrize("port", [465, 587])
    @pytest.mark.parametrize("sender", [STRANGER, f"a@sub.{DOMAIN}", f"a@x{DOMAIN}", f"root@{MAIL.name}"])
    def test_no_other_sender_is_odoos(self, port: int, sender: str) -> None:
        with logged_in(port) as session:
            assert answers(session, sender, "customer@customer.example") == 553

    def test_the_postmasters_login_sends_as_nobody(self) -> None:
        with submission() as session:
            session.login("postmaster", HOSTS.secret("mailbox-postmaster"))
            assert answers(session, f"{ALIASES[0]}@{DOMAIN}", "customer@customer.example") == 553

    def test_a_wrong_address_of_our_own_is_reported_at_once(self) -> None:
        with logged_in() as session:
            assert answers(session, f"{ALIASES[0]}@{DOMAIN}", f"nobody@{DOMAIN}") == 550


class TestMailbox:
    """What the router and Odoo rely on."""

    def test_it_has_the_folders_and_the_abilities(self, mailbox: Mailbox) -> None:
        assert set(FOLDERS) <= {name for _, _, name in mailbox.session.list_folders()}
        assert {b"IDLE", b"UIDPLUS", b"MOVE"} <= set(mailbox.session.capabilities())

    def test_a_message_moves_to_routed(self, mailbox: Mailbox) -> None:
        message = mailbox.message(f"{ALIASES[0]}@{DOMAIN}")
        send(message, f"{ALIASES[0]}@{DOMAIN}")
        mailbox.wait(message["Message-ID"])
        ((folder, uid),) = mailbox.look("Message-ID", message["Message-ID"])
        mailbox.session.select_folder(folder)
        mailbox.session.move([uid], "Routed")
        assert [key[0] for key in mailbox.look("Message-ID", message["Message-ID"])] == ["Routed"]

    def test_many_connections_may_be_open_at_once(self) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(opened(LOGIN))

    def test_prometheus_is_told_of_a_login(self) -> None:
        """On the host only, see TestRefusals."""
        ask = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:9900/metrics').read().decode())"

        def logins() -> int:
            (line,) = re.findall(r"^dovecot_login_total (\d+)", HOSTS.ssh(MAIL, f'python3 -c "{ask}"'), re.MULTILINE)
            return int(line)

        before = logins()
        with opened(LOGIN):
            assert logins() > before


def test_what_odoo_took_long_ago_goes() -> None:
    """Days are made a second; only Routed is emptied, when a session ends."""
    subject = uuid.uuid4().hex
    save = f"printf 'Subject: {subject}\\n\\n' | doveadm save -u {LOGIN} -m"
    for folder in FOLDERS:
        HOSTS.ssh(MAIL, f"{save} {folder}")
    day = "sed 's/autoexpunge = [0-9]* d/autoexpunge = 1 s/' /etc/dovecot/dovecot.conf >/run/expire.conf"
    session = f"printf 'a logout\\r\\n' | /usr/lib/dovecot/imap -c /run/expire.conf -u {LOGIN} >/dev/null"
    left = f"doveadm search -u {LOGIN} mailbox {{}} subject {subject}"
    HOSTS.ssh(MAIL, f'{day}; timeout {WAIT} sh -c "while {left.format("Routed")} | grep -q .; do {session}; done"')
    assert all(HOSTS.ssh(MAIL, left.format(folder)) for folder in ("INBOX", "Quarantine"))
    HOSTS.ssh(MAIL, f"doveadm expunge -u {LOGIN} mailbox '*' subject {subject}")


@pytest.mark.parametrize("command", ["postconf", "postfix check", "doveconf -n"])
def test_the_daemons_have_nothing_to_complain_about(command: str) -> None:
    assert HOSTS.ssh(MAIL, f"{command} 2>&1 >/dev/null") == ""
