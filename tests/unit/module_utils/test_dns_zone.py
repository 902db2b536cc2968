"""Zones on their servers, as far as no name server is needed: values, names, keys, and servers that misbehave."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdataset
import dns.rdatatype
import dns.tsig
import dns.update
import pytest
from hypothesis import given
from hypothesis import strategies as st

from module_utils import dns_zone
from module_utils.dns_plan import Change, Policy, RRset, Wanted
from module_utils.dns_zone import Server, StaleError, Zone, ZoneError

SECRET = "c2l4dGVlbiBieXRlcyBhcmUgbm90IGVub3VnaCBoZXJl"


@given(st.text(st.characters(max_codepoint=255), max_size=600))
def test_property_text_survives_the_wire(text: str) -> None:
    rdata = dns_zone.to_rdata("TXT", text)
    assert dns_zone.to_value(rdata) == text
    assert dns_zone.to_value(dns.rdata.from_text("IN", "TXT", rdata.to_text())) == text


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("MX", "10 Mail.Example.COM", "10 mail.example.com."),
        ("AAAA", "2001:DB8:0::25", "2001:db8::25"),
        ("PTR", "MAIL.example.com.", "mail.example.com."),
        ("CAA", '0 issue "example.net"', '0 issue "example.net"'),
        ("TLSA", f"3 1 1 {'AB' * 32}", f"3 1 1 {'ab' * 32}"),
        ("SRV", "0 1 993 Mail.example.com", "0 1 993 mail.example.com."),
    ],
)
def test_values_have_one_spelling(kind: str, one: str, other: str) -> None:
    assert dns_zone.to_value(dns_zone.to_rdata(kind, one)) == other


@pytest.mark.parametrize(
    ("kind", "value"),
    [("A", "192.0.2.256"), ("MX", "mail.example.com."), ("TXT", "\u20ac"), ("BOGUS", "x"), ("PTR", f"{'a' * 64}.x.")],
)
def test_a_value_of_another_type_is_refused(kind: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"is no value of type {kind} .*: correct it"):
        dns_zone.to_rdata(kind, value)


def test_names_are_absolute_and_in_lower_case() -> None:
    assert dns_zone.absolute("Mail.Example.com") == dns_zone.absolute("mail.example.com.") == "mail.example.com."


@pytest.mark.parametrize("name", [f"{'a' * 64}.example.com", ".".join(["a" * 60] * 5), "a..example.com", "\\1.example"])
def test_a_name_that_dns_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name in DNS"):
        dns_zone.absolute(name)


def zone(name: str = "example.com.", **parts: str) -> Zone:
    return Zone(name, "127.0.0.1", "mailroom.", **{"key_file": "none", **parts})  # type: ignore[arg-type]


def test_a_name_belongs_to_the_longest_zone_that_holds_it() -> None:
    zones = [zone("example.com."), zone("erp.example.com.")]
    assert dns_zone.zone_of("mail.example.com.", zones) == zones[0]
    assert dns_zone.zone_of("erp.example.com.", zones) == zones[1]
    assert dns_zone.zone_of("_dmarc.erp.example.com.", zones) == zones[1]
    assert dns_zone.zone_of("notexample.com.", zones) is None


def test_what_is_set_by_hand_is_written_as_in_a_zone_file() -> None:
    one = Wanted("k._domainkey.example.com.", "TXT", RRset(3600, frozenset({"p=" + "A" * 300})))
    assert dns_zone.by_hand(one) == [
        f'k._domainkey.example.com. 3600 IN TXT "p={"A" * 253}" "{"A" * 47}"',
    ]


def test_wildcards_of_all_levels_may_answer_for_a_name() -> None:
    assert dns_zone._stars(("a.b.example.com.", "A"), zone()) == [("*.b.example.com.", "A"), ("*.example.com.", "A")]
    assert dns_zone._stars(("example.com.", "A"), zone()) == []


@pytest.mark.parametrize("algorithm", ["hmac-md5.sig-alg.reg.int", "hmac-sha1", "hmac-sha224", "nonsense"])
def test_a_weak_algorithm_is_refused(algorithm: str) -> None:
    with pytest.raises(ZoneError, match="use hmac-sha256 or hmac-sha384 or hmac-sha512"):
        dns_zone._key(zone(key_algorithm=algorithm))


@pytest.mark.parametrize(
    ("content", "mode", "complaint"),
    [
        (None, 0, "cannot be read (No such file or directory)"),
        (SECRET, 0o644, "can be read by everybody"),
        ("not base64!", 0o600, "is no TSIG secret"),
        ("caf\xe9", 0o600, "is no TSIG secret"),
        ("\n", 0o600, "is no TSIG secret"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_refused(
    content: str | None, mode: int, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "tsig"
    if content is not None:
        path.write_text(content, encoding="utf-8")
        path.chmod(mode)
    with pytest.raises(ZoneError) as error:
        dns_zone._key(zone(key_file=str(path)))
    assert f"key_file {path} of zone example.com. {complaint}" in str(error.value)
    assert SECRET not in str(error.value)


@contextmanager
def scripted(reply: bytes | None) -> Iterator[int]:
    """Answer the port of a server that takes one message and sends reply, or closes without one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                [size] = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))
                connection.recv(size, socket.MSG_WAITALL)
                if reply is not None:
                    connection.sendall(struct.pack("!H", len(reply)) + reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


def reply(rcode: dns.rcode.Rcode = dns.rcode.NOERROR, number: int = 1, name: str = "example.com.") -> bytes:
    """Answer an answer to a question for the zone's SOA, without authority."""
    answer = dns.message.make_response(dns.message.make_query(name, "SOA", id=number, flags=0))
    answer.set_rcode(rcode)
    return answer.to_wire()


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (None, "cannot be reached (it closes the connection)"),
        (b"", "sends no valid answer"),
        (b"HTTP/1.1 400 Bad Request\r\n", "sends no valid answer"),
        (reply(dns.rcode.REFUSED), "answers REFUSED when asked for example.com. SOA"),
        (reply(), "is not authoritative for example.com."),
        (reply(number=2), "sends no valid answer"),
        (reply(name="example.org."), "sends no valid answer (it does not belong to the question)"),
        (dns.message.make_query("example.com.", "SOA", id=1).to_wire(), "sends no valid answer"),
    ],
)
def test_a_server_that_misbehaves_is_told_in_one_line(reply: bytes | None, complaint: str) -> None:
    with scripted(reply) as port, pytest.raises(ZoneError) as error:
        Server("127.0.0.1", port, 2).ask([("example.com.", "SOA")])
    assert str(error.value).startswith(f"127.0.0.1 port {port} {complaint}")
    assert "\n" not in str(error.value)


