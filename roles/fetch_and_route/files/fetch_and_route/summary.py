"""One mail a day to the postmaster about what is in quarantine, and only when something new is.

It goes to the configured address and nobody else: a stranger is never answered. Its envelope sender is empty, so that
nothing answers it either, and a failure to deliver it comes back to nobody (RFC 3834, section 3.3; RFC 5321, 4.5.5).
"""

from __future__ import annotations

import json
import smtplib
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from . import durable, tables
from .config import Config, Mailbox
from .state import State
from .trouble import Misconfigured, Unavailable, one_line

DAY = 24 * 3600
"""Seconds between two summaries, at least."""
MOST = 100
"""Messages that one summary lists."""
SENT = ".summary.json"
"""In the state directory: when each mailbox was last told of (Unix time)."""
TIMEOUT = 30
"""Seconds to wait for the SMTP server at any one moment."""


class Item(NamedTuple):
    """A message in quarantine; `at` is the Unix time of its note, 0 when there is none."""

    mailbox: str
    message_id: str
    recipients: tuple[str, ...]
    reason: str
    at: int


class Session(Protocol):
    """The part of a mailbox session that is asked; see sources.Source."""

    def message_ids(self, folder: str) -> list[str]: ...


Open = Callable[[Mailbox], AbstractContextManager[Session]]
"""Logs in to a mailbox. Raises Trouble."""


def tell(config: Config, open_mailbox: Open, served: Collection[str], now: int) -> bool:
    """Send a summary, if one is due and something is new; returns whether it was sent. Raises Trouble.

    Only mailboxes that were served just now are looked at; the others are told of when they answer again.
    """
    path = Path(config.state_directory) / SENT
    sent = _load(path)
    if now - max(sent.values(), default=0) < DAY:
        return False
    states = {box.name: State(Path(config.state_directory), box.name) for box in config.mailboxes if box.name in served}
    if not any(state.newest > sent.get(name, 0) for name, state in states.items()):
        return False
    items = []
    for mailbox in config.mailboxes:
        if mailbox.name in states:
            with open_mailbox(mailbox) as session:
                listed = session.message_ids(mailbox.quarantine)
            items += [_item(mailbox.name, identity, states[mailbox.name]) for identity in dict.fromkeys(listed)]
    if not any(_is_new(item, sent) for item in items):
        return False
    durable.replace(path, json.dumps(sent).encode())  # what cannot be noted would be sent again by every run
    send(compose(items, sent, config.summary_to, socket.getfqdn()), config.summary_smtp, config.summary_to)
    durable.replace(path, json.dumps({**sent, **dict.fromkeys(states, now)}).encode())
    return True


def compose(items: Sequence[Item], sent: Mapping[str, int], to: str, host: str) -> EmailMessage:
    """The summary of these messages, newest first; those noted after `sent`, by mailbox, are called new."""
    new = sum(_is_new(item, sent) for item in items)
    mail = EmailMessage()
    mail["From"] = f"fetch-and-route <postmaster@{host}>"
    mail["To"] = to
    mail["Subject"] = f"{len(items)} in quarantine, {new} new"
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain=host)
    mail["Auto-Submitted"] = "auto-generated"
    lines = [
        f"Odoo refused these messages or failed on them too often. They wait in quarantine on {host} for a person."
    ]
    newest = sorted(items, key=lambda item: -item.at)
    for item in newest[:MOST]:
        head = f"{'NEW  ' if _is_new(item, sent) else ''}{tables.when(item.at or None)}  mailbox {item.mailbox}"
        lines += ["", head, f"  {tables.safe(item.message_id)}"]
        lines += [f"  to {tables.safe(', '.join(item.recipients))}"] if item.recipients else []
        lines += [f"  {tables.safe(item.reason) or 'no reason is noted'}"]
    if len(items) > MOST:
        lines += ["", f"... and {len(items) - MOST} more: fetch-and-route quarantine list"]
    lines += [
        "",
        "On the mail host, as root:",
        "  fetch-and-route quarantine show MESSAGE-ID    to look at one",
        "  fetch-and-route quarantine retry MESSAGE-ID   to hand it to Odoo again, once what was wrong is mended",
        "  fetch-and-route quarantine drop MESSAGE-ID    to remove it for good",
    ]
    mail.set_content("\n".join(lines) + "\n", cte="quoted-printable")
    return mail


def send(mail: EmailMessage, server: str, to: str) -> None:
    """Hand a mail to an SMTP server (`host:port`). Raises Unavailable."""
    parts = urlsplit(f"//{server}")
    try:
        # Its own idea of our name would be looked up in DNS.
        with smtplib.SMTP(parts.hostname or "", parts.port or 25, socket.gethostname(), TIMEOUT) as smtp:
            smtp.send_message(mail, from_addr="", to_addrs=[to])
    except OSError as error:  # smtplib.SMTPException is one, too
        text = one_line(error) or type(error).__name__
        raise Unavailable(f"summary for {to} by {server}: {text}: the next run tries again") from error


def _item(mailbox: str, identity: str, state: State) -> Item:
    note = state[identity]
    return (
        Item(mailbox, identity, note.recipients, note.reason, note.at) if note else Item(mailbox, identity, (), "", 0)
    )


def _is_new(item: Item, sent: Mapping[str, int]) -> bool:
    return item.at > sent.get(item.mailbox, 0)


def _load(path: Path) -> dict[str, int]:
    """When each mailbox was last told of; never, if the file is missing or no good. Raises Misconfigured."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {name: int(at) for name, at in table.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}: run this as root") from error
    except (ValueError, TypeError, AttributeError):
        return {}
