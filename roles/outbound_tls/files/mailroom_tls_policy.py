#!/usr/bin/python3
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tells Postfix how a domain's mail servers are verified: by DANE where that decides, else by its MTA-STS policy.

    mailroom-tls-policy SOCKET

It answers as a socketmap (socketmap_table(5)) on a Unix socket with what smtp_tls_policy_maps takes (postconf(5)):
`dane` or `dane-only`; where DANE has no say, the answer of the MTA-STS resolver, which is asked only then (RFC 8461,
2); NOTFOUND where neither has; and TEMP, with which mail waits, when one of them gives no answer. The DNS is asked by
way of the host's own resolver, the only one whose word on signatures counts.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import socket
import socketserver
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode

RESOLVER = "127.0.0.1"
PATIENCE = (1.0, 2.0, 4.0, 8.0)  # seconds; then it is asked again, since one that is restarted loses questions
MTA_STS = "/run/mta-sts/socket"
FETCHING = 60.0  # seconds for an answer from there: a policy may have to be fetched
LONGEST = 1000  # bytes of a request; a domain has 255
FRESH = 10  # seconds for which an answer is not asked for again: a newsletter is a thousand mails to one domain


class NoAnswerError(Exception):
    """Who is asked does not say what there is, not even that there is nothing."""


@dataclass(frozen=True)
class Answer:
    """What the resolver says: the records, the name that an alias leads to, and whether all of it is signed."""

    records: tuple[Any, ...]
    name: dns.name.Name
    secure: bool


Ask = Callable[[dns.name.Name, str], Answer]  # raises NoAnswerError
AskPolicy = Callable[[str], str]  # raises NoAnswerError


def ask(name: dns.name.Name, kind: str) -> Answer:
    """Ask the host's resolver; a name that does not exist has no records."""
    try:
        response = response_to(dns.message.make_query(name, kind, want_dnssec=True))
        if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            said = f"{dns.rcode.to_text(response.rcode())}{why(response)}"
            raise NoAnswerError(f"{name} {kind}: the resolver says {said}")
        chain = response.resolve_chaining()
    except (OSError, EOFError, dns.exception.DNSException) as error:
        raise NoAnswerError(f"{name} {kind}: the resolver: {error}") from error
    return Answer(tuple(chain.answer or ()), chain.canonical_name, bool(response.flags & dns.flags.AD))


def response_to(question: dns.message.Message) -> dns.message.QueryMessage:
    """What the resolver answers, asked again and again. Raises TimeoutError, and what dnspython does."""
    for seconds in PATIENCE:
        with contextlib.suppress(dns.exception.Timeout):
            return cast("dns.message.QueryMessage", dns.query.udp_with_fallback(question, RESOLVER, seconds)[0])
    raise TimeoutError(f"no answer within {sum(PATIENCE):.0f} seconds")


def why(response: dns.message.Message) -> str:
    """Why the resolver cannot tell, in its own words and in brackets (RFC 8914); "" when it does not say."""
    told = [option for option in response.options if isinstance(option, dns.edns.EDEOption)]
    return "".join(f" ({option.text or option.to_text()})" for option in told)


def usable(record: Any) -> bool:
    """Whether a TLSA record is one that mail servers are verified by (RFC 7672, 3.1)."""
    return record.usage in (2, 3) and record.selector in (0, 1) and record.mtype in (0, 1, 2)


def has_key(host: dns.name.Name, ask: Ask) -> bool:
    """Whether signed DNS says which key a mail server has; yes when that cannot be found out."""
    try:
        # An alias has it with the name it leads to or with its own (RFC 7672, 2.2.2).
        names = {host, ask(host, "A").name}
        answers = [ask(dns.name.from_text("_25._tcp", name), "TLSA") for name in names]
    except NoAnswerError:
        return True
    return any(answer.secure and any(usable(record) for record in answer.records) for answer in answers)


def announces_policy(domain: dns.name.Name, ask: Ask) -> bool:
    """Whether a domain says that it has an MTA-STS policy (RFC 8461, 3.1); yes when that cannot be found out."""
    try:
        records = ask(dns.name.from_text("_mta-sts", domain), "TXT").records
    except NoAnswerError:
        return True
    return any(b"".join(record.strings).startswith(b"v=STSv1") for record in records)