def test_an_answer_without_a_signature_is_not_believed() -> None:
    key = dns.tsig.Key("mailroom", SECRET, "hmac-sha256")
    answer = dns.message.make_response(dns.message.make_query("example.com.", "SOA", id=1, flags=0))
    answer.flags |= dns.flags.AA
    with scripted(answer.to_wire()) as port, pytest.raises(ZoneError, match="NOERROR without a signature"):
        Server("127.0.0.1", port, 2, key).ask([("example.com.", "SOA")])


def test_an_update_that_is_confirmed_without_a_signature_is_not_believed() -> None:
    key = dns.tsig.Key("mailroom", SECRET, "hmac-sha256")
    update = dns.update.UpdateMessage("example.com.", id=1)
    with scripted(dns.message.make_response(update).to_wire()) as port, pytest.raises(ZoneError, match="a signature"):
        Server("127.0.0.1", port, 2, key).update(update)


@pytest.mark.parametrize(
    ("rcode", "complaint"),
    [
        (dns.rcode.SERVFAIL, "answers SERVFAIL to the update of example.com.: see its log"),
        (dns.rcode.NOTIMP, "answers NOTIMP"),
        (dns.rcode.NOTAUTH, "is not the primary of example.com. (NOTAUTH): give the primary as server"),
        (dns.rcode.NOTZONE, "is not the primary of example.com. (NOTZONE): give the primary as server"),
        (dns.rcode.REFUSED, "refuses the update of example.com. by key mailroom: allow this key"),
    ],
)
def test_every_refusal_of_an_update_is_told(
    rcode: dns.rcode.Rcode, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server("192.0.2.53", 53, 2)
    monkeypatch.setattr(server, "update", lambda _message: rcode)
    with pytest.raises(ZoneError) as error:
        dns_zone.send(server, zone(), [changed("a")], {})
    assert str(error.value).startswith(f"192.0.2.53 port 53 {complaint}")


@pytest.mark.parametrize("rcode", ["NXRRSET", "YXRRSET", "NXDOMAIN", "YXDOMAIN"])
def test_a_prerequisite_that_fails_is_somebody_else_s_edit(rcode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server("192.0.2.53", 53, 2)
    monkeypatch.setattr(server, "update", lambda _message: dns.rcode.from_text(rcode))
    with pytest.raises(StaleError, match="somebody else is editing this zone: run again when they are done"):
        dns_zone.send(server, zone(), [changed("a")], {})


def test_what_one_update_cannot_hold_goes_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names with the same end go together, and what was written before the zone changed is not forgotten."""
    names = [f"{record}.customer{number}" for record in ("_dmarc", "s1._domainkey") for number in range(100)]
    changes = [changed(name, "x" * 400) for name in [*names, "customer50"]]
    changes.insert(7, Change(("mail.example.com.", "A"), None, RRset(60, frozenset({"192.0.2.25"}))))
    server, sent = Server("192.0.2.53", 53, 2), list[dns.update.UpdateMessage]()

    def take(message: dns.update.UpdateMessage) -> dns.rcode.Rcode:
        sent.append(message)
        return next(answers)

    answers = iter([dns.rcode.NOERROR, dns.rcode.NOERROR, dns.rcode.NXRRSET])
    shown = list[int]()
    monkeypatch.setattr(dns_zone, "_lagging", lambda _server, made, _deadline: shown.append(len(made)))
    monkeypatch.setattr(server, "update", take)
    with pytest.raises(StaleError) as stale:
        dns_zone.send(server, zone(), changes, {})
    assert stale.value.begun
    assert shown == [len(message.update) for message in sent[:2]]
    answers = iter([dns.rcode.NOERROR] * 3)
    sent.clear()
    dns_zone.send(server, zone(), changes, {})
    assert all(len(message.to_wire(max_size=65535)) < 49152 for message in sent)
    assert len(sent) == 3
    places = [{rrset.name.to_text() for rrset in message.update} for message in sent]
    assert sum(map(len, places)) == 202
    assert sent[0].update[0].rdtype == dns.rdatatype.A
    together = {"_dmarc.customer50.example.com.", "s1._domainkey.customer50.example.com.", "customer50.example.com."}
    assert [place & together for place in places if place & together] == [together]


def changed(name: str, text: str = "x") -> Change:
    """A text that is to be made."""
    return Change((f"{name}.example.com.", "TXT"), None, RRset(60, frozenset({text})))


class Race:
    """A zone that somebody else edits while a plan for it is made: with its text of before, and of after."""

    BEFORE, AFTER = ('"MS=ms1"', '"MS=ms2"'), ('"MS=ms1"', '"v=spf1 -all"')

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
        """lost: so many updates come too late."""
        self.lost, self.sent = lost, 0
        monkeypatch.setattr(dns_zone, "send", self._send)
        monkeypatch.setattr(dns_zone, "observe", lambda *_, **_options: self._found(self.AFTER))
        wanted = [Wanted("example.com.", "TXT", RRset(60, frozenset({"v=spf1 ip4:192.0.2.25 ~all"})), shared=True)]
        self.draft = dns_zone._drafted(
            zone(), Server("192.0.2.53", 53, 0), wanted, {}, Policy(), self._found(self.BEFORE)
        )

    def _found(self, values: tuple[str, ...]) -> dns_zone.Observed:
        return {("example.com.", "TXT"): dns.rdataset.from_text("IN", "TXT", 60, *values)}

    def _send(self, *_arguments: object) -> None:
        self.sent += 1
        if self.sent <= self.lost:
            raise StaleError("somebody else is editing")


EDIT = 'example.com. TXT lost "MS=ms2", got "v=spf1 -all"'


def test_a_plan_that_is_made_once_more_is_judged_and_says_what_was_edited(monkeypatch: pytest.MonkeyPatch) -> None:
    race = Race(monkeypatch, lost=1)
    judged: list[dns_zone.Draft] = []

    def judge(draft: dns_zone.Draft) -> tuple[list[str], list[str]]:
        judged.append(draft)
        return [], ["a doubt"]

    done = dns_zone.carry_out(race.draft, judge)
    assert [draft.plan.changes for draft in judged] == [done.plan.changes]
    [change] = done.plan.changes
    assert change.after
    assert "v=spf1 ip4:192.0.2.25 -all" in change.after.values
    told = (
        f"example.com. at 192.0.2.53 port 53: somebody else edits this zone, too, so it was planned once more ({EDIT})"
    )
    assert done.plan.warnings == ("a doubt", told)
    assert race.sent == 2


def test_a_plan_that_is_made_once_more_may_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    race = Race(monkeypatch, lost=1)
    with pytest.raises(ZoneError, match=r"^no\nnever$"):
        dns_zone.carry_out(race.draft, lambda _: (["no", "never"], []))
    assert race.sent == 1


def test_who_is_faster_twice_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    race = Race(monkeypatch, lost=2)
    with pytest.raises(StaleError, match=re.escape(f"they were faster twice; the first time: {EDIT}")):
        dns_zone.carry_out(race.draft, lambda _: ([], []))
    assert race.sent == 2


def test_the_first_plan_was_judged_before(monkeypatch: pytest.MonkeyPatch) -> None:
    race = Race(monkeypatch, lost=0)
    assert dns_zone.carry_out(race.draft, lambda _: (["no"], [])) == race.draft


def test_a_name_that_is_no_host_is_told() -> None:
    with pytest.raises(ZoneError, match=r"ns\.invalid is no known host"):
        Server("ns.invalid", 53, 2).ask([("example.com.", "SOA")])
