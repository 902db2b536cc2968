"""The bytes that Odoo is to see, judged by the parser that Odoo uses: Python's email package."""

from __future__ import annotations

import email.message
import re
import time

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fetch_and_route.message import (
    MOST_LINES,
    MOST_REFERENCES,
    REPORTS,
    made_message_id,
    message_id,
    prepare,
    recipients,
    references,
    report,
    split,
)

TRACE = b"Return-Path: <anna@customer.example>\r\nDelivered-To: sales@example.com\r\n"
BY_LMTP = (
    b"Received: from mail.example.com\r\n\tby mail.example.com with LMTP\r\n\tid A1\r\n"
    b"\tfor <sales@example.com>; now\r\n"
)
BY_SMTP = b"Received: from mx.customer.example by mail.example.com (Postfix) with ESMTPS id B2; now\r\n"
AUTHOR = b"From: anna@customer.example\r\nMessage-ID: <1@customer.example>\r\nSubject: caf\xe9\r\n"
BODY = b"\r\nHello\xff\x00 \r\nDelivered-To: not a header\r\n"
MAIL = TRACE + BY_LMTP + BY_SMTP + AUTHOR + BODY


def copy_for(address: bytes, mail: bytes = MAIL) -> bytes:
    return mail.replace(b"sales@example.com", address)


def seen_by_odoo(raw: bytes) -> email.message.Message:
    return email.message_from_bytes(raw)


def headers(raw: bytes, name: str) -> list[str]:
    return [str(value) for value in seen_by_odoo(raw).get_all(name, [])]


def test_a_plain_message_stays_byte_for_byte() -> None:
    prepared = prepare([MAIL], {})
    assert prepared.raw == MAIL
    assert prepared.message_id == "<1@customer.example>"
    assert prepared.recipients == ("sales@example.com",)


def test_copies_become_one_message_to_all_recipients() -> None:
    copies = [MAIL, copy_for(b"projects@example.com"), copy_for(b"SALES@example.com"), copy_for(b"leads+x@example.com")]
    prepared = prepare(copies, {})
    assert prepared.recipients == ("sales@example.com", "projects@example.com", "leads+x@example.com")
    line = b"Delivered-To: sales@example.com, projects@example.com, leads+x@example.com, leads@example.com\r\n"
    assert prepared.raw == MAIL.replace(b"Delivered-To: sales@example.com\r\n", line, 1)


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        (b"sales+spring+2@example.com", b"sales+spring+2@example.com, sales@example.com"),
        (b"bounce+12-crm.lead-7@example.com", b"bounce+12-crm.lead-7@example.com, bounce@example.com"),
        (b"+@example.com", b"+@example.com"),
        (b"sales@example.com+x", b"sales@example.com+x"),
    ],
)
def test_an_extension_does_not_hide_the_address(address: bytes, seen: bytes) -> None:
    prepared = prepare([copy_for(address)], {})
    assert prepared.recipients == (address.decode(),)
    assert b"\r\nDelivered-To: " + seen + b"\r\n" in prepared.raw


def test_of_the_other_copies_the_header_is_enough() -> None:
    other = copy_for(b"projects@example.com")
    assert prepare([MAIL, other.partition(b"\r\n\r\n")[0]], {}) == prepare([MAIL, other], {})


@pytest.mark.parametrize("foreign", [b"Delivered-To: boss@example.com\r\n", b"Return-Path: <victim@example.net>\r\n"])
@pytest.mark.parametrize("fold", [False, True])
def test_what_a_stranger_wrote_is_removed(foreign: bytes, fold: bool) -> None:
    line = foreign.replace(b": ", b":\r\n\t") if fold else foreign
    forged = TRACE + BY_LMTP + BY_SMTP + line.upper().replace(b"\n\t", b"\n ") + AUTHOR + line + BODY
    assert prepare([forged], {}).raw == MAIL


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n"])
def test_a_foreign_header_behind_any_line_end_that_python_knows_is_removed(end: bytes) -> None:
    forged = TRACE + BY_LMTP + b"X: 1" + end + b"Delivered-To: boss@example.com" + end + AUTHOR + BODY
    assert headers(forged, "Delivered-To") == ["sales@example.com", "boss@example.com"]
    assert headers(prepare([forged], {}).raw, "Delivered-To") == ["sales@example.com"]


def test_what_is_taken_out_does_not_swallow_the_end_of_the_header() -> None:
    forged = TRACE + BY_LMTP + b"X: 1\rDelivered-To: a@b\r\n\nDelivered-To: boss@example.com\r\n\r\nx"
    assert headers(prepare([forged], {}).raw, "Delivered-To") == ["sales@example.com"]
    assert seen_by_odoo(prepare([forged], {}).raw).get_payload() == seen_by_odoo(forged).get_payload()


