"""IMAP (RFC 3501 with UIDPLUS, MOVE, RFC 6851): the mailbox that is the queue.

Certificates are always verified, and nothing that was said before TLS is believed (RFC 3501, section 6.2.1). Nothing is
ever marked \\Seen: bodies are read by BODY.PEEK. Commands go in batches.
UIDs are used only within one session, in which they cannot change (RFC 3501, section 2.3.1.1).
"""

from __future__ import annotations

import binascii
import imaplib
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from . import message, tls, xoauth2
from .config import Mailbox
from .idle import IdleConnection, keep_alive
from .routing import Entry, Listed, key_of
from .trouble import Denied, LoginRefused, Misconfigured, Unavailable, one_line

WINDOW = 500
"""Messages asked about in one FETCH while looking what is there."""
TRIES = 10
"""How often a command is given that other sessions spoil by taking messages away."""
SET_LENGTH = 4000
"""Characters of a UID set in one command; RFC 7162 section 4 lets servers stop at 8192 for a whole line."""

_UID = re.compile(rb"\bUID (\d+)")
_SIZE = re.compile(rb"\bRFC822\.SIZE (\d+)")


class Fetched(NamedTuple):
    """One message of a FETCH answer; `size` is 0 and `content` empty when they were not asked for."""

    uid: int
    size: int
    content: bytes


class Inbox(NamedTuple):
    """What the inbox holds now: how many messages, and a number that differs once another one has come."""

    waiting: int
    mark: int


class _Connection(IdleConnection):
    """A connection to an address that may differ from the name in the certificate; TLS before any login."""

    def __init__(self, config: Mailbox, context: ssl.SSLContext) -> None:
        self._config = config
        self._context = context
        super().__init__(config.host, config.port, timeout=config.timeout)
        if config.tls == "starttls":
            try:
                self._start_tls()
            except BaseException:
                with suppress(OSError):
                    self.shutdown()
                raise

    def _create_socket(self, timeout: float | None) -> socket.socket:
        plain = socket.create_connection((self._config.address or self._config.host, self.port), timeout)
        keep_alive(plain)
        return plain if self._config.tls == "starttls" else tls.wrap(plain, self._context, self.host)

    def _start_tls(self) -> None:
        """Upgrade. What came in clear text is forgotten: what is buffered, what is parsed, what the server can."""
        if self.state != "NONAUTH":  # a greeting of PREAUTH leaves no way to TLS: RFC 9051, section 7.1.4
            raise tls.Missing("logs us in before TLS")
        if "STARTTLS" not in self.capabilities:
            raise tls.Missing("offers no STARTTLS")
        self.starttls(self._context)  # reads on with an empty buffer, and asks for the capabilities

    def capability(self) -> tuple[str, list[Any]]:
        """Ask what the server can; what it said unasked, before TLS perhaps, is no answer."""
        self.untagged_responses.clear()
        return super().capability()


class _NoSuchFolder(Exception):
    """The target of a move does not exist (RFC 3501, response code TRYCREATE)."""


