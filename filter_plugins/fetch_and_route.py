# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role fetch_and_route writes, from the inventory and from what earlier roles found out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

CONFIGURATION = "/etc/fetch-and-route"
PROGRAM = "/usr/local/lib/fetch-and-route/fetch_and_route"
# Keys that go into the configuration as they are; secrets and authorities go into files that it names.
MAILBOX_SETTINGS = (
    "name",
    "database",
    "protocol",
    "host",
    "tls",
    "login",
    "auth",
    "recipient_header",
    "inbox",
    "routed",
    "quarantine",
)
OAUTH_SETTINGS = ("token_url", "client_id", "scope", "grant")


def routes(
    databases: Sequence[Mapping[str, Any]],
    secrets_directory: str,
    gateways: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One entry for each database: its Odoo, its gateway action, its former addresses, and where its files come from.

    `databases` is the inventory's odoo_databases, `gateways` what the role odoo_mail set up ({database: {action_id,
    protocol, login}}), `found` what preflight found ({database: {former: {domain: [local parts]}}}). An entry has
    `name`, `database` (what Odoo calls it), `url`, `protocol`, `login`, `action` (0 while there is none), `domains` (in
    lower case), `former_names` ({address in lower case: address}), `ca_file` (on the mail host, empty for the system's
    trust), and on the control node `password_source` (empty: its mailbox is at a provider), `key_source` and
    `ca_source`.
    """
    made = []
    for database in databases:
        name = str(database["name"])
        gateway = gateways.get(name) or {}
        former = (found.get(name) or {}).get("former") or {}
        ca_source = str(database.get("ca_file") or "")
        made.append(
            {
                "name": name,
                "database": str(database.get("database") or name),
                "url": str(database["url"]),
                "protocol": str(gateway.get("protocol") or "json2"),
                "login": str(gateway.get("login") or "mailroom-gateway"),
                "action": int(gateway.get("action_id") or 0),
                "password_source": "" if "provider" in database else f"{secrets_directory}/mailbox-{name}",
                "key_source": f"{secrets_directory}/gateway-{name}",
                "ca_source": ca_source,
                "ca_file": f"{CONFIGURATION}/{name}-ca.pem" if ca_source else "",
                "domains": [str(domain["name"]).lower() for domain in database.get("domains") or []],
                "former_names": former_addresses(database.get("domains") or [], former),
            }
        )
    return made


def mailboxes(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each of `fetch_and_route_mailboxes`: what the configuration says, and the files it names.

    Takes what preflight found sound. An entry has `name`, `settings` and `oauth` (keys and values of the tables
    `mailboxes` and `mailboxes.oauth`, secrets by their names; `oauth` is empty for a login by password), `secrets`
    ({name: content}) and `authorities` ({path on the mail host: file on the control node}).
    """
    made = []
    for entry in entries:
        name = str(entry["name"])
        table = entry.get("oauth") or {}
        oauth: dict[str, Any] = {key: str(table[key]) for key in OAUTH_SETTINGS if table.get(key)}
        settings: dict[str, Any] = {key: str(entry[key]) for key in MAILBOX_SETTINGS if entry.get(key)}
        settings |= {"port": int(entry["port"])} if entry.get("port") else {}
        wanted = [
            (settings, "password", f"mailbox-{name}", entry.get("password")),
            (oauth, "client_secret", f"oauth-client-{name}", table.get("client_secret")),
            (oauth, "refresh_token", f"oauth-refresh-{name}", table.get("refresh_token")),
        ]
        secrets = {}
        for target, key, secret, content in wanted:
            if content:
                target[key] = secret
                secrets[secret] = str(content)
        authorities = {}
        # A database's one mailbox has its name; <name>-ca.pem is then what its Odoo's certificate comes from.
        kind = "mailbox-ca" if name == entry["database"] else "ca"
        trusted = [
            (settings, f"{CONFIGURATION}/{name}-{kind}.pem", entry.get("ca_file")),
            (oauth, f"{CONFIGURATION}/{name}-token-endpoint.crt", table.get("ca_file")),
        ]
        for target, path, source in trusted:
            if source:
                target["ca_file"] = path
                authorities[path] = str(source)
        made.append(
            {"name": name, "settings": settings, "oauth": oauth, "secrets": secrets, "authorities": authorities}
        )
    return made


