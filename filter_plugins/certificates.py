# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with the certificates that an inventory asks for, and how an ACME authority is asked for one."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import AuthorityInformationAccessOID

MODES = ("private", "files", "acme")
CHALLENGES = ("http-01", "dns-01")
KEY_WORDS = ("key_name", "key_algorithm", "key_file")
MIN_RSA = 2048  # bits; OpenSSL's security level 2
ALGORITHM = "hmac-sha256"  # as in dns_records_zones
MAIL_ADDRESS = re.compile(r"[^\s@,]+@[^\s@,]+\.[^\s@,]+")


class Updates(TypedDict):
    """Where and how the TXT record of a DNS-01 challenge is written: server is an IP address, key_file a path."""

    server: str
    port: int
    key_name: str
    key_algorithm: str
    key_file: str


def file_problems(chain_file: str, key_file: str, names: Sequence[str], now: datetime) -> list[str]:
    """What keeps a certificate and its key in files here from serving names (DNS names, IP addresses) at now.

    The rules: RFC 5280, section 6; names as in RFC 9525. Raises nothing.
    """
    problems: list[str] = []
    chain_pem, key_pem = _read(chain_file, problems), _read(key_file, problems)
    chain: list[x509.Certificate] = []
    if chain_pem is not None:
        try:
            chain = x509.load_pem_x509_certificates(chain_pem)
        except ValueError:
            problems.append(
                f"{chain_file} holds no certificate in PEM form: give the file named fullchain.pem or alike"
            )
    key = None
    if key_pem is not None:
        try:
            key = serialization.load_pem_private_key(key_pem, password=None)
        except TypeError:
            problems.append(f"{key_file} has a passphrase: remove it (openssl pkey -in ... -out ...)")
        except ValueError:
            problems.append(f"{key_file} holds no private key in PEM form: give the key that belongs to {chain_file}")
    if chain:
        problems += [f"{chain_file} {problem}" for problem in _chain_problems(chain, names, now)]
        if key is not None and key.public_key() != chain[0].public_key():
            problems.append(f"{key_file} does not belong to the first certificate in {chain_file}: give its own key")
    return problems


def _read(name: str, problems: list[str]) -> bytes | None:
    if not name:
        problems.append("the name of a file is empty: set both certificate_chain_file and certificate_key_file")
        return None
    try:
        return Path(name).expanduser().read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: a ~name of nobody
        reason = getattr(error, "strerror", None) or "No such user"
        problems.append(f"{name}: {reason}: correct the path, or let the user who runs Ansible read it")
        return None


def _chain_problems(chain: Sequence[x509.Certificate], names: Sequence[str], now: datetime) -> list[str]:
    problems = []
    first, last = chain[0].not_valid_before_utc, chain[0].not_valid_after_utc
    if now > last:
        problems.append(f"expired on {last:%Y-%m-%d}: renew it")
    if now < first:
        problems.append(f"is valid from {first:%Y-%m-%d %H:%M} UTC only: wait, or set the control node's clock")
    try:
        own = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        own = x509.SubjectAlternativeName([])
    key = chain[0].public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA:
        problems.append(
            f"has an RSA key of {key.key_size} bits, which Debian's OpenSSL refuses: take {MIN_RSA} or more"
        )
    missing = [name for name in names if not _covers(own, name)]
    if missing:
        problems.append(f"is not valid for {', '.join(missing)}: have one issued that names them, too")
    for place, (certificate, issuer) in enumerate(pairwise(chain), start=1):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, TypeError, ValueError):
            problems.append(f"has certificates in the wrong order: number {place + 1} did not issue number {place}")
    if len(chain) == 1 and _offers_issuer(chain[0]):
        problems.append("lacks the certificate of its issuer: append it, or give the file named fullchain.pem or alike")
    return problems


def _offers_issuer(certificate: x509.Certificate) -> bool:
    """Whether a certificate says where its issuer's is to be had, as those below an intermediate do (RFC 5280, 4.2.2).

    One that a root issued by itself has no need to: clients know the root.
    """
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return False
    return any(entry.access_method == AuthorityInformationAccessOID.CA_ISSUERS for entry in access)


