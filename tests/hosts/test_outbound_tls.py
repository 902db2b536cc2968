"""How Postfix verifies the mail servers of others: by DANE, else by MTA-STS; what fails one is not saved by the other.

The customer has a domain for each case, all on one server.  What its signed DNS and its policies say of the server is
right or wrong, and mail arrives there or waits.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import os
import smtplib
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lookup_plugins.private_certificate import private_certificate
from tests.story import ROOT, WAIT, Hosts, wait_for_message

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
ZONE = "customer.example"
SENDER = f"boss@{HOSTS.domain['name']}"
RUN = uuid.uuid4().hex[:8]  # Postfix leaves domains alone for a while that failed; these are new each time

# Serves each policy over HTTPS by the name it is asked for, from a chain and a key in files of this directory.
POLICY_SERVER = """
import http.server, json, ssl
policies = json.load(open("policies.json"))
class Policy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        policy = policies[self.headers["Host"]].encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(policy)))
        self.end_headers()
        self.wfile.write(policy)
server = http.server.ThreadingHTTPServer(("", 443), Policy)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("chain.pem", "key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@dataclass(frozen=True)
class Case:
    """What a domain says of its servers, and what becomes of mail to it."""

    name: str
    servers: tuple[str, ...]
    policy: str  # the server that the policy names; none when empty
    connection: str  # what Postfix calls the connection that the mail goes by; empty when the mail waits

    @property
    def domain(self) -> str:
        """As it is called in this run."""
        return f"{self.name}-{RUN}.{ZONE}"


RIGHT, WRONG, PLAIN = "mx-right-key", "mx-wrong-key", "mx"
CASES = [
    Case("right-key", (RIGHT,), "", "Verified"),
    Case("wrong-key", (WRONG,), "", ""),
    Case("right-policy", (PLAIN,), PLAIN, "Verified"),
    Case("wrong-policy", (PLAIN,), "mx.elsewhere", ""),
    Case("wrong-certificate", ("smtp",), "smtp", ""),
    Case("wrong-key-right-policy", (WRONG,), WRONG, ""),
    Case("right-key-wrong-policy", (RIGHT,), "mx.elsewhere", "Verified"),
    Case("no-key-here", (WRONG, PLAIN), "", "Trusted"),
    Case("no-key-here-right-policy", (WRONG, PLAIN), PLAIN, ""),
    Case("neither", (PLAIN,), "", "Trusted"),
    Case("forged-policy", (PLAIN,), "mx.elsewhere", "Trusted"),
]
UNITS = ["mailroom-tls-policy", "postfix-mta-sts-resolver"]
FORGED = "forged-policy"  # its policy is served with a certificate that is not its own, and so is none (RFC 8461, 3.3)


def key_of_the_server() -> str:
    """The key that the customer's server really has, as a TLSA record 3 1 1 has it."""
    with HOSTS.names(), HOSTS.smtp(HOSTS.outside) as session:
        certificate = session.sock.getpeercert(binary_form=True)  # type: ignore[union-attr]
    public = x509.load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def records() -> Iterator[str]:
    """What the customer's zone has in addition, line by line."""
    yield f"_25._tcp.{RIGHT} 60 TLSA 3 1 1 {key_of_the_server()}"
    yield f"_25._tcp.{WRONG} 60 TLSA 3 1 1 {'00' * 32}"
    for unit in UNITS:
        yield f"{unit}-{RUN} 60 MX 1 {PLAIN}"
    for case in CASES:
        for place, server in enumerate(case.servers, start=1):
            yield f"{case.name}-{RUN} 60 MX {place} {server}"
        if case.policy:
            yield f"mta-sts.{case.name}-{RUN} 60 A {HOSTS.outside.address}"
            yield f'_mta-sts.{case.name}-{RUN} 60 TXT "\\"v=STSv1; id={RUN}\\""'


def change(verb: str, records: list[str]) -> None:
    commands = [f"zone-begin {ZONE}", *(f"zone-{verb} {ZONE} {record}" for record in records), f"zone-commit {ZONE}"]
    HOSTS.ssh(HOSTS.dns, " && ".join(f"knotc {command}" for command in commands))


def write(path: str, text: str) -> None:
    """Write a file outside that root alone may read."""
    ssh = ["ssh", "-F", str(HOSTS.secrets / "ssh" / "config"), "-o", "BatchMode=yes", HOSTS.outside.name]
    subprocess.run([*ssh, f"umask 077; cat > {path}"], input=text, text=True, check=True)


@contextlib.contextmanager
def policies() -> Iterator[None]:
    """The customer's web server, with all policies."""
    served = {
        f"mta-sts.{case.domain}": f"version: STSv1\nmode: enforce\nmx: {case.policy}.{ZONE}\nmax_age: 86400\n"
        for case in CASES
        if case.policy
    }
    names = [f"mta-sts.{ZONE}", *(name for name in served if FORGED not in name)]
    pair = private_certificate(HOSTS.secrets / "ca", names, 90, datetime.now(UTC))
    files = {"serve.py": POLICY_SERVER, "policies.json": json.dumps(served), "chain.pem": pair["chain"]}
    HOSTS.ssh(HOSTS.outside, "mkdir -p /run/policies")
    for name, text in {**files, "key.pem": pair["key"]}.items():
        write(f"/run/policies/{name}", text)
    serve = "--unit=policies --working-directory=/run/policies python3 serve.py"
    HOSTS.ssh(HOSTS.outside, f"systemd-run --quiet --collect {serve}")
    try:
        yield
    finally:
        HOSTS.ssh(HOSTS.outside, "systemctl stop policies; rm -r /run/policies")


@pytest.fixture(scope="module", autouse=True)
def customer() -> Iterator[None]:
    """All the domains of the customer, known to the mail host."""
    added = list(records())
    change("set", added)
    try:
        known = f"kdig +short @10.77.0.54 _25._tcp.{WRONG}.{ZONE} TLSA"
        deadline = time.monotonic() + WAIT
        while not HOSTS.ssh(HOSTS.dns, known).strip():
            assert time.monotonic() < deadline, "the records have not become known"
        HOSTS.ssh(HOSTS.mail, f"unbound-control flush_zone {ZONE}")
        with policies():
            yield
    finally:
        change("unset", [record.replace(" 60 ", " ", 1) for record in added])


def journal(options: str) -> list[str]:
    return HOSTS.ssh(HOSTS.mail, f"journalctl --quiet --output=cat --unit='postfix*' {options}").splitlines()


def send(recipient: str, message_id: str = "", keep: bool = False) -> list[str]:
    """Send a mail to the customer; returns what Postfix says of it, from its last connections to its first fate.

    One that waits is removed unless it is to be kept.
    """
    cursor = journal("--lines=0 --show-cursor")[-1].removeprefix("-- cursor: ")
    message = EmailMessage()
    message["From"], message["To"] = SENDER, recipient
    message["Message-ID"] = message_id or email.utils.make_msgid(domain=HOSTS.domain["name"])
    message.set_content("Good day\n")
    with HOSTS.names(), smtplib.SMTP_SSL(HOSTS.mail.name, 465, timeout=WAIT, context=HOSTS.tls) as session:
        session.login(HOSTS.database["name"], HOSTS.secret(f"mailbox-{HOSTS.database['name']}"))
        session.mail(SENDER)
        session.rcpt(recipient)
        queue_id = session.data(message.as_bytes())[1].decode().split()[-1]
    deadline = time.monotonic() + WAIT
    while True:
        said = journal(f"--after-cursor='{cursor}' --grep='^{queue_id}: to=|TLS connection established to ' || true")
        if said and "status=" in said[-1]:
            break
        assert time.monotonic() < deadline, "nothing was said of the mail"
    if not keep:
        HOSTS.ssh(HOSTS.mail, f"postsuper -d {queue_id} 2>/dev/null || true")
    return said


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_mail_goes_by_a_connection_as_the_domain_wants_it_or_waits(case: Case) -> None:
    message_id = email.utils.make_msgid(domain=HOSTS.domain["name"])
    *connections, fate = send(f"customer@{case.domain}", message_id)
    if case.connection:
        assert "status=sent" in fate
        assert connections[-1].startswith(f"{case.connection} TLS connection")
        with HOSTS.names(), HOSTS.customer_mailbox() as session:
            wait_for_message(session, "Message-ID", message_id)
    else:
        assert "status=deferred" in fate
        assert not [line for line in connections if line.startswith("Verified")]


def test_mail_waits_for_a_domain_whose_records_are_forged() -> None:
    """The zone above says that this one is signed."""
    (fate,) = send(f"customer@forged.{ZONE}")
    assert "status=deferred" in fate
    said = HOSTS.ssh(HOSTS.mail, "journalctl --unit=unbound --grep='validation failure'")
    assert f"forged.{ZONE}. MX IN" in said


@pytest.mark.parametrize("unit", UNITS)
def test_mail_waits_while_nobody_says_how_servers_are_verified(unit: str) -> None:
    message_id = email.utils.make_msgid(domain=HOSTS.domain["name"])
    HOSTS.ssh(HOSTS.mail, f"systemctl stop {unit}")
    try:
        (fate,) = send(f"customer@{unit}-{RUN}.{ZONE}", message_id, keep=True)
    finally:
        HOSTS.ssh(HOSTS.mail, f"systemctl start {unit}")
    assert "status=deferred" in fate
    HOSTS.ssh(HOSTS.mail, "postqueue -f")
    with HOSTS.names(), HOSTS.customer_mailbox() as session:
        wait_for_message(session, "Message-ID", message_id)


@pytest.mark.parametrize("unit", UNITS)
def test_who_says_it_comes_back_when_killed(unit: str) -> None:
    def process() -> str:
        return HOSTS.ssh(HOSTS.mail, f"systemctl is-active --quiet {unit} && systemctl show -P MainPID {unit} || true")

    before = process()
    HOSTS.ssh(HOSTS.mail, f"systemctl kill --signal=KILL {unit}")
    deadline = time.monotonic() + WAIT
    while process() in ("", before):
        assert time.monotonic() < deadline, "it was not started again"
