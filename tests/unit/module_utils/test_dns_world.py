"""What a resolver's SERVFAIL means is found out: forged or out of date, or only not to be had at the moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.zone
import pytest

from module_utils import dns_world
from tests.servers.private_dns import Zone

RECORDS = ["{d} 300 IN MX 10 mail.{d}", "www.{d} 300 IN CNAME mail.{d}", "mail.{d} 300 IN A 192.0.2.25"]


def zone(name: str, **more: Any) -> Zone:
    return Zone(name, [record.format(d=name) for record in RECORDS], **more)


class Resolver:
    """A resolver that finds its validated answers only at times; without validation it has all but `missing`."""

    def __init__(self, zones: Sequence[Zone], answers: Sequence[bool], missing: tuple[str, ...] = ()) -> None:
        """answers: for each question that is to be validated, whether there is an answer; the last one stays."""
        tree = {".": Zone("."), "test.": Zone("test."), **{one.name: one for one in zones}}
        below = {".": [tree["test."]], "test.": zones}
        self.zones = {
            dns.name.from_text(name): dns.zone.from_text(one.file(below.get(name, ())), name, relativize=False)
            for name, one in tree.items()
        }
        self.answers, self.missing = [*answers], missing
        self.asked = 0

    def __call__(self, question: Any, *_: Any, **__: Any) -> tuple[dns.message.Message, bool]:
        answer = dns.message.make_response(question)
        [asked] = question.question
        unchecked = question.flags & dns.flags.CD
        if not unchecked and asked.name != dns.name.root:
            self.asked += 1
            if not (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]):
                answer.set_rcode(dns.rcode.SERVFAIL)
                return answer, False
        if unchecked and dns.rdatatype.to_text(asked.rdtype) in self.missing:
            answer.set_rcode(dns.rcode.SERVFAIL)
            return answer, False
        if not unchecked:
            answer.flags |= dns.flags.AD
        self._fill(answer, asked.name, asked.rdtype)
        return dns.message.from_wire(answer.to_wire()), False

    def _fill(self, answer: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> None:
        above = name.parent() if kind == dns.rdatatype.DS and name != dns.name.root else name
        place = max((one for one in self.zones if above.is_subdomain(one)), key=len)
        alias = self.zones[place].get_rrset(name, dns.rdatatype.CNAME)
        if alias is not None and kind != dns.rdatatype.CNAME:
            self._add(answer.answer, place, name, dns.rdatatype.CNAME)
            self._fill(answer, alias[0].target, kind)
        else:
            self._add(answer.answer, place, name, kind)
        if not answer.answer:
            self._add(answer.authority, place, place, dns.rdatatype.SOA)

    def _add(
        self, section: list[Any], place: dns.name.Name, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> None:
        for covers in (dns.rdatatype.NONE, kind):
            rrset = self.zones[place].get_rrset(name, dns.rdatatype.RRSIG if covers else kind, covers)
            if rrset is not None:
                section.append(rrset)


def ask(
    monkeypatch: pytest.MonkeyPatch, resolver: Resolver, name: str = "good.test.", kind: str = "MX"
) -> dns_world.Answer:
    monkeypatch.setattr(dns.query, "udp_with_fallback", resolver)
    return dns_world.World("192.0.2.53").ask(name, kind)


GOOD = zone("good.test.")


def test_what_comes_at_once_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver([GOOD], [True])
    answer = ask(monkeypatch, resolver)
    assert (answer.status, answer.values, answer.secure) == ("NOERROR", ("10 mail.good.test.",), True)
    assert resolver.asked == 1


def test_what_comes_at_the_second_time_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver([GOOD], [False, True])
    answer = ask(monkeypatch, resolver)
    assert (answer.values, answer.secure, answer.bogus) == (("10 mail.good.test.",), True, "")
    assert resolver.asked == 2


@pytest.mark.parametrize("name", ["good.test.", "www.good.test.", "none.good.test."])
@pytest.mark.parametrize("missing", [(), ("DNSKEY",), ("DS",)])
def test_what_does_not_come_is_not_forged_if_its_signatures_are_right(
    name: str, missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ask(monkeypatch, Resolver([GOOD], [False], missing), name, "A")
    assert (answer.status, answer.values, answer.bogus, answer.known) == ("SERVFAIL", (), "", False)


def test_nor_is_what_nobody_has_to_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ask(monkeypatch, Resolver([zone("plain.test.", signing="unsigned", ds="none")], [False]), "plain.test.")
    assert (answer.status, answer.bogus) == ("SERVFAIL", "")


@pytest.mark.parametrize(
    "fault", [{"signing": "expired"}, {"signing": "unsigned"}, {"ds": "other key"}], ids=["expired", "stripped", "ds"]
)
@pytest.mark.parametrize("name", ["bad.test.", "www.bad.test.", "none.bad.test."])
def test_what_is_signed_wrongly_is_bogus(name: str, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ask(monkeypatch, Resolver([zone("bad.test.", **fault)], [False]), name, "A")
    assert answer.bogus == "the resolver says SERVFAIL"
    assert answer.values == (("192.0.2.25",) if name == "www.bad.test." else ())
