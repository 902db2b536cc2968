"""What receivers make of SPF records: check_host() of RFC 7208, with its limits counted as section 4.6.4 says."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from module_utils import spf
else:
    from ansible.module_utils import spf

MAX_VOID = 2
STRANGERS = ("203.0.113.113", "2001:db8:ffff::113")  # addresses that nobody sends from (RFC 5737, RFC 3849)
MAX_NAMES = 10  # mail servers of one `mx`, names of one `ptr`

Ask = Callable[[str, str], Sequence[str]]
"""Answers the values of a name and type in their canonical spelling, none when there are none.

Raises AskError when that cannot be told."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_RESULTS = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}
_TERM = re.compile(
    r"([+?~-]?)(all|include|a|mx|ptr|ip4|ip6|exists)(?=[:/]|$)(?::((?:%\{[^}]*\}|[^/])*))?(/.*)?", re.IGNORECASE
)
_MODIFIER = re.compile(r"([a-z][a-z0-9_.-]*)=(.*)", re.IGNORECASE)
_PREFIXES = re.compile(r"(?:/(0|[1-9]\d?))?(?://(0|[1-9]\d{0,2}))?")
_MACRO = re.compile(r"%(?:\{([slodiphv])(\d*)(r?)([.+,/_=-]*)\}|([%_-]))|%", re.IGNORECASE)


class AskError(Exception):
    """A question that DNS does not answer at the moment."""


@dataclass(frozen=True)
class Verdict:
    """result: as in section 2.6. why: the term that decided, or what is wrong. lookups, void: as receivers count."""

    result: str
    why: str
    lookups: int = 0
    void: int = 0


def check_host(address: str, domain: str, sender: str, ask: Ask) -> Verdict:
    """Answer what SPF says of a client's address that sends for a domain.

    domain: of the envelope sender, or the name in HELO. sender: the envelope sender. All names without final dot.
    """
    check = _Check(ipaddress.ip_address(address), sender, ask)
    try:
        result, why = check.domain(domain)
    except _BrokenError as error:
        result, why = "permerror", str(error)
    except AskError as error:
        result, why = "temperror", str(error)
    return Verdict(result, why, check.lookups, check.void)


class _BrokenError(Exception):
    """Why a record is a permanent error."""


