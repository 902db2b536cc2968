"""A customer's zone, signed, leads to a zone of ours, signed too: strangers verify the mail host by DANE through both.

Our zone is provider.example here. example.com is the customer's, who has set what the page of records says, once; no
key of ours may write there. By hand, see CONTRIBUTING.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.test_verify_dns import edit, forget
from tests.rotation import TTL, Rounds
from tests.story import ROOT, WAIT, Hosts

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
CUSTOMER, OURS, BELOW = HOSTS.domain["name"], "provider.example", "mail-dns.provider.example"
KNOT, ZONE_FILE, UNBOUND = "/etc/knot/knot.conf", f"/var/lib/knot/{OURS}.zone", "/etc/unbound/unbound.conf"
LEDGER = (HOSTS.secrets / "dns-ledger-provider.json").absolute()
OPTIONS = {
    "dns_records_delegation": BELOW,
    "dns_records_ledger": str(LEDGER),
    "dns_records_zones": [
        {
            "name": OURS,
            "server": HOSTS.dns.address,
            "key_name": "mailroom",
            "key_file": str((HOSTS.secrets / "tsig-mailroom").absolute()),
        }
    ],
}
SOA = f"@ 3600 SOA ns.{CUSTOMER}. hostmaster.{OURS}. 1 3600 900 604800 300"


def dns(command: str) -> str:
    return HOSTS.ssh(HOSTS.dns, command)


@contextlib.contextmanager
def zone_of_ours() -> Iterator[None]:
    """The name server has our zone, signed, and the strangers' resolver knows its key."""
    entry = f"  - domain: {OURS}\\n    acl: mailroom\\n    dnssec-signing: on\\n"
    dns(f"cp -p {KNOT} {KNOT}.kept; cp -p {UNBOUND} {UNBOUND}.kept")
    dns(f"printf '%s\\n@ 3600 NS ns.{CUSTOMER}.\\n' {shlex.quote(SOA)} >{ZONE_FILE} && chown knot {ZONE_FILE}")
    dns(f"printf '{entry}' >>{KNOT} && knotc reload")
    try:
        signed = f"kdig +short @{HOSTS.dns.address} {OURS} DNSKEY | grep -q ."
        dns(f"timeout {WAIT:.0f} sh -c 'until {signed}; do :; done'")
        trust = f'server:\n    trust-anchor: "{dns(f"keymgr {OURS} ds").splitlines()[0]}"\n'
        stub = f'stub-zone:\n    name: "{OURS}"\n    stub-addr: {HOSTS.dns.address}\n'
        dns(f"printf %s {shlex.quote(trust + stub)} >>{UNBOUND} && systemctl reload unbound")
        yield
    finally:
        dns(f"knotc -bf zone-purge {OURS}; mv {KNOT}.kept {KNOT}; knotc reload; rm -f {ZONE_FILE}")
        dns(f"mv {UNBOUND}.kept {UNBOUND}; systemctl reload unbound")
        LEDGER.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def customer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The customer's zone has, in the place of the records that it had, the names that lead to ours."""
    page = tmp_path_factory.mktemp("customer") / "records.zone"
    with HOSTS.names(), zone_of_ours():
        HOSTS.site("-e", json.dumps(OPTIONS), playbook="playbooks/dns_records.yml")
        options = json.dumps(OPTIONS | {"dns_records_zone_file": str(page)})
        with contextlib.suppress(subprocess.CalledProcessError):  # the customer has set nothing yet
            HOSTS.site("-e", options, playbook="playbooks/verify_dns.yml")
        aliases = re.findall(r"^(\S+) \d+ IN CNAME (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert f"_25._tcp.{HOSTS.mail.name}." in {name for name, _ in aliases}
        zone = dns(f"knotc zone-read {CUSTOMER}")
        there = {name for name, _ in aliases if f" {name} " in zone}
        edit(
            CUSTOMER,
            *(f"unset {CUSTOMER} {name}" for name in there),
            *(f"set {CUSTOMER} {name} {TTL} CNAME {target}" for name, target in aliases),
        )
        forget()
        try:
            yield
        finally:
            edit(CUSTOMER, *(f"unset {CUSTOMER} {name} CNAME" for name, _ in aliases))
            HOSTS.site(playbook="playbooks/dns_records.yml")
            HOSTS.ssh(HOSTS.outside, "systemctl restart opendkim")  # what it remembers is no longer so


def of_the_customer() -> list[str]:
    """The customer's zone without what its name server makes by itself."""
    return sorted(line for line in dns(f"knotc zone-read {CUSTOMER}").splitlines() if not re.search("SOA|RRSIG", line))


@pytest.mark.usefixtures("customer")
def test_strangers_verify_the_mail_host_through_a_customer_s_zone_while_its_keys_change() -> None:
    before = of_the_customer()
    rounds = Rounds(HOSTS, 1, options=OPTIONS, zones=(CUSTOMER, OURS), say=print)
    rounds.play(limit=1800)
    print(rounds.table())
    assert rounds.faults == []
    assert len(rounds.keys) > 1
    assert rounds.strangers.verified > 4
    assert of_the_customer() == before


@pytest.mark.usefixtures("customer")
def test_a_key_that_is_not_in_our_zone_is_not_believed_through_the_customer_s() -> None:
    name = f"_25._tcp.{HOSTS.mail.name}.{BELOW}."
    kept = [line.split(maxsplit=4)[4] for line in dns(f"knotc zone-read {OURS} {name} TLSA").splitlines()]
    finger = f"posttls-finger -t 30 -T 30 -L summary -l dane-only {CUSTOMER} 2>&1 || true"
    assert "Verified TLS connection established" in HOSTS.ssh(HOSTS.outside, finger)
    edit(OURS, f"unset {OURS} {name} TLSA", f"set {OURS} {name} {TTL} TLSA 3 1 1 {'00' * 32}")
    try:
        forget()
        assert "Verified" not in HOSTS.ssh(HOSTS.outside, finger)
    finally:
        edit(OURS, f"unset {OURS} {name} TLSA", *(f"set {OURS} {name} {TTL} TLSA {value}" for value in kept))
