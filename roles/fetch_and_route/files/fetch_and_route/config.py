"""The configuration: a TOML file becomes frozen dataclasses; whatever is not understood is an error.

Secrets are not in it but in files that it names: below $CREDENTIALS_DIRECTORY when systemd runs the program
(systemd.exec(5), LoadCredential=), else in `secrets` beside the configuration, which only root can read.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from .trouble import Misconfigured

DEFAULT_PATH = Path("/etc/fetch-and-route/config.toml")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PORTS = {("imap", "on_connect"): 993, ("imap", "starttls"): 143, ("pop3", "on_connect"): 995, ("pop3", "starttls"): 110}
STANDARD_PORT = -1
"""Stands for the one in PORTS; no configuration can say it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Database:
    """An Odoo database and the gateway action in it."""

    name: str
    """What logs and commands call it."""
    url: str
    """Where Odoo answers; https except on this very host."""
    protocol: Literal["json2", "xmlrpc"]
    """JSON-2 from Odoo 19 on, XML-RPC before."""
    login: str
    """The gateway's user."""
    key: str
    """Name of the secret that holds its API key."""
    action: int
    """Number of the gateway action (ir.actions.server); 0 while there is none."""
    database: str = ""
    """What Odoo calls it; empty: the same."""
    ca_file: str = ""
    """Authority that signed Odoo's certificate; empty: those the system trusts."""
    timeout: int = 300
    """Seconds that one call may take. Odoo itself stops a call after 120 unless told otherwise."""
    concurrency: int = 2
    """At most so many calls at the same time, all its mailboxes together."""
    domains: tuple[str, ...] = ()
    """Its mail domains, in lower case: the only ones that it may say which addresses there are in."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OAuth:
    """How access tokens for a mailbox are obtained (RFC 6749)."""

    token_url: str
    """The token endpoint; https except on this very host."""
    client_id: str
    """The program's name at the endpoint."""
    client_secret: str = ""
    """Name of the secret that holds the client's secret; empty for a public client, which has none."""
    refresh_token: str = ""
    """Name of the secret that holds the refresh token a person's authorisation gave."""
    scope: str = ""
    """What the token is to allow; empty: what the endpoint takes for granted."""
    grant: Literal["refresh_token", "client_credentials"] = "refresh_token"
    """On behalf of the person who authorised it (section 6), or of the client itself (section 4.4)."""
    ca_file: str = ""
    """Authority that signed the endpoint's certificate; empty: those the system trusts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mailbox:
    """A mailbox whose INBOX waits for a database."""

    name: str
    """What logs and commands call it."""
    database: str
    """Name of the database its mail goes to."""
    host: str
    """The server's name, as in its certificate."""
    login: str
    password: str = ""
    """Name of the secret that holds the password; empty with `oauth`."""
    address: str = ""
    """Where to connect; empty: to `host`. Lets a mail host reach itself without DNS; the name is verified anyway."""
    port: int = STANDARD_PORT
    ca_file: str = ""
    """Authority that signed the server's certificate; empty: those the system trusts."""
    timeout: int = 60
    """Seconds to wait for the server at any one moment."""
    inbox: str = "INBOX"
    routed: str = "Routed"
    quarantine: str = "Quarantine"
    former_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Addresses used earlier, in lower case, each with the address that took its place."""
    recipient_header: str = ""
    """Header in which its server notes the address that a mail was sent to; empty: `Delivered-To`, on top."""
    protocol: Literal["imap", "pop3"] = "imap"
    tls: Literal["on_connect", "starttls"] = "on_connect"
    """TLS from the first byte, or before anything else is said that matters. Without TLS nothing is."""
    auth: Literal["password", "oauth2"] = "password"
    oauth: OAuth | None = None
    """Where `oauth2` has its access tokens from."""

    def __post_init__(self) -> None:
        """Choose the protocol's own port where none is given."""
        if self.port == STANDARD_PORT:
            object.__setattr__(self, "port", PORTS[self.protocol, self.tls])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything the program is told."""

    databases: tuple[Database, ...]
    mailboxes: tuple[Mailbox, ...]
    state_directory: str = "/var/lib/fetch-and-route"
    """Holds attempts and reasons, and is what two runs lock each other out with."""
    attempts: int = 5
    """So many times Odoo may fail on a message before it goes to quarantine."""
    batch_messages: int = 20
    """At most so many messages in one call to Odoo ..."""
    batch_bytes: int = 16_000_000
    """... and so many bytes; a larger message travels alone."""
    metrics_directory: str = ""
    """Where figures for Prometheus's node exporter are written; empty: nowhere."""
    summary_to: str = ""
    """Who is told once a day what is new in quarantine; empty: nobody."""
    summary_smtp: str = "127.0.0.1:25"
    """The mail server that takes the summary, on this very host."""