def test_mail_that_our_server_did_not_deliver_has_no_recipient() -> None:
    raw = BY_SMTP + b"Delivered-To: boss@example.com\r\n" + AUTHOR + BODY
    prepared = prepare([raw], {})
    assert prepared.recipients == ()
    assert prepared.raw == BY_SMTP + AUTHOR + BODY


def test_a_provider_notes_the_recipient_in_a_header_of_its_own() -> None:
    shared = b"Delivered-To: catchall@example.com\r\n"
    noted = b"X-Original-To: old@example.com\r\n"
    former = {"old@example.com": "sales@example.com"}
    assert recipients(shared + BY_SMTP + noted + AUTHOR + BODY, former, "x-original-to") == ["sales@example.com"]
    assert recipients(shared + BY_SMTP + AUTHOR + BODY, former, "X-Original-To") == [], "that is the mailbox's name"
    prepared = prepare([shared + BY_SMTP + noted + AUTHOR + BODY], former, "X-Original-To")
    assert headers(prepared.raw, "Delivered-To") == ["sales@example.com"]


@pytest.mark.parametrize(
    ("address", "today"),
    [
        ("old@example.com", "reception@example.com"),
        ("OLD@Example.COM", "reception@example.com"),
        ("old+12-crm.lead-7@example.com", "reception+12-crm.lead-7@example.com"),
        ("old@example.net", "old@example.net"),
        ("Sales@example.com", "Sales@example.com"),
        ("<sales@example.com>", "sales@example.com"),
    ],
)
def test_former_names_become_todays(address: str, today: str) -> None:
    copy = copy_for(address.encode())
    assert recipients(copy, {"old@example.com": "reception@example.com"}) == [today]


def test_a_missing_message_id_is_the_same_for_all_copies_and_each_time() -> None:
    nameless = MAIL.replace(b"Message-ID: <1@customer.example>\r\n", b"")
    other = copy_for(b"projects@example.com", nameless).replace(b"id A1", b"id A2")
    assert message_id(nameless) == ""
    assert made_message_id(nameless) == made_message_id(other)
    prepared = prepare([nameless, other], {})
    assert headers(prepared.raw, "Message-ID") == [prepared.message_id] == [made_message_id(nameless)]
    assert made_message_id(nameless.replace(b"id B2", b"id B3")) != made_message_id(nameless), "sent twice is two mails"
    assert made_message_id(nameless.replace(b"Hello", b"Hullo")) != made_message_id(nameless)


@pytest.mark.parametrize("blank", [b"", b" ", b" <>", b"\r\n "])
def test_a_message_id_that_says_nothing_is_none(blank: bytes) -> None:
    raw = MAIL.replace(b" <1@customer.example>", blank)
    prepared = prepare([raw], {})
    assert seen_by_odoo(prepared.raw)["Message-ID"] == prepared.message_id == made_message_id(raw)


def test_the_first_message_id_counts_and_is_unfolded() -> None:
    assert message_id(b"Message-Id:\r\n <a@b>\r\nMessage-ID: <c@d>\r\n\r\n") == "<a@b>"
    assert message_id(b"Message-ID: <\x00\xff@b>\r\n") == "<\ufffd\ufffd@b>"


@pytest.mark.parametrize("raw", [b"From stranger", b"Return-Path: <anna@customer.example>", b"Subject: x", b" folded"])
def test_a_header_cut_off_in_its_last_line_is_not_glued_to_ours(raw: bytes) -> None:
    prepared = prepare([raw], {})
    assert headers(prepared.raw, "Message-ID") == [prepared.message_id]


def typed(kind: str, subject: str = "x", body: bytes = b"body") -> bytes:
    return f"Subject: {subject}\r\nContent-Type: {kind}\r\n\r\n".encode() + body


DMARC = "Report Domain: example.com Submitter: mail.customer.example Report-ID: <1>"
PART = b"--b\r\nContent-Type: application/gzip; name=x!example.com!1!2.xml.gz\r\n\r\nAAAA\r\n--b--\r\n"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (typed('multipart/report; report-type=disposition-notification; boundary="b"'), "a read receipt"),
        (typed('Multipart/Report;\r\n\tboundary="b";\r\n\tReport-Type="Disposition-Notification"'), "a read receipt"),
        (typed("multipart/report; report-type=feedback-report"), "an abuse report"),
        (typed('multipart/report; report-type="tlsrpt"; boundary="b"'), "a TLS report"),
        (typed("multipart/mixed; boundary=b", DMARC, PART), "a DMARC report"),
        (typed("application/zip; name=x.zip", DMARC.replace(" Submitter", "\r\n Submitter")), "a DMARC report"),
        (typed("text/xml", DMARC.lower()), "a DMARC report"),
    ],
)
def test_reports_for_machines_are_told(raw: bytes, kind: str) -> None:
    assert report(raw).startswith(kind)
    assert report(prepare([TRACE + BY_LMTP + raw], {}).raw) == report(raw)


