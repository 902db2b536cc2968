"""Plan changes of a shared DNS zone, so that no value that is not ours is ever removed or altered. Pure.

Values are text in one canonical spelling for each type; of TXT, the joined text without quotes. Names are absolute,
in lower case, with the final dot. TTLs are seconds. What we wrote is remembered in a ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from module_utils import spf
else:
    from ansible.module_utils import spf

Key = tuple[str, str]
"""A name and a type. The ledger has the additional type `SPF`: our terms in the SPF record of the name."""

TYPES = frozenset({"A", "AAAA", "CAA", "CNAME", "MX", "PTR", "SRV", "TLSA", "TXT"})
"""The types that are planned at all; whatever holds a zone together (SOA, NS, DS, DNSKEY...) is refused."""

ADDRESSES = ("A", "AAAA")
"""The types of a host's addresses."""


@dataclass(frozen=True)
class RRset:
    """The values of one name and type: ttl in seconds, values in their canonical spelling, never empty."""

    ttl: int
    values: frozenset[str]


@dataclass(frozen=True)
class Wanted:
    """A record set to publish.

    shared: the values of others stay beside ours. signed: of use only in a zone that is signed by DNSSEC.
    """

    name: str
    type: str
    rrset: RRset
    shared: bool = False
    signed: bool = False

    @property
    def key(self) -> Key:
        """Name and type."""
        return self.name, self.type


@dataclass(frozen=True)
class Policy:
    """What a person has allowed, and what is so beyond the zone.

    apexes: the names of the zones; hosts: those that are wanted to have an address, in any zone; adopt: names whose
    foreign values may be replaced; remove: names at which what we wrote goes, when it is wanted no longer, and prune:
    all of it.
    """

    apexes: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    adopt: frozenset[str] = frozenset()
    remove: frozenset[str] = frozenset()
    mx_takeover: bool = False
    spf_consolidate: bool = False
    prune: bool = False


@dataclass(frozen=True)
class Change:
    """One record set before and after; None where there is none. `before` is also what must still be true to apply."""

    key: Key
    before: RRset | None
    after: RRset | None


@dataclass(frozen=True)
class Plan:
    """What to do, what stands against it, and what is ours afterwards.

    Where there are conflicts nothing may be applied. ledger: our values afterwards. leftovers: sets with values that
    we wrote earlier, which are wanted no longer, and which were not to be pruned.
    """

    changes: tuple[Change, ...] = ()
    conflicts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    leftovers: tuple[Key, ...] = ()
    ledger: Mapping[Key, frozenset[str]] = field(default_factory=dict)


class StaleError(Exception):
    """A zone is not what a plan was made for; args: the keys that differ."""


def shown(kind: str, value: str) -> str:
    """Answer a value as people read it, in one line: text in quotes, what cannot be printed as \\ddd."""
    if kind != "TXT":
        return value
    plain = (f"\\{char}" if char in '"\\' else char if " " <= char <= "~" else f"\\{ord(char):03d}" for char in value)
    return f'"{"".join(plain)}"'


def keys(wanted: Iterable[Wanted], ledger: Mapping[Key, frozenset[str]]) -> set[Key]:
    """Answer what has to be observed before `plan` may be asked: every name's CNAME, too, and all beside one."""
    wanted = list(wanted)
    known = {one.key for one in wanted} | {(name, _real(kind)) for name, kind in ledger}
    beside = {(one.name, kind) for one in wanted if one.type == "CNAME" for kind in TYPES}
    return known | beside | {(name, "CNAME") for name, _ in known}