def level(domain: dns.name.Name, ask: Ask) -> str | None:
    """How the mail servers of a domain are verified; None when DANE has no say in it.

    Only a signed MX record leads to servers whose keys count (RFC 7672, 2.2.1). Where some of several servers have
    none, a domain that also has an MTA-STS policy gets no mail through these: nothing would verify them.

    Raises NoAnswerError when the MX record cannot be found out.
    """
    mx = ask(domain, "MX")
    hosts = [record.exchange for record in mx.records] or [domain]
    if not mx.secure or not any(has_key(host, ask) for host in hosts):
        return None
    return "dane-only" if announces_policy(domain, ask) else "dane"


def netstring(text: str) -> bytes:
    """A text as it is sent."""
    octets = text.encode()
    return b"%d:%s," % (len(octets), octets)


def read(stream: io.BufferedIOBase) -> str | None:
    """The next netstring; None at the end. Raises ValueError for what is none."""
    size = b""
    while (byte := stream.read(1)) != b":":
        if not byte and not size:
            return None
        size += byte
        if not byte.isdigit() or int(size) > LONGEST:
            raise ValueError("no netstring")
    text, comma = stream.read(int(size)), stream.read(1)
    if comma != b",":
        raise ValueError("no netstring")
    return text.decode()


def ask_policy(domain: str) -> str:
    """What the MTA-STS resolver answers about a domain, as a socketmap does: OK and its policy, or NOTFOUND."""
    try:
        with socket.socket(socket.AF_UNIX) as resolver, resolver.makefile("rb") as stream:
            resolver.settimeout(FETCHING)
            resolver.connect(MTA_STS)
            resolver.sendall(netstring(f"mta-sts {domain}"))
            answer = read(stream) or ""
    except (OSError, ValueError) as error:
        raise NoAnswerError(f"the MTA-STS resolver: {error}") from error
    if not answer.startswith(("OK ", "NOTFOUND ")):
        raise NoAnswerError(f"the MTA-STS resolver says {answer!r}")
    return answer


def policy(destination: str, ask: Ask, ask_policy: AskPolicy) -> str:
    """What Postfix is told about what it delivers to (postconf(5), smtp_tls_policy_maps).

    That is a domain, a server's name or address in brackets, or, with a dot in front, the domain above one.

    Raises NoAnswerError when it cannot be found out.
    """
    domain, _, port = destination.partition(":")
    if not domain or domain.startswith((".", "[")) or port not in ("", "25", "smtp"):
        return "NOTFOUND "
    try:
        name = dns.name.from_text(domain)
    except (dns.exception.DNSException, UnicodeError):
        return "NOTFOUND "
    found = level(name, ask)
    return f"OK {found}" if found else ask_policy(domain)


@functools.lru_cache(maxsize=1000)
def fresh_policy(destination: str, ask: Ask, ask_policy: AskPolicy, _period: int) -> str:
    """The same, found out once in a period; what cannot be found out is asked for again. Raises NoAnswerError."""
    return policy(destination, ask, ask_policy)


def reply(request: str, ask: Ask, ask_policy: AskPolicy) -> str:
    """The answer to a request: the map's name, and what Postfix delivers to."""
    _, _, destination = request.partition(" ")
    try:
        return fresh_policy(destination, ask, ask_policy, int(time.monotonic() // FRESH))
    except NoAnswerError as error:
        reason = " ".join(str(error).split())
        print(f"{destination}: its mail waits: {reason}", file=sys.stderr, flush=True)
        return f"TEMP {reason}"


class Session(socketserver.StreamRequestHandler):
    """A process of Postfix, which asks one thing after the other."""

    def handle(self) -> None:
        """Answer until it has no more questions."""
        with contextlib.suppress(ValueError, OSError):
            while (request := read(self.rfile)) is not None:
                self.wfile.write(netstring(reply(request, ask, ask_policy)))


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """All of them at once."""

    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    """Serve until the end, and tell systemd when it begins (sd_notify(3))."""
    if len(sys.argv) != 2:
        sys.exit("usage: mailroom-tls-policy SOCKET")
    path = Path(sys.argv[1])
    path.unlink(missing_ok=True)
    with Server(str(path), Session) as server:
        if address := os.environ.get("NOTIFY_SOCKET"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
                systemd.connect("\0" + address[1:] if address.startswith("@") else address)
                systemd.send(b"READY=1")
        server.serve_forever()


if __name__ == "__main__":
    main()