def _covers(own: x509.SubjectAlternativeName, name: str) -> bool:
    """Whether the name is among the certificate's own, where `*` stands for one whole label (RFC 9525, 6.3)."""
    try:
        return ipaddress.ip_address(name) in own.get_values_for_type(x509.IPAddress)
    except ValueError:
        wanted = name.lower()
        patterns = {pattern.lower() for pattern in own.get_values_for_type(x509.DNSName)}
        return wanted in patterns or f"*.{wanted.partition('.')[2]}" in patterns


def acme_updates(names: Sequence[str], zones: object, key: Mapping[str, Any] | None = None) -> Updates:
    """How the TXT records of DNS-01 are written for names: into the one zone of dns_records_zones that has them all.

    key: what the zone's own key_name, key_algorithm and key_file are replaced by, a key that may do less.
    Raises ValueError in one line when there is no such zone or key, or the zone's server is no address.
    """
    known = zones if isinstance(zones, Sequence) and not isinstance(zones, str) else ()
    found: list[Mapping[str, Any]] = []
    for name in names:
        above = [zone for zone in known if isinstance(zone, Mapping) and _is_below(name, zone.get("name"))]
        if not above:
            raise ValueError(
                f"dns-01 needs a zone that has {name}: add it to dns_records_zones, or write acme_challenge: http-01"
            )
        found.append(max(above, key=lambda zone: len(zone["name"])))
    updates = [_updates(zone, key or {}) for zone in found]
    if any(update != updates[0] for update in updates):
        raise ValueError(
            f"dns-01 takes one name server and one key, and {', '.join(names)} have several:"
            " set acme_key, or write acme_challenge: http-01"
        )
    return updates[0]


def _is_below(name: str, zone: object) -> bool:
    return isinstance(zone, str) and bool(zone) and f".{name.lower()}".endswith(f".{zone}")


def _updates(zone: Mapping[str, Any], key: Mapping[str, Any]) -> Updates:
    taken = key if key.get("key_file") else zone
    try:
        ipaddress.ip_address(str(zone.get("server")))
    except ValueError:
        raise ValueError(
            f"dns-01 needs the address of the name server of {zone['name']}: write it as the zone's server"
            " in dns_records_zones"
        ) from None
    return {
        "server": str(zone["server"]),
        "port": int(zone.get("port", 53)),
        "key_name": str(taken.get("key_name", "")),
        "key_algorithm": str(taken.get("key_algorithm", ALGORITHM)),
        "key_file": str(taken.get("key_file", "")),
    }


def _directory_problem(url: object) -> str:
    try:
        parts = urllib.parse.urlsplit(url if isinstance(url, str) else "")
        fine = parts.scheme == "https" and bool(parts.hostname) and not re.search(r"\s", str(url))
    except ValueError:
        fine = False
    return "" if fine else "is no URL of an ACME directory: write https:// and the rest, as its authority says"


def _acme_problems(host: Mapping[str, Any], names: Sequence[str], zones: object) -> list[str]:
    problems = []
    if not MAIL_ADDRESS.fullmatch(str(host.get("acme_email") or "")):
        problems.append("acme_email: the authority wants a mail address for urgent news: give one")
    if host.get("acme_terms_agreed") is not True:
        problems.append("acme_terms_agreed: read the authority's terms of service, then write acme_terms_agreed: true")
    if "acme_directory" in host and (problem := _directory_problem(host["acme_directory"])):
        problems.append(f"acme_directory: {problem}")
    for name in names:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            continue
        problems.append(f"certificate_names: {name} is an address, and only names are asked for with acme: remove it")
    challenge = host.get("acme_challenge", CHALLENGES[0])
    facts = host.get("ansible_facts")
    taken = facts.get("port_80") if isinstance(facts, Mapping) else ""
    if challenge not in CHALLENGES:
        problems.append(f"acme_challenge: {challenge!r} cannot be: use one of {', '.join(CHALLENGES)}")
    elif challenge == "http-01" and taken:
        problems.append(f"port 80 is taken by {taken}: stop it, or write acme_challenge: dns-01")
    elif challenge == "dns-01":
        problems += _update_problems(names, zones, host.get("acme_key"))
    return problems


