"""What port 25 offers, asked of a small mail server on loopback that can be made weak."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from lookup_plugins.private_certificate import private_certificate
from module_utils import smtp_tls, tls_hello

NAME = "mail.example.com"
FFDHE2048 = """-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""


@contextmanager
def mail_server(context: ssl.SSLContext | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Something that knows EHLO, STARTTLS (without a context not even that) and QUIT, at the port that is asked."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"220 mail.example.com ESMTP\r\n")
        while (command := connection.recv(1000)[:4].upper()) not in (b"STAR", b"QUIT", b""):
            assert command == b"EHLO"
            connection.sendall(b"250-mail.example.com\r\n250 STARTTLS\r\n" if context else b"250 mail.example.com\r\n")
        connection.sendall(b"220 Go ahead\r\n" if command == b"STAR" else b"221 Bye\r\n")
        if context and command == b"STAR":
            with context.wrap_socket(connection, server_side=True) as session:
                while session.recv(1000):
                    session.sendall(b"221 Bye\r\n")

    def serve() -> None:
        with suppress(OSError):  # the listener is closed at the end
            while True:
                with listener.accept()[0] as connection, suppress(OSError):
                    connection.settimeout(10)
                    talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(smtp_tls, "PORT", int(listener.getsockname()[1]))
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def test_a_greeting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(None, monkeypatch):
        smtp_tls.greeting("127.0.0.1", 5)
    with pytest.raises(ConnectionRefusedError):
        smtp_tls.greeting("127.0.0.1", 5)


@pytest.fixture(scope="module")
def rsa_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate with an RSA key, by itself, and the key, in one file."""
    key = rsa.generate_private_key(65537, 2048)
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)]), datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
    file = tmp_path_factory.mktemp("rsa") / "pair.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private)
    return file


def look(name: str = NAME, ca_file: Path | str = "") -> smtp_tls.Offer:
    offer = smtp_tls.offered(name, ["127.0.0.1"], str(ca_file), 5)
    assert isinstance(offer, smtp_tls.Offer), offer
    return offer


def test_a_good_server_takes_nothing_weak_and_is_believed_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = private_certificate(tmp_path, [NAME], 90, datetime.now(UTC))
    (tmp_path / "pair.pem").write_text(made["chain"] + made["key"])
    (tmp_path / "own-ca.pem").write_text(made["ca"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    with mail_server(context, monkeypatch):
        offer = look(ca_file=tmp_path / "own-ca.pem")
        assert x509.load_der_x509_certificate(offer.certificate).subject
        assert offer == smtp_tls.Offer("TLSv1.3", certificate=offer.certificate)
        assert "Hostname mismatch" in look("mail.example.net", tmp_path / "own-ca.pem").distrust
        assert "unable to get local issuer certificate" in look().distrust


def weak(pair: Path, change: Callable[[ssl.SSLContext], None]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    change(context)
    return context


def old(context: ssl.SSLContext) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")


def with_dhe(context: ssl.SSLContext, directory: Path) -> None:
    (directory / "dh.pem").write_text(FFDHE2048)
    context.load_dh_params(str(directory / "dh.pem"))


def test_versions_that_are_too_old_are_seen(rsa_pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(weak(rsa_pair, old), monkeypatch):
        offer = look()
    assert offer.old
    assert offer.old.version == tls_hello.TLS_1_1
    assert "self-signed certificate" in offer.distrust


def test_key_exchanges_are_told_apart(rsa_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(weak(rsa_pair, lambda context: context.set_ciphers("kRSA")), monkeypatch):
        offer = look()
    assert offer.rsa
    assert (offer.rsa.version, offer.rsa.cipher in tls_hello.RSA) == (tls_hello.TLS_1_2, True)
    assert (offer.old, offer.dhe, offer.curve) == (None, None, None)
    with mail_server(weak(rsa_pair, lambda context: with_dhe(context, tmp_path)), monkeypatch):
        offer = look()
    assert offer.dhe
    assert offer.dhe.bits == 2048


def test_a_curve_that_is_not_in_use_any_longer_is_seen(
    rsa_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(context: ssl.SSLContext) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE:DHE:@SECLEVEL=0")
        context.set_ecdh_curve("secp224r1")
        with_dhe(context, tmp_path)

    with mail_server(weak(rsa_pair, change), monkeypatch):
        offer = look()
    assert offer.curve
    assert (offer.version, offer.curve.curve) == ("TLSv1.2", 21)


def test_tls_that_does_not_begin_is_told(rsa_pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(context: ssl.SSLContext) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("kRSA")  # which Python does not offer

    with mail_server(weak(rsa_pair, change), monkeypatch):
        assert "HANDSHAKE_FAILURE" in look().problem


def test_a_server_without_starttls_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(None, monkeypatch):
        assert look() == smtp_tls.Offer()


def test_why_a_server_cannot_be_looked_at_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setattr(smtp_tls, "PORT", int(closed.getsockname()[1]))
    reason = smtp_tls.offered(NAME, ["127.0.0.1"], "", 5)
    assert reason == f"127.0.0.1 port {smtp_tls.PORT}: [Errno 111] Connection refused"
    assert smtp_tls.offered(NAME, [], "", 5) == "it has no address"


def test_a_network_that_lets_nobody_out_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_tls, "PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent, socket.socket() as first:
        monkeypatch.setattr(smtp_tls, "PORT", int(silent.getsockname()[1]))
        first.connect(("127.0.0.1", smtp_tls.PORT))  # there is room for no other
        began = time.monotonic()
        assert smtp_tls.offered(NAME, ["127.0.0.1"], "", 5) == f"127.0.0.1 port {smtp_tls.PORT}: timed out"
        assert time.monotonic() - began < 4


@pytest.mark.parametrize("said", [b"", b"\x16\x03", b"\x16\x03\x03\x00\x04\x02\x00\x00\x50", b"\x16\x03\x03\x00\x00"])
def test_words_that_are_not_all_there_yet_are_waited_for(said: bytes) -> None:
    assert tls_hello.choice(said) == (None, False)


@pytest.mark.parametrize("said", [b"\x15\x03\x03\x00\x02\x02\x28", b"502 5.5.1 Error\r\n" + b"x" * 20000])
def test_a_refusal_is_nothing_chosen(said: bytes) -> None:
    assert tls_hello.choice(said) == (None, True)
