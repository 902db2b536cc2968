# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A small client for Odoo's external API: XML-RPC (14 on) and JSON-2 (19 on), over one verified connection.

Standard library only: it runs wherever Ansible runs a module.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import ssl
import urllib.parse
import xml.parsers.expat
import xmlrpc.client
from collections.abc import Sequence
from typing import Any

# Codes of XML-RPC faults (19: addons/rpc/controllers/xmlrpc.py): the text of a warning or refusal is a message for
# people, that of any other fault is a traceback.
FAULT_TRACEBACK, FAULT_DENIED = 1, 3


class OdooError(Exception):
    """What Odoo or the way to it says against a call, on one line; `refused` when it was the login."""

    def __init__(self, text: str, refused: bool = False) -> None:
        super().__init__(" ".join(text.split()))
        self.refused = refused


class Odoo:
    """One database of one Odoo, used by one thread."""

    def __init__(self, url: str, database: str, ca_file: str | None = None, timeout: float = 20) -> None:
        """Prepare, not open, the connection.

        `timeout` is in seconds, for each answer. Raises OdooError for an address that must not be used.
        """
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        self.database = database
        self.timeout = timeout
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            try:
                context = ssl.create_default_context(cafile=ca_file)
            except OSError as error:
                raise OdooError(f"ca_file {ca_file} cannot be read ({error.strerror}): correct it") from error
            self._connection = http.client.HTTPSConnection(host, parts.port, context=context)
        elif parts.scheme == "http" and _is_loopback(host):
            self._connection = http.client.HTTPConnection(host, parts.port)
        else:
            raise OdooError(f"{url} would send the password unencrypted: use https://")
        self._uid = 0
        self._password = ""

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        self._connection.close()

    def version(self) -> int:
        """The major version of the server, for instance 19. Raises OdooError."""
        info = self._xmlrpc("common", "version")["server_version_info"][0]
        return int(re.sub(r"\D", "", str(info)) or 0)

    def log_in(self, login: str, password: str) -> None:
        """Log in with a password or an API key. Raises OdooError, `refused` when Odoo does not accept them."""
        uid = self._xmlrpc("common", "authenticate", self.database, login, password, {})
        if not uid:
            raise OdooError(f"Odoo refuses the login {login}", refused=True)
        self._uid, self._password = uid, password

    def call(self, model: str, method: str, *arguments: Any, timeout: float | None = None, **options: Any) -> Any:
        """Call a public method of a model over XML-RPC as the user logged in. Raises OdooError."""
        login = (self.database, self._uid, self._password)
        return self._xmlrpc("object", "execute_kw", *login, model, method, arguments, options, timeout=timeout)

    def search_read(self, model: str, domain: Sequence[Any], fields: Sequence[str], **options: Any) -> list[Any]:
        """The records of a model as dicts, archived ones too, by id unless `order` says otherwise. Raises OdooError."""
        options = {"order": "id", "context": {"active_test": False}, **options}
        return list(self.call(model, "search_read", list(domain), fields=list(fields), **options))

    def json2(self, key: str, model: str, method: str, body: dict[str, Any]) -> Any:
        """Call a method over JSON-2 (19 on) with an API key.

        Raises OdooError, `refused` when the key is not accepted.
        """
        headers = {
            "Authorization": f"bearer {key}",
            "Content-Type": "application/json",
            "X-Odoo-Database": self.database,
        }
        status, answer = self._post(f"/json/2/{model}/{method}", json.dumps(body).encode(), headers)
        try:
            value = json.loads(answer)
        except ValueError:
            value = {}
        if status == http.HTTPStatus.OK:
            return value
        message = value.get("message") if isinstance(value, dict) else ""
        raise OdooError(
            f"HTTP {status}: {message or 'no reason given'}", refused=status == http.HTTPStatus.UNAUTHORIZED
        )

    def _xmlrpc(self, service: str, method: str, *arguments: Any, timeout: float | None = None) -> Any:
        body = xmlrpc.client.dumps(arguments, method).encode()
        status, answer = self._post(f"/xmlrpc/2/{service}", body, {"Content-Type": "text/xml"}, timeout)
        if status != http.HTTPStatus.OK:
            raise OdooError(f"Odoo answers HTTP {status}: is it up, with its module rpc?")
        try:
            values, _ = xmlrpc.client.loads(answer)
        except xmlrpc.client.Fault as fault:
            lines = str(fault.faultString).strip().splitlines() or [f"fault {fault.faultCode}"]
            text = lines[-1] if fault.faultCode == FAULT_TRACEBACK else " ".join(lines)
            raise OdooError(text, refused=fault.faultCode == FAULT_DENIED) from fault
        except (xml.parsers.expat.ExpatError, xmlrpc.client.ResponseError, ValueError) as error:
            raise OdooError("it does not answer like Odoo: check the address") from error
        return values[0]

    def _post(self, path: str, body: bytes, headers: dict[str, str], timeout: float | None = None) -> tuple[int, bytes]:
        """Send a request, return status and body of the answer. Raises OdooError when there is none."""
        connection = self._connection
        connection.timeout = timeout or self.timeout
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise OdooError(_why(error, connection.timeout)) from error


def _is_loopback(host: str) -> bool:
    """Whether a URL's host can only be this machine, so that nothing goes over a network."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _why(error: Exception, seconds: float | None) -> str:
    """Say with the remedy why there is no answer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message}): name its authority's file in ca_file"
    if isinstance(error, TimeoutError):
        return f"no answer within {seconds:.0f} s: check the address, the firewall and that Odoo is not overloaded"
    reason = getattr(error, "strerror", None) or type(error).__name__
    return f"no answer ({reason}): check the address and that Odoo runs there"
