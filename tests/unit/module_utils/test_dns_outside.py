"""What others have in DNS stands against a plan before it is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dns.rdatatype
import pytest
from dns.rdataclass import IN
from dns.rdataset import Rdataset

from module_utils import dns_outside, dns_plan, dns_zone
from module_utils.dns_world import Answer

ZONE = dns_zone.Zone("example.com.", "192.0.2.53", "mailroom", "/key")
SERVER = dns_zone.Server("192.0.2.53", 53, 1)
OURS = dns_plan.Wanted(
    "example.com.", "TXT", dns_plan.RRset(3600, frozenset({"v=spf1 ip4:192.0.2.25 ~all"})), shared=True
)


class Resolver:
    """Answers what a test says, and remembers what it was asked."""

    def __init__(self, records: Mapping[tuple[str, str], Any]) -> None:
        self.records, self.asked = records, []

    asked: list[tuple[str, str]]

    def ask(self, name: str, kind: str) -> Answer:
        self.asked.append((name.rstrip("."), kind))
        found = self.records.get((name.rstrip("."), kind), ())
        return found if isinstance(found, Answer) else Answer(values=tuple(found))


def draft(found: Mapping[tuple[str, str], list[str]], *wanted: dns_plan.Wanted) -> dns_zone.Draft:
    observed = {}
    for (name, kind), values in found.items():
        observed[name, kind] = Rdataset(IN, dns.rdatatype.from_text(kind), ttl=3600)
        for value in values:
            observed[name, kind].add(dns_zone.to_rdata(kind, value))
    sets = {key: dns_zone.to_rrset(rdataset) for key, rdataset in observed.items()}
    plan = dns_plan.plan(wanted, sets, {}, dns_plan.Policy(apexes=frozenset({"example.com."})))
    assert plan.conflicts == ()
    return dns_zone.Draft(ZONE, SERVER, wanted, {}, dns_plan.Policy(), observed, plan)


def spf(record: str) -> dns_zone.Draft:
    """The plan for a zone whose SPF record is somebody else's."""
    return draft({("example.com.", "TXT"): [record]}, OURS)


def includes(number: int) -> dict[tuple[str, str], list[str]]:
    """A record at others.example with so many lookups."""
    terms = " ".join(f"include:i{place}.example" for place in range(number))
    records = {(f"i{place}.example", "TXT"): ["v=spf1 ip4:198.51.100.1 -all"] for place in range(number)}
    return {("others.example", "TXT"): [f"v=spf1 {terms} -all"], **records}


@pytest.mark.parametrize(("number", "fine"), [(9, True), (10, False)])
def test_lookups_are_counted_through_includes(number: int, fine: bool) -> None:
    problems, unknown = dns_outside.objections([spf("v=spf1 include:others.example -all")], Resolver(includes(number)))
    assert unknown == []
    assert problems == (
        []
        if fine
        else [
            "example.com TXT: receivers would give up on SPF (include:i9.example is lookup 11, 10 are allowed): "
            'shorten "v=spf1 ip4:192.0.2.25 include:others.example -all"'
        ]
    )


@pytest.mark.parametrize(("terms", "fine"), [("a:x.example mx:y.example", True), ("a:x.example a:y.example mx", False)])
def test_void_lookups_are_counted_through_includes(terms: str, fine: bool) -> None:
    resolver = Resolver({("others.example", "TXT"): [f"v=spf1 {terms} -all"]})
    problems, _ = dns_outside.objections([spf("v=spf1 include:others.example -all")], resolver)
    assert bool(problems) is not fine
    assert all("is the third name that does not exist, 2 are allowed" in line for line in problems)


def test_a_record_by_which_our_own_mail_does_not_pass_is_not_extended() -> None:
    resolver = Resolver({})
    assert dns_outside.objections([spf("v=spf1 includ:others.example -all")], resolver) == (
        [
            "example.com TXT: receivers would say permerror to mail from our 192.0.2.25 (example.com: "
            'includ:others.example is no SPF term): correct "v=spf1 ip4:192.0.2.25 includ:others.example -all"'
        ],
        [],
    )
    assert resolver.asked == []


