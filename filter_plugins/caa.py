# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who may issue certificates for the mail hosts, as CAA records say it (RFC 8659)."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

# The name in CAA by the host of the ACME directory, where it and the parameters of RFC 8657 are known to be right.
ISSUERS = {
    "acme-v02.api.letsencrypt.org": "letsencrypt.org",
    "acme-staging-v02.api.letsencrypt.org": "letsencrypt.org",
}
DIRECTORY = "https://acme-v02.api.letsencrypt.org/directory"  # the role acme's default


class Issue(TypedDict):
    """What CAA says of a mail host, as in a zone file."""

    host: str
    values: list[str]


def _directory_host(host: Mapping[str, Any]) -> str:
    return urllib.parse.urlsplit(str(host.get("acme_directory", DIRECTORY))).hostname or ""


def acme_issuer(host: Mapping[str, Any]) -> str:
    """The name in CAA of the authority that issues a mail host's certificate (of its hostvars), "" when not known."""
    if host.get("certificate_mode") != "acme":
        return ""
    return ISSUERS.get(_directory_host(host), "")


def caa_values(hosts: Iterable[Mapping[str, Any]], issuer: str) -> list[Issue]:
    """What CAA says of the mail hosts (their hostvars, with facts of mail_host_facts) whose certificate ACME brings.

    issuer: the authority's name; nothing is said without. It may issue to the host's own account, by the challenge that
    the host answers (RFC 8657); before there is an account at its directory, to everybody's. Nobody issues for mail
    addresses at the host's name (RFC 9495), nor for all names below it. What is not known of a host leaves it out.
    """
    found: list[Issue] = []
    for host in hosts:
        facts = host.get("ansible_facts") or {}
        if not issuer or host.get("certificate_mode") != "acme" or "acme_account" not in facts:
            continue
        account = str(facts["acme_account"])
        own = [f"accounturi={account}"] if urllib.parse.urlsplit(account).hostname == _directory_host(host) else []
        terms = "; ".join([issuer, *own, f"validationmethods={host.get('acme_challenge', 'http-01')}"])
        values = [f'0 issue "{terms}"', '0 issuewild ";"', '0 issuemail ";"']
        found.append({"host": str(host["inventory_hostname"]), "values": values})
    return found


class FilterModule:
    """Ansible's door to the functions above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"acme_issuer": acme_issuer, "caa_values": caa_values}
