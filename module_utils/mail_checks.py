"""What is right and wrong with a company's mail records as the world sees them. Pure, but for the questions asked.

Everything that we know for certain is compared for equality: keys, addresses, the served certificate. What receivers
evaluate is evaluated as they do.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal, Protocol

import dns.name
import dns.reversename

if TYPE_CHECKING:
    from module_utils import dmarc, dns_chain, spf, spf_check, tls_hello
    from module_utils.dns_plan import Wanted, shown
    from module_utils.dns_world import Answer, Key, reverse
    from module_utils.dns_zone import LameError, ZoneError, delegated_names, each
    from module_utils.smtp_tls import Offer
else:
    from ansible.module_utils import dmarc, dns_chain, spf, spf_check, tls_hello
    from ansible.module_utils.dns_plan import Wanted, shown
    from ansible.module_utils.dns_world import Answer, Key, reverse
    from ansible.module_utils.dns_zone import LameError, ZoneError, delegated_names, each
    from ansible.module_utils.smtp_tls import Offer

Verdict = Literal["ok", "fails", "advice", "unknown"]
Whose = Literal["managed", "external"]

REMOVED_DMARC_TAGS = ("pct", "rf", "ri")  # by RFC 9989
KINDS = {"CAA": "CAA record", "PTR": "reverse DNS", "TLSA": "TLSA record"}  # others are called by their type
PLACES = {"_dmarc": "DMARC record", "_mta-sts": "MTA-STS record", "_smtp": "TLS reports"}  # by a name's first label
NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
MIN_DHE = 2048  # bits of a prime that nobody has broken yet
MIN_MAX_AGE = 86400  # of an MTA-STS policy, seconds: shorter, it protects nobody who writes seldom


class World(Protocol):
    """Where questions are asked; see module_utils.dns_world."""

    def ask(self, name: str, kind: str) -> Answer:
        """Answer what there is of a name and type."""

    def authoritative(self, address: str, keys: Iterable[Key]) -> Mapping[Key, frozenset[str]]:
        """Answer what a name server itself says. Raises ZoneError, LameError among them."""

    def referral(self, address: str, zone: str) -> Mapping[str, Sequence[str]]:
        """Answer the name servers that one of the zone above gives for a zone, with addresses. Raises ZoneError."""


@dataclass(frozen=True)
class Finding:
    """One check's result.

    name: what it is about, without final dot. check: what was looked at. verdict: `advice` is what could be better
    but fails nothing. whose: `managed` when Mailroom writes it, `external` when somebody has to set it elsewhere.
    text: what was found, and unless it is ok what to do. record: name and type of the wanted set it is about, if any.
    """

    name: str
    check: str
    verdict: Verdict
    whose: Whose
    text: str
    record: str = ""


@dataclass(frozen=True)
class Expected:
    """What the inventory says. hosts: addresses by mail host. zones: names of those that Mailroom writes, absolute.

    wanted: the record sets, with the level of each. issuer: the authority's CAA name that has to be allowed, or empty.
    policy: the MTA-STS policy that is to be served, or empty.
    """

    domains: Sequence[str]
    hosts: Mapping[str, Sequence[str]]
    wanted: Sequence[tuple[Wanted, str]]
    zones: Sequence[str]
    issuer: str = ""
    policy: str = ""

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Answer where names in zones of others have to lead, so that we write what they stand for."""
        return delegated_names(one for one, _ in self.wanted)

    def whose(self, name: str) -> Whose:
        """Answer who writes what stands at a name."""
        name = self.aliases.get(name, name)
        return "managed" if any(f".{name}".endswith(f".{zone}") for zone in self.zones) else "external"


