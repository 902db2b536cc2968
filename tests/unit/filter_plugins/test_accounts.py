"""Accounts: Dovecot can verify what is written, a second run writes the same, nothing breaks out of its line."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_plugins import accounts

# Made by `doveadm pw -s SSHA512 -p secret` of Dovecot 2.3.19: the digest of password and salt, then the salt.
DOVECOTS_OWN = "{SSHA512}CZxCIIvIW0o3hHSjyyaexdwo8hpa/JKtotKtHW+j4fnwtTBH45jlsT5kFVkWq2VfLj1mocBAbX6r6Zb5jZ1TfDyKNu8="


def verifies(scheme_and_hash: str, password: str) -> bool:
    """Dovecot's own check of {SSHA512}, see ssha512_verify in its src/auth/password-scheme.c."""
    scheme, _, encoded = scheme_and_hash.partition("}")
    raw = base64.b64decode(encoded, validate=True)
    return scheme == "{SSHA512" and hashlib.sha512(password.encode() + raw[64:]).digest() == raw[:64]


def test_the_check_used_here_is_dovecots() -> None:
    assert verifies(DOVECOTS_OWN, "secret")
    assert not verifies(DOVECOTS_OWN, "Secret")


@given(password=st.text(min_size=1), name=st.text(min_size=1))
def test_a_hash_verifies_its_password_only(password: str, name: str) -> None:
    made = accounts.password_hash(password, name)
    assert verifies(made, password)
    assert not verifies(made, password + "x")
    assert ":" not in made


def test_a_second_run_makes_the_same_hash_and_another_account_another() -> None:
    assert accounts.password_hash("secret", "prod") == accounts.password_hash("secret", "prod")
    assert accounts.password_hash("secret", "prod") != accounts.password_hash("secret", "test")


def test_the_line_has_the_eight_fields_of_a_passwd_file() -> None:
    fields = accounts.passwd_line("secret", "Prod", "/var/vmail").split(":")
    assert [fields[0], *fields[2:]] == ["prod", "", "", "", "/var/vmail/Prod", "", ""]
    assert verifies(fields[1], "secret")


def test_an_empty_password_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^mailbox prod: its password is empty"):
        accounts.passwd_line("", "prod", "/var/vmail")


def test_each_database_has_a_mailbox_and_so_has_the_postmaster() -> None:
    assert accounts.mailboxes([{"name": "prod"}, {"name": "Test-2"}]) == ["prod", "Test-2", "postmaster"]


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "..", ".hidden", "a b", "a\nb", "é"])
def test_a_name_that_is_no_mailbox_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a mailbox"):
        accounts.mailboxes([{"name": name}])


@pytest.mark.parametrize("names", [["postmaster"], ["Reports"], ["prod", "Prod"]])
def test_two_mailboxes_cannot_share_a_name(names: list[str]) -> None:
    with pytest.raises(ValueError, match="there is already a mailbox"):
        accounts.mailboxes([{"name": name} for name in names])


def test_each_mailbox_is_made_before_the_first_mail_comes() -> None:
    own = {"state": "directory", "owner": "vmail", "group": "vmail"}
    assert accounts.mailbox_directories(["Prod", "postmaster"], "/var/vmail") == [
        {"path": "/var/vmail", "mode": "0750", **own},
        {"path": "/var/vmail/Prod", "mode": "0700", **own},
        {"path": "/var/vmail/postmaster", "mode": "0700", **own},
        {"path": "/var/vmail/reports", "mode": "0700", **own},
    ]


def test_the_filters_are_the_functions() -> None:
    assert accounts.FilterModule().filters() == {
        "mailbox_directories": accounts.mailbox_directories,
        "mailboxes": accounts.mailboxes,
        "passwd_line": accounts.passwd_line,
    }
