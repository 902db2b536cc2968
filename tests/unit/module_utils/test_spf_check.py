"""What receivers make of SPF records: rule by rule, and as another implementation does."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from unittest import mock

import pytest
import spf as pyspf
from hypothesis import given, settings
from hypothesis import strategies as st

from module_utils import spf_check

Zone = Mapping[tuple[str, str], Sequence[str]]

ZONE: Zone = {
    ("example.com", "TXT"): ["other text", "v=spf1 a:mail.example.com include:other.example ~all"],
    ("mail.example.com", "A"): ["192.0.2.25"],
    ("mail.example.com", "AAAA"): ["2001:db8::25"],
    ("other.example", "TXT"): ["v=spf1 ip4:198.51.100.0/24 -all"],
    ("other.example", "MX"): ["10 mx1.other.example.", "20 mx2.other.example."],
    ("other.example", "A"): ["203.0.113.80"],
    ("mx1.other.example", "A"): ["203.0.113.1"],
    ("mx2.other.example", "AAAA"): ["2001:db8:1::2"],
    ("7.113.0.203.in-addr.arpa", "PTR"): ["host.other.example."],
    ("host.other.example", "A"): ["203.0.113.7"],
    ("7.113.0.203.list.example", "A"): ["127.0.0.2"],
    ("somebody._spf.example.com", "A"): ["127.0.0.2"],
    ("many.example", "MX"): [f"10 mx{number}.many.example." for number in range(11)],
    ("loop.example", "TXT"): ["v=spf1 include:loop.example -all"],
    ("down.example", "TXT"): ["v=spf1 include:unreachable.example -all"],
}


def check(record: str, address: str = "192.0.2.1", zone: Zone = ZONE) -> spf_check.Verdict:
    """The verdict on a client of tested.example, whose record is given."""
    known = {**zone, ("tested.example", "TXT"): [record]}

    def ask(name: str, kind: str) -> Sequence[str]:
        if name == "unreachable.example":
            raise spf_check.AskError("unreachable.example: no answer")
        return known.get((name, kind), ())

    return spf_check.check_host(address, "tested.example", "somebody@tested.example", ask)


@pytest.mark.parametrize(
    ("record", "address", "result"),
    [
        ("v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 ~all", "192.0.2.25", "pass"),
        ("v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 ~all", "2001:db8:0::25", "pass"),
        ("v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 ~all", "192.0.2.26", "softfail"),
        ("v=spf1 ip6:2001:db8::/32 -all", "2001:db8:ffff::1", "pass"),
        ("v=spf1 ip4:192.0.2.0/28 -all", "192.0.2.16", "fail"),
        ("v=spf1 a:mail.example.com -all", "192.0.2.25", "pass"),
        ("v=spf1 a:mail.example.com/24//64 -all", "192.0.2.200", "pass"),
        ("v=spf1 a:mail.example.com/24//64 -all", "2001:db8::ffff", "pass"),
        ("v=spf1 a:mail.example.com//64 -all", "192.0.2.200", "fail"),
        ("v=spf1 mx:other.example ?all", "203.0.113.1", "pass"),
        ("v=spf1 mx:other.example ?all", "2001:db8:1::2", "pass"),
        ("v=spf1 mx:other.example ?all", "203.0.113.80", "neutral"),
        ("v=spf1 ptr:other.example -all", "203.0.113.7", "pass"),
        ("v=spf1 ptr:ther.example -all", "203.0.113.7", "fail"),
        ("v=spf1 exists:%{ir}.list.example -all", "203.0.113.7", "pass"),
        ("v=spf1 exists:%{l}._spf.example.com -all", "192.0.2.1", "pass"),
        ("v=spf1 include:example.com -all", "198.51.100.9", "pass"),
        ("v=spf1 include:other.example -all", "192.0.2.1", "fail"),  # what it says of others is not taken over
        ("v=spf1 redirect=other.example", "192.0.2.1", "fail"),
        ("v=spf1 redirect=other.example ip4:192.0.2.1", "192.0.2.1", "pass"),
        ("v=spf1", "192.0.2.1", "neutral"),
        ("v=spf1 ALL", "192.0.2.1", "pass"),
        ("v=spf1 unknown=whatever +all", "192.0.2.1", "pass"),
        ("no record", "192.0.2.1", "none"),
        ("v=spf1 include:down.example -all", "192.0.2.1", "temperror"),
    ],
)
def test_what_receivers_make_of_it(record: str, address: str, result: str) -> None:
    assert check(record, address).result == result


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("v=spf1 ipv4:192.0.2.25 -all", "ipv4:192.0.2.25 is no SPF term"),
        ("v=spf1 ip4:192.0.2.256 -all", "ip4:192.0.2.256 is no SPF term"),
        ("v=spf1 ip4:2001:db8::1 -all", "is no SPF term"),
        ("v=spf1 +all ip4:nonsense", "ip4:nonsense is no SPF term"),  # also after what would have matched
        ("v=spf1 a/33 -all", "a/33 is no SPF term"),
        ("v=spf1 all:example.com", "is no SPF term"),
        ("v=spf1 include: -all", "is no SPF term"),
        ("v=spf1 exists:%{x}.example.com -all", "has a macro that is none"),
        ("v=spf1 include:nothing.example -all", "include:nothing.example leads to no SPF record"),
        ("v=spf1 redirect=nothing.example", "redirect=nothing.example leads to no SPF record"),
        ("v=spf1 redirect=a.example redirect=b.example", "redirect= stands there twice"),
        ("v=spf1 include:loop.example -all", "lookup 11, 10 are allowed"),
        ("v=spf1 mx:many.example -all", "mx leads to 11 mail servers, 10 are allowed"),
        ("v=spf1 a:x1.example a:x2.example a:x3.example -all", "x3.example A is the third name that does not exist"),
    ],
)
def test_a_broken_record_says_why(record: str, why: str) -> None:
    verdict = check(record)
    assert verdict.result == "permerror"
    assert why in verdict.why


def test_two_records_are_an_error() -> None:
    zone = {("example.com", "TXT"): ["v=spf1 -all", "v=spf1 +all"]}
    verdict = spf_check.check_host(
        "192.0.2.1", "example.com", "a@example.com", lambda name, kind: zone.get((name, kind), [])
    )
    assert (verdict.result, verdict.why) == ("permerror", "example.com has 2 SPF records, where one is allowed")


def test_lookups_are_counted_through_includes() -> None:
    verdict = check(
        "v=spf1 a:other.example ?exists:nothing.example MX:other.example include:example.com -all", "198.51.100.9"
    )
    assert (verdict.result, verdict.lookups, verdict.void) == ("pass", 6, 2)


ADDRESSES = st.sampled_from(["192.0.2.25", "192.0.2.1", "198.51.100.9", "203.0.113.1", "203.0.113.7", "2001:db8::25"])
MECHANISMS = st.sampled_from(
    [
        "a",
        "a:mail.example.com",
        "a:mail.example.com/24",
        "a/16//48",
        "mx",
        "mx:other.example",
        "MX:other.example//64",
        "ip4:192.0.2.0/24",
        "ip4:203.0.113.7",
        "ip6:2001:db8::/64",
        "include:example.com",
        "include:other.example",
        "include:nothing.example",
        "include:loop.example",
        "exists:%{ir}.list.example",
        "exists:%{l1r-}._spf.example.com",
        "exists:%{v}.%{d2}",
        "ptr",
        "ptr:other.example",
        "all",
    ]
)
TERMS = st.one_of(
    st.tuples(st.sampled_from(["", "+", "-", "~", "?"]), MECHANISMS).map("".join),
    st.sampled_from(["redirect=example.com", "redirect=other.example", "exp=why.example.com", "unknown=term"]),
)


@settings(max_examples=300)
@given(st.lists(TERMS, max_size=7, unique_by=lambda term: term.partition("=")[0] if "=" in term else term), ADDRESSES)
def test_property_pyspf_says_the_same(terms: Sequence[str], address: str) -> None:
    record = " ".join(["v=spf1", *terms])
    ours = check(record, address)

    def looked_up(name: str, kind: str, *_: object) -> list[tuple[tuple[str, str], object]]:
        """Answers as pyspf's resolver does."""
        values = {**ZONE, ("tested.example", "TXT"): [record]}.get((name.lower(), kind), ())
        spelled: dict[str, Callable[[str], object]] = {
            "TXT": lambda value: (value.encode(),),
            "MX": lambda value: (int(value.split()[0]), value.split()[1].rstrip(".")),
            "AAAA": lambda value: ipaddress.ip_address(value).packed,
            "PTR": lambda value: value.rstrip("."),
        }
        return [((name, kind), spelled.get(kind, str)(value)) for value in values]

    with mock.patch.object(pyspf, "DNSLookup", looked_up):
        theirs = pyspf.query(i=address, s="somebody@tested.example", h="tested.example", strict=False).check()
    assert ours.result == theirs[0], (record, address, ours, theirs)
