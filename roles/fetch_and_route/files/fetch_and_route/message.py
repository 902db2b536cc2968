"""Messages as bytes: find the header exactly as Odoo's parser does, and make what Odoo is to see.

Pure. Odoo reads a message with Python's email package, so a line that email.feedparser takes for a header is one here,
too, whatever RFC 5322 says: lines end at CRLF, LF or a lone CR, and the header ends at the first line that is none.
Odoo routes by `Delivered-To` and answers bounces to `Return-Path`, and trusts both wherever they come from. Only those
that our own servers put on top are true: RFC 5321 section 4.4 has each server prepend its trace fields, so what stands
above the first `Received` was written by the last server, the LMTP service of our Dovecot.
"""

from __future__ import annotations

import dataclasses
import email
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence

_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_HEADER_LINE = re.compile(rb"From |[!-9;-~]*:|[\t ]")  # email.feedparser.headerRE
_EXTENSION = re.compile(r"(?<=[^@+])\+[^@]*(?=@)")
_OURS = (b"delivered-to", b"return-path")
_REFERENCE = re.compile(r"<[^<>]+>")  # odoo/tools/mail.py, mail_header_msgid_re
MOST_LINES = 50_000
"""Lines of a header at most; what a stranger adds is body. A header of 25 MB would take minutes and gigabytes, and
Odoo's parser as much; one recipient a line leaves room for every real mail."""
REACH = 65536
"""Bytes at both ends of a header's value in which references are looked for."""
REPORTS = {
    "disposition-notification": "a read receipt (RFC 8098)",
    "feedback-report": "an abuse report (RFC 5965)",
    "tlsrpt": "a TLS report (RFC 8460)",
}
"""What kinds of multipart/report (RFC 6522) are not for Odoo, which takes each for a bounce of its own mail
(mail.thread._detect_is_bounce). A delivery-status is one."""
_DMARC_SUBJECT = re.compile(rb"report domain:.*submitter:", re.IGNORECASE)  # RFC 7489, section 7.2.1.1
_DMARC_CONTENT = re.compile(
    rb"(?:^|[\r\n])content-type:[ \t\r\n]*"
    rb"(?:application/(?:x-)?(?:gzip|zip|zip-compressed)|(?:application|text)/xml)\b",
    re.IGNORECASE,
)
PARAMETERS = 4096
"""Bytes of a header's value that are looked at for what the message is."""
DMARC_REACH = 65536
"""Bytes of a message among which the Content-Type of a DMARC report's attachment is looked for."""
MOST_REFERENCES = 32
"""So many of a message's references count, as in Odoo 19 (mail.thread.message_route); the first one always does."""


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A header field: its name in lower case and its lines as they are, line ends included."""

    name: bytes
    raw: bytes

    @property
    def value(self) -> bytes:
        """What stands after the colon, unfolded and stripped."""
        return b"".join(self.raw.partition(b":")[2].splitlines()).strip()


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """A message in its parts; joined in this order they are the message."""

    start: bytes
    """An mbox `From ` line or continuation lines of nothing before the first field; mostly empty."""
    fields: tuple[Field, ...]
    rest: memoryview
    """The empty line and the body."""


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A message as Odoo is to see it."""

    message_id: str
    recipients: tuple[str, ...]
    raw: bytes
    thread: int = 0
    """The same for messages of one call whose order matters; 0: it has no such others."""


def split(raw: bytes) -> Message:
    """Take a message apart. Never fails: bytes that are no message are all body, as is what comes after MOST_LINES."""
    start: list[bytes] = []
    fields: list[list[bytes]] = []
    position = 0
    for _ in range(MOST_LINES):
        if position == len(raw):
            break
        line = _line_at(raw, position)
        if not _HEADER_LINE.match(line):
            break
        if line[:1] in b" \t":
            (fields[-1] if fields else start).append(line)
        elif position == 0 and line.startswith(b"From "):
            start.append(line)
        else:
            fields.append([line])
        position += len(line)
    made = tuple(Field(lines[0].partition(b":")[0].lower(), b"".join(lines)) for lines in fields)
    return Message(b"".join(start), made, memoryview(raw)[position:])


def message_id(raw: bytes) -> str:
    """The Message-ID of a message or header block as Odoo reads it; empty when there is none or it says nothing."""
    found = next((field.value for field in split(raw).fields if field.name == b"message-id"), b"")
    return _text(found) if found.strip(b"<> ") else ""


def references(raw: bytes) -> list[str]:
    """The Message-IDs that a message or header block answers (RFC 5322, section 3.6.4): its thread's first, the last.

    At most MOST_REFERENCES, whatever a stranger sends.
    """
    found: list[str] = []
    for name in (b"references", b"in-reply-to"):
        for field in split(raw).fields:
            if field.name == name:
                value = field.value
                ends = value if len(value) <= 2 * REACH else value[:REACH] + value[-REACH:]
                found += _REFERENCE.findall(_text(ends))
    unique = list(dict.fromkeys(found))
    return unique if len(unique) <= MOST_REFERENCES else [unique[0], *unique[1 - MOST_REFERENCES :]]


