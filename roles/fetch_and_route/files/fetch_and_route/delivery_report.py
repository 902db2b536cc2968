"""Delivery reports: what other mail servers write of a mail of ours that did not arrive, made readable for Odoo.

Pure. Odoo takes every multipart/report, and all mail from a mailer-daemon, for a bounce. It finds the mail by the
Message-ID in the first part that holds it or its header, and the recipient in the first group of the first
message/delivery-status, whatever the Action there (mail.thread._message_parse_extract_bounce). So a notice of a delay
would mark the mail as bounced; and of a report in another format, or with a Final-Recipient that has no type, Odoo
would note nothing or fail.
"""

from __future__ import annotations

import dataclasses
import email
import re
from collections.abc import Callable, Iterator
from email.message import Message as Parsed

from . import message
from .message import Prepared

REACH = 262_144
"""Bytes of a message that are looked at: a report has its parts before the mail that it is about."""
MOST_PARTS = 40
"""A message with more multiparts is no report that a mail server wrote, and slow to take apart."""
NO_FAILURE = {
    "delayed": "a notice of a delay (RFC 3464)",
    "delivered": "a delivery receipt (RFC 3464)",
    "relayed": "a delivery receipt (RFC 3464)",
    "expanded": "a delivery receipt (RFC 3464)",
}
"""The values of Action (RFC 3464, section 2.3.3) that are not `failed`, and what a report with nothing else is."""
# Internationalised reports (RFC 6533) differ in the names of their parts alone.
_GLOBAL = re.compile(rb"(content-type:\s*)message/global(-delivery-status|-headers|)\b", re.IGNORECASE)
_PLAIN_NAMES = {
    b"-delivery-status": b"message/delivery-status",
    b"-headers": b"text/rfc822-headers",
    b"": b"message/rfc822",
}
# qmail's format (https://cr.yp.to/proto/qsbmf.txt), which others write with other first words.
_QSBMF_RECIPIENT = re.compile(r"<([^<>\s]+@[^<>\s]+)>:\n")
_QSBMF_BREAK = re.compile(r"(?:\A|\n\n)--")
# Exim up to 4.8.
_EXIM_BREAK = re.compile(r"^-{4,} This is a copy of .*-{4,}$", re.MULTILINE)
_ADDRESS = re.compile(r"[^\s<>;,\"]+@[^\s<>;,\"]+")


