"""The keys of the private authority's certificates, with name servers that show what a test says."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.rdataset
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from filter_plugins.mail_rrsets import mail_rrsets
from filter_plugins.tlsa import renewable_keys, tlsa_keys
from library import rotate_tls
from lookup_plugins.private_certificate import private_certificate
from tests.unit.killing import Killed, Killer

if TYPE_CHECKING:
    from module_utils import dns_world, dns_zone, durable, mail_checks
else:  # the same modules that the module under test has
    from ansible.module_utils import dns_world, dns_zone, durable, mail_checks

DAY, HOUR = 1, 1 / 24
NAME = "mail.example.com"
ZONE = {"name": "example.com", "server": "192.0.2.53", "key_name": "mailroom", "key_file": "none"}


class FakeServer:
    """A name server of a zone, which shows what was published when it last looked."""

    def __init__(self, name: str) -> None:
        self.name, self.ttl = name, 3600
        self.shown: list[str] = []
        self.reason = ""

    def __str__(self) -> str:
        return self.name

    def ask(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], dns.rdataset.Rdataset]:
        if self.reason:
            raise dns_zone.ZoneError(self.reason)
        found = {"SOA": ["ns. me. 1 3600 600 86400 300"], "TLSA": self.shown}
        return {
            key: dns.rdataset.from_rdata_list(self.ttl, [dns_zone.to_rdata(key[1], value) for value in found[key[1]]])
            for key in wanted
            if found[key[1]]
        }


class Company:
    """A mail host with a certificate of the private authority, and its name servers."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory / "ca"
        self.servers = [FakeServer("ns1"), FakeServer("ns2")]
        self.hosts: list[dict[str, Any]] = [{"inventory_hostname": NAME}]
        self.zones, self.delegation = [ZONE], ""
        monkeypatch.setattr(dns_zone, "authoritative", lambda *_: (self.servers, []))
        self.deploy()

    @property
    def digests(self) -> list[str]:
        """What is to be in DNS."""
        [found] = tlsa_keys(self.hosts, str(self.directory))
        return found["digests"]

    def deploy(self) -> str:
        """Have the daemons show the certificate; answers its key, as DNS tells of it."""
        made = private_certificate(self.directory, [NAME], 397, datetime.now(UTC))
        key = x509.load_pem_x509_certificate(made["chain"].encode()).public_key()
        public = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"3 1 1 {hashlib.sha256(public).hexdigest()}"

    def publish(self, *servers: FakeServer) -> None:
        [record] = mail_rrsets([], [], [], tlsa=tlsa_keys(self.hosts, str(self.directory)))
        for server in servers or self.servers:
            server.shown = list(record["values"])

    def run(self, now: float, applied: bool = False, check_mode: bool = False, **options: Any) -> dict[str, Any]:
        """Run the module at a time in days."""
        parameters = {
            "directory": str(self.directory),
            "hosts": renewable_keys(self.hosts, str(self.directory)),
            "zones": self.zones,
            "delegation": self.delegation,
            "resolver": "192.0.2.54",
            "days": 365,
            "clock_tolerance": 300,
            "left_out": [],
            "applied": applied,
            "timeout": 1,
        }
        return rotate_tls.run(parameters | options, check_mode, int(now * 86400))


@pytest.fixture
def company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Company:
    return Company(tmp_path, monkeypatch)


def test_from_one_key_to_the_next(company: Company) -> None:
    former, following = company.digests
    company.publish(company.servers[0])
    assert company.run(0)["changed"]
    company.publish()
    [line] = company.run(100)["story"]
    assert line == (
        f"{NAME}: key {former[:8]} is used until 1971-01-01 00:00 UTC; "
        f"{following[:8]} can take its place from 1970-04-11 02:10 UTC"  # two TTLs, and 10 minutes for clocks
    )
    assert company.run(364)["due"] == []
    assert company.run(365)["due"] == [NAME]
    assert company.digests == [following, former]
    assert company.run(365)["due"] == []  # cut off, and run again
    company.deploy()
    used, another, kept = company.digests
    assert (used, kept) == (following, former)
    assert another not in (used, kept)
    company.publish()
    company.run(366, applied=True)
    assert company.digests == [used, another]
    assert not company.run(366, applied=True)["changed"]
    assert company.run(366 + 2 * HOUR, days=0)["due"] == []
    assert company.run(366 + 3 * HOUR, days=0)["due"] == [NAME]


def test_a_next_key_that_a_server_does_not_show_is_not_used(company: Company) -> None:
    _, following = company.digests
    company.publish()
    company.run(0)
    company.servers[1].shown = company.servers[1].shown[:1]
    answer = company.run(400)
    assert answer["due"] == []
    reason = f"ns2 does not show _25._tcp.{NAME}. TLSA of both"
    assert f"{following[:8]} waits until all name servers show both ({reason})" in answer["story"][0]
    company.publish()
    assert company.run(401)["due"] == []
    assert company.run(402)["due"] == [NAME]


@pytest.mark.parametrize("shown", [True, False])
def test_a_server_that_cannot_be_asked_keeps_all_waiting(company: Company, shown: bool) -> None:
    if shown:
        company.publish()
    company.run(0)
    company.servers[1].reason = "ns2 does not answer"
    assert company.run(400)["due"] == []
    assert "(ns2 does not answer)" in company.run(401)["story"][0]


def test_where_dns_tells_of_no_key_at_all_nobody_has_to_be_waited_for(company: Company) -> None:
    company.run(0)
    assert company.run(400)["due"] == [NAME]


