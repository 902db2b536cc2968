"""What a mail host says of the certificate that was issued to it; with the openssl of this machine."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from module_utils.acme_facts import FORMER_KEY, NEXT_KEY, PAIR, RENEWAL, acme_facts, make_next_key

NOTHING = {"acme_certificate": False, "acme_account": "", "tls_keys": []}
SERVER = "acme.example/directory"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host with a certificate, as certbot leaves it."""
    for file, text in {
        RENEWAL: f"version = 4.0.0\n[renewalparams]\naccount = 0123ab\nserver = https://{SERVER}\n",
        Path("etc/letsencrypt/accounts") / SERVER / "0123ab/regr.json": '{"body": {}, "uri": "https://acme.example/7"}',
        PAIR: "",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    make_next_key(tmp_path)
    (tmp_path / NEXT_KEY).replace(tmp_path / PAIR)
    return tmp_path


def digest(file: Path) -> str:
    public = load_pem_private_key(file.read_bytes(), None).public_key()
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def test_a_host_without_one_says_so(tmp_path: Path) -> None:
    assert acme_facts(tmp_path) == NOTHING


def test_account_and_keys_are_told(host: Path) -> None:
    assert acme_facts(host) == {"acme_certificate": True, "acme_account": "https://acme.example/7", "tls_keys": []}
    assert make_next_key(host)
    assert acme_facts(host)["tls_keys"] == [digest(host / PAIR), digest(host / NEXT_KEY)]
    assert stat.S_IMODE((host / NEXT_KEY).stat().st_mode) == 0o600


def test_a_next_key_is_kept(host: Path) -> None:
    make_next_key(host)
    before = acme_facts(host)
    assert not make_next_key(host)
    assert acme_facts(host) == before


def test_a_former_key_is_told_of_last(host: Path) -> None:
    make_next_key(host)
    former = digest(host / PAIR)
    (host / PAIR).replace(host / FORMER_KEY)
    (host / PAIR).write_bytes((host / NEXT_KEY).read_bytes())
    used = digest(host / PAIR)
    assert acme_facts(host)["tls_keys"] == [used, used, former]
    assert make_next_key(host)
    assert acme_facts(host)["tls_keys"] == [used, digest(host / NEXT_KEY), former]


@pytest.mark.parametrize(
    "text", ["", "account = 0123ab\n", "account = other\nserver = https://acme.example/directory\n"]
)
def test_what_certbot_does_not_say_is_not_known(host: Path, text: str) -> None:
    (host / RENEWAL).write_text(text)
    assert acme_facts(host)["acme_account"] == ""


def test_keys_that_are_none_are_not_told(host: Path) -> None:
    make_next_key(host)
    (host / PAIR).write_text("no key\n")
    assert acme_facts(host)["tls_keys"] == []
