"""The plan of changes: what is not ours survives whatever happens, and our own values can change."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from module_utils import spf
from module_utils.dns_plan import (
    TYPES,
    Change,
    Key,
    Plan,
    Policy,
    RRset,
    StaleError,
    Wanted,
    apply,
    inverse,
    keys,
    plan,
)

APEX = "example.com."
POLICY = Policy(apexes=frozenset({APEX}))
DMARC = "_dmarc.example.com."
SPF = "v=spf1 ip4:192.0.2.25 ~all"


def rrset(*values: str, ttl: int = 3600) -> RRset:
    return RRset(ttl, frozenset(values))


def mx(*values: str) -> Wanted:
    return Wanted(APEX, "MX", rrset(*values))


def dmarc(value: str) -> Wanted:
    return Wanted(DMARC, "TXT", rrset(value))


def txt(*values: str) -> Wanted:
    return Wanted(APEX, "TXT", rrset(*values), shared=True)


def run(
    *wanted: Wanted, zone: Mapping[Key, RRset] | None = None, ledger: Mapping[Key, Any] | None = None, **policy: Any
) -> tuple[dict[Key, RRset], Plan]:
    """Answer the zone afterwards and the plan, which must be free of conflicts."""
    result = plan(wanted, zone or {}, ledger or {}, Policy(apexes=frozenset({APEX}), **policy))
    assert result.conflicts == ()
    return apply(zone or {}, result.changes), result


def refusal(*wanted: Wanted, zone: Mapping[Key, RRset], **policy: Any) -> str:
    """Answer the one conflict of a plan."""
    result = plan(wanted, zone, {}, Policy(apexes=frozenset({APEX}), **policy))
    assert result.changes == ()
    [conflict] = result.conflicts
    assert "\n" not in conflict
    return conflict


def test_an_empty_zone_gets_everything_and_all_of_it_is_ours() -> None:
    zone, result = run(mx("10 mail.example.com."), dmarc("v=DMARC1; p=none"), txt(SPF))
    assert zone == {
        (APEX, "MX"): rrset("10 mail.example.com."),
        (DMARC, "TXT"): rrset("v=DMARC1; p=none"),
        (APEX, "TXT"): rrset(SPF),
    }
    assert result.ledger == {
        (APEX, "MX"): {"10 mail.example.com."},
        (DMARC, "TXT"): {"v=DMARC1; p=none"},
        (APEX, "SPF"): {"ip4:192.0.2.25", "~all"},
    }


def test_foreign_text_beside_the_spf_record_is_kept_with_its_ttl() -> None:
    foreign = ("google-site-verification=a  B", "MS=ms1", "v=spf10", "caf\xe9")
    zone, _ = run(txt(SPF), zone={(APEX, "TXT"): rrset(*foreign, ttl=86400)})
    assert zone == {(APEX, "TXT"): rrset(*foreign, SPF, ttl=86400)}


def test_a_foreign_spf_record_is_merged() -> None:
    zone, _ = run(txt(SPF), zone={(APEX, "TXT"): rrset("MS=ms1", "v=spf1 include:example.net -all")})
    assert zone[APEX, "TXT"] == rrset("MS=ms1", "v=spf1 ip4:192.0.2.25 include:example.net -all")


def test_our_address_in_a_foreign_spf_record_can_change() -> None:
    zone, first = run(txt(SPF), zone={(APEX, "TXT"): rrset("v=spf1 include:example.net -all")})
    zone, _ = run(txt("v=spf1 ip4:192.0.2.26 ~all"), zone=zone, ledger=first.ledger)
    assert zone[APEX, "TXT"] == rrset("v=spf1 ip4:192.0.2.26 include:example.net -all")


def test_two_spf_records_are_refused_unless_told() -> None:
    zone = {(APEX, "TXT"): rrset("v=spf1 mx ~all", "v=spf1 include:example.net -all", "MS=ms1")}
    assert "dns_records_spf_consolidate" in refusal(txt(SPF), zone=zone)
    after, _ = run(txt(SPF), zone=zone, spf_consolidate=True)
    assert after[APEX, "TXT"] == rrset("v=spf1 ip4:192.0.2.25 include:example.net mx -all", "MS=ms1")


def test_two_spf_records_with_a_redirect_are_refused_even_then() -> None:
    zone = {(APEX, "TXT"): rrset("v=spf1 redirect=example.net", "v=spf1 mx -all")}
    assert "redirect=" in refusal(txt(SPF), zone=zone, spf_consolidate=True)


def test_an_spf_record_with_too_many_lookups_is_refused() -> None:
    includes = " ".join(f"include:{number}.example.net" for number in range(11))
    assert "look up 11 names" in refusal(txt(SPF), zone={(APEX, "TXT"): rrset(f"v=spf1 {includes} -all")})


def test_a_long_spf_record_is_written_with_a_warning() -> None:
    addresses = " ".join(f"ip4:198.51.100.{number}" for number in range(40))
    _, result = run(txt(SPF), zone={(APEX, "TXT"): rrset(f"v=spf1 {addresses} -all")})
    assert "450" in result.warnings[0]


def test_foreign_mail_servers_are_not_cut_off_unless_told() -> None:
    zone = {(APEX, "MX"): rrset("1 aspmx.l.google.com.")}
    assert "dns_records_mx_takeover" in refusal(mx("10 mail.example.com."), zone=zone)
    assert "aspmx.l.google.com." in refusal(mx("10 mail.example.com."), zone=zone, adopt=frozenset({APEX}))
    after, _ = run(mx("10 mail.example.com."), zone=zone, mx_takeover=True)
    assert after[APEX, "MX"] == rrset("10 mail.example.com.")


def test_a_foreign_value_at_a_name_of_ours_is_refused_unless_adopted() -> None:
    zone = {(DMARC, "TXT"): rrset("v=DMARC1; p=reject")}
    conflict = refusal(dmarc("v=DMARC1; p=none"), zone=zone)
    assert '_dmarc.example.com. TXT is "v=DMARC1; p=reject"' in conflict
    assert "adding _dmarc.example.com to dns_records_adopt" in conflict
    after, _ = run(dmarc("v=DMARC1; p=none"), zone=zone, adopt=frozenset({DMARC}))
    assert after[DMARC, "TXT"] == rrset("v=DMARC1; p=none")


def test_a_foreign_value_is_quoted_in_one_line() -> None:
    zone = {(DMARC, "TXT"): rrset('v=DMARC1;\n"\\\xe9')}
    assert '"v=DMARC1;\\010\\"\\\\\\233"' in refusal(dmarc("v=DMARC1; p=none"), zone=zone)


def test_what_we_wrote_can_change() -> None:
    zone, first = run(dmarc("v=DMARC1; p=none"), mx("10 a.example.com."))
    zone, second = run(dmarc("v=DMARC1; p=reject"), mx("10 b.example.com."), zone=zone, ledger=first.ledger)
    assert zone == {(DMARC, "TXT"): rrset("v=DMARC1; p=reject"), (APEX, "MX"): rrset("10 b.example.com.")}
    assert second.ledger[DMARC, "TXT"] == {"v=DMARC1; p=reject"}


def test_what_somebody_changed_after_us_is_theirs() -> None:
    _, first = run(dmarc("v=DMARC1; p=none"))
    zone = {(DMARC, "TXT"): rrset("v=DMARC1; p=reject")}
    assert plan([dmarc("v=DMARC1; p=none")], zone, first.ledger, POLICY).conflicts


def test_a_lost_ledger_is_rebuilt_from_equal_values() -> None:
    wanted = [dmarc("v=DMARC1; p=none"), mx("10 mail.example.com."), txt(SPF)]
    zone, first = run(*wanted)
    _, second = run(*wanted, zone=zone)
    assert second.changes == ()
    assert second.ledger == first.ledger


def test_a_ttl_that_differs_is_set() -> None:
    zone = {(DMARC, "TXT"): rrset("v=DMARC1; p=none", ttl=60)}
    assert run(dmarc("v=DMARC1; p=none"), zone=zone)[0] == {(DMARC, "TXT"): rrset("v=DMARC1; p=none", ttl=3600)}


def test_an_alias_at_the_name_is_refused() -> None:
    conflict = refusal(dmarc("v=DMARC1; p=none"), zone={(DMARC, "CNAME"): rrset("dmarc.example.net.")})
    assert "_dmarc.example.com. is a CNAME of dmarc.example.net." in conflict


def test_an_alias_beside_other_records_is_refused() -> None:
    wanted = Wanted(DMARC, "CNAME", rrset("dmarc.example.net."))
    assert "cannot be a CNAME" in refusal(wanted, zone={(DMARC, "TXT"): rrset("v=DMARC1; p=none")})


def test_an_alias_and_another_record_that_are_wanted_at_one_name_are_refused() -> None:
    result = plan([Wanted(DMARC, "CNAME", rrset("dmarc.example.net.")), dmarc("v=DMARC1; p=none")], {}, {}, POLICY)
    assert result.conflicts == (
        "_dmarc.example.com. has TXT and cannot be a CNAME too: delete these, or choose another name",
    )


def test_the_zone_itself_is_no_alias() -> None:
    assert "example.com. has SOA and cannot be" in refusal(Wanted(APEX, "CNAME", rrset("example.net.")), zone={})


@pytest.mark.parametrize("kind", ["A", "AAAA"])
def test_the_address_of_the_zone_itself_is_never_touched(kind: str) -> None:
    address = {"A": "192.0.2.25", "AAAA": "2001:db8::25"}[kind]
    wanted = Wanted(APEX, kind, rrset(address))
    for zone in ({}, {(APEX, kind): rrset("192.0.2.80")}):
        assert f"set it to {address} by hand" in refusal(wanted, zone=zone, adopt=frozenset({APEX}))
    right = {(APEX, kind): rrset(address, ttl=60)}
    assert run(wanted, zone=right)[0] == right


@pytest.mark.parametrize("kind", ["SOA", "NS", "DS", "DNSKEY", "RRSIG"])
def test_what_holds_the_zone_together_is_never_touched(kind: str) -> None:
    assert kind in refusal(Wanted(APEX, kind, rrset("x")), zone={}, adopt=frozenset({APEX}))


def test_a_set_that_is_wanted_twice_is_refused() -> None:
    assert plan([mx("10 a."), mx("10 b.")], {}, {}, POLICY).conflicts == (
        "example.com. MX is wanted twice: give all its values at once",
    )


def test_two_wanted_spf_records_are_refused() -> None:
    assert "two SPF records" in refusal(txt(SPF, "v=spf1 -all"), zone={})


def test_every_conflict_is_told_at_once() -> None:
    zone = {(APEX, "MX"): rrset("10 other.example.net."), (DMARC, "TXT"): rrset("v=DMARC1; p=reject")}
    assert len(plan([mx("10 mail.example.com."), dmarc("v=DMARC1; p=none")], zone, {}, POLICY).conflicts) == 2


def test_what_is_wanted_no_longer_is_told_and_stays() -> None:
    zone, first = run(dmarc("v=DMARC1; p=none"), txt(SPF))
    after, second = run(zone=zone, ledger=first.ledger)
    assert after == zone
    assert second.leftovers == ((DMARC, "TXT"), (APEX, "TXT"))
    assert second.ledger == first.ledger


def test_what_is_wanted_no_longer_goes_when_told_and_foreign_values_stay() -> None:
    foreign = {(APEX, "TXT"): rrset("MS=ms1", "v=spf1 mx -all"), (APEX, "MX"): rrset("10 mail.example.com.")}
    zone, first = run(dmarc("v=DMARC1; p=none"), txt(SPF), zone=foreign)
    after, second = run(zone=zone, ledger=first.ledger, prune=True)
    assert after == foreign
    assert second.ledger == {}


HOST = "mail.example.com."
IPV4, IPV6 = Wanted(HOST, "A", rrset("192.0.2.25")), Wanted(HOST, "AAAA", rrset("2001:db8::25"))


def test_an_address_that_a_host_has_no_longer_goes_untold() -> None:
    """Others would try it first, and get no answer there."""
    zone, first = run(IPV4, IPV6)
    after, second = run(IPV4, zone=zone, ledger=first.ledger)
    assert after == {IPV4.key: IPV4.rrset}
    assert (second.leftovers, second.ledger) == ((), {IPV4.key: IPV4.rrset.values})


REVERSE = ("5.2.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", "PTR")


@pytest.mark.parametrize("hosts", [frozenset(), frozenset({HOST}), frozenset({"other.example.com."})])
def test_the_name_of_an_address_goes_with_it_while_its_host_stays(hosts: frozenset[str]) -> None:
    """Its zone is another one than the host's."""
    zone, first = run(Wanted(*REVERSE, rrset(HOST)))
    after, second = run(zone=zone, ledger=first.ledger, hosts=hosts)
    assert (after, second.ledger) == (({}, {}) if HOST in hosts else (zone, first.ledger))
    assert second.leftovers == (() if HOST in hosts else (REVERSE,))


