"""The keys of real domains, with name servers that show what a test says."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.rdataset
import pytest
from cryptography.hazmat.primitives import serialization

from filter_plugins.delegation import delegated
from filter_plugins.mail_rrsets import mail_rrsets
from filter_plugins.signing import key_names
from library import rotate_dkim
from lookup_plugins.dkim_key import MADE, dkim_key
from lookup_plugins.dkim_selectors import dkim_selectors
from tests.unit.killing import Killed, Killer

if TYPE_CHECKING:
    from module_utils import dns_world, dns_zone
    from module_utils.dns_world import Answer
else:  # the same modules that the module under test has
    from ansible.module_utils import dns_world, dns_zone
    from ansible.module_utils.dns_world import Answer

DAY = 86400
DOMAIN = "example.com"
HOSTS = [{"name": "mail.example.com", "ipv4": "192.0.2.25"}]
ZONE = {"name": DOMAIN, "server": "192.0.2.53", "key_name": "mailroom", "key_file": "none"}


class FakeServer:
    """A name server of a zone, which shows what was published when it last looked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shown: dict[tuple[str, str], list[str]] = {}

    def __str__(self) -> str:
        return self.name

    def ask(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], dns.rdataset.Rdataset]:
        soa = {key: ["ns. me. 1 3600 600 86400 300"] for key in wanted if key[1] == "SOA"}
        found = {**self.shown, **soa}
        return {
            key: dns.rdataset.from_rdata_list(60, [dns_zone.to_rdata(key[1], value) for value in found[key]])
            for key in wanted
            if key in found
        }


class Company:
    """One company's keys and name servers, and what the two roles do with what is decided."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory / "dkim"
        self.servers = [FakeServer("ns1"), FakeServer("ns2")]
        self.zones: list[dict[str, Any]] = [ZONE]
        self.lost: list[str] = []
        self.delegation = ""
        monkeypatch.setattr(dns_zone, "authoritative", lambda *_: (self.servers, self.lost))

    def records(self) -> list[Any]:
        """What site.yml wants at this moment; keys are made when they are missing."""
        signers = dkim_selectors(self.directory, [DOMAIN], "mailroom1")
        dkim = [dkim_key(self.directory, one["domain"], one["selector"], one["type"]) for one in signers]
        wanted = mail_rrsets([{"name": "prod", "domains": [{"name": DOMAIN}]}], HOSTS, dkim)
        return delegated(wanted, self.delegation, [str(zone["name"]) for zone in self.zones], "mailroom1")

    def publish(self, *servers: FakeServer) -> None:
        shown = {(record["name"], record["type"]): list(record["values"]) for record in self.records()}
        for server in servers or self.servers:
            server.shown = shown

    def run(self, now: float, applied: bool = False, check_mode: bool = False, **options: Any) -> dict[str, Any]:
        """Run the module at a time in days."""
        parameters = {
            "directory": str(self.directory),
            "domains": [DOMAIN],
            "selector": "mailroom1",
            "records": self.records(),
            "zones": self.zones,
            "resolver": "192.0.2.54",
            "days": 180,
            "retired_days": 7,
            "clocks": {},
            "clock_tolerance": 300,
            "left_out": [],
            "applied": applied,
            "timeout": 1,
        }
        return rotate_dkim.run(parameters | options, check_mode, int(now * DAY))

    def signing(self) -> set[str]:
        """The names in DNS, and the public parts, of the keys that sign."""
        signers = [one for one in dkim_selectors(self.directory, [DOMAIN], "mailroom1") if one["signs"]]
        keys = [dkim_key(self.directory, one["domain"], one["selector"], one["type"]) for one in signers]
        return {f"{key['selector']}._domainkey.{DOMAIN}. {key['public']}" for key in keys}

    def in_dns(self) -> set[str]:
        """The same of all that every server shows."""
        shown = [
            {f"{name} {values[0].rpartition('p=')[2]}" for (name, _), values in one.shown.items()}
            for one in self.servers
        ]
        return set.intersection(*shown)

    def phases(self) -> dict[str, str]:
        content = json.loads((self.directory / "selectors.json").read_text(encoding="utf-8"))
        return {key["selector"]: key["phase"] for key in content["domains"][DOMAIN]}


@pytest.fixture
def company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Company:
    return Company(tmp_path, monkeypatch)


def test_from_one_key_to_the_next(company: Company) -> None:
    assert company.run(0)["changed"]
    assert company.run(179)["story"] == ["example.com: mailroom1 signs until 1970-06-30 00:00 UTC"]
    company.run(180.01)
    assert company.phases() == {"mailroom1": "signs", "mailroom2": "new"}
    company.publish(company.servers[0])
    [line] = company.run(180.02, applied=True)["story"]
    assert line.endswith("(ns2 does not show mailroom2-ed25519._domainkey.example.com. TXT)")
    company.publish()
    [line] = company.run(180.03, applied=True)["story"]
    assert "mailroom2 is shown everywhere and signs from 1970-06-30 00:55 UTC" in line  # TTL, and 10 minutes for clocks
    company.run(180.05)
    assert company.phases() == {"mailroom1": "leaving", "mailroom2": "signs"}
    company.run(180.06, applied=True)
    company.run(188)
    assert company.phases() == {"mailroom1": "removed", "mailroom2": "signs"}
    gone = dkim_selectors(company.directory, [DOMAIN], "mailroom1", removed=True)
    assert key_names(gone) == ["mailroom1._domainkey.example.com", "mailroom1-ed25519._domainkey.example.com"]
    assert not company.run(188.1)["changed"]
    company.run(188.2, applied=True)
    assert company.phases() == {"mailroom2": "signs"}
    assert sorted(file.name for file in company.directory.glob("*.key")) == [
        "example.com.mailroom2-ed25519.key",
        "example.com.mailroom2.key",
    ]


def test_a_run_is_cut_off_before_and_after_each_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hosts sign with then is in DNS, and the same run once more brings all to where it has to be."""
    keys = itertools.cycle([MADE["rsa"](), MADE["rsa"]()])

    monkeypatch.setitem(MADE, "rsa", lambda: next(keys))
    load = partial(serialization.load_pem_private_key, unsafe_skip_rsa_key_validation=True)  # takes 40 ms each
    monkeypatch.setattr(serialization, "load_pem_private_key", load)
    killer = Killer(monkeypatch)
    for steps in itertools.count(1):
        company, hosts, cut_off = Company(tmp_path / str(steps), monkeypatch), set[str](), False
        killer.left = steps
        for day in (0, 180.01, 180.05, 188, 188.1):
            for _ in range(2):
                try:
                    company.run(day)
                    company.publish()
                    assert hosts <= company.in_dns()
                    hosts = company.signing()
                    company.run(day, applied=True)
                    break
                except Killed:
                    cut_off = True
                    assert hosts <= company.in_dns()
            assert hosts <= company.in_dns()
        assert company.phases() == {"mailroom2": "signs"}
        if not cut_off:
            break
    assert steps > 20