def load(path: Path) -> Config:
    """Read the configuration. Raises Misconfigured: unreadable, no TOML, an unknown or missing key, a wrong value."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(
            f"{path}: {error.strerror}: run the role fetch_and_route, or name it with --config"
        ) from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise Misconfigured(f"{path}: is not TOML: {error}") from error
    return parse(table, str(path))


def parse(table: Mapping[str, Any], where: str) -> Config:
    """Make the configuration of a parsed TOML file; `where` names it in errors. Raises Misconfigured."""
    config: Config = _make(Config, table, where, "")
    for kind, entries in (("databases", config.databases), ("mailboxes", config.mailboxes)):
        names = [entry.name for entry in entries]
        for index, name in enumerate(names):
            if not name or "/" in name or name.startswith("."):
                raise Misconfigured(f"{where}: {kind}[{index}].name: {name!r} cannot be a file name: choose another")
            if name in names[:index]:
                raise Misconfigured(f"{where}: {kind}[{index}].name: {name!r} is there twice: keep one")
    for index, database in enumerate(config.databases):
        _check_url(database.url, f"{where}: databases[{index}].url", "an Odoo")
        _check_numbers(database, f"{where}: databases[{index}].")
    for index, mailbox in enumerate(config.mailboxes):
        _check_numbers(mailbox, f"{where}: mailboxes[{index}].")
        _check_login(mailbox, f"{where}: mailboxes[{index}].")
        for key in ("inbox", "routed", "quarantine"):
            if not getattr(mailbox, key).isascii():
                raise Misconfigured(f"{where}: mailboxes[{index}].{key}: use a name in plain ASCII")
    _check_numbers(config, f"{where}: ")
    if config.metrics_directory and not Path(config.metrics_directory).is_absolute():
        raise Misconfigured(f"{where}: metrics_directory: {config.metrics_directory!r}: write the whole path, from /")
    _check_summary(config, f"{where}: ")
    known = [database.name for database in config.databases]
    for index, mailbox in enumerate(config.mailboxes):
        if mailbox.database not in known:
            choice = ", ".join(known) or "none"
            raise Misconfigured(
                f"{where}: mailboxes[{index}].database: there is no database {mailbox.database!r} (known: {choice})"
            )
    return config


def secret(name: str, config_path: Path) -> str:
    """Read a secret by its name. Raises Misconfigured when there is none or it may not be read."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory) / name if directory else config_path.parent / "secrets" / name
    try:
        value = path.read_text(encoding="utf-8").strip()
    except PermissionError as error:
        raise Misconfigured(f"{path}: Permission denied: run this as root") from error
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}: run the role fetch_and_route, which writes it") from error
    if not value:
        raise Misconfigured(f"{path}: is empty: run the roles odoo_mail and fetch_and_route, which write it")
    return value


