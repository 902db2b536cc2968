"""Each fault that mail records are known for is found, and explained in one line."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from smtplib import SMTPConnectError
from typing import TYPE_CHECKING

import pytest

from filter_plugins.delegation import delegated
from filter_plugins.mail_rrsets import mail_rrsets
from library.dns_verify import table
from module_utils import mail_checks, tls_hello
from module_utils.dns_world import Answer, Key

if TYPE_CHECKING:
    from module_utils.dns_zone import LameError, ZoneError, wanted_sets
    from module_utils.smtp_tls import Offer
else:  # the same errors that the module under test catches
    from ansible.module_utils.dns_zone import LameError, ZoneError, wanted_sets
    from ansible.module_utils.smtp_tls import Offer

KEY = "MIIBIjANBgkqhkiG9w0BAQABAAOCAQ8AMIIBCgKCAQEA" + "x" * 300
HOSTS = [{"name": "mail.example.com", "ipv4": "192.0.2.25", "ipv6": "2001:db8::25"}]
RECORDS = mail_rrsets(
    [{"name": "prod", "domains": [{"name": "example.com"}]}],
    HOSTS,
    [{"domain": "example.com", "selector": "mailroom1", "public": KEY}],
)
EXPECTED = mail_checks.Expected(
    domains=["example.com"],
    hosts={"mail.example.com": ["192.0.2.25", "2001:db8::25"]},
    wanted=list(zip(wanted_sets(RECORDS, []), (record["level"] for record in RECORDS), strict=True)),
    zones=["example.com."],
    issuer="ca.example",
)
GOOD: dict[Key, Answer] = {
    **{
        one.key: Answer(values=tuple(sorted(one.rrset.values)), secure=not one.name.endswith(".arpa."))
        for one, _ in EXPECTED.wanted
    },
    ("example.com.", "SOA"): Answer(
        values=("ns1.example.com. hostmaster.example.com. 7 3600 600 86400 60",), secure=True
    ),
    ("example.com.", "NS"): Answer(values=("ns1.example.com.", "ns2.example.com.")),
    ("ns1.example.com.", "A"): Answer(values=("192.0.2.53",)),
    ("ns2.example.com.", "A"): Answer(values=("192.0.2.54",)),
    ("ns1.example.com.", "AAAA"): Answer(values=("2001:db8::53",)),
    ("ns2.example.com.", "AAAA"): Answer(values=("2001:db8::54",)),
    ("example.com.", "CAA"): Answer(values=('0 issue "ca.example"',)),
}


class FakeWorld:
    """A world in which all is well but what a test changes; servers: what one of them says instead."""

    def __init__(
        self, changes: Mapping[Key, Answer] = {}, servers: Mapping[str, Mapping[Key, frozenset[str]] | ZoneError] = {}
    ) -> None:
        self.known, self.servers = {**GOOD, **changes}, servers

    def ask(self, name: str, kind: str) -> Answer:
        return self.known.get((f"{name.rstrip('.')}.", kind), Answer("NXDOMAIN"))

    def authoritative(self, address: str, keys: Iterable[Key]) -> Mapping[Key, frozenset[str]]:
        said = {key: frozenset(GOOD[key].values) for key in keys if key in GOOD}
        other = self.servers.get(address, {})
        if isinstance(other, ZoneError):
            raise other
        return {**said, **other}

    def referral(self, address: str, zone: str) -> Mapping[str, Sequence[str]]:
        raise ZoneError(f"{address} is not asked for {zone} here")


def findings(world: FakeWorld) -> list[mail_checks.Finding]:
    placed = [place() for place in mail_checks.places(EXPECTED, world)]
    checks = mail_checks.checks(EXPECTED, world) + mail_checks.zone_checks(EXPECTED, world, placed)
    return [finding for check in checks for finding in check()]


def spf(*records: str) -> dict[Key, Answer]:
    return {("example.com.", "TXT"): Answer(values=records)}


def test_when_all_is_well_every_line_is_ok() -> None:
    found = findings(FakeWorld())
    assert {finding.verdict for finding in found} == {"ok"}
    assert {finding.check for finding in found} == {
        "A", "AAAA", "CAA", "DKIM", "DMARC policy", "DMARC record", "DNSSEC", "MX", "SPF", "TLS reports",
        "name servers", "name servers, IPv6", "reverse DNS",
    }  # fmt: skip
    assert table(found)[-1] == f"{len(found)} checks: {len(found)} ok"


HOST, DKIM = "mail.example.com.", ("mailroom1._domainkey.example.com.", "TXT")
SOA_8 = frozenset({"ns1.example.com. hostmaster.example.com. 8 3600 600 86400 60"})


@pytest.mark.parametrize(
    ("changes", "check", "verdict", "text"),
    [
        (spf("v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 ~all", "v=spf1 -all"), "SPF", "fails", "has 2 SPF records"),
        (spf("v=spf1 " + "mx " * 11 + "~all"), "SPF", "fails", "lookup 11, 10 are allowed"),
        (spf("v=spf1 ip4:192.0.2.25 ~all"), "SPF", "fails", "for our 2001:db8::25 it says softfail"),
        (spf("v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 ?all"), "SPF", "fails", "neutral for everybody"),
        (spf("v=spf1 +all"), "SPF", "fails", "end it with ~all"),
        (spf("some text"), "SPF", "fails", "none (example.com has no SPF record): run site.yml"),
        ({("example.com.", "TXT"): Answer("SERVFAIL")}, "SPF", "unknown", "the resolver answers SERVFAIL"),
        ({DKIM: Answer(values=(GOOD[DKIM].values[0].replace("QAB", "Q AB"),))}, "DKIM", "fails", "spaces inside"),
        ({DKIM: Answer(values=(f"v=DKIM1; t=y; p={KEY}",))}, "DKIM", "fails", 'our key, but is "v=DKIM1; t=y; p='),
        ({DKIM: Answer(values=("v=DKIM1; p=another",))}, "DKIM", "fails", "not the key that the mail host signs with"),
        ({DKIM: Answer(values=("v=DKIM1; p=another", *GOOD[DKIM].values))}, "DKIM", "fails", "holds 2 records"),
        ({DKIM: Answer("NXDOMAIN")}, "DKIM", "fails", "is not there: run site.yml"),
        ({(HOST, "AAAA"): Answer(), }, "AAAA", "fails", "is not there"),
        (
            {("example.com.", "MX"): Answer(values=("10 mail.example.com.", "5 mx.old.example."))},
            "MX", "fails", "take the others out, or mail is lost to them",
        ),
        (
            {("example.com.", "MX"): Answer(values=("10 alias.example.com.",)),
             ("alias.example.com.", "A"): Answer(values=("192.0.2.25",), aliases=(HOST,))},
            "MX target", "fails", "MX alias.example.com is a CNAME, which RFC 2181 forbids: name mail.example.com",
        ),
        (
            {("example.com.", "MX"): Answer(values=("10 nowhere.example.com.",))},
            "MX target", "fails", "MX nowhere.example.com has no address",
        ),
        (
            {(str(next(one.name for one, _ in EXPECTED.wanted if one.name.endswith("ip6.arpa."))), "PTR"): Answer()},
            "reverse DNS", "fails", "have the provider of the address set its name to mail.example.com.",
        ),
        (
            {("_dmarc.example.com.", "TXT"): Answer(values=("v=DMARC1; p=none",))},
            "DMARC policy", "advice", "p=none asks for reports alone",
        ),
        (
            {("_dmarc.example.com.", "TXT"): Answer(values=("v=DMARC1; p=reject; pct=50",))},
            "DMARC policy", "advice", "pct: removed by RFC 9989",
        ),
        (
            {("_dmarc.example.com.", "TXT"): Answer(values=("v=DMARC1; p=everything",))},
            "DMARC policy", "fails", "p=everything: use none, quarantine or reject",
        ),
        (
            {("_dmarc.example.com.", "TXT"): Answer(values=("v=DMARC1; p=none", "v=DMARC1; p=reject"))},
            "DMARC policy", "fails", "2 DMARC records count as none",
        ),
        (
            {("_dmarc.example.com.", "TXT"): Answer(values=("v=DMARC1; p=reject; rua=mailto:a@reports.example",))},
            "DMARC reports", "advice", 'publish example.com._report._dmarc.reports.example TXT "v=DMARC1;"',
        ),
        ({("example.com.", "CAA"): Answer(values=('0 issue "other.example"',))}, "CAA", "fails", "forbids ca.example"),
        ({("example.com.", "CAA"): Answer(values=('0 issue ";"',))}, "CAA", "fails", "forbids ca.example"),
        ({("example.com.", "CAA"): Answer()}, "CAA", "advice", "every authority may issue"),
        (
            {("example.com.", "SOA"): Answer(values=GOOD["example.com.", "SOA"].values)},
            "DNSSEC", "advice", "not signed: others can forge it",
        ),
        (
            {("example.com.", "MX"): Answer(values=("10 mail.example.com.",), bogus="EDE 7: signature expired")},
            "MX", "fails", "bogus for all who validate (EDE 7: signature expired)",
        ),
        (
            {("ns2.example.com.", kind): Answer("NXDOMAIN") for kind in ("A", "AAAA")},
            "name servers", "fails", "ns2.example.com has no address",
        ),
        (
            {("ns2.example.com.", "AAAA"): Answer()},
            "name servers, IPv6", "advice", "1 of 2 have an IPv6 address, which who has no other needs",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_found_and_explained(changes: Mapping[Key, Answer], check: str, verdict: str, text: str) -> None:
    bad = [finding for finding in findings(FakeWorld(changes)) if finding.verdict != "ok" and finding.check == check]
    assert [(finding.verdict, text in finding.text) for finding in bad] == [(verdict, True)], bad
    assert "\n" not in bad[0].text


@pytest.mark.parametrize(
    ("said", "verdict", "text"),
    [
        (LameError("192.0.2.54 is not authoritative for example.com."), "fails", "ns2.example.com is of no use"),
        (ZoneError("192.0.2.54 cannot be reached (timed out)"), "unknown", "ns2.example.com is of no use"),
        ({DKIM: frozenset({"v=DKIM1; p=old"})}, "fails", "differ in mailroom1._domainkey.example.com TXT"),
        ({("example.com.", "SOA"): SOA_8}, "advice", "ns2.example.com has serial 8: a change may be on its way"),
    ],
)
def test_name_servers_have_to_agree(said: Mapping[Key, frozenset[str]] | ZoneError, verdict: str, text: str) -> None:
    found = [one for one in findings(FakeWorld(servers={"192.0.2.54": said})) if one.check == "name servers"]
    assert (verdict, True) in [(finding.verdict, text in finding.text) for finding in found], found


def test_an_address_that_the_host_does_not_have_is_told() -> None:
    only4 = dataclasses.replace(EXPECTED, hosts={"mail.example.com": ["192.0.2.25"]})
    found = [one for check in mail_checks.checks(only4, FakeWorld()) for one in check() if one.check == "MX target"]
    text = "MX mail.example.com has 2001:db8::25, where others try to deliver, too: take it out, or set mail_host_ipv6"
    assert [(one.verdict, one.text) for one in found] == [("fails", text)]


def test_what_lies_in_no_zone_of_ours_is_external() -> None:
    assert {one.whose for one in findings(FakeWorld()) if one.check == "reverse DNS"} == {"external"}
    assert {one.whose for one in findings(FakeWorld()) if one.check == "DKIM"} == {"managed"}


DELEGATED = delegated(RECORDS, "keys.provider.example", ["provider.example"], "mailroom1")
ALIAS, TARGET = "mailroom1._domainkey.example.com.", "mailroom1._domainkey.example.com.keys.provider.example."
LED = dataclasses.replace(
    EXPECTED,
    wanted=list(zip(wanted_sets(DELEGATED, []), (record["level"] for record in DELEGATED), strict=True)),
    zones=["provider.example."],
)


def led(changes: Mapping[Key, Answer]) -> list[mail_checks.Finding]:
    """What is found where names lead to a zone of ours."""
    sets = {one.key: Answer(values=tuple(sorted(one.rrset.values))) for one, _ in LED.wanted}
    return [finding for check in mail_checks.checks(LED, FakeWorld({**sets, **changes})) for finding in check()]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {(ALIAS, "CNAME"): Answer("NXDOMAIN"), (ALIAS, "TXT"): Answer("NXDOMAIN")},
            f"is not there: set CNAME {TARGET}",
        ),
        (
            {(ALIAS, "CNAME"): Answer(values=("s1.other.example.",))},
            f"leads to s1.other.example. instead of to us: set CNAME {TARGET}",
        ),
        (
            {(ALIAS, "CNAME"): Answer(), (ALIAS, "TXT"): GOOD[DKIM]},
            f"has a record of its own, which stays as it is when ours changes: replace it by CNAME {TARGET}",
        ),
        ({(ALIAS, "CNAME"): Answer(bogus="EDE 7")}, "bogus for all who validate (EDE 7): see DNSSEC of its zone"),
    ],
)
def test_a_name_that_does_not_lead_to_us_is_told_in_one_line(changes: Mapping[Key, Answer], text: str) -> None:
    bad = [one for one in led(changes) if one.verdict != "ok" and one.check == "delegation"]
    assert bad == [mail_checks.Finding(ALIAS.rstrip("."), "delegation", "fails", "external", text, f"{ALIAS} CNAME")]


def test_what_names_lead_to_is_ours_and_the_way_there_is_not() -> None:
    found = led({})
    assert {one.verdict for one in found} == {"ok"}
    assert {one.whose for one in found if one.check == "delegation"} == {"external"}
    assert {one.whose for one in found if one.check in ("DKIM", "DMARC record", "DMARC policy")} == {"managed"}
    [missing] = [one for one in led({(TARGET, "TXT"): Answer("NXDOMAIN")}) if one.verdict != "ok"]
    assert (missing.check, missing.text) == ("DKIM", "is not there: run site.yml")


@pytest.mark.parametrize(("secure", "verdict"), [(True, "ok"), (False, "advice")])
def test_a_host_s_key_has_to_be_in_a_signed_zone_all_the_way(secure: bool, verdict: str) -> None:
    port, to = "_25._tcp.mail.example.com.", "keys.provider.example."
    tlsa = mail_rrsets([], HOSTS, [], tlsa=[{"host": "mail.example.com", "digests": ["a" * 64]}])
    found = delegated([one for one in tlsa if one["type"] == "TLSA"], to, ["provider.example"], "mailroom1")
    expected = dataclasses.replace(
        LED, domains=[], hosts={}, wanted=[(one, "required") for one in wanted_sets(found, [])]
    )
    world = FakeWorld(
        {
            (port, "CNAME"): Answer(values=(f"{port}{to}",)),
            ("provider.example.", "SOA"): Answer(values=("ns. me. 1 2 3 4 5",), secure=secure),
        }
    )
    seen = [one for check in mail_checks.checks(expected, world) for one in check() if one.check == "delegation"]
    assert [(one.name, one.verdict) for one in seen] == [(port.rstrip("."), verdict)]


CERTIFICATE, PUBLIC = b"certificate", b"public key"
RIGHT = hashlib.sha256(PUBLIC).hexdigest()


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(values=(f"3 1 1 {RIGHT}",), secure=True), "ok"),
        (Answer(values=(f"3 1 1 {'0' * 64}", f"3 1 1 {RIGHT}"), secure=True), "ok"),  # the next key is published, too
        (Answer(values=(f"3 0 1 {hashlib.sha256(CERTIFICATE).hexdigest()}",), secure=True), "ok"),
        (Answer(values=(f"3 1 0 {PUBLIC.hex()}",), secure=True), "ok"),
        (Answer(values=(f"3 1 1 {'0' * 64}",), secure=True), "fails"),
        (Answer(values=(f"1 1 1 {RIGHT}",), secure=True), "fails"),  # RFC 7672 3.1.3: of no use for SMTP
        (Answer(values=(f"2 1 1 {'0' * 64}",), secure=True), "unknown"),
        (Answer(values=(f"3 1 1 {RIGHT}",)), "advice"),
    ],
)
def test_tlsa_is_compared_with_the_certificate_shown(answer: Answer, verdict: str) -> None:
    world = FakeWorld({("_25._tcp.mail.example.com.", "TLSA"): answer})
    [found] = mail_checks.served_certificate(EXPECTED, world, "mail.example.com", CERTIFICATE, PUBLIC)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("published", "secure", "verdicts"),
    [
        ((RIGHT, "b" * 64), True, ["ok"]),
        ((RIGHT,), True, ["advice"]),  # the next key is not told of
        ((), True, ["advice"]),
        ((), False, []),  # nobody could believe it
    ],
)
def test_tlsa_is_wanted_where_the_zone_is_signed(published: Sequence[str], secure: bool, verdicts: list[str]) -> None:
    [*_, tlsa] = sorted(
        mail_rrsets([], HOSTS, [], tlsa=[{"host": "mail.example.com", "digests": [RIGHT, "b" * 64]}]),
        key=lambda one: one["type"] == "TLSA",
    )
    expected = dataclasses.replace(EXPECTED, wanted=[(wanted_sets([tlsa], [])[0], tlsa["level"])])
    world = FakeWorld(
        {
            (tlsa["name"], "TLSA"): Answer(values=tuple(f"3 1 1 {each}" for each in published), secure=secure),
            ("example.com.", "SOA"): dataclasses.replace(GOOD["example.com.", "SOA"], secure=secure),
        }
    )
    found = [one for check in mail_checks.checks(expected, world) for one in check() if one.check == "TLSA record"]
    assert [one.verdict for one in found] == verdicts


def test_without_tlsa_nothing_is_said_of_it() -> None:
    assert mail_checks.served_certificate(EXPECTED, FakeWorld(), "mail.example.com", CERTIFICATE, PUBLIC) == []


@pytest.mark.parametrize(
    ("silent", "verdict", "text"),
    [
        (["2001:db8::54"], "advice", "ns2.example.com does not answer: no route"),
        (
            ["2001:db8::53", "2001:db8::54"],
            "unknown",
            "none answers from here, perhaps for want of IPv6 here: no route",
        ),
    ],
)
def test_name_servers_that_are_silent_over_ipv6_are_advice(silent: list[str], verdict: str, text: str) -> None:
    world = FakeWorld(servers={address: ZoneError("no route") for address in silent})
    [found] = [finding for finding in findings(world) if finding.check == "name servers, IPv6"]
    assert (found.verdict, found.whose, text in found.text) == (verdict, "external", True), found


def choice(version: int = 0x0303, **more: int) -> tls_hello.Choice:
    return tls_hello.Choice(version, 0xC02F, **more)


@pytest.mark.parametrize(
    ("offer", "check", "verdict", "whose", "text"),
    [
        ("timed out", "STARTTLS", "advice", "external", "cannot be looked at from here (timed out)"),
        (Offer(), "STARTTLS", "fails", "managed", "port 25 offers none"),
        (Offer(problem="no cipher"), "STARTTLS", "fails", "managed", "and then TLS fails (no cipher)"),
        (Offer("TLSv1.3"), "STARTTLS", "ok", "managed", "offered, TLSv1.3"),
        (Offer("TLSv1.3"), "TLS version", "ok", "managed", "none before TLS 1.2"),
        (Offer("TLSv1.3", old=choice(0x0301)), "TLS version", "advice", "managed", "TLS 1.0 is taken, too"),
        (Offer("TLSv1.3"), "TLS key exchange", "ok", "managed", "with forward secrecy alone, no DHE"),
        (Offer("TLSv1.3", dhe=choice(bits=2048)), "TLS key exchange", "ok", "managed", "DHE with 2048 bits"),
        (Offer("TLSv1.3", dhe=choice(bits=1024)), "TLS key exchange", "advice", "managed", "DHE with 1024 bits is"),
        (Offer("TLSv1.3", rsa=choice()), "TLS key exchange", "advice", "managed", "RSA without forward secrecy is"),
        (Offer("TLSv1.3", curve=choice(curve=21)), "TLS key exchange", "advice", "managed", "(number 21) is taken"),
        (Offer("TLSv1.3"), "TLS certificate", "ok", "managed", "has the name"),
        (Offer("TLSv1.3", distrust="expired"), "TLS certificate", "fails", "managed", "is not believed (expired)"),
    ],
)
def test_what_port_25_offers_is_judged(offer: Offer | str, check: str, verdict: str, whose: str, text: str) -> None:
    [found] = [finding for finding in mail_checks.port_25("mail.example.com", offer, "") if finding.check == check]
    assert (found.verdict, found.whose, text in found.text) == (verdict, whose, True), found


@pytest.mark.parametrize(
    ("problem", "verdict", "text"),
    [
        (None, "ok", "2001:db8::25 greets"),
        (
            OSError(errno.ENETUNREACH, "Network is unreachable"),
            "unknown",
            "for want of IPv6 here (Network is unreachable)",
        ),
        (TimeoutError("timed out"), "unknown", "does not answer from here"),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
            "fails",
            "says no ([Errno 111] Connection refused)",
        ),
        (SMTPConnectError(554, "no"), "fails", "run site.yml, or take mail_host_ipv6 out"),
    ],
)
def test_a_host_is_there_for_who_has_ipv6_alone(problem: Exception | None, verdict: str, text: str) -> None:
    [found] = mail_checks.over_ipv6("mail.example.com", "2001:db8::25", problem)
    assert (found.verdict, text in found.text) == (verdict, True), found
    assert found.whose == ("external" if verdict == "unknown" else "managed")


def test_an_authority_that_strangers_do_not_know_is_advice() -> None:
    found = mail_checks.port_25("mail.example.com", Offer("TLSv1.3"), "/ca.pem")[-1]
    assert (found.check, found.verdict) == ("TLS certificate", "advice")


POLICY = "version: STSv1\nmode: enforce\nmx: *.example.com\nmax_age: 604800\n"


@pytest.mark.parametrize(
    ("policy", "verdict", "text"),
    [
        (POLICY, "ok", "mode enforce"),
        (POLICY.replace("\n", "\r\n"), "ok", "mode enforce"),
        (POLICY.replace("*.example.com", "mx.example.com"), "fails", "leaves out mail.example.com"),
        (POLICY.replace("*.example.com", "*.com"), "fails", "leaves out mail.example.com"),
        (POLICY.replace("enforce", "testing"), "advice", "mode is testing"),
        (POLICY.replace("604800", "60"), "advice", "max_age is 60"),
        (POLICY.replace("STSv1", "STSv2"), "fails", "its policy is none"),
        ("! https://mta-sts.example.com/: refused", "fails", "cannot be had (https://mta-sts.example.com/: refused)"),
    ],
)
def test_an_mta_sts_policy_is_compared_with_mx(policy: str, verdict: str, text: str) -> None:
    world = FakeWorld({("_mta-sts.example.com.", "TXT"): Answer(values=("v=STSv1; id=1",))})
    [found] = mail_checks.served_policy(EXPECTED, world, "example.com", policy)
    assert (found.verdict, text in found.text) == (verdict, True), found


@pytest.mark.parametrize(
    ("answer", "verdict", "text"),
    [
        (Answer(values=("v=STSv1; id=1",)), "fails", "an earlier policy keeps to that (RFC 8461 3.1): run site.yml"),
        (Answer("NXDOMAIN"), "advice", "is not there: run site.yml"),
        (Answer(values=("v=STSv1; id=2",)), "ok", "id=2"),
    ],
)
def test_an_mta_sts_record_has_the_id_of_the_policy(answer: Answer, verdict: str, text: str) -> None:
    name = "_mta-sts.example.com."
    record = RECORDS[0] | {"name": name, "type": "TXT", "values": ["v=STSv1; id=2"]}
    expected = dataclasses.replace(EXPECTED, wanted=[(one, "recommended") for one in wanted_sets([record], [])])
    [found] = [
        finding
        for check in mail_checks.checks(expected, FakeWorld({(name, "TXT"): answer}))
        for finding in check()
        if finding.check == "MTA-STS record"
    ]
    assert (found.verdict, text in found.text) == (verdict, True), found


def test_an_mta_sts_policy_is_the_one_that_we_serve() -> None:
    world = FakeWorld({("_mta-sts.example.com.", "TXT"): Answer(values=("v=STSv1; id=1",))})

    def verdict(policy: str) -> str:
        ours = dataclasses.replace(EXPECTED, policy=POLICY)
        return mail_checks.served_policy(ours, world, "example.com", policy)[0].verdict

    assert verdict(POLICY.replace("\n", "\r\n")) == "ok"
    assert verdict(POLICY.replace("604800", "604801")) == "fails"


LISTED = ("25.2.0.192.bl.example.", "A")
TEST_ENTRY = ("2.0.0.127.bl.example.", "A")
LISTED6 = (f"5.2.{'0.' * 22}8.b.d.0.1.0.0.2.bl.example.", "A")
TEST_ENTRY6 = (f"2.0.0.0.0.0.f.7.f.f.f.f.{'0.' * 20}bl.example.", "A")  # RFC 5782, 5


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({TEST_ENTRY: Answer(values=("127.0.0.2",))}, "ok"),
        ({TEST_ENTRY: Answer(values=("127.0.0.2",)), LISTED: Answer(values=("127.0.0.4",))}, "fails"),
        ({TEST_ENTRY: Answer(values=("127.255.255.254",)), LISTED: Answer(values=("127.255.255.254",))}, "unknown"),
        ({}, "unknown"),
        ({TEST_ENTRY: Answer("no answer")}, "unknown"),
    ],
)
def test_a_block_list_s_error_is_no_listing(changes: Mapping[Key, Answer], verdict: str) -> None:
    [found] = mail_checks.block_list(FakeWorld(changes), "192.0.2.25", "bl.example")
    assert found.verdict == verdict
    both = {LISTED: LISTED6, TEST_ENTRY: TEST_ENTRY6}
    [found] = mail_checks.block_list(
        FakeWorld({both[key]: answer for key, answer in changes.items()}), "2001:db8::25", "bl.example"
    )
    assert found.verdict == verdict