def test_the_name_that_others_gave_an_address_stays() -> None:
    zone = {REVERSE: rrset(HOST, "other.example.net.")}
    after, _ = run(zone=zone, ledger={REVERSE: frozenset({HOST})}, hosts=frozenset({HOST}))
    assert after == {REVERSE: rrset("other.example.net.")}
    assert run(zone=zone, hosts=frozenset({HOST}))[0] == zone


def test_an_address_of_others_stays_whatever_a_host_has() -> None:
    zone = {(HOST, "AAAA"): rrset("2001:db8::80")}
    after, _ = run(IPV4, zone=zone, ledger={IPV6.key: IPV6.rrset.values})
    assert after == {**zone, IPV4.key: IPV4.rrset}


def test_the_addresses_of_a_host_that_is_wanted_no_longer_stay() -> None:
    zone, first = run(IPV4, IPV6)
    assert run(zone=zone, ledger=first.ledger)[0] == zone


def test_what_is_gone_already_leaves_the_ledger() -> None:
    _, first = run(dmarc("v=DMARC1; p=none"))
    _, second = run(ledger=first.ledger)
    assert (second.leftovers, second.ledger) == ((), {})


def test_everything_that_a_plan_needs_is_observed() -> None:
    assert keys([dmarc("x")], {(APEX, "SPF"): frozenset({"a"})}) == {
        (DMARC, "TXT"),
        (DMARC, "CNAME"),
        (APEX, "TXT"),
        (APEX, "CNAME"),
    }


