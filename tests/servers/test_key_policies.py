"""The policies for keys that the role's documents give: ours passes whole, and whatever else it tries is refused."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.rcode
import dns.update
import pytest

from filter_plugins.delegation import delegated
from filter_plugins.mail_rrsets import mail_rrsets
from tests.name_servers import APEX, CONFIGURATIONS, KEY, REVERSE, SECRET, NameServer, running
from tests.servers.test_dns_records import DKIM, DMARC, HOST, PTR, ROOT, Publisher, rrset

if TYPE_CHECKING:
    from module_utils import dns_zone
else:
    from ansible.module_utils import dns_zone

pytestmark = pytest.mark.hosts

README = ROOT / "roles/dns_records/README.md"
DATABASES = [{"name": "prod", "domains": [{"name": "example.com"}]}]
KEYS = [
    {"domain": "example.com", "selector": "mailroom1", "type": "rsa", "public": "A" * 392},
    {"domain": "example.com", "selector": "mailroom1-ed25519", "type": "ed25519", "public": "A" * 43 + "="},
]


def wanted(keys: list[dict[str, str]], ipv6: str = "", **more: Any) -> list[dict[str, Any]]:
    """All that the role publishes for one domain and one host."""
    name = "mail.example.com"
    host = {"name": name, "ipv4": "192.0.2.25", "ipv6": ipv6}
    everything: dict[str, Any] = {
        "mta_sts": {"host": name, "policy": "version: STSv1\n"},
        "tlsa": [{"host": name, "digests": ["a" * 64, "b" * 64]}],
        "dane": "always",
        "caa": [{"host": name, "values": ['0 issue "ca.example"']}],
    }
    return [dict(record) for record in mail_rrsets(DATABASES, [host], keys, **everything, **more)]


def template(language: str, beginning: str) -> str:
    """A block of the document, with the secret in its place."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    [block] = [block for found, block in blocks if found == language and block.startswith(beginning)]
    return str(block).replace("<base64>", SECRET).replace("{", "{{").replace("}", "}}")


STORAGE = 'template:\n  - id: default\n    storage: {directory}\n    file: "%s.zone"\n'


def configuration(kind: str) -> str:
    """The usual one up to the keys, and from there on the document's."""
    _, usual, _ = CONFIGURATIONS[kind]
    if kind == "knot":
        return usual[: usual.index("key:")] + STORAGE + template("yaml", "key:")
    return usual[: usual.index("key mailroom {{")] + template("", "key mailroom")


def delegation(kind: str) -> str:
    """The usual one with its keys, and from there on the document's, for a zone to which customers' names lead."""
    _, usual, _ = CONFIGURATIONS[kind]
    if kind == "knot":
        ours = usual[: usual.index("acl:")] + STORAGE + template("yaml", "acl:")
    else:
        ours = usual[: usual.index("zone example.com")] + template("", "zone mail-dns")
    return ours.replace("mail-dns.provider.example", "example.com")


