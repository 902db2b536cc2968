"""Access tokens for a mailbox (RFC 6749): by a refresh token (section 6) or by the client's own right (section 4.4).

An access token is kept in memory and in the state directory until shortly before it expires. A refresh token that the
endpoint replaces is on the disk before its access token is used, and is the one asked with from then on: Microsoft's
end 90 days after they were made, each with a new one in its stead. It counts until the configuration changes, so that
a person who authorises again is heard.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import http.client
import json
import os
import re
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import durable, tls
from .config import Mailbox, OAuth
from .trouble import Denied, Unavailable, one_line

MARGIN = 300
"""Seconds before its end from which on an access token is not used any more."""
TIMEOUT = 30
"""Seconds to wait for the endpoint at any one moment."""
LONGEST = 1_000_000
"""Bytes of an answer that are read."""
LATER = ("temporarily_unavailable", "server_error", "slow_down")
"""Errors of the endpoint that pass by themselves (RFC 6749, section 4.1.2.1; RFC 8628, section 3.5)."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """What is kept of one answer; empty and 0 where there is none. `expires_at` is Unix time."""

    access_token: str = ""
    expires_at: int = 0
    refresh_token: str = ""


class Tokens:
    """The access tokens of one mailbox."""

    def __init__(
        self,
        mailbox: Mailbox,
        oauth: OAuth,
        state_directory: Path,
        secret: Callable[[str], str],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Read the secrets by their names. Raises Misconfigured."""
        self._oauth = oauth
        self._now = now
        self._where = f"mailbox {mailbox.name}: access token from {oauth.token_url}"
        self._directory = durable.directory(state_directory / "tokens" / mailbox.name)
        self._path = self._directory / "token.json"
        self._client_secret = secret(oauth.client_secret) if oauth.client_secret else ""
        self._refresh_token = secret(oauth.refresh_token) if oauth.refresh_token else ""
        told = [*dataclasses.astuple(oauth), mailbox.login, self._client_secret, self._refresh_token]
        self._configured = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        self._asked = False

    @property
    def asked(self) -> bool:
        """Whether the last token came from the endpoint just now: asking again would give no better one."""
        return self._asked

    def token(self, refused: str = "") -> str:
        """An access token, other than the one that a server has just refused.

        Raises Unavailable, Denied and Misconfigured.
        """
        with self._alone():
            kept = self._read()
            self._asked = not kept.access_token or kept.access_token == refused or kept.expires_at <= self._now()
            if self._asked:
                kept = self._ask(kept)
                self._write(kept)
            return kept.access_token

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let nobody else ask meanwhile, since some endpoints take a refresh token only once. See state.lock."""
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> Kept:
        """What is kept under the present configuration; a file that cannot be understood holds nothing."""
        try:
            table = json.loads(self._path.read_bytes())
            if table["configured"] != self._configured:
                return Kept()
            return Kept(str(table["access_token"]), int(table["expires_at"]), str(table["refresh_token"]))
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return Kept()

    def _write(self, kept: Kept) -> None:
        table = {"version": 1, "configured": self._configured, **dataclasses.asdict(kept)}
        durable.replace(self._path, json.dumps(table).encode())

    def _ask(self, kept: Kept) -> Kept:
        """Ask the endpoint."""
        form = {"grant_type": self._oauth.grant, "client_id": self._oauth.client_id}
        if self._oauth.grant == "refresh_token":
            form["refresh_token"] = kept.refresh_token or self._refresh_token
        if self._client_secret:
            form["client_secret"] = self._client_secret
        if self._oauth.scope:
            form["scope"] = self._oauth.scope
        status, answer = self._post(urllib.parse.urlencode(form).encode())
        try:
            value = json.loads(answer)
        except ValueError:
            value = None
        if status != 200 or not isinstance(value, dict):
            raise self._refusal(status, value if isinstance(value, dict) else {})
        token = str(value.get("access_token") or "")
        if str(value.get("token_type")).lower() != "bearer" or not re.fullmatch("[!-~]+", token):
            raise Denied(f"{self._where}: no bearer token in its answer: check token_url and scope")
        try:
            lasts = int(value.get("expires_in") or 0)
        except (TypeError, ValueError):
            lasts = 0  # then it serves this once
        rotated = str(value.get("refresh_token") or kept.refresh_token)
        return Kept(token, int(self._now()) + lasts - MARGIN, rotated if self._refresh_token else "")

    def _refusal(self, status: int, value: Mapping[str, Any]) -> Unavailable | Denied:
        """What an answer without a token means (RFC 6749, section 5.2)."""
        code = one_line(value.get("error") or "")
        said = f"{self._where}: HTTP {status}: " + one_line(value.get("error_description") or code or "no token in it")
        if status in (200, 408, 425, 429) or status >= 500 or code in LATER:
            return Unavailable(f"{said}: mail waits, the next run tries again")
        if code == "invalid_grant":
            what = f"secret {self._oauth.refresh_token!r}" if self._oauth.refresh_token else "client"
            return Denied(f"{said}: a person must authorise again: renew the {what}")
        return Denied(f"{said}: check token_url, client_id, client_secret and scope")

    def _post(self, body: bytes) -> tuple[int, bytes]:
        """One request on a connection of its own; a redirect is not followed, it would take the secrets elsewhere."""
        parts = urllib.parse.urlsplit(self._oauth.token_url)
        host = parts.hostname or ""
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = tls.context(self._oauth.ca_file)
            connection = http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT, context=context)
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        try:
            connection.request("POST", target, body, headers)
            response = connection.getresponse()
            return response.status, response.read(LONGEST)
        except ssl.SSLCertVerificationError as error:
            raise Denied(
                f"{self._where}: its certificate is not trusted: {error.verify_message}: name its authority in ca_file"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            text = one_line(error) or type(error).__name__
            raise Unavailable(f"{self._where}: {text}: mail waits, the next run tries again") from error
        finally:
            connection.close()