def checks(expected: Expected, world: World) -> list[Callable[[], list[Finding]]]:
    """Answer all checks, none of which waits for another; each answers its findings."""

    def one(function: Callable[..., Iterator[Finding]], *arguments: object) -> Callable[[], list[Finding]]:
        return lambda: list(function(expected, world, *arguments))

    def of_record(wanted: Wanted, level: str) -> list[Finding]:
        if wanted.signed and not world.ask(zone_of(wanted.name, world), "SOA").secure:
            return []
        evaluated = wanted.shared and wanted.type == "TXT" and all(spf.is_spf(value) for value in wanted.rrset.values)
        leads = wanted.type == "CNAME" and wanted.name in expected.aliases
        found = (_spf if evaluated else _alias if leads else _record)(expected, world, wanted, level)
        return [replace(finding, record=" ".join(wanted.key)) for finding in found]

    found: list[Callable[[], list[Finding]]] = [partial(of_record, *wanted) for wanted in expected.wanted]
    for domain in expected.domains:
        found += [one(_dmarc, domain), one(_mail_servers, domain)]
    return [*found, *(one(_authorities, host) for host in expected.hosts)]


def places(expected: Expected, world: World) -> list[Callable[[], tuple[Key, str]]]:
    """Answer questions for the zone of each wanted set, none of which waits for another; `zone_checks` needs them.

    Of reverse zones only those that DNSSEC makes unreadable are looked for: they are others' mostly.
    """

    def place(key: Key) -> tuple[Key, str]:
        reverse_zone = key[0].endswith(".arpa.") and not world.ask(*key).bogus
        return key, "" if reverse_zone else zone_of(key[0], world)

    return [partial(place, one.key) for one, _ in expected.wanted]


def zone_checks(
    expected: Expected, world: World, placed: Iterable[tuple[Key, str]]
) -> list[Callable[[], list[Finding]]]:
    """Answer the checks of all zones that hold a wanted set, given what `places` answers."""
    inside: dict[str, set[Key]] = {}
    for key, zone in placed:
        if zone:
            inside.setdefault(zone, set()).add(key)

    def check(zone: str, keys: set[Key]) -> list[Finding]:
        said: dict[str, Mapping[Key, frozenset[str]]] = {}
        found = list(_name_servers(zone.rstrip("."), expected.whose(zone), keys, world, said))
        return [*_chain(zone, world, said), *found]

    return [partial(check, *item) for item in sorted(inside.items())]


def served_certificate(expected: Expected, world: World, host: str, certificate: bytes, key: bytes) -> list[Finding]:
    """Compare the TLSA records of a host's port 25 with its certificate and public key, both in DER (RFC 7672).

    Usage 2 (the issuer) is left to whoever sees the whole chain.
    """
    name = f"_25._tcp.{host}"
    answer = world.ask(name, "TLSA")
    whose = expected.whose(f"{name}.")
    if not answer.values:
        return []
    if world.ask(".", "SOA").bogus:
        return [Finding(name, "TLSA", "unknown", whose, "cannot be validated: the resolver trusts no key of the root")]
    if not answer.secure:
        text = "stands in a zone without DNSSEC, so nobody may believe it: sign the zone, or take the record out"
        return [Finding(name, "TLSA", "advice", whose, text)]
    digests: dict[str, Callable[[bytes], str]] = {
        "0": bytes.hex,
        "1": lambda data: hashlib.sha256(data).hexdigest(),
        "2": lambda data: hashlib.sha512(data).hexdigest(),
    }
    fields = [value.lower().split(maxsplit=3) for value in answer.values]
    right = [
        digests[kind](key if selector == "1" else certificate) == data.replace(" ", "")
        for usage, selector, kind, data in fields
        if usage == "3" and selector in "01" and kind in digests
    ]
    if any(right):
        return [Finding(name, "TLSA", "ok", whose, f"{sum(right)} of {len(fields)} name the certificate in use")]
    if any(usage == "2" for usage, *_ in fields):
        return [Finding(name, "TLSA", "unknown", whose, "names an issuer, which is not compared here")]
    text = f"names another certificate than port 25 shows, so DANE stops mail: set 3 1 1 {digests['1'](key)}"
    return [Finding(name, "TLSA", "fails", whose, text)]


def port_25(host: str, offer: Offer | str, ca_file: str) -> list[Finding]:
    """Judge what a mail host's port 25 offers, or why it cannot be looked at.

    ca_file: of the authorities that the certificate was verified by, empty for those that everybody knows.
    """
    if isinstance(offer, str):
        text = f"cannot be looked at from here ({offer}): many networks let nobody out to port 25, look from another"
        return [Finding(host, "STARTTLS", "advice", "external", text)]
    if offer.problem:
        text = f"port 25 offers it, and then TLS fails ({offer.problem}), so that mail may not arrive: run site.yml"
        return [Finding(host, "STARTTLS", "fails", "managed", text)]
    if not offer.version:
        text = "port 25 offers none, so that mail to it can be read on its way: run site.yml"
        return [Finding(host, "STARTTLS", "fails", "managed", text)]
    found = [Finding(host, "STARTTLS", "ok", "managed", f"offered, {offer.version}")]
    worse = "too: better than none, but tests such as that of Internet.nl count it against the host"
    if offer.old:
        text = f"{tls_hello.VERSIONS.get(offer.old.version, 'one before TLS 1.2')} is taken, {worse}"
        found.append(Finding(host, "TLS version", "advice", "managed", text))
    else:
        found.append(Finding(host, "TLS version", "ok", "managed", "none before TLS 1.2 is taken"))
    weak = ["RSA without forward secrecy"] if offer.rsa else []
    weak += [f"DHE with {offer.dhe.bits} bits"] if offer.dhe and offer.dhe.bits < MIN_DHE else []
    weak += [f"a curve that is no longer in use (number {offer.curve.curve})"] if offer.curve else []
    if weak:
        found.append(Finding(host, "TLS key exchange", "advice", "managed", f"{' and '.join(weak)} is taken, {worse}"))
    else:
        text = f"with forward secrecy alone, {f'DHE with {offer.dhe.bits} bits' if offer.dhe else 'no DHE'}"
        found.append(Finding(host, "TLS key exchange", "ok", "managed", text))
    if offer.distrust:
        text = f"is not believed ({offer.distrust}): run site.yml, or name its authority in dns_records_ca_file"
        found.append(Finding(host, "TLS certificate", "fails", "managed", text))
    elif ca_file:
        text = f"is right by {ca_file}, which strangers may not know: certificate_mode: acme has an authority they do"
        found.append(Finding(host, "TLS certificate", "advice", "managed", text))
    else:
        found.append(Finding(host, "TLS certificate", "ok", "managed", "has the name, and an authority that all know"))
    return found


def over_ipv6(host: str, address: str, problem: Exception | None) -> list[Finding]:
    """Judge whether a mail host's port 25 is there for who has IPv6 alone. problem: what came instead of its words."""
    name = "port 25, IPv6"
    if problem is None:
        return [Finding(host, name, "ok", "managed", f"{address} greets")]
    if isinstance(problem, OSError) and problem.errno in NO_WAY:
        text = f"{address} cannot be looked at, for want of IPv6 here ({problem.strerror}): look from another network"
        return [Finding(host, name, "unknown", "external", text)]
    if isinstance(problem, TimeoutError):
        text = f"{address} does not answer from here: see that its provider, and this network, let port 25 through"
        return [Finding(host, name, "unknown", "external", text)]
    text = f"{address} says no ({problem}), and who has IPv6 tries it first: run site.yml, or take mail_host_ipv6 out"
    return [Finding(host, name, "fails", "managed", text)]


