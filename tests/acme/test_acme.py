"""The mail host has its certificate issued by a real ACME authority (pebble), renewed, and shown by its daemons."""

from __future__ import annotations

import json
import os
import re
import smtplib
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from imapclient import IMAPClient  # type: ignore[import-untyped]

from tests.rotation import Strangers
from tests.story import ROOT, WAIT, Hosts, StoryError

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
MAIL, AUTHORITY = HOSTS.mail, HOSTS.outside
PORTS = (25, 443, 465, 587, 993)
POLICY = f"mta-sts.{HOSTS.domain['name']}"  # what the certificate is for, too
# Without them it takes some seconds over each step and refuses one request in twenty.
QUICK = "--setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_WFE_NONCEREJECT=0"
PEBBLE = {
    "pebble": {
        "listenAddress": "0.0.0.0:14000",
        "managementListenAddress": "0.0.0.0:15000",
        "certificate": "/etc/postfix/chain.pem",  # of the demo's authority, like all that this host shows
        "privateKey": "/etc/postfix/key.pem",
        "httpPort": 80,
        "tlsPort": 443,
    }
}
ACME: dict[str, Any] = {
    "certificate_mode": "acme",
    "acme_email": "postmaster@example.com",
    "acme_terms_agreed": True,
    "acme_directory": f"https://{AUTHORITY.name}:14000/dir",
    "dns_records_issuer": "ca.example",
}
BACK = ("--tags", "certificate,nftables,dns_records", "-e", "dns_records_prune=true")


