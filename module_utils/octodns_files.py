"""What octoDNS is given: a configuration, and for each zone a file with our record sets. Pure.

All is JSON, which is YAML too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from module_utils.dns_plan import Key, RRset
else:
    from ansible.module_utils.dns_plan import Key, RRset

PLAIN = re.compile(r"[ !#-\[\]-~]*")  # neither quotes nor backslashes, of which providers differ in the spelling
FIELDS: Mapping[str, Sequence[str]] = {
    "CAA": ("flags", "tag", "value"),
    "MX": ("preference", "exchange"),
    "SRV": ("priority", "weight", "port", "target"),
    "TLSA": ("certificate_usage", "selector", "matching_type", "certificate_association_data"),
}
NUMBERS: Mapping[str, Sequence[int]] = {"CAA": (0,), "MX": (0,), "SRV": (0, 1, 2), "TLSA": (0, 1, 2)}
"""Which of the fields are numbers."""


def zone_file(zone: str, sets: Mapping[Key, RRset]) -> dict[str, list[dict[str, Any]]]:
    """Answer what octoDNS's YamlProvider reads of a zone: record sets by their name relative to the zone."""
    found: dict[str, list[dict[str, Any]]] = {}
    for (name, kind), rrset in sorted(sets.items()):
        values = [_value(kind, value) for value in sorted(rrset.values)]
        one = {"value": values[0]} if kind in ("CNAME", "PTR") else {"values": values}
        relative = name.removesuffix(zone).rstrip(".")
        found.setdefault(relative, []).append({"type": kind, "ttl": rrset.ttl, **one})
    return found


def configuration(
    target: Mapping[str, Any], zones: Iterable[str], observed: Mapping[Key, frozenset[str]]
) -> dict[str, Any]:
    """Answer octoDNS's configuration. target: the provider's; observed: what DNS had, by name and type."""
    return {
        "manager": {"enable_checksum": True},
        "providers": {
            "records": {
                "class": "octodns.provider.yaml.YamlProvider",
                "directory": "zones",
                "default_ttl": 3600,
                "enforce_order": False,
                "escaped_semicolons": False,
            },
            "target": dict(target),
        },
        "processors": {
            "mailroom": {
                "class": "mailroom_octodns.OnlyOurs",
                "observed": {
                    f"{name} {kind}": sorted(values if kind == "TXT" else map(_bare, values))
                    for (name, kind), values in observed.items()
                },
            }
        },
        "zones": {zone: {"sources": ["records"], "processors": ["mailroom"], "targets": ["target"]} for zone in zones},
    }


def unsafe(sets: Mapping[Key, RRset]) -> list[str]:
    """Answer a line for each text that octoDNS and its providers might not keep byte for byte."""
    return [
        f"{name} TXT has a text with quotes, backslashes or what cannot be printed, which octoDNS may not keep as it "
        "is: set the records of this name by hand"
        for (name, kind), rrset in sorted(sets.items())
        if kind == "TXT" and not all(PLAIN.fullmatch(value) for value in rrset.values)
    ]


def _value(kind: str, value: str) -> Any:
    """Answer a value as YamlProvider has it."""
    if kind not in FIELDS:
        return value
    parts = value.split(maxsplit=len(FIELDS[kind]) - 1)
    numbers = NUMBERS[kind]
    return {
        field: int(part) if place in numbers else part.strip('"')
        for place, (field, part) in enumerate(zip(FIELDS[kind], parts, strict=True))
    }


def _bare(value: str) -> str:
    """Answer a value in the spelling that is compared."""
    return value.lower().replace('"', "")
