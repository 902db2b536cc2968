# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A private certificate authority on the control node, and one certificate from it.

Profile: RFC 5280 sections 4.1 and 4.2 as OpenSSL's X509_V_FLAG_X509_STRICT enforces it, which is what Python 3.13's
default context asks for.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DOCUMENTATION = """
name: private_certificate
author: Mailroom contributors
short_description: A certificate from a private authority kept on the control node
description:
  - The authority (EC P-256, ten years) is made once in the directory as C(ca.pem) and C(ca.key). It is renewed with its
    own key when it would no longer outlive a new certificate.
  - The certificate (RSA-2048) is kept beside it as C(<first name>.pem) and C(<first name>.key). It is made again when
    its names, its key or its authority differ or less than 30 days are left, with the key that is kept.
  - The key that is to come after that one is C(<first name>.key.next), so that others can know of it before it is used.
  - Files are 0600, directories made here 0700, both also in check mode, as with ansible.builtin.password.
options:
  _terms:
    description: Directory of the authority.
    required: true
  names:
    description: DNS names and IP addresses of the certificate. Empty, only the authority is made.
    type: list
    elements: str
    default: []
  days:
    description: Days a new certificate is valid for.
    type: int
    default: 397
"""
EXAMPLES = """
- ansible.builtin.set_fact:
    pair: "{{ lookup('private_certificate', secrets_directory ~ '/ca', names=['mail.example.com', '192.0.2.25']) }}"
"""
RETURN = """
_raw:
  description: The keys C(ca), C(chain) and C(key), all PEM; C(chain) and C(key) are empty without names.
  type: list
  elements: dict
"""

CA_NAME = "Mailroom private CA"
CA_DAYS = 3650
RENEW_DAYS = 30
_PEM = serialization.Encoding.PEM
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?")


def private_certificate(directory: Path, names: Sequence[str], days: int, now: datetime) -> dict[str, str]:
    """Return ca, chain and key (PEM) for names (DNS names, IP addresses), making what is missing or due at now.

    Raises ValueError with one line: a bad name or number of days, or a file of the authority that is not usable.
    Raises OSError when a file cannot be read or written.
    """
    wanted = [_general_name(name) for name in names]
    if days <= RENEW_DAYS:
        raise ValueError(
            f"days is {days}: give more than the {RENEW_DAYS} days before its end a certificate is renewed"
        )
    with _locked(directory):
        ca, ca_key = _authority(directory, days, now)
        if not wanted:
            return {"ca": ca.public_bytes(_PEM).decode(), "chain": "", "key": ""}
        stem = str(wanted[0].value)
        if stem == "ca":
            raise ValueError("names begins with 'ca', whose files are the authority's: put another name first")
        chain_file, key_file = directory / f"{stem}.pem", directory / f"{stem}.key"
        kept = _kept(chain_file, key_file, ca, wanted, now)
        chain, key = kept or _issue(chain_file, key_file, ca, ca_key, wanted, days, now)
        if not (following := directory / f"{stem}.key.next").exists():
            _write(following, _key_pem(_new_key()))
        return {"ca": ca.public_bytes(_PEM).decode(), "chain": chain, "key": key}


