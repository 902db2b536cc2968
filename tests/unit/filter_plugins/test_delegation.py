"""Records of domains whose zones are others' to write."""

from __future__ import annotations

import pytest

from filter_plugins.delegation import delegated, delegation_names
from filter_plugins.mail_rrsets import RRset, mail_rrsets

TO = "mail-dns.provider.example"
HOST = {"name": "mail.customer.example", "ipv4": "192.0.2.25"}


def rrsets(*domains: str, selector: str = "mailroom1") -> list[RRset]:
    """All that domains need."""
    keys = [
        {"domain": domain, "selector": f"{selector}{kind and '-'}{kind}", "type": kind or "rsa", "public": "AA"}
        for domain in domains
        for kind in ("", "ed25519")
    ]
    databases = [{"name": "prod", "domains": [{"name": domain} for domain in domains]}]
    more = {"host": HOST["name"], "policy": "version: STSv1\n"}
    return mail_rrsets(databases, [HOST], keys, mta_sts=more, tlsa=[{"host": HOST["name"], "digests": ["ab" * 32]}])


def published(found: list[RRset]) -> dict[tuple[str, str], list[str]]:
    assert len({(one["name"], one["type"]) for one in found}) == len(found)
    return {(one["name"], one["type"]): one["values"] for one in found}


def test_names_that_change_lead_to_us_and_what_cannot_be_an_alias_stays() -> None:
    before = published(rrsets("customer.example"))
    after = published(delegated(rrsets("customer.example"), TO, ["provider.example"], "mailroom1"))
    led = [name for name, kind in before if kind in ("TXT", "TLSA") and name.startswith(("_", "mailroom"))]
    spare = ["mailroom2._domainkey.customer.example.", "mailroom2-ed25519._domainkey.customer.example."]
    assert sorted(led) == [
        "_25._tcp.mail.customer.example.",
        "_dmarc.customer.example.",
        "_mta-sts.customer.example.",
        "_smtp._tls.customer.example.",
        "mailroom1-ed25519._domainkey.customer.example.",
        "mailroom1._domainkey.customer.example.",
    ]
    assert after == {
        **{key: values for key, values in before.items() if key[0] not in led},
        **{(name, "CNAME"): [f"{name}{TO}."] for name in (*led, *spare)},
        **{(f"{name}{TO}.", kind): values for (name, kind), values in before.items() if name in led},
    }


@pytest.mark.parametrize("zones", [["Customer.example."], ["customer.example", "provider.example"], ["example"]])
def test_what_lies_in_a_zone_of_ours_is_left_alone(zones: list[str]) -> None:
    before = rrsets("customer.example")
    assert delegated(before, TO, zones, "mailroom1") == before


def test_a_part_of_a_zone_can_be_ours_by_ns_records() -> None:
    found = published(delegated(rrsets("customer.example"), TO, ["_domainkey.customer.example", TO], "mailroom1"))
    assert ("mailroom1._domainkey.customer.example.", "TXT") in found
    assert not [name for name, kind in found if kind == "CNAME" and "_domainkey" in name]
    assert ("_dmarc.customer.example.", "CNAME") in found


def test_without_a_name_to_lead_to_nothing_is_changed() -> None:
    before = rrsets("customer.example")
    assert delegated(before, "", ["provider.example"], "mailroom1") == before


def test_a_key_of_another_selector_is_led_to_as_long_as_it_is_there() -> None:
    found = published(delegated(rrsets("customer.example", selector="s9"), TO, [TO], "mailroom9"))
    aliases = {name.partition(".")[0] for name, kind in found if kind == "CNAME" and "_domainkey" in name}
    assert aliases == {f"{one}{kind}" for one in ("s9", "mailroom9", "mailroom10") for kind in ("", "-ed25519")}


def test_an_alias_says_why_and_how_much_it_matters() -> None:
    found = delegated(rrsets("customer.example"), TO, [TO], "mailroom1")
    aliases = {one["name"]: one for one in found if one["type"] == "CNAME"}
    key, port = aliases["mailroom2._domainkey.customer.example."], aliases["_25._tcp.mail.customer.example."]
    assert (key["why"], key["level"]) == (
        "set once: from then on we write what verifies the signature under the domain's mail",
        "required",
    )
    assert (port["level"], port["where"]) == ("recommended", "signed")


def test_domains_do_not_meet_below_one_name() -> None:
    found = published(delegated(rrsets("customer.example", "example"), TO, [TO], "mailroom1"))
    assert (f"_dmarc.customer.example.{TO}.", "TXT") in found
    assert (f"_dmarc.example.{TO}.", "TXT") in found


def test_names_that_stand_for_names() -> None:
    assert delegation_names(["_dmarc.customer.example."], "Mail-DNS.provider.example.") == [
        f"_dmarc.customer.example.{TO}"
    ]
    assert delegation_names(["_dmarc.customer.example."], "") == []
