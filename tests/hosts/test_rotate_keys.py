"""playbooks/rotate_keys.yml: other keys, and all the while every mail is believed and every stranger verifies us."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from filter_plugins.tlsa import tlsa_keys
from tests.rotation import Strangers, Traffic
from tests.story import ROOT, Hosts

pytestmark = [pytest.mark.hosts, pytest.mark.once]

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
STATE = HOSTS.secrets / "dkim" / "selectors.json"
TLS_STATE = HOSTS.secrets / "ca" / "keys.json"


@pytest.fixture(autouse=True)
def names() -> Iterator[None]:
    """The hosts are found by their names."""
    with HOSTS.names():
        yield


def keys() -> dict[str, str]:
    """What becomes of each key."""
    content = json.loads(STATE.read_text(encoding="utf-8"))
    return {key["selector"]: key["phase"] for key in content["domains"][HOSTS.domain["name"]]}


def digests() -> list[str]:
    """The keys of the mail host's certificate: the one in use, the next, and a former one if there is any."""
    [found] = tlsa_keys([{"inventory_hostname": HOSTS.mail.name}], str(HOSTS.secrets / "ca"))
    return found["digests"]


def shown() -> str:
    """The key that port 25 shows."""
    with HOSTS.smtp(HOSTS.mail) as session:
        assert isinstance(session.sock, ssl.SSLSocket)
        leaf = x509.load_der_x509_certificate(session.sock.getpeercert(binary_form=True) or b"")
    public = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()


def in_dns() -> list[str]:
    """The keys that DNS tells of."""
    said = HOSTS.ssh(HOSTS.dns, f"kdig +short @{HOSTS.dns.address} _25._tcp.{HOSTS.mail.name} TLSA").lower()
    return sorted("".join(line.split()).removeprefix("311") for line in said.splitlines())


def let_days_pass(days: float) -> None:
    """For the rotations: each key has been what it is for so many days longer."""
    content: Any = json.loads(STATE.read_text(encoding="utf-8"))
    for key in content["domains"][HOSTS.domain["name"]]:
        key["since"] -= int(days * 86400)
    STATE.write_text(json.dumps(content), encoding="utf-8")
    content = json.loads(TLS_STATE.read_text(encoding="utf-8"))
    known = content["hosts"][HOSTS.mail.name]
    known["shown"] = known["shown"] and known["shown"] - int(days * 86400)
    TLS_STATE.write_text(json.dumps(content), encoding="utf-8")


def test_mail_is_believed_before_during_and_after_a_rotation() -> None:
    traffic, strangers = Traffic(HOSTS), Strangers(HOSTS)
    while STATE.exists() and set(keys().values()) != {"signs"}:  # an earlier rotation is not over
        let_days_pass(8)
        HOSTS.site("-e", "dns_records_dkim_days=36500", playbook="playbooks/rotate_keys.yml")
    former = HOSTS.selector
    used, following = digests()
    finds_policies = HOSTS.ssh(HOSTS.mail, "systemctl show -P MainPID postfix-mta-sts-resolver")
    traffic.send()
    with traffic.flowing(), strangers.connecting():
        first = " ".join(HOSTS.site("-e", "dns_records_dkim_days=0", playbook="playbooks/rotate_keys.yml").split())
        assert keys()[former] == "signs"
        assert digests() == [used, following]
        let_days_pass(1)
        HOSTS.site("-e", "dns_records_tlsa_days=0", playbook="playbooks/rotate_keys.yml")
    traffic.send()
    traffic.wait()
    assert f"{former} signs; {HOSTS.selector} is shown everywhere and signs from" in first
    assert keys() == {former: "retired", HOSTS.selector: "signs"}
    selectors = {tuple(sent.selectors) for sent in traffic.sent.values()}
    assert selectors == {(one, f"{one}-ed25519") for one in (former, HOSTS.selector)}
    assert traffic.faults == []
    assert len(traffic.sent) > 4
    assert strangers.faults == []
    assert strangers.verified > 4
    assert HOSTS.ssh(HOSTS.mail, "systemctl show -P MainPID postfix-mta-sts-resolver") == finds_policies
    files = HOSTS.ssh(HOSTS.mail, "ls /var/lib/rspamd/dkim").split()
    assert sorted(files) == sorted(
        f"{HOSTS.domain['name']}.{one}{kind}.key" for one in (former, HOSTS.selector) for kind in ("", "-ed25519")
    )
    assert f"{following[:8]} can take its place from" in first
    assert digests()[0] == following == shown()
    assert sorted(digests()) == in_dns()
