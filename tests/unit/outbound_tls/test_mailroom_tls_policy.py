"""How a domain's mail servers are verified: when DANE decides, when its policy does, and how Postfix asks."""

from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.rrset
import mailroom_tls_policy
import pytest
from mailroom_tls_policy import Answer, NoAnswerError, ask, ask_policy, level, netstring, read, reply

DOMAIN = "customer.example."
MX = "10 mx.customer.example."
OTHER_MX = "20 mx2.customer.example."
KEY = "3 1 1 " + "ab" * 32
POLICY = '"v=STSv1; id=1"'
WAIT = 5.0  # seconds for what has to come
Zone = Mapping[tuple[str, str], list[str] | None]
SECURE = "OK secure match=mx.customer.example servername=hostname"
DANE: Zone = {(DOMAIN, "MX"): [MX], ("_25._tcp.mx.customer.example.", "TLSA"): [KEY]}


class Resolver:
    """Answers from a few records; None in their place is no answer at all."""

    def __init__(self, zone: Zone, insecure: str = "", aliases: Mapping[str, str] | None = None) -> None:
        self.zone = zone
        self.insecure = insecure
        self.aliases = aliases or {}
        self.asked: list[tuple[str, str]] = []

    def __call__(self, name: dns.name.Name, kind: str) -> Answer:
        self.asked.append((str(name), kind))
        texts = self.zone.get((str(name), kind), [])
        if texts is None:
            raise NoAnswerError(f"{name} {kind}: the resolver:\nno answer")
        canonical = dns.name.from_text(self.aliases.get(str(name), str(name)))
        records = tuple(dns.rdata.from_text("IN", kind, text) for text in texts)
        return Answer(records, canonical, kind != self.insecure)


class Policies:
    """Answers as the MTA-STS resolver does; None is no answer at all."""

    def __init__(self, answer: str | None = "NOTFOUND ") -> None:
        self.answer = answer
        self.asked: list[str] = []

    def __call__(self, domain: str) -> str:
        self.asked.append(domain)
        if self.answer is None:
            raise NoAnswerError("the MTA-STS resolver: no answer")
        return self.answer


def decide(zone: Zone, insecure: str = "", aliases: Mapping[str, str] | None = None) -> str | None:
    return level(dns.name.from_text(DOMAIN), Resolver(zone, insecure, aliases))


def test_a_server_with_a_key_in_signed_dns_is_verified_by_it() -> None:
    assert decide(DANE) == "dane"


@pytest.mark.parametrize("insecure", ["MX", "TLSA"])
def test_what_is_not_signed_does_not_count(insecure: str) -> None:
    assert decide(DANE, insecure) is None


@pytest.mark.parametrize(
    "key", ["0 1 1 " + "ab" * 32, "1 1 1 " + "ab" * 32, "3 7 1 " + "ab" * 32, "3 1 9 " + "ab" * 32]
)
def test_a_key_that_mail_servers_are_not_verified_by_does_not_count(key: str) -> None:
    assert decide({**DANE, ("_25._tcp.mx.customer.example.", "TLSA"): [key]}) is None


def test_without_a_key_it_has_no_say() -> None:
    assert decide({(DOMAIN, "MX"): [MX], ("_mta-sts." + DOMAIN, "TXT"): [POLICY]}) is None


def test_a_domain_without_mx_is_its_own_server() -> None:
    assert decide({("_25._tcp." + DOMAIN, "TLSA"): [KEY]}) == "dane"


def test_a_policy_does_not_let_servers_without_a_key_in() -> None:
    """One of the two has a key: with a policy the other one gets nothing, without one it is taken as it is."""
    two = {**DANE, (DOMAIN, "MX"): [MX, OTHER_MX]}
    assert decide(two) == "dane"
    assert decide({**two, ("_mta-sts." + DOMAIN, "TXT"): ['"something else"', POLICY]}) == "dane-only"


@pytest.mark.parametrize("name", ["mx.customer.example.", "real.example."])
def test_an_alias_has_its_key_with_either_name(name: str) -> None:
    zone: Zone = {(DOMAIN, "MX"): [MX], (f"_25._tcp.{name}", "TLSA"): [KEY]}
    assert decide(zone, aliases={"mx.customer.example.": "real.example."}) == "dane"


@pytest.mark.parametrize("unanswered", [("mx.customer.example.", "A"), ("_25._tcp.mx.customer.example.", "TLSA")])
def test_a_key_that_cannot_be_found_out_is_not_replaced_by_a_policy(unanswered: tuple[str, str]) -> None:
    assert decide({**DANE, unanswered: None}) == "dane"
    assert decide({**DANE, unanswered: None, ("_mta-sts." + DOMAIN, "TXT"): None}) == "dane-only"


