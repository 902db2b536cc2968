"""DMARC records: their tags, and who has to agree to get reports (RFC 9989, RFC 9990). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable


def is_dmarc(text: str) -> bool:
    """Say whether a TXT value is a DMARC record."""
    return re.match(r"v\s*=\s*DMARC1\s*(;|$)", text) is not None


def tags(record: str) -> dict[str, str]:
    """Answer the tags of a record by their names in lower case."""
    parts = [tag.partition("=") for tag in record.split(";")]
    return {key.strip().lower(): value.strip() for key, _, value in parts}


def permissions(domain: str, record: str) -> dict[str, str]:
    """Answer the domains that a domain's reports would go to and that have to agree, with the names where they do.

    At each such name there has to be a TXT record that begins with v=DMARC1 (RFC 9990 section 4, RFC 7489 section 7.1).
    """
    addresses = filter(None, (part.strip().lower() for part in tags(record).get("rua", "").split(",")))
    targets = (address.removeprefix("mailto:").partition("@")[2].partition("!")[0] for address in addresses)
    return {target: permission(domain, target) for target in targets if target and not related(target, domain)}


def permission(domain: str, target: str) -> str:
    """Answer the name where a target agrees to get the reports of a domain."""
    return f"{domain}._report._dmarc.{target}"


def agreed(values: Iterable[str]) -> bool:
    """Say whether TXT values at such a name are an agreement."""
    return any(value.startswith("v=DMARC1") for value in values)


def related(one: str, other: str) -> bool:
    """Say whether one of two domains lies in the other: they are aligned (RFC 9989 4.4), and nobody has to agree."""
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")