def test_what_is_planned_counts_and_not_what_a_resolver_remembers() -> None:
    host = dns_plan.Wanted("mail.example.com.", "A", dns_plan.RRset(3600, frozenset({"192.0.2.25"})))
    found = {("example.com.", "TXT"): ["v=spf1 a:mail.example.com a:x.example -all"]}
    resolver = Resolver({("mail.example.com", "A"): Answer("SERVFAIL")})
    assert dns_outside.objections([draft(found, OURS, host)], resolver) == ([], [])
    assert ("example.com", "TXT") not in resolver.asked


def test_what_nobody_answers_is_told_and_stops_nothing() -> None:
    resolver = Resolver({("others.example", "TXT"): Answer("SERVFAIL")})
    assert dns_outside.objections([spf("v=spf1 include:others.example -all")], resolver) == (
        [],
        ["example.com TXT: whether receivers follow SPF to its end cannot be told (others.example TXT: SERVFAIL)"],
    )


def test_what_is_not_changed_is_not_asked_about() -> None:
    resolver = Resolver({})
    same = spf("v=spf1 ip4:192.0.2.25 include:others.example ~all")
    assert dns_outside.objections([same, draft({}, OURS)], resolver) == ([], [])
    assert resolver.asked == []


def reports(*addresses: str) -> dns_zone.Draft:
    rua = ",".join(f"mailto:{address}" for address in addresses)
    values = frozenset({f"v=DMARC1; p=none; rua={rua}"})
    return draft({}, dns_plan.Wanted("_dmarc.example.com.", "TXT", dns_plan.RRset(3600, values)))


def test_reports_go_to_nobody_who_has_not_agreed() -> None:
    """RFC 9990, 4."""
    plan = reports("a@example.com", "b@reports.example.com", "c@others.example!10m", "d@Agreed.example")
    resolver = Resolver({("example.com._report._dmarc.agreed.example", "TXT"): ["v=DMARC1"]})
    assert dns_outside.objections([plan], resolver) == (
        [
            "example.com: others.example has not agreed to get its DMARC reports, so nobody would send them: have it "
            'publish example.com._report._dmarc.others.example TXT "v=DMARC1;", or take its address out of '
            "dns_records_dmarc_reports"
        ],
        [],
    )
    assert len(resolver.asked) == 2


def test_an_agreement_that_we_publish_at_the_same_time_counts() -> None:
    name = "example.com._report._dmarc.others.example."
    agreement = dns_plan.Wanted(name, "TXT", dns_plan.RRset(3600, frozenset({"v=DMARC1;"})))
    resolver = Resolver({})
    assert dns_outside.objections([reports("c@others.example"), draft({}, agreement)], resolver) == ([], [])
    assert resolver.asked == []


def test_a_record_that_stands_for_a_customer_s_is_judged_as_that() -> None:
    """Both the record and the agreement are below a name of ours, where the customers' names lead."""
    names = ["_dmarc.customer.test.", "customer.test._report._dmarc.others.test."]
    aliases = {name: f"{name}example.com." for name in names}
    texts = ["v=DMARC1; p=none; rua=mailto:a@customer.test,mailto:b@others.test", "v=DMARC1;"]
    wanted = [
        dns_plan.Wanted(aliases[name], "TXT", dns_plan.RRset(60, frozenset({text})))
        for name, text in zip(names, texts, strict=True)
    ]
    assert dns_outside.objections([draft({}, *wanted)], Resolver({}), aliases) == ([], [])
    (problem,), _ = dns_outside.objections([draft({}, *wanted[:1])], Resolver({}), aliases)
    assert problem.startswith("customer.test: others.test has not agreed")


def test_an_agreement_that_nobody_can_tell_of_stops_nothing() -> None:
    resolver = Resolver({("example.com._report._dmarc.others.example", "TXT"): Answer("no answer")})
    problems, [line] = dns_outside.objections([reports("c@others.example")], resolver)
    assert problems == []
    assert line.startswith("example.com: whether others.example has agreed to get its DMARC reports cannot be told (")
