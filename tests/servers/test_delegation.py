"""Keys change while a customer's zone, which leads to ours, stays as it is to the byte: with real servers.

All on loopback, see tests/servers/private_dns.py and tests/name_servers.py.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dkim
import dns.rcode
import dns.update
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from filter_plugins.delegation import delegated, delegation_names
from filter_plugins.mail_rrsets import RRset, mail_rrsets
from filter_plugins.signing import key_names
from library import dns_rrsets, dns_verify, rotate_dkim
from lookup_plugins.dkim_key import dkim_key
from lookup_plugins.dkim_selectors import Signer, dkim_selectors
from tests.name_servers import KEY, SECRET, NameServer
from tests.servers.private_dns import REVERSE, SERVER, Tree, Zone, lines
from tests.servers.test_dns_records import Publisher

if TYPE_CHECKING:
    from module_utils import dns_world, dns_zone, smtp_tls
else:  # the same modules that the module under test has
    from ansible.module_utils import dns_world, dns_zone, smtp_tls

pytestmark = pytest.mark.hosts

DAY = 86400
CUSTOMER, BY_NS, LATE, OURS = "customer.test", "byns.test", "late.test", "mail-dns.test"
KEYS = f"_domainkey.{BY_NS}"
HOST = {"name": f"mail.{CUSTOMER}", "ipv4": "192.0.2.25"}
WRITTEN = [OURS, KEYS]
"""The names of the zones that we may update."""


def wanted(keys: list[dict[str, str]], *domains: str) -> list[RRset]:
    """What the mail of domains needs, in the customers' zones and in ours."""
    databases = [{"name": "prod", "domains": [{"name": domain} for domain in domains]}]
    more: dict[str, Any] = {"tlsa": [{"host": HOST["name"], "digests": ["ab" * 32]}], "dane": "always"}
    found = mail_rrsets(databases, [HOST], keys, ttl=60, **more)
    return delegated(found, OURS, WRITTEN, "mailroom1")


