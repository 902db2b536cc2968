"""Our verdicts against those of others that had no part in them: checkdmarc, pyspf, dkimpy, and openssl's DANE.

Each zone has one fault. Where others say something else than we do, DISAGREEMENTS has it, and docs/dns.md says why.
"""

from __future__ import annotations

import base64
import ipaddress
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import checkdmarc.dmarc
import checkdmarc.dnssec
import checkdmarc.smtp
import checkdmarc.spf
import dkim
import dns.nameserver
import pytest
import spf as pyspf
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from filter_plugins.mail_rrsets import RRset, mail_rrsets
from library import dns_verify
from tests.servers.conftest import Certificate
from tests.servers.private_dns import REVERSE, Tree, Zone, lines

if TYPE_CHECKING:
    from module_utils import dns_world, dns_zone, mail_checks, smtp_tls
else:  # the same modules that the module under test has
    from ansible.module_utils import dns_world, dns_zone, mail_checks, smtp_tls

pytestmark = pytest.mark.hosts

SIGNER = rsa.generate_private_key(65537, 2048)
PRIVATE = SIGNER.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
)


LOOK = smtp_tls.offered


def public(key: rsa.RSAPrivateKey) -> str:
    """A key as DKIM has it."""
    encoded = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(encoded).decode()


OURS, OTHER = public(SIGNER), public(rsa.generate_private_key(65537, 2048))
APEX, KEY, DMARC, ALIAS, REVERSED = "{d}.", "mailroom1._domainkey.{d}.", "_dmarc.{d}.", "alias.{d}.", "{r}."
RUA = "rua=mailto:dmarc-reports@{d}"

CASES: Mapping[str, Mapping[tuple[str, str], Sequence[str]]] = {
    "fine": {},
    "spf-two": {(APEX, "TXT"): ["v=spf1 ip4:192.0.2.0/24 ~all", "v=spf1 -all"]},
    "spf-eleven": {(APEX, "TXT"): [f"v=spf1 {'a:mail.{d} ' * 11}ip4:192.0.2.0/24 ~all"]},
    "spf-void": {(APEX, "TXT"): ["v=spf1 a:x1.{d} a:x2.{d} a:x3.{d} ip4:192.0.2.0/24 ~all"]},
    "spf-void-behind": {(APEX, "TXT"): ["v=spf1 ip4:192.0.2.0/24 a:x1.{d} a:x2.{d} a:x3.{d} ~all"]},
    "spf-all": {(APEX, "TXT"): ["v=spf1 +all"]},
    "spf-neutral": {(APEX, "TXT"): ["v=spf1 ip4:192.0.2.0/24 ?all"]},
    "spf-others": {(APEX, "TXT"): ["v=spf1 ip4:203.0.113.1 -all"]},
    "spf-typo": {(APEX, "TXT"): ["v=spf1 ip4:192.0.2.0/33 ~all"]},
    "spf-include": {(APEX, "TXT"): ["v=spf1 ip4:192.0.2.0/24 include:none.{d} ~all"]},
    "spf-ptr": {(APEX, "TXT"): ["v=spf1 ip4:192.0.2.0/24 ptr ~all"]},
    "spf-gone": {(APEX, "TXT"): []},
    "dkim-spaces": {(KEY, "TXT"): [f"v=DKIM1; k=rsa; h=sha256; s=email; p={OURS[:200]} {OURS[200:]}"]},
    "dkim-other": {(KEY, "TXT"): [f"v=DKIM1; k=rsa; h=sha256; s=email; p={OTHER}"]},
    "dkim-two": {(KEY, "TXT"): [f"v=DKIM1; k=rsa; h=sha256; s=email; p={OURS}", f"v=DKIM1; p={OTHER}"]},
    "dkim-testing": {(KEY, "TXT"): [f"v=DKIM1; k=rsa; t=y; p={OURS}"]},
    "dkim-gone": {(KEY, "TXT"): []},
    "dmarc-none": {(DMARC, "TXT"): [f"v=DMARC1; p=none; {RUA}"]},
    "dmarc-pct": {(DMARC, "TXT"): [f"v=DMARC1; p=reject; pct=50; {RUA}"]},
    "dmarc-two": {(DMARC, "TXT"): [f"v=DMARC1; p=reject; {RUA}", f"v=DMARC1; p=none; {RUA}"]},
    "dmarc-typo": {(DMARC, "TXT"): [f"v=DMARC1; p=everything; {RUA}"]},
    "dmarc-testing": {(DMARC, "TXT"): [f"v=DMARC1; p=reject; t=y; {RUA}"]},
    "dmarc-reject": {(DMARC, "TXT"): [f"v=DMARC1; p=reject; {RUA}"]},
    "dmarc-reports": {(DMARC, "TXT"): ["v=DMARC1; p=quarantine; rua=mailto:a@fine.test"]},
    "dmarc-gone": {(DMARC, "TXT"): []},
    "mx-alias": {(APEX, "MX"): ["10 alias.{d}."], (ALIAS, "CNAME"): ["mail.{d}."]},
    "mx-nowhere": {(APEX, "MX"): ["10 nowhere.{d}."]},
    "mx-gone": {(APEX, "MX"): []},
    "mx-foreign": {(APEX, "MX"): ["10 mail.{d}.", "20 mail.fine.test."]},
    "name-gone": {(REVERSED, "PTR"): []},
    "name-other": {(REVERSED, "PTR"): ["mail.fine.test."]},
    "no-ds": {},
    "unsigned": {},
    "expired": {},
    "mismatch": {},
}
SIGNING: Mapping[str, Mapping[str, Any]] = {
    "no-ds": {"ds": "none"},
    "unsigned": {"ds": "none", "signing": "unsigned"},
    "expired": {"signing": "expired"},
    "mismatch": {"ds": "other key"},
}
DISAGREEMENTS = {
    ("spf-all", "SPF by checkdmarc"),
    ("spf-neutral", "SPF by checkdmarc"),
    ("spf-others", "SPF by checkdmarc"),
    ("spf-ptr", "SPF by checkdmarc"),
    ("dkim-spaces", "DKIM by dkimpy"),
    ("dkim-two", "DKIM by dkimpy"),
    ("dkim-testing", "DKIM by dkimpy"),
    ("dmarc-testing", "DMARC by checkdmarc"),
    ("dmarc-reject", "DMARC by checkdmarc"),
    ("mx-gone", "DMARC by checkdmarc"),
    ("mx-foreign", "MX by checkdmarc"),
}
"""Case and topic where one of the two finds something that the other does not."""


