"""TLS as every connection of the program uses it: certificate and name are always verified."""

import ssl

from .trouble import Misconfigured


def context(ca_file: str) -> ssl.SSLContext:
    """Trust one authority, or those the system trusts when `ca_file` is empty. Raises Misconfigured."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:  # ssl.SSLError is one, too
        raise Misconfigured(
            f"{ca_file}: {error.strerror or error}: put the authority's certificate (PEM) there"
        ) from error