def served_policy(expected: Expected, world: World, domain: str, policy: str) -> list[Finding]:
    """Compare an MTA-STS policy, as served over HTTPS, with ours and with the domain's mail servers (RFC 8461).

    policy: its text, or what went wrong, beginning with `!`. Without a record there is nothing to compare.
    """
    name, whose = f"_mta-sts.{domain}", expected.whose(f"_mta-sts.{domain}.")
    records = [value for value in world.ask(name, "TXT").values if value.startswith("v=STSv1")]
    if not records:
        return []
    if policy.startswith("!"):
        return [Finding(name, "MTA-STS", "fails", whose, f"its policy cannot be had ({policy[1:].strip()})")]
    lines = [line.split(":", 1) for line in policy.splitlines() if ":" in line]
    fields = {key.strip(): value.strip() for key, value in lines}
    allowed = [value.strip().lower() for key, value in lines if key.strip() == "mx"]
    servers = [value.split()[1].rstrip(".") for value in world.ask(domain, "MX").values]
    outside = [server for server in servers if not any(_covers(pattern, server) for pattern in allowed)]
    verdict: Verdict = "fails"
    if fields.get("version") != "STSv1" or fields.get("mode") not in ("enforce", "testing", "none"):
        text = "its policy is none: it needs version: STSv1 and a mode"
    elif expected.policy and policy.splitlines() != expected.policy.splitlines():
        text = "its policy is not the one that its id stands for: run site.yml"
    elif outside:
        text = f"its policy leaves out {', '.join(outside)}: add an mx line first, then a new id"
    elif not fields.get("max_age", "").isdigit() or int(fields["max_age"]) < MIN_MAX_AGE:
        text, verdict = f"max_age is {fields.get('max_age') or 'missing'}: use 604800 (a week) or more", "advice"
    elif fields["mode"] != "enforce":
        text, verdict = f"mode is {fields['mode']}: enforce protects", "advice"
    else:
        text, verdict = f"mode enforce, {len(allowed)} mx", "ok"
    return [Finding(name, "MTA-STS", verdict, whose, text)]


def block_list(world: World, address: str, zone: str) -> list[Finding]:
    """Say whether a block list has an address (RFC 5782), and whether it can be asked from here at all."""

    def listed(asked: str) -> Answer:
        parts = reverse(asked).rsplit(".", 3)[0]
        return world.ask(f"{parts}.{zone}", "A")

    check = f"block list {zone}"
    probe = "127.0.0.2" if ipaddress.ip_address(address).version == 4 else "::ffff:7f00:2"
    error = [value for value in listed(probe).values if value.startswith("127.255.255.")]
    if error or not listed(probe).values:
        text = f"answers {error[0]}, an error" if error else "has no test entry"
        text += ": ask through a resolver of your own (dns_records_resolver), public ones are turned away"
        return [Finding(address, check, "unknown", "external", text)]
    answer = listed(address)
    if any(value.startswith("127.") for value in answer.values):
        text = f"lists it ({', '.join(answer.values)}): see {zone} for why and how to have it taken off"
        return [Finding(address, check, "fails", "external", text)]
    return [Finding(address, check, "ok", "external", "does not list it")]


def _uncertain(name: str, check: str, whose: Whose, answer: Answer) -> Finding | None:
    """Answer a finding when an answer tells nothing for sure, None when it does."""
    if answer.bogus:
        text = f"bogus for all who validate ({answer.bogus}): see DNSSEC of its zone"
        return Finding(name, check, "fails", whose, text)
    if not answer.known:
        text = f"the resolver answers {_code(answer)}: is it, and are the zone's name servers, reachable?"
        return Finding(name, check, "unknown", whose, text)
    return None


def _record(expected: Expected, world: World, one: Wanted, level: str) -> Iterator[Finding]:
    """Whether a record set is what we want, to the letter."""
    name, whose = _shown_name(one), expected.whose(one.name)
    check = "DKIM" if "._domainkey." in one.name else KINDS.get(one.type, one.type)
    check = PLACES.get(name.partition(".")[0], check)
    bad = "fails" if one.type == "PTR" else _bad(level)
    answer = world.ask(one.name, one.type)
    uncertain = _uncertain(name, check, whose, answer)
    if uncertain:
        yield uncertain
        return
    wanted, found = one.rrset.values, frozenset(answer.values)
    missing, foreign = wanted - found, frozenset() if one.shared else found - wanted
    if not missing and not foreign:
        yield Finding(name, check, "ok", whose, _short(", ".join(shown(one.type, value) for value in sorted(wanted))))
        return
    right = " and ".join(shown(one.type, value) for value in sorted(wanted))
    remedy = "run site.yml" if whose == "managed" else f"set {one.type} {right}"
    if one.type == "PTR" and whose == "external":
        remedy = f"have the provider of the address set its name to {right}; many receivers refuse mail without"
    elif one.type == "MX" and foreign and not missing:
        remedy = "take the others out, or mail is lost to them"
    there = _short(", ".join(shown(one.type, value) for value in sorted(found)))
    if check == "DKIM" and not missing:
        text = f"holds {len(found)} records, where one is allowed: keep ours"
    elif check == "DKIM" and any(_squeezed(value) in map(_squeezed, wanted) for value in found):
        text = f"holds our key with spaces inside, as forms that split it make: {remedy}"
    elif check == "DKIM" and any(_key(value) in map(_key, wanted) for value in found):
        text = f"holds our key, but is {there}: {remedy}"
    elif check == "DKIM" and found:
        text = f"is not the key that the mail host signs with: {remedy}"
    elif check == "MTA-STS record" and found:
        # Not only worse than it could be: mail servers may be held to a policy without those of today.
        text, bad = f"is {there}, so who has fetched an earlier policy keeps to that (RFC 8461 3.1): {remedy}", "fails"
    elif found:
        text = f"is {there}: {remedy}"
    else:
        text = f"is not there: {remedy}"
    yield Finding(name, check, bad, whose, text)