def former_addresses(domains: Iterable[Mapping[str, Any]], found: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Addresses used earlier for catchall or bounce, in lower case, each with today's.

    `found` has the local parts by domain that Odoo knows of; the domain's `former_names` join them. Which of the two a
    name was is not recorded: one with `bounce` in it was the bounce address, any other the catchall. Bounces by other
    names are recognised by Odoo all the same. A name that is in use for something else today is left alone.
    """
    addresses = {}
    for domain in domains:
        name = str(domain["name"]).lower()
        catchall, bounce = str(domain.get("catchall") or "catchall"), str(domain.get("bounce") or "bounce")
        others = [entry["name"] for key in ("aliases", "people") for entry in domain.get(key) or []]
        in_use = {str(used).lower() for used in (catchall, bounce, *others)}
        former = {
            str(local).lower() for local in (*(domain.get("former_names") or []), *(found.get(domain["name"]) or []))
        }
        for local in sorted(former - in_use):
            today = bounce if "bounce" in local else catchall
            addresses[f"{local}@{name}"] = f"{today}@{name}"
    return addresses


def sources(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The files on the control node that the routes name, to be read if they exist."""
    return [entry[key] for entry in entries for key in ("key_source", "ca_source") if entry[key]]


def mailbox_sources(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The files on the control node that mailboxes elsewhere name, to be read if they exist."""
    return [source for entry in entries for source in entry["authorities"].values()]


def mailbox_files(
    entries: Iterable[Mapping[str, Any]], texts: Mapping[str, str], check_mode: bool
) -> list[dict[str, Any]]:
    """The secrets and authorities of mailboxes elsewhere as entries of the module host_files.

    `texts` has the files on the control node by path. Raises ValueError with one line when one is missing, but not in
    check mode, since an earlier role may make it.
    """
    files: list[dict[str, Any]] = []
    for entry in entries:
        for name, content in entry["secrets"].items():
            path = f"{CONFIGURATION}/secrets/{name}"
            files.append({"path": path, "content": f"{content.strip()}\n", "mode": "0600", "sensitive": True})
        for path, source in entry["authorities"].items():
            if source not in texts and not check_mode:
                raise ValueError(
                    f"mailbox {entry['name']}: there is no file {source}: correct ca_file in fetch_and_route_mailboxes"
                )
            files.append({"path": path, "content": texts.get(source, "")})
    return files


def secret_files(
    entries: Iterable[Mapping[str, Any]], passwords: Mapping[str, str], texts: Mapping[str, str], check_mode: bool
) -> list[dict[str, Any]]:
    """The routes' secrets and certificate authorities as entries of the module host_files.

    `passwords` are those of the routes' mailboxes on this host, by name; `texts` has the files on the control node by
    path. In check mode what an earlier role would make may be missing; else raises ValueError with one line.
    """
    files = []
    for entry in entries:
        name = entry["name"]
        if not check_mode:
            _require(entry, texts)
        secret = {"mode": "0600", "sensitive": True}
        key = texts.get(entry["key_source"], "").strip()
        if name in passwords:
            path = f"{CONFIGURATION}/secrets/mailbox-{name}"
            files.append({"path": path, "content": f"{passwords[name]}\n", **secret})
        files.append({"path": f"{CONFIGURATION}/secrets/gateway-{name}", "content": f"{key}\n", **secret})
        if entry["ca_file"]:
            files.append({"path": entry["ca_file"], "content": texts.get(entry["ca_source"], "")})
    return files


def _require(entry: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    """Raise ValueError for what the role could not do without."""
    remedy = "run with --tags odoo_mail,fetch_and_route, which makes it"
    if not entry["action"]:
        raise ValueError(f"database {entry['name']}: has no gateway action: {remedy}")
    if entry["key_source"] not in texts:
        raise ValueError(f"database {entry['name']}: there is no file {entry['key_source']}: {remedy}")
    if not texts[entry["key_source"]].strip():
        raise ValueError(f"database {entry['name']}: {entry['key_source']} is empty: {remedy}")
    if entry["ca_source"] and entry["ca_source"] not in texts:
        raise ValueError(
            f"database {entry['name']}: there is no file {entry['ca_source']}: correct ca_file in odoo_databases"
        )


def program_files(modules: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """The program's modules, pairs of a path on the control node and its text, as entries of the module host_files."""
    return [{"path": f"{PROGRAM}/{PurePosixPath(path).name}", "content": text} for path, text in sorted(modules)]


class FilterModule:
    """Ansible's door to the functions above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {
            "fetch_and_route_routes": routes,
            "fetch_and_route_sources": sources,
            "fetch_and_route_secrets": secret_files,
            "fetch_and_route_program": program_files,
            "fetch_and_route_mailboxes": mailboxes,
            "fetch_and_route_mailbox_sources": mailbox_sources,
            "fetch_and_route_mailbox_files": mailbox_files,
        }