@pytest.mark.parametrize(
    "raw",
    [
        typed("multipart/report; report-type=delivery-status; boundary=b"),
        typed("multipart/report; boundary=b"),
        typed("multipart/report; report-type=something-new"),
        typed("multipart/report; report-type*=utf-8''tlsrpt"),
        typed("multipart/mixed; report-type=tlsrpt"),
        typed("text/plain; x=multipart/report; report-type=tlsrpt"),
        typed("multipart/report; report-type=delivery-status") + b"Content-Type: multipart/report; report-type=tlsrpt",
        typed("text/plain", DMARC),
        typed("multipart/mixed; boundary=b", "Re: " + DMARC, PART),
        typed("multipart/mixed; boundary=b", "Report Domain: is it ours?", PART),
        MAIL,
        b"",
    ],
)
def test_if_in_doubt_it_is_for_odoo(raw: bytes) -> None:
    assert report(raw) == ""


LINES = st.sampled_from(
    [
        b"Delivered-To: boss@example.com",
        b"delivered-to:",
        b"Delivered-To : a@b",
        b"Return-Path: <a@b>",
        b"Message-ID: <1@x>",
        b"message-id: <>",
        b"Received: from x with LMTP id 1",
        b"From stranger Mon Jan 1",
        b"From: a@b",
        b": nothing",
        b"X-\xff: 1",
        b" folded",
        b"\t",
        b"no header",
        b"",
        b"\x00\x0b\x0c\x85",
    ]
)
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\n", b"\r", b""])
NASTY = st.lists(st.tuples(LINES, ENDS).map(b"".join), max_size=12).map(b"".join)
RAW = st.one_of(st.binary(max_size=400), NASTY)


@given(RAW)
@example(b"")
@example(b" folded")
@example(b"From stranger")
def test_taking_apart_loses_nothing(raw: bytes) -> None:
    parts = split(raw)
    assert b"".join([parts.start, *(field.raw for field in parts.fields), parts.rest]) == raw


@given(RAW)
@example(b":\rFrom \x80:")
def test_the_header_ends_where_odoo_sees_it_end(raw: bytes) -> None:
    # A nameless field and a misplaced mbox line are passed over.
    names = [field.name for field in split(raw).fields if b":" in field.raw and field.name != b""]
    expected = [name.decode("ascii") for name in names if not name.startswith(b"from ")]
    assert [name.lower() for name in seen_by_odoo(raw)] == expected


@given(RAW, st.booleans())
def test_odoo_sees_exactly_one_delivered_to_and_only_the_named_headers_differ(raw: bytes, delivered: bool) -> None:
    # A misplaced mbox line that is the header's last one is body for Python, else nothing: not worth a thought of ours.
    assume(not re.search(rb"(?:^|[\r\n])From ", raw))
    raw = TRACE + BY_LMTP + raw if delivered else BY_LMTP + raw
    prepared = prepare([raw], {})
    before, after = seen_by_odoo(raw), seen_by_odoo(prepared.raw)
    assert headers(prepared.raw, "Delivered-To") == (["sales@example.com"] if delivered else [])
    assert headers(prepared.raw, "Return-Path") == (["<anna@customer.example>"] if delivered else [])
    assert prepared.message_id
    assert message_id(prepared.raw) == prepared.message_id
    ours = {"delivered-to", "return-path", "message-id"}
    for mail in (before, after):
        for name in ours:
            del mail[name]
    assert after.items() == before.items()
    assert after.get_payload() == before.get_payload() or before.is_multipart()
    assert prepare([prepared.raw], {}).raw == prepared.raw, "a second pass changes nothing"


@given(st.lists(RAW, min_size=1, max_size=3))
def test_no_bytes_crash_it(copies: list[bytes]) -> None:
    assert prepare(copies, {"a@b": "c@d"}).raw is not None