def _alias(expected: Expected, world: World, one: Wanted, level: str) -> Iterator[Finding]:
    """Whether a name in a zone of others leads to where we write."""
    name, target = one.name.rstrip("."), expected.aliases[one.name]
    answer = world.ask(one.name, "CNAME")
    uncertain = _uncertain(name, "delegation", "external", answer)
    if uncertain:
        yield uncertain
        return
    dane = name.startswith("_25._tcp.")
    if target in answer.values and dane and not world.ask(zone_of(target, world), "SOA").secure:
        text = "leads to a zone without DNSSEC, so that nobody may believe what stands there: sign that zone"
        yield Finding(name, "delegation", "advice", "external", text)
        return
    if target in answer.values:
        yield Finding(name, "delegation", "ok", "external", f"leads to {target}")
        return
    own = world.ask(one.name, "TLSA" if dane else "TXT").values
    if answer.values:
        text = f"leads to {', '.join(answer.values)} instead of to us: set CNAME {target}"
    elif own:
        text = f"has a record of its own, which stays as it is when ours changes: replace it by CNAME {target}"
    else:
        text = f"is not there: set CNAME {target}"
    yield Finding(name, "delegation", _bad(level), "external", text)


def _spf(expected: Expected, world: World, one: Wanted, level: str) -> Iterator[Finding]:
    """What receivers make of the SPF record: of a domain, or of a mail host's name in HELO."""
    name, whose, bad = one.name.rstrip("."), expected.whose(one.name), _bad(level)
    uncertain = _uncertain(name, "SPF", whose, world.ask(name, "TXT"))
    if uncertain:
        yield uncertain
        return

    def ask(asked: str, kind: str) -> Sequence[str]:
        answer = world.ask(asked, kind)
        if not answer.known or answer.bogus:
            raise spf_check.AskError(f"{asked} {kind}: {answer.bogus or answer.status}")
        return answer.values

    senders = expected.hosts if name in expected.domains else [name]
    own = [address for host in senders for address in expected.hosts[host]]
    verdicts = {address: spf_check.check_host(address, name, f"postmaster@{name}", ask) for address in own}
    wrong = {address: verdict for address, verdict in verdicts.items() if verdict.result != "pass"}
    if wrong:
        reasons = dict.fromkeys(f"{verdict.result} ({verdict.why})" for verdict in wrong.values())
        text = f"for our {', '.join(wrong)} it says {' and '.join(reasons)}"
        temporary = all(verdict.result == "temperror" for verdict in wrong.values())
        text += "" if temporary else f": {'run site.yml' if whose == 'managed' else 'correct the record'}"
        yield Finding(name, "SPF", "unknown" if temporary else bad, whose, text)
        return
    strangers = [spf_check.check_host(address, name, f"postmaster@{name}", ask) for address in spf_check.STRANGERS]
    broken = [verdict for verdict in strangers if verdict.result == "permerror"]
    loose = [verdict for verdict in strangers if verdict.result in ("pass", "neutral")]
    most = max([*strangers, *verdicts.values()], key=lambda verdict: verdict.lookups).lookups
    if broken:
        yield Finding(name, "SPF", bad, whose, f"broken for others ({broken[0].why}): correct the record")
    elif loose:
        text = f"says {loose[0].result} for everybody ({loose[0].why}): end it with ~all"
        yield Finding(name, "SPF", bad, whose, text)
    else:
        text = f"pass for {', '.join(own)}, {strangers[0].result} for others, {most} of {spf.MAX_LOOKUPS} lookups"
        yield Finding(name, "SPF", "ok", whose, text)


