"""Zones on their authoritative servers: observe, change by dynamic update, read back.

RFC 2136 (dynamic update) with RFC 8945 (TSIG), over TCP. Every update carries the values it was planned against as
prerequisites, so a zone that somebody else has changed in the meantime is left alone.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rdtypes.txtbase
import dns.tsig
import dns.update

if TYPE_CHECKING:
    from module_utils.dns_plan import ADDRESSES, Change, Key, Plan, Policy, RRset, Wanted, keys, plan, shown, united
else:
    from ansible.module_utils.dns_plan import (
        ADDRESSES,
        Change,
        Key,
        Plan,
        Policy,
        RRset,
        Wanted,
        keys,
        plan,
        shown,
        united,
    )

ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512")
Ledger = Mapping[Key, frozenset[str]]
Observed = Mapping[Key, dns.rdataset.Rdataset]
"""What a server answered: the sets that exist."""

_MOST = 48 * 1024  # bytes of one update: a message has 64 KiB at most
_AT_ONCE = 50  # queries under way on one connection; servers answer them in any order (RFC 7766 section 6.2.1.1)
_THREADS = 16
_STALE = {dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN}
_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class ZoneError(Exception):
    """What is wrong with a zone or its server: one line that says what, where and what to do.

    begun: whether a part of the changes was made before, by an update of its own.
    """

    def __init__(self, text: str, begun: bool = False) -> None:
        super().__init__(text)
        self.begun = begun


class KeyRefusedError(ZoneError):
    """A server does not accept our key."""


class LameError(ZoneError):
    """A server that answers, but has not the zone."""


class StaleError(ZoneError):
    """Somebody else changed the zone after it was observed; nothing was written."""


@dataclass(frozen=True)
class Zone:
    """A zone that we may update. name: absolute; server: name or address; key_file: the secret in base64."""

    name: str
    server: str
    key_name: str
    key_file: str
    key_algorithm: str = ALGORITHMS[0]
    port: int = 53


@dataclass(frozen=True)
class Draft:
    """A plan for a zone, with what it was made from."""

    zone: Zone
    server: Server
    wanted: Sequence[Wanted]
    ledger: Ledger
    policy: Policy
    observed: Observed
    plan: Plan


def zones_of(parameters: Iterable[Mapping[str, Any]], problems: list[str]) -> list[Zone]:
    """Answer the zones of the inventory's dns_records_zones; what is wrong with them is added to problems."""
    zones = [
        Zone(
            name=checked_name(parameter["name"], "zones", problems),
            server=parameter["server"],
            port=parameter["port"],
            key_name=checked_name(parameter["key_name"], "key_name", problems),
            key_algorithm=parameter["key_algorithm"],
            key_file=parameter["key_file"],
        )
        for parameter in parameters
    ]
    names = [zone.name for zone in zones]
    problems += [f"zones: {name} is there twice: take one out" for name in sorted(set(names)) if names.count(name) > 1]
    return zones


def zones_elsewhere(names: Iterable[str], problems: list[str]) -> list[Zone]:
    """Answer zones that somebody else writes, by their names; what is wrong with these is added to problems."""
    return [Zone(checked_name(name, "elsewhere", problems), "", "", "") for name in names]


def zone_of(name: str, zones: Iterable[Zone]) -> Zone | None:
    """Answer the zone that holds a name: the longest that it ends with, None when there is none."""
    holding = [zone for zone in zones if name == zone.name or name.endswith(f".{zone.name}")]
    return max(holding, key=lambda zone: len(zone.name), default=None)


def absolute(name: str) -> str:
    """Answer a name in lower case with the final dot. Raises ValueError when it is no name in DNS (RFC 1035 2.3.4)."""
    try:
        return dns.name.from_text(name.lower()).to_text()
    except (dns.exception.DNSException, UnicodeError) as error:
        raise ValueError(
            f"{name!r} is no name in DNS ({error}): correct it (an international one as xn--...)"
        ) from None


def checked_name(name: str, where: str, problems: list[str]) -> str:
    """Answer a name as `absolute` does; what is wrong with it is added to problems."""
    try:
        return absolute(name)
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return name


