"""A processor for octoDNS: it shows it the record sets of Mailroom alone, and stops where they are not as planned.

octoDNS owns all of a zone, or whole record sets. What it does not see it can neither change nor delete.
"""

from __future__ import annotations

from typing import Any

from octodns.processor.base import BaseProcessor, ProcessorException


class OnlyOurs(BaseProcessor):  # type: ignore[misc] # octoDNS has no types
    """Leaves in a zone what is in `observed`: by name and type, the values that were there when it was planned."""

    def __init__(self, id: str, observed: dict[str, list[str]]) -> None:  # noqa: A002 - octoDNS names it so
        """observed: by `<absolute name> <TYPE>` the values, none where there was no such set."""
        super().__init__(id)
        self.observed = {key: set(values) for key, values in observed.items()}

    def process_source_zone(self, desired: Any, sources: Any, lenient: bool = False) -> Any:  # noqa: ARG002
        """Leave what is ours of what is wanted."""
        return self._ours(desired)

    def process_target_zone(self, existing: Any, target: Any, lenient: bool = False) -> Any:  # noqa: ARG002
        """Leave what is ours of what the provider has. Raises ProcessorException when it is not as planned against."""
        zone = self._ours(existing)
        found = {_key(record): _values(record) for record in zone.records}
        for key, values in self.observed.items():
            if f".{key.partition(' ')[0]}".endswith(f".{zone.name}") and found.get(key, set()) != values:
                raise ProcessorException(f"mailroom: the provider has something else at {key} than DNS had")
        return zone

    def _ours(self, zone: Any) -> Any:
        for record in list(zone.records):
            if _key(record) not in self.observed:
                zone.remove_record(record)
        return zone


def _key(record: Any) -> str:
    return f"{record.fqdn.lower()} {record._type}"


def _values(record: Any) -> set[str]:
    """The values of a record set, spelled as module_utils/octodns_files.py spells them."""
    values = record.values if hasattr(record, "values") else [record.value]
    if record._type == "TXT":
        return {str(value).replace("\\;", ";") for value in values}
    return {str(getattr(value, "rdata_text", value)).lower().replace('"', "") for value in values}
