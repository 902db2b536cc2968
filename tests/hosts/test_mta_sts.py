"""Our own MTA-STS policy, as other mail servers come by it: by its record, over HTTPS that they verify."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path

import pytest

from tests.story import ROOT, WAIT, Hosts

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
DOMAIN = HOSTS.domain["name"]
POLICY = f"version: STSv1\r\nmode: enforce\r\nmx: {HOSTS.mail.name}\r\nmax_age: 604800\r\n"
FETCH = """
import http.client, socket, ssl, sys
family, name, host, method, path = sys.argv[1:]
found = socket.getaddrinfo(name, 443, int(family), socket.SOCK_STREAM)
session = http.client.HTTPSConnection(name, timeout=20)
session.sock = ssl.create_default_context().wrap_socket(socket.create_connection(found[0][4][:2]), server_hostname=name)
session.request(method, path, headers={"Host": host} if host else {})
answer = session.getresponse()
print(answer.status, answer.headers.get_content_type(), repr(answer.read().decode()))
"""
WELL_KNOWN = "/.well-known/mta-sts.txt"


def fetched(name: str, path: str = WELL_KNOWN, *, host: str = "''", method: str = "GET", family: int = 0) -> str:
    """What the customer's mail server, which trusts the demo's authority, is answered: status, type and text."""
    return HOSTS.ssh(HOSTS.outside, f"python3 -c '{FETCH}' {family} {name} {host} {method} {path}").strip()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def test_the_policy_is_served_to_whoever_verifies_the_certificate(family: int) -> None:
    assert fetched(f"mta-sts.{DOMAIN}", family=family) == f"200 text/plain {POLICY!r}"


def test_nothing_else_is_served() -> None:
    assert fetched(f"mta-sts.{DOMAIN}", "/").startswith("404 ")
    assert fetched(f"mta-sts.{DOMAIN}", f"{WELL_KNOWN}/").startswith("404 ")
    assert fetched(HOSTS.mail.name).startswith("404 ")
    assert fetched(f"mta-sts.{DOMAIN}", host="mta-sts.elsewhere.example").startswith("404 ")
    assert fetched(f"mta-sts.{DOMAIN}", method="POST").startswith("404 ")


def test_a_mail_server_goes_by_it() -> None:
    """Debian's resolver of policies, which the mail host has for others' domains."""
    found = HOSTS.ssh(HOSTS.mail, f"postmap -q {DOMAIN} socketmap:unix:/run/mta-sts/socket:mta-sts")
    assert re.match(rf"secure match={re.escape(HOSTS.mail.name)}\b", found), found


def test_who_serves_it_has_no_rights_and_comes_back_when_killed() -> None:
    unit = "mailroom-mta-sts"
    assert "root" not in HOSTS.ssh(HOSTS.mail, "ps -C haproxy -o user=").split()
    before = HOSTS.ssh(HOSTS.mail, f"systemctl show -P MainPID {unit}; systemctl kill --signal=KILL {unit}")
    deadline = time.monotonic() + WAIT
    while HOSTS.ssh(HOSTS.mail, f"systemctl is-active -q {unit} && systemctl show -P MainPID {unit} || echo") in (
        before,
        "\n",
    ):
        assert time.monotonic() < deadline, "it was not started again"
    assert fetched(f"mta-sts.{DOMAIN}").startswith("200 ")
