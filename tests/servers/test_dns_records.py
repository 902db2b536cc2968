"""Mail records in real zones of Knot, BIND and PowerDNS, each signed as its users sign, with other editors around.

Every test is done with every server.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.rcode
import dns.update
import dns.zone
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from filter_plugins.record_forms import record_forms
from library import dns_rrsets
from tests.name_servers import APEX, CONFIGURATIONS, REVERSE, SECRET, ZONES, NameServer, StartNameServer, running

if TYPE_CHECKING:
    from module_utils import dns_plan, dns_zone
else:  # the same modules that the module under test has
    from ansible.module_utils import dns_plan, dns_zone

pytestmark = pytest.mark.hosts

ROOT = Path(__file__).resolve().parents[2]
DMARC = "_dmarc.example.com."
DKIM = "mailroom1._domainkey.example.com."
HOST = "mail.example.com."
PTR = "25.2.0.192.in-addr.arpa."


@pytest.fixture
def server(name_server: NameServer) -> NameServer:
    return name_server


@pytest.fixture
def secondary(start_name_server: StartNameServer) -> NameServer:
    """A server that has the zones and takes over nothing."""
    return start_name_server("knot")


def rrset(name: str, kind: str, *values: str, shared: bool = False, ttl: int = 3600) -> dict[str, Any]:
    ownership = "shared" if shared else "exclusive"
    return {
        "name": name,
        "type": kind,
        "ttl": ttl,
        "values": list(values),
        "why": "tests",
        "rfc": "RFC 1035",
        "level": "required",
        "ownership": ownership,
    }


RECORDS = [
    rrset(HOST, "A", "192.0.2.25"),
    rrset(HOST, "AAAA", "2001:db8::25"),
    rrset(HOST, "TXT", "v=spf1 a -all", shared=True),
    rrset(APEX, "MX", "10 mail.example.com."),
    rrset(APEX, "TXT", "v=spf1 ip4:192.0.2.25 ~all", shared=True),
    rrset(DKIM, "TXT", f"v=DKIM1; k=rsa; p={'A' * 392}"),
    rrset(DMARC, "TXT", "v=DMARC1; p=quarantine"),
]


class Publisher:
    """The module with the parameters of one company."""

    def __init__(self, server: NameServer, directory: Path) -> None:
        self.key_file = directory / "tsig"
        self.key_file.write_text(f"{SECRET}\n", encoding="ascii")
        self.key_file.chmod(0o600)
        self.ledger = directory / "secrets" / "dns-ledger.json"
        self.zone: dict[str, Any] = {
            "name": "example.com",
            "server": "127.0.0.1",
            "port": server.port,
            "key_name": "mailroom",
            "key_algorithm": "hmac-sha256",
            "key_file": str(self.key_file),
        }

    def __call__(self, *records: dict[str, Any], check_mode: bool = False, **options: Any) -> dict[str, Any]:
        parameters = {
            "records": list(records) or RECORDS,
            "zones": [self.zone, self.zone | {"name": REVERSE}],
            "elsewhere": [],
            "ledger": str(self.ledger),
            "adopt": [],
            "remove": [],
            "mx_takeover": False,
            "spf_consolidate": False,
            "prune": False,
            "resolver": "127.0.0.1",
            "resolver_port": self.zone["port"],
            "timeout": 5.0,
            "readback_timeout": 5.0,
        }
        return dns_rrsets.run(parameters | options, check_mode)

    def refusal(self, *records: dict[str, Any], **options: Any) -> str:
        """Answer the one line with which the module gives up."""
        with pytest.raises(dns_rrsets.Refused) as refused:
            self(*records, **options)
        assert not refused.value.changed
        assert "\n" not in str(refused.value)
        return str(refused.value)


@pytest.fixture
def publish(server: NameServer, tmp_path: Path) -> Publisher:
    return Publisher(server, tmp_path)


def test_records_are_made_and_a_second_run_changes_nothing(server: NameServer, publish: Publisher) -> None:
    assert publish()["changed"]
    assert server.values(HOST, "A") == {"192.0.2.25"}
    assert server.values(HOST, "AAAA") == {"2001:db8::25"}
    assert server.values(APEX, "MX") == {"10 mail.example.com."}
    assert server.values(DMARC, "TXT") == {'"v=DMARC1; p=quarantine"'}
    serial, ledger = server.serial(), publish.ledger.stat().st_mtime_ns
    assert publish() == {"changed": False, "diff": [], "unmanaged": [], "leftovers": [], "warnings": []}
    assert (server.serial(), publish.ledger.stat().st_mtime_ns) == (serial, ledger)


@pytest.mark.parametrize("size", [392, 736])  # in base64, of 2048 and of 4096 bits
def test_a_long_key_is_split_and_read_as_one(server: NameServer, publish: Publisher, size: int) -> None:
    text = f"v=DKIM1; k=rsa; p={'A' * size}"
    publish(rrset(DKIM, "TXT", text))
    [value] = server.values(DKIM, "TXT")
    strings = value.strip('"').split('" "')
    assert [len(string) for string in strings[:-1]] == [255] * (len(text) // 255)
    assert "".join(strings) == text
    assert not publish(rrset(DKIM, "TXT", text))["changed"]


def test_text_of_others_stays_byte_for_byte(server: NameServer, publish: Publisher) -> None:
    foreign = server.values(APEX, "TXT")
    publish()
    assert server.values(APEX, "TXT") == foreign | {'"v=spf1 ip4:192.0.2.25 ~all"'}
    assert server.values(APEX, "A") == {"192.0.2.80"}


def test_keys_of_a_mail_host_are_published_where_the_zone_is_signed(server: NameServer, publish: Publisher) -> None:
    name, values = "_25._tcp.mail.example.com.", [f"3 1 1 {each * 64}" for each in "ab"]
    wanted = rrset(name, "TLSA", *values) | {"where": "signed"}
    signed = bool(server.values(APEX, "DNSKEY"))
    assert publish(wanted)["changed"] == signed
    found = {value.lower().replace(" ", "") for value in server.values(name, "TLSA")}
    assert found == ({value.replace(" ", "") for value in values} if signed else set())
    assert not publish(wanted)["changed"]


def test_an_alias_takes_no_name_that_others_use(server: NameServer, publish: Publisher) -> None:
    alias = rrset("mta-sts.example.com.", "CNAME", "mail.example.com.")
    server.edit(lambda message: message.add("mta-sts.example.com.", 60, "A", "192.0.2.80"))
    assert "mta-sts.example.com. has A and cannot be a CNAME too" in publish.refusal(alias)
    server.edit(lambda message: message.delete("mta-sts.example.com.", "A"))
    assert publish(alias)["changed"]
    assert server.values("mta-sts.example.com.", "CNAME") == {"mail.example.com."}
    assert not publish(alias)["changed"]


def test_who_others_let_issue_may_still_issue(server: NameServer, publish: Publisher) -> None:
    server.edit(lambda message: message.add(HOST, 3600, "CAA", '0 issue "other.example"'))
    before, after = (f'0 issue "ca.example{terms}"' for terms in ("", "; accounturi=https://ca.example/acct/7"))
    publish(rrset(HOST, "CAA", before, '0 issuewild ";"', shared=True))
    publish(rrset(HOST, "CAA", after, '0 issuewild ";"', shared=True))
    assert server.values(HOST, "CAA") == {'0 issue "other.example"', after, '0 issuewild ";"'}


def test_check_mode_shows_what_would_change_and_changes_nothing(server: NameServer, publish: Publisher) -> None:
    server.edit(lambda message: message.add(DMARC, 60, "TXT", '"v=DMARC1; p=quarantine"'))
    serial = server.serial()
    answer = publish(check_mode=True)
    assert answer["changed"]
    [diff] = answer["diff"]
    assert '_dmarc.example.com. 60 TXT "v=DMARC1; p=quarantine"\n' in diff["before"]
    assert '_dmarc.example.com. 3600 TXT "v=DMARC1; p=quarantine"\n' in diff["after"]
    assert "mail.example.com. 3600 A 192.0.2.25\n" in diff["after"]
    assert server.serial() == serial
    assert not publish.ledger.parent.exists()


def test_drift_is_repaired(server: NameServer, publish: Publisher) -> None:
    publish()
    server.edit(lambda message: message.delete(DMARC, "TXT"))
    server.edit(lambda message: message.replace(HOST, 60, "A", "192.0.2.25"))
    assert publish()["changed"]
    assert server.values(DMARC, "TXT") == {'"v=DMARC1; p=quarantine"'}
    assert server.ttl(HOST, "A") == 3600


def test_a_ttl_alone_is_set(server: NameServer, publish: Publisher) -> None:
    publish()
    before = server.values(DMARC, "TXT")
    [diff] = publish(*RECORDS[:-1], rrset(DMARC, "TXT", "v=DMARC1; p=quarantine", ttl=300))["diff"]
    assert diff["after"] == '_dmarc.example.com. 300 TXT "v=DMARC1; p=quarantine"\n'
    assert (server.values(DMARC, "TXT"), server.ttl(DMARC, "TXT")) == (before, 300)


def test_what_we_wrote_can_change(server: NameServer, publish: Publisher) -> None:
    publish()
    publish(
        rrset(HOST, "A", "192.0.2.26"),
        rrset(DKIM, "TXT", f"v=DKIM1; k=rsa; p={'B' * 392}"),
        rrset(DMARC, "TXT", "v=DMARC1; p=reject", ttl=300),
        rrset(APEX, "TXT", "v=spf1 ip4:192.0.2.26 ~all", shared=True),
    )
    assert server.values(HOST, "A") == {"192.0.2.26"}
    assert "BBB" in next(iter(server.values(DKIM, "TXT")))
    assert (server.values(DMARC, "TXT"), server.ttl(DMARC, "TXT")) == ({'"v=DMARC1; p=reject"'}, 300)
    assert '"v=spf1 ip4:192.0.2.26 ~all"' in server.values(APEX, "TXT")
    assert len(server.values(APEX, "TXT")) == 4


def test_a_lost_ledger_changes_nothing(publish: Publisher) -> None:
    publish()
    before = json.loads(publish.ledger.read_text(encoding="utf-8"))
    publish.ledger.unlink()
    assert not publish()["changed"]
    assert json.loads(publish.ledger.read_text(encoding="utf-8")) == before


def test_an_spf_record_of_others_is_merged(server: NameServer, publish: Publisher) -> None:
    server.edit(lambda message: message.add(APEX, 3600, "TXT", '"v=spf1 include:example.net -all"'))
    publish()
    assert '"v=spf1 ip4:192.0.2.25 include:example.net -all"' in server.values(APEX, "TXT")
    assert len(server.values(APEX, "TXT")) == 4
    assert not publish()["changed"]


def test_what_others_wrote_is_refused_in_one_line_for_each(server: NameServer, publish: Publisher) -> None:
    server.edit(lambda message: message.add(APEX, 3600, "MX", "1 mx.example.net."))
    server.edit(lambda message: message.add(DMARC, 3600, "TXT", '"v=DMARC1; p=reject"'))
    serial = server.serial()
    with pytest.raises(dns_rrsets.Refused) as refused:
        publish()
    lines = str(refused.value).splitlines()
    assert len(lines) == 2
    assert "dns_records_adopt" in lines[0]
    assert "dns_records_mx_takeover" in lines[1]
    assert server.serial() == serial
    publish(adopt=["_dmarc.example.com"], mx_takeover=True)
    assert server.values(APEX, "MX") == {"10 mail.example.com."}
    assert server.values(DMARC, "TXT") == {'"v=DMARC1; p=quarantine"'}


def test_an_alias_at_the_name_is_refused(server: NameServer, publish: Publisher) -> None:
    server.edit(lambda message: message.add(DMARC, 3600, "CNAME", "dmarc.example.net."))
    assert "_dmarc.example.com. is a CNAME of dmarc.example.net." in publish.refusal()
    assert server.values(HOST, "A") == set()


def test_a_wildcard_is_no_record_of_the_name(server: NameServer, publish: Publisher) -> None:
    assert server.values("mail.wild.example.com.", "A") == {"192.0.2.80"}
    publish(rrset("mail.wild.example.com.", "A", "192.0.2.25"))
    assert server.values("mail.wild.example.com.", "A") == {"192.0.2.25"}
    assert server.values("other.wild.example.com.", "A") == {"192.0.2.80"}


def test_a_record_equal_to_the_wildcard_is_somebodys(server: NameServer, publish: Publisher) -> None:
    server.edit(lambda message: message.add("mail.wild.example.com.", 3600, "A", "192.0.2.80"))
    assert "dns_records_adopt" in publish.refusal(rrset("mail.wild.example.com.", "A", "192.0.2.25"))
    publish(rrset("mail.wild.example.com.", "A", "192.0.2.25"), adopt=["mail.wild.example.com"])
    assert server.values("mail.wild.example.com.", "A") == {"192.0.2.25"}


def test_a_record_goes_into_the_zone_that_holds_its_name(server: NameServer, publish: Publisher) -> None:
    answer = publish(*RECORDS, rrset(PTR, "PTR", "mail.example.com."))
    assert answer["warnings"] == []
    assert server.values(PTR, "PTR") == {HOST}
    assert len(answer["diff"]) == 2


def test_a_conflict_in_one_zone_leaves_all_of_them_alone(server: NameServer, publish: Publisher) -> None:
    server.edit(lambda message: message.add(PTR, 3600, "PTR", "old.example.com."), zone=REVERSE)
    line = publish.refusal(*RECORDS, rrset(PTR, "PTR", "mail.example.com."))
    assert "25.2.0.192.in-addr.arpa. PTR is old.example.com., which we did not write" in line
    assert server.values(HOST, "A") == set()


def test_an_update_that_fails_in_one_zone_is_told_and_repeated(server: NameServer, publish: Publisher) -> None:
    records = [*RECORDS, rrset(PTR, "PTR", "mail.example.com.")]
    narrow = [publish.zone, publish.zone | {"name": REVERSE, "key_name": "half"}]
    with pytest.raises(dns_rrsets.Refused, match=r"refuses the update of 2\.0\.192\.in-addr\.arpa\.") as refused:
        publish(*records, zones=narrow)
    assert refused.value.changed
    assert server.values(HOST, "A") == {"192.0.2.25"}
    assert publish(*records)["changed"]
    assert server.values(PTR, "PTR") == {HOST}


def nothing_stands_against(_draft: dns_zone.Draft) -> tuple[list[str], list[str]]:
    return [], []


def draft_of(publish: Publisher, *records: dict[str, Any]) -> dns_zone.Draft:
    """Plan against the zone as it is now."""
    problems: list[str] = []
    [zone] = dns_zone.zones_of([publish.zone], problems)
    wanted = dns_zone.wanted_sets(records or RECORDS, problems)
    policy = dns_plan.Policy(apexes=frozenset({APEX}))
    assert not problems
    return dns_zone.prepare(zone, wanted, {}, policy, 5.0)


Edit = Callable[[dns.update.UpdateMessage], None]
STRANGERS_EDITS: dict[str, Edit] = {
    "a text was added": lambda message: message.add(APEX, 3600, "TXT", '"apple-domain-verification=x"'),
    "a text was removed": lambda message: message.delete(APEX, "TXT", '"MS=ms1"'),
    "a set of ours was made": lambda message: message.add(DMARC, 3600, "TXT", '"v=DMARC1; p=none"'),
    "an alias was made": lambda message: message.add(DMARC, 3600, "CNAME", "dmarc.example.net."),
}


@pytest.mark.parametrize("edit", STRANGERS_EDITS.values(), ids=STRANGERS_EDITS.keys())
def test_a_stale_plan_writes_nothing(server: NameServer, publish: Publisher, edit: Edit) -> None:
    draft = draft_of(publish)
    server.edit(edit)
    serial = server.serial()
    with pytest.raises(dns_zone.StaleError, match="somebody else is editing"):
        dns_zone.send(draft.server, draft.zone, draft.plan.changes, draft.observed)
    assert server.serial() == serial
    assert server.values(HOST, "A") == set()


def test_a_race_that_is_lost_once_is_planned_again(server: NameServer, publish: Publisher) -> None:
    draft = draft_of(publish)
    server.edit(STRANGERS_EDITS["a text was added"])
    done = dns_zone.carry_out(draft, nothing_stands_against)
    assert dns_zone.read_back(done, 5.0) == ([], [])
    assert {'"apple-domain-verification=x"', '"v=spf1 ip4:192.0.2.25 ~all"'} <= server.values(APEX, "TXT")
    [warning] = done.plan.warnings
    assert warning.endswith('planned once more (example.com. TXT got "apple-domain-verification=x")')


@pytest.fixture
def faster(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[Edit], None]:
    """Have somebody edit the zone between the first plan and its update."""

    def arranged(edit: Edit) -> None:
        send, edits = dns_zone.send, iter([edit])

        def late(*arguments: Any) -> None:
            for one in edits:
                server.edit(one)
            send(*arguments)

        monkeypatch.setattr(dns_zone, "send", late)

    return arranged


def too_much(message: dns.update.UpdateMessage) -> None:
    """An SPF record at its limit."""
    message.add(APEX, 3600, "TXT", '"v=spf1 include:spf.example.com -all"')
    message.add("spf.example.com.", 3600, "TXT", f'"v=spf1 {"a:www.example.com " * 10}-all"')


def test_an_spf_record_that_came_meanwhile_is_followed(
    server: NameServer, publish: Publisher, faster: Callable[[Edit], None]
) -> None:
    faster(too_much)
    assert "TXT: receivers would give up on SPF (a:www.example.com is lookup 11, 10 are allowed)" in publish.refusal()
    assert '"v=spf1 include:spf.example.com -all"' in server.values(APEX, "TXT")
    assert server.values(HOST, "A") == set()


def test_who_gets_reports_is_asked_when_their_record_went_meanwhile(
    server: NameServer, publish: Publisher, faster: Callable[[Edit], None]
) -> None:
    reports = f"v=DMARC1; p=none; rua=mailto:a@{REVERSE}"
    records = [*RECORDS[:-1], rrset(DMARC, "TXT", reports)]
    server.edit(lambda message: message.add(DMARC, 3600, "TXT", f'"{reports}"'))

    def edit(message: dns.update.UpdateMessage) -> None:
        message.delete(DMARC, "TXT")
        message.add(APEX, 3600, "TXT", '"apple-domain-verification=x"')

    faster(edit)
    assert f"{REVERSE} has not agreed to get its DMARC reports" in publish.refusal(*records)
    assert server.values(HOST, "A") == server.values(DMARC, "TXT") == set()


def test_what_one_update_cannot_hold_is_written_in_parts(
    server: NameServer, publish: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, updates = dns_zone.Server.update, list[int]()

    def late(asked: dns_zone.Server, message: dns.update.UpdateMessage) -> dns.rcode.Rcode:
        updates.append(len(message.update))
        if len(updates) == 2:  # between the first part and the next
            server.edit(lambda message: message.add(HOST, 3600, "TXT", '"apple-domain-verification=x"'))
        return update(asked, message)

    monkeypatch.setattr(dns_zone, "_MOST", 100)
    monkeypatch.setattr(dns_zone.Server, "update", late)
    answer = publish()
    [diff] = answer["diff"]
    assert {line.split()[0] for line in diff["after"].splitlines()} == {record["name"] for record in RECORDS}
    [warning] = answer["warnings"]
    assert warning.endswith('planned once more (mail.example.com. TXT got "apple-domain-verification=x")')
    assert len(updates) > 4
    assert server.values(HOST, "TXT") == {'"apple-domain-verification=x"', '"v=spf1 a -all"'}
    assert '"v=spf1 ip4:192.0.2.25 ~all"' in server.values(APEX, "TXT")
    serial, ledger = server.serial(), publish.ledger.read_text(encoding="utf-8")
    assert not publish()["changed"]
    assert (server.serial(), publish.ledger.read_text(encoding="utf-8")) == (serial, ledger)
    assert publish(*RECORDS[:1], prune=True)["changed"]
    assert server.values(DMARC, "TXT") == set()


def test_a_part_that_was_written_is_told_when_another_is_not(
    server: NameServer, publish: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = dns_zone.Server.update

    def late(asked: dns_zone.Server, message: dns.update.UpdateMessage) -> dns.rcode.Rcode:
        refused = any(rrset.name.to_text() == DMARC for rrset in message.update)
        return dns.rcode.REFUSED if refused else update(asked, message)

    with monkeypatch.context() as patch:
        patch.setattr(dns_zone, "_MOST", 100)
        patch.setattr(dns_zone.Server, "update", late)
        with pytest.raises(dns_rrsets.Refused, match="refuses the update of") as refused:
            publish()
    assert refused.value.changed
    server.settle()
    ours = {'"v=spf1 ip4:192.0.2.25 ~all"'}
    assert server.values(APEX, "TXT") & ours == ours
    assert server.values(DMARC, "TXT") == set()
    publish(*RECORDS[:-3], rrset(APEX, "TXT", "v=spf1 ip4:192.0.2.99 ~all", shared=True), *RECORDS[-2:])
    assert '"v=spf1 ip4:192.0.2.99 ~all"' in server.values(APEX, "TXT")
    assert not server.values(APEX, "TXT") & ours


def test_a_change_that_is_not_shown_yet_is_waited_for(server: NameServer, publish: Publisher) -> None:
    """BIND that signs goes by what was changed, and answers with what was there before until it has signed it."""

    def much(message: dns.update.UpdateMessage) -> None:
        message.add(APEX, 3600, "TXT", '"apple-domain-verification=x"')
        for number in range(300):
            message.add(f"host{number}.example.com.", 3600, "A", "192.0.2.80")

    draft = draft_of(publish)
    server.change(much)
    assert dns_zone.read_back(dns_zone.carry_out(draft, nothing_stands_against), 5.0) == ([], [])
    assert {'"apple-domain-verification=x"', '"v=spf1 ip4:192.0.2.25 ~all"'} <= server.values(APEX, "TXT")


def test_a_race_that_is_lost_twice_is_given_up(
    server: NameServer, publish: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, numbers = dns_zone.send, iter(range(9))

    def late(*arguments: Any) -> None:
        server.edit(lambda message: message.add(APEX, 3600, "TXT", f'"edit {next(numbers)}"'))
        send(*arguments)

    monkeypatch.setattr(dns_zone, "send", late)
    line = publish.refusal()
    assert "somebody else is editing" in line
    assert 'example.com. TXT got "edit 0"' in line
    assert next(numbers) == 2
    assert {'"edit 0"', '"edit 1"'} < server.values(APEX, "TXT")
    assert server.values(HOST, "A") == set()
    monkeypatch.undo()
    assert publish()["changed"]


def test_the_inverse_brings_everything_back(server: NameServer, publish: Publisher) -> None:
    server.edit(lambda message: message.add(APEX, 3600, "TXT", '"v=spf1 include:example.net -all"'))
    before = server.values(APEX, "TXT")
    draft = draft_of(publish)
    assert dns_zone.read_back(dns_zone.carry_out(draft, nothing_stands_against), 5.0) == ([], [])
    undo = dns_plan.inverse(draft.plan.changes)
    observed = dns_zone.observe(draft.server, draft.zone, draft.wanted, {})
    dns_zone.send(draft.server, draft.zone, undo, observed)
    server.settle()
    assert server.values(APEX, "TXT") == before
    assert {name: server.values(name, kind) for name, kind in [(HOST, "A"), (DKIM, "TXT"), (APEX, "MX")]} == {
        HOST: set(),
        DKIM: set(),
        APEX: set(),
    }


def test_what_is_wanted_no_longer_is_told_and_goes_when_told(server: NameServer, publish: Publisher) -> None:
    publish()
    assert publish(*RECORDS[:-1])["leftovers"] == ["_dmarc.example.com. TXT"]
    assert server.values(DMARC, "TXT")
    assert publish(*RECORDS[:-1], prune=True)["changed"]
    assert not server.values(DMARC, "TXT")
    assert publish(*RECORDS[:-1], prune=True)["changed"] is False


def test_the_name_of_an_address_goes_with_it(server: NameServer, publish: Publisher) -> None:
    """Though it lies in another zone."""
    publish(rrset(HOST, "A", "192.0.2.25"), rrset(PTR, "PTR", HOST))
    assert server.values(PTR, "PTR") == {HOST}
    assert publish(rrset(HOST, "A", "192.0.2.26"))["leftovers"] == []
    assert server.values(PTR, "PTR") == set()


def test_what_others_have_is_asked_before_the_first_update(server: NameServer, publish: Publisher) -> None:
    theirs = '"v=spf1 include:spf.example.com -all"'

    def edit(message: dns.update.UpdateMessage) -> None:
        message.add(APEX, 3600, "TXT", theirs)
        message.add("spf.example.com.", 3600, "TXT", f'"v=spf1 {"a:mail.example.com " * 10}-all"')
        message.add(HOST, 3600, "A", "192.0.2.25")

    server.edit(edit)
    serial = server.serial()
    assert "TXT: receivers would give up on SPF (a:mail.example.com is lookup 11, 10 are allowed)" in publish.refusal()
    reports = rrset(DMARC, "TXT", f"v=DMARC1; p=none; rua=mailto:a@{REVERSE}")
    permission = f"example.com._report._dmarc.{REVERSE}"
    assert f'have it publish {permission} TXT "v=DMARC1;"' in publish.refusal(reports)
    assert server.serial() == serial
    assert publish(reports, rrset(f"{permission}.", "TXT", "v=DMARC1;"))["changed"]


def test_a_name_to_remove_loses_what_we_wrote_and_nothing_else(server: NameServer, publish: Publisher) -> None:
    publish(*RECORDS)
    without = [one for one in RECORDS if one["name"] not in (DKIM, DMARC)]
    foreign = "mailroom0._domainkey.example.com."
    server.edit(lambda message: message.add(foreign, 60, "TXT", '"v=DKIM1; p="'))
    answer = publish(*without, remove=[DKIM, foreign])
    assert answer["leftovers"] == ["_dmarc.example.com. TXT"]
    assert not server.values(DKIM, "TXT")
    assert server.values(DMARC, "TXT")
    assert server.values(foreign, "TXT")


def test_that_a_set_is_shown_is_seen_and_how_long_others_may_remember(server: NameServer, publish: Publisher) -> None:
    draft = draft_of(publish)
    [dmarc] = [one for one in draft.wanted if one.name == DMARC]
    servers, unknown = dns_zone.authoritative(draft.zone, 5.0)
    assert unknown == []
    reason = {(DMARC, "TXT"): f"127.0.0.1 port {server.port} does not show {DMARC} TXT"}
    assert dns_zone.not_shown(servers, APEX, [dmarc]) == (reason, 60)
    publish()
    assert dns_zone.not_shown(servers, APEX, [dmarc]) == ({}, 3600)
    publish(*RECORDS[:-1], rrset(DMARC, "TXT", "v=DMARC1; p=none"))
    assert dns_zone.not_shown(servers, APEX, [dmarc]) == (reason, 3600)


def test_what_is_wanted_no_longer_is_told_once(publish: Publisher) -> None:
    publish(*RECORDS, rrset(PTR, "PTR", "former.example.com."))
    assert publish()["leftovers"] == [f"{PTR} PTR"]


def test_what_was_written_before_a_crash_is_ours(
    server: NameServer, publish: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dns_zone, "read_back", crash)
    with pytest.raises(KeyboardInterrupt):
        publish()
    monkeypatch.undo()
    server.settle()
    assert server.values(DMARC, "TXT") == {'"v=DMARC1; p=quarantine"'}
    publish(rrset(DMARC, "TXT", "v=DMARC1; p=reject"))
    assert server.values(DMARC, "TXT") == {'"v=DMARC1; p=reject"'}


def test_records_of_no_zone_of_ours_are_told(publish: Publisher) -> None:
    answer = publish(*RECORDS, rrset("example.org.", "MX", "10 mail.example.com."))
    assert answer["unmanaged"] == [
        {"record": "example.org. 3600 IN MX 10 mail.example.com.", "level": "required", "why": "tests"}
    ]
    assert "example.org. 3600 IN MX 10 mail.example.com." in answer["warnings"][0]


def test_a_wrong_secret_is_told(server: NameServer, publish: Publisher) -> None:
    publish.key_file.write_text(SECRET[::-1].swapcase(), encoding="ascii")
    line = publish.refusal()
    assert "key mailroom" in line
    assert "secret" in line
    assert server.values(HOST, "A") == set()


def test_an_unknown_key_is_told(publish: Publisher) -> None:
    publish.zone["key_name"] = "nobody"
    assert "key nobody" in publish.refusal()


def test_a_key_without_rights_is_told(server: NameServer, publish: Publisher) -> None:
    publish.zone["key_name"] = "narrow"
    line = publish.refusal()
    assert "refuses the update of example.com. by key narrow" in line
    assert server.values(HOST, "A") == set()


def test_another_time_is_told(server: NameServer, publish: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() - 3600)
    line = publish.refusal()
    assert "clocks" in line
    assert ("BADTIME" in line) == (server.kind != "powerdns")  # which never says why it does not take a key


def test_another_algorithm_than_the_keys_is_told(publish: Publisher) -> None:
    publish.zone["key_algorithm"] = "hmac-sha512"
    assert "the key mailroom" in publish.refusal()


def test_a_zone_that_the_server_does_not_have_is_told(publish: Publisher) -> None:
    publish.zone["name"] = "example.org"
    line = publish.refusal(rrset("example.org.", "MX", "10 mail.example.com."))
    assert "example.org." in line
    assert "REFUSED" in line or "NOTAUTH" in line
    assert "the zone" in line


@pytest.mark.parametrize(
    ("kind", "usual", "other"),
    [
        ("bind", "update-policy {{ grant mailroom zonesub ANY; grant narrow zonesub A; }};", ""),
        ("powerdns", "dnsupdate=yes", "dnsupdate=no"),
        ("powerdns", "dnsupdate=yes", "dnsupdate=yes\nallow-dnsupdate-from=192.0.2.1"),
    ],
)
def test_a_server_that_takes_no_updates_is_told(kind: str, usual: str, other: str, tmp_path: Path) -> None:
    _, configuration, _ = CONFIGURATIONS[kind]
    assert usual in configuration
    with running(kind, tmp_path, configuration.replace(usual, other)) as server:
        assert "refuses the update of example.com. by key mailroom" in Publisher(server, tmp_path).refusal()


def test_a_server_that_cannot_write_is_told(tmp_path: Path) -> None:
    with running("bind", tmp_path) as server:
        (tmp_path / "example.com.zone.jnl").mkdir()
        assert "answers SERVFAIL to the update of example.com.: see its log" in Publisher(server, tmp_path).refusal()


def test_a_zone_that_is_broken_on_its_server_is_told(tmp_path: Path) -> None:
    with running("bind", tmp_path) as server:
        server.stop()
        (tmp_path / f"{REVERSE}.zone").write_text("no zone at all", encoding="utf-8")
        server.start()
        line = Publisher(server, tmp_path).refusal(rrset(PTR, "PTR", HOST))
        assert "answers SERVFAIL when asked for 2.0.192.in-addr.arpa. SOA: see its log" in line


def test_a_secondary_in_place_of_the_primary_is_told(tmp_path: Path, start_name_server: StartNameServer) -> None:
    primaries = f"primaries {{{{ 127.0.0.1 port {start_name_server('bind').port} key mailroom; }}}};"
    _, configuration, _ = CONFIGURATIONS["bind"]
    head, _, tail = configuration.partition("zone example.com {{\n")
    reverse = tail[tail.index("zone 2.0.192") :]
    secondary = f"{head}zone example.com {{{{ type secondary; {primaries} }}}};\n{reverse}"
    with running("bind", tmp_path, secondary) as server:
        assert "or give the primary as server" in Publisher(server, tmp_path).refusal()


def test_a_name_inside_the_zone_is_no_zone(publish: Publisher) -> None:
    publish.zone["name"] = "www.example.com"
    assert "has no zone www.example.com." in publish.refusal(rrset("x.www.example.com.", "A", "192.0.2.25"))


def test_a_server_that_is_down_is_told(server: NameServer, publish: Publisher) -> None:
    server.stop()
    line = publish.refusal()
    assert f"127.0.0.1 port {server.port} cannot be reached" in line


def test_a_server_that_is_silent_is_told(publish: Publisher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        publish.zone["port"] = silent.getsockname()[1]
        assert "does not answer within 0.2 s" in publish.refusal(timeout=0.2)


def test_a_server_that_does_not_follow_is_told(
    server: NameServer, secondary: NameServer, publish: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = dns_zone._servers

    def both(server: dns_zone.Server, zone: dns_zone.Zone) -> tuple[list[dns_zone.Server], list[str]]:
        servers, unknown = known(server, zone)
        return [*servers, dns_zone.Server("ns2.example.com.", secondary.port, 5.0, address="127.0.0.1")], unknown

    monkeypatch.setattr(dns_zone, "_servers", both)
    with pytest.raises(
        dns_rrsets.Refused, match=r"ns2\.example\.com\. \(127\.0\.0\.1\) port \d+ does not show"
    ) as late:
        publish(readback_timeout=0.3)
    assert late.value.changed
    assert server.values(HOST, "A") == {"192.0.2.25"}
    assert not publish()["changed"]


def test_all_name_servers_of_the_zone_are_read(server: NameServer, publish: Publisher) -> None:
    server.edit(lambda message: message.add("ns2.example.com.", 3600, "A", "127.0.0.2"))
    server.edit(lambda message: message.add(APEX, 3600, "NS", "ns2.example.com.", "lost.invalid."))
    draft = draft_of(publish)
    servers, unknown = dns_zone._servers(draft.server, draft.zone)
    assert [str(one) for one in servers] == [
        f"127.0.0.1 port {server.port}",
        "ns2.example.com. (127.0.0.2) port 53",
    ]
    assert [line.split()[0] for line in unknown] == ["lost.invalid."]


def test_a_hundred_names_are_observed_in_one_conversation(server: NameServer, publish: Publisher) -> None:
    many = [rrset(f"host{number}.example.com.", "A", "192.0.2.25") for number in range(100)]
    publish(*many)
    assert server.values("host99.example.com.", "A") == {"192.0.2.25"}
    assert not publish(*many)["changed"]


def test_lines_to_enter_by_hand_can_be_included_by_bind(tmp_path: Path) -> None:
    records = [
        *RECORDS,
        rrset("_25._tcp.mail.example.com.", "TLSA", f"3 1 1 {'ab' * 32}", f"3 1 1 {'cd' * 32}"),
        rrset("mta-sts.example.com.", "CNAME", HOST),
        rrset(HOST, "CAA", '0 issue "ca.example; validationmethods=http-01"', shared=True),
        rrset(f"_smtp._tls.{APEX}", "TXT", 'v=TLSRPTv1; rua=mailto:"a\\b"@example.com'),
    ]
    lines = "".join(f"{form['line']}\n" for form in record_forms(records, ["example.com"], []))
    (tmp_path / "mail.zone").write_text(lines, encoding="utf-8")
    (tmp_path / "zone").write_text(f"{ZONES['example.com']}$INCLUDE {tmp_path}/mail.zone\n", encoding="utf-8")
    command = ["named-checkzone", "-q", "-D", "-o", "-", "example.com", str(tmp_path / "zone")]
    dump = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    loaded = dns.zone.from_text(dump, APEX, relativize=False)
    for record in records:
        found = loaded.get_rdataset(record["name"], record["type"])
        assert found is not None, record
        assert {dns_zone.to_value(rdata) for rdata in found} >= set(record["values"])


PLAYBOOK = """
- name: Publish
  hosts: mail_hosts
  gather_facts: false
  roles: [dns_records]
