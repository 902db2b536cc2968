"""Our mail host's key in signed DNS: Postfix outside verifies port 25 by it, and by nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from filter_plugins.tlsa import tlsa_keys
from tests.hosts.test_verify_dns import forget, replaced
from tests.story import ROOT, Hosts

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
ZONE = "example.com"
PORT = f"_25._tcp.{HOSTS.mail.name}"


def connection() -> str:
    """What Postfix outside calls a connection to the domain's mail server that DANE has to verify."""
    forget()
    finger = f"posttls-finger -t 30 -T 30 -L summary -l dane-only {HOSTS.domain['name']} 2>&1 || true"
    return HOSTS.ssh(HOSTS.outside, finger)


def test_the_key_in_use_and_the_next_are_in_dns() -> None:
    ((current, following),) = [
        keys["digests"] for keys in tlsa_keys([{"inventory_hostname": HOSTS.mail.name}], str(HOSTS.secrets / "ca"))
    ]
    found = HOSTS.ssh(HOSTS.dns, f"kdig +short @{HOSTS.dns.address} {PORT} TLSA").lower().splitlines()
    assert sorted(line.replace(" ", "") for line in found) == sorted(f"311{each}" for each in (current, following))


def test_others_verify_the_mail_host_by_its_key() -> None:
    assert "Verified TLS connection established" in connection()


def test_another_key_is_not_the_mail_host_s() -> None:
    with replaced(ZONE, f"_25._tcp.{HOSTS.mail.name.removesuffix(f'.{ZONE}')}", "TLSA", f"3 1 1 {'00' * 32}"):
        assert "Verified" not in connection()
