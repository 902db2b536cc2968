# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Mailboxes and SMTP at a provider instead of a mail server of ours, and which servers Odoo is told of either way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

PORTS = {
    ("imap", "on_connect"): 993,
    ("imap", "starttls"): 143,
    ("pop3", "on_connect"): 995,
    ("pop3", "starttls"): 110,
    ("smtp", "on_connect"): 465,
    ("smtp", "starttls"): 587,
}
# What Odoo wants for sending by OAuth; scopes it knows itself.
SENDING_OAUTH = ("token_url", "client_id", "client_secret", "refresh_token")

# What each provider's documentation says. `dns` is what a domain's records look like there: where MX may point (a name,
# or a suffix with its dot), what SPF includes, and the selectors that DKIM keys have unless somebody chose others.
PRESETS: dict[str, dict[str, Any]] = {
    "gmail": {
        # https://support.google.com/mail/answer/7126229
        "imap": {"host": "imap.gmail.com", "port": 993, "tls": "on_connect"},
        "pop3": {"host": "pop.gmail.com", "port": 995, "tls": "on_connect"},
        "smtp": {"host": "smtp.gmail.com", "port": 465, "tls": "on_connect"},
        # https://developers.google.com/identity/protocols/oauth2/web-server (a refresh takes no scope)
        "oauth": {"token_url": "https://oauth2.googleapis.com/token"},
        # Without the last two there is no refresh token, or only the first time.
        "authorization": {
            "url": "https://accounts.google.com/o/oauth2/v2/auth",
            "scopes": {"imap": "https://mail.google.com/"},
            "more": {"access_type": "offline", "prompt": "consent"},
        },
        # https://support.google.com/a/answer/2368153, an option of the routing rule
        "recipient_header": "X-Gm-Original-To",
        "dns": {
            # https://support.google.com/a/answer/174125
            "mx": ["smtp.google.com", "aspmx.l.google.com", ".aspmx.l.google.com", ".googlemail.com"],
            "spf": "_spf.google.com",  # https://support.google.com/a/answer/33786
            "dkim": ["google"],  # https://support.google.com/a/answer/174124
        },
    },
    "microsoft365": {
        # https://support.microsoft.com/office/8361e398-8af4-4e97-b147-6c6c4ac95353
        "imap": {"host": "outlook.office365.com", "port": 993, "tls": "on_connect"},
        "pop3": {"host": "outlook.office365.com", "port": 995, "tls": "on_connect"},
        "smtp": {"host": "smtp.office365.com", "port": 587, "tls": "starttls"},
        # https://learn.microsoft.com/exchange/client-developer/legacy-protocols/
        # how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth; a domain of the tenant stands for the tenant.
        "oauth": {"token_url": "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"},
        "scopes": {
            ("imap", "refresh_token"): "https://outlook.office.com/IMAP.AccessAsUser.All offline_access",
            ("pop3", "refresh_token"): "https://outlook.office.com/POP.AccessAsUser.All offline_access",
            ("imap", "client_credentials"): "https://outlook.office365.com/.default",
            ("pop3", "client_credentials"): "https://outlook.office365.com/.default",
        },
        # Odoo 19 asks for the first four, too (microsoft_outlook_mixin.py, _fetch_outlook_token).
        "authorization": {
            "url": "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/authorize",
            "scopes": {
                protocol: "offline_access openid email https://outlook.office.com/User.read "
                f"https://outlook.office.com/{right}.AccessAsUser.All https://outlook.office.com/SMTP.Send"
                for protocol, right in (("imap", "IMAP"), ("pop3", "POP"))
            },
            "more": {},
        },
        "dns": {
            # https://learn.microsoft.com/microsoft-365/enterprise/external-domain-name-system-records
            "mx": [".mail.protection.outlook.com", ".mx.microsoft"],
            # https://learn.microsoft.com/defender-office-365/email-authentication-spf-configure
            "spf": "spf.protection.outlook.com",
            # https://learn.microsoft.com/defender-office-365/email-authentication-dkim-configure
            "dkim": ["selector1", "selector2"],
        },
    },
}


def uses_provider(databases: object) -> bool:
    """Whether a database has its mailbox and its SMTP at a provider. Takes anything, raises nothing."""
    entries = databases if isinstance(databases, Sequence) else ()
    return any(isinstance(entry, Mapping) and "provider" in entry for entry in entries)


