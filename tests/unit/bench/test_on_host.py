from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from typing import Any

import pytest

from bench.on_host import make_mail

TO = "sales@example.com"


def parsed(**kind: Any) -> tuple[str, EmailMessage]:
    message_id, raw = make_mail("tag", 7, TO, **kind)
    return message_id, email.message_from_bytes(raw, policy=email.policy.default)


def test_each_mail_is_from_somebody_new() -> None:
    mails = [make_mail("tag", number, TO) for number in range(100)]
    messages = [email.message_from_bytes(raw) for _, raw in mails]
    assert len({message_id for message_id, _ in mails}) == 100
    assert len({message["From"] for message in messages}) == 100
    assert [message["Message-ID"] for message in messages] == [message_id for message_id, _ in mails]
    assert make_mail("tag", 3, TO) == mails[3], "the same mail again"
    assert all(1_900 <= len(raw) <= 5_000 for _, raw in mails)


@pytest.mark.parametrize("kind", [{}, {"delivered": False}, {"answers": "<1@example.com>"}, {"extra": 100_000}])
def test_a_mail_is_well_formed(kind: dict[str, Any]) -> None:
    message_id, message = parsed(**kind)
    assert message["Message-ID"] == message_id
    assert [part.defects for part in message.walk() if part.defects] == []
    assert all(line.endswith(b"\r\n") for line in make_mail("tag", 7, TO, **kind)[1].splitlines(keepends=True))
    assert message.get_body(("html",)) is not None
    assert message.get_body(("plain",)) is not None


def test_a_mail_that_was_not_delivered_yet_has_no_trace() -> None:
    _, message = parsed(delivered=False)
    assert message.keys()[0] == "From"
    assert not {"Received", "Delivered-To", "Return-Path"} & set(message.keys())


def test_an_answer_names_what_it_answers_and_others_nothing() -> None:
    assert parsed(answers="<1@example.com>")[1]["References"] == "<1@example.com>"
    assert parsed()[1]["References"] is None


def test_a_large_mail_has_the_size_asked_for() -> None:
    assert 1_000_000 <= len(make_mail("tag", 7, TO, extra=1_000_000)[1]) <= 1_010_000
