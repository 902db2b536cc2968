"""A certificate that cannot serve, or cannot be asked for, is refused with the reason before a host is touched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID

from filter_plugins.certificates import FilterModule, acme_updates, certificate_problems, file_problems
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
    found = file_problems(str(files[0]), str(files[1]), names, now)
    assert found
    return [line.replace(f"{files[0].parent}/", "") for line in found]


def test_good_files_have_no_problem(files: tuple[Path, Path]) -> None:
    assert file_problems(str(files[0]), str(files[1]), NAMES, NOW) == []
    assert file_problems(str(files[0]), str(files[1]), ["MAIL.Example.com"], NOW) == []
    assert file_problems(str(files[0]), str(files[1]), [], NOW) == []


def test_missing_files_are_both_named(tmp_path: Path) -> None:
    assert problems((tmp_path / "a", tmp_path / "b")) == [
        "a: No such file or directory: correct the path, or let the user who runs Ansible read it",
        "b: No such file or directory: correct the path, or let the user who runs Ansible read it",
    ]


def test_a_file_is_not_named(files: tuple[Path, Path]) -> None:
    found = file_problems(str(files[0]), "", NAMES, NOW)
    assert found == ["the name of a file is empty: set both certificate_chain_file and certificate_key_file"]


def test_a_user_that_there_is_not() -> None:
    (first, _) = file_problems("~nobody-of-that-name/a", "", NAMES, NOW)
    assert first.startswith("~nobody-of-that-name/a: No such user: ")


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


def test_a_key_that_openssl_would_refuse(tmp_path: Path) -> None:
    """Postfix and Dovecot of Debian load none, and Internet.nl counts it against the host."""

    def found(bits: int) -> list[str]:
        key = rsa.generate_private_key(65537, bits)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAMES[0])])
        made = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(NAMES[0])]), critical=False)
        files = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
        files[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        return file_problems(str(files[0]), str(files[1]), NAMES[:1], NOW + timedelta(hours=1))

    assert found(2048) == []
    (line,) = found(1024)
    assert line.endswith(".pem has an RSA key of 1024 bits, which Debian's OpenSSL refuses: take 2048 or more")


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
        assert file_problems(str(files[0]), str(files[1]), [name], NOW) == []
    else:
        assert problems(files, [name]) == [f"chain is not valid for {name}: have one issued that names them, too"]


@pytest.mark.parametrize("complete", [False, True])
def test_a_chain_without_its_intermediate(tmp_path: Path, complete: bool) -> None:
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer, subject = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("CA", "mail"))

    def builder(name: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(public).serial_number(1)
        return made.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))

    where = x509.AccessDescription(
        AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("http://ca.example/ca.crt")
    )
    leaf = (
        builder(subject, key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("mail.example.com")]), critical=False)
        .add_extension(x509.AuthorityInformationAccess([where]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    intermediate = builder(issuer, root_key.public_key()).sign(root_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    files[0].write_bytes(leaf.public_bytes(pem) + (intermediate.public_bytes(pem) if complete else b""))
    files[1].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    found = file_problems(str(files[0]), str(files[1]), ["mail.example.com"], NOW)
    assert [line.partition(" ")[2] for line in found] == (
        []
        if complete
        else ["lacks the certificate of its issuer: append it, or give the file named fullchain.pem or alike"]
    )


HOST = "mail.example.com"
ACME: dict[str, Any] = {
    "inventory_hostname": HOST,
    "certificate_mode": "acme",
    "acme_email": "postmaster@example.com",
    "acme_terms_agreed": True,
}
ZONES: list[dict[str, Any]] = [
    {"name": "com", "server": "192.0.2.52", "key_name": "all", "key_file": "/all"},
    {"name": "example.com", "server": "192.0.2.53", "port": 5353, "key_name": "mailroom", "key_file": "/key"},
    {"name": "example.org", "server": "ns.example.org", "key_name": "mailroom", "key_file": "/key"},
]


def told(zones: object = ZONES, **changes: object) -> list[str]:
    found = certificate_problems([ACME | changes], zones, now=NOW)
    assert all(line.startswith(f"{HOST}: ") for line in found)
    return [line.removeprefix(f"{HOST}: ") for line in found]


def test_nothing_is_wrong_with_what_is_usual() -> None:
    assert certificate_problems([{"inventory_hostname": HOST}], None) == []
    assert certificate_problems(iter([ACME]), None) == []
    assert told(acme_challenge="dns-01") == []
    assert certificate_problems(None) == []


def test_the_names_of_policies_are_names_of_the_certificate(files: tuple[Path, Path]) -> None:
    host = {
        "inventory_hostname": NAMES[0],
        "certificate_mode": "files",
        "certificate_chain_file": str(files[0]),
        "certificate_key_file": str(files[1]),
    }
    assert certificate_problems([host], None, {"other.example.com": ["mta-sts.example.com"]}, NOW) == []
    (problem,) = certificate_problems([host], None, {NAMES[0]: ["mta-sts.example.com"]}, NOW)
    assert "is not valid for mta-sts.example.com" in problem


def test_the_next_key_is_one_and_another(files: tuple[Path, Path]) -> None:
    chain, key = map(str, files)
    host = {
        "inventory_hostname": NAMES[0],
        "certificate_mode": "files",
        "certificate_chain_file": chain,
        "certificate_key_file": key,
    }

    def problem(file: str) -> str:
        return " ".join(certificate_problems([{**host, "certificate_next_key_file": file}], now=NOW))

    assert problem(f"{files[0].parent}/ca/{NAMES[0]}.key.next") == ""
    assert "is certificate_key_file: give the key of the next certificate" in problem(key)
    assert f"{chain} is no private key in PEM form without passphrase" in problem(chain)
    assert "No such file or directory" in problem(f"{key}.next")


def test_each_mail_host_is_told_of_its_own_files(files: tuple[Path, Path]) -> None:
    good = {
        "inventory_hostname": HOST,
        "certificate_mode": "files",
        "certificate_chain_file": str(files[0]),
        "certificate_key_file": str(files[1]),
    }
    other = good | {"inventory_hostname": "mx.example.com", "certificate_key_file": "/nowhere"}
    assert certificate_problems([good, other], None, now=NOW) == [
        "mx.example.com: /nowhere: No such file or directory: correct the path, or let the user who runs Ansible "
        "read it",
        f"mx.example.com: {files[0]} is not valid for mx.example.com: have one issued that names them, too",
    ]


def test_all_that_acme_lacks_is_told_at_once() -> None:
    facts = {"port_80": "nginx"}
    assert told(
        acme_email=None,
        acme_terms_agreed="yes",
        acme_directory="http://acme.example/dir",
        certificate_names=[HOST, "192.0.2.25"],
        ansible_facts=facts,
    ) == [
        "acme_email: the authority wants a mail address for urgent news: give one",
        "acme_terms_agreed: read the authority's terms of service, then write acme_terms_agreed: true",
        "acme_directory: is no URL of an ACME directory: write https:// and the rest, as its authority says",
        "certificate_names: 192.0.2.25 is an address, and only names are asked for with acme: remove it",
        "port 80 is taken by nginx: stop it, or write acme_challenge: dns-01",
    ]
    assert told(acme_challenge="dns-01", ansible_facts=facts) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"certificate_mode": "acne"}, "certificate_mode: 'acne' cannot be: use one of private, files, acme"),
        ({"acme_challenge": "tls"}, "acme_challenge: 'tls' cannot be: use one of http-01, dns-01"),
        (
            {"certificate_names": "a.example"},
            "certificate_names: is no list of names: write one per line, each after '- '",
        ),
        ({"certificate_ca_file": "/nowhere"}, "/nowhere: No such file or directory: correct the path, or let the user"),
        ({"acme_directory": "https://["}, "acme_directory: is no URL of an ACME directory"),
        (
            {"acme_challenge": "dns-01", "acme_key": "key"},
            "acme_key: is no key: give key_name, key_algorithm, key_file",
        ),
        (
            {"acme_challenge": "dns-01", "acme_key": {"secret": "x"}},
            "acme_key: is no key: give key_name, key_algorithm",
        ),
        (
            {"acme_challenge": "dns-01", "acme_key": {"key_name": "a", "key_file": "/nowhere"}},
            "acme_key: /nowhere cannot be read: write the key's secret into it, mode 0600",
        ),
        (
            {"acme_challenge": "dns-01", "certificate_names": ["mail.example.net"]},
            "dns-01 needs a zone that has mail.example.net: add it to dns_records_zones, or write",
        ),
        (
            {"acme_challenge": "dns-01", "certificate_names": [HOST, "mail.example.org"]},
            "dns-01 needs the address of the name server of example.org: write it as the zone's server",
        ),
        (
            {"acme_challenge": "dns-01", "certificate_names": [HOST, "example.com.com"]},
            "dns-01 takes one name server and one key, and mail.example.com, example.com.com have several",
        ),
    ],
)
def test_what_cannot_be_is_told(changes: dict[str, object], problem: str) -> None:
    (line,) = told(**changes)
    assert line.startswith(problem)


def test_a_file_of_authorities_holds_one(files: tuple[Path, Path]) -> None:
    (line,) = told(certificate_ca_file=str(files[0]))
    assert line == f"{files[0]} holds several certificates: certificate_ca_file is that of one authority"
    (line,) = told(certificate_ca_file=str(files[1]))
    assert line == f"{files[1]} holds no certificate in PEM form: give the authority's as certificate_ca_file"


def test_a_key_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("c2VjcmV0")
    own = {"key_name": "acme", "key_algorithm": "hmac-sha512", "key_file": str(file)}
    assert told(acme_challenge="dns-01", acme_key=own) == []
    assert told(acme_challenge="dns-01", acme_key={"key_file": str(file)}) == [
        "acme_key: key_name is missing: give the name of the TSIG key"
    ]
    assert acme_updates([HOST], ZONES, own) == {"server": "192.0.2.53", "port": 5353, **own}


def test_the_nearest_zone_has_the_record() -> None:
    assert FilterModule().filters()["acme_updates"]([HOST, "example.com"], ZONES, {}) == {
        "server": "192.0.2.53",
        "port": 5353,
        "key_name": "mailroom",
        "key_algorithm": "hmac-sha256",
        "key_file": "/key",
    }
    assert acme_updates([f"x{HOST.removeprefix('mail.')}"], ZONES)["key_name"] == "all"
