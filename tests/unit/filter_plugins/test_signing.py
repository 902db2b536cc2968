"""Who signs what."""

from __future__ import annotations

from typing import Any

import pytest

from filter_plugins.signing import FilterModule, domain_above, key_files, key_names, selectors


def signers(*domains: str) -> list[dict[str, Any]]:
    return [
        {"domain": domain, "selector": selector, "type": kind}
        for domain in domains
        for selector, kind in (("s", "rsa"), ("s-ed25519", "ed25519"))
    ]


def test_a_domain_signs_with_all_its_keys() -> None:
    own = {"domain": "Other.example", "selector": "Own"}
    assert selectors([*signers("example.com"), own]) == {"example.com": ["s", "s-ed25519"], "other.example": ["own"]}


def test_a_key_that_is_only_published_signs_nothing() -> None:
    former = [{**signer, "selector": f"old-{signer['selector']}", "signs": False} for signer in signers("example.com")]
    assert selectors([*former, *signers("example.com")]) == {"example.com": ["s", "s-ed25519"]}


def test_keys_have_their_names_in_dns() -> None:
    assert key_names(signers("Example.com")) == ["s._domainkey.example.com", "s-ed25519._domainkey.example.com"]


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
    assert set(FilterModule().filters()) == {"selectors", "key_names", "domain_above", "key_files"}