def plan(
    wanted: Iterable[Wanted],
    observed: Mapping[Key, RRset],
    ledger: Mapping[Key, frozenset[str]],
    policy: Policy,
) -> Plan:
    """Answer how to come from observed to wanted.

    wanted: at most one for each name and type. observed: the sets that exist among those of `keys`.
    ledger: the values that we wrote in these zones. Nothing that is neither wanted nor in the ledger is taken away,
    except where policy allows it by name.
    """
    wanted = sorted(wanted, key=lambda one: one.key)
    changes: list[Change] = []
    conflicts = [
        f"{one.name} {one.type} is wanted twice: give all its values at once"
        for one, other in pairwise(wanted)
        if one.key == other.key
    ]
    warnings: list[str] = []
    leftovers: list[Key] = []
    ours = dict(ledger)
    asked = {one.key for one in wanted}
    for one in wanted:
        before = observed.get(one.key)
        if one.type in ("A", "AAAA") and one.name in policy.apexes and before and before.values == one.rrset.values:
            continue
        try:
            _check_allowed(one, asked | observed.keys(), observed, policy)
            if one.shared:
                after, owned = _shared(one, before, ledger, policy)
            else:
                after, owned = one.rrset, {one.key: one.rrset.values}
                _check_foreign(one, before, ledger, policy)
        except _Conflict as conflict:
            conflicts.append(str(conflict))
            continue
        ours = _recorded(ours, one.key, owned)
        if before != after:
            changes.append(Change(one.key, before, after))
            warnings += _advice(one.name, after)
    for key in sorted({(name, _real(kind)) for name, kind in ledger} - asked):
        before = observed.get(key)
        bare = Wanted(*key, RRset(before.ttl if before else 0, frozenset()), shared=True)
        after, _ = _shared(bare, before, ledger, policy)
        # Of a host that stays, an address that it has no longer would lead others to nowhere; nor is that its name.
        pruned = policy.prune or key[0] in policy.remove
        pruned = pruned or (key[1] in ADDRESSES and any((key[0], kind) in asked for kind in ADDRESSES))
        pruned = pruned or (key[1] == "PTR" and ledger.get(key, frozenset()) <= policy.hosts)
        if before == after or pruned:
            ours = _recorded(ours, key, {})
        else:
            leftovers.append(key)
        if before != after and pruned:
            changes.append(Change(key, before, after))
    return Plan(tuple(changes), tuple(dict.fromkeys(conflicts)), tuple(warnings), tuple(leftovers), ours)


def apply(observed: Mapping[Key, RRset], changes: Iterable[Change]) -> dict[Key, RRset]:
    """Answer what a zone looks like after changes. Raises StaleError where it is not as planned against."""
    result, changes = dict(observed), list(changes)
    stale = [change.key for change in changes if result.get(change.key) != change.before]
    if stale:
        raise StaleError(*stale)
    for change in changes:
        if change.after is None:
            del result[change.key]
        else:
            result[change.key] = change.after
    return result