def _dmarc(expected: Expected, world: World, domain: str) -> Iterator[Finding]:
    """Whether the DMARC record is one, protects, and may send its reports where it says (RFC 9989, RFC 9990)."""
    name = f"_dmarc.{domain}"
    whose = expected.whose(f"{name}.")
    records = [value for value in world.ask(name, "TXT").values if dmarc.is_dmarc(value)]
    if len(records) != 1:
        if records:
            text = f"{len(records)} DMARC records count as none: keep one"
            yield Finding(name, "DMARC policy", "fails", whose, text)
        return  # that it is missing is said by its record
    tags = dmarc.tags(records[0])
    policy = tags.get("p", "").lower()
    removed = [tag for tag in REMOVED_DMARC_TAGS if tag in tags]
    if policy not in ("none", "quarantine", "reject"):
        yield Finding(
            name, "DMARC policy", "fails", whose, f"p={policy or '(missing)'}: use none, quarantine or reject"
        )
    elif policy == "none" or tags.get("t", "").lower() == "y":
        text = f"{'p=none' if policy == 'none' else 't=y'} asks for reports alone: quarantine or reject protects"
        yield Finding(name, "DMARC policy", "advice", whose, text)
    elif removed:
        text = f"{', '.join(removed)}: removed by RFC 9989, receivers ignore it: take it out"
        yield Finding(name, "DMARC policy", "advice", whose, text)
    else:
        yield Finding(name, "DMARC policy", "ok", whose, f"p={policy}")
    for target, permission in dmarc.permissions(domain, records[0]).items():
        answer = world.ask(permission, "TXT")
        if answer.known and not dmarc.agreed(answer.values):
            text = f'{target} has not agreed to get reports: have it publish {permission} TXT "v=DMARC1;"'
            yield Finding(name, "DMARC reports", "advice", "external", text)


def _mail_servers(expected: Expected, world: World, domain: str) -> Iterator[Finding]:
    """Whether the names that MX gives are hosts with an address, and no aliases (RFC 2181 section 10.3)."""
    for value in world.ask(domain, "MX").values:
        server = value.split()[1].rstrip(".")
        whose = expected.whose(f"{domain}.")
        answers = [world.ask(server, kind) for kind in ("A", "AAAA")]
        if any(answer.aliases for answer in answers):
            alias = next(answer.aliases[0] for answer in answers if answer.aliases).rstrip(".")
            text = f"MX {server} is a CNAME, which RFC 2181 forbids: name {alias} itself"
            yield Finding(domain, "MX target", "fails", whose, text)
        elif all(answer.known and not answer.values for answer in answers):
            yield Finding(domain, "MX target", "fails", whose, f"MX {server} has no address: mail cannot arrive")
        for version, answer in zip((4, 6), answers, strict=True):
            ours = [ipaddress.ip_address(address).version for address in expected.hosts.get(server, ())]
            if ours and version not in ours and answer.values and not answer.aliases:
                text = (
                    f"MX {server} has {', '.join(answer.values)}, where others try to deliver, too: take it out, or set"
                )
                yield Finding(domain, "MX target", "fails", whose, f"{text} mail_host_ipv{version}")


