"""What else runs on the mail host: its resolver, its firewall, its bans."""

from __future__ import annotations

import os
import smtplib
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.story import ROOT, WAIT, Host, Hosts, StoryError

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
MAIL = HOSTS.mail
ALIAS = f"{HOSTS.domain['aliases'][0]['name']}@{HOSTS.domain['name']}"


def mail_host(command: str) -> str:
    return HOSTS.ssh(MAIL, command)


@pytest.fixture
def known_here() -> Iterator[str]:
    """A domain that unbound on the mail host knows and nobody else; it forbids others to write in its name."""
    name = f"{uuid.uuid4().hex}.customer.example"
    for record in (f"{name}. 60 IN MX 10 mx.customer.example.", f'_dmarc.{name}. 60 IN TXT "v=DMARC1; p=reject"'):
        mail_host(f"unbound-control local_data '{record}'")
    yield name
    mail_host(f"unbound-control local_data_remove {name} && unbound-control local_data_remove _dmarc.{name}")


def answer(envelope_sender: str, from_domain: str) -> int:
    """The code that mail of a stranger is answered with."""
    message = EmailMessage()
    message["From"] = f"somebody@{from_domain}"
    message["To"] = ALIAS
    message["Message-ID"] = f"<{uuid.uuid4()}@customer.example>"
    message.set_content("Good day\n")
    with smtplib.SMTP(MAIL.address, 25, local_hostname="client.customer.example", timeout=WAIT) as session:
        try:
            session.send_message(message, envelope_sender, [ALIAS])
        except smtplib.SMTPRecipientsRefused as refused:
            return refused.recipients[ALIAS][0]
        except smtplib.SMTPDataError as refused:
            return refused.smtp_code
    return 250


class TestResolver:
    """Everybody on the mail host asks unbound."""

    def test_the_host_does(self, known_here: str) -> None:
        mail_host(f"unbound-control local_data '{known_here}. 60 IN A 192.0.2.1'")
        assert mail_host(f"getent ahostsv4 {known_here}").startswith("192.0.2.1 ")

    def test_postfix_and_rspamd_do(self, known_here: str) -> None:
        """Postfix refuses a sender whose domain does not exist, rspamd what the domain's DMARC policy forbids."""
        assert answer("stranger@unknown.customer.example", "stranger.example") == 450
        assert answer(f"stranger@{known_here}", known_here) == 554

    def test_it_asks_on_both_protocols(self) -> None:
        listening = mail_host("ss --no-header --listening --numeric --udp 'sport = :53' | awk '{print $4}'").split()
        assert sorted(listening) == ["127.0.0.1:53", "[::1]:53"][: len(HOSTS.mail_addresses)]


# Six clients at a time, since Dovecot slows down one address that sends wrong passwords one after the other.
GUESS = """
import base64, concurrent.futures, imaplib, smtplib, ssl, sys
tls = ssl._create_unverified_context()
def imap():
    session = imaplib.IMAP4_SSL(sys.argv[1], ssl_context=tls, timeout=60)
    try: session.login("prod", "wrong")
    except imaplib.IMAP4.error: session.shutdown()
def smtp():
    session = smtplib.SMTP_SSL(sys.argv[1], context=tls, timeout=60)
    session.ehlo()
    session.docmd("AUTH", "PLAIN " + base64.b64encode(b"\\0prod\\0wrong").decode())
with concurrent.futures.ThreadPoolExecutor(6) as pool:
    for work in [pool.submit({"imap": imap, "smtp": smtp}[sys.argv[2]]) for _ in range(6)]:
        work.exception()
"""


def guess(host: Host, protocol: str) -> None:
    """Send wrong passwords from a host."""
    config = str(HOSTS.secrets / "ssh" / "config")
    command = ["ssh", "-F", config, "-o", "BatchMode=yes", host.name, "python3", "-", MAIL.address, protocol]
    subprocess.run(command, input=GUESS, text=True, check=True)


@pytest.mark.parametrize(("protocol", "jail"), [("imap", "mailroom-dovecot"), ("smtp", "mailroom-postfix")])
def test_who_guesses_passwords_is_banned_but_never_odoo(protocol: str, jail: str) -> None:
    try:
        guess(HOSTS.odoo, protocol)
        guess(HOSTS.outside, protocol)
        deadline = time.monotonic() + WAIT
        while HOSTS.outside.address not in (banned := mail_host(f"fail2ban-client get {jail} banip").split()):
            assert time.monotonic() < deadline, f"nobody but {banned} is banned"
        assert HOSTS.odoo.address not in banned
        reached = "import socket; socket.create_connection(('" + MAIL.address + "', 993), 5)"
        with pytest.raises(StoryError):
            HOSTS.ssh(HOSTS.outside, f'python3 -c "{reached}"')
        HOSTS.ssh(HOSTS.odoo, f'python3 -c "{reached}"')
    finally:
        mail_host("fail2ban-client unban --all")


def test_the_firewall_lets_in_what_is_served_and_nothing_else() -> None:
    """With a drop the connection is not even refused."""
    for port in (22, 25, 465, 587, 993):
        socket.create_connection((MAIL.address, port), timeout=WAIT).close()
    with pytest.raises(TimeoutError):
        socket.create_connection((MAIL.address, 4190), timeout=1)


def test_the_hosts_let_the_key_in_whoever_owns_it_outside() -> None:
    """./demo under sudo gives its files back to whoever called it, and they use the hosts afterwards."""
    ssh = ROOT / "inventory" / "demo" / "secrets" / "ssh"
    key = ssh / "id_ed25519.pub"
    before = key.stat()
    os.chown(key, 65534, 65534)
    try:
        for host in ("mail", "dns", "odoo", "outside"):
            command = ["ssh", "-F", str(ssh / "config"), "-o", "BatchMode=yes", "-o", "ControlPath=none", host, "true"]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT)
            assert done.returncode == 0, f"{host}: {done.stderr}"
    finally:
        os.chown(key, before.st_uid, before.st_gid)
