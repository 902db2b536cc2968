# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which DNS records the company's mail needs."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypedDict


class MailHost(TypedDict):
    """A mail host: its full name, which is also what it says in HELO, and its public addresses ("": none)."""

    name: str
    ipv4: str
    ipv6: str


class RRset(TypedDict):
    """A record set to publish.

    name: absolute, with the final dot. ttl: seconds. values: as in a zone file, but TXT as plain text in one piece.
    why, rfc: for people. level: required, recommended or optional. ownership: `exclusive` when the name has to hold
    these values alone, `shared` when the values of others stay beside them. where: `signed` for what is of use in
    a zone signed by DNSSEC alone, else "".
    """

    name: str
    type: str
    ttl: int
    values: list[str]
    why: str
    rfc: str
    level: str
    ownership: str
    where: str


def mail_hosts(names: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[MailHost]:
    """Names and public addresses of mail hosts, from the host variables mail_host_ipv4 and mail_host_ipv6."""
    return [
        {
            "name": name,
            "ipv4": str(hostvars[name].get("mail_host_ipv4") or ""),
            "ipv6": str(hostvars[name].get("mail_host_ipv6") or ""),
        }
        for name in names
    ]


def public_keys(keys: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """What of the answers of the lookup dkim_key belongs into DNS: domain, selector, type and public."""
    return [{part: key[part] for part in ("domain", "selector", "type", "public")} for key in keys]


def mail_domains(databases: Iterable[Mapping[str, Any]]) -> list[str]:
    """The alias domains of all databases, each once, in the inventory's order."""
    return list(
        dict.fromkeys(_domain(domain["name"]) for database in databases for domain in database.get("domains") or ())
    )


def mail_rrsets(
    odoo_databases: Iterable[Mapping[str, Any]],
    hosts: Sequence[Mapping[str, str]],
    dkim: Sequence[Mapping[str, str]],
    ttl: int = 3600,
    dmarc_policy: str = "quarantine",
    mta_sts: Mapping[str, str] = MappingProxyType({}),
    tlsa: Sequence[Mapping[str, Any]] = (),
    dane: str = "auto",
    caa: Sequence[Mapping[str, Any]] = (),
    dmarc_reports: Sequence[str] = (),
) -> list[RRset]:
    """The records that mail to and from every alias domain needs, sorted by name and type.

    odoo_databases: as in the inventory. hosts: see MailHost. dkim: {domain, selector, type, public}, one or more for
    each domain, type being rsa (if there is none) or ed25519, public the base64 that RFC 6376 or RFC 8463 wants.
    ttl: seconds. dmarc_policy: none, quarantine or reject. mta_sts: {host, policy}, the mail host that serves the
    MTA-STS policy and its text, either "" for none. tlsa: {host, digests}, the keys of mail hosts as the filter
    tlsa_keys answers them. dane: auto, always or never, whether they are published; auto where the zone is signed.
    caa: {host, values}, who may issue certificates for mail hosts as the filter caa_values answers it; left out for a
    host named like a domain, whose other certificates are not ours to judge.
    dmarc_reports: addresses that DMARC reports go to, by default dmarc-reports@ of each domain. Where one is in
    another domain of ours, that domain agrees (RFC 9990, 4).
    Raises ValueError in one line when a host has no address or a domain has no key.
    """
    found: dict[tuple[str, str], RRset] = {}

    def add(
        name: str,
        kind: str,
        value: str,
        rfc: str,
        why: str,
        level: str = "required",
        shared: bool = False,
        where: str = "",
    ) -> None:
        rrset = found.setdefault(
            (f"{name}.", kind),
            {
                "name": f"{name}.",
                "type": kind,
                "ttl": ttl,
                "values": [],
                "why": why,
                "rfc": rfc,
                "level": level,
                "ownership": "shared" if shared else "exclusive",
                "where": where,
            },
        )
        if value not in rrset["values"]:
            rrset["values"].append(value)

    domains = mail_domains(odoo_databases)
    senders = []
    for host in hosts:
        name = _domain(host["name"])
        addresses = [ipaddress.ip_address(host[family]) for family in ("ipv4", "ipv6") if host.get(family)]
        if not addresses:
            raise ValueError(f"{name}: it has no public address: set mail_host_ipv4 (and mail_host_ipv6) for this host")
        for address in addresses:
            senders.append(f"ip{address.version}:{address}")
            add(name, "A" if address.version == 4 else "AAAA", str(address), "RFC 5321 5.1", "where the mail host is")
            add(
                address.reverse_pointer,
                "PTR",
                f"{name}.",
                "RFC 1912 2.1",
                "receivers refuse mail from an address without its name; mostly the address's provider sets it",
                level="recommended",
            )
        if name not in domains:
            why = "names the host as sender of its own reports, which have no sender's domain"
            add(name, "TXT", "v=spf1 a -all", "RFC 7208 2.3", why, level="recommended", shared=True)
    for keys_of_host in tlsa if dane != "never" else ():
        for digest in keys_of_host["digests"]:
            add(
                f"_25._tcp.{_domain(keys_of_host['host'])}",
                "TLSA",
                f"3 1 1 {digest}",
                "RFC 7672 3.1",
                "has servers that validate DNSSEC send mail to the host with this key alone, in use or the next",
                level="recommended",
                where="" if dane == "always" else "signed",
            )
    for issue in caa:
        for value in issue["values"] if _domain(issue["host"]) not in domains else ():
            add(
                _domain(issue["host"]),
                "CAA",
                value,
                "RFC 8659 4",
                "has no other authority issue a certificate for the mail host, and none to somebody else",
                level="recommended",
                shared=True,
            )
    for domain in domains:
        keys = [key for key in dkim if _domain(key["domain"]) == domain]
        if not keys:
            raise ValueError(f"{domain}: it has no DKIM key: add it to dns_records_dkim")
        for host in hosts:
            add(
                domain,
                "MX",
                f"10 {_domain(host['name'])}.",
                "RFC 5321 5.1",
                "brings the domain's mail to the mail host",
            )
        add(
            domain,
            "TXT",
            " ".join(["v=spf1", *dict.fromkeys(senders), "~all"]),  # ~all: -all would refuse forwarded mail unheard
            "RFC 7208",
            "says which addresses send the domain's mail",
            shared=True,
        )
        for key in keys:
            add(
                f"{key['selector']}._domainkey.{domain}",
                "TXT",
                f"v=DKIM1; k={key.get('type') or 'rsa'}; h=sha256; s=email; p={key['public']}",
                "RFC 8463 4" if key.get("type") == "ed25519" else "RFC 6376 3.6.1",
                "verifies the signature under the domain's mail",
            )
        reports = dmarc_reports or [f"dmarc-reports@{domain}"]
        add(
            f"_dmarc.{domain}",
            "TXT",
            f"v=DMARC1; p={dmarc_policy}; rua={','.join(f'mailto:{address}' for address in reports)}",
            "RFC 9989",
            "says what becomes of mail that only pretends to come from the domain",
        )
        for target in dict.fromkeys(address.rpartition("@")[2].lower() for address in reports):
            if target in domains and not _related(target, domain):
                add(
                    f"{domain}._report._dmarc.{target}",
                    "TXT",
                    "v=DMARC1;",
                    "RFC 9990 4",
                    "agrees to get the DMARC reports of the other domain, which nobody would send without",
                    level="recommended",
                )
        add(
            f"_smtp._tls.{domain}",
            "TXT",
            f"v=TLSRPTv1; rua=mailto:tls-reports@{domain}",
            "RFC 8460 3",
            "says where servers report that TLS to the mail host failed",
            level="recommended",
        )
        if mta_sts.get("host"):
            add(
                f"mta-sts.{domain}",
                "CNAME",  # so that its CAA, SPF and addresses are those of the host
                f"{_domain(mta_sts['host'])}.",
                "RFC 8461 3.3",
                "where servers fetch what they have to expect of the mail host",
                level="recommended",
            )
        if mta_sts.get("policy"):
            add(
                f"_mta-sts.{domain}",
                "TXT",
                f"v=STSv1; id={hashlib.sha256(mta_sts['policy'].encode()).hexdigest()[:32]}",
                "RFC 8461 3.1",
                "has servers send mail only by TLS, to the mail host; another id says that the policy has changed",
                level="recommended",
            )
    return [found[key] for key in sorted(found)]


def _domain(value: object) -> str:
    """A name in lower case without the final dot."""
    return str(value).lower().rstrip(".")


def _related(one: str, other: str) -> bool:
    """Whether one of two names lies in the other."""
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")


class FilterModule:
    """Ansible's door to the functions above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {
            "mail_domains": mail_domains,
            "mail_hosts": mail_hosts,
            "mail_rrsets": mail_rrsets,
            "public_keys": public_keys,
        }