def _authorities(expected: Expected, world: World, host: str) -> Iterator[Finding]:
    """Whether CAA lets the authority issue that the host's certificate comes from (RFC 8659 section 3)."""
    labels = host.split(".")
    for place in range(len(labels) - 1):
        name = ".".join(labels[place:])
        values = world.ask(name, "CAA").values
        if not values:
            continue
        whose = expected.whose(f"{name}.")
        fields = [value.split(maxsplit=2) for value in values]
        issuers = [value.strip('"').partition(";")[0].strip().lower() for _, tag, value in fields if tag == "issue"]
        if expected.issuer and issuers and expected.issuer.lower() not in issuers:
            text = f'forbids {expected.issuer} to renew the certificate of {host}: add 0 issue "{expected.issuer}"'
            yield Finding(name, "CAA", "fails", whose, text)
        else:
            text = f"allows {', '.join(filter(None, issuers)) or 'nobody'}" if issuers else "restricts none of this"
            yield Finding(name, "CAA", "ok", whose, text)
        return
    if expected.issuer:
        text = f'none: every authority may issue; 0 issue "{expected.issuer}" allows yours alone'
        yield Finding(host, "CAA", "advice", expected.whose(f"{host}."), text)


def _chain(zone: str, world: World, said: Mapping[str, Mapping[Key, frozenset[str]]]) -> Iterator[Finding]:
    """What DNSSEC makes of a zone. Whatever is wrong with it is never of Mailroom's making.

    said: what its name servers say of SOA and DNSKEY. A resolver may have nothing at all from servers that answer us,
    when they sign nothing where there should be signatures.
    """

    def ask(name: str, kind: str) -> Answer:
        answer = world.ask(name, kind)
        if answer.known or name != zone or kind not in ("SOA", "DNSKEY"):
            return answer
        values = next((tuple(one.get((zone, kind), ())) for one in said.values()), ())
        return Answer(values=values, bogus=_code(answer)) if said else answer

    link = dns_chain.chain(zone, ask)
    name = link.zone.rstrip(".") or "."
    if link.state == "broken":
        yield Finding(name, "DNSSEC", "fails", "external", link.text)
    elif link.state == "insecure" or (link.state == "secure" and link.text):
        yield Finding(name, "DNSSEC", "advice", "external", link.text)
    elif link.state == "secure":
        yield Finding(name, "DNSSEC", "ok", "external", "signed, and the chain from the root is whole")


def _name_servers(
    zone: str, whose: Whose, keys: set[Key], world: World, said: dict[str, Mapping[Key, frozenset[str]]]
) -> Iterator[Finding]:
    """Whether all name servers of a zone say the same of what matters to us; what each says is added to `said`."""
    more = {(f"{zone}.", "SOA"), (f"{zone}.", "DNSKEY")}
    reached = world.ask(zone, "SOA").known
    servers = _delegation(zone, world)
    if not servers:
        answer = world.ask(zone, "NS")
        text = f"cannot be found ({_code(answer)}): is the resolver, and is the zone above, reachable?"
        yield Finding(zone, "name servers", "unknown", "external", text)
    for server, addresses in servers.items():
        if not addresses:
            yield Finding(zone, "name servers", "fails", "external", f"{server} has no address: correct the NS record")
            continue
        try:
            said[server] = world.authoritative(addresses[0], sorted(keys | more))
        except ZoneError as error:
            # One that does not answer is perhaps out of our reach alone, unless the resolver gets nothing either.
            verdict: Verdict = "fails" if isinstance(error, LameError) or not reached else "unknown"
            yield Finding(zone, "name servers", verdict, "external", f"{server} is of no use: {error}")
    yield from _over_ipv6(zone, servers, world)
    different = {
        " ".join((name.rstrip("."), kind))
        for name, kind in keys
        if len({answer.get((name, kind), frozenset()) for answer in said.values()}) > 1
    }
    serials = {server: min(answer.get((f"{zone}.", "SOA"), {"? ? ?"})).split()[2] for server, answer in said.items()}
    if different:
        text = f"{', '.join(sorted(said))} differ in {', '.join(sorted(different))}: see why one is behind"
        yield Finding(zone, "name servers", "fails", whose, text)
    elif len(set(serials.values())) > 1:
        text = ", ".join(f"{server} has serial {serial}" for server, serial in sorted(serials.items()))
        yield Finding(zone, "name servers", "advice", whose, f"{text}: a change may be on its way")
    elif said:
        yield Finding(zone, "name servers", "ok", whose, f"{', '.join(sorted(said))}: of one mind")