def fetched(path: str) -> str:
    with urllib.request.urlopen(f"https://{AUTHORITY.name}:15000/{path}", context=HOSTS.tls, timeout=WAIT) as answer:
        text: str = answer.read().decode()
        return text


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The authority runs; the file has its root. Afterwards the mail host is as it was."""
    HOSTS.ssh(AUTHORITY, f"printf %s '{json.dumps(PEBBLE)}' >/run/pebble.json")
    HOSTS.ssh(AUTHORITY, f"systemd-run --quiet --unit=pebble --collect {QUICK} pebble -config /run/pebble.json")
    with HOSTS.names():
        deadline = time.monotonic() + WAIT
        while True:  # it makes its keys first
            try:
                text = fetched("roots/0")
                break
            except OSError:
                assert time.monotonic() < deadline, "pebble does not answer"
        # It remembers nobody of an earlier run.
        HOSTS.ssh(MAIL, f"rm -rf /etc/letsencrypt/accounts/{AUTHORITY.name}:14000")
        file = tmp_path_factory.mktemp("acme") / "root.pem"
        file.write_text(text)
        yield file
        if HOSTS.ssh(MAIL, "ls /etc/mailroom/acme"):  # a test has failed
            HOSTS.site(*BACK)
    HOSTS.ssh(AUTHORITY, "systemctl stop pebble")


def site(root: Path, **changes: object) -> str:
    """What the part of site.yml prints that is about certificates."""
    extra = ACME | {"certificate_ca_file": str(root)} | changes
    return HOSTS.site("--tags", "certificate,nftables", "-e", json.dumps(extra))


def refusal(root: Path, **changes: object) -> str:
    """What a run that fails says is wrong, on one line."""
    with pytest.raises(subprocess.CalledProcessError) as raised:
        site(root, **changes)
    return re.split(r"\bmsg: ", " ".join(str(raised.value.stdout).split()))[1]


def shown(port: int, trust: Path) -> dict[str, Any]:
    """The certificate that a port of the mail host shows outside, verified by name with one authority."""
    context = ssl.create_default_context(cafile=str(trust))
    if port in (25, 587):
        with smtplib.SMTP(MAIL.name, port, local_hostname="client.customer.example", timeout=WAIT) as session:
            session.starttls(context=context)
            assert isinstance(session.sock, ssl.SSLSocket)
            return session.sock.getpeercert() or {}
    with (
        socket.create_connection((MAIL.name, port), timeout=WAIT) as connection,
        context.wrap_socket(connection, server_hostname=MAIL.name) as session,
    ):
        return session.getpeercert() or {}


def in_dns(name: str, kind: str) -> list[str]:
    """What the zone has, in lower case, sorted."""
    said = HOSTS.ssh(HOSTS.dns, f"kdig +short @{HOSTS.dns.address} {name} {kind}").lower()
    return sorted(line.strip() for line in said.splitlines())


def digest(file: str) -> str:
    """What a TLSA record has of a key on the mail host."""
    command = f"openssl pkey -in /etc/mailroom/tls/{file} -pubout -outform DER | sha256sum"
    return f"3 1 1 {HOSTS.ssh(MAIL, command).split()[0]}"


def serials(trust: Path) -> set[str]:
    """Serial numbers of what all ports show."""
    return {shown(port, trust)["serialNumber"] for port in PORTS}


def names(trust: Path) -> set[str]:
    """The names in what port 993 shows."""
    return {name for _, name in shown(993, trust)["subjectAltName"]}


@pytest.fixture
def private() -> Path:
    """The private authority."""
    return HOSTS.secrets / "ca" / "ca.pem"


def test_an_issue_that_fails_says_why_and_leaves_the_private_certificate(root: Path, private: Path) -> None:
    said = refusal(root, certificate_names=[MAIL.name, "nowhere.example.com"])

    assert re.search(r"no certificate was issued: nowhere.example.com: .*: publish the address records", said), said
    assert len(serials(private)) == 1


def test_it_is_issued_by_http_and_asked_for_once(root: Path) -> None:
    site(root)

    (serial,) = serials(root)
    assert names(root) == {MAIL.name, POLICY}
    key = HOSTS.ssh(MAIL, "openssl pkey -in /etc/mailroom/tls/pair.pem -noout -text; stat -c %a%U /etc/mailroom/tls/*")
    assert "P-256" in key
    assert key.splitlines()[-1] == "600root"
    assert re.search(rf"{MAIL.name} +: ok=\d+ +changed=0 ", site(root))
    assert serials(root) == {serial}
    assert HOSTS.ssh(MAIL, "ss -Hltn sport = 80") == ""


def test_dns_tells_of_its_keys_its_account_and_the_policy() -> None:
    assert in_dns(f"_25._tcp.{MAIL.name}", "TLSA") == sorted(map(digest, ("pair.pem", "next.key")))
    assert HOSTS.ssh(MAIL, "stat -c %a%U /etc/mailroom/tls/next.key") == "600root\n"
    registered = HOSTS.ssh(MAIL, f"cat /etc/letsencrypt/accounts/{AUTHORITY.name}:14000/dir/*/regr.json")
    account = json.loads(registered)["uri"]
    issue = f'0 issue "ca.example; accounturi={account}; validationmethods=http-01"'
    assert in_dns(POLICY, "CAA") == [issue, '0 issuemail ";"', '0 issuewild ";"', f"{MAIL.name}."]


def test_a_renewal_is_shown_at_once_and_cuts_nobody_off(root: Path) -> None:
    before, key = serials(root), HOSTS.ssh(MAIL, "openssl pkey -in /etc/mailroom/tls/pair.pem -pubout")
    context = ssl.create_default_context(cafile=str(root))
    name, finds_policies = HOSTS.database["name"], HOSTS.ssh(MAIL, "systemctl show -P MainPID postfix-mta-sts-resolver")
    with (
        IMAPClient(MAIL.name, ssl_context=context, timeout=WAIT) as mailbox,
        smtplib.SMTP_SSL(MAIL.name, 465, local_hostname="odoo.example.com", timeout=WAIT, context=context) as session,
    ):
        mailbox.login(name, HOSTS.secret(f"mailbox-{name}"))
        mailbox.select_folder("INBOX", readonly=True)

        HOSTS.ssh(MAIL, "certbot renew --force-renewal --no-random-sleep-on-renew --quiet")

        after = serials(root)
        assert len(after) == 1
        assert not after & before
        mailbox.select_folder("Routed", readonly=True)
        assert session.login(name, HOSTS.secret(f"mailbox-{name}"))[0] == 235
    assert HOSTS.ssh(MAIL, "openssl pkey -in /etc/mailroom/tls/pair.pem -pubout") == key
    assert in_dns(f"_25._tcp.{MAIL.name}", "TLSA") == sorted(map(digest, ("pair.pem", "next.key")))  # as before
    HOSTS.ssh(MAIL, "systemctl start certbot.service")  # with nothing to renew
    # It would be restarted, and mail that leaves be put off meanwhile.
    assert HOSTS.ssh(MAIL, "systemctl show -P MainPID postfix-mta-sts-resolver") == finds_policies


def test_the_next_key_takes_its_place_while_others_verify_the_host(root: Path) -> None:
    before, following = serials(root), digest("next.key")
    known = {"used": digest("pair.pem")[6:], "since": 0, "following": following[6:], "shown": 0}  # seen by earlier runs
    state = HOSTS.secrets / "ca" / "keys.json"
    state.write_text(json.dumps({"version": 1, "hosts": {MAIL.name: known}}))
    strangers = Strangers(HOSTS)

    with strangers.connecting():
        extra = json.dumps(ACME | {"certificate_ca_file": str(root), "dns_records_tlsa_days": 0})
        HOSTS.site("-e", extra, playbook="playbooks/rotate_keys.yml")

    assert not serials(root) & before
    assert digest("pair.pem") == following
    assert in_dns(f"_25._tcp.{MAIL.name}", "TLSA") == sorted([following, digest("next.key")])
    assert HOSTS.ssh(MAIL, "ls /etc/mailroom/tls") == "next.key\npair.pem\n"
    assert strangers.faults == []
    assert strangers.verified > 4
    renewed = serials(root)
    HOSTS.ssh(MAIL, "certbot renew --force-renewal --no-random-sleep-on-renew --quiet")
    assert not serials(root) & renewed
    assert digest("pair.pem") == following


def test_other_names_are_asked_for_through_the_zone(root: Path) -> None:
    before = serials(root)

    wanted = [MAIL.name, "imap.example.com"]  # which has no address
    site(root, acme_challenge="dns-01", acme_propagation_seconds=1, certificate_names=wanted)

    assert not serials(root) & before
    assert names(root) == {*wanted, POLICY}
    assert HOSTS.ssh(MAIL, "stat -c %a%U /etc/mailroom/acme/key.ini") == "600root\n"
    records = HOSTS.ssh(HOSTS.dns, f"kdig +short @{HOSTS.dns.address} _acme-challenge.imap.example.com TXT")
    assert records == ""


def test_daemons_that_show_another_certificate_are_told(root: Path) -> None:
    new = "openssl req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=new -keyout /run/new.key -out /run/new.pem"
    HOSTS.ssh(MAIL, f"{new} 2>&1 && cat /run/new.key /run/new.pem >/etc/mailroom/tls/pair.pem")
    with pytest.raises(StoryError, match=r"port 443 shows another certificate"):
        HOSTS.ssh(MAIL, "mailroom-certificate check")
    with pytest.raises(StoryError):
        HOSTS.ssh(MAIL, "systemctl start certbot.service")

    HOSTS.ssh(MAIL, "mailroom-certificate install && systemctl start certbot.service")

    assert len(serials(root)) == 1


def test_the_way_back_leaves_nothing_that_renews(root: Path, private: Path) -> None:
    assert len(serials(root)) == 1

    HOSTS.site(*BACK)

    assert len(serials(private)) == 1
    assert in_dns(MAIL.name, "CAA") == []
    assert "No certificates found" in HOSTS.ssh(MAIL, "certbot certificates 2>&1")
    assert HOSTS.ssh(MAIL, "ls /etc/mailroom/acme") == ""
