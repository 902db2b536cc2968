# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The control node's client for Odoo's external API: XML-RPC (14 on) and JSON-2 (19 on), over one verified connection.

JSON-2 takes API keys only. It is used where the password is one, or where Odoo has no XML-RPC any more. Whatever Odoo,
or what stands before it, has against a call becomes one sentence with its remedy.

Standard library only: it runs wherever Ansible runs a module.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import re
import socket
import ssl
import time
import urllib.parse
import xml.parsers.expat
import xmlrpc.client
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

LONGEST_ANSWER = 32 << 20  # bytes; a real one has a few thousand
IDLE = 5  # seconds after which a server may have closed its end: it is not told from one that died over a call
FIRST_WITH_JSON2 = 19
API_KEY = re.compile(r"[0-9a-f]{40}")  # odoo/addons/base/models/res_users.py, API_KEY_SIZE
# Codes of XML-RPC faults, odoo/addons/base/controllers/rpc.py (19: addons/rpc/controllers/xmlrpc.py): the text of a
# refusal is a message for people, that of any other fault is a traceback.
FAULT_TRACEBACK, FAULT_LOGIN, FAULT_RIGHTS = 1, 3, 4
# What JSON-2 calls the arguments that XML-RPC takes by position; all other methods that we call take ids alone.
ARGUMENTS = {
    "create": ("vals_list",),
    "fields_get": ("allfields", "attributes"),
    "search_count": ("domain",),
    "search_read": ("domain",),
    "write": ("ids", "vals"),
}
STRANGER = "check the address"
NO_API = "check the address, the database's name, and that Odoo's module rpc is installed"
WANTS_KEY = "make an API key in that user's preferences in Odoo, and give it as password"


class OdooError(Exception):
    """What Odoo or the way to it has against a call: what, and what to do.

    `at` is the setting of the database that is to blame, `kind` what callers tell apart: the login was refused, it may
    not do this, or Odoo has no such model.
    """

    def __init__(
        self, text: str, cure: str = "see Odoo's log", at: str = "", kind: Literal["", "login", "rights", "model"] = ""
    ) -> None:
        super().__init__(" ".join(text.split()))
        self.cure, self.at, self.kind = cure, at, kind

    @property
    def refused(self) -> bool:
        """Whether it was the login that was refused."""
        return self.kind == "login"

    def line(self, where: str) -> str:
        """The problem on one line, for the database that is called `where`."""
        return f"{where}{'.' * bool(self.at)}{self.at}: {self}: {self.cure}"


