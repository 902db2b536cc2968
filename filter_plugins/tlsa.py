# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which keys the mail hosts' certificates have and will have, as TLSA records tell them (RFC 7671, 5.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from cryptography.hazmat.primitives import serialization


class Keys(TypedDict):
    """Keys of a mail host: SHA-256 of the SubjectPublicKeyInfo in hexadecimal.

    The one in use comes first, then the next, then a former one that a daemon may still show.
    """

    host: str
    digests: list[str]


class Renewable(TypedDict):
    """Keys of a mail host whose certificate we have made: digests, and the file of the one in use, "" for acme.

    former: whether there is a former key that a daemon may still show.
    """

    host: str
    used: str
    following: str
    former: bool
    file: str


def _digest(file: Path) -> str:
    """The digest of a private key's public part. Raises ValueError in one line for what is none."""
    try:
        # Testing the primes of a key takes 40 ms, each time a variable with it is looked at.
        key = serialization.load_pem_private_key(file.read_bytes(), None, unsafe_skip_rsa_key_validation=True)
    except (TypeError, ValueError):  # TypeError: it has a passphrase
        raise ValueError(f"{file} is no private key in PEM form without passphrase: restore or correct it") from None
    public = key.public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _files(host: Mapping[str, Any], directory: Path) -> list[Path]:
    """The files here that a host's keys are in, the one in use first, then the next, then the former."""
    names = host.get("certificate_names", [host["inventory_hostname"]])
    if host.get("certificate_mode", "private") == "files":
        paths = [str(host.get(f"certificate_{each}_file") or "") for each in ("key", "next_key")]
        return [Path(path).expanduser() for path in paths if path]
    return [directory / f"{names[0].lower()}.key{suffix}" for suffix in ("", ".next", ".former")] if names else []


def _digests(host: Mapping[str, Any], directory: Path) -> Sequence[str]:
    facts = host.get("ansible_facts") or {}
    if host.get("certificate_mode") == "acme":
        return (facts.get("tls_keys") or []) if facts.get("acme_certificate") else []
    return [_digest(file) for file in _files(host, directory) if file.exists()]


def tlsa_keys(hosts: Iterable[Mapping[str, Any]], directory: str) -> list[Keys]:
    """The keys of mail hosts (their hostvars, with facts of mail_host_facts for acme), made here or found there.

    directory: where the lookup private_certificate keeps them. A host whose next key is not known is left out: others
    would remember for hours that only the key in use is right, and its successor would be taken for an attacker's.
    Raises ValueError in one line for a file that holds no key.
    """
    found = ((str(host["inventory_hostname"]), list(_digests(host, Path(directory)))) for host in hosts)
    return [{"host": host, "digests": digests} for host, digests in found if len(set(digests)) > 1]


def renewable_keys(hosts: Iterable[Mapping[str, Any]], directory: str) -> list[Renewable]:
    """The keys of the same mail hosts, those with files of their own left out, and those without a next key yet."""
    found: list[Renewable] = []
    for host in hosts:
        mode = host.get("certificate_mode", "private")
        files = _files(host, Path(directory)) if mode == "private" else []
        if mode == "files" or not all(file.exists() for file in files[:2]):
            continue
        used, following, *former = [*_digests(host, Path(directory)), "", ""]
        if following:
            found.append(
                {
                    "host": str(host["inventory_hostname"]),
                    "used": used,
                    "following": following,
                    "former": not {*former} <= {used, ""},
                    "file": str(files[0]) if files else "",
                }
            )
    return found


class FilterModule:
    """Ansible's door to the functions above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"renewable_keys": renewable_keys, "tlsa_keys": tlsa_keys}