CHARSETS = st.sampled_from(["utf-8", "iso-8859-1", "utf-16", "nonsense", "idna", "", "\x00", "unknown-8bit"])
WORDS = st.one_of(
    st.binary(max_size=30),
    st.builds(lambda charset: f"=?{charset}?b?/w==?=".encode(), CHARSETS),
    st.builds(lambda charset: f"text/plain; charset={charset}".encode(), CHARSETS),
    st.builds(lambda charset: f"multipart/report; report-type*0*={charset}''%ff; boundary=b".encode(), CHARSETS),
    st.sampled_from(
        [b"multipart/mixed; boundary=b", b"message/rfc822", b"multipart/report; report-type", b"<a@b> <", b";"]
    ),
)
NAMES = st.sampled_from(
    [
        b"Delivered-To",
        b"Return-Path",
        b"Received",
        b"Message-ID",
        b"References",
        b"Subject",
        b"Content-Type",
        b"From \t",
        b"To",
    ]
)
HEADERS = st.lists(
    st.tuples(NAMES, st.sampled_from([b":", b": ", b" :", b":\r "]), WORDS, ENDS).map(b"".join), max_size=8
)
PARTS = st.tuples(HEADERS.map(b"".join), ENDS, WORDS).map(b"".join)
NESTED = st.recursive(
    PARTS,
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: b"".join(b"\r\n--b\r\n" + part for part in parts)),
)
HOSTILE = st.tuples(HEADERS.map(b"".join), ENDS, NESTED).map(b"".join)


@given(st.lists(HOSTILE, min_size=1, max_size=3))
def test_whatever_a_stranger_sends_odoo_sees_one_delivered_to_and_the_whole_rest(bodies: list[bytes]) -> None:
    copies = [TRACE + BY_LMTP + body for body in bodies]
    prepared = prepare(copies, {"sales@example.com": "leads@example.com"})
    assert headers(prepared.raw, "Delivered-To") == ["leads@example.com"]
    assert prepared.raw.endswith(bytes(split(copies[0]).rest))
    assert prepared.message_id
    assert prepared.message_id.isprintable()
    assert report(prepared.raw) in ("", "a DMARC report (RFC 7489)", *REPORTS.values())
    assert len(references(prepared.raw)) <= MOST_REFERENCES


HUGE = 25_000_000


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(AUTHOR + b"\r\n" + b"x" * HUGE, id="a body"),
        pytest.param(b"X: " + b"y" * HUGE, id="one header"),
        pytest.param(b"a:\n" * (HUGE // 3), id="headers"),
        pytest.param(b"Delivered-To: boss@example.com\r" * (HUGE // 32), id="deliveries"),
        pytest.param(b"X:" + b"\n " * (HUGE // 2), id="continuations"),
        pytest.param(b"References: " + b"<a@b> " * (HUGE // 6), id="references"),
        pytest.param(b"Content-Type: multipart/report; " + b"a=b;" * (HUGE // 4), id="parameters"),
        pytest.param(b"Subject: " + b"Report Domain: " * (HUGE // 15), id="a subject"),
        pytest.param(b"To: " + b"anna@customer.example,\r\n " * 10_000 + b"\r\n\r\n", id="recipients"),
        pytest.param(b"\x00" * HUGE, id="nothing"),
    ],
)
def test_no_message_takes_long(raw: bytes) -> None:
    raw = TRACE + BY_LMTP + raw
    began = time.process_time()
    prepared = prepare([raw], {})
    report(prepared.raw)
    references(raw)
    assert time.process_time() - began < 5
    start = prepared.raw[: prepared.raw.find(b"\r\n\r\n") + 1] if b"\r\n\r\n" in prepared.raw else prepared.raw
    assert start.count(b"Delivered-To:") == 1
    assert prepared.raw.endswith(raw[-1000:])
    assert len(prepared.raw) >= len(raw) - MOST_LINES * 32, "only foreign deliveries are taken out"


def test_a_mail_to_ten_thousand_of_our_addresses_is_one() -> None:
    copies = [copy_for(f"a{number}@example.com".encode()) for number in range(10_000)]
    prepared = prepare(copies, {})
    assert len(prepared.recipients) == 10_000
    (line,) = headers(prepared.raw, "Delivered-To")
    assert line.split(", ") == list(prepared.recipients)


def test_references_are_few_and_the_threads_first_is_among_them() -> None:
    many = (
        "References: " + " ".join(f"<{number}@x>" for number in range(100)) + "\r\nIn-Reply-To: <last@x> (of May)\r\n"
    )
    found = references(many.encode())
    assert len(found) == MOST_REFERENCES
    assert (found[0], found[-2:]) == ("<0@x>", ["<99@x>", "<last@x>"])
    assert references(b"In-Reply-To:\r\n <a@b>\r\nReferences: <c@d><a@b>\r\n\r\nReferences: <no@x>") == [
        "<c@d>",
        "<a@b>",
    ]
    assert references(b"Subject: <a@b>\r\n") == []
