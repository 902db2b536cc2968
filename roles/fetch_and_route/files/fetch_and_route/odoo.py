"""Odoo's gateway action over HTTPS: JSON-2 from Odoo 19 on, XML-RPC before.

One call carries many messages, each as base64 of its bytes, and answers a verdict for each:

    context = {"mailroom": {"version": 1, "messages": [{"id", "message_id", "thread", "raw"}]}}
    answer = {"mailroom": {"version": 1, "verdicts": [{"id", "verdict", "model", "res_id", "reason"}]}}

Once a message failed, the action does not try the later ones of the same `thread` in that call: their verdict is retry.
With "find": [Message-IDs] in the context, "found" in the answer has [{"message_id", "mail_message_id", "model",
"res_id"}] of those that Odoo has; that changes nothing there. Nor does "addresses": true, upon which "addresses" in the
answer has [local part, domain] of all that Odoo has a use for, with an empty domain for each of the database's. An
answer that is anything else is never taken as done.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import json
import re
import ssl
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit
from xml.parsers.expat import ExpatError

from . import tls
from .config import Database
from .message import Prepared
from .routing import WORDS, Verdict, Word
from .trouble import Denied, Trouble, Unavailable, one_line

CONNECT_TIMEOUT = 15
"""Seconds to wait for a connection."""
CONFLICT = re.compile(
    r"SerializationFailure|DeadlockDetected|LockNotAvailable|could not serialize access|deadlock detected|lock timeout"
)
"""What Odoo passes on of PostgreSQL's answers 40001, 40P01 and 55P03 (odoo/service/model.py, PG_CONCURRENCY_ERRORS)."""
BUSY = (408, 409, 423, 425, 429, 502, 503, 504)
"""HTTP answers that say: not now."""


class Broken(Trouble):
    """A call died and nobody knows how far it came: connection lost, timeout, exception, an answer we cannot read."""

    exit_code = 75


class TooBig(Broken):
    """Odoo or a proxy in front of it does not take so many bytes (HTTP 413)."""


class Known(NamedTuple):
    """A message that Odoo has: its Message-ID, the number of its mail.message, its record (`model/id`, or empty)."""

    message_id: str
    number: int
    record: str


class Conflict(Broken):
    """Odoo gave a call up because others were at the same records, however often it tried: nobody's fault."""