def with_presets(databases: object) -> object:
    """`odoo_databases` with every `provider` filled up: from its preset, and by the ports that the protocols have.

    What the inventory gives is never replaced. `imap` is there unless it gives `pop3`; `smtp` has its login. Takes
    anything, raises nothing: what cannot be filled up stays as it is.
    """
    if not isinstance(databases, Sequence) or isinstance(databases, str | bytes):
        return databases
    return [
        {**entry, "provider": _filled(entry["provider"])}
        if isinstance(entry, Mapping) and isinstance(entry.get("provider"), Mapping)
        else entry
        for entry in databases
    ]


def _filled(given: Mapping[str, Any]) -> dict[str, Any]:
    named = given.get("preset")
    preset = PRESETS.get(named, {}) if isinstance(named, str) else {}
    protocol = "pop3" if "pop3" in given else "imap"
    filled: dict[str, Any] = {**given}
    server = given.get(protocol, {})
    filled[protocol] = _server(protocol, preset.get(protocol, {}), server) if isinstance(server, Mapping) else server
    if isinstance(given.get("oauth"), Mapping):
        filled["oauth"] = _oauth(preset, protocol, given)
    filled["smtp"] = _smtp(preset, filled)
    if preset.get("recipient_header"):
        filled.setdefault("recipient_header", preset["recipient_header"])
    dns = given.get("dns", {})
    filled["dns"] = {**preset.get("dns", {}), **dns} if isinstance(dns, Mapping) else dns
    return filled


