"""Who may issue certificates for the mail hosts."""

from __future__ import annotations

from typing import Any

import pytest

from filter_plugins.caa import acme_issuer, caa_values

HOST: dict[str, Any] = {
    "inventory_hostname": "mail.example.com",
    "certificate_mode": "acme",
    "acme_directory": "https://acme.example/directory",
    "ansible_facts": {"acme_account": "https://acme.example/acct/7"},
}
NOBODY = ['0 issuewild ";"', '0 issuemail ";"']


@pytest.mark.parametrize(
    ("host", "issuer"),
    [
        ({"certificate_mode": "acme"}, "letsencrypt.org"),
        ({"certificate_mode": "acme", "acme_directory": "https://acme.example/directory"}, ""),
        ({"certificate_mode": "files"}, ""),
        ({}, ""),
    ],
)
def test_an_authority_is_known_by_its_directory(host: dict[str, Any], issuer: str) -> None:
    assert acme_issuer(host) == issuer


def test_the_host_s_own_account_is_issued_to() -> None:
    (found,) = caa_values([HOST], "ca.example")
    issue = '0 issue "ca.example; accounturi=https://acme.example/acct/7; validationmethods=http-01"'
    assert found == {"host": "mail.example.com", "values": [issue, *NOBODY]}


@pytest.mark.parametrize("account", ["", "https://staging.acme.example/acct/7"])
def test_before_there_is_an_account_the_authority_and_the_challenge_are_named(account: str) -> None:
    host = {**HOST, "acme_challenge": "dns-01", "ansible_facts": {"acme_account": account}}
    (found,) = caa_values([host], "ca.example")
    assert found["values"] == ['0 issue "ca.example; validationmethods=dns-01"', *NOBODY]


@pytest.mark.parametrize("changes", [{"certificate_mode": "private"}, {"ansible_facts": {}}, {"ansible_facts": None}])
def test_of_other_hosts_nothing_is_said(changes: dict[str, Any]) -> None:
    assert caa_values([{**HOST, **changes}], "ca.example") == []


def test_without_an_authority_nothing_is_said() -> None:
    assert caa_values([HOST], "") == []