def _update_problems(names: Sequence[str], zones: object, key: object) -> list[str]:
    if key is not None and (not isinstance(key, Mapping) or not {*key} <= {*KEY_WORDS}):
        return [f"acme_key: is no key: give {', '.join(KEY_WORDS)}"]
    try:
        updates = acme_updates(names, zones, key)
    except ValueError as error:
        return [str(error)]
    if not key:
        return []  # the zone's own key is looked at with the zone
    try:
        Path(updates["key_file"]).expanduser().read_text(encoding="ascii")
    except (OSError, RuntimeError, ValueError):
        return [f"acme_key: {updates['key_file']} cannot be read: write the key's secret into it, mode 0600"]
    return [] if updates["key_name"] else ["acme_key: key_name is missing: give the name of the TSIG key"]


def certificate_problems(
    hosts: object,
    zones: object = None,
    policies: Mapping[str, Sequence[str]] = MappingProxyType({}),
    now: datetime | None = None,
) -> list[str]:
    """What is wrong with the certificates that mail hosts are to have, one line each; [] when nothing.

    hosts: their hostvars, with facts of mail_host_facts. zones: dns_records_zones. policies: the names under which a
    host serves MTA-STS policies, which come in addition. now: the current time by default.
    Takes anything, raises nothing.
    """
    problems: list[str] = []
    for host in hosts if isinstance(hosts, Sequence) else list(hosts) if hasattr(hosts, "__iter__") else ():
        own = str(host.get("inventory_hostname"))
        mode, names = host.get("certificate_mode", MODES[0]), host.get("certificate_names", [own])
        if (
            not isinstance(names, Sequence)
            or isinstance(names, str)
            or not all(isinstance(name, str) for name in names)
        ):
            problems.append(f"{own}: certificate_names: is no list of names: write one per line, each after '- '")
            continue
        names = list(dict.fromkeys([*names, *policies.get(own, ())])) if names else []
        found: list[str] = []
        if mode not in MODES:
            found = [f"certificate_mode: {mode!r} cannot be: use one of {', '.join(MODES)}"]
        elif mode == "files" and names:
            chain, key = (str(host.get(f"certificate_{file}_file") or "") for file in ("chain", "key"))
            found = file_problems(chain, key, names, now or datetime.now(UTC))
            found += _next_key_problems(str(host.get("certificate_next_key_file") or ""), key)
        elif mode == "acme" and names:
            found = _acme_problems(host, names, zones)
        authority = host.get("certificate_ca_file")
        if authority:
            found += _authority_problems(str(authority))
        problems += [f"{own}: {problem}" for problem in found]
    return problems


def _next_key_problems(file: str, current: str) -> list[str]:
    problems: list[str] = []
    pem = _read(file, problems) if file else None
    try:
        if pem is not None:
            serialization.load_pem_private_key(pem, password=None)
    except (TypeError, ValueError):  # TypeError: it has a passphrase
        problems.append(
            f"{file} is no private key in PEM form without passphrase: give the one of the next certificate"
        )
    if file and file == current:
        problems.append("certificate_next_key_file is certificate_key_file: give the key of the next certificate")
    return problems


def _authority_problems(name: str) -> list[str]:
    problems: list[str] = []
    pem = _read(name, problems)
    try:
        if pem is not None and len(x509.load_pem_x509_certificates(pem)) != 1:
            problems.append(f"{name} holds several certificates: certificate_ca_file is that of one authority")
    except ValueError:
        problems.append(f"{name} holds no certificate in PEM form: give the authority's as certificate_ca_file")
    return problems


class FilterModule:
    """Ansible's door to the functions above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"acme_updates": acme_updates, "certificate_problems": certificate_problems}
