# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A certificate and its key from files on the control node, checked before any host gets them (RFC 5280, RFC 9525)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

DOCUMENTATION = """
name: certificate_files
author: Mailroom contributors
short_description: A certificate and its key from files on the control node
description:
  - Reads both files and says what is wrong with them, unless the key belongs to the certificate, the certificate is
    valid now and for all names, and each certificate of the file was issued by the next one.
options:
  _terms:
    description: Two files in PEM form, the certificate with its intermediates and the key without passphrase.
    required: true
  names:
    description: DNS names and IP addresses the certificate has to be valid for.
    type: list
    elements: str
    default: []
"""
EXAMPLES = """
- ansible.builtin.debug:
    msg: "{{ lookup('certificate_files', 'fullchain.pem', 'privkey.pem', names=['mail.example.com']).problems }}"
"""
RETURN = """
_raw:
  description: The keys C(chain) and C(key), both PEM, and C(problems), a list of lines; with any, the two are empty.
  type: list
  elements: dict
"""


class Files(TypedDict):
    """The two files in PEM form; or, with both empty, what is wrong with them, one line each."""

    chain: str
    key: str
    problems: list[str]


def certificate_files(chain_file: Path, key_file: Path, names: Sequence[str], now: datetime) -> Files:
    """Read a certificate and its key and judge whether they serve names (DNS names, IP addresses) at now."""
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
    if problems or chain_pem is None or key_pem is None:
        return {"chain": "", "key": "", "problems": problems}
    return {"chain": chain_pem.decode("utf-8", "replace"), "key": key_pem.decode("utf-8", "replace"), "problems": []}


def _read(path: Path, problems: list[str]) -> bytes | None:
    if path == Path():
        problems.append("the name of a file is empty: set both certificate_chain_file and certificate_key_file")
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        problems.append(f"{path}: {error.strerror}: correct the path, or let the user who runs Ansible read it")
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
    missing = [name for name in names if not _covers(own, name)]
    if missing:
        problems.append(f"is not valid for {', '.join(missing)}: have one issued that names them, too")
    for place, (certificate, issuer) in enumerate(pairwise(chain), start=1):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, TypeError, ValueError):
            problems.append(f"has certificates in the wrong order: number {place + 1} did not issue number {place}")
    return problems


def _covers(own: x509.SubjectAlternativeName, name: str) -> bool:
    """Whether the name is among the certificate's own, where `*` stands for one whole label (RFC 9525, 6.3)."""
    try:
        return ipaddress.ip_address(name) in own.get_values_for_type(x509.IPAddress)
    except ValueError:
        wanted = name.lower()
        patterns = {pattern.lower() for pattern in own.get_values_for_type(x509.DNSName)}
        return wanted in patterns or f"*.{wanted.partition('.')[2]}" in patterns


class LookupModule(LookupBase):  # type: ignore[misc]  # ansible-core has no type information
    """Check types and delegate to certificate_files."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[Files]:
        """Answer one dict. Raises AnsibleLookupError, in one line, unless two files are named."""
        self.set_options(var_options=variables, direct=kwargs)
        if len(terms) != 2:
            raise AnsibleLookupError("certificate_files: name two files, the certificate's and the key's")
        chain, key = (Path(term).expanduser() for term in terms)
        return [certificate_files(chain, key, self.get_option("names"), datetime.now(UTC))]
