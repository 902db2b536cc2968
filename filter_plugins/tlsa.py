# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which keys the mail hosts' certificates have and will have, as TLSA records tell them (RFC 7671, 5.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from cryptography.hazmat.primitives import serialization


class Keys(TypedDict):
    """Keys of a mail host: SHA-256 of the SubjectPublicKeyInfo in hexadecimal, the one in use first, then the next."""

    host: str
    digests: list[str]


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


def _digests(host: Mapping[str, Any], directory: Path) -> Sequence[str]:
    mode, names = host.get("certificate_mode", "private"), host.get("certificate_names", [host["inventory_hostname"]])
    facts = host.get("ansible_facts") or {}
    if mode == "acme":
        return (facts.get("tls_keys") or []) if facts.get("acme_certificate") else []
    if mode == "files":
        paths = [str(host.get(f"certificate_{each}_file") or "") for each in ("key", "next_key")]
        files = [Path(path).expanduser() for path in paths if path]
    else:
        files = [directory / f"{names[0].lower()}.key{suffix}" for suffix in ("", ".next")] if names else []
    return [_digest(file) for file in files if file.exists()]


def tlsa_keys(hosts: Iterable[Mapping[str, Any]], directory: str) -> list[Keys]:
    """The keys of mail hosts (their hostvars, with facts of mail_host_facts for acme), made here or found there.

    directory: where the lookup private_certificate keeps them. A host whose next key is not known is left out: others
    would remember for hours that only the key in use is right, and its successor would be taken for an attacker's.
    Raises ValueError in one line for a file that holds no key.
    """
    found = ((str(host["inventory_hostname"]), list(_digests(host, Path(directory)))) for host in hosts)
    return [{"host": host, "digests": digests} for host, digests in found if len(digests) > 1]


class FilterModule:
    """Ansible's door to the function above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"tlsa_keys": tlsa_keys}
