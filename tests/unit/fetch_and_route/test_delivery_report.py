"""Reports of many mail servers, read as Odoo reads them (mail.thread._message_parse_extract_bounce)."""

from __future__ import annotations

import email
import email.policy
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetch_and_route.delivery_report import REACH, DeliveryReport, for_odoo, read
from fetch_and_route.message import Prepared, prepare
from tests import delivery_reports

MAIL = "<42@example.com>"
RECIPIENT = "anna@customer.example"
TRACE = b"Return-Path: <>\r\nDelivered-To: bounce@example.com\r\nReceived: by mail.example.com with LMTP; now\r\n"


def written(form: Callable[[], str]) -> bytes:
    return delivery_reports.write(form, MAIL, RECIPIENT, own_id="<report@customer.example>")


def handed(raw: bytes) -> Prepared:
    """What the program hands to Odoo."""
    prepared = prepare([TRACE + raw], {})
    report = read(prepared.raw)
    return for_odoo(prepared, report) if report else prepared


def noted_by_odoo(raw: bytes) -> tuple[str, str]:
    """The mail and the recipient that Odoo notes, found in its way."""
    parsed: Any = email.message_from_bytes(raw, policy=email.policy.SMTP)
    mail, recipient = "", ""
    parts = list(parsed.walk())
    status = next((part for part in parts if part.get_content_type() == "message/delivery-status"), None)
    if status is not None and len(status.get_payload()) > 1:
        recipient = str(status.get_payload()[1].get("Final-Recipient", "")).split(";", 1)[1].strip()
    kinds = ("message/rfc822", "text/rfc822-headers")
    about = next((part for part in parts if part.get_content_type() in kinds), None)
    if about is not None:
        payload = about.get_payload()
        inner = email.message_from_string(payload) if isinstance(payload, str) else payload[0]
        mail = "".join(re.findall("<[^<>]+>", str(inner.get("Message-Id", ""))))
    return mail, recipient


@pytest.mark.parametrize("form", delivery_reports.FAILURES)
def test_what_did_not_arrive_is_noted_by_odoo(form: Callable[[], str]) -> None:
    raw = written(form)
    assert read(raw) == DeliveryReport(
        MAIL, (RECIPIENT,), "", readable=handed(raw).raw == prepare([TRACE + raw], {}).raw
    )
    assert noted_by_odoo(handed(raw).raw) == (MAIL, RECIPIENT)
    assert email.message_from_bytes(handed(raw).raw).get_content_type() == "multipart/report", "a bounce for Odoo"
    assert handed(raw).message_id == "<report@customer.example>"


@pytest.mark.parametrize("form", ["postfix", "postfix_headers", "sendmail", "exim", "exchange", "gmail"])
def test_what_odoo_reads_by_itself_stays_byte_for_byte(form: str) -> None:
    raw = TRACE + written(getattr(delivery_reports, form))
    assert handed(written(getattr(delivery_reports, form))).raw == prepare([raw], {}).raw


@pytest.mark.parametrize("form", delivery_reports.NOTICES)
def test_a_report_of_no_failure_is_kept_from_odoo(form: Callable[[], str]) -> None:
    report = read(written(form))
    assert report is not None
    assert report.notice in ("a notice of a delay (RFC 3464)", "a delivery receipt (RFC 3464)")
    assert report.failed == ()


def test_the_header_stays_but_for_what_says_how_the_body_is_written() -> None:
    before, after = (
        email.message_from_bytes(raw)
        for raw in (
            prepare([TRACE + written(delivery_reports.qmail)], {}).raw,
            handed(written(delivery_reports.qmail)).raw,
        )
    )
    for name in ("Return-Path", "Delivered-To", "Received", "From", "To", "Subject", "Message-ID", "Date"):
        assert after.get_all(name) == before.get_all(name)


@pytest.mark.parametrize(
    "raw",
    [
        b"From: anna@customer.example\r\n\r\n" + written(delivery_reports.qmail).partition(b"\r\n\r\n")[2],
        b"From: MAILER-DAEMON@customer.example\r\n\r\nI am away until Monday.\r\n",
        b"From: MAILER-DAEMON@customer.example\r\n\r\n<a@b.example>:\r\nno\r\n\r\n--- no mail\r\n\r\nnothing\r\n",
        b"Content-Type: multipart/report; report-type=disposition-notification; boundary=b\r\n\r\n--b--\r\n",
        b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n",
        b"",
    ],
)
def test_everything_else_is_none_or_says_nothing(raw: bytes) -> None:
    report = read(raw)
    assert report is None or not (report.notice or (report.failed and report.message_id))
    prepared = prepare([TRACE + raw], {})
    assert report is None or for_odoo(prepared, report) == prepared


PIECES = st.sampled_from(
    [
        *(line for form in delivery_reports.FAILURES for line in written(form).splitlines(keepends=True)),
        b"Content-Type: multipart/report; boundary=b\r\n",
        b"--b\r\n",
        b"\r\n",
        b"\xff\x00",
    ]
)


@given(st.lists(PIECES | st.binary(max_size=20), max_size=60))
def test_nothing_makes_it_fail(pieces: list[bytes]) -> None:
    raw = b"From: mailer-daemon@x\r\n" + b"".join(pieces)
    prepared = prepare([raw], {})
    report = read(prepared.raw)
    if report is not None:
        made = for_odoo(prepared, report)
        assert made.message_id == prepared.message_id
        if made != prepared:
            assert noted_by_odoo(made.raw) == (report.message_id, report.failed[0])


NESTED = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(5000))


@pytest.mark.parametrize(
    "body",
    [
        NESTED,
        b"Content-Type: message/rfc822\r\n\r\n" * 9000,
        b"\r\n" + b"--\n" * REACH,
        b"\r\n" + b"<a@b>:\n\n" * REACH,
        b"\r\n" + b"---- This is a copy of " * REACH,
        b"X-Failed-Recipients: " + b"a@" * REACH,
    ],
    ids=["multiparts", "messages", "breaks", "recipients", "copies", "addresses"],
)
def test_no_message_takes_long(body: bytes) -> None:
    start = time.process_time()
    read(b"From: MAILER-DAEMON@x\r\nX-Failed-Recipients: a@b\r\n" + body)
    read(b"From: MAILER-DAEMON@x\r\nContent-Type: multipart/report; boundary=b0\r\n\r\n--b0\r\n" + body)
    assert time.process_time() - start < 5