def hosts(domain: str) -> list[dict[str, str]]:
    return [{"name": f"mail.{domain}", "ipv4": address(domain), "ipv6": ""}]


def address(domain: str) -> str:
    return f"192.0.2.{10 + [*CASES].index(domain.removesuffix('.test'))}"


def wanted(domain: str) -> list[RRset]:
    """What the mail of a domain needs."""
    keys = [{"domain": domain, "selector": "mailroom1", "public": OURS}]
    return mail_rrsets([{"name": "prod", "domains": [{"name": domain}]}], hosts(domain), keys)


def published(domain: str) -> list[dict[str, Any]]:
    """What its zones have instead."""
    names = {"d": domain, "r": ipaddress.ip_address(address(domain)).reverse_pointer}
    sets: dict[tuple[str, str], Sequence[str]] = {
        (record["name"], record["type"]): record["values"] for record in wanted(domain)
    }
    for (name, kind), values in CASES[domain.removesuffix(".test")].items():
        sets[name.format(**names), kind] = [value.format(**names) for value in values]
    return [{"name": name, "type": kind, "ttl": 300, "values": values} for (name, kind), values in sets.items()]


@pytest.fixture(scope="module")
def resolver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a resolver that validates."""
    domains = [f"{case}.test" for case in CASES]
    zones = [
        Zone(f"{domain}.", lines(published(domain), f"{domain}."), **SIGNING.get(domain.removesuffix(".test"), {}))
        for domain in domains
    ]
    reverse = Zone(REVERSE, [line for domain in domains for line in lines(published(domain), REVERSE)])
    directory = tmp_path_factory.mktemp("oracles")
    tree = Tree(directory, [*zones, reverse])
    server = dns_zone.Server
    with pytest.MonkeyPatch.context() as patch, tree.running(), tree.resolver(directory / "resolver") as port:
        local = lambda address, _port, timeout: server("127.0.0.1", tree.ports[address], timeout)  # noqa: E731
        patch.setattr(dns_world, "Server", local)
        patch.setattr(smtp_tls, "offered", lambda *_: "there is no mail server")
        yield port


def ours(domain: str, port: int) -> dict[str, bool]:
    """Whether our module finds nothing, by topic."""
    parameters = {
        "records": wanted(domain),
        "hosts": hosts(domain),
        "domains": [domain],
        "zones": [domain],
        "resolver": "127.0.0.1",
        "resolver_port": port,
        "issuer": "",
        "policy": "",
        "providers": [],
        "ca_file": "",
        "block_lists": [],
        "timeout": 5.0,
    }
    found = dns_verify.run(parameters)["findings"]
    bad = {finding["check"] for finding in found if finding["verdict"] != "ok" and finding["name"] != f"mail.{domain}"}
    topics = {
        "SPF by checkdmarc": {"SPF"},
        "SPF by pyspf": {"SPF"},
        "DMARC by checkdmarc": {"DMARC record", "DMARC policy", "DMARC reports"},
        "MX by checkdmarc": {"MX", "MX target", "reverse DNS"},
        "DNSSEC by checkdmarc": {"DNSSEC"},
        "DKIM by dkimpy": {"DKIM"},
    }
    return {topic: not checks & bad for topic, checks in topics.items()}


def theirs(domain: str, port: int) -> dict[str, bool]:
    """Whether others find nothing, not even to warn of, by topic."""
    servers = [dns.nameserver.Do53Nameserver("127.0.0.1", port)]
    spf = checkdmarc.spf.check_spf(domain, nameservers=servers)
    dmarc = checkdmarc.dmarc.check_dmarc(domain, nameservers=servers)
    mx = checkdmarc.smtp.check_mx(domain, nameservers=servers)
    world = dns_world.World("127.0.0.1", port, 5.0)
    return {
        "SPF by checkdmarc": spf["valid"] and not spf["warnings"],
        "SPF by pyspf": pyspf_says(domain, world),
        "DMARC by checkdmarc": dmarc["valid"] and not dmarc["warnings"],
        "MX by checkdmarc": not mx.get("error") and not mx.get("warnings"),
        "DNSSEC by checkdmarc": checkdmarc.dnssec.check_dnssec(domain, nameservers=servers),
        "DKIM by dkimpy": dkimpy_says(domain, world),
    }


def pyspf_says(domain: str, world: dns_world.World) -> bool:
    """Whether SPF passes for our address, and softly or hard fails for another."""

    def looked_up(name: str, kind: str, *_: object) -> list[tuple[tuple[str, str], object]]:
        answer = world.ask(name, kind)
        if answer.bogus:
            raise pyspf.TempError("SERVFAIL")
        spelled: dict[str, Callable[[str], object]] = {
            "TXT": lambda value: (value.encode(),),
            "MX": lambda value: (int(value.split()[0]), value.split()[1].rstrip(".")),
            "AAAA": lambda value: ipaddress.ip_address(value).packed,
            "PTR": lambda value: value.rstrip("."),
        }
        return [((name, kind), spelled.get(kind, str)(value)) for value in answer.values]

    def result(client: str) -> str:
        return str(pyspf.query(i=client, s=f"postmaster@{domain}", h=f"mail.{domain}", strict=False).check()[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyspf, "DNSLookup", looked_up)
        return result(address(domain)) == "pass" and result("203.0.113.113") in ("softfail", "fail")


def dkimpy_says(domain: str, world: dns_world.World) -> bool:
    """Whether a signature by our key verifies with what DNS has."""

    def looked_up(name: bytes, **_options: object) -> bytes | None:
        answer = world.ask(name.decode(), "TXT")
        return answer.values[0].encode() if answer.values and not answer.bogus else None

    message = f"From: sales@{domain}\r\nTo: customer@customer.example\r\nSubject: Offer\r\n\r\nHello.\r\n".encode()
    signature = dkim.sign(message, b"mailroom1", domain.encode(), PRIVATE)
    return bool(dkim.verify(signature + message, dnsfunc=looked_up))


@pytest.mark.parametrize("case", CASES)
def test_others_say_the_same_but_where_it_is_explained(resolver: int, case: str) -> None:
    we, they = ours(f"{case}.test", resolver), theirs(f"{case}.test", resolver)
    assert we.keys() == they.keys()
    different = {(case, topic) for topic in we if we[topic] != they[topic]}
    assert different == {one for one in DISAGREEMENTS if one[0] == case}, f"{we}\n{they}"


class OneHost:
    """A world in which there are TLSA records, validated, and a root."""

    def __init__(self, *values: str) -> None:
        self.values = values

    def ask(self, _name: str, kind: str) -> dns_world.Answer:
        return dns_world.Answer(values=self.values if kind == "TLSA" else (), secure=True)


@contextmanager
def mail_server(certificate: Certificate) -> Iterator[int]:
    """Something on a port of loopback that knows EHLO, STARTTLS and QUIT."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain_file, certificate.key_file)

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"220 mail.example.com ESMTP\r\n")
        while (command := connection.recv(1000)[:4].upper()) != b"STAR":
            connection.sendall(b"250-mail.example.com\r\n250 STARTTLS\r\n" if command == b"EHLO" else b"221 Bye\r\n")
            if command in (b"QUIT", b""):
                return
        connection.sendall(b"220 Go ahead\r\n")
        with context.wrap_socket(connection, server_side=True) as session:
            while session.recv(1000):
                session.sendall(b"221 Bye\r\n")

    def serve() -> None:
        with suppress(OSError):  # the listener is closed at the end
            while True:
                with listener.accept()[0] as connection, suppress(OSError):
                    connection.settimeout(10)
                    talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def tlsa(certificate: Certificate) -> dict[str, str]:
    """TLSA records for a certificate, right ones and wrong ones."""
    shown = x509.load_pem_x509_certificate(certificate.chain_file.read_bytes())
    whole = shown.public_bytes(serialization.Encoding.DER)
    key = shown.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def digest(algorithm: hashes.HashAlgorithm, data: bytes) -> str:
        state = hashes.Hash(algorithm)
        state.update(data)
        return state.finalize().hex()

    return {
        "key": f"3 1 1 {digest(hashes.SHA256(), key)}",
        "key, SHA-512": f"3 1 2 {digest(hashes.SHA512(), key)}",
        "key itself": f"3 1 0 {key.hex()}",
        "certificate": f"3 0 1 {digest(hashes.SHA256(), whole)}",
        "certificate of the key": f"3 0 1 {digest(hashes.SHA256(), key)}",
        "other": f"3 1 1 {'00' * 32}",
        "other digest": f"3 1 2 {digest(hashes.SHA256(), key)}{'00' * 32}",
    }


