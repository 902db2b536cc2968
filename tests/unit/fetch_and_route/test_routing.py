"""Which messages travel together and what becomes of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetch_and_route.routing import Decision, Entry, Mail, Verdict, Word, batches, decide, key_of, merge


def test_copies_travel_as_one_in_the_order_of_their_first() -> None:
    entries = [Entry(9, 40, b"b"), Entry(2, 20, b"a"), Entry(3, 30, b"b"), Entry(7, 10, b"a")]
    assert merge(entries) == [Mail((2, 7), 20), Mail((3, 9), 30)]


@given(st.lists(st.integers(0, 300)), st.integers(1, 20), st.integers(1, 500))
def test_batches_keep_order_and_limits(sizes: list[int], most: int, most_bytes: int) -> None:
    mails = [Mail((uid,), size) for uid, size in enumerate(sizes)]
    made = list(batches(mails, most, most_bytes))
    assert [mail for batch in made for mail in batch] == mails
    assert all(0 < len(batch) <= most for batch in made)
    assert all(len(batch) == 1 or sum(mail.size for mail in batch) <= most_bytes for batch in made)


def test_batches_are_as_full_as_they_may_be() -> None:
    assert [len(batch) for batch in batches([Mail((uid,), 1) for uid in range(45)], 20, 1000)] == [20, 20, 5]


@pytest.mark.parametrize("word", ["routed", "duplicate", "bounce", "ignored"])
def test_what_odoo_has_is_done(word: Word) -> None:
    assert decide(Verdict(word, "crm.lead/7", "why"), 3, 5) == Decision("routed", 0, "why")


def test_what_odoo_refuses_is_quarantined_with_its_reason() -> None:
    assert decide(Verdict("refused", "", "no route"), 0, 5) == Decision("quarantine", 0, "no route")
    assert decide(Verdict("refused"), 0, 5).reason, "never without one"


def test_what_is_to_be_tried_again_stays_and_counts_nothing() -> None:
    assert decide(Verdict("retry", reason="busy"), 4, 5) == Decision("inbox", 4, "busy")


def test_errors_count_until_it_is_enough() -> None:
    assert decide(Verdict("error", reason="boom"), 0, 5) == Decision("inbox", 1, "boom")
    assert decide(Verdict("error", reason="boom"), 3, 5).folder == "inbox"
    assert decide(Verdict("error", reason="boom"), 4, 5) == Decision("quarantine", 5, "failed 5 times, at last: boom")


def test_keys_tell_mails_apart() -> None:
    assert key_of("<a@b>") == key_of("<a@b>") != key_of("<a@c>")