def _server(kind: str, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A server with its port, which belongs to its kind of TLS: a preset's port does not outlive another TLS."""
    server = {"tls": "on_connect", **preset, **given}
    if "port" not in given and ("tls" in given or "port" not in preset):
        server["port"] = PORTS.get((kind, str(server["tls"])))
    return server


def _smtp(preset: Mapping[str, Any], provider: Mapping[str, Any]) -> object:
    """Where Odoo sends: by its own password or OAuth, else by the mailbox's password, else by the mailbox's OAuth."""
    given = provider.get("smtp", {})
    if not isinstance(given, Mapping):
        return given
    inherited = ["login"] if "oauth" in given else ["login", "password"]
    smtp = {**{key: provider[key] for key in inherited if provider.get(key)}, **given}
    fetching = provider.get("oauth")
    shared = {key: fetching[key] for key in SENDING_OAUTH if key in fetching} if isinstance(fetching, Mapping) else {}
    if isinstance(given.get("oauth"), Mapping):
        smtp["oauth"] = _oauth(preset, "smtp", {"login": smtp.get("login"), "oauth": {**shared, **given["oauth"]}})
    elif shared and "oauth" not in given and not smtp.get("password"):
        smtp["oauth"] = shared
    # Odoo's modules for OAuth take STARTTLS alone.
    preset_server = preset.get("smtp", {}) | ({"port": 587, "tls": "starttls"} if "oauth" in smtp else {})
    return _server("smtp", preset_server, smtp)


def _oauth(preset: Mapping[str, Any], protocol: str, given: Mapping[str, Any]) -> dict[str, Any]:
    oauth = {**preset.get("oauth", {}), **given["oauth"]}
    tenant = str(given.get("login") or "").rpartition("@")[2]
    if isinstance(oauth.get("token_url"), str):
        oauth["token_url"] = oauth["token_url"].replace("{tenant}", tenant)
    scope = preset.get("scopes", {}).get((protocol, str(oauth.get("grant", "refresh_token"))))
    return {**({"scope": scope} if scope else {}), **oauth}


def provider_mailboxes(databases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The databases' mailboxes at providers, as entries of `fetch_and_route_mailboxes`, each named after its database.

    Takes what preflight found sound.
    """
    made = []
    for database in databases:
        if "provider" not in database:
            continue
        provider = _filled(database["provider"])
        protocol = "pop3" if "pop3" in provider else "imap"
        oauth = provider.get("oauth")
        entry = {
            "name": database["name"],
            "database": database["name"],
            "protocol": protocol,
            **{key: provider[protocol][key] for key in ("host", "port", "tls")},
            "login": provider["login"],
            **({"auth": "oauth2", "oauth": oauth} if oauth else {"password": provider["password"]}),
        }
        for key in ("ca_file", "recipient_header"):
            if provider.get(key):
                entry[key] = provider[key]
        made.append(entry)
    return made


def odoo_servers(
    databases: Sequence[Mapping[str, Any]], hosts: Sequence[str], passwords: Mapping[str, str]
) -> list[list[dict[str, Any]]]:
    """The mail servers that each database is told of, in the order of `databases`, the preferred one first.

    Each is {outgoing: {host, port, tls, login, password}, incoming: {type, host, port, login, password}, ours}; `tls`
    is on_connect or starttls, `type` imap or pop, always with TLS on connect. Instead of `password` the first may have
    `oauth`: {service, client_id, client_secret, refresh_token, token_url}, `service` being the preset. Each of the two
    may be None: outgoing where people set it up, incoming where nothing but fetch-and-route can fetch (OAuth,
    STARTTLS). `passwords` are those of the accounts on our own `hosts`, by database.
    """
    return [
        [_provider_servers(_filled(database["provider"]))]
        if "provider" in database
        else [_own_servers(host, str(database["name"]), passwords[database["name"]]) for host in hosts]
        for database in databases
    ]


def _own_servers(host: str, database: str, password: str) -> dict[str, Any]:
    account = {"host": host, "login": database, "password": password}
    return {
        "outgoing": {**account, "port": 465, "tls": "on_connect"},
        "incoming": {**account, "port": 993, "type": "imap"},
        "ours": True,
    }


def _outgoing(preset: str, smtp: Mapping[str, Any]) -> dict[str, Any]:
    outgoing = {key: smtp[key] for key in ("host", "port", "tls", "login")}
    if "oauth" not in smtp:
        return outgoing | {"password": smtp["password"]}
    return outgoing | {"oauth": {"service": preset} | {key: str(smtp["oauth"][key]).strip() for key in SENDING_OAUTH}}


def _provider_servers(provider: Mapping[str, Any]) -> dict[str, Any]:
    smtp = provider["smtp"]
    protocol = "pop3" if "pop3" in provider else "imap"
    server = provider[protocol]
    tested = not provider.get("oauth") and server["tls"] == "on_connect"
    return {
        "outgoing": _outgoing(str(provider.get("preset")), smtp) if smtp else None,
        "incoming": {
            "type": protocol.removesuffix("3"),
            "host": server["host"],
            "port": server["port"],
            "login": provider["login"],
            "password": provider["password"],
        }
        if tested
        else None,
        "ours": False,
    }


def authorizations(databases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a person is to authorise for each database, by the authorization code (RFC 6749, section 4.1).

    Each is {name, login, url, token_url, client_id, client_secret, scope, more}; `more` goes into the address. Raises
    ValueError with one line where the inventory does not say enough.
    """
    made = []
    for database in databases:
        provider = _filled(database["provider"]) if isinstance(database.get("provider"), Mapping) else {}
        protocol = "pop3" if "pop3" in provider else "imap"
        preset = provider.get("preset")
        known = PRESETS[preset].get("authorization", {}) if isinstance(preset, str) and preset in PRESETS else {}
        oauth = provider.get("oauth")
        oauth = oauth if isinstance(oauth, Mapping) else {}
        where = f"odoo_databases[{database.get('name')}].provider"
        if protocol not in known.get("scopes", {}):
            raise ValueError(f"{where}.preset: is missing: authorise by a tool of your provider's")
        for key, found in (("login", provider), ("client_id", oauth), ("client_secret", oauth)):
            if not isinstance(found.get(key), str) or not found[key].strip():
                place = f"{where}.oauth" if found is oauth else where
                raise ValueError(f"{place}.{key}: is missing: see docs/inventory.md for what the provider gives")
        tenant = provider["login"].rpartition("@")[2]
        made.append(
            {
                "name": str(database["name"]),
                "login": provider["login"],
                "url": known["url"].replace("{tenant}", tenant),
                "scope": known["scopes"][protocol],
                "more": known["more"],
                **{key: str(oauth[key]).strip() for key in ("token_url", "client_id", "client_secret")},
            }
        )
    return made


def provider_domains(databases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the DNS of each domain at a provider is to be like: {domain, mx, spf, dkim}, as in PRESETS; empty: unknown.

    Without a preset the servers that mail leaves and arrives by say nothing about it, so only what is given counts.
    """
    found = []
    for database in databases:
        dns = _filled(database["provider"])["dns"] if "provider" in database else {}
        found += [
            {
                "domain": str(domain["name"]).lower().rstrip("."),
                "mx": [str(name).lower().rstrip(".") for name in dns.get("mx") or []],
                "spf": str(dns.get("spf") or "").lower().rstrip("."),
                "dkim": [str(selector) for selector in dns.get("dkim") or []],
            }
            for domain in database.get("domains") or []
            if "provider" in database
        ]
    return found


class FilterModule:
    """Ansible's door to the functions above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {
            "authorizations": authorizations,
            "odoo_servers": odoo_servers,
            "provider_domains": provider_domains,
            "provider_mailboxes": provider_mailboxes,
            "uses_provider": uses_provider,
            "with_presets": with_presets,
        }
