# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a record is entered by hand, at a provider whose zones we may not update."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

STRING = 255  # bytes in one string of a TXT record (RFC 1035 section 3.3)
SAID = {"ok": "found", "fails": "not as it has to be", "advice": "could be better", "unknown": "not known"}


class Form(TypedDict):
    """One value to enter.

    place: the domain in whose zone it is, "" for reverse DNS. name: absolute, without final dot; of a PTR, the address.
    short: as forms want it that append the domain, `@` for the domain itself. priority: of MX, else "". value: what
    the field for the value takes. pieces: for forms that take no TXT above 255 bytes, "" when that is no matter.
    line: of a zone file. state: ok, fails, advice or unknown, "" when nobody looked; said: that in words. found: what
    was seen.
    """

    place: str
    name: str
    short: str
    type: str
    priority: str
    value: str
    pieces: str
    ttl: int
    line: str
    why: str
    rfc: str
    level: str
    state: str
    said: str
    found: str


def record_forms(
    rrsets: Iterable[Mapping[str, Any]],
    domains: Sequence[str],
    zones: Iterable[str],
    findings: Iterable[Mapping[str, str]] = (),
) -> list[Form]:
    """What has to be entered by hand: every value of `rrsets` (see mail_rrsets) in none of `zones`, domain by domain.

    domains: those of the mail. zones: the names of those that are updated for us. findings: of the module dns_verify.
    """
    seen = {finding["record"]: finding for finding in findings if finding.get("record")}
    forms = [
        _form(rrset, value, domains, seen.get(f"{rrset['name']} {rrset['type']}", {}))
        for rrset in _outside(rrsets, zones)
        for value in rrset["values"]
    ]
    return sorted(forms, key=lambda form: (form["place"] == "", form["place"], form["name"] != form["place"]))


def record_table(forms: Iterable[Form]) -> list[str]:
    """The same for a terminal, as lines: of each value, in aligned columns, and below why it is there."""
    forms = list(forms)
    rows = [
        (form["said"], form["level"], form["short"] if form["place"] else form["name"], form["type"]) for form in forms
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    lines: list[str] = []
    place = None
    for form, row in zip(forms, rows, strict=True):
        if form["place"] != place:
            place = form["place"]
            lines.append(f"in the zone of {place}:" if place else "reverse DNS, at the provider of the addresses:")
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        value = " ".join(filter(None, (form["priority"], form["pieces"] or form["value"])))
        lines += [f"  {cells}  {value}", f"  {' ' * widths[0]}  {form['why']} ({form['rfc']})"]
    return lines


def _outside(rrsets: Iterable[Mapping[str, Any]], zones: Iterable[str]) -> list[Mapping[str, Any]]:
    """Those of `rrsets` that lie in none of `zones`."""
    ours = [f".{_bare(zone)}" for zone in zones]
    return [rrset for rrset in rrsets if not any(f".{_bare(rrset['name'])}".endswith(zone) for zone in ours)]


def _form(rrset: Mapping[str, Any], value: str, domains: Sequence[str], finding: Mapping[str, str]) -> Form:
    name, kind, state = _bare(rrset["name"]), rrset["type"], finding.get("verdict", "")
    parents = [_bare(domain) for domain in domains if f".{name}".endswith(f".{_bare(domain)}")]
    place = "" if kind == "PTR" else max(parents, key=len, default=name.partition(".")[2])
    priority, _, target = value.rpartition(" ") if kind == "MX" else ("", "", value)
    return {
        "place": place,
        "name": _address(name) if kind == "PTR" else name,
        "short": "@" if name == place else name.removesuffix(f".{place}") if place else name,
        "type": kind,
        "priority": priority,
        "value": target.rstrip(".") if kind in ("MX", "PTR", "CNAME") else target,
        "pieces": _quoted(value) if kind == "TXT" and len(value) > STRING else "",
        "ttl": rrset["ttl"],
        "line": f"{name}. {rrset['ttl']} IN {kind} {_quoted(value) if kind == 'TXT' else value}",
        "why": rrset["why"],
        "rfc": rrset["rfc"],
        "level": rrset["level"],
        "state": state,
        "said": SAID.get(state, ""),
        "found": finding.get("text", ""),
    }


def _quoted(text: str) -> str:
    """Text as a zone file has it: strings of 255 bytes at most, in quotes (RFC 1035 section 5.1)."""
    parts = [text[start : start + STRING] for start in range(0, len(text), STRING)]
    return " ".join('"' + re.sub(r'(["\\])', r"\\\1", part) + '"' for part in parts)


def _address(pointer: str) -> str:
    """The address that a name in the reverse tree is about."""
    labels = pointer.split(".")[:-2][::-1]
    if pointer.endswith(".ip6.arpa"):
        return str(ipaddress.IPv6Address(int("".join(labels), 16)))
    return ".".join(labels)


def _bare(name: str) -> str:
    """A name in lower case without the final dot."""
    return name.lower().rstrip(".")


class FilterModule:
    """Ansible's door to the functions above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"record_forms": record_forms, "record_table": record_table}