def wanted_sets(records: Iterable[Mapping[str, Any]], problems: list[str]) -> list[Wanted]:
    """Answer what the filter mail_rrsets wants, in canonical spelling; what is wrong with it is added to problems."""
    wanted = []
    for record in records:
        name, kind = checked_name(record["name"], "records", problems), record["type"].upper()
        values = []
        for value in record["values"]:
            try:
                values.append(to_value(to_rdata(kind, value)))
            except ValueError as error:
                problems.append(f"records: {name} {kind}: {error}")
        rrset = RRset(record["ttl"], frozenset(values))
        shared, signed = record["ownership"] == "shared", record.get("where") == "signed"
        wanted.append(Wanted(name, kind, rrset, shared, signed))
    return wanted


def hosts_of(wanted: Iterable[Wanted]) -> frozenset[str]:
    """Answer the names that are wanted to have an address."""
    return frozenset(one.name for one in wanted if one.type in ADDRESSES)


def delegated_names(wanted: Iterable[Wanted]) -> dict[str, str]:
    """Answer where names in zones of others have to lead, so that we write what they stand for; see `delegated`."""
    found = [(one.name, value) for one in wanted if one.type == "CNAME" for value in one.rrset.values]
    return {name: value for name, value in found if value.startswith(name)}


def to_rdata(kind: str, value: str) -> dns.rdata.Rdata:
    """Answer a value on the wire; TXT is split at 255 bytes. Raises ValueError when it is none of its type."""
    try:
        if kind == "TXT":
            text = value.encode("latin-1")
            strings = [text[start : start + 255] for start in range(0, len(text), 255)] or [b""]
            return dns.rdtypes.txtbase.TXTBase(dns.rdataclass.IN, dns.rdatatype.TXT, strings)
        return dns.rdata.from_text("IN", kind, value, dns.name.root, relativize=False)
    except (dns.exception.DNSException, UnicodeError, ValueError) as error:
        raise ValueError(f"{value!r} is no value of type {kind} ({error}): correct it") from None


def to_value(rdata: dns.rdata.Rdata) -> str:
    """Answer the one spelling of a value; of TXT, the joined bytes as text (latin-1, so that none is lost)."""
    if isinstance(rdata, dns.rdtypes.txtbase.TXTBase):
        return b"".join(rdata.strings).decode("latin-1")
    wire = rdata.to_digestable()
    return dns.rdata.from_wire(rdata.rdclass, rdata.rdtype, wire, 0, len(wire)).to_text()


def by_hand(one: Wanted) -> list[str]:
    """Answer the lines of a zone file for a set, for a person who has to enter it."""
    return [
        f"{one.name} {one.rrset.ttl} IN {one.type} {to_rdata(one.type, value).to_text()}"
        for value in sorted(one.rrset.values)
    ]


