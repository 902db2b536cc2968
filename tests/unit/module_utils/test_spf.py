"""Sender Policy Framework: merged, counted, never weakened."""

from __future__ import annotations

import pytest

from module_utils import spf

OURS = "v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 ~all"
OUR_TERMS = frozenset({"ip4:192.0.2.25", "ip6:2001:db8::25"})


@pytest.mark.parametrize("text", ["v=spf1", "v=spf1 -all", "V=SPF1 a"])
def test_an_spf_record_is_recognised(text: str) -> None:
    assert spf.is_spf(text)


@pytest.mark.parametrize("text", ["v=spf10 -all", "v=spf1-all", "google-site-verification=v=spf1 -all", ""])
def test_other_text_is_no_spf_record(text: str) -> None:
    assert not spf.is_spf(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("IP4:192.0.2.25/32", "ip4:192.0.2.25"),
        ("+a", "A"),
        ("ip6:2001:DB8:0::25", "ip6:2001:db8::25/128"),
        ("-ip4:192.0.2.7/24", "-ip4:192.0.2.0/24"),
        ("ip4:nonsense", "IP4:nonsense"),
    ],
)
def test_terms_that_mean_the_same(one: str, other: str) -> None:
    assert spf.same(one) == spf.same(other)


def test_a_refusal_is_not_the_same_as_a_permission() -> None:
    assert spf.same("-ip4:192.0.2.25") != spf.same("ip4:192.0.2.25")


@pytest.mark.parametrize(
    ("record", "count"),
    [
        ("v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 ~all", 0),
        ("v=spf1 +a MX:example.com ?exists:%{i}.example.com a/24 ~mx//64 -ptr include:example.net -all", 7),
        ("v=spf1 redirect=example.net", 1),
        ("v=spf1 redirect=example.net -all", 0),  # the modifier is ignored beside `all`
        ("v=spf1 ip4:192.0.2.1 -all include:example.net", 0),  # what stands after `all` is never reached
        ("v=spf1 exp=a.example.com all", 0),
    ],
)
def test_lookups_are_counted_as_receivers_count(record: str, count: int) -> None:
    assert spf.lookups(record) == count


def test_without_a_record_ours_is_published_and_all_of_it_is_ours() -> None:
    assert spf.merge(None, OURS, ()) == (OURS, OUR_TERMS | {"~all"})


@pytest.mark.parametrize("end", ["-all", "~all", "?all", "+all", "all"])
def test_others_keep_their_terms_and_their_end(end: str) -> None:
    merged, owned = spf.merge(f"v=spf1 include:_spf.example.net  MX {end}", OURS, ())
    assert merged == f"v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 include:_spf.example.net MX {end}"
    assert owned == OUR_TERMS


def test_an_end_that_others_left_out_is_not_added() -> None:
    assert spf.merge("v=spf1 mx", OURS, ())[0] == "v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 mx"


def test_a_redirect_stays_in_force() -> None:
    merged = spf.merge("v=spf1 redirect=_spf.example.net", OURS, ())[0]
    assert merged == "v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 redirect=_spf.example.net"


def test_a_record_that_has_our_terms_stays_as_it_is_written() -> None:
    found = "v=spf1  IP4:192.0.2.25/32 include:_spf.example.net ip6:2001:DB8::25 ~all"
    assert spf.merge(found, OURS, ()) == (found, frozenset())


def test_a_term_after_the_end_is_no_permission() -> None:
    merged = spf.merge("v=spf1 -all ip4:192.0.2.25", "v=spf1 ip4:192.0.2.25 ~all", ())[0]
    assert merged == "v=spf1 ip4:192.0.2.25 -all ip4:192.0.2.25"


def test_a_record_equal_to_ours_is_ours() -> None:
    assert spf.merge("v=spf1 ip6:2001:db8::25 ip4:192.0.2.25 ~all", OURS, ())[1] == OUR_TERMS | {"~all"}


def test_an_address_that_we_wrote_is_replaced_and_others_stay() -> None:
    merged, owned = spf.merge(
        "v=spf1 ip4:192.0.2.25 ip4:198.51.100.1 include:_spf.example.net -all",
        "v=spf1 ip4:192.0.2.26 ~all",
        {"ip4:192.0.2.25"},
    )
    assert merged == "v=spf1 ip4:192.0.2.26 ip4:198.51.100.1 include:_spf.example.net -all"
    assert owned == {"ip4:192.0.2.26"}


def test_the_end_stays_theirs_in_a_record_that_became_equal_to_ours() -> None:
    merged, owned = spf.merge("v=spf1 ~all", "v=spf1 a ~all", ())
    assert (merged, owned) == ("v=spf1 a ~all", frozenset({"a"}))
    assert spf.merge(merged, "v=spf1 a ~all", owned) == (merged, owned)


def test_a_term_of_ours_that_somebody_moved_stays_there() -> None:
    assert spf.merge("v=spf1 mx a -all", "v=spf1 a ~all", {"a"}) == ("v=spf1 mx a -all", frozenset({"a"}))


def test_an_end_that_we_wrote_can_change() -> None:
    assert spf.merge("v=spf1 a ~all", "v=spf1 a -all", {"a", "~all"}) == ("v=spf1 a -all", frozenset({"a", "-all"}))


def test_an_end_of_ours_that_somebody_took_away_comes_back() -> None:
    assert spf.merge("v=spf1 a mx", "v=spf1 a -all", {"a", "-all"}) == ("v=spf1 a mx -all", frozenset({"a", "-all"}))


def test_an_end_that_somebody_tightened_stays() -> None:
    assert spf.merge("v=spf1 a -all", "v=spf1 a ~all", {"a", "~all"}) == ("v=spf1 a -all", frozenset({"a"}))


@pytest.mark.parametrize(
    ("found", "ours", "left"),
    [
        ("v=spf1 a ~all", {"a", "~all"}, None),  # all of it was ours
        ("v=spf1 a -all", {"a"}, "v=spf1 -all"),  # theirs was a plain refusal, and is again
        (
            "v=spf1 a mx ~all",
            {"a", "~all"},
            "v=spf1 mx ~all",
        ),  # they built on ours: its end stays, for it protects them
        ("v=spf1 mx -all", {"a"}, "v=spf1 mx -all"),
    ],
)
def test_withdrawn_terms_leave_the_rest(found: str, ours: set[str], left: str | None) -> None:
    assert spf.merge(found, None, ours)[0] == left


def test_several_records_become_one_with_the_strictest_end() -> None:
    records = ["v=spf1 mx ip4:192.0.2.1 ~all", "v=spf1 IP4:192.0.2.1/32 include:example.net -all exp=x.example.com"]
    assert spf.consolidate(records) == "v=spf1 mx ip4:192.0.2.1 include:example.net exp=x.example.com -all"


def test_several_records_with_a_redirect_cannot_become_one() -> None:
    assert spf.consolidate(["v=spf1 redirect=example.net", "v=spf1 mx -all"]) is None