def test_all_that_may_stand_beside_an_alias_is_observed() -> None:
    assert keys([Wanted(DMARC, "CNAME", rrset("dmarc.example.net."))], {}) == {(DMARC, kind) for kind in TYPES}


def test_a_stale_plan_changes_nothing() -> None:
    with pytest.raises(StaleError) as stale:
        apply({(DMARC, "TXT"): rrset("new")}, [Change((DMARC, "TXT"), rrset("old"), rrset("ours"))])
    assert stale.value.args == ((DMARC, "TXT"),)


# Any zone, any ledger, anything wanted: small alphabets, so that they meet.
MANY = settings(max_examples=300)
TERMS = ["ip4:192.0.2.25", "ip4:192.0.2.26", "include:example.net", "mx", "a", "-ip4:192.0.2.25"]
SPF_RECORDS = st.builds(
    lambda terms, end: " ".join(["v=spf1", *terms, *end]),
    st.lists(st.sampled_from(TERMS), max_size=4, unique=True),
    st.sampled_from([[], ["~all"], ["-all"], ["?all"], ["+all"], ["redirect=example.net"]]),
)
OUR_SPF = st.builds(
    lambda terms, end: " ".join(["v=spf1", *terms, end]),
    st.lists(st.sampled_from(TERMS[:2]), min_size=1, max_size=2, unique=True),
    st.sampled_from(["~all", "-all"]),
)
TEXTS = st.sampled_from(["MS=ms1", "google-site-verification=x", "v=DMARC1; p=none", "v=DMARC1; p=reject", ""])
VALUES = {
    "TXT": st.one_of(TEXTS, SPF_RECORDS),
    "MX": st.sampled_from(["10 a.example.", "10 b.example.", "20 c.example.", "0 ."]),
    "A": st.sampled_from(["192.0.2.1", "192.0.2.2"]),
    "AAAA": st.sampled_from(["2001:db8::1", "2001:db8::2"]),
    "CNAME": st.sampled_from(["a.example."]),
    "PTR": st.sampled_from(["a.example.", "b.example."]),
}
NAMES = st.sampled_from([APEX, DMARC])
TTLS = st.sampled_from([60, 3600])