class Server:
    """An authoritative server, spoken to over TCP and, with a key, signed both ways."""

    def __init__(
        self, name: str, port: int, timeout: float, key: dns.tsig.Key | None = None, address: str = ""
    ) -> None:
        """name: of a host, or its address; timeout: seconds for a conversation; address: where to find it, if known."""
        self.name, self.port, self.timeout, self.key, self.address = name, port, timeout, key, address or name

    def ask(self, wanted: Iterable[Key]) -> dict[Key, dns.rdataset.Rdataset]:
        """Answer the sets that exist among names and types. Raises ZoneError unless every answer is authoritative."""
        wanted = list(wanted)
        queries = [
            dns.message.make_query(name, kind, flags=0, id=number) for number, (name, kind) in enumerate(wanted, 1)
        ]
        found = {}
        for (name, kind), answer in zip(wanted, self._converse(queries), strict=True):
            if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                remedy = (
                    "see its log" if answer.rcode() == dns.rcode.SERVFAIL else "does it have the zone of this name?"
                )
                raise LameError(f"{self} answers {_rcode(answer)} when asked for {name} {kind}: {remedy}")
            if not answer.flags & dns.flags.AA:
                raise LameError(f"{self} is not authoritative for {name}: give the primary server of the zone it is in")
            rrset = answer.get_rrset(
                answer.answer, dns.name.from_text(name), dns.rdataclass.IN, dns.rdatatype.from_text(kind)
            )
            if rrset is not None:
                found[name, kind] = rrset.to_rdataset()
        return found

    def referral(self, zone: str) -> dict[str, list[str]]:
        """Answer the name servers to which a server of the zone above refers for a zone, with the addresses it gives.

        Raises ZoneError.
        """
        [answer] = self._converse([dns.message.make_query(zone, "NS", flags=0)])
        owner = dns.name.from_text(zone)
        servers = [
            rdata.to_text().lower()
            for rrset in (*answer.answer, *answer.authority)
            if rrset.name == owner and rrset.rdtype == dns.rdatatype.NS
            for rdata in rrset
        ]
        return {
            server: [
                rdata.to_text()
                for rrset in answer.additional
                if rrset.name == dns.name.from_text(server) and rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
                for rdata in rrset
            ]
            for server in servers
        }

    def update(self, message: dns.update.UpdateMessage) -> dns.rcode.Rcode:
        """Send a dynamic update and answer the server's verdict, which is authentic."""
        return self._converse([message])[0].rcode()

    def __str__(self) -> str:
        """Name the server for people."""
        shown = self.name if self.address == self.name else f"{self.name} ({self.address})"
        return f"{shown} port {self.port}"

    def _converse(self, messages: Sequence[dns.message.Message]) -> list[dns.message.Message]:
        """Answer the answers to messages, in their order. Raises ZoneError when there is none, or no authentic one."""
        deadline = time.monotonic() + self.timeout
        wires: dict[bytes, bytes] = {}
        for message in messages:
            if self.key:
                message.use_tsig(self.key)
        try:
            with socket.create_connection((self.address, self.port), self.timeout) as connection:
                for start in range(0, len(messages), _AT_ONCE):
                    batch = [message.to_wire(max_size=65535) for message in messages[start : start + _AT_ONCE]]
                    connection.sendall(b"".join(struct.pack("!H", len(wire)) + wire for wire in batch))
                    for _ in batch:
                        [size] = struct.unpack("!H", _read(connection, 2, deadline))
                        wire = _read(connection, size, deadline)
                        wires[wire[:2]] = wire
        except TimeoutError:
            raise ZoneError(
                f"{self} does not answer within {self.timeout:g} s: is the name server running and its TCP port open?"
            ) from None
        except socket.gaierror as error:
            raise ZoneError(f"{self.name} is no known host ({error.strerror}): correct the zone's server") from None
        except (OSError, EOFError) as error:
            raise ZoneError(
                f"{self} cannot be reached ({getattr(error, 'strerror', None) or error}): "
                "is the name server running and its TCP port open?"
            ) from None
        except dns.exception.TooBig:
            raise ZoneError(
                f"the update for {self} is over 64 KiB: give some of the domains a zone of their own"
            ) from None
        return [self._opened(wires.get(struct.pack("!H", message.id), b""), message) for message in messages]

    def _opened(self, wire: bytes, request: dns.message.Message) -> dns.message.Message:
        """Answer the message in wire after its signature was verified. Raises ZoneError when it is no answer."""
        key = f"the key {self.key.name.to_text(omit_final_dot=True)}" if self.key else "no key"
        remedy = "compare its name, algorithm and secret on both sides, and what it may do there"
        try:
            answer = dns.message.from_wire(wire, keyring=self.key or False, request_mac=request.mac)
            if request.is_response(answer):
                return answer
            reason = "it does not belong to the question"
        except (dns.tsig.PeerBadKey, dns.message.UnknownTSIGKey):
            raise KeyRefusedError(f"{self} does not accept {key} (BADKEY): {remedy}") from None
        except (dns.tsig.PeerBadSignature, dns.tsig.BadSignature):
            raise KeyRefusedError(f"{self} has another secret for {key} (BADSIG): {remedy}") from None
        except (dns.tsig.PeerBadTime, dns.tsig.BadTime):
            raise ZoneError(
                f"{self} has another time (BADTIME): set the clocks of the name server and of this control node"
            ) from None
        except dns.exception.DNSException as error:
            reason = str(error)
            with contextlib.suppress(dns.exception.DNSException):
                # Mostly the signature is missing. Such an answer is no more than a hint, but often the only one.
                rcode = _rcode(dns.message.from_wire(wire, keyring=False))
                raise KeyRefusedError(
                    f"{self} answers {rcode} without a signature: it does not have the zone "
                    f"{request.sections[0][0].name}, or does not accept {key}: {remedy}, and the clocks"
                ) from None
        raise ZoneError(f"{self} sends no valid answer ({reason}): check what runs there")


