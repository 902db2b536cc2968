"""The mail records of a domain at a provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from filter_plugins.providers import provider_domains
from module_utils import provider_checks
from module_utils.dns_world import Answer

PROVIDER = {"preset": "gmail", "login": "odoo@example.com", "password": "app"}
(GMAIL,) = provider_domains([{"name": "prod", "domains": [{"name": "example.com"}], "provider": PROVIDER}])
PLAIN = {"domain": "example.com", "mx": [], "spf": "", "dkim": []}
GOOD = {
    ("example.com", "MX"): Answer(values=("1 smtp.google.com.",)),
    ("example.com", "TXT"): Answer(values=("v=spf1 include:_spf.google.com ~all", "other=1")),
    ("google._domainkey.example.com", "TXT"): Answer(values=("v=DKIM1; k=rsa; p=MIIB",)),
    ("_dmarc.example.com", "TXT"): Answer(values=("v=DMARC1; p=quarantine",)),
}


class FakeWorld:
    """What is known of a domain; the rest does not exist."""

    def __init__(self, changes: Mapping[tuple[str, str], Answer]) -> None:
        self.known = {**GOOD, **changes}

    def ask(self, name: str, kind: str) -> Answer:
        return self.known.get((name, kind), Answer("NXDOMAIN"))


def judged(changes: Mapping[tuple[str, str], Answer], wished: Mapping[str, Any] = GMAIL) -> list[tuple[str, str, str]]:
    """Check, verdict and text of all that is not ok."""
    found = [one for check in provider_checks.checks(wished, FakeWorld(changes)) for one in check()]
    assert {one.whose for one in found} == {"external"}
    return [(one.check, one.verdict, one.text) for one in found if one.verdict != "ok"]


@pytest.mark.parametrize(
    "mx", ["1 SMTP.google.com.", "1 aspmx.l.google.com.", "5 alt1.aspmx.l.google.com.", "10 aspmx2.googlemail.com."]
)
def test_all_is_well(mx: str) -> None:
    assert judged({("example.com", "MX"): Answer(values=(mx,))}) == []
    assert judged({}, PLAIN) == []


@pytest.mark.parametrize(
    ("name", "kind", "values", "check", "verdict", "text"),
    [
        ("example.com", "MX", (), "MX", "fails", "is not there: set the one that the provider tells you"),
        ("example.com", "MX", ("10 mail.example.com.",), "MX", "fails", "names mail.example.com, which is none of"),
        ("example.com", "MX", ("1 aspmx.l.google.com.evil.example.",), "MX", "fails", "evil.example"),
        ("example.com", "TXT", (), "SPF", "fails", "set TXT v=spf1 include:_spf.google.com ~all"),
        ("example.com", "TXT", ("v=spf1 -all", "v=spf1 a -all"), "SPF", "fails", "2 records count as none"),
        ("example.com", "TXT", ("v=spf1 mx -all",), "SPF", "fails", "add include:_spf.google.com to v=spf1 mx -all"),
        ("google._domainkey.example.com", "TXT", (), "DKIM", "advice", "switch DKIM on at the provider"),
        ("google._domainkey.example.com", "TXT", ("v=DKIM1; p=",), "DKIM", "advice", "holds no key"),
        ("_dmarc.example.com", "TXT", (), "DMARC record", "fails", "is not there"),
    ],
)
def test_what_is_wrong_is_said(
    name: str, kind: str, values: tuple[str, ...], check: str, verdict: str, text: str
) -> None:
    ((found, how, said),) = judged({(name, kind): Answer(values=values)})
    assert (found, how) == (check, verdict)
    assert text in said


def test_without_an_answer_nothing_is_judged() -> None:
    silent = {key: Answer("SERVFAIL") for key in GOOD}
    assert {(check, verdict) for check, verdict, _ in judged(silent)} == {
        (check, "unknown") for check in ("MX", "SPF", "DKIM", "DMARC record")
    }
    ((_, verdict, text),) = judged({("example.com", "MX"): Answer(bogus="signature expired")})
    assert (verdict, "signature expired" in text) == ("fails", True)


def test_a_provider_that_nothing_is_known_of_needs_the_records_all_the_same() -> None:
    missing = {key: Answer("NXDOMAIN") for key in GOOD}
    assert [check for check, _, _ in judged(missing, PLAIN)] == ["MX", "SPF", "DMARC record"]
