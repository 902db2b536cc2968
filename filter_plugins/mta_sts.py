# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Our own MTA-STS policy (RFC 8461): who serves it, under which names, and what is in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from ansible.module_utils.parsing.convert_bool import boolean


class Published(TypedDict):
    """What DNS says of the policy. host: who serves it, "" for nobody. policy: its text, "" if it is not announced."""

    host: str
    policy: str


def _mail_hosts(host: Mapping[str, Any]) -> list[str]:
    return list((host.get("groups") or {}).get("mail_hosts") or ())


def _entries(value: object) -> list[Mapping[str, Any]]:
    """What of a list is a dictionary: preflight asks before it is known that all are, and tells what is wrong."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, Sequence) else []


def policy_names(host: Mapping[str, Any]) -> list[str]:
    """The names under which a host (its hostvars) serves the policies of all mail domains; [] when it serves none.

    It is the first mail host, unless `mta_sts_enabled` says otherwise: a certificate of the private authority, which is
    the default, is worth nothing to those who ask. More hosts with one name could not all answer HTTP-01.
    """
    enabled = host.get("mta_sts_enabled", host.get("certificate_mode", "private") != "private")
    if not boolean(enabled, strict=False) or _mail_hosts(host)[:1] != [host.get("inventory_hostname")]:
        return []
    databases = _entries(host.get("odoo_databases"))
    domains = [domain for database in databases for domain in _entries(database.get("domains"))]
    return list(dict.fromkeys(f"mta-sts.{domain.get('name')}".lower().rstrip(".") for domain in domains))


def certified_names(names: Sequence[str], host: Mapping[str, Any]) -> list[str]:
    """All names of a host's certificate: those of `certificate_names`, if there are any, and those of policies."""
    return list(dict.fromkeys([*names, *policy_names(host)])) if names else []


def mta_sts_policy(host: Mapping[str, Any]) -> str:
    """The policy that a host (its hostvars) serves for every domain, "" when it serves none (RFC 8461, 3.2)."""
    if not policy_names(host):
        return ""
    servers = [f"mx: {name.lower()}" for name in _mail_hosts(host)]
    mode, age = host.get("mta_sts_mode", "testing"), host.get("mta_sts_max_age", 604800)
    return "\n".join(["version: STSv1", f"mode: {mode}", *servers, f"max_age: {age}", ""])


def published_policy(host: Mapping[str, Any]) -> Published:
    """What DNS says of the policy of a host (its hostvars, with facts of mail_host_facts if there are any).

    With acme, the policy is not announced before the certificate is there that strangers trust.
    """
    policy, facts = mta_sts_policy(host), host.get("ansible_facts")
    issued = not isinstance(facts, Mapping) or facts.get("acme_certificate", True)
    waits = host.get("certificate_mode") == "acme" and not issued
    return {"host": str(host.get("inventory_hostname")) if policy else "", "policy": "" if waits else policy}


class FilterModule:
    """Ansible's door to the functions above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {
            "certified_names": certified_names,
            "mta_sts_policy": mta_sts_policy,
            "policy_names": policy_names,
            "published_policy": published_policy,
        }
