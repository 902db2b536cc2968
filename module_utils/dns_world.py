"""DNS as the world sees it: through a resolver that validates, and at each name server of a zone.

RFC 1035, with DNSSEC's verdict as a validating resolver tells it (RFC 4035 section 3.2).
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver

if TYPE_CHECKING:
    from module_utils import dns_proof
    from module_utils.dns_zone import Server, to_value
else:
    from ansible.module_utils import dns_proof
    from ansible.module_utils.dns_zone import Server, to_value

Key = tuple[str, str]


@dataclass(frozen=True)
class Answer:
    """What a resolver says of a name and type.

    status: the answer's code, or `no answer`. values: in their canonical spelling, empty when there are none.
    aliases: the names that CNAMEs lead to, in order. secure: validated by DNSSEC. bogus: DNSSEC says that it is forged
    or out of date, so that nobody who validates sees it; values are then what those see who do not. reason: what the
    resolver says of an error (RFC 8914), if anything. left: seconds for which the values' signatures are valid yet,
    negative when they are no longer; None without any.
    """

    status: str = "NOERROR"
    values: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    secure: bool = False
    bogus: str = ""
    reason: str = ""
    left: int | None = None

    @property
    def known(self) -> bool:
        """Whether it is certain what there is, or that there is nothing."""
        return self.status in ("NOERROR", "NXDOMAIN")


class World:
    """A resolver; every question is asked once. Many threads may ask at the same time."""

    def __init__(self, server: str = "", port: int = 53, timeout: float = 5.0) -> None:
        """server: the resolver's address, empty for this machine's own; timeout: seconds for a question.

        Raises ValueError in one line when that is no address.
        """
        try:
            ipaddress.ip_address(server or "::")
        except ValueError:
            raise ValueError(f"the resolver {server!r} is no address: give one such as 192.0.2.53") from None
        self.servers = [server] if server else _own_resolvers()
        self.port, self.timeout = port, timeout
        self._answers: dict[Key, Future[Answer]] = {}
        self._raw: dict[Key, dns.message.Message | None] = {}
        self._lock = threading.Lock()

    def ask(self, name: str, kind: str) -> Answer:
        """Answer what there is of a name and type; an error is an answer too."""
        key = (name.lower().rstrip(".") + ".", kind)
        with self._lock:
            known = self._answers.get(key)
            if not known:
                answer: Future[Answer] = Future()
                self._answers[key] = answer
        if known:
            return known.result()
        try:
            answer.set_result(self._asked(*key))
        except BaseException as error:
            answer.set_exception(error)
            raise
        return answer.result()

    def authoritative(self, address: str, keys: Iterable[Key]) -> Mapping[Key, frozenset[str]]:
        """Answer what a name server itself says of names and types. Raises ZoneError, LameError among them."""
        found = Server(address, 53, self.timeout).ask(keys)
        return {key: frozenset(to_value(rdata) for rdata in rdataset) for key, rdataset in found.items()}

    def referral(self, address: str, zone: str) -> Mapping[str, Sequence[str]]:
        """Answer the name servers that one of the zone above gives for a zone, with addresses. Raises ZoneError."""
        return Server(address, 53, self.timeout).referral(zone)

    def _asked(self, name: str, kind: str) -> Answer:
        try:
            question = dns.message.make_query(name, kind, want_dnssec=True)
        except dns.exception.DNSException as error:
            return Answer(f"no name ({error})")
        question.flags |= dns.flags.AD
        response = self._sent(question)
        if isinstance(response, str):
            return Answer(response)
        bogus = ""
        reason = "; ".join(option.to_text() for option in response.options if isinstance(option, dns.edns.EDEOption))
        if response.rcode() == dns.rcode.SERVFAIL:
            unchecked = self._unchecked(dns.name.from_text(name), kind)
            again = self._sent(question) if unchecked else response  # perhaps a name server had no time for it
            if not isinstance(again, str) and again.rcode() != dns.rcode.SERVFAIL:
                response = again
            elif unchecked and name != "." and self.ask(".", "SOA").bogus:
                response = unchecked  # who distrusts the root calls all things bogus, which says nothing of any of them
            elif unchecked and (name == "." or dns_proof.is_right(unchecked, self._unchecked) is False):
                response, bogus = unchecked, reason or "the resolver says SERVFAIL"
        code = dns.rcode.to_text(response.rcode())
        if not isinstance(response, dns.message.QueryMessage):
            return Answer(code, bogus=bogus, reason=reason)
        try:
            chain = response.resolve_chaining()
        except dns.exception.DNSException:
            return Answer(code, bogus=bogus, reason=reason)
        target = chain.canonical_name.to_text().lower()
        steps = [rdata.target.to_text().lower() for rrset in chain.cnames for rdata in rrset]
        ends = [rdata.expiration for rrset in response.answer if rrset.rdtype == dns.rdatatype.RRSIG for rdata in rrset]
        return Answer(
            code,
            tuple(sorted(to_value(rdata) for rdata in chain.answer or ())),
            tuple(steps) if target != name else (),
            secure=bool(response.flags & dns.flags.AD) and not bogus,
            bogus=bogus,
            reason=reason,
            left=min(ends) - int(time.time()) if ends else None,
        )

    def _unchecked(self, name: dns.name.Name, kind: str) -> dns.message.Message | None:
        """Answer what the resolver has of a name and type without validating it; None when it has nothing."""
        key = (name.to_text(), kind)
        if key not in self._raw:
            question = dns.message.make_query(name, kind, want_dnssec=True)
            question.flags |= dns.flags.CD
            response = self._sent(question)
            self._raw[key] = None if isinstance(response, str) or not _tells(response) else response
        return self._raw[key]

    def _sent(self, question: dns.message.Message) -> dns.message.Message | str:
        """Answer the first response of a resolver, over TCP where UDP is too small, else why there is none."""
        reason = "no resolver"
        for server in self.servers:
            try:
                return dns.query.udp_with_fallback(
                    question, server, self.timeout, self.port, ignore_unexpected=True, ignore_errors=True
                )[0]
            except (dns.exception.DNSException, OSError) as error:
                reason = "no answer" if isinstance(error, dns.exception.Timeout) else str(error)
        return reason


def _own_resolvers() -> list[str]:
    try:
        return [str(one) for one in dns.resolver.Resolver().nameservers]
    except dns.exception.DNSException:  # no resolv.conf
        return []


def _tells(response: dns.message.Message) -> bool:
    """Say whether a response has values, or says that there are none; of a broken zone may come a referral alone."""
    denied = any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority)
    return response.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) and bool(response.answer or denied)


def servers_of(zone: str, world: World) -> tuple[list[Server], list[str]]:
    """Answer all name servers of a zone of somebody else, and a line for each whose address cannot be found."""
    found: list[Server] = []
    unknown = []
    for name in world.ask(zone, "NS").values:
        addresses = [value for kind in ("A", "AAAA") for value in world.ask(name, kind).values]
        if addresses:
            found.append(Server(name, 53, world.timeout, address=addresses[0]))
        else:
            unknown.append(f"{name} is a name server of {zone}, but its address cannot be found: it was not asked")
    return found, unknown


def reverse(address: str) -> str:
    """Answer the absolute name of an address in the reverse tree."""
    return f"{ipaddress.ip_address(address).reverse_pointer}."