def _general_name(name: str) -> x509.DNSName | x509.IPAddress:
    """The subjectAltName entry for a DNS name or an IP address (RFC 5280 section 4.2.1.6)."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        lowered = name.lower()
        if len(lowered) > 253 or not all(_LABEL.fullmatch(label) for label in lowered.split(".")):
            raise ValueError(f"{name!r} in names is neither a host name nor an IP address: correct it") from None
        return x509.DNSName(lowered)


def _authority(directory: Path, days: int, now: datetime) -> tuple[x509.Certificate, CertificateIssuerPrivateKeyTypes]:
    """The authority kept in directory; a key without a certificate is what a crash left, and is used."""
    ca_file, key_file = directory / "ca.pem", directory / "ca.key"
    if key_file.exists():
        key = _read_key(key_file)
    elif ca_file.exists():
        raise ValueError(f"{key_file} is missing: restore it, or remove {ca_file} to start a new authority")
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        _write(key_file, _key_pem(key))
    if ca_file.exists():
        try:
            ca = x509.load_pem_x509_certificate(ca_file.read_bytes())
        except ValueError:
            raise ValueError(
                f"{ca_file} is no PEM certificate: restore it, or remove it to have it made again"
            ) from None
        if ca.public_key() != key.public_key():
            raise ValueError(f"{key_file} does not belong to {ca_file}: restore the two from the same backup")
        if ca.not_valid_after_utc > now + timedelta(days=days):
            return ca, key
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CA_NAME)])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    ca = (
        _builder(name, name, key, key, now, now + timedelta(days=max(CA_DAYS, 2 * days)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(ca_file, ca.public_bytes(_PEM))
    return ca, key


def _kept(
    chain_file: Path, key_file: Path, ca: x509.Certificate, wanted: Sequence[x509.GeneralName], now: datetime
) -> tuple[str, str] | None:
    """The kept certificate and key, if they are whole, from this authority, for these names and not due for renewal."""
    try:
        chain, key = chain_file.read_bytes(), key_file.read_bytes()
    except FileNotFoundError:
        return None
    try:
        leaf = x509.load_pem_x509_certificate(chain)
        leaf.verify_directly_issued_by(ca)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        # Testing the primes of a key that we made takes 40 ms, each time a variable with it is looked at.
        own_key = serialization.load_pem_private_key(key, password=None, unsafe_skip_rsa_key_validation=True)
        pair = leaf.public_key() == own_key.public_key()
        if pair and list(names) == list(wanted) and leaf.not_valid_after_utc > now + timedelta(days=RENEW_DAYS):
            return chain.decode("ascii"), key.decode("ascii")
    except (InvalidSignature, TypeError, ValueError, x509.ExtensionNotFound):
        pass  # whatever is wrong with a file made from the authority, a new one is the remedy
    return None


def _issue(
    chain_file: Path,
    key_file: Path,
    ca: x509.Certificate,
    ca_key: CertificateIssuerPrivateKeyTypes,
    wanted: Sequence[x509.GeneralName],
    days: int,
    now: datetime,
) -> tuple[str, str]:
    """Write and return a new certificate and its key: the one that is kept, which TLSA records may tell of.

    A new one is written first: a crash in between leaves two that do not match, which the next run mends.
    """
    try:
        key = _read_key(key_file)
    except (FileNotFoundError, ValueError):
        key = _new_key()
        _write(key_file, _key_pem(key))
    # The name is in subjectAltName, which everybody reads; a common name holds 64 characters only.
    common_name = f"{wanted[0].value}"[:64]
    leaf = (
        _builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]),
            ca.subject,
            key,
            ca_key,
            now,
            now + timedelta(days=days),
        )
        .add_extension(x509.SubjectAlternativeName(wanted), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True, key_encipherment=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    chain_pem = leaf.public_bytes(_PEM)
    _write(chain_file, chain_pem)
    return chain_pem.decode(), key_file.read_text(encoding="ascii")


def _new_key() -> rsa.RSAPrivateKey:
    """RSA because there are still mail servers on the Internet that cannot speak TLS with an EC certificate."""
    return rsa.generate_private_key(65537, 2048)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificateIssuerPrivateKeyTypes,
    issuer_key: CertificateIssuerPrivateKeyTypes,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # hosts' clocks differ a little
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )


def _usage(**true: bool) -> x509.KeyUsage:
    bits = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{bit: true.get(bit, False) for bit in bits})


def _key_pem(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _read_key(path: Path) -> CertificateIssuerPrivateKeyTypes:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (TypeError, ValueError):  # TypeError: it has a passphrase
        key = None
    if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        return key
    raise ValueError(f"{path} is no PEM private key (EC or RSA) without passphrase: restore it from your backup")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, so that processes that come at the same time make one key and not two."""
    for missing in reversed([path for path in (directory, *directory.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, content: bytes) -> None:
    """Replace path as a whole, durably, mode 0600."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class LookupModule(LookupBase):  # type: ignore[misc]  # ansible-core has no type information
    """Check types and delegate to private_certificate."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[dict[str, str]]:
        """Answer one dict for each directory in terms; every failure is an AnsibleLookupError of one line."""
        self.set_options(var_options=variables, direct=kwargs)
        results = []
        for term in terms:
            directory = Path(term).expanduser()
            try:
                results.append(
                    private_certificate(directory, self.get_option("names"), self.get_option("days"), datetime.now(UTC))
                )
            except ValueError as error:
                raise AnsibleLookupError(f"private_certificate: {error}") from None
            except OSError as error:
                raise AnsibleLookupError(
                    f"private_certificate: {error.filename or directory}: {error.strerror}: "
                    "let the user who runs Ansible read and write it"
                ) from None
        return results