def test_a_set_of_one_server_alone_is_not_shown(company: Company) -> None:
    company.publish(company.servers[0])
    company.run(0)
    assert company.run(400)["due"] == []


def test_in_a_customer_s_zone_the_name_in_ours_is_waited_for(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    """The customer's own has an alias: no TLSA records, of which none would be missed."""
    customer = FakeServer("ns.customer")
    monkeypatch.setattr(mail_checks, "zone_of", lambda *_: "example.com.")
    monkeypatch.setattr(dns_world, "servers_of", lambda *_: ([customer], []))
    company.zones, company.delegation = [ZONE | {"name": "provider.example"}], "mail-dns.provider.example"
    company.publish()
    company.run(0)
    company.servers[1].shown = company.servers[1].shown[:1]
    answer = company.run(400)
    assert answer["due"] == []
    assert f"(ns2 does not show _25._tcp.{NAME}.mail-dns.provider.example. TLSA of both)" in answer["story"][0]
    company.publish()
    company.run(401)
    customer.shown = [f"3 1 1 {'00' * 32}"]  # of before there was an alias
    assert f"(ns.customer does not show _25._tcp.{NAME}. TLSA of both)" in company.run(402)["story"][0]
    customer.shown = []
    assert company.run(403)["due"] == []
    assert company.run(404)["due"] == [NAME]


def test_what_others_remember_for_longer_is_waited_for_longer(company: Company) -> None:
    company.publish()
    company.servers[1].ttl = 86400
    company.run(0)
    assert company.run(2, days=0)["due"] == []
    assert company.run(2.01, days=0)["due"] == [NAME]


def test_check_mode_says_what_would_be_and_writes_nothing(company: Company) -> None:
    company.publish()
    company.run(0)
    before = sorted((file.name, file.read_bytes()) for file in company.directory.iterdir())
    assert company.run(400, check_mode=True)["due"] == [NAME]
    assert sorted((file.name, file.read_bytes()) for file in company.directory.iterdir()) == before


def test_a_kill_between_the_two_files_is_made_good(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    former, following = company.digests
    company.publish()
    company.run(0)
    real = durable.replace

    def killed(path: Path, content: str) -> None:
        real(path, content)
        if path.suffix == ".former":
            raise KeyboardInterrupt

    monkeypatch.setattr(durable, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        company.run(400)
    monkeypatch.undo()
    assert company.digests == [former, following, former]
    monkeypatch.setattr(dns_zone, "authoritative", lambda *_: (company.servers, []))
    assert company.run(401)["due"] == [NAME]
    assert company.digests == [following, former]


@pytest.mark.parametrize("site", [False, True])
def test_a_run_is_cut_off_before_and_after_each_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: bool
) -> None:
    """What the daemons show then is in DNS, and the same run once more takes the next key, no other.

    site: site.yml runs before that.
    """
    killer = Killer(monkeypatch)
    monkeypatch.setattr("lookup_plugins.private_certificate._new_key", partial(ec.generate_private_key, ec.SECP256R1()))
    for steps in itertools.count(1):
        company, cut_off = Company(tmp_path / str(steps), monkeypatch), False
        company.publish()
        company.run(0)
        following, killer.left = company.digests[1], steps
        for _ in range(2):
            try:
                company.run(400)
                shown = company.deploy()
                assert shown in company.servers[0].shown
                company.run(400, applied=True)
                company.publish()
                break
            except Killed:
                cut_off = True
                if site:
                    assert company.deploy() in company.servers[0].shown
                    company.publish()
        assert shown == f"3 1 1 {following}"
        assert company.digests[0] == following
        assert company.servers[0].shown == [f"3 1 1 {digest}" for digest in company.digests]
        assert len(company.digests) == 2
        if not cut_off:
            break
    assert steps > 10


def test_who_comes_too_late_takes_no_second_key(company: Company) -> None:
    company.publish()
    company.run(0)
    before = renewable_keys(company.hosts, str(company.directory))
    assert company.run(400)["due"] == [NAME]
    company.deploy()
    digests = company.digests
    assert company.run(400, hosts=before)["due"] == []
    assert company.digests == digests


def test_a_host_with_an_issued_certificate_is_only_told(company: Company) -> None:
    facts = {"acme_certificate": True, "tls_keys": ["aa" * 32, "bb" * 32]}
    company.hosts = [{"inventory_hostname": NAME, "certificate_mode": "acme", "ansible_facts": facts}]
    company.publish()
    company.run(0)
    before = sorted(file.name for file in company.directory.iterdir())
    assert company.run(400)["due"] == company.run(400, applied=True)["due"] == [NAME]
    assert sorted(file.name for file in company.directory.iterdir()) == before


def test_what_is_wrong_is_told_before_anything_is_decided(company: Company) -> None:
    with pytest.raises(ValueError, match=r"^mail2.example.com is left out: "):
        company.run(400, left_out=["mail2.example.com"])
    assert not (company.directory / rotate_tls.FILE).exists()


@pytest.mark.parametrize(
    "text", ["nothing", json.dumps({"version": 2}), json.dumps({"version": 1, "hosts": {"a": {}}})]
)
def test_a_state_that_is_none_is_named(company: Company, text: str) -> None:
    file = company.directory / rotate_tls.FILE
    file.write_text(text)
    with pytest.raises(ValueError, match=r"keys\.json does not say how old keys are: restore it, or remove it"):
        company.run(0)
    assert file.read_text() == text
