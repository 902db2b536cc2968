# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who signs what: the domains that mail is signed for, and the files of their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict


class Signer(TypedDict):
    """A domain that signs, with the selector and the type (`rsa` or `ed25519`) of one of its keys."""

    domain: str
    selector: str
    type: str


def signing_domains(databases: Iterable[Mapping[str, Any]], selector: str) -> list[Signer]:
    """Every alias domain of `databases` (the inventory's odoo_databases) with both of its keys.

    Its RSA key has `selector`, which every receiver verifies; its Ed25519 key has another, since whoever does not know
    RFC 8463 overlooks that signature (its section 3).
    """
    names = dict.fromkeys(
        str(domain["name"]).lower() for database in databases for domain in database.get("domains") or ()
    )
    return [
        {"domain": name, "selector": f"{selector}{suffix}", "type": kind}
        for name in names
        for suffix, kind in (("", "rsa"), ("-ed25519", "ed25519"))
    ]


def selectors(signers: Iterable[Mapping[str, object]]) -> dict[str, list[str]]:
    """Each domain that signs, with the selectors of all its keys, in lower case."""
    found: dict[str, list[str]] = {}
    for signer in signers:
        found.setdefault(str(signer["domain"]).lower(), []).append(str(signer["selector"]).lower())
    return found


def domain_above(signers: Iterable[Signer], host: str) -> str:
    """The nearest of the domains above `host`, a full host name; "" when it is in none of them.

    It signs the reports of the mail host itself: they come from an address at the host's name, and a signature by the
    domain above is aligned with that (RFC 9989, relaxed alignment).
    """
    above = [signer["domain"] for signer in signers if host.lower().endswith(f".{signer['domain'].lower()}")]
    return max(above, key=len, default="").lower()


def key_files(keys: Iterable[Mapping[str, str]], directory: str, group: str) -> list[dict[str, Any]]:
    """Entries of host_files for `keys` (answers of the lookup dkim_key), readable for root and `group` only."""
    return [
        {
            "path": f"{directory}/{key['domain']}.{key['selector']}.key",
            "content": key["private"],
            "mode": "0440",
            "group": group,
            "sensitive": True,
        }
        for key in keys
    ]


class FilterModule:
    """Ansible's door to the functions above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {
            "signing_domains": signing_domains,
            "selectors": selectors,
            "domain_above": domain_above,
            "key_files": key_files,
        }