def _over_ipv6(zone: str, servers: Mapping[str, Sequence[str]], world: World) -> Iterator[Finding]:
    """Whether who has IPv6 alone can find a zone: two of its name servers have to be there for them, or all."""
    addresses = {server: [one for one in found if ":" in one][:1] for server, found in servers.items()}
    have = sorted(server for server, found in addresses.items() if found)

    def problem(server: str) -> str:
        try:
            world.authoritative(addresses[server][0], [(f"{zone}.", "SOA")])
        except ZoneError as error:
            return str(error)
        return ""

    name = "name servers, IPv6"
    if len(have) < min(2, len(servers)):
        text = f"{len(have)} of {len(servers)} have an IPv6 address, which who has no other needs: ask their provider"
        yield Finding(zone, name, "advice", "external", text)
        return
    problems = {server: reason for server, reason in zip(have, each(have, problem), strict=True) if reason}
    if problems and len(problems) == len(have):
        text = f"none answers from here, perhaps for want of IPv6 here: {problems[have[0]]}"
        yield Finding(zone, name, "unknown", "external", text)
    elif problems:
        text = " and ".join(f"{server} does not answer: {reason}" for server, reason in problems.items())
        yield Finding(zone, name, "advice", "external", text)
    elif have:
        yield Finding(zone, name, "ok", "external", f"{', '.join(have)}: answer")


def _delegation(zone: str, world: World) -> dict[str, list[str]]:
    """Answer the name servers of a zone with their addresses, as the zone says, or where it is mute the one above."""

    def addresses(server: str) -> list[str]:
        return [value for kind in ("A", "AAAA") for value in world.ask(server, kind).values]

    own = world.ask(zone, "NS").values
    if own:
        return {server.rstrip("."): addresses(server) for server in own}
    parent = zone_of(zone.partition(".")[2], world)
    for address in [found for server in world.ask(parent, "NS").values for found in addresses(server)]:
        try:
            given = world.referral(address, zone)
        except ZoneError:
            continue
        return {server.rstrip("."): list(glue) or addresses(server) for server, glue in given.items()}
    return {}


def zone_of(name: str, world: World) -> str:
    """Answer the zone that a name is in, absolute; empty when nobody can tell.

    Where the resolver has no answer, that is the highest name of which nothing can be known.
    """
    labels = name.rstrip(".").split(".")
    silent = ""
    for place in range(len(labels)):
        zone = ".".join(labels[place:]) + "."
        answer = world.ask(zone, "SOA")
        if answer.values and not answer.aliases:
            return silent or zone
        silent = "" if answer.known else zone
    return ""


def _code(answer: Answer) -> str:
    """Answer what the resolver says instead of an answer."""
    return " ".join(filter(None, (answer.status, answer.reason and f"({answer.reason})")))


def _covers(pattern: str, server: str) -> bool:
    """Say whether an mx line of an MTA-STS policy is about a server; `*.` stands for one label (RFC 8461 4.1)."""
    if pattern.startswith("*."):
        return server.partition(".")[2].lower() == pattern[2:]
    return server.lower() == pattern


def _bad(level: str) -> Verdict:
    """Answer what it means that a record of a level is not as it has to be."""
    return "fails" if level == "required" else "advice"


def _shown_name(one: Wanted) -> str:
    """Answer the name of a set as people know it: of a PTR, the address."""
    if one.type == "PTR":
        return dns.reversename.to_address(dns.name.from_text(one.name))
    return one.name.rstrip(".")


def _squeezed(value: str) -> str:
    return "".join(value.split())


def _key(value: str) -> str:
    """Answer the public key in a DKIM record (RFC 6376 section 3.6.1)."""
    tags = dict(tag.partition("=")[::2] for tag in _squeezed(value).split(";"))
    return tags.get("p", "")


def _short(text: str) -> str:
    """Answer a text that fits into a line."""
    return text if len(text) <= 90 else f"{text[:60]}...{text[-25:]}"
