"""TLS as every connection of the program uses it: certificate and name are always verified."""

import socket
import ssl

from .trouble import Misconfigured


class Missing(Exception):
    """A server leaves no way to TLS; the text says how."""


def context(ca_file: str) -> ssl.SSLContext:
    """Trust one authority, or those the system trusts when `ca_file` is empty. Raises Misconfigured."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:  # ssl.SSLError is one, too
        raise Misconfigured(
            f"{ca_file}: {error.strerror or error}: put the authority's certificate (PEM) there"
        ) from error


def wrap(plain: socket.socket, trust: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    """Speak TLS on a connection, with the host whose name is in the certificate. Raises OSError; closes it then."""
    try:
        return trust.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise
