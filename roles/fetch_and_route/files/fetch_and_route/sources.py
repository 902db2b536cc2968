"""Which kind of session a mailbox needs, and how it logs in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from . import config as configuration
from .config import Config, Mailbox
from .mailbox import ImapMailbox
from .maildrop import Pop3Mailbox
from .oauth import Tokens
from .originals import Originals
from .pop3 import Pop3
from .routing import Entry, Listed
from .trouble import LoginRefused

Session = TypeVar("Session")


class Source(Protocol):
    """A session with a mailbox; see mailbox.ImapMailbox and maildrop.Pop3Mailbox."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    @property
    def count(self) -> int: ...
    @property
    def can_move(self) -> bool: ...
    def index(self) -> Iterable[Entry]: ...
    def fetch(self, uids: Sequence[int], *, header_only: bool = False) -> dict[int, bytes]: ...
    def move(self, uids: Sequence[int], folder: str) -> None: ...
    def remove(self, uids: Sequence[int]) -> None: ...
    def make(self, folder: str) -> bool: ...
    def waiting_since(self) -> tuple[int, int | None]: ...
    def size_of(self, folder: str) -> int: ...
    def message_ids(self, folder: str) -> list[str]: ...
    def search(self, folder: str, message_id: str) -> list[str]: ...
    def opened(self, folder: str, *, writable: bool = False) -> AbstractContextManager[list[Listed]]: ...


def queue_for(mailbox: Mailbox, config: Config, config_path: Path) -> Source:
    """Open a session with a mailbox. Raises Unavailable, Denied and Misconfigured."""
    state_directory = Path(config.state_directory)
    tokens = None
    if mailbox.oauth:
        tokens = Tokens(mailbox, mailbox.oauth, state_directory, partial(configuration.secret, config_path=config_path))
    password = "" if tokens else configuration.secret(mailbox.password, config_path)

    def logged_in(session: Callable[[Mailbox, str], Session]) -> Session:
        return with_token(tokens, partial(session, mailbox)) if tokens else session(mailbox, password)

    if mailbox.protocol == "imap":
        return logged_in(ImapMailbox)
    return Pop3Mailbox(mailbox, lambda: logged_in(Pop3), Originals(state_directory, mailbox.name))


def with_token(tokens: Tokens, log_in: Callable[[str], Session]) -> Session:
    """Log in by access token; one that was kept and is refused is replaced once, on a new connection.

    A token may end before its time: revoked, or its clock is not ours. Raises what `log_in` and `tokens` raise.
    """
    token = tokens.token()
    try:
        return log_in(token)
    except LoginRefused:
        if tokens.asked:
            raise
    return log_in(tokens.token(refused=token))