class _Check:
    """One evaluation: the client, and what has been looked up so far."""

    def __init__(self, address: _Address, sender: str, ask: Ask) -> None:
        self.address, self.sender, self.ask = address, sender, ask
        self.lookups = self.void = 0

    def domain(self, name: str) -> tuple[str, str]:
        """Answer result and reason for the record of a domain (section 4)."""
        records = [text for text in self.ask(name, "TXT") if spf.is_spf(text)]
        if not records:
            return "none", f"{name} has no SPF record"
        if len(records) > 1:
            raise _BrokenError(f"{name} has {len(records)} SPF records, where one is allowed")
        terms = [self._parsed(term, name) for term in spf.terms(records[0])]  # all, before any is heeded (4.6)
        modifiers = [term for term in terms if len(term) == 2]
        for kind in ("redirect", "exp"):
            if sum(term[0] == kind for term in modifiers) > 1:
                raise _BrokenError(f"{name}: {kind}= stands there twice")
        for term in terms:
            if len(term) == 4 and self._matches(*term[1:], name):
                return _RESULTS[term[0]], f"{name}: {term[0].removeprefix('+')}{':'.join(filter(None, term[1:3]))}"
        for kind, target in modifiers:
            if kind == "redirect":
                self._count(f"redirect={target}")
                result, why = self.domain(self._expanded(target, name))
                if result == "none":
                    raise _BrokenError(f"{name}: redirect={target} leads to no SPF record")
                return result, why
        return "neutral", f"{name}: no term matches"

    def _parsed(self, term: str, name: str) -> tuple[str, str] | tuple[str, str, str, str]:
        """Answer name and value of a modifier, or qualifier, mechanism, argument and prefixes. Checks the syntax."""
        broken = _BrokenError(f"{name}: {term} is no SPF term")
        modifier = _MODIFIER.fullmatch(term)
        if modifier:
            kind, target = modifier[1].lower(), modifier[2]
            if kind in ("redirect", "exp") and not target:
                raise broken
            self._expanded(target if kind != "exp" else "", name)
            return kind, target
        found = _TERM.fullmatch(term)
        if not found:
            raise broken
        qualifier, kind, argument, prefixes = found[1] or "+", found[2].lower(), found[3], found[4] or ""
        if kind in ("ip4", "ip6"):
            try:
                network = ipaddress.ip_network(f"{argument}{prefixes}", strict=False)
            except ValueError:
                raise broken from None
            if f"ip{network.version}" != kind:
                raise broken
            return qualifier, kind, str(network), ""
        if (kind == "all" and (argument is not None or prefixes)) or (kind in ("include", "exists") and not argument):
            raise broken
        lengths = _PREFIXES.fullmatch(prefixes)
        if argument == "" or not lengths or (prefixes and kind not in ("a", "mx")):
            raise broken
        if int(lengths[1] or 0) > 32 or int(lengths[2] or 0) > 128:
            raise broken
        self._expanded(argument or "", name)
        return qualifier, kind, argument or "", prefixes

    def _matches(self, kind: str, argument: str, prefixes: str, name: str) -> bool:
        """Say whether a mechanism matches the client (section 5)."""
        if kind == "all":
            return True
        if kind in ("ip4", "ip6"):
            network = ipaddress.ip_network(argument)
            return self.address.version == network.version and self.address in network
        self._count(":".join(filter(None, (kind, argument))))
        target = self._expanded(argument, name) or name
        if kind == "include":
            result, _ = self.domain(target)
            if result == "none":
                raise _BrokenError(f"{name}: include:{target} leads to no SPF record")
            return result == "pass"
        if kind == "exists":
            return bool(self._looked_up(target, "A"))
        if kind == "ptr":
            return any(found == target or found.endswith(f".{target}") for found in self._names())
        hosts = [target]
        if kind == "mx":
            values = self._looked_up(target, "MX")
            if len(values) > MAX_NAMES:
                raise _BrokenError(f"{name}: mx leads to {len(values)} mail servers, {MAX_NAMES} are allowed")
            hosts = [value.split()[1].rstrip(".") for value in values if value.split()[1] != "."]
        found = [address for host in hosts for address in self._looked_up(host, self._family())]  # the strictest count
        return any(self._near(address, prefixes) for address in found)

    def _count(self, term: str) -> None:
        self.lookups += 1
        if self.lookups > spf.MAX_LOOKUPS:
            raise _BrokenError(f"{term} is lookup {self.lookups}, {spf.MAX_LOOKUPS} are allowed")

    def _looked_up(self, name: str, kind: str) -> Sequence[str]:
        """Answer values; too many empty answers are an error (section 4.6.4)."""
        values = self.ask(name, kind)
        if not values:
            self.void += 1
            if self.void > MAX_VOID:
                raise _BrokenError(f"{name} {kind} is the third name that does not exist, {MAX_VOID} are allowed")
        return values

    def _family(self) -> str:
        """Answer the type that holds addresses like the client's."""
        return "A" if self.address.version == 4 else "AAAA"

    def _near(self, found: str, prefixes: str) -> bool:
        """Say whether the client is in the network of an address that was found."""
        lengths = _PREFIXES.fullmatch(prefixes)
        length = lengths[1 if self.address.version == 4 else 2] if lengths else None
        bits = length if length is not None else self.address.max_prefixlen
        return self.address in ipaddress.ip_network(f"{found}/{bits}", strict=False)

    def _names(self) -> list[str]:
        """Answer the client's names that lead back to it (section 5.5)."""
        try:
            names = [name.rstrip(".") for name in self._looked_up(self.address.reverse_pointer, "PTR")][:MAX_NAMES]
        except AskError:
            return []
        found = []
        for name in names:
            try:
                if str(self.address) in self.ask(name, self._family()):
                    found.append(name)
            except AskError:
                continue
        return found

    def _expanded(self, text: str, name: str) -> str:
        """Answer a domain-spec with its macros expanded (section 7)."""
        local, _, host = self.sender.rpartition("@")
        plain = self.address.version == 4
        dotted = str(self.address) if plain else ".".join(self.address.exploded.replace(":", ""))
        values = {
            "s": f"{local or 'postmaster'}@{host}",
            "l": local or "postmaster",
            "o": host,
            "d": name,
            "h": name,
            "i": dotted,
            "p": "unknown",  # costs lookups, and is not to be used (section 7.2)
            "v": "in-addr" if plain else "ip6",
        }

        def value(found: re.Match[str]) -> str:
            letter, digits, reverse, delimiters, escaped = found.groups()
            if escaped:
                return {"%": "%", "_": " ", "-": "%20"}[escaped]
            if not letter or digits == "0":
                raise _BrokenError(f"{name}: {text} has a macro that is none")
            parts = re.split(f"[{re.escape(delimiters or '.')}]", values[letter.lower()])
            parts = parts[::-1] if reverse else parts
            return ".".join(parts[-int(digits) :] if digits else parts)

        expanded = _MACRO.sub(value, text).rstrip(".")
        while len(expanded) > 253 and "." in expanded:
            expanded = expanded.partition(".")[2]
        return expanded.lower()