class Odoo:
    """One database of one Odoo, used by one thread."""

    def __init__(self, url: str, database: str, ca_file: str | None = None, timeout: float = 20) -> None:
        """Prepare, not open, the connection.

        `timeout` is in seconds, for each whole answer; whoever sets `deadline` (time.monotonic()) has all answers come
        before that. Raises OdooError for an address that must not be used.
        """
        self.url = url
        self.database = database
        self.timeout = timeout
        self.deadline: float | None = None
        self._connection = _connection(url, ca_file)
        self._used = 0.0
        self._series = ""
        self._has_xmlrpc = True
        self._names_database = False  # whether each request says which database it is for
        self._login = self._password = self._key = ""
        self._uid = 0

    @classmethod
    def of(cls, settings: Mapping[str, Any], timeout: float) -> Odoo:
        """The database of an entry of `odoo_databases`. Raises OdooError for an address that must not be used."""
        name = str(settings.get("database") or settings["name"])
        return cls(str(settings["url"]), name, settings.get("ca_file"), timeout)

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        self._connection.close()

    def series(self) -> str:
        """The server's series, for instance 19.0 or saas~18.2; it is asked once. Raises OdooError."""
        if not self._series:
            info = self._ask_version()
            try:
                self._series = f"{info[0]}.{int(info[1])}"
            except (LookupError, TypeError, ValueError) as error:
                raise self._stranger() from error
        return self._series

    def version(self) -> int:
        """The major version of the server, for instance 19. Raises OdooError."""
        return int(re.sub(r"\D", "", self.series().partition(".")[0]) or 0)

    def _ask_version(self) -> Any:
        try:
            about = self._xmlrpc("common", "version")
            return about.get("server_version_info") if isinstance(about, dict) else None
        except _NoXmlrpc as error:
            with contextlib.suppress(_Redirected):  # to the page for logging in, as what Odoo does not know is
                status, answer = self._ask("GET", "/json/version")
                about = _json(answer)
                if status == http.HTTPStatus.OK and isinstance(about, dict):
                    self._has_xmlrpc = False
                    return about.get("version_info")
            if self._names_database:
                raise error from None
        # One whose server_wide_modules lack rpc has the API in its databases alone (odoo/http.py, _serve_nodb).
        self._names_database = True
        return self._ask_version()

    def log_in(self, login: str, password: str) -> None:
        """Log in with a password or an API key. Raises OdooError, `refused` when Odoo does not accept them."""
        has_json2 = self.version() >= FIRST_WITH_JSON2
        self._login, self._password, self._key, self._uid = login, password, "", 0
        if has_json2 and (API_KEY.fullmatch(password) or not self._has_xmlrpc):
            try:
                self.json2(password, "res.users", "context_get", {})
            except OdooError:
                if not self._has_xmlrpc:
                    raise
            else:
                self._key = password
                return
        try:
            uid = self._xmlrpc("common", "authenticate", self.database, login, password, {})
        except OdooError as error:
            if not error.refused:
                raise
            uid = False
        if isinstance(uid, bool) or not isinstance(uid, int):
            raise self._why_refused()
        self._uid = uid

    def _why_refused(self) -> OdooError:
        """Find out why the login is refused.

        The API says no more than that. The login form of people, which takes the password of an account with two-factor
        sign-in, tells (addons/web/controllers/session.py; 14: main.py).
        """
        refused, cure = f"Odoo refuses the login {self._login!r}", "check login and password"
        params = {"db": self.database, "login": self._login, "password": self._password}
        body = json.dumps({"jsonrpc": "2.0", "method": "call", "params": params}).encode()
        try:
            _, text = self._ask("POST", "/web/session/authenticate", body, {"Content-Type": "application/json"})
        except OdooError:
            return OdooError(refused, cure, "login", "login")
        answer = _json(text)
        if isinstance(answer, dict) and "result" in answer:
            return OdooError(f"{refused}: the account has two-factor sign-in", WANTS_KEY, "login", "login")
        try:
            reason = str(answer["error"]["data"]["message"])
        except (LookupError, TypeError):
            reason = ""
        if "Too many" in reason:
            return OdooError(
                f"{refused} ({reason.rstrip('.')})", "correct the password, wait a minute", "login", "login"
            )
        return OdooError(refused, cure, "login", "login")

    def call(self, model: str, method: str, *arguments: Any, timeout: float | None = None, **options: Any) -> Any:
        """Call a public method of a model as the user logged in. Raises OdooError."""
        if self._key:
            named = zip(ARGUMENTS.get(method, ("ids",)), arguments, strict=True)
            return self.json2(self._key, model, method, {**dict(named), **options}, timeout)
        login = (self.database, self._uid, self._password)
        return self._xmlrpc("object", "execute_kw", *login, model, method, arguments, options, timeout=timeout)

    def create(self, model: str, values: Mapping[str, Any], **options: Any) -> int:
        """Make a record and return its id. Raises OdooError."""
        (identity,) = self.call(model, "create", [dict(values)], **options)
        return int(identity)

    def search_read(self, model: str, domain: Sequence[Any], fields: Sequence[str], **options: Any) -> list[Any]:
        """The records of a model as dicts, archived ones too, by id unless `order` says otherwise. Raises OdooError."""
        options = {"order": "id", "context": {"active_test": False}, **options}
        return list(self.call(model, "search_read", list(domain), fields=list(fields), **options))

    def fields(self, wanted: Mapping[str, Iterable[str]]) -> frozenset[tuple[str, str]]:
        """Which of the wanted fields there are, as (model, field), all in one question. Raises OdooError."""
        names = sorted({name for fields in wanted.values() for name in fields})
        domain = [["model", "in", list(wanted)], ["name", "in", names]]
        rows = self.search_read("ir.model.fields", domain, ["model", "name"])
        return frozenset((row["model"], row["name"]) for row in rows)

    def json2(self, key: str, model: str, method: str, body: Mapping[str, Any], timeout: float | None = None) -> Any:
        """Call a method over JSON-2 (19 on) with an API key.

        Raises OdooError, `refused` when the key is not accepted.
        """
        headers = {
            "Authorization": f"bearer {key}",
            "Content-Type": "application/json",
            "X-Odoo-Database": self.database,
        }
        status, answer = self._ask("POST", f"/json/2/{model}/{method}", json.dumps(body).encode(), headers, timeout)
        value = _json(answer)
        if status == http.HTTPStatus.OK:
            return value
        message = str(value.get("message") or "") if isinstance(value, dict) else ""
        if not message:
            raise self._http_error(status)
        if status == http.HTTPStatus.UNAUTHORIZED:
            raise OdooError(f"Odoo refuses the API key ({message})", WANTS_KEY, "login", "login")
        if status == http.HTTPStatus.FORBIDDEN:
            raise self._no_rights(model, "" if key == self._key else "the key's user")
        if status == http.HTTPStatus.NOT_FOUND and "does not exist" in message and repr(model) in message:
            raise _no_model(model)
        raise OdooError(message)

    def _xmlrpc(self, service: str, method: str, *arguments: Any, timeout: float | None = None) -> Any:
        body = xmlrpc.client.dumps(arguments, method).encode()
        status, answer = self._ask("POST", f"/xmlrpc/2/{service}", body, {"Content-Type": "text/xml"}, timeout)
        if status == http.HTTPStatus.NOT_FOUND:
            text = f"{self.url} has no external API (HTTP 404)"
            raise _NoXmlrpc(text, NO_API, "url")
        if status != http.HTTPStatus.OK:
            raise self._http_error(status)
        try:
            values, _ = xmlrpc.client.loads(answer)
        except xmlrpc.client.Fault as fault:
            model = str(arguments[3]) if service == "object" else ""
            raise self._fault(fault, model) from fault
        except (xml.parsers.expat.ExpatError, xmlrpc.client.ResponseError, ValueError) as error:
            raise self._stranger(answer) from error
        return values[0]

    def _fault(self, fault: xmlrpc.client.Fault, model: str) -> OdooError:
        lines = [line for line in str(fault.faultString).splitlines() if line.strip()] or [f"fault {fault.faultCode}"]
        if fault.faultCode == FAULT_LOGIN:
            return OdooError(lines[-1], "check login and password", "login", "login")
        if fault.faultCode == FAULT_RIGHTS:
            return self._no_rights(model)
        if f"Object {model} doesn't exist" in lines[-1]:  # odoo/service/model.py
            return _no_model(model)
        if f'database "{self.database}" does not exist' in lines[-1]:
            return OdooError(f"Odoo has no database {self.database!r}", "check the name", "name")
        return OdooError(lines[-1][:200] if fault.faultCode == FAULT_TRACEBACK else " ".join(lines))

    def _no_rights(self, model: str, user: str = "") -> OdooError:
        cure = "use one with the access right Administration: Settings"
        if not model.startswith(("ir.", "res.", "mail.", "fetchmail.")):
            cure = "give it access to the app"
        return OdooError(f"Odoo does not let {user or repr(self._login)} use {model}", cure, "login", "rights")

    def _http_error(self, status: int) -> OdooError:
        cure = "see the log of Odoo, or of the proxy before it"
        if status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
            cure = "let the proxy before Odoo pass this machine without a login of its own"
        if status == http.HTTPStatus.NOT_FOUND:
            cure = NO_API
        return OdooError(f"{self.url} answers HTTP {status} {http.client.responses.get(status, '')}", cure, "url")

    def _stranger(self, answer: bytes = b"") -> OdooError:
        page = answer.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))
        text = "answers with a web page, not like Odoo" if page else "does not answer like Odoo"
        return OdooError(f"{self.url} {text}", STRANGER, "url")

    def _ask(
        self,
        verb: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> tuple[int, bytes]:
        """Send a request, return status and body of the answer. Raises OdooError when there is none of Odoo's."""
        connection, seconds = self._connection, timeout or self.timeout
        headers = {**(headers or {}), **({"X-Odoo-Database": self.database} if self._names_database else {})}
        end = self.deadline or time.monotonic() + seconds
        if time.monotonic() - self._used > IDLE:
            connection.close()
        try:
            _hurry(connection, end)
            connection.request(verb, path, body or None, headers)
            response = connection.getresponse()
            answer = b""
            while chunk := response.read1(1 << 16):
                answer += chunk
                if len(answer) > LONGEST_ANSWER:
                    connection.close()
                    raise OdooError(f"{self.url} answers without end", STRANGER, "url")
                _hurry(connection, end)
            response.close()  # read1 leaves a finished answer open, and the connection could not be used again
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            connection.close()
            text, cure = _why(error, seconds)
            raise OdooError(f"{self.url} {text}", cure, "url") from error
        self._used = time.monotonic()
        if 300 <= response.status < 400:
            text = f"{self.url} redirects to {response.headers.get('Location')}"
            raise _Redirected(text, "give the address where it ends", "url")
        if response.status in {502, 503, 504}:
            text = f"{self.url} answers HTTP {response.status}: the proxy is there, Odoo is starting or down"
            raise OdooError(text, "start Odoo, or try again in a minute", "url")
        return response.status, answer


class _NoXmlrpc(OdooError):
    """There is no XML-RPC at the address."""


class _Redirected(OdooError):
    """What was asked for is said to be elsewhere."""


def _connection(url: str, ca_file: str | None) -> http.client.HTTPConnection:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port  # not None below, or the end of an IPv6 address is taken for one
    except ValueError as error:
        raise OdooError(f"{url} is no address ({error})", "write https://name or https://name:port", "url") from error
    if parts.scheme == "https":
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except ssl.SSLError as error:
            raise OdooError(f"{ca_file} holds no certificate", "name a PEM file", "ca_file") from error
        except OSError as error:
            cure = "name a PEM file on the control node"
            raise OdooError(f"{ca_file}: {error.strerror}", cure, "ca_file") from error
        return http.client.HTTPSConnection(host, port or 443, context=context)
    if parts.scheme == "http" and is_loopback(host):
        return http.client.HTTPConnection(host, port or 80)
    raise OdooError(f"{url} would send the password unencrypted", "use https://", "url")


def is_loopback(host: str) -> bool:
    """Whether a URL's host can only be this machine, so that nothing goes over a network."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hurry(connection: http.client.HTTPConnection, end: float) -> None:
    """Give the next step on the socket no more than the time that is left. Raises TimeoutError."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.timeout = left
    if connection.sock is not None:
        connection.sock.settimeout(left)


def _no_model(model: str) -> OdooError:
    return OdooError(f"Odoo has no model {model}", "install its app, or correct the name", kind="model")


def _json(text: bytes) -> Any:
    """A JSON text's value; None for what is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _why(error: Exception, seconds: float) -> tuple[str, str]:
    """Why there is no answer, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message.rstrip(".")
        if "mismatch" in reason:
            return f"shows a certificate for another name ({reason})", "use the name it is for"
        return f"shows a certificate that is not trusted ({reason})", "name its authority's file in ca_file"
    if isinstance(error, ssl.SSLError):
        return f"does not speak TLS properly ({error.reason or error})", "check the port"
    if isinstance(error, TimeoutError):
        cure = "check the address, the firewall and that Odoo is not overloaded"
        return f"does not answer within {seconds:g} s", cure
    if isinstance(error, socket.gaierror | UnicodeError):
        return "has a host name without an address", "check its spelling and the DNS of the control node"
    if isinstance(error, OSError):
        reason = (error.strerror or "connection closed").lower()
        return f"does not answer ({reason})", "check the address and that Odoo runs there"
    return f"does not answer like Odoo ({type(error).__name__})", STRANGER