def test_a_run_with_nothing_due_changes_nothing(company: Company) -> None:
    company.run(0)
    before = (company.directory / "selectors.json").stat()
    assert not company.run(1)["changed"]
    assert not company.run(1, applied=True)["changed"]
    assert (company.directory / "selectors.json").stat() == before


def test_check_mode_says_what_would_be_and_writes_nothing(company: Company) -> None:
    company.run(0)
    answer = company.run(181, check_mode=True)
    assert answer["changed"]
    assert answer["diff"] == {
        "before": "example.com mailroom1 signs\n",
        "after": "example.com mailroom1 signs\nexample.com mailroom2 new\n",
    }
    assert company.phases() == {"mailroom1": "signs"}


def test_a_selector_that_has_a_key_from_earlier_is_not_used_again(company: Company) -> None:
    company.run(0)
    dkim_key(company.directory, DOMAIN, "mailroom2")
    company.run(181)
    assert company.phases() == {"mailroom1": "signs", "mailroom3": "new"}


def test_domains_that_are_not_asked_about_stay_as_they_are(company: Company) -> None:
    company.run(0, domains=["erp.example.com"])
    company.run(0)
    content = json.loads((company.directory / "selectors.json").read_text(encoding="utf-8"))
    assert [*content["domains"]] == ["erp.example.com", "example.com"]


