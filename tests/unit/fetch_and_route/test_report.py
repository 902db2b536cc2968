"""What a person and the journal see."""

from __future__ import annotations

import io
import json
import re

import pytest

from fetch_and_route.message import Prepared
from fetch_and_route.report import Report
from fetch_and_route.routing import Decision, Verdict
from fetch_and_route.trouble import Denied, Unavailable

FORGED = Prepared('<a@x>\nmessage-id="<b@x>', ("sales@example.com",), b"")
ROUTED = (Verdict("routed", "crm.lead/7"), Decision("routed", 0, ""), "Routed", 0.0604)
REFUSED = (Verdict("refused", "", "no route"), Decision("quarantine", 0, "no route"), "Quarantine", 0.1)


def test_a_line_per_message_that_no_message_can_forge() -> None:
    output = io.StringIO()
    report = Report(output)
    report.waiting(2)
    report.message("prod", Prepared("<a@x>", (), b""), *ROUTED)
    report.message("prod", FORGED, *REFUSED)
    report.finish()
    lines = output.getvalue().splitlines()
    assert lines[0] == "message-id=<a@x> mailbox=prod verdict=routed record=crm.lead/7 folder=Routed seconds=0.060"
    assert lines[1] == (
        r'message-id="<a@x>\nmessage-id=\"<b@x>" mailbox=prod recipients=sales@example.com '
        'verdict=refused folder=Quarantine seconds=0.100 reason="no route"'
    )
    assert lines[2].startswith("2 messages in ")
    assert lines[2].endswith(": 1 refused, 1 routed")


@pytest.mark.parametrize("how", [{}, {"as_json": True}, {"terminal": True}])
def test_what_no_mail_can_have_is_cut_and_what_one_can_have_is_not(how: dict[str, bool]) -> None:
    longest = f"<{'a' * 994}@x>"
    for identity, shown in ((longest, longest), (longest + "b", longest[:995] + "...")):
        output = io.StringIO()
        message = Prepared(identity, (identity, "sales@example.com"), b"")
        Report(output, **how).message("prod", message, *REFUSED)
        assert set(re.findall("<a[<a@xb>.]+", output.getvalue())) == {shown}


def test_machines_get_one_json_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    output = io.StringIO()
    report = Report(output, terminal=True, as_json=True)
    report.waiting(2)
    report.message("prod", FORGED, *REFUSED)
    report.batch_done()
    report.trouble(Unavailable("away"))
    report.say("hello")
    report.finish()
    message, trouble, information, end = map(json.loads, output.getvalue().splitlines())
    assert message == {
        "event": "message",
        "message_id": FORGED.message_id,
        "mailbox": "prod",
        "recipients": ["sales@example.com"],
        "verdict": "refused",
        "record": "",
        "folder": "Quarantine",
        "attempts": 0,
        "seconds": 0.1,
        "reason": "no route",
    }
    assert trouble == {"event": "trouble", "text": "away", "exit_code": 75}
    assert information == {"event": "information", "text": "hello"}
    assert (end["messages"], end["verdicts"]) == (1, {"refused": 1})


def test_the_journal_learns_what_needs_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    output = io.StringIO()
    report = Report(output)
    report.message("prod", Prepared("<a@x>", (), b""), *ROUTED)
    report.message("prod", FORGED, *REFUSED)
    report.trouble(Unavailable("away"))
    report.trouble(Denied("no"))
    assert [line[:3] for line in output.getvalue().splitlines()] == ["mes", "<4>", "<4>", "<3>"]


def test_tallies_are_taken_once() -> None:
    report = Report(io.StringIO())
    report.message("prod", Prepared("<a@x>", (), b""), *ROUTED)
    report.served("prod")
    taken = report.take()["prod"]
    assert (taken.verdicts, taken.success > 0) == ({"routed": 1}, True)
    assert report.take() == {}


def test_a_run_with_nothing_to_do_leaves_no_line() -> None:
    output = io.StringIO()
    Report(output).finish()
    assert output.getvalue() == ""


def test_a_terminal_gets_a_bar_and_only_what_needs_a_person() -> None:
    output = io.StringIO()
    report = Report(output, terminal=True)
    report.waiting(2)
    assert output.getvalue().endswith("[........................] 0/2 messages")
    report.message("prod", Prepared("<a@x>", (), b""), *ROUTED)
    report.batch_done()
    assert output.getvalue().endswith("/s, 0 s left")
    assert "[############............] 1/2 messages, " in output.getvalue()
    report.message("prod", FORGED, *REFUSED)
    report.batch_done()
    report.finish()
    lines = [line.rpartition("\x1b[K")[2] for line in output.getvalue().split("\n")]
    assert lines[0] == r"refused: <a@x>\nmessage-id=\"<b@x> -> Quarantine: no route"
    assert lines[1].startswith("2 messages in ")