"""
INVENTORY = """
all:
  children:
    mail_hosts:
      hosts:
        mail.example.com: {{mail_host_ipv4: 192.0.2.25, mail_host_ipv6: "2001:db8::25"}}
        mail2.example.com: {{mail_host_ipv4: 192.0.2.26}}
  vars:
    secrets_directory: "{{{{ inventory_dir }}}}/secrets"
    certificate_mode: files
    certificate_key_file: "{{{{ secrets_directory }}}}/{{{{ inventory_hostname }}}}.key"
    certificate_next_key_file: "{{{{ secrets_directory }}}}/{{{{ inventory_hostname }}}}.next.key"
    dkim_selector: mailroom1
    odoo_databases:
      - {{name: prod, domains: [{{name: example.com}}]}}
    dns_records_zones:
      - {{name: example.com, server: 127.0.0.1, port: {port}, key_name: mailroom, key_file: "{key_file}"}}
"""


def new_key(file: Path) -> str:
    """Write a key, and answer the TLSA record that is right for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"3 1 1 {hashlib.sha256(der).hexdigest()}"


@pytest.mark.parametrize("name_server", ["knot-signed"], indirect=True)
def test_the_role_publishes_for_all_hosts_once(server: NameServer, publish: Publisher, tmp_path: Path) -> None:
    inventory = tmp_path / "inventory"
    secrets = inventory / "secrets"
    secrets.mkdir(parents=True)
    keys = {
        name: [new_key(secrets / f"{name}{suffix}.key") for suffix in ("", ".next")]
        for name in ("mail.example.com", "mail2.example.com")
    }
    hosts = INVENTORY.format(port=server.port, key_file=publish.key_file)
    (inventory / "hosts.yml").write_text(hosts, encoding="utf-8")
    (tmp_path / "publish.yml").write_text(PLAYBOOK, encoding="utf-8")

    def play(*arguments: str) -> str:
        command = ["ansible-playbook", "-i", str(inventory), str(tmp_path / "publish.yml"), *arguments]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "LC_ALL": "C.UTF-8"}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARNING" not in done.stderr
        return done.stdout

    shown = play("--check", "--diff")
    assert "+example.com. 3600 MX 10 mail2.example.com.\n" in shown
    assert "changed=1" in shown
    assert server.values(HOST, "A") == set()
    play()
    assert server.values(APEX, "MX") == {"10 mail.example.com.", "10 mail2.example.com."}
    assert '"v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 ip4:192.0.2.26 ~all"' in server.values(APEX, "TXT")
    for name, values in keys.items():
        assert server.values(f"_25._tcp.{name}.", "TLSA") == set(values)
    again = play("--limit", "mail2.example.com", "--diff")
    assert "changed=0" in again

    (secrets / "mail2.example.com.next.key").replace(secrets / "mail2.example.com.key")
    following = new_key(secrets / "mail2.example.com.next.key")
    assert "PRIVATE" not in play("-vvv")
    assert server.values("_25._tcp.mail.example.com.", "TLSA") == set(keys["mail.example.com"])
    assert server.values("_25._tcp.mail2.example.com.", "TLSA") == {keys["mail2.example.com"][1], following}