class ImapMailbox:
    """A session with one mailbox's inbox selected. Every method raises Unavailable or Denied."""

    def __init__(self, config: Mailbox, password: str) -> None:
        """Connect, log in (by password, or by access token where `auth` says so) and select the inbox.

        Raises LoginRefused and Misconfigured, too.
        """
        self._config = config
        self._where = f"mailbox {config.name} at {config.host}:{config.port}"
        context = tls.context(config.ca_file)
        with self._explained("connecting"):
            self._imap = _Connection(config, context)
        try:
            self._log_in(password)
            # Servers say more once they know us (RFC 3501, section 6.1.1); imaplib asks only before.
            answer = self._command("asking what it can", self._imap.capability)
            self._capabilities = set(answer[-1].decode("ascii", "replace").upper().split())
            self._count = self._select(config.inbox)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Use the session in a `with`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the session."""
        self.close()

    def close(self) -> None:
        """End the session; never raises. No CLOSE before it, which would expunge what people marked as deleted."""
        try:
            self._imap.logout()
        except (imaplib.IMAP4.error, OSError):
            self._imap.shutdown()

    @property
    def count(self) -> int:
        """How many messages waited when the session began, copies counted."""
        return self._count

    @property
    def can_move(self) -> bool:
        """Whether the server can take messages out of the inbox without touching others."""
        return bool({"MOVE", "UIDPLUS"} & self._capabilities)

    @property
    def can_idle(self) -> bool:
        """Whether the server can tell of new mail (RFC 2177)."""
        return "IDLE" in self._capabilities

    def look_again(self) -> Inbox:
        """Count anew what waits. The mark is UIDNEXT, or the count where a server does not tell that."""
        self._count = self._select(self._config.inbox)
        _, told = self._imap.response("UIDNEXT")
        return Inbox(self._count, int(told[-1] or 0) or self._count)

    def wait_for_news(self, seconds: float, stop: int) -> bool:
        """Wait until new mail may have come, at most so long or until the descriptor `stop` is readable.

        Look again before and after: this answers only for the time in between. Returns whether mail may have come.
        """
        with self._explained("waiting for new mail"):
            return self._imap.wait_for_news(seconds, stop)

    def index(self) -> Iterator[Entry]:
        """What waits: UID, size, the keys of its Message-ID and of those it answers. No other command meanwhile."""
        for uid, size, identity, answered in self._scan(self._count):
            yield Entry(uid, size, key_of(identity), tuple(map(key_of, answered)))

    def fetch(self, uids: Sequence[int], *, header_only: bool = False) -> dict[int, bytes]:
        """The bytes (or only headers) of messages by UID; those that are gone meanwhile are left out."""
        what = "(UID BODY.PEEK[HEADER])" if header_only else "(UID BODY.PEEK[])"
        found: dict[int, bytes] = {}
        for uid_set in uid_sets(uids):
            answer = self._fetch("reading messages", self._imap.uid, "FETCH", uid_set, what)
            found.update((fetched.uid, fetched.content) for fetched in parse_fetch(answer))
        return {uid: found[uid] for uid in uids if uid in found}

    def move(self, uids: Sequence[int], folder: str) -> None:
        """Move messages to a folder, made when it is missing. Messages that are gone meanwhile do not matter."""
        for uid_set in uid_sets(uids):
            try:
                self._move(uid_set, folder)
            except _NoSuchFolder:
                self._make(folder)
                self._move(uid_set, folder)

    def waiting_since(self) -> tuple[int, int | None]:
        """How many messages wait by now, and when the oldest of them came (Unix time; None when none waits)."""
        self._count = self._select(self._config.inbox)
        if not self._count:
            return 0, None
        answer = self._command("looking what is there", self._imap.fetch, "1", "(INTERNALDATE)")
        dates = [imaplib.Internaldate2tuple(item) for item in answer if isinstance(item, bytes)]
        return self._count, next((int(time.mktime(date)) for date in dates if date), None)

    def size_of(self, folder: str) -> int:
        """How many messages a folder holds; 0 when there is no such folder."""
        with self._explained(f"looking at {folder}"):
            answer, data = self._imap.status(_quoted(folder), "(MESSAGES)")
            counted = re.search(rb"MESSAGES (\d+)", data[0] or b"") if answer == "OK" else None
        return int(counted.group(1)) if counted else 0

    def message_ids(self, folder: str) -> list[str]:
        """The Message-IDs in another folder, oldest first. The inbox is selected again afterwards."""
        with self.opened(folder) as listed:
            return [identity for _, identity in listed]

    def search(self, folder: str, message_id: str) -> list[str]:
        """The Message-IDs in a folder that hold this text, in any case; the inbox is selected again afterwards.

        The server looks in its index, so that this is quick in a large folder. Nothing is found where it will not, and
        of what has no Message-ID or an odd one.
        """
        if not (message_id.isascii() and message_id.isprintable() and self.size_of(folder)):
            return []
        self._select(folder, readonly=True)
        uids: list[int] = []
        with suppress(_Refused):
            arguments = ("SEARCH", "HEADER", "Message-ID", _quoted(message_id))
            for item in self._command("searching", self._imap.uid, *arguments):
                uids += map(int, (item or b"").split())
        found = [message.message_id(header) for header in self.fetch(uids, header_only=True).values()]
        self._count = self._select(self._config.inbox)
        return found

    @contextmanager
    def opened(self, folder: str, *, writable: bool = False) -> Iterator[list[Listed]]:
        """Open a folder for a while: fetch, move and remove act on it. Yields what is in it, nothing if it is missing.

        What has no Message-ID comes last. The inbox is selected again afterwards.
        """
        if not self.size_of(folder):
            yield []
            return
        count = self._select(folder, readonly=not writable)
        yield [Listed(uid, identity) for uid, _, identity, _ in self._scan(count)]
        self._count = self._select(self._config.inbox)

    def remove(self, uids: Sequence[int]) -> None:
        """Remove messages for good; messages that are gone meanwhile do not matter."""
        if uids and "UIDPLUS" not in self._capabilities:
            raise Denied(
                f"{self._where}: removing messages: the server has no UIDPLUS: remove them with a mail program"
            )
        for uid_set in uid_sets(uids):
            self._remove(uid_set, "removing messages")

    def make(self, folder: str) -> bool:
        """Make sure that there is such a folder; returns whether it had to be made."""
        with self._explained(f"looking at {folder}"):
            answer, _ = self._imap.status(_quoted(folder), "(MESSAGES)")
        if answer != "OK":
            self._make(folder)
        return answer != "OK"

    def _scan(self, count: int) -> Iterator[tuple[int, int, str, list[str]]]:
        """UID, size, Message-ID and references of the selected folder's `count` messages, those without an id last.

        Sequence numbers hold while only FETCH is asked (RFC 3501, section 7.4.1), so windows of them miss nothing.
        """
        nameless: list[Fetched] = []
        for first in range(1, count + 1, WINDOW):
            window = f"{first}:{min(first + WINDOW - 1, count)}"
            what = "(UID RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID REFERENCES IN-REPLY-TO)])"
            for fetched in parse_fetch(self._fetch("looking what is there", self._imap.fetch, window, what)):
                identity = message.message_id(fetched.content)
                if identity:
                    yield fetched.uid, fetched.size, identity, message.references(fetched.content)
                else:
                    nameless.append(fetched)
        for fetched in nameless:
            for uid, content in self.fetch([fetched.uid]).items():
                identity = message.message_id(content) or message.made_message_id(content)
                yield uid, fetched.size, identity, message.references(content)

    def _log_in(self, password: str) -> None:
        login = self._config.login
        try:
            with self._explained("logging in"):
                if self._config.auth == "oauth2":
                    if "AUTH=XOAUTH2" not in self._imap.capabilities:
                        raise Denied(f"{self._where}: logging in: the server takes no XOAUTH2: use a password")
                    answers = xoauth2.answers(login, password)
                    self._imap.authenticate("XOAUTH2", lambda _: next(answers, None))
                elif "AUTH=PLAIN" in self._imap.capabilities:  # takes any character, LOGIN only ASCII
                    self._imap.authenticate("PLAIN", lambda _: f"\0{login}\0{password}".encode())
                elif password.isascii() and login.isascii():
                    self._imap.login(login, password)
                else:
                    raise Misconfigured(f"{self._where}: logging in: the server takes only ASCII: change the password")
        except _Refused as error:
            if re.search(r"\[(UNAVAILABLE|INUSE|LIMIT|SERVERBUG|CONTACTADMIN)\]", str(error)):  # RFC 5530
                raise Unavailable(str(error)) from error
            raise LoginRefused(f"{error}: {xoauth2.remedy(self._config)}") from error

    def _select(self, folder: str, *, readonly: bool = False) -> int:
        answer = self._command(f"opening {folder}", self._imap.select, _quoted(folder), readonly)
        return int(answer[0] or 0)

    def _make(self, folder: str) -> None:
        self._command(f"making folder {folder}", self._imap.create, _quoted(folder))
        self._command(f"subscribing to {folder}", self._imap.subscribe, _quoted(folder))

    def _move(self, uid_set: str, folder: str) -> None:
        doing = f"moving messages to {folder}"
        if "MOVE" in self._capabilities:
            self._act(doing, "MOVE", uid_set, _quoted(folder))
            return
        if "UIDPLUS" not in self._capabilities:
            raise Denied(f"{self._where}: {doing}: the server has neither MOVE nor UIDPLUS: use another server")
        self._act(doing, "COPY", uid_set, _quoted(folder))
        self._remove(uid_set, doing)

    def _remove(self, uid_set: str, doing: str) -> None:
        self._act(doing, "STORE", uid_set, "+FLAGS.SILENT", r"(\Deleted)")
        self._act(doing, "EXPUNGE", uid_set)

    def _fetch(self, doing: str, method: Callable[..., tuple[str, list[Any]]], *arguments: object) -> list[Any]:
        """Ask for messages; those that another session has taken away meanwhile are left out."""
        try:
            return self._command(doing, method, *arguments)
        except _Gone:
            return self._imap.response("FETCH")[1]  # the others were told before the server said no

    def _act(self, doing: str, *arguments: object) -> None:
        """Give a UID command; those that another session has taken away meanwhile are no matter."""
        for number in range(TRIES):
            try:
                self._command(doing, self._imap.uid, *arguments)
                return
            except _Gone:
                if number + 1 == TRIES:
                    raise
                self._command(doing, self._imap.noop)  # now the server tells which, and passes over them

    def _command(self, doing: str, method: Callable[..., tuple[str, list[Any]]], *arguments: object) -> list[Any]:
        """Give one command; returns the data of its answer. Raises Unavailable and _NoSuchFolder."""
        with self._explained(doing):
            answer, data = method(*arguments)
            if answer == "OK":
                return data
            text = b" ".join(item for item in data if isinstance(item, bytes)).decode(errors="replace")
            if "[TRYCREATE]" in text:
                raise _NoSuchFolder
            raise imaplib.IMAP4.error(text)

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Say in one line where and at what something failed."""
        where = f"{self._where}: {doing}"
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise Denied(
                f"{where}: its certificate is not trusted: {error.verify_message}: trust its authority or mend the name"
            ) from error
        except tls.Missing as error:
            raise Denied(f'{where}: the server {error}: use tls = "on_connect" or another server') from error
        except (imaplib.IMAP4.abort, EOFError, binascii.Error) as error:
            raise Unavailable(f"{where}: the connection broke: {one_line(error)}: the next run tries again") from error
        except OSError as error:
            raise Unavailable(f"{where}: {one_line(error.strerror or error)}: the next run tries again") from error
        except imaplib.IMAP4.error as error:
            said = error.args[0] if error.args else ""
            if said is None:  # imaplib's word for a greeting that is none
                raise Unavailable(f"{where}: what it says is not IMAP: check host, port and protocol") from error
            text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
            kind = _Gone if "[EXPUNGEISSUED]" in text else _Refused
            raise kind(f"{where}: the server says no: {one_line(text)}") from error


