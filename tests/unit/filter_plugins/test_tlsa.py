"""Which keys TLSA records tell of: the one in use and the next, or nothing."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from filter_plugins.tlsa import renewable_keys, tlsa_keys
from lookup_plugins.private_certificate import private_certificate

NAME = "mail.example.com"
NEW = ec.generate_private_key(ec.SECP256R1())
NEW_DIGEST = hashlib.sha256(NEW.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, str]:
    """The private authority with the host's certificate, and the digest of its key."""
    made = private_certificate(tmp_path, [NAME], 397, datetime.now(UTC))
    leaf = x509.load_pem_x509_certificate(made["chain"].encode())
    der = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return tmp_path, hashlib.sha256(der).hexdigest()


def keys(directory: Path, **host: Any) -> list[Any]:
    return list(tlsa_keys([{"inventory_hostname": NAME, **host}], str(directory)))


def new_key(file: Path) -> Path:
    file.write_bytes(NEW.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file


def test_the_certificate_in_use_and_the_next_key_are_told_of(authority: tuple[Path, str]) -> None:
    directory, current = authority
    (found,) = keys(directory, certificate_names=[NAME.upper(), "mta-sts.example.com"])
    assert found["host"] == NAME
    assert found["digests"][0] == current
    assert len(set(found["digests"])) == 2


def test_the_next_key_becomes_the_certificate_s(authority: tuple[Path, str]) -> None:
    directory, _ = authority
    ((_, following),) = [one["digests"] for one in keys(directory)]
    (directory / f"{NAME}.key.next").replace(directory / f"{NAME}.key")
    private_certificate(directory, [NAME], 397, datetime.now(UTC))
    ((current, another),) = [one["digests"] for one in keys(directory)]
    assert current == following
    assert another != following


def test_a_former_key_is_told_of_until_it_is_forgotten(authority: tuple[Path, str]) -> None:
    directory, former = authority
    key = directory / f"{NAME}.key"
    following = keys(directory)[0]["digests"][1]

    def renewable() -> list[Any]:
        return list(renewable_keys([{"inventory_hostname": NAME}], str(directory)))

    begun = {"host": NAME, "used": former, "following": following, "former": False, "file": str(key)}
    assert renewable() == [begun]
    key.with_name(f"{key.name}.former").write_bytes(key.read_bytes())
    assert renewable() == [begun]  # cut off between the two steps
    key.with_name(f"{key.name}.next").replace(key)
    assert keys(directory)[0]["digests"] == [following, former]
    assert renewable() == []  # until the next key is made
    private_certificate(directory, [NAME], 397, datetime.now(UTC))
    ((used, another, kept),) = [one["digests"] for one in keys(directory)]
    assert (used, kept) == (following, former)
    assert renewable() == [{**begun, "used": used, "following": another, "former": True}]


def test_an_issued_certificate_s_keys_can_be_renewed(tmp_path: Path) -> None:
    def renewable(*tls_keys: str, mode: str = "acme", issued: bool = True) -> list[Any]:
        facts = {"acme_certificate": issued, "tls_keys": list(tls_keys)}
        host = {"inventory_hostname": NAME, "certificate_mode": mode, "ansible_facts": facts}
        return list(renewable_keys([host], str(tmp_path)))

    found = {"host": NAME, "used": "aa", "following": "bb", "former": False, "file": ""}
    assert renewable("aa", "bb") == [found]
    assert renewable("aa", "bb", "cc") == [{**found, "former": True}]
    assert renewable("aa", "bb", "aa") == [found]
    assert renewable() == renewable("aa", "bb", issued=False) == renewable("aa", "bb", mode="files") == []


def test_own_files_need_a_next_key(tmp_path: Path, authority: tuple[Path, str]) -> None:
    directory, current = authority
    own = {"certificate_mode": "files", "certificate_key_file": f"{directory}/{NAME}.key"}
    assert keys(tmp_path, **own) == []
    following = new_key(tmp_path / "next.pem")
    (found,) = keys(tmp_path, **own, certificate_next_key_file=str(following))
    assert found["digests"] == [current, NEW_DIGEST]


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"acme_certificate": True, "tls_keys": ["aa", "bb"]}, [["aa", "bb"]]),
        ({"acme_certificate": True, "tls_keys": ["aa", "aa"]}, []),
        ({"acme_certificate": True, "tls_keys": []}, []),
        ({"acme_certificate": False, "tls_keys": ["aa", "bb"]}, []),
        (None, []),
    ],
)
def test_an_issued_certificate_s_keys_are_on_its_host(tmp_path: Path, facts: object, told: list[list[str]]) -> None:
    assert [one["digests"] for one in keys(tmp_path, certificate_mode="acme", ansible_facts=facts)] == told


def test_before_there_are_keys_nothing_is_told(tmp_path: Path) -> None:
    assert keys(tmp_path) == []
    assert keys(tmp_path, certificate_names=[]) == []


def test_what_is_no_key_is_named(authority: tuple[Path, str]) -> None:
    directory, _ = authority
    broken = directory / f"{NAME}.key.next"
    broken.write_text("nothing")
    with pytest.raises(ValueError, match=r"key\.next is no private key"):
        keys(directory)
    broken.write_bytes(NEW.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(ValueError, match=r"key\.next is no private key"):
        keys(directory)
