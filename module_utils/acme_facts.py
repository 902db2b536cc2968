"""What a mail host knows of the certificate that an ACME authority has issued to it, and of its keys."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

RENEWAL = Path("etc/letsencrypt/renewal/mailroom.conf")
PAIR = Path("etc/mailroom/tls/pair.pem")  # the key in use, then the certificate
NEXT_KEY = Path("etc/mailroom/tls/next.key")  # what will take its place


def acme_facts(root: Path = Path("/")) -> dict[str, object]:
    """The facts of mail_host_facts about it: `acme_certificate`, `acme_account` and `tls_keys`."""
    renewal = root / RENEWAL
    digests = [_digest(root / file) for file in (PAIR, NEXT_KEY)] if (root / NEXT_KEY).exists() else []
    return {
        "acme_certificate": renewal.exists(),
        "acme_account": _account(renewal),
        "tls_keys": digests if all(digests) else [],
    }


def make_next_key(root: Path = Path("/")) -> bool:
    """Make the key that comes after the one in use, whole or not at all; say whether it was missing."""
    file = root / NEXT_KEY
    if file.exists():
        return False
    temporary = file.with_name(f".{file.name}.new")
    temporary.unlink(missing_ok=True)
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as made:
        subprocess.run(command, stdout=made, check=True)  # noqa: S603 - fixed
        os.fsync(made.fileno())
    temporary.replace(file)
    return True


def _digest(file: Path) -> str:
    """SHA-256 of a private key's SubjectPublicKeyInfo in hexadecimal, "" for a file without a key."""
    command = ["openssl", "pkey", "-in", str(file), "-pubout", "-outform", "DER"]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - fixed
    return hashlib.sha256(done.stdout).hexdigest() if done.returncode == 0 else ""


def _account(renewal: Path) -> str:
    """The URL by which the authority knows the account, "" when there is none (certbot's files)."""
    try:
        known = dict(re.findall(r"^(account|server) = (?:https://)?(\S+)$", renewal.read_text(), re.MULTILINE))
        registration = renewal.parent.parent / "accounts" / known["server"] / known["account"] / "regr.json"
        return str(json.loads(registration.read_text())["uri"])
    except (OSError, KeyError, TypeError, ValueError):
        return ""
