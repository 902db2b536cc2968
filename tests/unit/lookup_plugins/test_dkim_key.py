"""The kept DKIM keys."""

from __future__ import annotations

import base64
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from ansible.errors import AnsibleLookupError
from ansible.plugins.loader import lookup_loader
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from lookup_plugins.dkim_key import dkim_key


def make(
    directory: Path, domain: str = "example.com", selector: str = "mailroom1", algorithm: str = "rsa"
) -> dict[str, str]:
    return dkim_key(directory, domain, selector, algorithm)


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, passphrase: bytes = b"") -> bytes:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def test_public_half_verifies_what_the_private_half_signs(tmp_path: Path) -> None:
    pair = make(tmp_path)
    private = serialization.load_pem_private_key(pair["private"].encode(), None)
    public = serialization.load_der_public_key(base64.b64decode(pair["public"], validate=True))
    assert isinstance(private, rsa.RSAPrivateKey)
    assert isinstance(public, rsa.RSAPublicKey)
    assert private.key_size == 2048
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert spki == base64.b64decode(pair["public"])
    public.verify(private.sign(b"x", padding.PKCS1v15(), hashes.SHA256()), b"x", padding.PKCS1v15(), hashes.SHA256())


def test_an_ed25519_key_is_32_bytes_in_dns_and_for_the_daemon(tmp_path: Path) -> None:
    pair = make(tmp_path, algorithm="ed25519")
    private = ed25519.Ed25519PrivateKey.from_private_bytes(base64.b64decode(pair["private"]))
    public = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(pair["public"], validate=True))
    public.verify(private.sign(b"x"), b"x")
    assert make(tmp_path, algorithm="ed25519") == pair
    kept = serialization.load_pem_private_key((tmp_path / "example.com.mailroom1.key").read_bytes(), None)
    assert isinstance(kept, ed25519.Ed25519PrivateKey)
    assert kept.private_bytes_raw() == private.private_bytes_raw()


def test_a_kept_key_of_the_other_algorithm_is_an_error(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match="is no Ed25519 key"):
        make(tmp_path, algorithm="ed25519")
    with pytest.raises(ValueError, match="write one of rsa, ed25519"):
        make(tmp_path, algorithm="dsa")


def test_made_once_for_each_domain_and_selector(tmp_path: Path) -> None:
    first = make(tmp_path)
    assert make(tmp_path) == first
    assert make(tmp_path, "EXAMPLE.com") == first
    assert make(tmp_path, "erp.example.com") != first
    assert make(tmp_path, selector="mailroom2") != first
    assert make(tmp_path) == first
    assert (tmp_path / "example.com.mailroom1.key").read_text() == first["private"]


def test_nothing_is_readable_by_others(tmp_path: Path) -> None:
    make(tmp_path / "secrets" / "dkim")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_processes_at_once_make_one_key(tmp_path: Path) -> None:
    with ProcessPoolExecutor(6) as pool:
        results = list(pool.map(make, [tmp_path] * 6))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(rsa.generate_private_key(65537, 1024)),  # noqa: S505 -- too short on purpose
        pem(rsa.generate_private_key(65537, 2048), b"passphrase"),
    ],
    ids=["empty", "binary", "ec", "1024 bits", "passphrase"],
)
def test_unusable_key_is_an_error_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "example.com.mailroom1.key"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"example.com.mailroom1.key is no RSA key of 2048 bits") as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["", "a b", "../x", "a..b", "-a"])
def test_bad_domain_or_selector(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"^domain .* is no name in DNS"):
        make(tmp_path, domain=name)
    with pytest.raises(ValueError, match=r"^selector .* is no name in DNS"):
        make(tmp_path, selector=name)


def test_as_a_lookup(tmp_path: Path) -> None:
    lookup_loader.add_directory(str(Path(__file__).parents[3] / "lookup_plugins"))
    lookup = lookup_loader.get("dkim_key")
    assert lookup.run([str(tmp_path)], {}, domain="example.com", selector="mailroom1") == [make(tmp_path)]
    keys = [
        {"domain": "erp.example.com", "selector": "b"},
        {"domain": "example.com", "selector": "a", "type": "ed25519"},
    ]
    assert lookup.run([str(tmp_path)], {}, keys=keys) == [
        make(tmp_path, "erp.example.com", "b"),
        make(tmp_path, "example.com", "a", "ed25519"),
    ]
    assert lookup.run([str(tmp_path)], {}, keys=[]) == []
    with pytest.raises(AnsibleLookupError, match="write domain, selector and type, nothing else"):
        lookup.run([str(tmp_path)], {}, keys=[{"name": "example.com"}])
    with pytest.raises(AnsibleLookupError, match="domain '' is no name"):
        lookup.run([str(tmp_path)], {})
    (tmp_path / "file").write_text("")
    with pytest.raises(AnsibleLookupError, match=r"file.*: let the user who runs Ansible read and write it"):
        lookup.run([str(tmp_path / "file")], {}, domain="example.com", selector="mailroom1")