class Provider:
    """Who runs the mail of customers: their keys, and the zones that these lead to."""

    def __init__(self, directory: Path) -> None:
        """Make the first keys, and all zones, with what customers set once."""
        self.directory = directory
        (directory / "tsig").touch(0o600)
        (directory / "tsig").write_text(SECRET, encoding="ascii")
        self.keys: list[dict[str, str]] = []
        records = self.records()
        late = wanted([{"domain": LATE, "selector": "mailroom1", "public": "AA"}], LATE)
        kept = [line for line in lines(late, f"{LATE}.") if not line.startswith(("mailroom2.", "_dmarc."))]
        by_ns = [line for line in lines(records, f"{BY_NS}.") if f"{KEYS}. " not in line]
        keys = Zone(f"{KEYS}.", signing="unsigned", ds="none")
        zones = [
            Zone(f"{CUSTOMER}.", lines(records, f"{CUSTOMER}."), ours=False),
            Zone(f"{BY_NS}.", [*by_ns, *keys.delegation()], ours=False),
            Zone(f"{LATE}.", [*kept, f"_dmarc.{LATE}. 60 IN CNAME _dmarc.{CUSTOMER}."], ours=False),
            Zone(f"{OURS}.", signing="unsigned", ds="none"),
            keys,
            Zone(REVERSE, lines(records, REVERSE), ours=False),
        ]
        self.tree = Tree(directory, zones, SECRET)
        self.resolver = 0

    def signers(self, *, removed: bool = False) -> list[Signer]:
        """The keys of all domains that are published, or those that are so no longer."""
        return dkim_selectors(self.directory / "dkim", [CUSTOMER, BY_NS], "mailroom1", removed)

    def records(self) -> list[RRset]:
        """What is to be published at this moment; reads the keys, and makes those that are missing."""
        names = [(one["domain"], one["selector"], one["type"]) for one in self.signers()]
        self.keys = [dkim_key(self.directory / "dkim", *name) for name in names]
        return wanted(self.keys, CUSTOMER, BY_NS)

    def zones(self) -> list[dict[str, Any]]:
        parts = {"server": "127.0.0.1", "port": self.tree.ports[SERVER], "key_name": "mailroom"}
        more = {"key_algorithm": "hmac-sha256", "key_file": str(self.directory / "tsig")}
        return [{"name": name, **parts, **more} for name in WRITTEN]

    def publish(self, records: list[RRset]) -> dict[str, Any]:
        former = key_names(self.signers(removed=True))
        parameters = {
            "records": records,
            "zones": self.zones(),
            "elsewhere": [],
            "ledger": str(self.directory / "ledger.json"),
            "adopt": [],
            "remove": [*former, *delegation_names(former, OURS)],
            "mx_takeover": False,
            "spf_consolidate": False,
            "prune": False,
            "timeout": 5.0,
            "readback_timeout": 5.0,
            "resolver": "127.0.0.1",
            "resolver_port": self.resolver,
        }
        return dns_rrsets.run(parameters, check_mode=False)

    def rotate(self, day: float) -> list[str]:
        """Do what playbooks/rotate_keys.yml does; answers what is waited for."""

        def decided(records: list[RRset], applied: bool) -> list[str]:
            parameters = {
                "directory": str(self.directory / "dkim"),
                "domains": [CUSTOMER, BY_NS],
                "selector": "mailroom1",
                "records": records,
                "zones": self.zones(),
                "resolver": "127.0.0.1",
                "days": 180,
                "retired_days": 7,
                "clocks": {},
                "clock_tolerance": 300,
                "left_out": [],
                "applied": applied,
                "timeout": 5.0,
            }
            return list(rotate_dkim.run(parameters, False, int(day * DAY))["story"])

        decided(wanted(self.keys, CUSTOMER, BY_NS), applied=False)
        records = self.records()
        self.publish(records)
        return decided(records, applied=True)

    def key_in_dns(self, name: str) -> bytes:
        """What the world sees at a name."""
        [value] = dns_world.World("127.0.0.1", self.resolver).ask(name, "TXT").values or [""]
        return value.encode()

    def sign(self) -> list[bytes]:
        """Mails from both domains, signed as our mail host would at this moment; Ed25519 is tried at once."""
        mails = []
        private = {(key["domain"], key["selector"]): key["private"] for key in self.keys}
        for signer in filter(lambda one: one["signs"], self.signers()):
            domain, selector = signer["domain"], signer["selector"]
            if signer["type"] == "ed25519":
                shown = self.key_in_dns(f"{selector}._domainkey.{domain}.").rpartition(b"p=")[2]
                public = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(shown))
                secret = ed25519.Ed25519PrivateKey.from_private_bytes(base64.b64decode(private[domain, selector]))
                public.verify(secret.sign(b"hello"), b"hello")
            else:
                mail = f"From: sales@{domain}\r\nTo: customer@example.com\r\nSubject: Offer\r\n\r\nHi.\r\n".encode()
                key = private[domain, selector].encode()
                mails.append(dkim.sign(mail, selector.encode(), domain.encode(), key) + mail)
        return mails

    def all_verify(self, mails: list[bytes]) -> bool:
        """Whether signatures verify with what DNS has."""
        looked_up = lambda name, **_: self.key_in_dns(name.decode())  # noqa: E731
        return all(dkim.verify(mail, dnsfunc=looked_up) for mail in mails)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """A provider whose records are published."""
    made = Provider(tmp_path_factory.mktemp("provider"))
    ports = made.tree.ports

    class Server(dns_zone.Server):
        """A name server at the port that it has here."""

        def __init__(self, name: str, port: int, timeout: float, key: Any = None, address: str = "") -> None:
            super().__init__(name, ports.get(address or name, port), timeout, key, "127.0.0.1")

    class World(dns_world.World):
        """The resolver at its port."""

        def __init__(self, server: str, port: int = 0, timeout: float = 5.0) -> None:
            super().__init__(server, port or made.resolver, timeout)

    with (
        pytest.MonkeyPatch.context() as patch,
        made.tree.running(),
        made.tree.resolver(made.directory / "resolver", remembers=False) as made.resolver,
    ):
        for module in (dns_world, dns_zone):
            patch.setattr(module, "Server", Server)
        patch.setattr(dns_world, "World", World)
        patch.setattr(smtp_tls, "offered", lambda *_: "there is no mail server")
        made.publish(made.records())
        yield made


def test_keys_change_and_the_customers_zones_stay_as_they_are(provider: Provider) -> None:
    files = [provider.directory / f"{domain}.zone" for domain in (CUSTOMER, BY_NS)]
    before, ours = [file.read_bytes() for file in files], (provider.directory / f"{OURS}.zone").read_bytes()
    provider.rotate(0)
    sent, seen = {0: provider.sign()}, [provider.signers()]
    for turn in range(1, 4):
        for day in (200 * turn, 200 * turn + 1, 200 * turn + 2, 200 * turn + 9):  # shown, signs, retired, removed
            story = provider.rotate(day)
            sent[day] = provider.sign()
            assert len(sent[day]) == 2
            under_way = [mail for then, mails in sent.items() if day - then < 7 for mail in mails]
            assert provider.all_verify(under_way), story
        seen.append(provider.signers())
    names = {
        domain: [{one["selector"] for one in now if one["domain"] == domain} for now in seen]
        for domain in (CUSTOMER, BY_NS)
    }
    assert names[CUSTOMER] == [{f"mailroom{n}", f"mailroom{n}-ed25519"} for n in (1, 2, 1, 2)]
    assert names[BY_NS] == [{f"mailroom{n}", f"mailroom{n}-ed25519"} for n in (1, 2, 3, 4)]
    assert [file.read_bytes() for file in files] == before
    assert (provider.directory / f"{OURS}.zone").read_bytes() != ours
    assert not provider.publish(provider.records())["changed"]