@pytest.mark.parametrize(
    ("names", "right"),
    [
        (["key"], True),
        (["key, SHA-512"], True),
        (["key itself"], True),
        (["certificate"], True),
        (["other", "key"], True),
        (["other"], False),
        (["other digest"], False),
        (["certificate of the key"], False),
    ],
)
def test_openssl_says_the_same_of_tlsa(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch, names: list[str], right: bool
) -> None:
    values = [tlsa(certificate)[name] for name in names]
    with mail_server(certificate) as port:
        command = ["openssl", "s_client", "-starttls", "smtp", "-connect", f"127.0.0.1:{port}", "-brief"]
        command += ["-verify_return_error", "-dane_tlsa_domain", "mail.example.com"]
        command += [word for value in values for word in ("-dane_tlsa_rrdata", value)]
        done = subprocess.run(command, input=b"QUIT\n", capture_output=True, check=False, timeout=20)
        monkeypatch.setattr(smtp_tls, "offered", LOOK)
        monkeypatch.setattr(smtp_tls, "PORT", port)
        expected = mail_checks.Expected(domains=[], hosts={"mail.example.com": ["127.0.0.1"]}, wanted=[], zones=[])
        world: Any = OneHost(*values)
        [*_, finding] = dns_verify._port_25(expected, world, "mail.example.com", "", 5)
    assert (done.returncode == 0) is right, done.stderr.decode()
    assert (finding.verdict == "ok") is right, finding
