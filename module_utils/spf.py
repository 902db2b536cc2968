"""Sender Policy Framework records: parse, merge and count, never weaken (RFC 7208). Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

MAX_LOOKUPS = 10  # RFC 7208 section 4.6.4
MAX_LENGTH = 450  # bytes; RFC 7208 section 3.4: above, an answer over UDP may be truncated

_QUALIFIERS = "+?~-"  # from the weakest to the strictest
_LOOKUPS = {"a", "mx", "ptr", "include", "exists"}
_MODIFIER = re.compile(r"[a-z][a-z0-9_.-]*=", re.IGNORECASE)


def is_spf(text: str) -> bool:
    """Say whether a TXT value is an SPF record: exactly `v=spf1`, then a space or the end (section 4.5)."""
    return text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")


def terms(record: str) -> list[str]:
    """Answer the mechanisms and modifiers of a record as written, in order."""
    return record.split()[1:]


def same(term: str) -> str:
    """Answer one spelling for terms that mean the same: lower case, no `+`, addresses in their shortest form."""
    term = term.lower().removeprefix("+")
    kind, _, argument = term.partition(":")
    if kind.lstrip("-~?") in ("ip4", "ip6"):
        try:
            network = ipaddress.ip_network(argument, strict=False)
        except ValueError:
            return term
        return f"{kind}:{network.network_address if network.num_addresses == 1 else network}"
    return term


def is_all(term: str) -> bool:
    """Say whether a term is the mechanism `all`."""
    return _kind(term) == "all"


def lookups(record: str) -> int:
    """Count the record's own terms that make a receiver ask DNS (section 4.6.4), without following them."""
    found = terms(record)
    redirects = not any(is_all(term) for term in found) and any(_kind(term) == "redirect=" for term in found)
    return sum(_kind(term) in _LOOKUPS for term in _reached(found)) + redirects


def merge(existing: str | None, wanted: str | None, ours: Iterable[str]) -> tuple[str | None, frozenset[str]]:
    """Answer the record to publish (None: none), and the terms in it that are ours (in the spelling of `same`).

    existing: the record found, None when there is none. wanted: the record we would publish alone, None to withdraw.
    ours: the terms that we wrote earlier; only these are ever taken away.
    Terms of others stay as they are, in their order, and so does their `all`. Ours are put in front, where an include
    that is broken or a term that fails cannot shadow them.
    """
    ours = frozenset(same(term) for term in ours)
    mine = terms(wanted) if wanted is not None else []
    mine_same = frozenset(same(term) for term in mine)
    if existing is None:
        return wanted, mine_same
    found = terms(existing)
    if wanted is None:
        if ours.issuperset(same(term) for term in found):
            return None, frozenset()
        ours = frozenset(term for term in ours if not is_all(term))  # somebody built on our record: keep its end
    elif not ours and _alike(found, mine):  # ours, by a ledger that was lost
        return existing, mine_same
    kept = [term for term in found if same(term) not in ours - mine_same]
    reached = {same(term) for term in _reached(kept)}
    missing = [term for term in mine if not is_all(term) and same(term) not in reached]
    ends = [term for term in mine if is_all(term)]
    if any(is_all(term) or _kind(term) == "redirect=" for term in kept) or not any(is_all(term) for term in ours):
        ends = []  # the end is not ours to choose
    result = [*missing, *kept, *ends]
    owned = (ours & mine_same & {same(term) for term in result}) | {same(term) for term in [*missing, *ends]}
    return (existing if result == found else " ".join(["v=spf1", *result])), owned


def consolidate(records: Sequence[str]) -> str | None:
    """Answer one record that allows what any of several records allows, with the strictest `all` among them.

    None when that cannot be said in one record, because of a `redirect=`.
    """
    every = [term for record in records for term in _reached(terms(record))]
    if any(_kind(term) == "redirect=" for term in every):
        return None
    unique = list({same(term): term for term in reversed(every)}.values())[::-1]
    ends = [term for record in records for term in terms(record) if is_all(term)]
    ends.sort(key=lambda term: _QUALIFIERS.find(term[0]), reverse=True)
    return " ".join(["v=spf1", *unique, *ends[:1]])


def _kind(term: str) -> str:
    """Answer the name of a mechanism without qualifier and argument, or of a modifier with its `=`."""
    modifier = _MODIFIER.match(term)
    return modifier[0].lower() if modifier else re.split("[:/]", term.lower().lstrip(_QUALIFIERS), maxsplit=1)[0]


def _reached(found: Sequence[str]) -> list[str]:
    """Answer the terms that a receiver heeds: not `all` itself, and no mechanism after it (section 5.1)."""
    end = next((place for place, term in enumerate(found) if is_all(term)), len(found))
    return [term for place, term in enumerate(found) if place < end or _MODIFIER.match(term)]


def _alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Say whether two records have the same terms, in any order but with the same end."""
    left, right = [same(term) for term in one], [same(term) for term in other]
    return sorted(left) == sorted(right) and left[-1:] == right[-1:]