def sets(kind: str, values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[Key, RRset]]:
    filled = st.builds(RRset, TTLS, st.frozensets(values, min_size=1, max_size=3))
    return st.tuples(st.tuples(NAMES, st.just(kind)), filled)


ZONES = st.lists(
    st.one_of(*(sets(kind, values) for kind, values in VALUES.items() if kind != "CNAME")),
    max_size=6,
).map(dict)
ZONES_WITH_ALIASES = st.tuples(ZONES, st.lists(sets("CNAME", VALUES["CNAME"]), max_size=1)).map(
    lambda parts: (
        {key: value for key, value in parts[0].items() if key[0] not in {key[0] for key, _ in parts[1]}}
        | dict(parts[1])
    )
)
LEDGERS: st.SearchStrategy[dict[Key, frozenset[str]]] = st.lists(
    st.one_of(
        st.tuples(st.tuples(NAMES, st.just("TXT")), st.frozensets(TEXTS, min_size=1, max_size=2)),
        st.tuples(st.tuples(NAMES, st.just("MX")), st.frozensets(VALUES["MX"], min_size=1, max_size=2)),
        st.tuples(st.tuples(NAMES, st.just("A")), st.frozensets(VALUES["A"], min_size=1, max_size=2)),
        st.tuples(st.tuples(NAMES, st.just("AAAA")), st.frozensets(VALUES["AAAA"], min_size=1, max_size=2)),
        st.tuples(st.tuples(NAMES, st.just("PTR")), st.frozensets(VALUES["PTR"], min_size=1, max_size=2)),
        st.tuples(st.tuples(NAMES, st.just("CNAME")), st.frozensets(VALUES["CNAME"], min_size=1)),
        st.tuples(st.tuples(NAMES, st.just("SPF")), st.frozensets(st.sampled_from([*TERMS[:2], "~all", "-all"]))),
    ),
    max_size=4,
).map(lambda entries: {key: values for key, values in entries if values})
WANTED = st.lists(
    st.one_of(
        st.builds(
            lambda name, values, ttl: Wanted(name, "TXT", RRset(ttl, values), shared=True),
            NAMES,
            st.one_of(
                st.tuples(OUR_SPF).map(frozenset),
                st.frozensets(TEXTS, min_size=1, max_size=2),
                st.tuples(OUR_SPF, TEXTS).map(frozenset),
            ),
            TTLS,
        ),
        st.builds(lambda name, text: Wanted(name, "TXT", rrset(text)), NAMES, TEXTS),
        st.builds(
            lambda name, values, ttl: Wanted(name, "MX", RRset(ttl, values)),
            NAMES,
            st.frozensets(VALUES["MX"], min_size=1, max_size=2),
            TTLS,
        ),
        st.builds(lambda name, value: Wanted(name, "A", rrset(value)), NAMES, VALUES["A"]),
        st.builds(lambda name, value: Wanted(name, "CNAME", rrset(value)), NAMES, VALUES["CNAME"]),
    ),
    max_size=4,
    unique_by=lambda one: one.key,
)