def inverse(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Answer the changes that undo changes."""
    return tuple(Change(change.key, change.after, change.before) for change in changes)


def united(*ledgers: Mapping[Key, frozenset[str]]) -> dict[Key, frozenset[str]]:
    """Answer a ledger with the values of all."""
    every = {key for ledger in ledgers for key in ledger}
    return {key: frozenset().union(*(ledger.get(key, frozenset()) for ledger in ledgers)) for key in every}


class _Conflict(Exception):
    """Why a set must not be touched, in one line with the remedy."""


def _check_allowed(one: Wanted, known: Set[Key], observed: Mapping[Key, RRset], policy: Policy) -> None:
    """Raise _Conflict when a set must not be published at its name at all. known: what is there, and what shall be."""
    if one.type not in TYPES:
        raise _Conflict(f"{one.name} {one.type} is no type of record for mail: take it out of the wanted records")
    if one.type in ("A", "AAAA") and one.name in policy.apexes:
        raise _Conflict(
            f"{one.name} {one.type} is the address of the zone itself, which is never touched: set it to "
            f"{', '.join(sorted(one.rrset.values))} by hand, or give the mail host a name of its own"
        )
    alias = observed.get((one.name, "CNAME"))
    if alias and one.type != "CNAME":
        raise _Conflict(
            f"{one.name} is a CNAME of {', '.join(sorted(alias.values))} and cannot hold anything else: "
            "delete the CNAME, or choose another name"
        )
    others = sorted(kind for name, kind in known if name == one.name and kind != "CNAME")
    if one.name in policy.apexes:
        others += ["SOA"]
    if one.type == "CNAME" and others:
        raise _Conflict(
            f"{one.name} has {', '.join(others)} and cannot be a CNAME too: delete these, or choose another name"
        )


def _check_foreign(one: Wanted, before: RRset | None, ledger: Mapping[Key, frozenset[str]], policy: Policy) -> None:
    """Raise _Conflict when values of others stand at a name that has to hold ours alone."""
    foreign = (before.values if before else frozenset()) - one.rrset.values - ledger.get(one.key, frozenset())
    found = ", ".join(shown(one.type, value) for value in sorted(foreign))
    if one.type == "MX":
        if foreign and not policy.mx_takeover:
            raise _Conflict(
                f"{one.name} MX sends mail to {found}, which we did not set: when that mail is to come to us, "
                "say dns_records_mx_takeover: true, else take the domain out of odoo_databases"
            )
    elif foreign and one.name not in policy.adopt:
        raise _Conflict(
            f"{one.name} {one.type} is {found}, which we did not write: delete it, "
            f"or have it replaced by adding {one.name.rstrip('.')} to dns_records_adopt"
        )


def _shared(
    one: Wanted, before: RRset | None, ledger: Mapping[Key, frozenset[str]], policy: Policy
) -> tuple[RRset | None, dict[Key, frozenset[str]]]:
    """Answer a shared set with our values in it (None: nothing is left), and what in it is ours."""
    values = before.values if before else frozenset()
    is_record = spf.is_spf if one.type == "TXT" else lambda _: False
    plain = frozenset(value for value in one.rrset.values if not is_record(value))
    policies = sorted(value for value in one.rrset.values if is_record(value))
    if len(policies) > 1:
        raise _Conflict(f"{one.name} TXT is wanted with two SPF records: a name can have one")
    records = sorted(value for value in values if is_record(value))
    existing = records[0] if records else None
    if policies and len(records) > 1:
        existing = spf.consolidate(records) if policy.spf_consolidate else None
        if existing is None:
            raise _Conflict(
                f"{one.name} TXT has {len(records)} SPF records, which no receiver accepts: make them one by hand, "
                "or say dns_records_spf_consolidate: true (not possible with redirect=)"
            )
    terms = ledger.get((one.name, "SPF"), frozenset()) if one.type == "TXT" else frozenset()
    owned = {one.key: plain}
    after = (values - (ledger.get(one.key, frozenset()) - plain)) | plain
    if policies or (terms and len(records) == 1):
        merged, merged_terms = spf.merge(existing, policies[0] if policies else None, terms)
        if merged and merged not in records and spf.lookups(merged) > spf.MAX_LOOKUPS:
            raise _Conflict(
                f"{one.name} TXT would make receivers look up {spf.lookups(merged)} names for SPF, and they stop at "
                f"{spf.MAX_LOOKUPS}: shorten {shown('TXT', existing or merged)}"
            )
        after = (after - set(records)) | ({merged} if merged else frozenset())
        owned[one.name, "SPF"] = merged_terms
    # The TTL belongs to all values of the set, so it stays as it was found.
    return (RRset(before.ttl if before else one.rrset.ttl, after) if after else None), owned


def _advice(name: str, after: RRset | None) -> list[str]:
    """Answer what a person should know about a set that is about to be written."""
    return [
        f"{name} TXT: the SPF record is {len(value)} bytes long, and some receivers read no more than "
        f"{spf.MAX_LENGTH}: shorten it"
        for value in (after.values if after else ())
        if spf.is_spf(value) and len(value) > spf.MAX_LENGTH
    ]


def _recorded(
    ledger: Mapping[Key, frozenset[str]], key: Key, owned: Mapping[Key, frozenset[str]]
) -> dict[Key, frozenset[str]]:
    """Answer the ledger with exactly owned at a name and type."""
    name, kind = key
    replaced = {key, (name, "SPF")} if kind == "TXT" else {key}
    kept = {known: values for known, values in ledger.items() if known not in replaced}
    return kept | {known: values for known, values in owned.items() if values}


def _real(kind: str) -> str:
    """Answer the type in DNS of a ledger entry."""
    return "TXT" if kind == "SPF" else kind