def report(raw: bytes) -> str:
    """What kind of report for machines this is, which is kept from Odoo; empty for everything else, and if in doubt."""
    fields = split(raw).fields
    kind = next((field.value for field in fields if field.name == b"content-type"), b"")
    if kind[:16].lower() == b"multipart/report":
        parsed = email.message_from_bytes(b"Content-Type: " + b" ".join(kind[:PARAMETERS].split()) + b"\n\n")
        try:
            named = parsed.get_param("report-type")
        except (ValueError, LookupError, TypeError):
            return ""
        return REPORTS.get(named.strip().lower(), "") if isinstance(named, str) else ""
    subject = next((field.value for field in fields if field.name == b"subject"), b"")
    if _DMARC_SUBJECT.match(subject[:PARAMETERS]) and _DMARC_CONTENT.search(raw, 0, DMARC_REACH):
        return "a DMARC report (RFC 7489)"
    return ""


def made_message_id(raw: bytes) -> str:
    """A Message-ID for a message without one: the same for the same mail, another for every other mail.

    Copies of one mail differ only in what our LMTP service put on top, its own `Received` included; the next `Received`
    names the one SMTP transaction that all copies come from, so that equal mails sent twice stay two.
    """
    parts = split(raw)
    digest = hashlib.sha256()
    for field in _below_trace(parts.fields):
        digest.update(field.raw)
    digest.update(parts.rest)
    return f"<{digest.hexdigest()[:40]}@fetch-and-route.invalid>"


def recipients(raw: bytes, former_names: Mapping[str, str], header: str = "") -> list[str]:
    """The recipient that the mailbox's server delivered this copy to, under today's name. Empty if it does not say.

    `former_names` has addresses in lower case; an extension (`name+extension@`) is kept. `header` is the one that a
    provider notes it in, wherever it stands: who forges that could have written to the address as well. `Delivered-To`
    then says nothing, it has the mailbox's own name. Without `header` it is the truth, on top.
    """
    fields = split(raw).fields
    name = header.lower().encode() or b"delivered-to"
    for field in fields if header else _trace(fields):
        if field.name == name:
            address = _text(field.value).removeprefix("<").removesuffix(">").strip()
            return [_today(address, former_names)] if address else []
    return []


def prepare(copies: Sequence[bytes], former_names: Mapping[str, str], header: str = "") -> Prepared:
    """Make the message that Odoo is to see of all copies of one mail (of the others the header is enough).

    Exactly one `Delivered-To` names all our true recipients (none, when no copy says where it was delivered; `header`
    is as in `recipients`), those with an extension without it, too: Odoo knows `sales`, not `sales+spring`, but Odoo 14
    wants its `bounce+12-crm.lead-7`. `Return-Path` is the true one or gone, a missing Message-ID is there; every other
    byte is the first copy's.
    """
    first = copies[0]
    parts = split(first)
    unique: dict[str, str] = {}
    for copy in copies:
        for address in recipients(copy, former_names, header):
            unique.setdefault(address.lower(), address)
    ours = tuple(unique.values())
    head = [field.raw for field in _trace(parts.fields) if field.name == b"return-path"][:1]
    if ours:
        named = dict.fromkeys([*ours, *(_EXTENSION.sub("", address) for address in ours)])
        head.append(b"Delivered-To: " + ", ".join(named).encode() + b"\r\n")
    identity = message_id(first)
    if not identity:
        identity = made_message_id(first)
        head.append(b"Message-ID: " + identity.encode("ascii") + b"\r\n")
    kept = [field.raw for field in parts.fields if field.name not in _OURS]
    if _HEADER_LINE.match(parts.rest):
        kept.append(b"\r\n")  # a header that goes on and on: the rest is body for Odoo, too
    return Prepared(identity, ours, _join([parts.start, *head, *kept, parts.rest]))


def _join(pieces: Sequence[bytes | memoryview]) -> bytes:
    """Put pieces of a message together so that each begins on a line of its own, as it did.

    Where something was taken out, a lone CR could otherwise meet the LF of an empty line and swallow it.
    """
    joined: list[bytes | memoryview] = []
    for piece in filter(len, pieces):
        last = bytes(joined[-1][-1:]) if joined else b"\n"
        if last not in b"\r\n":
            joined.append(b"\r\n")
        elif last == b"\r" and piece[0] == ord("\n"):
            joined.append(b"\n")
        joined.append(piece)
    return b"".join(joined)


def _line_at(raw: bytes, position: int) -> bytes:
    found = _LINE.match(raw, position)
    assert found is not None  # noqa: S101 - the pattern also matches nothing at all
    return found.group()


def _trace(fields: Sequence[Field]) -> Iterator[Field]:
    """The fields above the first `Received`."""
    for field in fields:
        if field.name == b"received":
            return
        yield field


def _below_trace(fields: Sequence[Field]) -> Sequence[Field]:
    """The fields below all that the LMTP delivery put on top: its trace fields and its own `Received`."""
    above = len(list(_trace(fields)))
    by_lmtp = above < len(fields) and b" with LMTP" in fields[above].raw
    return fields[above + by_lmtp :]


def _text(value: bytes) -> str:
    """Bytes of a header as text; what is not printable becomes U+FFFD, as in Python's email package."""
    text = value.decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _today(address: str, former_names: Mapping[str, str]) -> str:
    local, at, domain = address.rpartition("@")
    name, plus, extension = local.partition("+")
    today = former_names.get(f"{name}{at}{domain}".lower())
    if today is None:
        return address
    name, at, domain = today.rpartition("@")
    return f"{name}{plus}{extension}{at}{domain}"