def not_all(term: str) -> bool:
    return not spf.is_all(term)


POLICIES = st.builds(
    Policy,
    apexes=st.just(frozenset({APEX})),
    hosts=st.just(frozenset({"a.example."})),
    adopt=st.frozensets(NAMES, max_size=1),
    mx_takeover=st.booleans(),
    spf_consolidate=st.booleans(),
    prune=st.booleans(),
)


@MANY
@given(WANTED, ZONES_WITH_ALIASES, LEDGERS, POLICIES)
def test_property_no_foreign_value_is_dropped_or_altered(
    wanted: list[Wanted], zone: dict[Key, RRset], ledger: dict[Key, frozenset[str]], policy: Policy
) -> None:
    after = apply(zone, plan(wanted, zone, ledger, policy).changes)
    for key, before in zone.items():
        alone = any(one.key == key and not one.shared for one in wanted)
        if alone and (policy.mx_takeover if key[1] == "MX" else key[0] in policy.adopt):
            continue  # a person has said that all of it may go
        ours = ledger.get(key, frozenset())
        left = after[key].values if key in after else frozenset()
        records = [value for value in before.values - ours if key[1] == "TXT" and spf.is_spf(value)]
        assert before.values - ours - left <= set(records)
        if before.values - ours and not alone:
            assert key not in after or after[key].ttl == before.ttl
        if len(records) > 1 and not set(records) <= left:
            assert policy.spf_consolidate
            continue  # see the tests of spf.consolidate
        for record in records:
            theirs = [term for term in spf.terms(record) if spf.same(term) not in ledger.get((key[0], "SPF"), ())]
            [kept] = [value for value in left if spf.is_spf(value)] if record not in left and theirs else [record]
            position = iter(spf.terms(kept))
            assert all(term in position for term in theirs), "a foreign term went, or its place"


