# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which DKIM keys a domain has, and which of them signs, while one follows the other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: dkim_selectors
author: Mailroom contributors
short_description: The DKIM keys of domains and what becomes of each
description:
  - Two keys for each selector, an RSA one, which every receiver verifies, and an Ed25519 one (RFC 8463) at another
    selector, since whoever does not know that algorithm overlooks its signature.
  - A domain that C(playbooks/rotate_keys.yml) has dealt with has the selectors of C(selectors.json) in the directory,
    any other has O(selector).
options:
  _terms:
    description: Directory of the keys.
    required: true
  domains:
    description: The domains that sign.
    type: list
    elements: str
    required: true
  selector:
    description: The selector of a domain's first key.
    type: str
    required: true
  removed:
    description: Answer the keys that are not to be published any longer, instead of those that are.
    type: bool
    default: false
"""
EXAMPLES = """
- ansible.builtin.debug:
    msg: "{{ query('dkim_selectors', secrets_directory ~ '/dkim', domains=['example.com'], selector='mailroom1') }}"
"""
RETURN = """
_raw:
  description:
    - C(domain), C(selector), C(type) (V(rsa) or V(ed25519)), and C(signs), false for a key that is published and does
      not sign, yet or any longer.
  type: list
  elements: dict
"""

PUBLISHED = ("new", "shown", "signs", "leaving", "retired")


class Signer(TypedDict):
    """A key of a domain."""

    domain: str
    selector: str
    type: str
    signs: bool


def dkim_selectors(directory: Path, domains: Iterable[str], selector: str, removed: bool = False) -> list[Signer]:
    """Answer the keys of domains, as the lookup does.

    Raises ValueError in one line when selectors.json is something else or was lost, OSError when it cannot be read.
    """
    path = directory / "selectors.json"
    domains = list(dict.fromkeys(name.lower() for name in domains))
    try:
        known = json.loads(path.read_text(encoding="utf-8"))["domains"] if path.exists() else {}
        found: list[Signer] = [
            {"domain": domain, "selector": f"{name}{suffix}", "type": kind, "signs": phase == "signs"}
            for domain in domains
            for name, phase in _keys(known.get(domain), selector)
            if phase in (("removed",) if removed else PUBLISHED)
            for suffix, kind in (("", "rsa"), ("-ed25519", "ed25519"))
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} does not say which DKIM keys sign: restore it from a backup") from None
    for domain in domains:
        others = set() if domain in known else _selectors(directory, domain) - {selector.lower()}
        if others:
            raise ValueError(
                f"{path} does not say which DKIM keys of {domain} sign, and there are those of "
                f"{', '.join(sorted(others))}: restore it from a backup, or make dkim_selector the one that the mail "
                f"host signs with, and remove the other {domain}.*.key"
            )
    return found


def _selectors(directory: Path, domain: str) -> set[str]:
    """Answer the selectors of which there are keys, each one label: with a dot, it is another domain's that goes on."""
    names = {file.name.removeprefix(f"{domain}.").removesuffix(".key") for file in directory.glob(f"{domain}.*.key")}
    return {name.removesuffix("-ed25519") for name in names if "." not in name}


def _keys(entries: Sequence[dict[str, str]] | None, selector: str) -> list[tuple[str, str]]:
    """Answer selectors with their phases."""
    if entries is None:
        return [(selector, "signs")]
    return [(entry["selector"], entry["phase"]) for entry in entries]


class LookupModule(LookupBase):  # type: ignore[misc]  # ansible-core has no type information
    """Check types and delegate to dkim_selectors."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[Signer]:
        """Answer the keys of all directories; every failure is an AnsibleLookupError of one line."""
        self.set_options(var_options=variables, direct=kwargs)
        domains, selector, removed = (self.get_option(name) for name in ("domains", "selector", "removed"))
        try:
            return [
                signer
                for term in terms
                for signer in dkim_selectors(Path(term).expanduser(), domains, selector, removed)
            ]
        except ValueError as error:
            raise AnsibleLookupError(f"dkim_selectors: {error}") from None
        except OSError as error:
            raise AnsibleLookupError(
                f"dkim_selectors: {error.filename}: {error.strerror}: let the user who runs Ansible read it"
            ) from None
