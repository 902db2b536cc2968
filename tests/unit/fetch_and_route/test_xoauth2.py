"""What is said to log in by access token."""

from __future__ import annotations

from fetch_and_route.config import Mailbox, OAuth
from fetch_and_route.xoauth2 import answers, remedy


def mailbox(oauth: OAuth | None) -> Mailbox:
    return Mailbox(name="prod", database="prod", host="h", login="info@example.com", password="p", oauth=oauth)


def test_the_token_is_said_once_and_a_challenge_gets_an_empty_line() -> None:
    assert list(answers("info@example.com", "abc")) == [b"user=info@example.com\1auth=Bearer abc\1\1", b""]


def test_the_remedy_names_what_to_look_at() -> None:
    granted = OAuth(token_url="t", client_id="c", refresh_token="granted")
    own = OAuth(token_url="t", client_id="c", client_secret="s", grant="client_credentials")
    assert "the secret 'p'" in remedy(mailbox(None))
    assert "authorise again: 'granted'" in remedy(mailbox(granted))
    assert "allow the client c to open the mailbox of 'info@example.com'" in remedy(mailbox(own))