@MANY
@given(WANTED, ZONES_WITH_ALIASES, LEDGERS, POLICIES)
def test_property_an_alias_stands_alone_and_the_address_of_the_zone_stays(
    wanted: list[Wanted], zone: dict[Key, RRset], ledger: dict[Key, frozenset[str]], policy: Policy
) -> None:
    changes = plan(wanted, zone, ledger, policy).changes
    after = apply(zone, changes)
    for name, kind in after:
        assert kind != "CNAME" or [other for other, _ in after].count(name) == 1
    asked = {one.key for one in wanted}
    assert not any(change.key in asked and change.key in ((APEX, "A"), (APEX, "AAAA")) for change in changes)


@MANY
@given(WANTED, ZONES_WITH_ALIASES, ZONES_WITH_ALIASES, POLICIES)
def test_property_a_plan_made_for_another_zone_is_refused_or_does_the_same(
    wanted: list[Wanted], zone: dict[Key, RRset], other: dict[Key, RRset], policy: Policy
) -> None:
    changes = plan(wanted, zone, {}, policy).changes
    differs = [change.key for change in changes if other.get(change.key) != zone.get(change.key)]
    if differs:
        with pytest.raises(StaleError) as stale:
            apply(other, changes)
        assert list(stale.value.args) == differs
    else:
        after = apply(other, changes)
        assert {key: rrset for key, rrset in after.items() if key not in [change.key for change in changes]} == {
            key: rrset for key, rrset in other.items() if key not in [change.key for change in changes]
        }


@MANY
@given(WANTED, ZONES_WITH_ALIASES, LEDGERS, POLICIES)
def test_property_a_second_plan_is_empty(
    wanted: list[Wanted], zone: dict[Key, RRset], ledger: dict[Key, frozenset[str]], policy: Policy
) -> None:
    first = plan(wanted, zone, ledger, policy)
    if first.conflicts:
        return  # nothing is done then
    after = apply(zone, first.changes)
    second = plan(wanted, after, first.ledger, policy)
    assert (second.changes, second.conflicts) == ((), ())
    assert second.ledger == first.ledger
    assert plan(wanted, after, {}, policy).changes == ()


@MANY
@given(WANTED, ZONES_WITH_ALIASES, LEDGERS, POLICIES)
def test_property_the_inverse_undoes_the_plan(
    wanted: list[Wanted], zone: dict[Key, RRset], ledger: dict[Key, frozenset[str]], policy: Policy
) -> None:
    changes = plan(wanted, zone, ledger, policy).changes
    assert apply(apply(zone, changes), inverse(changes)) == zone


@MANY
@given(WANTED, ZONES_WITH_ALIASES, LEDGERS, POLICIES)
def test_property_what_is_wanted_is_there_afterwards_or_a_conflict_says_why(
    wanted: list[Wanted], zone: dict[Key, RRset], ledger: dict[Key, frozenset[str]], policy: Policy
) -> None:
    result = plan(wanted, zone, ledger, policy)
    after = apply(zone, result.changes)
    for one in wanted:
        if any(conflict.startswith(one.name) for conflict in result.conflicts):
            continue
        found = after[one.key].values
        for value in one.rrset.values:
            if one.shared and spf.is_spf(value):
                [record] = [value for value in found if spf.is_spf(value)]
                ours, terms = ([*itertools.takewhile(not_all, spf.terms(text))] for text in (value, record))
                assert {*map(spf.same, ours)} <= {*map(spf.same, terms)}, "no receiver comes to all of ours"
                before = zone.get(one.key, RRset(0, frozenset())).values
                known = {spf.same(term) for text in before if spf.is_spf(text) for term in spf.terms(text)}
                new = [term for term in ours if spf.same(term) not in known]
                assert terms[: len(new)] == new, "a term of others may decide before ours"
            else:
                assert value in found
                assert value in result.ledger.get(one.key, ()) or one.key == (APEX, "A")  # which is not ours
