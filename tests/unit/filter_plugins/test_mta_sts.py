"""Our own MTA-STS policy: who serves it, under which names, what is in it and when DNS says so."""

from __future__ import annotations

from typing import Any

import pytest

from filter_plugins.mta_sts import certified_names, mta_sts_policy, policy_names, published_policy

HOST: dict[str, Any] = {
    "inventory_hostname": "mail.example.com",
    "groups": {"mail_hosts": ["mail.example.com", "Mail2.example.com"]},
    "odoo_databases": [
        {"name": "prod", "domains": [{"name": "example.com"}, {"name": "Example.org."}]},
        {"name": "dev", "domains": [{"name": "example.com"}]},
    ],
    "mta_sts_enabled": True,
}
NAMES = ["mta-sts.example.com", "mta-sts.example.org"]
POLICY = """\
version: STSv1
mode: testing
mx: mail.example.com
mx: mail2.example.com
max_age: 604800
"""


def test_each_domain_has_its_name_and_all_have_one_policy() -> None:
    assert policy_names(HOST) == NAMES
    assert mta_sts_policy(HOST) == POLICY
    assert published_policy(HOST) == {"host": "mail.example.com", "policy": POLICY}


def test_the_policy_is_what_the_inventory_says() -> None:
    policy = mta_sts_policy({**HOST, "mta_sts_mode": "enforce", "mta_sts_max_age": 86400})
    assert policy == POLICY.replace("testing", "enforce").replace("604800", "86400")


@pytest.mark.parametrize(
    ("changes", "serves"),
    [
        ({"mta_sts_enabled": "false"}, False),
        ({"certificate_mode": "files"}, True),
        ({"certificate_mode": "acme"}, True),
        ({"certificate_mode": "private"}, False),
        ({}, False),
        ({"mta_sts_enabled": True, "inventory_hostname": "mail2.example.com"}, False),
        ({"mta_sts_enabled": True, "odoo_databases": []}, False),
    ],
)
def test_the_first_host_serves_it_if_strangers_can_verify_it(changes: dict[str, Any], serves: bool) -> None:
    host = {key: value for key, value in HOST.items() if key != "mta_sts_enabled"} | changes
    assert policy_names(host) == (NAMES if serves else [])
    assert (mta_sts_policy(host) != "") == serves
    assert published_policy(host)["host"] == (HOST["inventory_hostname"] if serves else "")


@pytest.mark.parametrize("databases", [None, "prod", {"name": "prod"}, [None, "prod"], [{"domains": "example.com"}]])
def test_what_is_no_list_of_databases_is_told_by_others(databases: object) -> None:
    assert policy_names({**HOST, "odoo_databases": databases}) == []


def test_outside_an_inventory_nobody_serves_it() -> None:
    assert policy_names({"mta_sts_enabled": True}) == []


def test_the_certificate_has_their_names_if_it_has_any() -> None:
    assert certified_names(["mail.example.com", NAMES[1]], HOST) == ["mail.example.com", NAMES[1], NAMES[0]]
    assert certified_names([], HOST) == []


@pytest.mark.parametrize(
    ("mode", "facts", "announced"),
    [
        ("acme", {"acme_certificate": False}, False),
        ("acme", {"acme_certificate": True}, True),
        ("acme", {}, True),
        ("acme", None, True),
        ("files", {"acme_certificate": False}, True),
    ],
)
def test_it_is_announced_when_its_certificate_is_there(mode: str, facts: object, announced: bool) -> None:
    found = published_policy({**HOST, "certificate_mode": mode, "ansible_facts": facts})
    assert found == {"host": "mail.example.com", "policy": POLICY if announced else ""}
