"""The records that the company's mail needs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from filter_plugins import mta_sts, tlsa
from filter_plugins.addresses import REPORT_NAMES
from filter_plugins.mail_rrsets import RRset, mail_domains, mail_hosts, mail_rrsets, public_keys

HOST = {"name": "mail.example.com", "ipv4": "192.0.2.25", "ipv6": "2001:db8::25"}
SECOND = {"name": "mail2.example.com", "ipv4": "192.0.2.26", "ipv6": ""}


def databases(*domains: str) -> list[dict[str, Any]]:
    return [{"name": "prod", "domains": [{"name": name} for name in domains]}]


def keys(*domains: str) -> list[dict[str, str]]:
    return [{"domain": name, "selector": "mailroom1", "public": f"MII{name}"} for name in domains]


def rrsets(*domains: str, hosts: Sequence[Any] | None = None, **options: Any) -> dict[tuple[str, str], RRset]:
    found = mail_rrsets(databases(*domains), hosts or [HOST], keys(*domains), **options)
    assert len({(one["name"], one["type"]) for one in found}) == len(found)
    return {(one["name"], one["type"]): one for one in found}


def test_one_domain_on_one_host() -> None:
    assert {key: one["values"] for key, one in rrsets("example.com").items()} == {
        ("mail.example.com.", "A"): ["192.0.2.25"],
        ("mail.example.com.", "AAAA"): ["2001:db8::25"],
        ("mail.example.com.", "TXT"): ["v=spf1 a -all"],
        ("25.2.0.192.in-addr.arpa.", "PTR"): ["mail.example.com."],
        ("5.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", "PTR"): ["mail.example.com."],
        ("example.com.", "MX"): ["10 mail.example.com."],
        ("example.com.", "TXT"): ["v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 ~all"],
        ("mailroom1._domainkey.example.com.", "TXT"): ["v=DKIM1; k=rsa; h=sha256; s=email; p=MIIexample.com"],
        ("_dmarc.example.com.", "TXT"): ["v=DMARC1; p=quarantine; rua=mailto:dmarc-reports@example.com"],
        ("_smtp._tls.example.com.", "TXT"): ["v=TLSRPTv1; rua=mailto:tls-reports@example.com"],
    }


def test_an_mta_sts_policy_is_announced_by_an_id_made_from_it() -> None:
    def of(policy: str, host: str = "mail.example.com") -> dict[tuple[str, str], list[str]]:
        found = rrsets("example.com", mta_sts={"host": host, "policy": policy})
        return {key: one["values"] for key, one in found.items() if "mta-sts" in key[0]}

    first, second = of("mode: testing\n"), of("mode: enforce\n")
    alias, record = ("mta-sts.example.com.", "CNAME"), ("_mta-sts.example.com.", "TXT")
    assert first[alias] == ["mail.example.com."]
    assert re.fullmatch(r"v=STSv1; id=[0-9a-z]{32}", first[record][0])
    assert first == of("mode: testing\n")
    assert first[record] != second[record]
    assert of("") == {alias: first[alias]}
    assert of("", host="") == {}


TLSA = [{"host": "Mail.example.com", "digests": ["aa" * 32, "bb" * 32]}]
PORT = ("_25._tcp.mail.example.com.", "TLSA")


def test_both_keys_of_a_host_are_published_where_the_zone_is_signed() -> None:
    found = rrsets("example.com", tlsa=TLSA)
    assert found[PORT]["values"] == [f"3 1 1 {'aa' * 32}", f"3 1 1 {'bb' * 32}"]
    assert {key: one["where"] for key, one in found.items() if one["where"]} == {PORT: "signed"}


def test_keys_can_be_published_always_or_never() -> None:
    assert rrsets("example.com", tlsa=TLSA, dane="always")[PORT]["where"] == ""
    assert PORT not in rrsets("example.com", tlsa=TLSA, dane="never")


def test_who_may_issue_is_said_beside_others_but_not_of_a_whole_domain() -> None:
    caa = [{"host": "mail.example.com", "values": ['0 issue "ca.example"', '0 issuewild ";"']}]
    one = rrsets("example.com", caa=caa)["mail.example.com.", "CAA"]
    assert (one["values"], one["ownership"]) == (caa[0]["values"], "shared")
    assert ("mail.example.com.", "CAA") not in rrsets("mail.example.com", caa=caa)


def test_reports_go_where_they_are_accepted() -> None:
    records = " ".join(value for one in rrsets("example.com").values() for value in one["values"])
    assert sorted(re.findall(r"rua=mailto:([a-z-]+)@example\.com", records)) == list(REPORT_NAMES)


def test_reports_may_go_to_others_and_domains_of_ours_agree() -> None:
    addresses = ["dmarc-reports@example.com", "x@dmarc.provider.example"]
    domains = ("example.com", "erp.example.com", "example.org")
    found = rrsets(*domains, dmarc_reports=addresses)
    rua = "rua=mailto:dmarc-reports@example.com,mailto:x@dmarc.provider.example"
    for domain in domains:
        assert found[f"_dmarc.{domain}.", "TXT"]["values"] == [f"v=DMARC1; p=quarantine; {rua}"]
    agreements = {name: one["values"] for (name, _), one in found.items() if "_report" in name}
    assert agreements == {"example.org._report._dmarc.example.com.": ["v=DMARC1;"]}


def test_only_text_beside_which_others_may_write_is_shared() -> None:
    shared = {key for key, one in rrsets("example.com").items() if one["ownership"] == "shared"}
    assert shared == {("example.com.", "TXT"), ("mail.example.com.", "TXT")}


def test_every_record_says_why_and_where_it_is_specified() -> None:
    for one in rrsets("example.com").values():
        assert one["why"]
        assert one["rfc"].startswith("RFC ")
        assert one["level"] in {"required", "recommended", "optional"}


def test_every_host_receives_and_sends_the_mail_of_every_domain() -> None:
    found = rrsets("example.com", "example.org", hosts=[HOST, SECOND])
    for domain in ("example.com.", "example.org."):
        assert found[domain, "MX"]["values"] == ["10 mail.example.com.", "10 mail2.example.com."]
        assert found[domain, "TXT"]["values"] == ["v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 ip4:192.0.2.26 ~all"]
        assert (f"_dmarc.{domain}", "TXT") in found
        assert (f"mailroom1._domainkey.{domain}", "TXT") in found
    assert ("mail2.example.com.", "AAAA") not in found


def test_several_hosts_with_certificates_of_their_own(tmp_path: Path) -> None:
    """The policy names all of them, the first one serves it, and each has the keys of its own files."""
    digests: dict[str, list[str]] = {}
    hostvars: dict[str, dict[str, Any]] = {}
    names = [HOST["name"], SECOND["name"]]
    for name in names:
        digests[name] = []
        files = {key: tmp_path / f"{name}.{key}.pem" for key in ("certificate_key_file", "certificate_next_key_file")}
        for file in files.values():
            key = ec.generate_private_key(ec.SECP256R1())
            file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            digests[name].append(hashlib.sha256(der).hexdigest())
        hostvars[name] = {
            "inventory_hostname": name,
            "groups": {"mail_hosts": names},
            "mail_host_ipv4": {HOST["name"]: HOST, SECOND["name"]: SECOND}[name]["ipv4"],
            "certificate_mode": "files",
            "odoo_databases": databases("example.com", "erp.example.com"),
            **{key: str(file) for key, file in files.items()},
        }
    policy = mta_sts.published_policy(hostvars[names[0]])
    assert policy["policy"].splitlines()[2:4] == [f"mx: {name}" for name in names]
    found = rrsets(
        "example.com",
        "erp.example.com",
        hosts=mail_hosts(names, hostvars),
        mta_sts=policy,
        tlsa=tlsa.tlsa_keys(hostvars.values(), str(tmp_path)),
    )
    for name in names:
        assert found[f"_25._tcp.{name}.", "TLSA"]["values"] == [f"3 1 1 {digest}" for digest in digests[name]]
    for domain in ("example.com", "erp.example.com"):
        assert found[f"{domain}.", "MX"]["values"] == [f"10 {name}." for name in names]
        assert found[f"mta-sts.{domain}.", "CNAME"]["values"] == [f"{names[0]}."]
        assert found[f"{domain}.", "TXT"]["values"] == ["v=spf1 ip4:192.0.2.25 ip4:192.0.2.26 ~all"]
    [announced] = {found[f"_mta-sts.{domain}.", "TXT"]["values"][0] for domain in ("example.com", "erp.example.com")}
    assert announced == f"v=STSv1; id={hashlib.sha256(policy['policy'].encode()).hexdigest()[:32]}"


def test_a_domain_of_two_databases_is_published_once() -> None:
    twice = [*databases("example.com", "Example.com."), *databases("example.com")]
    assert mail_domains(twice) == ["example.com"]
    assert len(mail_rrsets(twice, [HOST], keys("example.com"))) == 10


def test_a_host_that_is_given_twice_is_published_once() -> None:
    assert rrsets("example.com", hosts=[HOST, HOST]) == rrsets("example.com")


def test_a_host_named_like_the_domain_has_one_spf_record() -> None:
    found = rrsets("example.com", hosts=[{**HOST, "name": "example.com"}])
    assert found["example.com.", "TXT"]["values"] == ["v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 ~all"]


def test_addresses_are_written_in_their_shortest_form() -> None:
    found = rrsets("example.com", hosts=[{**HOST, "ipv6": "2001:0DB8:0:0::0025"}])
    assert found["mail.example.com.", "AAAA"]["values"] == ["2001:db8::25"]


def test_ttl_and_dmarc_policy_can_be_chosen() -> None:
    found = rrsets("example.com", ttl=300, dmarc_policy="reject")
    assert {one["ttl"] for one in found.values()} == {300}
    assert found["_dmarc.example.com.", "TXT"]["values"] == ["v=DMARC1; p=reject; rua=mailto:dmarc-reports@example.com"]


def test_the_order_does_not_depend_on_the_inventory() -> None:
    one = mail_rrsets(databases("a.example", "b.example"), [HOST], keys("a.example", "b.example"))
    other = mail_rrsets(databases("b.example", "a.example"), [HOST], keys("b.example", "a.example"))
    assert one == other


def test_a_database_without_domains_needs_no_domain_records() -> None:
    assert mail_domains([{"name": "prod"}, {"name": "dev", "domains": None}]) == []


def test_a_host_without_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="mail_host_ipv4"):
        rrsets("example.com", hosts=[{"name": "mail.example.com", "ipv4": "", "ipv6": ""}])


def test_a_domain_without_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match=r"example\.com: it has no DKIM key"):
        mail_rrsets(databases("example.com"), [HOST], [])


def test_mail_hosts_come_from_the_host_variables() -> None:
    hostvars = {
        "mail.example.com": {"mail_host_ipv4": "192.0.2.25", "mail_host_ipv6": "2001:db8::25"},
        "mail2.example.com": {"mail_host_ipv4": "192.0.2.26"},
    }
    assert mail_hosts(list(hostvars), hostvars) == [HOST, SECOND]


def test_a_domain_can_have_several_keys() -> None:
    second = {"domain": "example.com", "selector": "mailroom1-ed25519", "type": "ed25519", "public": "AAsecond"}
    made = mail_rrsets(databases("example.com"), [HOST], [*keys("example.com"), second])
    values = {one["name"].partition("._domainkey.")[0]: one["values"] for one in made if "_domainkey" in one["name"]}
    assert values == {
        "mailroom1": ["v=DKIM1; k=rsa; h=sha256; s=email; p=MIIexample.com"],
        "mailroom1-ed25519": ["v=DKIM1; k=ed25519; h=sha256; s=email; p=AAsecond"],
    }


def test_private_keys_stay_where_they_are() -> None:
    key = {**keys("example.com")[0], "type": "rsa"}
    assert public_keys([{**key, "private": "-----BEGIN"}]) == [key]
