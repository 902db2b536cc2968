# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Records of domains whose zones are others' to write: names there lead, once for all, to names in a zone of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from filter_plugins.mail_rrsets import RRset

MOVABLE = ("TLSA", "TXT")  # whoever asks for these follows an alias: RFC 1034 section 3.6.2, RFC 7671 section 6
DKIM = "._domainkey."
ED25519 = "-ed25519"


def delegated(rrsets: Iterable[RRset], to: str, zones: Iterable[str], selector: str) -> list[RRset]:
    """What to publish (see mail_rrsets) when names outside of `zones` lead to names below `to`, sorted.

    Each set outside that has its name for itself becomes two: an alias, for others to set once, and the set itself
    under a name of ours. MX and SPF stay, as there can be no alias at their names. So that DKIM keys can follow one
    another, there are aliases for `selector`, which is that of a domain's first key, and for the next by its number;
    and for any other that has a key at this time. to: a name in one of `zones`, or empty to change nothing.
    """
    if not to:
        return list(rrsets)
    ours = [f".{_bare(zone)}" for zone in zones]
    found: dict[tuple[str, str], RRset] = {}
    for rrset in rrsets:
        name = _bare(rrset["name"])
        movable = rrset["type"] in MOVABLE and rrset["ownership"] == "exclusive"
        if not movable or any(f".{name}".endswith(zone) for zone in ours):
            found[rrset["name"], rrset["type"]] = rrset
            continue
        first, dot, rest = name.partition(DKIM)
        kind = ED25519 if first.endswith(ED25519) else ""
        for alias in (name, *(f"{one}{kind}{dot}{rest}" for one in (selector, _next(selector)) if dot)):
            found[f"{alias}.", "CNAME"] = {
                **rrset,
                "name": f"{alias}.",
                "type": "CNAME",
                "values": [f"{alias}.{_bare(to)}."],
                "why": f"set once: from then on we write what {rrset['why']}",
            }
        [target] = delegation_names([name], to)
        found[f"{target}.", rrset["type"]] = {**rrset, "name": f"{target}."}
    return [found[key] for key in sorted(found)]


def delegation_names(names: Iterable[str], to: str) -> list[str]:
    """The names below `to` that stand for names, without final dot; none where `to` is empty."""
    return [f"{_bare(name)}.{_bare(to)}" for name in names] if to else []


def _next(selector: str) -> str:
    """The selector that follows another by its number."""
    stem = selector.rstrip("0123456789")
    return f"{stem}{int(selector[len(stem) :] or 1) + 1}"


def _bare(name: str) -> str:
    """A name in lower case without the final dot."""
    return name.lower().rstrip(".")


class FilterModule:
    """Ansible's door to the functions above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"delegated": delegated, "delegation_names": delegation_names}
