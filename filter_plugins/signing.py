# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who signs what: the domains that mail is signed for, and the files of their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def selectors(signers: Iterable[Mapping[str, object]]) -> dict[str, list[str]]:
    """Each domain that signs, with the selectors of all keys that it signs with, in lower case.

    signers: answers of the lookup dkim_selectors, or the like; a key without `signs` signs.
    """
    found: dict[str, list[str]] = {}
    for signer in signers:
        if signer.get("signs", True):
            found.setdefault(str(signer["domain"]).lower(), []).append(str(signer["selector"]).lower())
    return found


def key_names(signers: Iterable[Mapping[str, object]]) -> list[str]:
    """The names in DNS of the keys of signers."""
    return [f"{signer['selector']}._domainkey.{signer['domain']}".lower() for signer in signers]


def domain_above(signers: Iterable[Mapping[str, object]], host: str) -> str:
    """The nearest of the domains above `host`, a full host name; "" when it is in none of them.

    It signs the reports of the mail host itself: they come from an address at the host's name, and a signature by the
    domain above is aligned with that (RFC 9989, relaxed alignment).
    """
    domains = {str(signer["domain"]).lower() for signer in signers}
    return max((domain for domain in domains if host.lower().endswith(f".{domain}")), key=len, default="")


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
            "selectors": selectors,
            "key_names": key_names,
            "domain_above": domain_above,
            "key_files": key_files,
        }
