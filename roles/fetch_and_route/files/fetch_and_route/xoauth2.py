"""SASL XOAUTH2, the way Google and Microsoft 365 take an access token over IMAP and POP3.

Pure. Sources: Google, "OAuth 2.0 Mechanism" for Gmail; Microsoft, "Authenticate an IMAP, POP or SMTP connection using
OAuth". Dovecot takes it, too.
"""

from __future__ import annotations

from collections.abc import Iterator

from .config import Mailbox


def answers(login: str, token: str) -> Iterator[bytes]:
    """What the client says: the token, then nothing to the challenge with the reason by which a server refuses it.

    The server says NO only after that empty line.
    """
    yield f"user={login}\1auth=Bearer {token}\1\1".encode()
    yield b""


def remedy(mailbox: Mailbox) -> str:
    """What a person has to do about a login that is refused."""
    if mailbox.oauth is None:
        return f"check the login {mailbox.login!r} and the secret {mailbox.password!r}"
    if mailbox.oauth.grant == "client_credentials":
        return (
            f"allow the client {mailbox.oauth.client_id} to open the mailbox of {mailbox.login!r}, and check the scope"
        )
    return f"check the login {mailbox.login!r} and the scope, and authorise again: {mailbox.oauth.refresh_token!r}"