class OdooGateway:
    """One keep-alive connection to the gateway action of a database."""

    def __init__(self, config: Database, key: str) -> None:
        """Prepare; nothing is connected before the first call. Raises Denied while there is no gateway action."""
        self._config = config
        self._database = config.database or config.name
        self._key = key
        self._where = f"database {config.name} at {config.url}"
        if not config.action:
            raise Denied(f"{self._where}: there is no gateway action yet: run the roles odoo_mail and fetch_and_route")
        self._base = urlsplit(config.url).path.rstrip("/")
        self._http: http.client.HTTPConnection | None = None
        self._uid = 0

    def close(self) -> None:
        """End the connection."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def ping(self) -> None:
        """Ask for no verdicts. Raises Unavailable when Odoo cannot serve us now, Denied when it will not."""
        try:
            self.route([])
        except Broken as error:
            raise Unavailable(f"{error}: mail waits, the next run tries again") from error

    def route(self, messages: Sequence[Prepared]) -> list[Verdict]:
        """Hand messages over; one verdict for each, in their order. Raises Unavailable, Denied and Broken."""
        answer = self._call(messages)
        try:
            found = {str(item["id"]): _verdict(item) for item in answer["mailroom"]["verdicts"]}
        except (TypeError, KeyError, AttributeError) as error:
            raise Broken(f"{self._where}: not an answer of the gateway action: {one_line(repr(answer))}") from error
        missing = Verdict("error", reason="Odoo's answer has no verdict for this message")
        return [found.get(str(number), missing) for number in range(len(messages))]

    def find(self, message_ids: Sequence[str]) -> list[Known]:
        """Ask where Odoo has these messages, oldest first; it changes nothing there. Raises Unavailable and Denied."""
        try:
            answer = self._call((), find=list(message_ids))
        except Broken as error:
            raise Unavailable(str(error)) from error
        try:
            return [
                Known(str(item["message_id"]), int(item["mail_message_id"]), _record(item))
                for item in answer["mailroom"]["found"]
            ]
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise Denied(f"{self._where}: the gateway action does not know this: run the role odoo_mail") from error

    def addresses(self) -> list[tuple[str, str]]:
        """Ask which addresses Odoo has a use for: (local part, domain), an empty domain for each of the database's.

        It changes nothing there. Raises Unavailable, Denied and Broken.
        """
        answer = self._call((), addresses=True)
        try:
            found = [(str(name), str(domain)) for name, domain in answer["mailroom"]["addresses"]]
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            text = "the gateway action does not know which addresses there are: run the role odoo_mail"
            raise Broken(f"{self._where}: {text}") from error
        if not found:
            raise Broken(f"{self._where}: has not a single address, not even the catchall: run the role odoo_mail")
        return found

    def _call(self, messages: Sequence[Prepared], **more: Any) -> Any:
        call = self._call_json2 if self._config.protocol == "json2" else self._call_xmlrpc
        return call(messages, {"version": 1, **more})

    def _call_json2(self, messages: Sequence[Prepared], asked: Mapping[str, Any]) -> Any:
        start = f'{json.dumps(asked)[:-1]}, "messages": ['
        body = [f'{{"ids": [{self._config.action}], "context": {{"mailroom": {start}'.encode()]
        for number, message in enumerate(messages):
            start = (
                f'{"," if number else ""}{{"id": "{number}", "message_id": {json.dumps(message.message_id)}, '
                f'"thread": "{message.thread or ""}", "raw": "'
            )
            body += [start.encode(), base64.b64encode(message.raw), b'"}']
        headers = {
            "Authorization": f"bearer {self._key}",
            "Content-Type": "application/json",
            "X-Odoo-Database": self._database,
        }
        status, answer = self._post("/json/2/ir.actions.server/run", headers, [*body, b"]}}}"])
        try:
            value = json.loads(answer)
        except ValueError as error:
            raise Broken(f"{self._where}: HTTP {status}, not JSON: {_excerpt(answer)}") from error
        if status == 200:
            return value
        reason = value.get("message") if isinstance(value, dict) else value
        name = str(value.get("name")) if isinstance(value, dict) else ""
        kind = Conflict if CONFLICT.search(f"{name} {reason}") else Broken
        raise kind(f"{self._where}: HTTP {status}: {one_line(reason)}")

    def _call_xmlrpc(self, messages: Sequence[Prepared], asked: Mapping[str, Any]) -> Any:
        login: tuple[Any, ...] = (self._database, self._config.login, self._key, {})
        self._uid = self._uid or self._xmlrpc("common", "authenticate", login)
        if not self._uid:
            raise Denied(f"{self._where}: refuses the login {self._config.login!r}: {self._remedy}")
        batch = [
            {
                "id": str(number),
                "message_id": message.message_id,
                "thread": str(message.thread or ""),
                "raw": base64.b64encode(message.raw).decode(),
            }
            for number, message in enumerate(messages)
        ]
        context = {"mailroom": {**asked, "messages": batch}}
        arguments = [[self._config.action]]
        call = (self._database, self._uid, self._key, "ir.actions.server", "run", arguments, {"context": context})
        return self._xmlrpc("object", "execute_kw", call)

    def _xmlrpc(self, service: str, method: str, arguments: tuple[Any, ...]) -> Any:
        body = xmlrpc.client.dumps(arguments, method).encode()
        status, answer = self._post(f"/xmlrpc/2/{service}", {"Content-Type": "text/xml"}, [body])
        try:
            return cast(Any, xmlrpc.client.loads(answer)[0])[0]
        except xmlrpc.client.Fault as fault:
            text = one_line(fault.faultString.strip().rpartition("\n")[2])  # the last line of a traceback
            if fault.faultCode in (3, 4):  # odoo/addons/base/controllers/rpc.py: access denied, access error
                raise Denied(f"{self._where}: {text}: {self._remedy}") from fault
            kind = Conflict if CONFLICT.search(fault.faultString) else Broken
            raise kind(f"{self._where}: {text}") from fault
        except (xmlrpc.client.Error, ExpatError, ValueError, LookupError, TypeError) as error:
            raise Broken(f"{self._where}: HTTP {status}, not XML-RPC: {_excerpt(answer)}") from error

    def _post(self, path: str, headers: Mapping[str, str], body: Sequence[bytes]) -> tuple[int, bytes]:
        """Post once; only a kept connection that turns out to be closed is tried a second time, on a new one.

        To ask twice is safe: Odoo answers `duplicate` for what it has.
        """
        headers = {**headers, "Content-Length": str(sum(map(len, body)))}
        while True:
            kept = self._http is not None and self._http.sock is not None
            connection = self._connect()
            try:
                connection.request("POST", self._base + path, iter(body), headers)
                response = connection.getresponse()
                answer = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if kept and isinstance(error, (ConnectionError, http.client.RemoteDisconnected)):
                    continue
                text = one_line(error) or type(error).__name__
                raise Broken(f"{self._where}: the call was cut off: {text}") from error
        self._check(response.status, answer, response.headers)
        return response.status, answer

    def _connect(self) -> http.client.HTTPConnection:
        """The kept connection, or a new one. Raises Unavailable, Denied and Misconfigured."""
        if self._http is not None and self._http.sock is not None:
            return self._http
        parts = urlsplit(self._config.url)
        host = parts.hostname or ""
        if parts.scheme == "https":
            context = tls.context(self._config.ca_file)
            self._http = http.client.HTTPSConnection(host, parts.port, timeout=CONNECT_TIMEOUT, context=context)
        else:
            self._http = http.client.HTTPConnection(host, parts.port, timeout=CONNECT_TIMEOUT)
        try:
            self._http.connect()
            self._http.sock.settimeout(self._config.timeout)
            return self._http
        except ssl.SSLCertVerificationError as error:
            raise Denied(
                f"{self._where}: its certificate is not trusted: {error.verify_message}: name its authority in ca_file"
            ) from error
        except OSError as error:
            text = one_line(error.strerror or error)
            raise Unavailable(f"{self._where}: cannot connect: {text}: mail waits, the next run tries again") from error

    def _check(self, status: int, answer: bytes, headers: http.client.HTTPMessage) -> None:
        """Raise for HTTP answers that say all by their number."""
        where = f"{self._where}: HTTP {status}"
        if status in BUSY:
            wait = retry_after(headers.get("Retry-After", ""), time.time())
            raise Unavailable(f"{where}: mail waits, the next run tries again", wait)
        if status == 413:
            raise TooBig(f"{where}: too big for Odoo or the proxy before it")
        if 300 <= status < 400:
            raise Denied(f"{where}: it points to {headers.get('Location')}: write that address as the database's url")
        if status == 404:  # also while Odoo cannot reach PostgreSQL (odoo/http.py, RegistryError)
            raise Unavailable(
                f"{where}: Odoo has no such database, or its PostgreSQL is away: mail waits, the next run tries again; "
                f"if this stays, check the url and the database's name, and the protocol {self._config.protocol}"
            )
        if status in (401, 403):
            raise Denied(f"{where}: {_excerpt(answer)}: {self._remedy}")

    @property
    def _remedy(self) -> str:
        return "run the roles odoo_mail and fetch_and_route, which renew the key and the rights"


def retry_after(value: str, now: float) -> int:
    """Seconds to wait by a Retry-After header: a number of them or a date (RFC 9110, section 10.2.3); else 0."""
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return int(value)
    try:
        return max(0, int(email.utils.parsedate_to_datetime(value).timestamp() - now))
    except (ValueError, TypeError, OverflowError):
        return 0


def _verdict(item: Mapping[str, Any]) -> Verdict:
    """Read one verdict of the answer. Raises KeyError and TypeError when it is none."""
    word, reason = item["verdict"], one_line(item.get("reason") or "")
    if word not in WORDS:
        return Verdict("error", reason=f"Odoo's answer has an unknown verdict {one_line(word)!r}")
    return Verdict(cast(Word, word), _record(item), reason)


def _record(item: Mapping[str, Any]) -> str:
    return f"{item['model']}/{item['res_id']}" if item.get("model") and item.get("res_id") else ""


def _excerpt(answer: bytes) -> str:
    """What an answer says, in one line: the message of an Odoo error (JSON), else its beginning."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return one_line(json.loads(answer)["message"])
    return one_line(answer[:200].decode(errors="replace")) or "(it said nothing)"
