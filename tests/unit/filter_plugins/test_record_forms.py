"""Records in the form in which people enter them."""

from __future__ import annotations

import base64
from typing import Any

import dns.rdata
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_plugins.mail_rrsets import mail_rrsets
from filter_plugins.record_forms import Form, record_forms, record_table

KEY = base64.b64encode(b"x" * 294).decode()
HOSTS = [{"name": "mail.example.com", "ipv4": "192.0.2.25", "ipv6": "2001:db8::25"}]
DOMAINS = ["example.com", "erp.example.org"]
RRSETS = mail_rrsets(
    [{"name": "prod", "domains": [{"name": name} for name in DOMAINS]}],
    HOSTS,
    [{"domain": name, "selector": "mailroom1", "public": KEY} for name in DOMAINS],
)


def forms(zones: tuple[str, ...] = (), findings: tuple[dict[str, str], ...] = ()) -> dict[tuple[str, str], Form]:
    return {(one["name"], one["type"]): one for one in record_forms(RRSETS, DOMAINS, zones, findings)}


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        (("example.com", "MX"), {"short": "@", "priority": "10", "value": "mail.example.com", "place": "example.com"}),
        (("mail.example.com", "A"), {"short": "mail", "value": "192.0.2.25", "priority": "", "place": "example.com"}),
        (("_dmarc.erp.example.org", "TXT"), {"short": "_dmarc", "place": "erp.example.org", "pieces": ""}),
        (("192.0.2.25", "PTR"), {"short": "25.2.0.192.in-addr.arpa", "value": "mail.example.com", "place": ""}),
        (("2001:db8::25", "PTR"), {"value": "mail.example.com", "place": ""}),
    ],
)
def test_a_value_is_split_as_forms_want_it(key: tuple[str, str], parts: dict[str, str]) -> None:
    form: Any = forms()[key]
    assert {part: form[part] for part in parts} == parts


def test_a_long_key_is_offered_whole_and_in_pieces() -> None:
    form = forms()["mailroom1._domainkey.example.com", "TXT"]
    assert form["value"] == f"v=DKIM1; k=rsa; h=sha256; s=email; p={KEY}"
    pieces = [piece.strip('"') for piece in form["pieces"].split('" "')]
    assert len(pieces) == 2
    assert max(map(len, pieces)) == 255
    assert "".join(pieces) == form["value"]


def test_what_is_updated_for_us_is_left_out() -> None:
    assert {form["place"] for form in forms(("Example.com.", "2.0.192.in-addr.arpa")).values()} == {
        "",
        "erp.example.org",
    }
    assert ("192.0.2.25", "PTR") not in forms(("2.0.192.in-addr.arpa",))


def test_reverse_dns_is_last() -> None:
    places = [form["place"] for form in record_forms(RRSETS, DOMAINS, ())]
    assert (
        places
        == ["erp.example.org"] * places.count("erp.example.org")
        + ["example.com"] * places.count("example.com")
        + [""] * 2
    )


def test_what_was_seen_stands_beside_it() -> None:
    seen = {"record": "example.com. MX", "verdict": "fails", "text": "is not there"}
    found = forms(findings=(seen, {"record": "", "verdict": "ok", "text": "about something else"}))
    mx = found["example.com", "MX"]
    assert (mx["state"], mx["said"], mx["found"]) == ("fails", "not as it has to be", "is not there")
    assert found["mail.example.com", "A"]["state"] == ""


def test_the_table_has_every_value_as_it_is_pasted_and_why() -> None:
    findings = [
        {"record": "example.com. MX", "verdict": "fails", "text": "is not there"},
        {"record": "mail.example.com. A", "verdict": "ok", "text": "192.0.2.25"},
    ]
    every = record_forms(RRSETS, DOMAINS, ("erp.example.org", "8.b.d.0.1.0.0.2.ip6.arpa"), findings)
    lines = record_table(every)
    assert len(lines) == 2 * len(every) + 2
    assert lines[0] == "in the zone of example.com:"
    at = [line.split() for line in lines]
    mx = at.index(["not", "as", "it", "has", "to", "be", "required", "@", "MX", "10", "mail.example.com"])
    assert lines[mx + 1].strip() == "brings the domain's mail to the mail host (RFC 5321 5.1)"
    assert ["found", "required", "mail", "A", "192.0.2.25"] in at
    [key] = [line for line in lines if " mailroom1._domainkey " in line]
    assert key.endswith(next(form["pieces"] for form in every if "_domainkey" in form["name"]))
    assert key.count('"') == 4
    assert lines[-3] == "reverse DNS, at the provider of the addresses:"
    assert at[-2] == ["recommended", "192.0.2.25", "PTR", "mail.example.com"]
    assert record_table([]) == []


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=600))
def test_property_a_line_reads_back_as_the_value(text: str) -> None:
    rrset = {**RRSETS[0], "name": "example.com.", "type": "TXT", "values": [text]}
    [form] = record_forms([rrset], DOMAINS, ())
    rdata: Any = dns.rdata.from_text("IN", "TXT", form["line"].split(maxsplit=4)[4])
    assert b"".join(rdata.strings).decode() == text