def observe(
    server: Server, zone: Zone, wanted: Sequence[Wanted], ledger: Ledger, *, wildcards: bool = True
) -> dict[Key, dns.rdataset.Rdataset]:
    """Answer what there is of all that a plan has to know. Raises ZoneError unless all of it is known for sure.

    A wildcard answers for names that do not exist (RFC 4592 section 2.2), while an update is about those that do: what
    looks like a wildcard's answer is left out, unless wildcards is false.
    """
    found = server.ask([(zone.name, "SOA"), *sorted(keys(wanted, ledger))])
    if found.pop((zone.name, "SOA"), None) is None:
        raise ZoneError(f"{server} has no zone {zone.name}: correct the zone's name or server")
    satisfied = {one.key for one in wanted if one.key in found and to_rrset(found[one.key]) == one.rrset}
    doubtful = {key: _stars(key, zone) for key in found.keys() - satisfied} if wildcards else {}
    stars = {star for stars in doubtful.values() for star in stars}
    answers = server.ask(sorted(stars)) if stars else {}
    for key, asked in doubtful.items():
        if found[key] in [answers.get(star) for star in asked]:
            del found[key]
    return found


def update_of(zone: Zone, changes: Iterable[Change], observed: Observed) -> dns.update.UpdateMessage:
    """Answer the one message that makes changes, if and only if the sets are still as observed."""
    message = dns.update.UpdateMessage(zone.name)
    for change in changes:
        name, kind = change.key
        before = change.before.values if change.before else frozenset()
        after = change.after.values if change.after else frozenset()
        rdatas = {rdata: to_value(rdata) for rdata in observed.get(change.key, ())}
        if rdatas:
            message.present(name, *rdatas)
        else:
            message.absent(name, kind)
            if kind != "CNAME":
                message.absent(name, "CNAME")
        kept = (
            before & after if change.before and change.after and change.before.ttl == change.after.ttl else frozenset()
        )
        for rdata, value in rdatas.items():
            if value not in kept:
                message.delete(name, rdata)
        if change.after:
            for value in sorted(after - kept):
                message.add(name, change.after.ttl, to_rdata(kind, value))
    return message


def send(server: Server, zone: Zone, changes: Iterable[Change], observed: Observed) -> None:
    """Make changes in one update, or in several where one cannot hold them.

    Raises StaleError when the zone is not as observed, ZoneError when an update is refused.
    """
    made: Sequence[Change] = ()
    for part in _parts(zone, changes, observed):
        if made:  # BIND that signs may overlook what comes while it is busy with much
            _lagging(server, made, time.monotonic() + server.timeout)
        try:
            _send(server, zone, update_of(zone, part, observed))
        except ZoneError as error:
            error.begun = bool(made)
            raise
        made = part


def _parts(zone: Zone, changes: Iterable[Change], observed: Observed) -> list[list[Change]]:
    """Answer changes in parts, each for an update: new addresses first, since BIND takes no MX of a host without one.

    Names with the same end stay together as far as they can.
    """

    def order(change: Change) -> tuple[int, list[str]]:
        name, kind = change.key
        rank = 1 if kind not in ADDRESSES else 0 if change.after else 2
        return rank, name.split(".")[::-1]

    parts: list[list[Change]] = []
    room = 0
    for _, group in groupby(sorted(changes, key=order), key=order):
        together = list(group)
        try:
            size = len(update_of(zone, together, observed).to_wire(max_size=65535))
        except dns.exception.TooBig:
            size = _MOST
        if size > room:
            parts.append([])
            room = _MOST
        parts[-1] += together
        room -= size
    return parts


