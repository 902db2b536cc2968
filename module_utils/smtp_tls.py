"""What a mail server offers and takes on port 25 as to TLS, and which certificate it shows (RFC 3207)."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from module_utils import tls_hello
else:
    from ansible.module_utils import tls_hello

PORT = 25
PATIENCE = 2.0  # seconds until a connection stands; networks that let nobody out say nothing
_MOST = 65536  # bytes of a server's first words
_OFFERS = {
    "old": (tls_hello.TLS_1_1, (*tls_hello.ECDHE, *tls_hello.DHE, *tls_hello.RSA), tls_hello.GROUPS),
    "rsa": (tls_hello.TLS_1_2, tls_hello.RSA, tls_hello.GROUPS),
    "dhe": (tls_hello.TLS_1_2, tls_hello.DHE, tls_hello.GROUPS),
    "curve": (tls_hello.TLS_1_2, tls_hello.ECDHE, tls_hello.OLD_CURVES),
}


@dataclass(frozen=True)
class Offer:
    """What port 25 offers.

    version: what it chooses when it may have any, "" when it offers no STARTTLS, or, as `problem` says, TLS fails.
    certificate: DER. distrust: why nobody who knows the authorities would believe it, "" when they would. old: what it
    chose when offered no more than TLS 1.1; rsa, dhe, curve: when offered only exchanges of keys by RSA, by DHE, or by
    curves that are in use no longer. None: nothing.
    """

    version: str = ""
    problem: str = ""
    certificate: bytes = b""
    distrust: str = ""
    old: tls_hello.Choice | None = None
    rsa: tls_hello.Choice | None = None
    dhe: tls_hello.Choice | None = None
    curve: tls_hello.Choice | None = None


def offered(host: str, addresses: Iterable[str], ca_file: str, timeout: float) -> Offer | str:
    """Answer what the first address that answers offers, or why none does.

    host: the name that the certificate has to have. ca_file: of the authorities, "" for those of this machine.
    timeout: seconds that an answer may take.
    """
    problem = "it has no address"
    for address in addresses:
        try:
            return _offered(host, address, ca_file, timeout)
        except (OSError, EOFError, smtplib.SMTPException) as error:
            problem = f"{address} port {PORT}: {str(error) or 'closed'}"
    return problem


def greeting(address: str, timeout: float) -> None:
    """Wait until an address greets on port 25. Raises OSError, SMTPException."""
    with contextlib.closing(_Session(address, PORT, timeout=timeout)) as session:
        session.quit()


def _offered(host: str, address: str, ca_file: str, timeout: float) -> Offer:
    anybody = ssl.create_default_context()  # for DANE, authorities do not matter: the certificate itself is looked at
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    try:
        version, certificate = _shown(address, timeout, anybody, None)
    except smtplib.SMTPNotSupportedError:
        return Offer()
    except ssl.SSLError as error:
        return Offer(problem=error.reason or str(error))
    distrust = ""
    try:
        _shown(address, timeout, ssl.create_default_context(cafile=ca_file or None), host)
    except ssl.SSLCertVerificationError as error:
        distrust = error.verify_message
    chosen = {what: _chosen(address, timeout, *offer) for what, offer in _OFFERS.items()}
    return Offer(version, "", certificate, distrust, **chosen)


def _shown(address: str, timeout: float, context: ssl.SSLContext, name: str | None) -> tuple[str, bytes]:
    """Answer the version of TLS and the certificate in a session that begins and ends as it has to."""
    with _starting(address, timeout) as connection, context.wrap_socket(connection, server_hostname=name) as session:
        found = session.version() or "", session.getpeercert(binary_form=True) or b""
        session.sendall(b"QUIT\r\n")
        with contextlib.suppress(OSError):
            session.recv(1024)
    return found


def _chosen(
    address: str, timeout: float, version: int, ciphers: Sequence[int], groups: Sequence[int]
) -> tls_hello.Choice | None:
    """Answer what the server chooses of what it is offered; None when it takes nothing."""
    with _starting(address, timeout) as connection:
        connection.sendall(tls_hello.client_hello(version, ciphers, groups))
        said, found, over = b"", None, False
        while not over and len(said) < _MOST:
            part = connection.recv(4096)
            said += part
            found, over = tls_hello.choice(said)
            over = over or not part
    return found


class _Session(smtplib.SMTP):
    """A session that waits for the connection less long than for the greeting, which postscreen holds back."""

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connection = socket.create_connection((host, port), min(timeout, PATIENCE))
        connection.settimeout(timeout)
        return connection


@contextlib.contextmanager
def _starting(address: str, timeout: float) -> Iterator[socket.socket]:
    """Hold a connection on which TLS is to begin. Raises OSError, SMTPException."""
    with contextlib.closing(_Session(address, PORT, timeout=timeout)) as session:
        session.ehlo_or_helo_if_needed()
        if not session.has_extn("starttls"):
            session.quit()
            raise smtplib.SMTPNotSupportedError("no STARTTLS")
        code, text = session.docmd("STARTTLS")
        if code != 220 or session.sock is None:
            raise smtplib.SMTPResponseException(code, text)
        yield session.sock