class _Refused(Unavailable):
    """The server answered NO or BAD."""


class _Gone(_Refused):
    """Another session has taken away some of the messages that the command names (RFC 5530, section 3)."""


def parse_fetch(answer: Iterable[object]) -> Iterator[Fetched]:
    """Read imaplib's answer to a FETCH: pairs of text and literal, and texts that end a message.

    Answers without a UID (flags that somebody else changed) are passed over.
    """
    text, content = b"", b""
    for item in answer:
        if isinstance(item, tuple):
            text, content = text + item[0], item[1]
            continue
        text += item if isinstance(item, bytes) else b""
        uid, size = _UID.search(text), _SIZE.search(text)
        if uid:
            yield Fetched(int(uid.group(1)), int(size.group(1)) if size else 0, content)
        text, content = b"", b""


def uid_sets(uids: Iterable[int]) -> Iterator[str]:
    """Write UIDs as IMAP sets (`1:3,7`), each at most SET_LENGTH characters or a little more."""
    ranges: list[list[int]] = []
    for uid in sorted(set(uids)):
        if ranges and ranges[-1][1] == uid - 1:
            ranges[-1][1] = uid
        else:
            ranges.append([uid, uid])
    line = ""
    for first, last in ranges:
        if len(line) >= SET_LENGTH:
            yield line
            line = ""
        line += ("," if line else "") + (f"{first}" if first == last else f"{first}:{last}")
    if line:
        yield line


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
