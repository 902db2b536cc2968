"""What each port offers in TLS, seen by sslscan from another host: nothing old, nothing weak, no renegotiation."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.story import ROOT, Hosts

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
# Where passwords travel: forward secrecy and authenticated encryption, alone. All clients since 2014 have these ...
EXPECTED = {
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
}
# ... and Postfix has these, too.
ALLOWED = EXPECTED | {"DHE-RSA-AES128-GCM-SHA256", "DHE-RSA-AES256-GCM-SHA384", "DHE-RSA-CHACHA20-POLY1305"}


def scanned(port: int, option: str) -> ET.Element:
    """What sslscan finds out about a port of the mail host."""
    command = f"sslscan --no-colour --xml=- --no-heartbleed {option} {HOSTS.mail.name}:{port}"
    found = ET.fromstring(HOSTS.ssh(HOSTS.outside, command)).find("ssltest")  # noqa: S314 - our own hosts
    assert found is not None
    return found


def protocols(found: ET.Element) -> set[str]:
    """The versions that are offered."""
    return {
        f"{protocol.get('type')}{protocol.get('version')}"
        for protocol in found.iter("protocol")
        if protocol.get("enabled") == "1"
    }


@pytest.mark.parametrize(("port", "option"), [(443, ""), (465, ""), (587, "--starttls-smtp"), (993, "")])
def test_where_there_is_a_choice_nothing_old_or_weak_is_offered(port: int, option: str) -> None:
    found = scanned(port, option)

    assert protocols(found) == {"tls1.2", "tls1.3"}
    ciphers = {str(cipher.get("cipher")) for cipher in found.iter("cipher")}
    assert EXPECTED <= ciphers <= ALLOWED
    assert [each.get("supported") for each in found.iter("renegotiation")] == ["0"]
    assert [each.get("supported") for each in found.iter("compression")] == ["0"]
    (certificate,) = found.iter("certificate")
    assert certificate.findtext("altnames") == f"DNS:{HOSTS.mail.name}, DNS:mta-sts.{HOSTS.domain['name']}"
    assert certificate.findtext("issuer") == "Mailroom private CA"


def test_strangers_who_know_only_older_tls_need_not_send_in_the_clear() -> None:
    found = scanned(25, "--starttls-smtp")

    assert {"tls1.2", "tls1.3"} <= protocols(found)
    assert not {"ssl2", "ssl3"} & protocols(found)
    assert [each.get("supported") for each in found.iter("compression")] == ["0"]
