"""Delivery reports as mail servers write them, each about a mail that is given by its Message-ID and recipient.

Shape after what these servers send (RFC 3464, RFC 6533, https://cr.yp.to/proto/qsbmf.txt, the programs' own sources);
names, addresses and wording are ours.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable

ORIGINAL = """\
Received: from mail.example.com (mail.example.com [192.0.2.25])
\tby mx.customer.example with ESMTPS id 4ABC; Mon, 2 Nov 2026 10:00:00 +0000
From: "Sales" <sales@example.com>
To: {recipient}
Subject: Re: Ten chairs
Message-ID: {message_id}
Date: Mon, 2 Nov 2026 10:00:00 +0000
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8

You shall have them.
"""

STATUS = """\
Reporting-MTA: dns; mx.customer.example
Arrival-Date: Mon, 2 Nov 2026 10:00:00 +0000

Final-Recipient: rfc822; {recipient}
Action: failed
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 no such user
"""


def _dedent(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


def _parts(head: str, *parts: tuple[str, str]) -> str:
    """A multipart/report: its header, then parts as (Content-Type and more, content)."""
    shown = "".join(f"--=_report_1\n{kind}\n\n{content}\n" for kind, content in parts)
    kind = 'Content-Type: multipart/report; report-type=delivery-status;\n\tboundary="=_report_1"'
    return (
        f"{_dedent(head)}MIME-Version: 1.0\n{kind}\n\nThis is a MIME-encapsulated message.\n\n{shown}--=_report_1--\n"
    )


def postfix(status: str = STATUS) -> str:
    head = """
        From: MAILER-DAEMON@mx.customer.example (Mail Delivery System)
        Subject: Undelivered Mail Returned to Sender
        Auto-Submitted: auto-replied
        """
    return _parts(
        head,
        ("Content-Description: Notification\nContent-Type: text/plain; charset=us-ascii", "I'm sorry to say.\n"),
        ("Content-Description: Delivery report\nContent-Type: message/delivery-status", status),
        ("Content-Description: Undelivered Message\nContent-Type: message/rfc822", ORIGINAL),
    )


def postfix_headers() -> str:
    return postfix().replace("message/rfc822", "text/rfc822-headers").replace("\nYou shall have them.\n", "")


def postfix_utf8() -> str:
    made = postfix().replace("message/delivery-status", "message/global-delivery-status")
    made = made.replace("message/rfc822", "message/global\nContent-Transfer-Encoding: 8bit").replace("chairs", "Stühle")
    return made.replace("Final-Recipient: rfc822;", "Final-Recipient: utf-8;")


def sendmail() -> str:
    head = """
        From: Mail Delivery Subsystem <MAILER-DAEMON@mx.customer.example>
        Subject: Returned mail: see transcript for details
        Auto-Submitted: auto-generated (failure)
        """
    transcript = "   ----- The following addresses had permanent fatal errors -----\n<{recipient}>\n"
    status = STATUS.replace("Final-Recipient: rfc822; ", "Final-Recipient: RFC822; ") + "Last-Attempt-Date: now\n"
    headers = ORIGINAL.partition("\n\n")[0] + "\n"
    return _parts(
        head,
        ("Content-Type: text/plain", transcript),
        ("Content-Type: message/delivery-status", status),
        ("Content-Type: text/rfc822-headers", headers),
    )


def exim() -> str:
    head = """
        X-Failed-Recipients: {recipient}
        Auto-Submitted: auto-replied
        From: Mail Delivery System <Mailer-Daemon@mx.customer.example>
        Subject: Mail delivery failed: returning message to sender
        """
    status = STATUS.replace("Arrival-Date: Mon, 2 Nov 2026 10:00:00 +0000\n", "")
    status = status.replace("Final-Recipient: rfc822; {recipient}\nAction: failed", _swapped())
    return _parts(
        head,
        ("Content-type: text/plain; charset=us-ascii", "This message was created automatically.\n"),
        ("Content-type: message/delivery-status", status),
        ("Content-type: message/rfc822", "Return-path: <bounce@example.com>\n" + ORIGINAL),
    )


def _swapped() -> str:
    return "Action: failed\nFinal-Recipient: rfc822;{recipient}"


def exim_before_4_85() -> str:
    return (
        _dedent("""
        X-Failed-Recipients: {recipient}
        Auto-Submitted: auto-replied
        From: Mail Delivery System <Mailer-Daemon@mx.customer.example>
        Subject: Mail delivery failed: returning message to sender

        This message was created automatically by mail delivery software.

        The following address(es) failed:

          {recipient}
            no such user

        ------ This is a copy of the message, including all the headers. ------

        Return-path: <bounce@example.com>
        """)
        + ORIGINAL
    )


def exchange() -> str:
    head = """
        From: <postmaster@customer.example>
        Subject: Undeliverable: Re: Ten chairs
        Auto-Submitted: auto-replied
        Content-Language: en-US
        X-MS-Exchange-Message-Is-Ndr:
        In-Reply-To: {message_id}
        References: {message_id}
        """
    html = "<html><body><p>Your message to {recipient} could not be delivered.</p></body></html>"
    inner = f"--=_inner_2\nContent-Type: text/plain\n\nNot delivered.\n--=_inner_2\nContent-Type: text/html\n\n{html}\n"
    status = STATUS.replace("Final-Recipient: rfc822; ", "Final-Recipient: rfc822;") + "Remote-MTA: dns;mx.example\n"
    return _parts(
        head,
        (
            'Content-Type: multipart/alternative; differences=Content-Type;\n\tboundary="=_inner_2"',
            inner + "--=_inner_2--",
        ),
        ("Content-Type: message/delivery-status", status),
        ("Content-Type: message/rfc822", ORIGINAL),
    )


def gmail() -> str:
    head = """
        From: Mail Delivery Subsystem <mailer-daemon@mail.example.net>
        Auto-Submitted: auto-replied
        Subject: Delivery Status Notification (Failure)
        References: {message_id}
        In-Reply-To: {message_id}
        X-Failed-Recipients: {recipient}
        """
    status = STATUS.replace("Arrival-Date", "X-Original-Message-ID: {message_id}\nArrival-Date")
    return _parts(
        head,
        ('Content-Type: text/plain; charset="UTF-8"', "** Address not found **\n"),
        ("Content-Type: message/delivery-status", status),
        ("Content-Type: message/rfc822", ORIGINAL),
    )


def without_the_mail() -> str:
    """Only the report's own header and the status name the mail."""
    return gmail().replace(ORIGINAL, "").replace("Content-Type: message/rfc822", "Content-Type: text/plain")