def _send(server: Server, zone: Zone, message: dns.update.UpdateMessage) -> None:
    try:
        rcode = server.update(message)
    except KeyRefusedError:
        rcode = dns.rcode.REFUSED  # it accepted the key for questions; Knot says so when the key may not update
    if rcode in _STALE:
        raise StaleError(f"{zone.name} at {server}: somebody else is editing this zone: run again when they are done")
    if rcode == dns.rcode.REFUSED:
        raise ZoneError(
            f"{server} refuses the update of {zone.name} by key {zone.key_name.rstrip('.')}: allow this key these "
            "names and types there (roles/dns_records/README.md has how), or give the primary as server"
        )
    if rcode in (dns.rcode.NOTAUTH, dns.rcode.NOTZONE):
        raise ZoneError(
            f"{server} is not the primary of {zone.name} ({dns.rcode.to_text(rcode)}): give the primary as server"
        )
    if rcode != dns.rcode.NOERROR:
        remedy = "see its log, or give the primary as server"
        raise ZoneError(f"{server} answers {dns.rcode.to_text(rcode)} to the update of {zone.name}: {remedy}")


def prepare(zone: Zone, wanted: Sequence[Wanted], ledger: Ledger, policy: Policy, timeout: float) -> Draft:
    """Observe a zone and plan its changes. Raises ZoneError.

    wanted, ledger: what belongs to this zone. timeout: seconds that the server may take to answer.
    """
    return prepare_at(Server(zone.server, zone.port, timeout, _key(zone)), zone, wanted, ledger, policy)


def prepare_at(server: Server, zone: Zone, wanted: Sequence[Wanted], ledger: Ledger, policy: Policy) -> Draft:
    """Observe a zone at a server and plan its changes; see `prepare`. Raises ZoneError."""
    if any(one.signed for one in wanted) and not server.ask([(zone.name, "DNSKEY")]):
        wanted = [one for one in wanted if not one.signed]
    return _drafted(zone, server, wanted, ledger, policy, observe(server, zone, wanted, ledger))


def carry_out(draft: Draft, judge: Callable[[Draft], tuple[Sequence[str], Sequence[str]]]) -> Draft:
    """Make the planned changes and answer the plan that was carried out: another one, when the zone had changed.

    judge: answers what stands against another plan, and what to warn of. Raises StaleError when the zone changes once
    more meanwhile, ZoneError when something stands against the new plan or the server refuses. Nothing is written then.
    """
    zone, server = draft.zone, draft.server
    if not draft.plan.changes:
        return draft
    try:
        send(server, zone, draft.plan.changes, draft.observed)
        return draft
    except StaleError as error:
        begun = error.begun
        ledger = united(draft.ledger, draft.plan.ledger) if begun else draft.ledger
        anew = _drafted(zone, server, draft.wanted, ledger, draft.policy, _observed_anew(draft, begun))
    problems, warnings = (anew.plan.conflicts, ()) if anew.plan.conflicts else judge(anew)
    if problems:
        raise ZoneError("\n".join(problems), begun)
    edits = "; ".join(_edits(draft, anew.observed)) or "and nothing of that is to be seen now"
    if anew.plan.changes:
        try:
            send(server, zone, anew.plan.changes, anew.observed)
        except StaleError as error:
            text = f"{error} (they were faster twice; the first time: {edits})"
            raise StaleError(text, begun or error.begun) from None
        except ZoneError as error:
            error.begun = begun or error.begun
            raise
    told = f"{zone.name} at {server}: somebody else edits this zone, too, so it was planned once more ({edits})"
    made = [change for change in draft.plan.changes if begun and _is_made(change, anew.observed)]
    changes = (*made, *anew.plan.changes)
    return replace(anew, plan=replace(anew.plan, changes=changes, warnings=(*anew.plan.warnings, *warnings, told)))


def read_back(draft: Draft, timeout: float) -> tuple[list[str], list[str]]:
    """Wait until all authoritative servers of a zone show the changes: answer who does not, and who was not asked.

    The servers are the one that was updated and all in the zone's NS set. timeout: seconds.
    """
    servers, unknown = _servers(draft.server, draft.zone)
    deadline = time.monotonic() + timeout
    lagging = each(servers, lambda server: _lagging(server, draft.plan.changes, deadline))
    errors = [
        f"{server} does not show the change of {draft.zone.name} after {timeout:g} s ({reason}): "
        "the change is made, so see why this server did not take it over"
        for server, reason in zip(servers, lagging, strict=True)
        if reason
    ]
    return errors, unknown


