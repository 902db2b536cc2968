"""The private authority and its certificates, judged by OpenSSL as Python's ssl module uses it."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
import threading
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible.errors import AnsibleLookupError
from ansible.plugins.loader import lookup_loader
from cryptography import x509

from lookup_plugins.private_certificate import private_certificate

NOW = datetime.now(UTC)
NAMES = ["mail.example.com", "192.0.2.25", "2001:db8::25"]


def issue(directory: Path, names: list[str] = NAMES, days: int = 397, now: datetime = NOW) -> dict[str, str]:
    return private_certificate(directory, names, days, now)


def load(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def handshake(pair: dict[str, str], directory: Path, name: str) -> None:
    """Do a TLS handshake for name as the strictest client does; raise ssl.SSLError if it does not trust the server."""
    (directory / "pair").write_text(pair["key"] + pair["chain"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "pair")
    client = ssl.create_default_context(cadata=pair["ca"])
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(10)
        right.settimeout(10)

        def serve() -> None:
            try:
                server.wrap_socket(right, server_side=True).close()
            except OSError:
                right.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            client.wrap_socket(left, server_hostname=name).close()
        finally:
            left.close()
            thread.join()


@pytest.mark.parametrize("name", NAMES)
def test_strict_client_accepts_every_name(tmp_path: Path, name: str) -> None:
    handshake(issue(tmp_path), tmp_path, name)


def test_client_refuses_another_name(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mail2"):
        handshake(issue(tmp_path), tmp_path, "mail2.example.com")


def test_second_call_returns_the_same(tmp_path: Path) -> None:
    assert issue(tmp_path) == issue(tmp_path)


def test_other_names_give_another_certificate_from_the_same_authority(tmp_path: Path) -> None:
    first, second = issue(tmp_path), issue(tmp_path, ["mail.example.com", "imap.example.com"])
    assert first["ca"] == second["ca"]
    assert first["chain"] != second["chain"]
    assert first["key"] == second["key"]
    handshake(second, tmp_path, "imap.example.com")


def test_two_hosts_have_their_own_certificates(tmp_path: Path) -> None:
    first, second = issue(tmp_path), issue(tmp_path, ["odoo.example.com"])
    assert issue(tmp_path) == first
    assert second["chain"] != first["chain"]


@pytest.mark.parametrize(("days_later", "renewed"), [(366, False), (368, True), (500, True)])
def test_renewed_30_days_before_its_end(tmp_path: Path, days_later: int, renewed: bool) -> None:
    first = issue(tmp_path)
    second = issue(tmp_path, now=NOW + timedelta(days=days_later))
    assert (second["chain"] != first["chain"]) is renewed
    assert second["ca"] == first["ca"]


def test_new_authority_gives_a_new_certificate(tmp_path: Path) -> None:
    first = issue(tmp_path)
    (tmp_path / "ca.pem").unlink()
    (tmp_path / "ca.key").unlink()
    second = issue(tmp_path)
    assert second["chain"] != first["chain"]
    handshake(second, tmp_path, NAMES[0])


def test_authority_is_renewed_with_its_key_before_it_ends(tmp_path: Path) -> None:
    first = issue(tmp_path)
    later = issue(tmp_path, now=NOW + timedelta(days=3650 - 396))
    assert load(later["ca"]).not_valid_after_utc > load(later["chain"]).not_valid_after_utc
    assert load(later["ca"]).public_key() == load(first["ca"]).public_key()
    # An Odoo that has not got the renewed authority yet still trusts the new certificate.
    load(later["chain"]).verify_directly_issued_by(load(first["ca"]))


def test_authority_outlives_a_long_certificate(tmp_path: Path) -> None:
    pair = issue(tmp_path, days=9000)
    assert load(pair["ca"]).not_valid_after_utc > load(pair["chain"]).not_valid_after_utc
    assert issue(tmp_path, days=9000) == pair


@pytest.mark.parametrize("damage", ["missing", "empty", "foreign"])
@pytest.mark.parametrize("name", ["mail.example.com.pem", "mail.example.com.key"])
def test_a_damaged_pair_is_made_again(tmp_path: Path, name: str, damage: str) -> None:
    kept = tmp_path / "ca"
    first = issue(kept)
    if damage == "missing":
        (kept / name).unlink()
    elif damage == "empty":
        (kept / name).write_bytes(b"")
    else:
        issue(tmp_path / "other")
        shutil.copy(tmp_path / "other" / name, kept / name)
    second = issue(kept)
    assert second["chain"] != first["chain"]
    handshake(second, tmp_path, NAMES[0])


def test_crash_between_the_authoritys_key_and_certificate(tmp_path: Path) -> None:
    first = issue(tmp_path)
    (tmp_path / "ca.pem").unlink()
    load(issue(tmp_path)["ca"]).verify_directly_issued_by(load(first["ca"]))


def test_without_names_only_the_authority(tmp_path: Path) -> None:
    pair = issue(tmp_path, [])
    assert (pair["chain"], pair["key"]) == ("", "")
    assert load(pair["ca"]).subject.rfc4514_string() == "CN=Mailroom private CA"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "ca.key", "ca.pem"]


def test_nothing_is_readable_by_others(tmp_path: Path) -> None:
    issue(tmp_path / "secrets" / "ca")
    modes = {path.relative_to(tmp_path): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {mode for path, mode in modes.items() if (tmp_path / path).is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if (tmp_path / path).is_file()} == {0o600}


def test_processes_at_once_make_one_of_each(tmp_path: Path) -> None:
    with ProcessPoolExecutor(6) as pool:
        results = list(pool.map(issue, [tmp_path] * 6))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("name", ["", "a b", "-a.example.com", "*.example.com", "a..example.com", "a/b", "x" * 254])
def test_bad_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="neither a host name nor an IP address"):
        issue(tmp_path, [name])


def test_name_that_would_overwrite_the_authority(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another name first"):
        issue(tmp_path, ["CA", "mail.example.com"])


def test_too_few_days(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="days is 30"):
        issue(tmp_path, days=30)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ca.key", b"\xff\n", "ca.key is no PEM private key"),
        ("ca.pem", b"\xff\n", "ca.pem is no PEM certificate"),
        ("ca.key", None, "ca.key is missing"),
    ],
)
def test_broken_authority_is_an_error_and_left_alone(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    issue(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message) as caught:
        issue(tmp_path)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_key_of_another_authority(tmp_path: Path) -> None:
    issue(tmp_path / "one")
    issue(tmp_path / "two")
    shutil.copy(tmp_path / "two" / "ca.key", tmp_path / "one" / "ca.key")
    with pytest.raises(ValueError, match="does not belong to"):
        issue(tmp_path / "one")


def test_as_a_lookup(tmp_path: Path) -> None:
    lookup_loader.add_directory(str(Path(__file__).parents[3] / "lookup_plugins"))
    lookup = lookup_loader.get("private_certificate")
    assert lookup.run([str(tmp_path)], {}, names=NAMES) == [issue(tmp_path)]
    (tmp_path / "file").write_text("")
    with pytest.raises(AnsibleLookupError, match=r"file.*: let the user who runs Ansible read and write it"):
        lookup.run([str(tmp_path / "file")], {}, names=NAMES)