@pytest.fixture(scope="module", params=["knot", "bind"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NameServer]:
    with running(request.param, tmp_path_factory.mktemp("policy"), configuration(request.param)) as started:
        yield started


def test_all_that_we_do_is_allowed(server: NameServer, tmp_path: Path) -> None:
    publish = Publisher(server, tmp_path)
    everything = wanted(KEYS, "2001:db8::25")
    [elsewhere] = publish(*everything)["unmanaged"]
    assert " PTR " in elsewhere["record"]  # of the IPv6 address
    assert server.values(PTR, "PTR") == {HOST}
    assert not publish(*everything)["changed"]
    fewer = wanted(KEYS[1:], ttl=300, dmarc_policy="reject")
    assert publish(*fewer)["leftovers"] == [f"{DKIM} TXT"]
    assert publish(*fewer, prune=True)["changed"]
    assert server.values(HOST, "AAAA") == server.values(DKIM, "TXT") == set()
    assert server.values(DMARC, "TXT") == {'"v=DMARC1; p=reject; rua=mailto:dmarc-reports@example.com"'}
    assert publish(rrset(DMARC, "TXT", "v=DMARC1; p=reject"), prune=True)["changed"]
    assert server.values(HOST, "A") == server.values(PTR, "PTR") == server.values(APEX, "MX") == set()


Attempt = Callable[[dns.update.UpdateMessage], None]
SOA = "ns.example.net. x.example.net. 4000000000 1 1 1 1"
ATTEMPTS: dict[str, tuple[str, Attempt]] = {
    "another SOA": (APEX, lambda message: message.replace(APEX, 60, "SOA", SOA)),
    "a name server more": (APEX, lambda message: message.add(APEX, 60, "NS", "ns.example.net.")),
    "a name server less": (APEX, lambda message: message.delete(APEX, "NS", "ns.example.com.")),
    "a part of the zone for another": (
        APEX,
        lambda message: message.add("x.example.com.", 60, "NS", "ns.example.net."),
    ),
    "another website": (APEX, lambda message: message.replace("www.example.com.", 60, "A", "192.0.2.66")),
    "text at another name": (APEX, lambda message: message.add("www.example.com.", 60, "TXT", "x")),
    "a certificate": (APEX, lambda message: message.add("_acme-challenge.example.com.", 60, "TXT", "x")),
    "mail of another name": (APEX, lambda message: message.add("www.example.com.", 60, "MX", "1 mx.example.net.")),
    "all of a name": (APEX, lambda message: message.delete("www.example.com.")),
    "another's reverse name": (
        f"{REVERSE}.",
        lambda message: message.replace(f"80.{REVERSE}.", 60, "PTR", "x.example.net."),
    ),
    "text in the reverse zone": (f"{REVERSE}.", lambda message: message.add(PTR, 60, "TXT", "x")),
}
# Knot knows no pairs of name and type, as the document says.
NOT_KNOT: dict[str, tuple[str, Attempt]] = {
    "the address of the zone itself": (APEX, lambda message: message.replace(APEX, 60, "A", "192.0.2.66")),
    "an authority": (APEX, lambda message: message.add(APEX, 60, "CAA", '0 issue "ca.example.net"')),
    "an alias in place of a policy": (
        APEX,
        lambda message: message.add("_dmarc.example.com.", 60, "CNAME", "x.example.net."),
    ),
    "mail of the host": (APEX, lambda message: message.add(HOST, 60, "MX", "1 mx.example.net.")),
}


CASES = [("knot", attempt) for attempt in ATTEMPTS] + [("bind", attempt) for attempt in [*ATTEMPTS, *NOT_KNOT]]


@pytest.mark.parametrize(("server", "attempt"), CASES, indirect=["server"])
def test_whatever_else_is_refused(server: NameServer, attempt: str) -> None:
    zone, change = {**ATTEMPTS, **NOT_KNOT}[attempt]
    before = server.serial(zone)
    message = dns.update.UpdateMessage(zone)
    change(message)
    with contextlib.suppress(dns_zone.KeyRefusedError):  # this is how Knot refuses
        assert dns_zone.Server("127.0.0.1", server.port, 5.0, KEY).update(message) == dns.rcode.REFUSED
    assert server.serial(zone) == before


def test_one_name_too_many_refuses_the_whole_update(server: NameServer, tmp_path: Path) -> None:
    before = server.serial()
    line = Publisher(server, tmp_path).refusal(
        rrset("_smtp._tls.example.com.", "TXT", "v=TLSRPTv1; rua=mailto:x@example.com"),
        rrset("mail2.example.com.", "A", "192.0.2.27"),
    )
    assert "refuses the update of example.com. by key mailroom: allow this key these names and types there" in line
    assert server.serial() == before


@pytest.mark.parametrize("kind", ["knot", "bind"])
def test_a_zone_that_customers_lead_to_takes_what_they_need_and_no_address(kind: str, tmp_path: Path) -> None:
    keys = [{**key, "domain": "customer.example"} for key in KEYS]
    databases = [{"name": "prod", "domains": [{"name": "customer.example"}]}]
    host = {"name": "mail.customer.example", "ipv4": "192.0.2.25"}
    tlsa = [{"host": host["name"], "digests": ["a" * 64]}]
    everything = mail_rrsets(databases, [host], keys, mta_sts={"policy": "version: STSv1\n"}, tlsa=tlsa, dane="always")
    sets: list[Any] = list(delegated(everything, "example.com", ["example.com"], "mailroom1"))
    with running(kind, tmp_path, delegation(kind)) as server:
        publish = Publisher(server, tmp_path)
        only: dict[str, Any] = {"zones": [publish.zone]}
        assert publish(*sets, **only)["changed"]
        assert server.values("_25._tcp.mail.customer.example.example.com.", "TLSA")
        assert not publish(*sets, **only)["changed"]
        assert publish(*sets[:1], prune=True, **only)["changed"]
        address = rrset(HOST, "A", "192.0.2.25")
        assert "refuses the update of example.com." in publish.refusal(address, **only)