def _check_login(mailbox: Mailbox, where: str) -> None:
    """What belongs together is there, and nothing that would not be used."""
    oauth = mailbox.oauth
    if mailbox.auth == "password":
        if oauth:
            raise Misconfigured(f'{where}oauth: is not used: write auth = "oauth2", or remove it')
        if not mailbox.password:
            raise Misconfigured(f"{where}password: is missing: name the secret that holds it")
    else:
        if mailbox.password:
            raise Misconfigured(f'{where}password: is not used with auth = "oauth2": remove it')
        if not oauth:
            raise Misconfigured(f"{where}oauth: is missing: say where access tokens come from")
        _check_url(oauth.token_url, f"{where}oauth.token_url", "a token endpoint")
        needed = "refresh_token" if oauth.grant == "refresh_token" else "client_secret"
        if not getattr(oauth, needed):
            raise Misconfigured(f"{where}oauth.{needed}: is missing: the grant {oauth.grant} needs it")
    if mailbox.protocol == "pop3" and mailbox.host in ("pop.gmail.com", "pop.googlemail.com"):
        raise Misconfigured(f"{where}host: Gmail shows a message only once over POP3: use imap.gmail.com")


def _check_url(url: str, where: str, what: str) -> None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise Misconfigured(f"{where}: {url!r} is no address of {what}: write https://host")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise Misconfigured(f"{where}: {url!r} would send secrets in clear text: use https")


def _check_summary(config: Config, where: str) -> None:
    if config.summary_to and not re.fullmatch(r"[!-?A-~]+@[!-?A-~]+", config.summary_to):
        raise Misconfigured(f"{where}summary_to: {config.summary_to!r} is not a mail address: write name@host")
    try:
        parts = urlsplit(f"//{config.summary_smtp}")
        fine = parts.hostname in LOOPBACK and bool(parts.port) and not parts.path
    except ValueError:
        fine = False
    if not fine:
        raise Misconfigured(
            f"{where}summary_smtp: {config.summary_smtp!r}: write the port of a mail server on this host, 127.0.0.1:25"
        )


def _check_numbers(table: Config | Database | Mailbox, where: str) -> None:
    """No number may be 0 but that of the action, which is not there yet then."""
    for field in dataclasses.fields(table):
        if field.name != "action" and getattr(table, field.name) == 0:
            raise Misconfigured(f"{where}{field.name}: 0: must be at least 1")


def _convert(hint: Any, value: object, where: str, at: str) -> Any:
    """Check a TOML value against a field's type and freeze it. `where` and `at` name file and key in errors."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # `X | None`: only the default is None, TOML knows none
        return _convert(arguments[0], value, where, at)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return _make(hint, value, where, f"{at}.")
        wanted = "a table"
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(_convert(arguments[0], item, where, f"{at}[{index}]") for index, item in enumerate(value))
        wanted = "a list"
    elif origin is Literal:
        if value in arguments:
            return value
        wanted = "one of " + ", ".join(map(str, arguments))
    elif origin is Mapping:
        if isinstance(value, Mapping):
            pairs = {key: _convert(str, item, where, f"{at}.{key}") for key, item in value.items()}
            return types.MappingProxyType(pairs)
        wanted = "a table of texts"
    elif hint is int:
        if type(value) is int and value >= 0:
            return value
        wanted = "a whole number, 0 or more"
    else:
        if isinstance(value, str):
            return value
        wanted = "a text in quotes"
    raise Misconfigured(f"{where}: {at}: {value!r} is not {wanted}")


def _make(kind: Any, table: Mapping[str, object], where: str, prefix: str) -> Any:
    """Fill a dataclass from a TOML table. Raises Misconfigured for an unknown or missing key or a wrong value."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in table:
        if key not in fields:
            raise Misconfigured(f"{where}: {prefix}{key}: unknown key: remove it (known: {', '.join(fields)})")
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in table and not optional:
            raise Misconfigured(f"{where}: {prefix}{name}: is missing: add it")
    hints = typing.get_type_hints(kind)
    return kind(**{key: _convert(hints[key], value, where, prefix + key) for key, value in table.items()})