def test_a_server_that_cannot_be_asked_is_waited_for(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    company.run(0)
    company.run(181)
    company.publish()
    company.lost = ["ns3 is a name server of example.com., but its address cannot be found"]
    assert "(ns3 is a name server" in company.run(182, applied=True)["story"][0]

    def fail(*_: object) -> None:
        raise dns_zone.ZoneError("192.0.2.53 port 53 does not answer")

    monkeypatch.setattr(dns_zone, "authoritative", fail)
    assert "(192.0.2.53 port 53 does not answer)" in company.run(182, applied=True)["story"][0]


def test_in_a_zone_of_others_its_own_name_servers_are_asked(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        ("example.com.", "SOA"): Answer(values=("ns1.other. me. 1 2 3 4 5",)),
        ("example.com.", "NS"): Answer(values=("ns1.other.", "ns2.other.")),
        ("ns1.other.", "A"): Answer(values=("192.0.2.1",)),
    }
    monkeypatch.setattr(dns_world.World, "ask", lambda _, name, kind: answers.get((name, kind), Answer("NXDOMAIN")))
    monkeypatch.setattr(dns_world, "Server", lambda *_, **__: company.servers[0])
    company.zones = []
    company.run(0)
    company.run(181)
    assert "(ns2.other. is a name server" in company.run(181, applied=True)["story"][0]
    answers["ns2.other.", "AAAA"] = Answer(values=("2001:db8::2",))
    assert "(ns1 does not show" in company.run(181, applied=True)["story"][0]
    company.publish()
    company.run(181, applied=True)
    assert company.phases()["mailroom2"] == "shown"
    answers.clear()
    assert "(nobody can tell the name servers of mailroom2" in company.run(181, applied=True)["story"][0]


def test_what_is_wrong_is_told_before_anything_is_decided(company: Company) -> None:
    with pytest.raises(ValueError, match="mail2") as error:
        company.run(
            1, left_out=["mail2.example.com"], clocks={"mail.example.com": str(DAY - 301), "mail3": str(DAY + 300)}
        )
    assert str(error.value).splitlines() == [
        "mail2.example.com is left out: run for all mail hosts, since what one of them may use has to stay",
        "mail.example.com says that it is 1970-01-01 23:55 UTC, this computer 1970-01-02 00:00 UTC: set the clocks",
    ]
    assert not (company.directory / "selectors.json").exists()


@pytest.fixture
def customer(company: Company, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """The server of a company's zone that is not ours: its names lead to a zone that is."""
    company.zones, company.delegation = [{**ZONE, "name": "provider.example"}], "keys.provider.example"
    theirs = FakeServer("theirs")
    theirs.shown = {(one["name"], one["type"]): list(one["values"]) for one in company.records()}
    answers = {
        ("example.com.", "SOA"): Answer(values=("theirs. me. 1 2 3 4 5",)),
        ("example.com.", "NS"): Answer(values=("theirs.",)),
        ("theirs.", "A"): Answer(values=("192.0.2.1",)),
    }
    monkeypatch.setattr(dns_world.World, "ask", lambda _, name, kind: answers.get((name, kind), Answer("NXDOMAIN")))
    monkeypatch.setattr(dns_world, "Server", lambda *_, **__: theirs)
    return theirs


def rotated(company: Company, now: float) -> str:
    """One rotation after another, which ends a day before `now`; answers the story of its beginning."""
    company.run(now)
    company.publish()
    [line] = company.run(now, applied=True)["story"]
    for later in (1, 9):
        company.run(now + later)
        company.run(now + later, applied=True)
    return str(line)


def test_keys_to_which_others_lead_take_turns(company: Company, customer: FakeServer) -> None:
    company.run(0)
    theirs, seen, made = dict(customer.shown), [], set()
    for turn in range(1, 5):
        rotated(company, 200 * turn)
        seen.append(company.phases())
        made |= {file.read_bytes() for file in company.directory.glob("*.key")}
    assert seen == [{"mailroom2": "signs"}, {"mailroom1": "signs"}] * 2
    assert len(made) == 8
    assert customer.shown == theirs


def test_a_key_waits_until_others_lead_to_it(company: Company, customer: FakeServer) -> None:
    company.run(0)
    alias = customer.shown.pop(("mailroom2._domainkey.example.com.", "CNAME"))
    assert "(theirs does not show mailroom2._domainkey.example.com. CNAME)" in rotated(company, 200)
    assert company.phases() == {"mailroom1": "signs", "mailroom2": "new"}
    customer.shown["mailroom2._domainkey.example.com.", "CNAME"] = alias
    rotated(company, 210)
    assert company.phases() == {"mailroom2": "signs"}


@pytest.mark.usefixtures("customer")
def test_a_key_from_earlier_does_not_come_back(company: Company) -> None:
    company.run(0)
    earlier = dkim_key(company.directory, DOMAIN, "mailroom2")["public"]
    rotated(company, 200)
    assert company.phases() == {"mailroom2": "signs"}
    assert dkim_key(company.directory, DOMAIN, "mailroom2")["public"] != earlier
