"""Who signs what."""

from __future__ import annotations

from typing import Any

import pytest

from filter_plugins.signing import FilterModule, Signer, domain_above, key_files, selectors, signing_domains


def signers(*domains: str) -> list[Signer]:
    return [
        {"domain": domain, "selector": selector, "type": kind}
        for domain in domains
        for selector, kind in (("s", "rsa"), ("s-ed25519", "ed25519"))
    ]


def test_every_domain_once_in_the_inventorys_order() -> None:
    databases: list[dict[str, Any]] = [
        {"name": "prod", "domains": [{"name": "Example.com"}, {"name": "erp.example.com"}]},
        {"name": "test", "domains": [{"name": "example.com"}, {"name": "customer.example"}]},
        {"name": "without"},
        {"name": "empty", "domains": None},
    ]
    assert signing_domains(databases, "s") == signers("example.com", "erp.example.com", "customer.example")


def test_a_domain_signs_with_all_its_keys() -> None:
    own = {"domain": "Other.example", "selector": "Own"}
    assert selectors([*signers("example.com"), own]) == {"example.com": ["s", "s-ed25519"], "other.example": ["own"]}


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("mail.example.com", "example.com"),
        ("MAIL.Example.com", "example.com"),
        ("mail.erp.example.com", "erp.example.com"),
        ("erp.example.com", "example.com"),
        ("example.com", ""),
        ("mailexample.com", ""),
    ],
)
def test_the_hosts_own_reports_are_signed_by_the_nearest_domain_above(host: str, domain: str) -> None:
    assert domain_above(signers("Example.com", "erp.example.com"), host) == domain
    assert domain_above(signers("erp.example.com", "Example.com"), host) == domain


def test_keys_are_for_the_daemon_only() -> None:
    keys = [{"domain": "example.com", "selector": "s", "private": "PEM", "public": "x"}]
    assert key_files(keys, "/keys", "_rspamd") == [
        {
            "path": "/keys/example.com.s.key",
            "content": "PEM",
            "mode": "0440",
            "group": "_rspamd",
            "sensitive": True,
        }
    ]


def test_ansible_finds_the_filters() -> None:
    assert set(FilterModule().filters()) == {"signing_domains", "selectors", "domain_above", "key_files"}
