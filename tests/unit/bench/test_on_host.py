from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from bench.on_host import arrived, drained, make_mail

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


def test_what_arrived_is_counted_and_what_came_twice_seen(tmp_path: Path) -> None:
    for name, subject, message_id in (("a", "t", 1), ("b", "t", 2), ("c", "t", 2), ("d", "other", 3)):
        head = f"Return-Path: <a@b.example>\nSubject: {subject}\nMessage-Id: <{message_id}@b.example>\n"
        (tmp_path / name).write_text(f"{head}\nSubject: none\n")
    found = arrived(str(tmp_path), "t")
    assert (found["found"], found["distinct"]) == (3, 2)
    assert found["last"] == max((tmp_path / name).stat().st_ctime for name in "abc")


def test_a_queue_is_drained_when_no_file_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "deferred" / "A").mkdir(parents=True)
    (tmp_path / "pid").mkdir()
    (tmp_path / "pid" / "master.pid").touch()
    assert drained("0", str(tmp_path)) == {"left": 0}
    (tmp_path / "deferred" / "A" / "A1").touch()
    assert drained("0", str(tmp_path)) == {"left": 1}
