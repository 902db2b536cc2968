"""What can go wrong, by what has to happen next. The text of each is one line: where, what, what to do."""

from typing import ClassVar


class Trouble(Exception):
    """Base of all; `exit_code` is what the program ends with (sysexits.h)."""

    exit_code: ClassVar[int] = 70


class NotFound(Trouble):
    """What a person asked for is not there."""

    exit_code = 1


class Unavailable(Trouble):
    """A server is away or busy: mail waits and the next run tries again (EX_TEMPFAIL)."""

    exit_code = 75

    def __init__(self, text: str, retry_after: int = 0) -> None:
        """Say what is away; `retry_after`: seconds that the server asks us to wait, 0 when it does not say."""
        super().__init__(text)
        self.retry_after = retry_after


class Denied(Trouble):
    """A server refuses us whatever the message: a person has to act, mail waits (EX_NOPERM)."""

    exit_code = 77


class LoginRefused(Denied):
    """A server does not take the login; a new access token may help where one is used."""


class Misconfigured(Trouble):
    """The configuration or a secret is wrong or missing (EX_CONFIG)."""

    exit_code = 78


def one_line(text: object) -> str:
    """Text of an error or an answer on one line, without control characters and not endless (at most 300)."""
    words = "".join(character if character.isprintable() else " " for character in str(text)).split()
    line = " ".join(words)
    return line if len(line) <= 300 else line[:297] + "..."