def authoritative(zone: Zone, timeout: float) -> tuple[list[Server], list[str]]:
    """Answer all name servers of a zone of ours, and a line for each whose address cannot be found.

    Raises ZoneError. timeout: seconds that a server may take to answer.
    """
    return _servers(Server(zone.server, zone.port, timeout, _key(zone)), zone)


def not_shown(servers: Iterable[Server], zone: str, wanted: Sequence[Wanted]) -> tuple[dict[Key, str], int]:
    """Answer which sets of a zone not every server shows, with the reason, and how long others may remember others.

    zone: its absolute name. The second answer is in seconds: of a set that was not there the negative TTL (RFC 2308
    section 5), else the TTL.
    """

    def look(server: Server) -> tuple[dict[Key, str], int]:
        try:
            found = server.ask([*(one.key for one in wanted), (zone, "SOA")])
        except ZoneError as error:
            return {one.key: str(error) for one in wanted}, 0
        late = {
            one.key: f"{server} does not show {' '.join(one.key)}"
            for one in wanted
            if one.key not in found or to_rrset(found[one.key]).values != one.rrset.values
        }
        soa = found.get((zone, "SOA"))
        negative = min(soa.ttl, soa[0].minimum) if soa else 0
        return late, max([negative, *(found[one.key].ttl for one in wanted if one.key in found)])

    answers = each(servers, look)
    reasons = {key: reason for late, _ in reversed(answers) for key, reason in late.items()}
    return reasons, max((seconds for _, seconds in answers), default=0)


def each(items: Iterable[_Item], function: Callable[[_Item], _Answer]) -> list[_Answer]:
    """Answer what function answers for each of items, asked at the same time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


def to_rrset(rdataset: dns.rdataset.Rdataset) -> RRset:
    """Answer a set in the planner's terms."""
    return RRset(rdataset.ttl, frozenset(to_value(rdata) for rdata in rdataset))


def _drafted(
    zone: Zone, server: Server, wanted: Sequence[Wanted], ledger: Ledger, policy: Policy, observed: Observed
) -> Draft:
    """Answer a plan with what it was made from."""
    made = plan(wanted, {key: to_rrset(rdataset) for key, rdataset in observed.items()}, ledger, policy)
    return Draft(zone, server, wanted, ledger, policy, observed, made)


def _observed_anew(draft: Draft, begun: bool) -> dict[Key, dns.rdataset.Rdataset]:
    """Observe until others are seen to have changed something, or the server's time is up; sets of wildcards included.

    begun: whether a part of the changes was made. BIND that signs compares prerequisites with what was last written,
    and shows it only when it is signed.
    """
    return _asked_until(
        time.monotonic() + draft.server.timeout,
        lambda: observe(draft.server, draft.zone, draft.wanted, draft.ledger, wildcards=False),
        lambda observed: bool(_edits(draft, observed)) if begun else observed != draft.observed,
    )


def _is_made(change: Change, observed: Observed) -> bool:
    """Say whether a set is as a change makes it."""
    return (to_rrset(observed[change.key]) if change.key in observed else None) == change.after


def _edits(draft: Draft, observed: Observed) -> list[str]:
    """Answer what others have changed since a plan was made, set by set, as people say it."""
    made = {change.key for change in draft.plan.changes if _is_made(change, observed)}

    def said(key: Key) -> str:
        old, new = (
            to_rrset(found[key]) if key in found else RRset(0, frozenset()) for found in (draft.observed, observed)
        )
        parts = [("lost", old.values - new.values), ("got", new.values - old.values)]
        edits = [f"{verb} {shown(key[1], value)}" for verb, values in parts for value in sorted(values)]
        return f"{' '.join(key)} {', '.join(edits) or f'got the TTL {new.ttl}'}"

    others = sorted({*draft.observed, *observed} - made)
    return [said(key) for key in others if draft.observed.get(key) != observed.get(key)]


