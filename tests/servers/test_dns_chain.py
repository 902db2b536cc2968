"""What is wrong with DNSSEC, and with name servers, is told apart: zones below a signed root, with one fault each.

Real servers, all on loopback; see tests/servers/private_dns.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from filter_plugins.mail_rrsets import RRset, mail_rrsets
from library import dns_verify
from tests.servers.private_dns import DEAD, LAME, REVERSE, Tree, Zone, lines

if TYPE_CHECKING:
    from module_utils import dns_world, dns_zone, smtp_tls
else:  # the same modules that the module under test has
    from ansible.module_utils import dns_world, dns_zone, smtp_tls

pytestmark = pytest.mark.hosts

FAULTS: Mapping[str, Mapping[str, Any]] = {
    "good.test": {},
    "unsigned.test": {"signing": "unsigned", "ds": "none"},
    "unknown.test": {"ds": "none"},
    "expired.test": {"signing": "expired"},
    "mismatch.test": {"ds": "other key"},
    "stripped.test": {"signing": "unsigned"},
    "lame.test": {"address": LAME},
    "down.test": {"address": DEAD},
}


def wanted(domain: str) -> list[RRset]:
    """What the mail of a domain needs."""
    keys = [{"domain": domain, "selector": "mailroom1", "public": "A" * 392}]
    return mail_rrsets([{"name": "prod", "domains": [{"name": domain}]}], hosts(domain), keys)


def hosts(domain: str) -> list[dict[str, str]]:
    return [{"name": f"mail.{domain}", "ipv4": f"192.0.2.{25 + [*FAULTS].index(domain)}", "ipv6": ""}]


class Resolvers(NamedTuple):
    """Ports of resolvers: one that says why, one that does not, one that trusts another root."""

    tree: Tree
    right: int
    mute: int
    astray: int


@pytest.fixture(scope="session")
def resolvers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resolvers]:
    zones = [Zone(f"{domain}.", lines(wanted(domain), f"{domain}."), **fault) for domain, fault in FAULTS.items()]
    reverse = Zone(REVERSE, [line for domain in FAULTS for line in lines(wanted(domain), REVERSE)])
    directory = tmp_path_factory.mktemp("tree")
    tree = Tree(directory, [*zones, reverse])
    with (
        tree.running(),
        tree.resolver(directory / "right") as right,
        tree.resolver(directory / "mute", explains=False) as mute,
        tree.resolver(directory / "astray", anchor=Zone(".")) as astray,
    ):
        yield Resolvers(tree, right, mute, astray)


class Verify:
    """The module, as it looks at one domain; answers what is not ok, as check, name, verdict and text."""

    def __init__(self, resolvers: Resolvers) -> None:
        self.resolvers = resolvers

    def __call__(self, domain: str, port: int = 0, timeout: float = 2.0) -> list[tuple[str, str, str, str]]:
        parameters = {
            "records": wanted(domain),
            "hosts": hosts(domain),
            "domains": [domain],
            "zones": [domain],
            "resolver": "127.0.0.1",
            "resolver_port": port or self.resolvers.right,
            "issuer": "",
            "policy": "",
            "providers": [],
            "ca_file": "",
            "block_lists": [],
            "timeout": timeout,
        }
        found = dns_verify.run(parameters)["findings"]
        assert not any("\n" in one["text"] for one in found)
        return [(one["check"], one["name"], one["verdict"], one["text"]) for one in found if one["verdict"] != "ok"]

    def ds(self, domain: str) -> str:
        """The DS that the zone above ought to have."""
        [zone] = [zone for zone in self.resolvers.tree.zones if zone.name == f"{domain}."]
        return f"DS {zone.ds_of(zone.dnskey)}"


@pytest.fixture
def verify(resolvers: Resolvers, monkeypatch: pytest.MonkeyPatch) -> Verify:
    """Name servers are asked on the ports that they have here; there are no mail servers."""
    server, ports = dns_zone.Server, resolvers.tree.ports
    local = lambda address, _port, timeout: server("127.0.0.1", ports[address], timeout)  # noqa: E731
    monkeypatch.setattr(dns_world, "Server", local)
    monkeypatch.setattr(smtp_tls, "offered", lambda *_: smtp_tls.Offer("TLSv1.3"))
    return Verify(resolvers)


def test_of_a_good_chain_nothing_is_said(verify: Verify) -> None:
    assert verify("good.test") == []


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        ("unsigned.test", "not signed: others can forge it, and DANE cannot protect mail"),
        ("unknown.test", "signed, but nobody sees it, for its DS is missing: give your registrar {ds}"),
    ],
)
def test_a_zone_without_a_chain_is_advice_alone(verify: Verify, domain: str, text: str) -> None:
    assert verify(domain) == [("DNSSEC", domain, "advice", text.format(ds=verify.ds(domain)))]


def without_reason(text: str, start: str) -> str:
    """A text with `...` for what the resolver says, which begins with `start`: versions of unbound differ in it."""
    said = re.search(r"\((.+)\):", text)
    assert said, text
    assert said[1].startswith(start)
    return text.replace(said[1], "...")


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        ("expired.test", "its signatures expired 3 days ago (...): sign the zone anew, and see why its signer stopped"),
        (
            "mismatch.test",
            "the DS in the zone above names none of its keys (...): have your registrar replace it by {ds}",
        ),
    ],
)
@pytest.mark.parametrize("says_why", [True, False])
def test_why_a_zone_is_bogus_is_told_apart(verify: Verify, domain: str, text: str, says_why: bool) -> None:
    start = "EDE " if says_why else "the resolver says SERVFAIL"
    found = verify(domain, verify.resolvers.right if says_why else verify.resolvers.mute)
    [(name, verdict, said)] = [one[1:] for one in found if one[0] == "DNSSEC"]
    assert (name, verdict) == (domain, "fails")
    assert without_reason(said, start) == text.format(ds=verify.ds(domain))
    others = {without_reason(text, start) for check, _, _, text in found if check != "DNSSEC"}
    assert others == {"bogus for all who validate (...): see DNSSEC of its zone"}


@pytest.mark.parametrize("says_why", [True, False])
def test_a_zone_that_ought_to_be_signed_is_told(verify: Verify, says_why: bool) -> None:
    # What the resolver says of it depends on what it asked first: that it is bogus, or nothing at all.
    found = verify("stripped.test", verify.resolvers.right if says_why else verify.resolvers.mute)
    [(name, verdict, text)] = [one[1:] for one in found if one[0] == "DNSSEC"]
    assert (name, verdict) == ("stripped.test", "fails")
    right = "the zone above has a DS, but the zone is not signed (...): sign it, or have your registrar remove the DS"
    assert without_reason(text, "") == right
    assert {verdict for check, _, verdict, _ in found if check == "MX"} <= {"fails", "unknown"}


def test_a_resolver_with_a_wrong_anchor_is_to_blame_itself(verify: Verify) -> None:
    [(check, name, verdict, text)] = verify("good.test", verify.resolvers.astray)
    assert (check, name, verdict) == ("DNSSEC", ".", "fails")
    right = "the resolver trusts no key of the root (...): correct its trust anchor and its clock"
    assert without_reason(text, "EDE ") == right


@pytest.mark.parametrize(
    ("domain", "address", "said"),
    [
        ("lame.test", LAME, "answers REFUSED when asked for "),
        ("down.test", DEAD, "cannot be reached (Connection refused): is the name server running"),
    ],
)
def test_a_server_without_the_zone_is_told_from_one_that_is_down(
    verify: Verify, domain: str, address: str, said: str
) -> None:
    found = verify(domain, timeout=0.5)
    [(name, verdict, text)] = [one[1:] for one in found if one[0] == "name servers"]
    assert (name, verdict) == (domain, "fails")
    assert f"ns.{domain} is of no use: 127.0.0.1 port {verify.resolvers.tree.ports[address]} {said}" in text
    assert {verdict for check, name, verdict, _ in found if name.endswith(domain) and check == "MX"} == {"unknown"}