@dataclasses.dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What a report says."""

    message_id: str
    """Of the mail it is about; empty when it does not say so."""
    failed: tuple[str, ...]
    """The recipients that the mail did not reach."""
    notice: str
    """What it is when no recipient failed for good; empty otherwise."""
    readable: bool
    """Whether Odoo finds the mail and the first failed recipient by itself."""


def read(raw: bytes) -> DeliveryReport | None:
    """What a message says of a mail of ours; None when it is no delivery report, or one that says nothing."""
    if not _may_be_one(raw):
        return None
    head = _GLOBAL.sub(lambda found: found[1] + _PLAIN_NAMES[found[2].lower()], raw[:REACH])
    if head.lower().count(b"multipart/") > MOST_PARTS:
        return None
    try:
        parsed = email.message_from_bytes(head)
        return _standard(raw, parsed) or _plain(parsed, _exim) or _plain(parsed, _qmail)
    except (ValueError, LookupError, TypeError, RecursionError):
        return None  # what Python's email package says of bytes that were made to confuse it


def for_odoo(prepared: Prepared, report: DeliveryReport) -> Prepared:
    """The same report as RFC 3464 has it, when Odoo could not read it; the mailbox keeps what was sent."""
    if report.readable or report.notice or not report.failed or not report.message_id:
        return prepared
    parts = message.split(prepared.raw)
    kept = [field.raw for field in parts.fields if field.name != b"mime-version" and field.name[:8] != b"content-"]
    if kept and kept[-1][-1:] not in b"\r\n":
        kept.append(b"\r\n")
    status = f"Final-Recipient: rfc822; {report.failed[0]}\r\nAction: failed\r\nStatus: 5.0.0\r\n"
    made = (
        "MIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="report"\r\n\r\n'
        "--report\r\nContent-Type: text/plain\r\n\r\nA delivery report in a format that Odoo does not read.\r\n"
        f"--report\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; unknown\r\n\r\n{status}\r\n"
        f"--report\r\nContent-Type: text/rfc822-headers\r\n\r\nMessage-ID: {report.message_id}\r\n\r\n--report--\r\n"
    )
    return dataclasses.replace(prepared, raw=b"".join([*kept, made.encode("utf-8", "replace")]))


def _may_be_one(raw: bytes) -> bool:
    """Whether Odoo would take this for a bounce whoever it is for, judged by its header alone."""
    for field in message.split(raw).fields:
        start = field.raw[: message.PARAMETERS].lower()
        if field.name == b"content-type" and b"multipart/report" in start:
            return True
        if field.name == b"from" and b"mailer-daemon@" in start:
            return True
    return False


def _standard(raw: bytes, parsed: Parsed) -> DeliveryReport | None:
    """A report in the format of RFC 3464, or nearly."""
    status = next((part for part in parsed.walk() if part.get_content_type() == "message/delivery-status"), None)
    payload = status.get_payload() if status is not None else None
    if not isinstance(payload, list):
        return None
    groups = [group for group in payload[1:] if isinstance(group, Parsed) and len(group)]
    actions = [_word(group["Action"]) for group in groups]
    failing = [group for group, action in zip(groups, actions, strict=True) if action not in NO_FAILURE]
    failed = [_recipient(group) for group in failing]
    notices = {NO_FAILURE[action] for action in actions if action in NO_FAILURE}
    own = _original(parsed)
    named = own or next(
        (found for group in payload if isinstance(group, Parsed) for found in _ids(group["X-Original-Message-ID"])),
        (message.references(raw) or [""])[-1],
    )
    final = str(groups[0]["Final-Recipient"] or "").partition(";")[2].strip() if groups else ""
    plain_names = not _GLOBAL.search(raw[:REACH])
    readable = bool(plain_names and own and failing and groups[0] is failing[0] and final and final == failed[0])
    return DeliveryReport(
        message_id=named,
        failed=tuple(address for address in failed if address),
        notice="" if failing or not notices else min(notices),
        readable=readable,
    )


def _plain(parsed: Parsed, form: Callable[[Parsed, str], tuple[list[str], str]]) -> DeliveryReport | None:
    """A report that is plain text, in one of the forms below."""
    if parsed.get_content_maintype() != "text":
        return None
    content = parsed.get_payload(decode=True)
    if not isinstance(content, bytes):
        return None
    text = content.decode("utf-8", "replace").replace("\r\n", "\n")
    failed, original = form(parsed, text)
    identity = next(_ids(message.message_id(original.lstrip("\n").encode())), "")
    if not failed or not identity:
        return None
    return DeliveryReport(identity, tuple(dict.fromkeys(failed)), notice="", readable=False)


def _exim(parsed: Parsed, text: str) -> tuple[list[str], str]:
    """Recipients, and the mail."""
    parted = _EXIM_BREAK.split(text, maxsplit=1)
    failed = _ADDRESS.findall(str(parsed["X-Failed-Recipients"] or ""))
    return (failed, parted[1]) if len(parted) == 2 else ([], "")


def _qmail(_: Parsed, text: str) -> tuple[list[str], str]:
    """Recipients, and the mail."""
    parted = _QSBMF_BREAK.split(text, maxsplit=1)
    if len(parted) != 2:
        return [], ""
    recipients = [_QSBMF_RECIPIENT.match(paragraph.lstrip("\n")) for paragraph in parted[0].split("\n\n")]
    return [found[1] for found in recipients if found], parted[1].partition("\n\n")[2]


def _original(parsed: Parsed) -> str:
    """The Message-ID of the mail in the report, where Odoo looks for it."""
    for part in parsed.walk():
        payload = part.get_payload()
        match part.get_content_type():
            case "message/rfc822" if isinstance(payload, list) and payload and isinstance(payload[0], Parsed):
                return next(_ids(payload[0]["Message-ID"]), "")
            case "text/rfc822-headers" if isinstance(payload, str):
                return next(_ids(message.message_id(payload.lstrip("\r\n").encode("utf-8", "replace"))), "")
    return ""


def _recipient(group: Parsed) -> str:
    """The address of a group; the one that was written to, where the last server knows it under another."""
    for name in ("Original-Recipient", "Final-Recipient"):
        found = _ADDRESS.search(str(group[name] or "").partition(";")[2] or str(group[name] or ""))
        if found:
            return str(found.group())
    return ""


def _ids(value: object) -> Iterator[str]:
    for found in re.finditer(r"<[^<>\s]+>", str(value or "")):
        yield found.group()


def _word(value: object) -> str:
    found = re.search(r"[a-z]+", str(value or "").lower())
    return found.group() if found else ""