def test_what_was_just_found_out_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    resolver, policies = Resolver({}), Policies(SECURE)
    answers = {reply(f"policy {DOMAIN}", resolver, policies) for _ in range(3)}
    once = len(resolver.asked)
    assert answers == {SECURE}
    assert len(set(resolver.asked)) == once
    assert len(policies.asked) == 1
    now += mailroom_tls_policy.FRESH
    reply(f"policy {DOMAIN}", resolver, policies)
    assert (len(resolver.asked), len(policies.asked)) == (2 * once, 2)


def test_what_could_not_be_found_out_is_asked_again() -> None:
    zone: dict[tuple[str, str], list[str] | None] = {**DANE, (DOMAIN, "MX"): None}
    resolver, policies = Resolver(zone), Policies(None)
    assert reply(f"policy {DOMAIN}", resolver, policies).startswith("TEMP ")
    zone[DOMAIN, "MX"] = []
    assert reply(f"policy {DOMAIN}", resolver, policies).startswith("TEMP ")
    policies.answer = SECURE
    assert reply(f"policy {DOMAIN}", resolver, policies) == SECURE


@pytest.mark.parametrize(("zone", "answer"), [({(DOMAIN, "MX"): None}, "NOTFOUND "), ({}, None)])
def test_mail_waits_while_nobody_says(zone: Zone, answer: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    reason = "customer.example. MX: the resolver: no answer" if zone else "the MTA-STS resolver: no answer"
    assert reply("policy customer.example", Resolver(zone), Policies(answer)) == f"TEMP {reason}"
    assert capsys.readouterr().err == f"customer.example: its mail waits: {reason}\n"


@pytest.mark.parametrize("destination", ["customer.example", "customer.example:25", "customer.example:smtp"])
def test_postfix_is_told(destination: str) -> None:
    policies = Policies(SECURE)
    assert reply(f"policy {destination}", Resolver(DANE), policies) == "OK dane"
    assert not policies.asked  # a policy does not save who fails DANE
    assert reply(f"policy {destination}", Resolver({}), policies) == SECURE
    assert policies.asked == ["customer.example"]
    assert reply(f"policy {destination}", Resolver({}), Policies()) == "NOTFOUND "


@pytest.mark.parametrize(
    "destination",
    ["", ".example", "[mx.customer.example]", "[192.0.2.1]:25", "customer.example:587", "a..example", "a" * 64],
)
def test_what_is_no_domain_with_mail_servers_is_left_to_postfix(destination: str) -> None:
    resolver, policies = Resolver({}), Policies(SECURE)
    assert reply(f"policy {destination}", resolver, policies) == "NOTFOUND "
    assert not resolver.asked
    assert not policies.asked


def test_requests_are_netstrings() -> None:
    stream = io.BytesIO(b"8:policy a,0:,")
    assert [read(stream), read(stream), read(stream)] == ["policy a", "", None]


@pytest.mark.parametrize(
    "text", [b"6", b"x:a,", b":", b"-1:a,", b"3:abc.", b"5:abc,", b"1001:", b"99999999999", b"1:\xff,"]
)
def test_others_end_the_session(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(io.BytesIO(text))


def serve(listener: socket.socket, code: int) -> None:
    """Answer one question with that code, one alias and one record that is signed."""
    question, client = listener.recvfrom(4096)
    response = dns.message.make_response(dns.message.from_wire(question))
    response.flags |= dns.flags.AD
    response.set_rcode(dns.rcode.Rcode(code))
    if code == dns.rcode.SERVFAIL:
        bogus = [dns.edns.EDEOption(dns.edns.EDECode.DNSSEC_BOGUS, text) for text in ("forged", None)]
        response.use_edns(options=list[dns.edns.Option](bogus))
    if not code:
        response.answer.append(dns.rrset.from_text("mx.example.", 60, "IN", "CNAME", "real.example."))
        response.answer.append(dns.rrset.from_text("real.example.", 60, "IN", "A", "192.0.2.1"))
    listener.sendto(response.to_wire(), client)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    real = dns.query.udp_with_fallback
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(WAIT)
        monkeypatch.setattr("dns.query.udp_with_fallback", partial(real, port=listener.getsockname()[1]))
        yield listener


@pytest.mark.parametrize("code", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL])
def test_the_resolver_is_asked(resolver: socket.socket, code: int) -> None:
    thread = threading.Thread(target=serve, args=(resolver, code))
    thread.start()
    mx = dns.name.from_text("mx.example.")
    if code == dns.rcode.SERVFAIL:
        said = r"mx.example. A: the resolver says SERVFAIL \(forged\) \(EDE 6.*\)"
        with pytest.raises(NoAnswerError, match=said):
            ask(mx, "A")
    elif code == dns.rcode.NXDOMAIN:
        assert ask(mx, "A") == Answer((), mx, secure=True)
    else:
        answer = ask(mx, "A")
        assert ([str(record) for record in answer.records], str(answer.name)) == (["192.0.2.1"], "real.example.")
        assert answer.secure
    thread.join()


def test_a_question_that_was_lost_is_asked_again(resolver: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_and_serve() -> None:
        resolver.recvfrom(4096)
        serve(resolver, dns.rcode.NOERROR)

    monkeypatch.setattr(mailroom_tls_policy, "PATIENCE", (0.01, WAIT))
    thread = threading.Thread(target=lose_and_serve)
    thread.start()
    assert ask(dns.name.from_text("mx.example."), "A").secure
    thread.join()


@pytest.mark.usefixtures("resolver")
def test_a_resolver_that_is_away_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailroom_tls_policy, "PATIENCE", (0.01, 0.01))
    with pytest.raises(NoAnswerError, match=r"mx.example. A: the resolver: no answer within"):
        ask(dns.name.from_text("mx.example."), "A")
    monkeypatch.setattr("dns.query.udp_with_fallback", partial(dns.query.udp_with_fallback, port=0))
    with pytest.raises(NoAnswerError, match="Invalid argument"):
        ask(dns.name.from_text("mx.example."), "A")


def test_a_resolver_that_ends_within_an_answer_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was to be had over TCP."""

    def ended(*_: object) -> None:
        raise EOFError

    monkeypatch.setattr("dns.query.udp_with_fallback", ended)
    with pytest.raises(NoAnswerError):
        ask(dns.name.from_text("mx.example."), "A")


@pytest.fixture
def policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where the MTA-STS resolver listens."""
    path = str(tmp_path / "mta-sts")
    monkeypatch.setattr(mailroom_tls_policy, "MTA_STS", path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        yield listener


@pytest.mark.parametrize("answer", [SECURE, "NOTFOUND ", "TEMP resolver is not ready", "", None])
def test_the_mta_sts_resolver_is_asked(policies: socket.socket, answer: str | None) -> None:
    questions = []

    def serve() -> None:
        connection, _ = policies.accept()
        with connection, connection.makefile("rb") as stream:
            questions.append(read(stream))
            connection.sendall(b"nonsense" if answer is None else netstring(answer))

    thread = threading.Thread(target=serve)
    thread.start()
    if answer in (SECURE, "NOTFOUND "):
        assert ask_policy("customer.example") == answer
    else:
        with pytest.raises(NoAnswerError, match="the MTA-STS resolver"):
            ask_policy("customer.example")
    thread.join()
    assert questions == ["mta-sts customer.example"]


def test_an_mta_sts_resolver_that_is_away_gives_no_answer(
    policies: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailroom_tls_policy, "FETCHING", 0.01)
    with pytest.raises(NoAnswerError, match="the MTA-STS resolver: timed out"):
        ask_policy("customer.example")
    policies.close()
    with pytest.raises(NoAnswerError, match=r"the MTA-STS resolver: .*refused"):
        ask_policy("customer.example")


def test_it_serves_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that asks nothing keeps no other one waiting, and one that talks nonsense is left."""
    monkeypatch.setattr(mailroom_tls_policy, "ask", Resolver(DANE))
    path = str(tmp_path / "socket")
    with mailroom_tls_policy.Server(path, mailroom_tls_policy.Session) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            with socket.socket(socket.AF_UNIX) as idle, socket.socket(socket.AF_UNIX) as client:
                idle.connect(path)
                client.connect(path)
                for _ in range(2):
                    client.sendall(netstring("policy customer.example"))
                    assert client.recv(100) == b"7:OK dane,"
                client.sendall(b"nonsense")
                assert client.recv(100) == b""
        finally:
            server.shutdown()


def test_systemd_is_told_when_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, stale = tmp_path / "notify", tmp_path / "socket"
    stale.touch()
    monkeypatch.setattr("sys.argv", ["mailroom-tls-policy", str(stale)])
    monkeypatch.setitem(os.environ, "NOTIFY_SOCKET", str(path))
    monkeypatch.setattr(mailroom_tls_policy.Server, "serve_forever", lambda _self: None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        mailroom_tls_policy.main()
        assert systemd.recv(100) == b"READY=1"