def _key(zone: Zone) -> dns.tsig.Key:
    """Answer the key of a zone. Raises ZoneError when it cannot be used."""
    where = f"key_file {zone.key_file} of zone {zone.name}"
    if zone.key_algorithm not in ALGORITHMS:
        raise ZoneError(
            f"zone {zone.name}: key_algorithm {zone.key_algorithm} is not accepted: use {' or '.join(ALGORITHMS)}"
        )
    try:
        path = Path(zone.key_file).expanduser()
        if path.stat().st_mode & 0o007:
            raise ZoneError(f"{where} can be read by everybody on this machine: chmod 600 {path}")
        secret = base64.b64decode(path.read_text(encoding="ascii").strip(), validate=True)
    except OSError as error:
        raise ZoneError(f"{where} cannot be read ({error.strerror}): write the TSIG key's secret there") from None
    except (UnicodeError, binascii.Error):
        secret = b""
    if not secret:
        raise ZoneError(f"{where} is no TSIG secret: it has to hold the secret in base64 and nothing else")
    return dns.tsig.Key(zone.key_name, secret, zone.key_algorithm)


def _stars(key: Key, zone: Zone) -> list[Key]:
    """Answer the wildcards in a zone that may answer for a name and type."""
    labels = key[0].removesuffix(zone.name).split(".")[:-1]
    return [(".".join(["*", *labels[place:], zone.name]), key[1]) for place in range(1, len(labels) + 1)]


def _servers(server: Server, zone: Zone) -> tuple[list[Server], list[str]]:
    """Answer the servers of a zone, the given one first, and a line for each whose address cannot be found."""
    own = _resolved(server.address)
    servers, unknown = [server], []
    for name in sorted(rdata.to_text() for rdata in server.ask([(zone.name, "NS")]).get((zone.name, "NS"), ())):
        try:  # who serves the zone mostly serves the names of its servers, which need not be public
            found = server.ask([(name, "A"), (name, "AAAA")])
            addresses = [rdata.to_text() for rdataset in found.values() for rdata in rdataset]
        except ZoneError:
            addresses = _resolved(name)
        if not addresses:
            unknown.append(f"{name} is a name server of {zone.name}, but its address cannot be found: it was not asked")
        elif not set(addresses) & set(own):
            servers.append(Server(name, 53, server.timeout, address=addresses[0]))
    return servers, unknown


def _resolved(host: str) -> list[str]:
    """Answer the addresses of a host, none when it is not known."""
    try:
        return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, 53, type=socket.SOCK_STREAM)))
    except (OSError, UnicodeError):
        return []


def _lagging(server: Server, changes: Sequence[Change], deadline: float) -> str:
    """Ask a server until it shows changes; answer why it does not at the deadline (seconds of the monotonic clock)."""

    def late() -> str:
        try:
            found = {key: to_rrset(rdataset) for key, rdataset in server.ask([one.key for one in changes]).items()}
        except ZoneError as error:
            return str(error)
        late = [" ".join(one.key) for one in changes if not _shows(one, found.get(one.key))]
        more = f" and {len(late) - 3} more" if len(late) > 3 else ""
        return f"still the old {', '.join(late[:3])}{more}" if late else ""

    return _asked_until(deadline, late, lambda reason: not reason)


def _asked_until(deadline: float, ask: Callable[[], _Answer], is_right: Callable[[_Answer], bool]) -> _Answer:
    """Ask again and again until the answer is right or time is up (seconds of the monotonic clock); answer the last."""
    pause = 0.02
    while not is_right(answer := ask()) and time.monotonic() + pause <= deadline:
        time.sleep(pause)  # between two questions, not instead of them
        pause = min(2 * pause, 1.0)
    return answer


def _shows(change: Change, found: RRset | None) -> bool:
    """Say whether a change can be seen, also when others have changed the set since."""
    before = change.before.values if change.before else frozenset()
    after = change.after.values if change.after else frozenset()
    seen = found.values if found else frozenset()
    same_ttl = not (change.after and found) or (change.after.ttl == found.ttl)
    return after - before <= seen and not (before - after) & seen and same_ttl


def _rcode(message: dns.message.Message) -> str:
    """Answer the verdict of a message as a word."""
    return dns.rcode.to_text(message.rcode())


def _read(connection: socket.socket, size: int, deadline: float) -> bytes:
    """Answer exactly size bytes. Raises EOFError when the other side closes, TimeoutError at the deadline."""
    data = b""
    while len(data) < size:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError("it closes the connection")
        data += part
    return data
