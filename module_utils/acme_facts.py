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
FORMER_KEY = Path("etc/mailroom/tls/former.key")  # what it has taken the place of, while a daemon may still show that
LIVE = Path("etc/letsencrypt/live/mailroom")
_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----\n", re.DOTALL)


def acme_facts(root: Path = Path("/")) -> dict[str, object]:
    """The facts of mail_host_facts about it: `acme_certificate`, `acme_account` and `tls_keys`."""
    renewal = root / RENEWAL
    files = [root / file for file in (PAIR, NEXT_KEY)]
    digests = [_digest(file) for file in files] if files[1].exists() else []
    former = _digest(root / FORMER_KEY) if (root / FORMER_KEY).exists() else ""
    return {
        "acme_certificate": renewal.exists(),
        "acme_account": _account(renewal),
        "tls_keys": [*digests, *filter(None, [former])] if all(digests) else [],
    }


def make_next_key(root: Path = Path("/")) -> bool:
    """Make the key that comes after the one in use, if it is missing or that very one; say whether it was."""
    file = root / NEXT_KEY
    if file.exists() and _digest(file) != _digest(root / PAIR):
        return False
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    _replace(file, subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)  # noqa: S603 - fixed
    return True


def take_next_key(root: Path = Path("/")) -> None:
    """Have certbot, which reuses the key it has, make the next certificate from the next key; keep the one in use."""
    _replace(root / FORMER_KEY, _key(root / PAIR))
    _replace((root / LIVE / "privkey.pem").resolve(), _key(root / NEXT_KEY))


def is_torn(root: Path = Path("/")) -> bool:
    """Say whether certbot's key and certificate do not belong together, as when no certificate came of the next key."""
    return _digest(root / LIVE / "privkey.pem") != _digest_of_certificate(root)


def mend(root: Path = Path("/")) -> None:
    """Give certbot the key of the certificate it has back."""
    wanted = _digest_of_certificate(root)
    for file in (root / PAIR, root / NEXT_KEY, root / FORMER_KEY):
        if wanted and file.exists() and _digest(file) == wanted:
            _replace((root / LIVE / "privkey.pem").resolve(), _key(file))
            break


def forget_former_key(root: Path = Path("/")) -> None:
    """Delete the former key: no daemon shows it."""
    (root / FORMER_KEY).unlink(missing_ok=True)


def _key(file: Path) -> bytes:
    """The private key in a file, as it stands there. Raises ValueError when there is none."""
    found = _KEY.search(file.read_bytes())
    if not found:
        raise ValueError(f"{file} holds no private key")
    return found[0]


def _replace(file: Path, content: bytes) -> None:
    """Write a file as a whole or not at all, mode 0600."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
        written.write(content)
        written.flush()
        os.fsync(written.fileno())
    temporary.replace(file)


def _digest_of_certificate(root: Path) -> str:
    """The same as `_digest` of the certificate that certbot has."""
    file = root / LIVE / "fullchain.pem"
    command = ["openssl", "x509", "-in", str(file), "-noout", "-pubkey"]
    shown = subprocess.run(command, capture_output=True, check=False).stdout  # noqa: S603 - fixed
    command = ["openssl", "pkey", "-pubin", "-outform", "DER"]
    done = subprocess.run(command, input=shown, capture_output=True, check=False)  # noqa: S603 - fixed
    return hashlib.sha256(done.stdout).hexdigest() if done.returncode == 0 else ""


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