def qmail() -> str:
    return (
        _dedent("""
        From: MAILER-DAEMON@mx.customer.example
        Subject: failure notice

        Hi. This is the qmail-send program at mx.customer.example.
        I'm afraid I wasn't able to deliver your message to the following addresses.
        This is a permanent error; I've given up. Sorry it didn't work out.

        <{recipient}>:
        Sorry, no mailbox here by that name. (#5.1.1)

        --- Below this line is a copy of the message.

        Return-Path: <bounce@example.com>
        """)
        + ORIGINAL
    )


def qmail_with_other_words() -> str:
    made = qmail().replace("Hi. This is the qmail-send program at mx.customer.example.", "Message from mx.example.net.")
    return made.replace("--- Below this line is a copy of the message.", "--- Original message follows.")


def recipient_without_a_type() -> str:
    return postfix().replace("Final-Recipient: rfc822; ", "Final-Recipient: ")


def no_final_recipient() -> str:
    return postfix().replace("Final-Recipient", "Original-Recipient")


def forwarded() -> str:
    """The last server knows the recipient under another address."""
    return postfix(
        STATUS.replace("rfc822; {recipient}", "rfc822; inner@elsewhere.example\nOriginal-Recipient: rfc822;{recipient}")
    )


def second_recipient_failed() -> str:
    delivered = "Final-Recipient: rfc822; other@customer.example\nAction: delivered\nStatus: 2.0.0\n\n"
    return postfix(STATUS.replace("Final-Recipient", f"{delivered}Final-Recipient"))


def delayed() -> str:
    made = postfix(STATUS.replace("failed", "delayed").replace("5.1.1", "4.4.1"))
    return made.replace("Undelivered Mail Returned to Sender", "Delayed Mail (still being retried)")


def delivered() -> str:
    return postfix(STATUS.replace("failed", "delivered").replace("5.1.1", "2.1.5"))


def relayed() -> str:
    return postfix(STATUS.replace("failed", "relayed (to a server without receipts)").replace("5.1.1", "2.1.9"))


FAILURES: tuple[Callable[[], str], ...] = (
    postfix,
    postfix_headers,
    postfix_utf8,
    sendmail,
    exim,
    exim_before_4_85,
    exchange,
    gmail,
    without_the_mail,
    qmail,
    qmail_with_other_words,
    recipient_without_a_type,
    no_final_recipient,
    forwarded,
    second_recipient_failed,
)
NOTICES: tuple[Callable[[], str], ...] = (delayed, delivered, relayed)


def write(
    form: Callable[[], str], message_id: str, recipient: str, *, own_id: str, to: str = "bounce@example.com"
) -> bytes:
    """A report as it arrives: lines end in CRLF; `own_id` is the report's own Message-ID."""
    text = f"To: {to}\nMessage-ID: {own_id}\nDate: Mon, 2 Nov 2026 10:00:09 +0000\n" + form()
    text = text.replace("{message_id}", message_id).replace("{recipient}", recipient)
    return text.replace("\n", "\r\n").encode()
