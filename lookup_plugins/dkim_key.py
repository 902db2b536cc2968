# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The DKIM key of a domain, made once and kept on the control node.

RSA: RFC 6376 section 3.6.1, RFC 8301 section 3.2. Ed25519: RFC 8463.
"""

from __future__ import annotations

import base64
import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

DOCUMENTATION = """
name: dkim_key
author: Mailroom contributors
short_description: The DKIM key of a domain, kept on the control node
description:
  - The key (RSA-2048 or Ed25519) is made once in the directory as C(<domain>.<selector>.key) and never changed. For a
    new key choose a new selector.
  - Give either O(domain) and O(selector) for one key, or O(keys) for a list.
  - The file is 0600, directories made here 0700, both also in check mode, as with ansible.builtin.password.
options:
  _terms:
    description: Directory of the keys.
    required: true
  domain:
    description: The signing domain.
    type: str
  selector:
    description: The selector, the label before C(._domainkey) in DNS.
    type: str
  type:
    description: The algorithm.
    type: str
    choices: [rsa, ed25519]
    default: rsa
  keys:
    description:
      - Several keys, dictionaries with C(domain), C(selector) and perhaps C(type), answered in this order. C(signs) is
        for others.
    type: list
    elements: dict
"""
EXAMPLES = """
- ansible.builtin.debug:
    msg: "v=DKIM1; k=rsa; p={{ lookup('dkim_key', secrets_directory ~ '/dkim', domain='example.com',
      selector='mailroom1').public }}"

- ansible.builtin.debug:
    msg: "{{ query('dkim_key', secrets_directory ~ '/dkim', keys=rspamd_domains) | map(attribute='public') }}"
"""
RETURN = """
_raw:
  description:
    - The keys C(domain), C(selector), C(type), C(private) (as rspamd reads it; PEM, PKCS#8 for RSA, the base64 of the
      seed for Ed25519) and C(public) (base64, the value of p= in DNS).
  type: list
  elements: dict
"""

BITS = 2048
MADE: dict[str, Callable[[], rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey]] = {
    "rsa": lambda: rsa.generate_private_key(65537, BITS),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*")


def dkim_key(directory: Path, domain: str, selector: str, algorithm: str = "rsa") -> dict[str, str]:
    """Return domain, selector, type, private and public of a key, made when missing; it is kept as PEM (PKCS#8).

    RSA: private as it is kept, public is the base64 of SubjectPublicKeyInfo. Ed25519: both are the base64 of 32 bytes.
    Raises ValueError with one line: a bad domain, selector or algorithm, or a kept file that is no such key, of at
    least 2048 bits for RSA. Raises OSError when a file cannot be read or written.
    """
    if algorithm not in MADE:
        raise ValueError(f"type {algorithm!r} is no kind of key: write one of {', '.join(MADE)}")
    domain, selector = domain.lower(), selector.lower()
    for what, name in (("domain", domain), ("selector", selector)):
        if len(name) > 253 or not _NAME.fullmatch(name):
            raise ValueError(f"{what} {name!r} is no name in DNS: correct it (an international domain as xn--...)")
    path = directory / f"{domain}.{selector}.key"
    with _locked(directory):
        if not path.exists():
            _write(
                path,
                MADE[algorithm]().private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                ),
            )
        private = path.read_bytes()
    try:
        key = serialization.load_pem_private_key(private, password=None)
    except (TypeError, ValueError):  # TypeError: it has a passphrase
        key = None
    remedy = "without passphrase: restore it, or choose another selector"
    if algorithm == "ed25519":
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise ValueError(f"{path} is no Ed25519 key {remedy}")
        text = f"{base64.b64encode(key.private_bytes_raw()).decode()}\n"
        public = key.public_key().public_bytes_raw()
    else:
        if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < BITS:
            raise ValueError(f"{path} is no RSA key of {BITS} bits or more {remedy}")
        text = private.decode("utf-8", "replace")
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    encoded = base64.b64encode(public).decode()
    return {"domain": domain, "selector": selector, "type": algorithm, "private": text, "public": encoded}


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
    """Check types and delegate to dkim_key."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[dict[str, str]]:
        """Answer one dict for each key and directory; every failure is an AnsibleLookupError of one line."""
        self.set_options(var_options=variables, direct=kwargs)
        one = {name: self.get_option(name) or "" for name in ("domain", "selector", "type")}
        keys = self.get_option("keys")
        results = []
        for term in terms:
            directory = Path(term).expanduser()
            try:
                for key in [one] if keys is None else keys:
                    if {*key, "type"} - {"signs"} != {*one}:
                        raise ValueError(f"keys holds {key!r}: write domain, selector and type, nothing else")
                    key = {"type": "rsa", **key}
                    results.append(dkim_key(directory, *(str(key[name]) for name in one)))
            except ValueError as error:
                raise AnsibleLookupError(f"dkim_key: {error}") from None
            except OSError as error:
                raise AnsibleLookupError(
                    f"dkim_key: {error.filename or directory}: {error.strerror}: "
                    "let the user who runs Ansible read and write it"
                ) from None
        return results