def test_our_key_may_not_write_to_a_customer(provider: Provider) -> None:
    message = dns.update.UpdateMessage(f"{CUSTOMER}.")
    message.add(f"x.{CUSTOMER}.", 60, "TXT", "x")
    server = dns_zone.Server("127.0.0.1", provider.tree.ports[SERVER], 5.0, KEY)
    with contextlib.suppress(dns_zone.KeyRefusedError):  # this is how Knot refuses
        assert server.update(message) == dns.rcode.REFUSED
    assert dns_world.World("127.0.0.1", provider.resolver).ask(f"x.{CUSTOMER}", "TXT").status == "NXDOMAIN"


def test_the_world_finds_all_behind_the_names_of_a_customer(provider: Provider) -> None:
    world = dns_world.World("127.0.0.1", provider.resolver)
    assert world.ask(f"_25._tcp.mail.{CUSTOMER}", "TLSA").values == (f"3 1 1 {'ab' * 32}",)
    assert world.ask(f"_dmarc.{CUSTOMER}", "TXT").aliases == (f"_dmarc.{CUSTOMER}.{OURS}.",)
    assert verified(provider, provider.records(), CUSTOMER, BY_NS) == []


def test_a_customer_who_has_not_set_all_is_told(provider: Provider) -> None:
    keys = [{"domain": LATE, "selector": "mailroom1", "public": "AA"}]
    found = verified(provider, wanted(keys, LATE), LATE)
    assert sorted(one for one in found if one[0] == "delegation") == [
        (
            "delegation",
            f"_dmarc.{LATE}",
            f"leads to _dmarc.{CUSTOMER}. instead of to us: set CNAME _dmarc.{LATE}.{OURS}.",
        ),
        (
            "delegation",
            f"mailroom2._domainkey.{LATE}",
            f"is not there: set CNAME mailroom2._domainkey.{LATE}.{OURS}.",
        ),
    ]


def verified(provider: Provider, records: list[RRset], *domains: str) -> list[tuple[str, str, str]]:
    """What verification says is wrong: check, name and text."""
    parameters = {
        "records": records,
        "hosts": [HOST],
        "domains": list(domains),
        "zones": WRITTEN,
        "resolver": "127.0.0.1",
        "resolver_port": provider.resolver,
        "issuer": "",
        "policy": "",
        "providers": [],
        "ca_file": "",
        "block_lists": [],
        "timeout": 5.0,
    }
    found = dns_verify.run(parameters)["findings"]
    return [(one["check"], one["name"], one["text"]) for one in found if one["verdict"] == "fails"]


def test_what_customers_need_is_written_below_a_name_of_ours(name_server: NameServer, tmp_path: Path) -> None:
    publish, to = Publisher(name_server, tmp_path), "mail-dns.example.com"
    key = {"domain": "customer.example", "selector": "mailroom1", "public": "A" * 392}
    databases = [{"name": "prod", "domains": [{"name": "customer.example"}]}]
    hosts = [{"name": "mail.example.com", "ipv4": "192.0.2.25"}]
    records = delegated(mail_rrsets(databases, hosts, [key]), to, ["example.com", REVERSE], "mailroom1")
    sets: list[Any] = [*records]
    answer = publish(*sets)
    [value] = name_server.values(f"mailroom1._domainkey.customer.example.{to}.", "TXT")
    assert value.replace('" "', "") == f'"v=DKIM1; k=rsa; h=sha256; s=email; p={"A" * 392}"'
    aliases = {one["record"].split()[0] for one in answer["unmanaged"] if " CNAME " in one["record"]}
    assert aliases == {
        f"{name}.customer.example." for name in ("mailroom1._domainkey", "mailroom2._domainkey", "_dmarc", "_smtp._tls")
    }
    assert not publish(*sets)["changed"]
    gone = delegation_names(["mailroom1._domainkey.customer.example"], to)
    assert publish(*(one for one in sets if "_domainkey" not in one["name"]), remove=gone)["changed"]
    assert name_server.values(f"{gone[0]}.", "TXT") == set()
