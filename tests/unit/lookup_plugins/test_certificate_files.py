"""A person's own certificate is refused, with the reason, before a host gets it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible.errors import AnsibleLookupError
from ansible.plugins.loader import lookup_loader
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lookup_plugins.certificate_files import certificate_files
from lookup_plugins.private_certificate import private_certificate

NOW = datetime.now(UTC)
NAMES = ["mail.example.com", "192.0.2.25"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    pair = private_certificate(tmp_path / "ca", NAMES, 397, NOW)
    chain, key = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
    chain.write_text(pair["chain"] + pair["ca"])
    key.write_text(pair["key"])
    return chain, key


def problems(files: tuple[Path, Path], names: list[str] = NAMES, now: datetime = NOW) -> list[str]:
    found = certificate_files(*files, names, now)
    assert found["problems"]
    assert (found["chain"], found["key"]) == ("", "")
    return [line.replace(f"{files[0].parent}/", "") for line in found["problems"]]


def test_good_files_are_passed_on_as_they_are(files: tuple[Path, Path]) -> None:
    expected = {"chain": files[0].read_text(), "key": files[1].read_text(), "problems": []}
    assert certificate_files(*files, NAMES, NOW) == expected
    assert certificate_files(*files, ["MAIL.Example.com"], NOW) == expected
    assert certificate_files(*files, [], NOW) == expected


def test_missing_files_are_both_named(tmp_path: Path) -> None:
    assert problems((tmp_path / "a", tmp_path / "b")) == [
        "a: No such file or directory: correct the path, or let the user who runs Ansible read it",
        "b: No such file or directory: correct the path, or let the user who runs Ansible read it",
    ]


def test_a_file_is_not_named(files: tuple[Path, Path]) -> None:
    found = certificate_files(files[0], Path(), NAMES, NOW)
    assert found["problems"] == [
        "the name of a file is empty: set both certificate_chain_file and certificate_key_file"
    ]


def test_files_the_other_way_round(files: tuple[Path, Path]) -> None:
    assert problems((files[1], files[0])) == [
        "privkey.pem holds no certificate in PEM form: give the file named fullchain.pem or alike",
        "fullchain.pem holds no private key in PEM form: give the key that belongs to privkey.pem",
    ]


def test_key_with_a_passphrase(files: tuple[Path, Path]) -> None:
    key = serialization.load_pem_private_key(files[1].read_bytes(), None)
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    assert problems(files) == ["privkey.pem has a passphrase: remove it (openssl pkey -in ... -out ...)"]


def test_all_problems_at_once(files: tuple[Path, Path]) -> None:
    other = private_certificate(files[0].parent / "other", NAMES, 397, NOW)
    files[1].write_text(other["key"])
    assert problems(files, ["mail.example.com", "mx.example.com", "192.0.2.26"], NOW + timedelta(days=398)) == [
        f"fullchain.pem expired on {NOW + timedelta(days=397):%Y-%m-%d}: renew it",
        "fullchain.pem is not valid for mx.example.com, 192.0.2.26: have one issued that names them, too",
        "privkey.pem does not belong to the first certificate in fullchain.pem: give its own key",
    ]


def test_not_valid_yet(files: tuple[Path, Path]) -> None:
    start = NOW - timedelta(hours=1)
    assert problems(files, now=NOW - timedelta(hours=2)) == [
        f"fullchain.pem is valid from {start:%Y-%m-%d %H:%M} UTC only: wait, or set the control node's clock"
    ]


def test_chain_in_the_wrong_order(files: tuple[Path, Path]) -> None:
    other = private_certificate(files[0].parent / "other", NAMES, 397, NOW)
    files[0].write_text(files[0].read_text() + other["chain"])
    assert problems(files) == ["fullchain.pem has certificates in the wrong order: number 3 did not issue number 2"]


@pytest.mark.parametrize(
    ("own", "name", "covered"),
    [
        ("*.example.com", "mail.example.com", True),
        ("*.EXAMPLE.com", "MAIL.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "a.mail.example.com", False),
        ("mail.example.com", "example.com", False),
        (None, "mail.example.com", False),
    ],
)
def test_names(tmp_path: Path, own: str | None, name: str, covered: bool) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.example.com")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
    )
    if own is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(own)]), critical=False)
    files = tmp_path / "chain", tmp_path / "key"
    files[0].write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    if covered:
        assert certificate_files(*files, [name], NOW)["chain"] == files[0].read_text()
    else:
        assert problems(files, [name]) == [f"chain is not valid for {name}: have one issued that names them, too"]


def test_as_a_lookup(files: tuple[Path, Path]) -> None:
    lookup_loader.add_directory(str(Path(__file__).parents[3] / "lookup_plugins"))
    lookup = lookup_loader.get("certificate_files")
    assert lookup.run([str(file) for file in files], {}, names=NAMES)[0]["key"] == files[1].read_text()
    (problem,) = lookup.run([str(file) for file in files], {}, names=["mx.example.com"])[0]["problems"]
    assert "is not valid for mx.example.com" in problem
    with pytest.raises(AnsibleLookupError, match=r"name two files"):
        lookup.run([str(files[0])], {}, names=[])
