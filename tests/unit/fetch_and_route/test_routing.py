"""Which messages travel together and what becomes of each."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetch_and_route.routing import Backlog, Decision, Entry, Mail, Verdict, Word, decide, held_back, key_of, share


def entry(uid: int, *references: str, key: str = "", size: int = 1) -> Entry:
    return Entry(uid, size, key_of(key or f"<{uid}@x>"), tuple(map(key_of, references)))


def uids(batch: list[Mail]) -> list[int]:
    return [mail.uids[0] for mail in batch]


def test_copies_travel_as_one_in_the_order_of_their_first() -> None:
    entries = [Entry(9, 40, b"b"), Entry(2, 20, b"a"), Entry(3, 30, b"b"), Entry(7, 10, b"a")]
    backlog = Backlog(entries)
    assert [mail.uids for mail in backlog.take(9, 100)] == [(2, 7), (3, 9)]
    assert len(backlog) == 2
    assert b"a" in backlog
    assert b"c" not in backlog


def test_what_is_only_referred_to_does_not_wait() -> None:
    backlog = Backlog([entry(1, "<old@x>")])
    assert (len(backlog), key_of("<old@x>") in backlog) == (1, False)


@given(st.lists(st.integers(0, 300)), st.integers(1, 20), st.integers(1, 500))
def test_batches_keep_order_and_limits(sizes: list[int], most: int, most_bytes: int) -> None:
    backlog = Backlog(entry(number, size=size) for number, size in enumerate(sizes, 1))
    made = []
    while batch := backlog.take(most, most_bytes):
        made.append(batch)
    assert [uid for batch in made for uid in uids(batch)] == list(range(1, len(sizes) + 1))
    assert all(len(batch) <= most for batch in made)
    assert all(len(batch) == 1 or sum(mail.size for mail in batch) <= most_bytes for batch in made)


def test_batches_are_as_full_as_they_may_be() -> None:
    backlog = Backlog(map(entry, range(1, 46)))
    assert [len(backlog.take(20, 1000)) for _ in range(4)] == [20, 20, 5, 0]


def test_what_is_left_was_not_taken_yet() -> None:
    backlog = Backlog([entry(1), entry(2, "<1@x>"), entry(3, "<2@x>"), entry(4), entry(5)], [key_of("<3@x>")])
    assert backlog.left == 4
    batch = backlog.take(3, 100)
    assert backlog.left == 1
    backlog.give_back(batch)
    assert backlog.left == 1


@pytest.mark.parametrize(
    ("left", "out", "wanted"),
    [
        (600, 0, 20),
        (600, 2, 20),
        (20, 0, 10),
        (13, 0, 7),
        (6, 1, 6),  # the other half is out
        (20, 2, 10),  # both are busy: one of them will be free first
        (10, 2, 5),
        (7, 0, 5),  # not worth two calls
        (3, 0, 5),
    ],
)
def test_what_is_left_is_shared_out_among_the_calls(left: int, out: int, wanted: int) -> None:
    assert share(left, out, calls=2, most=20) == wanted


def test_one_call_at_a_time_takes_all_that_it_may() -> None:
    assert [share(left, out, calls=1, most=20) for left, out in ((19, 0), (19, 1), (21, 0))] == [19, 19, 20]


def test_what_is_held_and_what_follows_it_is_not_taken() -> None:
    entries = [entry(1), entry(2, "<1@x>"), entry(3, "<2@x>"), entry(4), entry(5, "<6@x>"), entry(6)]
    backlog = Backlog(entries, [key_of("<2@x>"), key_of("<5@x>"), key_of("<gone@x>")])
    batch = backlog.take(9, 100)
    assert uids(batch) == [1, 4]
    backlog.give_back(batch)
    assert backlog.take(9, 100) == []
    assert key_of("<3@x>") in backlog


@pytest.mark.parametrize(
    "entries",
    [
        [entry(1), entry(2, "<1@x>")],
        [entry(1, "<2@x>"), entry(2)],
        [entry(1, "<old@x>"), entry(2, "<old@x>")],
        [entry(1, "<a@x>"), entry(2, "<b@x>"), entry(3, "<a@x>", "<b@x>")],
        [entry(1, "<old@x>"), entry(3, key="<c@x>"), entry(4, "<old@x>", key="<c@x>")],
    ],
)
def test_mails_that_refer_to_one_another_or_the_same_are_one_thread(entries: list[Entry]) -> None:
    backlog = Backlog(entries)
    first = backlog.take(1, 100)
    assert uids(first) == [1]
    assert backlog.take(9, 100) == [], "the thread is out"
    backlog.give_back(first)
    rest = backlog.take(9, 100)
    assert len(rest) == len(backlog) - 1
    assert {mail.thread for mail in rest} == {first[0].thread}


def test_other_threads_go_on_meanwhile_and_a_thread_stays_together() -> None:
    backlog = Backlog([entry(1, "<a>"), entry(2, "<b>"), entry(3, "<a>"), entry(4, "<b>"), entry(5), entry(6, "<a>")])
    assert uids(backlog.take(2, 100)) == [1, 3]
    second = backlog.take(3, 100)
    assert uids(second) == [2, 4, 5]
    assert backlog.take(3, 100) == []


def test_the_rest_of_a_held_thread_waits() -> None:
    backlog = Backlog([entry(1, "<a>"), entry(2, "<a>"), entry(3), entry(4)])
    batch = backlog.take(1, 100)
    backlog.give_back(batch, {batch[0].thread})
    assert uids(backlog.take(9, 100)) == [3, 4]


NAMES = st.sampled_from([f"<{number}@x>" for number in range(12)])
WAITING = st.lists(st.tuples(NAMES, st.lists(NAMES, max_size=3)), max_size=30)


@given(WAITING, st.integers(1, 5), st.randoms(use_true_random=False))
def test_no_thread_is_out_twice_none_overtakes_and_all_come_out(
    waiting: list[tuple[str, list[str]]], most: int, order: random.Random
) -> None:
    entries = [entry(uid, *references, key=key) for uid, (key, references) in enumerate(waiting, 1)]
    shuffled = order.sample(entries, len(entries))
    backlog = Backlog(shuffled)
    out: list[list[Mail]] = []
    last: dict[int, int] = {}
    seen: list[int] = []
    while True:
        batch = backlog.take(most, 1000)
        if batch:
            assert not {mail.thread for mail in batch} & {mail.thread for other in out for mail in other}
            for mail in batch:
                assert mail.uids[0] > last.get(mail.thread, 0)
                last[mail.thread] = mail.uids[0]
                seen += mail.uids
            out.append(batch)
        elif out:
            backlog.give_back(out.pop(order.randrange(len(out))))
        else:
            break
    assert sorted(seen) == [item.uid for item in entries]


def test_a_failed_message_holds_back_those_after_it_in_its_thread() -> None:
    verdicts = [Verdict(word) for word in ("routed", "error", "retry", "retry", "retry", "error", "retry")]
    assert held_back([1, 1, 1, 2, 1, 0, 0], verdicts) == [False, False, True, False, True, False, False]


def test_many_waiting_mails_cost_little_memory() -> None:
    def waiting() -> Iterator[Entry]:
        return (entry(uid, f"<{uid // 2}@old>", size=5000) for uid in range(1, 20_001))

    tracemalloc.start()
    backlog = Backlog(waiting())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(backlog) == 20_000
    assert peak < 20_000 * 350, "bytes a mail; 50,000 are to cost less than 20 MB"


@pytest.mark.parametrize("word", ["routed", "duplicate", "bounce", "ignored", "report"])
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
