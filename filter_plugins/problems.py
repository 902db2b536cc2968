# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with an inventory or with hosts: every problem as one line "variable: what: remedy", all at once.

The filters take whatever the inventory holds, of any type, and never raise: a wrong type is a problem like any other.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import difflib
import ipaddress
import json
import os
import re
import shutil
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

ATEXT = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"  # RFC 5322, 3.2.3, in lower case
LOCAL_PART = re.compile(rf"{ATEXT}(\.{ATEXT})*")
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123, 2.1, in lower case
ZONE_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_/-]{0,61}[a-z0-9])?")  # reverse zones of a part of a network: RFC 2317
# What Odoo allows in a database's name (odoo/addons/web/controllers/database.py).
DATABASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
MODEL = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z0-9_]+)*")
# An entry of Postfix's postscreen_dnsbl_sites: a list, the answers that count, and their weight.
DNSBL = re.compile(r"(?P<list>[^=*]+)(=(?P<answers>[0-9.\[\];]+))?(\*-?[0-9]{1,3})?")
# Kept for those who run the domain (RFC 2142); where they go is the domain's `postmaster`.
RESERVED = ("postmaster", "abuse")
BOTH = ", and mail about Odoo's records goes into Odoo, a person's own mail to the person"
# A key to verify by: a DS or DNSKEY record as in a zone file (RFC 4034, 2.2 and 5.3), its zone written in full.
TRUST_ANCHOR = re.compile(
    r"(\.|([a-z0-9_-]+\.)+) +([0-9]+ +)?(IN +)?"
    r"(DS +[0-9]+ +[0-9]+ +[0-9]+ +[0-9A-F ]+|DNSKEY +[0-9]+ +3 +[0-9]+ +[A-Z0-9+/= ]+)",
    re.IGNORECASE,
)
SELECTOR = re.compile(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?")  # room for -ed25519 and a number in a label of 63
MAX_NAME = 253  # characters without the final dot: 255 octets (RFC 1035, 2.3.4)
KEY_ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512")
CONTACTS = ("everyone", "partners", "followers")  # who may write to an alias: mail.alias.alias_contact in Odoo
DEBIAN = ("12", "13")
LOOPBACK = ("localhost", "127.0.0.1", "::1")

# What stands before a domain's and a mail host's name in DNS, if a zone of its own begins there.
DOMAIN_PREFIXES = ("_dmarc.", "_mta-sts.", "_smtp._tls.", "mta-sts.", "_acme-challenge.mta-sts.")
HOST_PREFIXES = ("_25._tcp.", "_acme-challenge.")

# Numbers in Odoo's settings, and what they are numbers of.
ODOO_NUMBERS = {
    "queue_minutes": "interval: a number of minutes",
    "fetch_minutes": "interval: a number of minutes",
    "loop_minutes": "interval: a number of minutes",
    "loop_threshold": "limit: a number of mails",
}
DATABASE_KEYS = (
    "name",
    "database",
    "url",
    "login",
    "password",
    "ca_file",
    "domains",
    *ODOO_NUMBERS,
    "allowed_senders",
    "allowed_domains",
    "mass_mailing_server",
    "provider",
)
DOMAIN_KEYS = (
    "name",
    "catchall",
    "bounce",
    "default_from",
    "former_names",
    "postmaster",
    "companies",
    "aliases",
    "people",
)
MAILBOX_KEYS = (
    "name",
    "database",
    "protocol",
    "host",
    "port",
    "tls",
    "ca_file",
    "login",
    "auth",
    "password",
    "oauth",
    "recipient_header",
    "inbox",
    "routed",
    "quarantine",
)
GMAIL_POP3 = ("pop.gmail.com", "pop.googlemail.com")
OAUTH_KEYS = ("token_url", "client_id", "client_secret", "refresh_token", "scope", "grant", "ca_file")
SENDING_KEYS = ("login", "password", "oauth")
# Both are those of filter_plugins/providers.py, which fills them in.
PRESETS = ("gmail", "microsoft365")
SENDING_OAUTH = ("token_url", "client_id", "client_secret", "refresh_token")
GMAIL_ENDPOINT = "https://oauth2.googleapis.com/token"  # the only one that Odoo asks (google_gmail_mixin.py)
PROVIDER_KEYS = (
    "preset",
    "login",
    "password",
    "oauth",
    "imap",
    "pop3",
    "smtp",
    "ca_file",
    "recipient_header",
    "dns",
)
SERVER_KEYS = ("host", "port", "tls")
BEGIN_WITH_TLS, BEGIN_WITHOUT = (465, 993, 995), (25, 110, 143, 587)
SMARTHOST_KEYS = ("host", "port", "tls", "login", "password", "domains")
COMPANY_KEYS = ("name", "email")
MASS_MAILING_KEYS = ("host", "port", "tls", "login", "password")
ALIAS_KEYS = ("name", "model", "record", "contact")
PERSON_KEYS = ("name", "relay_to", "instead_of_alias")
FORWARD_ZONE_KEYS = ("name", "servers")
ZONE_KEYS = ("name", "server", "port", "key_name", "key_algorithm", "key_file")
OCTODNS_KEYS = ("name", "server", "port")

Check = Callable[[str], str]  # what is wrong with a text, "" when nothing


def shown(value: object) -> str:
    """A value as it is quoted in a problem: on one line, without a URL's login, and not longer than is helpful."""
    text = re.sub("://.*@", "://...@", repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def kind(value: object) -> str:
    """The type of an inventory's value in the words of YAML."""
    for types, name in (
        (bool, "true or false"),
        (int | float, "a number"),
        (str, "text"),
        (Mapping, "a dictionary"),
        (Sequence, "a list"),
    ):
        if isinstance(value, types):
            return name
    return "nothing" if value is None else type(value).__name__


def is_empty(value: object) -> bool:
    """Whether a value stands for none: null, an empty text or an empty list."""
    return value is None or value in ("", [])


def entries_of(value: object) -> Sequence[Any]:
    """The entries of a list; none when the value is no list."""
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else ()


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is text, and not empty."""
    return isinstance(value, str) and value != ""


def domain_problem(name: str) -> str:
    """What keeps a text from being the name of a domain (RFC 1123, 2.1; RFC 5890, 2.3): "" when nothing."""
    if not name.isascii():
        try:
            registered = name.lower().encode("idna").decode()
        except UnicodeError:
            registered = ""
        remedy = registered if registered and not domain_problem(registered) else "its registered form, xn--..."
        return f"has letters beyond ASCII: write {remedy}"
    if name.endswith(".") and not domain_problem(name[:-1]):
        return f"ends with a dot: write {name[:-1]}"
    if name != name.lower() and not domain_problem(name.lower()):
        return f"has capital letters: write {name.lower()}"
    labels = name.split(".")
    if len(name) > MAX_NAME or not all(LABEL.fullmatch(label) for label in labels):
        return "is no domain: letters, digits and hyphens between single dots, such as example.com"
    if len(labels) < 2:
        return "is no domain: it needs a dot, as in example.com"
    if labels[-1].isdigit():
        return "is no domain but looks like an address: write a name such as example.com"
    try:
        for label in labels:
            if label.startswith("xn--"):
                label.encode().decode("idna")
    except UnicodeError:
        return "is no domain: what follows xn-- is not valid"
    return ""


def local_part_problem(name: str) -> str:
    """What keeps a text from being what stands before an address's @ (RFC 5321, 4.1.2, Dot-string): "" when nothing."""
    if re.search(r"\s", name):
        return "has a space: use letters, digits and . _ -"
    if "@" in name:
        return "is a whole address: give only what stands before the @"
    if not name.isascii():
        return "has letters beyond ASCII: use a-z, digits and . _ -"
    if name != name.lower() and not local_part_problem(name.lower()):
        return f"has capital letters: write {name.lower()}"
    if len(name) > 64 or not LOCAL_PART.fullmatch(name):
        return "cannot stand before an @: use letters, digits and . _ - (no dot at either end, at most 64 characters)"
    if name in RESERVED:
        return "is kept for those who run the domain: choose another name, and set the domain's postmaster"
    return ""


def address_problem(text: str) -> str:
    """What keeps a text from being a mail address; "" when nothing."""
    local, at, domain = text.rpartition("@")
    if not at:
        return "is no mail address: write name@example.com"
    if not local.isascii() or not re.fullmatch(LOCAL_PART.pattern, local, re.IGNORECASE) or len(local) > 64:
        return "is no mail address: what stands before its @ is not valid"
    problem = domain_problem(domain)
    return f"is no mail address: its domain {problem}" if problem else ""


def host_problem(text: str) -> str:
    """What keeps a text from being a host's name or IP address; "" when nothing."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return domain_problem(text).replace("domain", "host name")
    return ""


def url_problem(url: str) -> str:
    """What keeps a text from being Odoo's address; "" when nothing. (http:// is judged by who contacts it.)"""
    remedy = "write https:// and its host name, such as https://odoo.example.com"
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return f"is no URL: {remedy}"
    if parts.scheme not in ("https", "http") or not host or port == 0 or re.search(r"\s", url):
        return f"is no URL: {remedy}"
    if host != "localhost" and host_problem(host):
        return f"is no URL ({host} {host_problem(host).partition(':')[0]}): {remedy}"
    if parts.username is not None or parts.password is not None:
        return "has a login in it: use login and password"
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return f"has more than a host in it: write {parts.scheme}://{parts.netloc}"
    return ""


def is_online(url: object) -> bool:
    """Whether a URL is an Odoo Online address, *.odoo.com."""
    try:
        host = urllib.parse.urlsplit(url).hostname if isinstance(url, str) else ""
    except ValueError:
        return False
    return (host or "").endswith(".odoo.com")


def matches(pattern: re.Pattern[str], remedy: str) -> Check:
    """A check against a pattern; `remedy` is the whole problem."""
    return lambda text: "" if pattern.fullmatch(text) else remedy


def anything(_text: str) -> str:
    """A check that every text passes."""
    return ""


class Problems:
    """Collects problems. Its methods say what a value is when it can be used, and add a line when it cannot."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, where: str, what: str) -> None:
        """Add one line."""
        self.lines.append(f"{where}: {what}")

    def text(self, where: str, value: object, check: Check = anything, missing: str = "") -> str:
        """The value when it is text that passes the check, else "". `missing`: what to do when there is none."""
        if is_empty(value):
            if missing:
                self.add(where, f"is missing: {missing}")
        elif not isinstance(value, str):
            self.add(where, f"is {kind(value)}, not text: put it in quotes")
        elif problem := check(value):
            self.add(where, f"{shown(value)} {problem}")
        else:
            return value
        return ""

    def dictionary(self, where: str, value: object, keys: Sequence[str]) -> Mapping[str, Any] | None:
        """The value when it is a dictionary; says which of its keys there are not."""
        if not isinstance(value, Mapping):
            self.add(where, f"is {kind(value)}, not a dictionary: give {', '.join(keys)}")
            return None
        for key in value:
            if key not in keys:
                near = difflib.get_close_matches(str(key), keys, 1)
                self.add(
                    where, f"has no {shown(key)}: " + (f"write {near[0]}" if near else f"it has {', '.join(keys)}")
                )
        return value

    def items(self, where: str, value: object, missing: str = "") -> Iterator[tuple[str, Any]]:
        """Each entry of a list with the name to call it by, its `name` or else its place; none when it is no list."""
        if is_empty(value):
            if missing:
                self.add(where, f"is missing: {missing}")
        elif not isinstance(value, Sequence) or isinstance(value, str | bytes):
            self.add(where, f"is {kind(value)}, not a list: write one entry per line, each after '- '")
        for place, entry in enumerate(entries_of(value)):
            name = entry.get("name") if isinstance(entry, Mapping) else None
            yield f"{where}[{name if is_text(name) and name.isprintable() else place}]", entry


def _name_problems(problems: Problems, where: str, domain: Mapping[str, Any]) -> None:
    """All local parts of a domain: each valid, and no two uses of one that exclude each other."""
    seen: dict[str, str] = {}

    def take(variable: str, what: str, value: object, missing: str = "", instead: bool = False) -> None:
        name = problems.text(variable, value, local_part_problem, missing)
        if instead and seen.get(name) == "a business alias":
            seen[name] = what
        elif name in seen:
            # What Odoo's page says about that: mail on Odoo's records would fill the person's mailbox, or the person's
            # mail Odoo.
            alias = (what, seen[name]) == ("a person", "a business alias")
            both = "" if what == seen[name] or "a person" not in (what, seen[name]) else BOTH
            other = ", or write instead_of_alias: true if the person's mailbox is to have it all" if alias else ""
            what_then = f"choose another name{other}"
            problems.add(variable, f"{shown(name)} is already {seen[name]} of this domain{both}: {what_then}")
        elif name:
            seen[name] = what

    take(f"{where}.catchall", "the catchall", domain.get("catchall", "catchall"), "leave it out for catchall")
    take(f"{where}.bounce", "the bounce name", domain.get("bounce", "bounce"), "leave it out for bounce")
    for variable, entry in problems.items(f"{where}.aliases", domain.get("aliases")):
        alias = problems.dictionary(variable, entry, ALIAS_KEYS)
        if alias is not None:
            take(f"{variable}.name", "a business alias", alias.get("name"), "give what stands before the @")
            model_remedy = "is no model: write its technical name, such as crm.team"
            problems.text(
                f"{variable}.model", alias.get("model"), matches(MODEL, model_remedy), "name it, such as crm.team"
            )
            problems.text(f"{variable}.record", alias.get("record"), missing="give the record's name in Odoo")
            contact_remedy = f"cannot be: use one of {', '.join(CONTACTS)}"
            contact_check = matches(re.compile("|".join(CONTACTS)), contact_remedy)
            problems.text(f"{variable}.contact", alias.get("contact"), contact_check)
    for variable, entry in problems.items(f"{where}.people", domain.get("people")):
        person = problems.dictionary(variable, entry, PERSON_KEYS)
        if person is not None:
            instead = person.get("instead_of_alias", False)
            if not isinstance(instead, bool):
                problems.add(f"{variable}.instead_of_alias", f"is {kind(instead)}: write true or false")
            take(f"{variable}.name", "a person", person.get("name"), "give what stands before the @", instead is True)
            remedy = "name the mail host of the provider that has the mailbox"
            problems.text(f"{variable}.relay_to", person.get("relay_to"), host_problem, remedy)
    for place, (_, name) in enumerate(problems.items(f"{where}.former_names", domain.get("former_names"))):
        take(f"{where}.former_names[{place}]", "a former name", name, "remove the empty entry")
    sender = domain.get("default_from", "notifications")  # it may share its name: it is only written from
    problems.text(f"{where}.default_from", sender, local_part_problem, "leave it out for notifications")


def _postmaster_problems(problems: Problems, databases: object, ours: Mapping[str, str]) -> None:
    """A postmaster in a domain of ours is somebody: mail to them would be taken and then go nowhere."""
    quiet = Problems()
    named, known = [], set()
    for variable, database in quiet.items("odoo_databases", databases):
        entries = database.get("domains") if isinstance(database, Mapping) else None
        for where, domain in quiet.items(f"{variable}.domains", entries):
            if isinstance(domain, Mapping):
                name = domain.get("name")
                for key in ("aliases", "people"):
                    for _, entry in quiet.items(where, domain.get(key)):
                        known.add(f"{entry.get('name') if isinstance(entry, Mapping) else ''}@{name}")
                if is_text(domain.get("postmaster")):
                    named.append((f"{where}.postmaster", domain["postmaster"]))
    for where, address in named:
        if not address_problem(address) and address.rpartition("@")[2] in ours and address.lower() not in known:
            what = "is in a domain of ours, where nobody has it: add it to people or aliases, or name another address"
            problems.add(where, f"{shown(address)} {what}")


def _owner_problems(problems: Problems, where: str, database: Mapping[str, Any]) -> None:
    """Odoo keeps an alias on its owner record, so that no two aliases can have the same."""
    owners: dict[tuple[str, str], str] = {}
    quiet = Problems()
    for domain_variable, domain in quiet.items(f"{where}.domains", database.get("domains")):
        entries = domain.get("aliases") if isinstance(domain, Mapping) else None
        for variable, alias in quiet.items(f"{domain_variable}.aliases", entries):
            model, record = (alias.get(key) if isinstance(alias, Mapping) else None for key in ("model", "record"))
            if is_text(model) and is_text(record):
                other = owners.setdefault((model, record), variable)
                if other != variable:
                    what = f"{model} {shown(record)} already has the alias {other.removeprefix(where + '.')}"
                    problems.add(f"{variable}.record", f"{what}: a record has one alias, drop one of the two")


def _company_problems(problems: Problems, where: str, database: Mapping[str, Any]) -> None:
    """A company writes from one domain, and people read its address."""
    quiet = Problems()
    domains = list(quiet.items(f"{where}.domains", database.get("domains")))
    own: dict[str, str] = {}
    seen: dict[str, object] = {}
    for _, domain in domains:
        if isinstance(domain, Mapping):
            for key in ("catchall", "bounce"):
                own[f"{domain.get(key) or key}@{domain.get('name')}"] = key
    for place, domain in domains:
        entries = domain.get("companies") if isinstance(domain, Mapping) else None
        for number, (variable, entry) in enumerate(problems.items(f"{place}.companies", entries)):
            company: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
            if isinstance(entry, Mapping):
                problems.dictionary(variable, entry, COMPANY_KEYS)
                name = problems.text(f"{variable}.name", entry.get("name"), missing="give the company's name in Odoo")
            else:
                variable = f"{place}.companies[{number}]"
                name = problems.text(variable, entry, missing="remove the empty entry")
            if name and name in seen:
                problems.add(variable, f"already writes from {seen[name]}: a company has one domain, keep one")
            seen.setdefault(name, domain.get("name"))
            email = problems.text(f"{variable}.email", company.get("email"), address_problem)
            if email.lower() in own:
                what = f"is the {own[email.lower()]} address, which nobody reads: give one that people read"
                problems.add(f"{variable}.email", f"{shown(email)} {what}")


def _odoo_setting_problems(problems: Problems, where: str, database: Mapping[str, Any]) -> None:
    """What of Odoo's own settings is named beside the domains."""
    for key, what in ODOO_NUMBERS.items():
        number = database.get(key)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            problems.add(f"{where}.{key}", f"{shown(number)} is no {what} from 1 up; leave it out to keep Odoo's")
    for place, (_, sender) in enumerate(problems.items(f"{where}.allowed_senders", database.get("allowed_senders"))):
        problems.text(f"{where}.allowed_senders[{place}]", sender, address_problem, "remove the empty entry")
    allowed = [name for _, name in problems.items(f"{where}.allowed_domains", database.get("allowed_domains"))]
    for place, name in enumerate(allowed):
        problems.text(f"{where}.allowed_domains[{place}]", name, domain_problem, "remove the empty entry")
    for domain in _whole(database.get("domains"), ["name"]):
        if allowed and domain["name"] not in allowed:
            what = f"leaves out {domain['name']}, an alias domain of this database: add it, or drop the whole list"
            problems.add(f"{where}.allowed_domains", what)
    variable = f"{where}.mass_mailing_server"
    if is_empty(database.get("mass_mailing_server")):
        return
    server = problems.dictionary(variable, database["mass_mailing_server"], MASS_MAILING_KEYS)
    if server is None:
        return
    problems.text(f"{variable}.host", server.get("host"), _smarthost_host_problem, "name the server")
    tls = problems.text(f"{variable}.tls", server.get("tls", "on_connect"), _one_of("on_connect", "starttls"))
    if problem := _smarthost_port_problem(server.get("port", 587 if tls == "starttls" else 465), tls):
        problems.add(f"{variable}.port", problem)
    login = problems.text(f"{variable}.login", server.get("login"))
    remedy = "give the login's password, from Ansible Vault" if login else ""
    problems.text(f"{variable}.password", server.get("password"), missing=remedy)  # no check: never shown


def _database_name_problem(name: str) -> str:
    if name.lower() in RESERVED:
        what = "is the mailbox of those who run the host, and a database's mailbox has its name"
        return f"{what}: choose another, and give Odoo's name as database"
    return "" if DATABASE.fullmatch(name) else "is no name of a database: use letters, digits and . _ -"


def _ca_file_problem(path: str) -> str:
    # Each module and role would look for a relative path somewhere else.
    return "" if path.startswith("/") else "is a relative path: write it in full, such as {{ inventory_dir }}/ca.pem"


def _database_problems(problems: Problems, variable: str, entry: object, domains: dict[str, str]) -> None:
    database = problems.dictionary(variable, entry, DATABASE_KEYS)
    if database is None:
        return
    problems.text(f"{variable}.name", database.get("name"), _database_name_problem, "give the database's name")
    name_check = matches(DATABASE, "is no name of a database: use letters, digits and . _ -")
    problems.text(f"{variable}.database", database.get("database"), name_check)
    url = problems.text(f"{variable}.url", database.get("url"), url_problem, "give Odoo's address, https://...")
    if is_online(url):
        problems.add(
            f"{variable}.url", f"{url} is Odoo Online, which brings its own mail server: take the database out"
        )
        return
    problems.text(f"{variable}.login", database.get("login"), missing="give the login of a Settings administrator")
    remedy = "give the login's password or an API key, from Ansible Vault"
    problems.text(f"{variable}.password", database.get("password"), missing=remedy)  # no check, so it is never shown
    problems.text(f"{variable}.ca_file", database.get("ca_file"), _ca_file_problem)
    remedy = "list the database's alias domains, such as - name: example.com"
    for where, domain_entry in problems.items(f"{variable}.domains", database.get("domains"), remedy):
        domain = problems.dictionary(where, domain_entry, DOMAIN_KEYS)
        if domain is None:
            continue
        name = problems.text(f"{where}.name", domain.get("name"), domain_problem, "name it, such as example.com")
        if name in domains:
            problems.add(f"{where}.name", f"{name} is given twice, first in {domains[name]}: a domain has one database")
        elif name:
            domains[name] = variable
        problems.text(f"{where}.postmaster", domain.get("postmaster"), address_problem)
        _name_problems(problems, where, domain)
    _owner_problems(problems, variable, database)
    _company_problems(problems, variable, database)
    _odoo_setting_problems(problems, variable, database)
    if "provider" in database:
        _provider_problems(problems, variable, database)


def _server_problems(problems: Problems, where: str, value: object, keys: Sequence[str]) -> Mapping[str, Any]:
    """One server of a provider, its port and its kind of TLS filled in."""
    server = problems.dictionary(where, value, keys)
    if server is None:
        return {}
    remedy = "name the provider's server, or give the provider's preset"
    problems.text(f"{where}.host", server.get("host"), _smarthost_host_problem, remedy)
    tls = problems.text(f"{where}.tls", server.get("tls"), _one_of("on_connect", "starttls"))
    port = server.get("port")
    if tls and (isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536):
        problems.add(f"{where}.port", f"{shown(port)} is no port: a number from 1 to 65535")
    elif tls == "starttls" and port in BEGIN_WITH_TLS:
        problems.add(f"{where}.tls", f"{port} begins with TLS: leave tls out")
    elif tls == "on_connect" and port in BEGIN_WITHOUT:
        problems.add(f"{where}.tls", f"{port} begins without TLS: write starttls")
    return server


def _fetching_problems(problems: Problems, where: str, provider: Mapping[str, Any]) -> None:
    """What keeps fetch-and-route from a provider's mailbox; the login is looked at before."""
    if "imap" in provider and "pop3" in provider:
        problems.add(f"{where}.pop3", "is given beside imap: fetch by one of the two, imap if there is a choice")
    protocol = "pop3" if "pop3" in provider else "imap"
    server = _server_problems(problems, f"{where}.{protocol}", provider.get(protocol), SERVER_KEYS)
    if protocol == "pop3" and server.get("host") in GMAIL_POP3:
        problems.add(f"{where}.pop3", "Gmail shows a message only once over POP3: leave it out for IMAP")
    problems.text(f"{where}.ca_file", provider.get("ca_file"), _ca_file_problem)
    problems.text(f"{where}.recipient_header", provider.get("recipient_header"), _header_problem)
    oauth = not is_empty(provider.get("oauth"))
    if oauth:
        how = "have a person authorise by playbooks/authorize.yml, or give" if provider.get("preset") else "give"
        _oauth_problems(problems, f"{where}.oauth", provider["oauth"], how)
    elif provider.get("preset") == "microsoft365":
        problems.add(
            f"{where}.oauth", "is missing: Microsoft takes no passwords over IMAP and POP3, give what it grants"
        )
    remedy = "" if oauth else "give the login's password, at Gmail an app password, from Ansible Vault"
    problems.text(f"{where}.password", provider.get("password"), missing=remedy)  # no check, so it is never shown


def _sending_problems(problems: Problems, where: str, provider: Mapping[str, Any], login: str) -> None:
    """What keeps Odoo from a provider's SMTP. `login` is the mailbox's, "" when there is none."""
    if provider.get("smtp") is False:
        return
    smtp = _server_problems(problems, f"{where}.smtp", provider.get("smtp"), (*SERVER_KEYS, *SENDING_KEYS))
    if smtp and login:
        problems.text(f"{where}.smtp.login", smtp.get("login"), missing="give the login")
        problems.text(f"{where}.smtp.password", smtp.get("password"))  # missing: told of the mailbox
    if "oauth" in smtp:
        if not is_empty(smtp.get("password")):
            problems.add(f"{where}.smtp.password", "is given beside oauth: Odoo logs in by one of the two, remove one")
        if smtp.get("tls") == "on_connect":
            problems.add(f"{where}.smtp.tls", "Odoo's modules for OAuth take STARTTLS alone: leave tls and port out")
        _sending_oauth_problems(problems, f"{where}.smtp.oauth", provider, smtp["oauth"])


def _sending_oauth_problems(problems: Problems, where: str, provider: Mapping[str, Any], value: object) -> None:
    """What keeps Odoo from sending by OAuth. What comes from the mailbox's and is missing there is told there."""
    oauth = problems.dictionary(where, value, SENDING_OAUTH)
    preset = provider.get("preset")
    if oauth is None:
        return
    if preset not in PRESETS:
        remedy = "give the preset, or instead of oauth a password, a relay's for instance, or smtp: false"
        problems.add(where, f"Odoo sends by OAuth at Gmail and Microsoft 365 alone: {remedy}")
        return
    fetching = provider.get("oauth")
    fetching = fetching if isinstance(fetching, Mapping) else {"grant": "client_credentials", "client_id": "none"}
    required = ["client_id", *(["refresh_token"] if fetching.get("grant") != "client_credentials" else [])]
    told = [key for key in required if is_empty(fetching.get(key))]
    other = "or a password, a relay's for instance, or smtp: false"
    for key, remedy in (
        ("client_id", "give the application's id at the provider"),
        ("client_secret", f"Odoo takes no application without one: give it, from Ansible Vault, {other}"),
        ("refresh_token", f"Odoo sends by what a person's authorisation gave: give it, from Ansible Vault, {other}"),
    ):
        problems.text(f"{where}.{key}", oauth.get(key), missing="" if key in told else remedy)
    url = problems.text(f"{where}.token_url", oauth.get("token_url"), _token_url_problem)
    if preset == "gmail" and url not in {"", GMAIL_ENDPOINT}:
        problems.add(f"{where}.token_url", f"Odoo's module Gmail asks {GMAIL_ENDPOINT} and no other: leave it out")
    elif url and not url.endswith("/token"):
        problems.add(f"{where}.token_url", f"{shown(url)} does not end in /token, where Odoo would ask: correct it")


def _expected_dns_problems(problems: Problems, where: str, provider: Mapping[str, Any]) -> None:
    dns = problems.dictionary(where, provider.get("dns"), ("mx", "spf", "dkim"))
    for key in ("mx", "dkim"):
        for place, name in problems.items(f"{where}.{key}", dns.get(key) if dns else None):
            problems.text(place, name, missing="remove the empty entry")
    problems.text(f"{where}.spf", dns.get("spf") if dns else None)


def _provider_problems(problems: Problems, variable: str, database: Mapping[str, Any]) -> None:
    """What keeps a database from having its mailbox and its SMTP at a provider; see with_presets."""
    where = f"{variable}.provider"
    provider = problems.dictionary(where, database["provider"], PROVIDER_KEYS)
    if provider is None:
        return
    preset = problems.text(f"{where}.preset", provider.get("preset"), _one_of(*PRESETS))
    remedy = "give the mailbox's login, mostly its address"
    login = problems.text(f"{where}.login", provider.get("login"), missing=remedy)
    _fetching_problems(problems, where, provider)
    _sending_problems(problems, where, provider, login)
    _expected_dns_problems(problems, f"{where}.dns", provider)
    for place, domain in problems.items(f"{variable}.domains", database.get("domains")):
        if not isinstance(domain, Mapping):
            continue
        remedy = "is the provider's business: make the mailbox or alias there, remove it here"
        for key in ("people", "postmaster"):
            if not is_empty(domain.get(key)):
                problems.add(f"{place}.{key}", remedy)
        own = [f"{domain.get(key, key)}@{domain.get('name')}" for key in ("catchall", "bounce")]
        if login.lower() in own and preset != "microsoft365" and is_empty(provider.get("recipient_header")):
            # Odoo takes what is delivered to the catchall for an answer, and tells the sender when it knows no thread.
            what = "is an address of Odoo's, which all mail in its mailbox would seem to be sent to"
            remedy = "take a mailbox of another name, or say in recipient_header where the provider notes the address"
            problems.add(f"{where}.login", f"{shown(login)} {what}: {remedy}")


def inventory_problems(databases: object) -> list[str]:
    """Problems of `odoo_databases`, presets filled in, one line each. Takes anything, raises nothing."""
    problems = Problems()
    domains: dict[str, str] = {}
    accounts: set[str] = set()
    seen: dict[tuple[str, str], str] = {}
    remedy = "list your Odoo databases as the example inventory does"
    for variable, entry in problems.items("odoo_databases", databases, remedy):
        _database_problems(problems, variable, entry, domains)
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if is_text(name):
            place = (str(entry.get("url")), str(entry.get("database") or name))
            if place in seen:
                problems.add(variable, f"is the same database as {seen[place]}: make one entry of both")
            elif name.lower() in accounts:
                what = f"{shown(name)} is given twice: the mailbox on the mail host has this name"
                problems.add(f"{variable}.name", f"{what}, choose another for one, and give Odoo's name as database")
            accounts.add(name.lower())
            seen[place] = variable
    at_provider = [isinstance(entry, Mapping) and "provider" in entry for entry in entries_of(databases)]
    if any(at_provider) and not all(at_provider):
        remedy = "give all databases a provider or none: a second inventory is for the others"
        problems.add("odoo_databases", f"some have a provider, some a mail server of ours: {remedy}")
    _postmaster_problems(problems, databases, domains)
    return problems.lines


def _key_problem(key_file: str) -> str:
    """What is wrong with the file that holds a TSIG key's secret in base64 (RFC 8945, 4.2); "" when nothing."""
    try:
        path = Path(key_file).expanduser()
        secret = path.read_text(encoding="ascii").strip()
        everybody = path.stat().st_mode & 0o007
    except (OSError, RuntimeError) as error:  # RuntimeError: a ~name of nobody
        reason = (getattr(error, "strerror", None) or "no such user").lower()
        return f"cannot be read ({reason}): write the key's secret into it, mode 0600"
    except ValueError:
        return "is not a TSIG key: it has to hold the key's secret in base64, nothing else"
    if everybody:
        return "can be read by everybody on this machine: chmod 600 it"
    if not secret:
        return "is empty: write the key's secret into it, in base64"
    try:
        base64.b64decode(secret, validate=True)
    except binascii.Error:
        return "is not a TSIG key: it has to hold the key's secret in base64, nothing else"
    return ""


def _algorithm_problem(name: str) -> str:
    if re.search(r"md5|sha1(?!\d)", name):
        return "is broken: make a new key with hmac-sha256"
    return "" if name in KEY_ALGORITHMS else f"is not supported: use one of {', '.join(KEY_ALGORITHMS)}"


def _zone_problem(name: str) -> str:
    if len(name) <= MAX_NAME and all(ZONE_LABEL.fullmatch(label) for label in name.split(".")):
        return ""
    return "is no zone: write it in lower case without a dot at its end, such as example.com or 2.0.192.in-addr.arpa"


def zone_problems(zones: object, read_only: bool = False) -> list[str]:
    """Problems of `dns_records_zones`, reading the key files, one line each. Takes anything, raises nothing.

    read_only: the records are a provider's, so that there is nothing for us to write.
    """
    problems = Problems()
    if read_only and not is_empty(zones):
        problems.add("dns_records_zones", "is not used: at a provider DNS is only looked at, remove it")
        return problems.lines
    names: set[str] = set()
    for variable, entry in problems.items("dns_records_zones", zones):
        zone = problems.dictionary(variable, entry, ZONE_KEYS)
        if zone is None:
            continue
        name = problems.text(f"{variable}.name", zone.get("name"), _zone_problem, "name it, such as example.com")
        if name in names:
            problems.add(f"{variable}.name", f"{name} is given twice: keep one")
        names.add(name or variable)
        problems.text(f"{variable}.server", zone.get("server"), host_problem, "name the zone's primary name server")
        port = zone.get("port", 53)
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
            problems.add(f"{variable}.port", f"{shown(port)} is no port: a number from 1 to 65535")
        remedy = "give the name of the TSIG key that may update the zone"
        problems.text(f"{variable}.key_name", zone.get("key_name"), _key_name_problem, remedy)
        algorithm = zone.get("key_algorithm", KEY_ALGORITHMS[0])
        problems.text(f"{variable}.key_algorithm", algorithm, _algorithm_problem, "leave it out for hmac-sha256")
        remedy = "name the file on the control node with the TSIG key's secret in base64"
        problems.text(f"{variable}.key_file", zone.get("key_file"), _key_problem, remedy)
    return problems.lines


def _provider_class_problem(name: str) -> str:
    return (
        "" if re.fullmatch(r"\w+(\.\w+)+", name) else "is no class: write one as octodns_cloudflare.CloudflareProvider"
    )


def _unset_variables(value: object) -> Iterator[str]:
    """The environment's variables that octoDNS would take a value from (env/NAME, or env/NAME/default) and lacks."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _unset_variables(inner)
    elif isinstance(value, str) and value.startswith("env/"):
        name, slash, _ = value.removeprefix("env/").partition("/")
        if not slash and name not in os.environ:
            yield name


def octodns_problems(
    zones: object, provider: object, command: object, own: object = (), read_only: bool = False
) -> list[str]:
    """Problems of `dns_records_octodns_zones`, and of what is to write them, one line each. Raises nothing.

    own: dns_records_zones. read_only: as for zone_problems. Shows no secret.
    """
    problems, variable = Problems(), "dns_records_octodns_zones"
    if read_only and not is_empty(zones):
        problems.add(variable, "is not used: at a provider DNS is only looked at, remove it")
    if read_only or is_empty(zones):
        return problems.lines
    taken = {zone["name"]: "is written by dns_records_zones" for zone in _whole(own, ["name"])}
    for where, entry in problems.items(variable, zones):
        zone = problems.dictionary(where, entry, OCTODNS_KEYS)
        if zone is None:
            continue
        name = problems.text(f"{where}.name", zone.get("name"), _zone_problem, "name it, such as example.com")
        if name in taken:
            problems.add(f"{where}.name", f"{name} {taken[name]}: keep one of the two")
        taken[name or where] = "is given twice"
        problems.text(f"{where}.server", zone.get("server"), host_problem)
        port = zone.get("port", 53)
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
            problems.add(f"{where}.port", f"{shown(port)} is no port: a number from 1 to 65535")
    where = "dns_records_octodns_provider"
    if isinstance(provider, Mapping):
        remedy = "give the class of the provider, as its package for octoDNS says"
        problems.text(f"{where}.class", provider.get("class"), _provider_class_problem, remedy)
        for name in dict.fromkeys(_unset_variables(provider)):
            problems.add(where, f"takes {shown(name)} from the environment, where it is not set: export it")
    else:
        problems.add(where, f"is {kind(provider)}, not a dictionary: give class, and what octoDNS needs for it")
    where = "dns_records_octodns_command"
    program = problems.text(where, command, missing="leave it out for octodns-sync")
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # RuntimeError: a ~name of nobody
        if not program or shutil.which(Path(program).expanduser()):
            return problems.lines
    remedy = "install octoDNS with the provider's package, and write where its octodns-sync is"
    problems.add(where, f"{shown(program)} is no program on this machine: {remedy}")
    return problems.lines


def _selector_problem(name: str) -> str:
    if name != name.lower() and not _selector_problem(name.lower()):
        return f"has capital letters: write {name.lower()}"
    return (
        "" if SELECTOR.fullmatch(name) else "is no selector: use a-z, digits and hyphens between, at most 50 characters"
    )


def _derived(name: str, prefixes: Sequence[str]) -> list[str]:
    return [f"{prefix}{name}" for prefix in ("", *prefixes)]


def dns_name_problems(databases: object, hosts: object, selector: object) -> list[str]:
    """Problems of `dkim_selector` and of names that are made of the inventory's, one line each. Raises nothing.

    hosts: hostvars of all mail hosts.
    """
    problems = Problems()
    selector = problems.text("dkim_selector", selector, _selector_problem, "leave it out for mailroom1")
    prefix = f"{selector or 'mailroom1'}-ed25519._domainkey."  # no other name in a domain is as long
    remedy = f"characters, and {MAX_NAME} are the most in DNS: use a shorter name"
    for variable, database in Problems().items("odoo_databases", databases):
        for domain in _whole(database.get("domains") if isinstance(database, Mapping) else None, ["name"]):
            if not domain_problem(domain["name"]) and len(prefix + domain["name"]) > MAX_NAME:
                what = f"{prefix}... would have {len(prefix + domain['name'])} {remedy}"
                problems.add(f"{variable}.domains[{domain['name']}].name", what)
    for host in _whole(hosts, ["inventory_hostname"]):
        name = host["inventory_hostname"]
        if not domain_problem(name) and len(f"_25._tcp.{name}") > MAX_NAME:
            problems.add(name, f"_25._tcp.... would have {len(f'_25._tcp.{name}')} {remedy}")
    return problems.lines


def _report_address_problem(address: str) -> str:
    if problem := address_problem(address):
        return problem
    fine = re.fullmatch(r"[A-Za-z0-9._+-]+", address.rpartition("@")[0])  # else it would need %xx (RFC 9989)
    return "" if fine else "cannot stand in a DMARC record: use letters, digits and . _ + - before the @"


def report_problems(addresses: object) -> list[str]:
    """Problems of `dns_records_dmarc_reports`, one line each. Takes anything, raises nothing."""
    problems = Problems()
    for place, (_, address) in enumerate(problems.items("dns_records_dmarc_reports", addresses)):
        where = f"dns_records_dmarc_reports[{place}]"
        problems.text(where, address, _report_address_problem, "remove the empty entry")
    return problems.lines


def unused_zone_problems(
    zones: object,
    databases: object,
    hosts: object,
    selector: object,
    ledger: str,
    delegation: object = "",
    octodns_zones: object = (),
) -> list[str]:
    """Zones of `dns_records_zones`, or of octoDNS, in which nothing of ours would lie, one line each. Raises nothing.

    hosts: hostvars of all mail hosts. ledger: the file that says what was written once, which may have to go.
    delegation: the name below which customers' records are.
    """
    domains = [
        domain["name"]
        for database in entries_of(databases)
        if isinstance(database, Mapping)
        for domain in _whole(database.get("domains"), ["name"])
    ]
    names = [name for domain in domains for name in _derived(domain, (f"{selector}._domainkey.", *DOMAIN_PREFIXES))]
    names += [delegation] if is_text(delegation) else []
    addresses: list[str] = []
    for host in _whole(hosts, ["inventory_hostname"]):
        certified = [name for name in entries_of(host.get("certificate_names")) if is_text(name)]
        for name in (host["inventory_hostname"], *certified):
            names += _derived(name, HOST_PREFIXES)
        for address in (host.get("mail_host_ipv4"), host.get("mail_host_ipv6")):
            try:
                addresses.append(ipaddress.ip_address(str(address)).reverse_pointer)
            except ValueError:
                continue
    with contextlib.suppress(OSError, ValueError, AttributeError, KeyError, TypeError):
        names += [key.partition(" ")[0].rstrip(".") for key in json.loads(Path(ledger).read_text("utf-8"))["records"]]
    problems, quiet = Problems(), Problems()
    every = quiet.items("dns_records_zones", zones), quiet.items("dns_records_octodns_zones", octodns_zones)
    for variable, zone in chain(*every):
        zone_name = zone.get("name") if isinstance(zone, Mapping) else None
        if not is_text(zone_name) or _zone_problem(zone_name):
            continue
        tree = next((end for end in (".in-addr.arpa", ".ip6.arpa") if f".{zone_name}".endswith(end)), "")
        if tree and not any(address.endswith(tree) for address in addresses):
            continue  # no host has such an address, perhaps no longer
        if not any(f".{name}".endswith(f".{zone_name}") for name in (*names, *addresses)):
            near = difflib.get_close_matches(zone_name, domains, 1, 0.8)
            what = f"holds no name of ours{f' ({near[0]}?)' if near else ''}: correct it, or take the zone out"
            problems.add(f"{variable}.name", what)
    return problems.lines


def delegation_problems(
    name: object,
    zones: object,
    octodns_zones: object,
    databases: object,
    selector: object,
    read_only: bool = False,
) -> list[str]:
    """Problems of `dns_records_delegation`, one line each. Takes anything, raises nothing.

    selector: that of the first DKIM keys. read_only: as for zone_problems.
    """
    problems, variable = Problems(), "dns_records_delegation"
    if read_only and not is_empty(name):
        problems.add(variable, "is not used: at a provider DNS is only looked at, remove it")
        return problems.lines
    ours = [f".{zone['name']}" for zone in (*_whole(zones, ["name"]), *_whole(octodns_zones, ["name"]))]
    name = problems.text(variable, name, _zone_problem)
    if name and not any(f".{name}".endswith(zone) for zone in ours):
        remedy = "write the name of one that Mailroom updates, or one in it"
        problems.add(variable, f"{shown(name)} lies in none of dns_records_zones: {remedy}")
    for domain in [domain for entry in _whole(databases, []) for domain in _whole(entry.get("domains"), ["name"])]:
        longest = f"{selector}0-ed25519._domainkey.{domain['name']}.{name}"  # the second selector may have a digit more
        if name and len(longest) > 253 and not any(f".{domain['name']}".endswith(zone) for zone in ours):
            what = f"names of {shown(domain['name'])} below it would be longer than 253 characters"
            problems.add(variable, f"{what}: write a shorter one")
    return problems.lines


def _one_of(*words: str) -> Check:
    return lambda text: "" if text in words else f"cannot be: use one of {', '.join(words)}"


def _header_problem(name: str) -> str:
    return "" if re.fullmatch("[!-9;-~]+", name) else "is no name of a header: write one such as X-Original-To"


def _folder_problem(name: str) -> str:
    return "" if name.isascii() and name.isprintable() else "is no folder we can name: use a name in plain ASCII"


def _token_url_problem(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        fine = safe and bool(parts.hostname) and not re.search(r"\s", url)
    except ValueError:
        fine = False
    return "" if fine else "is no token endpoint: write https:// and the rest, as its provider says"


def _oauth_problems(problems: Problems, where: str, value: object, how: str = "give") -> None:
    """What keeps fetch-and-route from access tokens; `how` is how to come by the refresh token."""
    oauth = problems.dictionary(where, value, OAUTH_KEYS)
    if oauth is None:
        return
    remedy = "say where access tokens come from, https://..."
    problems.text(f"{where}.token_url", oauth.get("token_url"), _token_url_problem, remedy)
    problems.text(f"{where}.client_id", oauth.get("client_id"), missing="give the application's id at the provider")
    grant = oauth.get("grant", "refresh_token")
    problems.text(f"{where}.grant", grant, _one_of("refresh_token", "client_credentials"), "leave it out")
    own = grant == "client_credentials"
    remedy = f"{how} what a person's authorisation gave, from Ansible Vault"
    problems.text(f"{where}.refresh_token", oauth.get("refresh_token"), missing="" if own else remedy)
    remedy = "give the application's secret, from Ansible Vault" if own else ""
    problems.text(f"{where}.client_secret", oauth.get("client_secret"), missing=remedy)
    problems.text(f"{where}.scope", oauth.get("scope"))
    problems.text(f"{where}.ca_file", oauth.get("ca_file"), _ca_file_problem)


def mailbox_problems(mailboxes: object, databases: object) -> list[str]:
    """Problems of `fetch_and_route_mailboxes`, one line each. Takes anything, raises nothing, shows no secret."""
    problems = Problems()
    known = [entry["name"] for entry in _whole(databases, ["name"])]
    names = {name.lower() for name in known}
    for variable, entry in problems.items("fetch_and_route_mailboxes", mailboxes):
        mailbox = problems.dictionary(variable, entry, MAILBOX_KEYS)
        if mailbox is None:
            continue
        remedy = "is no name: use letters, digits and . _ -"
        name = problems.text(f"{variable}.name", mailbox.get("name"), matches(DATABASE, remedy), "give it one")
        if name.lower() in names:
            problems.add(f"{variable}.name", f"{name} is a database's or another mailbox's: choose another name")
        names.add(name.lower() or variable)
        remedy = "name the database its mail goes to"
        problems.text(f"{variable}.database", mailbox.get("database"), _one_of(*known), remedy)
        host = problems.text(f"{variable}.host", mailbox.get("host"), host_problem, "name the server")
        protocol = mailbox.get("protocol", "imap")
        problems.text(f"{variable}.protocol", protocol, _one_of("imap", "pop3"), "leave it out for imap")
        if protocol == "pop3" and host in GMAIL_POP3:
            problems.add(f"{variable}.host", "Gmail shows a message only once over POP3: use imap.gmail.com")
        port = mailbox.get("port", 993)
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
            problems.add(f"{variable}.port", f"{shown(port)} is no port: a number from 1 to 65535")
        tls = mailbox.get("tls", "on_connect")
        problems.text(f"{variable}.tls", tls, _one_of("on_connect", "starttls"), "leave it out for on_connect")
        problems.text(f"{variable}.ca_file", mailbox.get("ca_file"), _ca_file_problem)
        problems.text(f"{variable}.login", mailbox.get("login"), missing="give the user's name at the server")
        problems.text(f"{variable}.recipient_header", mailbox.get("recipient_header"), _header_problem)
        for key in ("inbox", "routed", "quarantine"):
            problems.text(f"{variable}.{key}", mailbox.get(key), _folder_problem)
        auth = mailbox.get("auth", "password")
        problems.text(f"{variable}.auth", auth, _one_of("password", "oauth2"), "leave it out for password")
        if auth == "oauth2":
            _oauth_problems(problems, f"{variable}.oauth", mailbox.get("oauth"))
        elif not is_empty(mailbox.get("oauth")):
            problems.add(f"{variable}.oauth", "is not used: write auth: oauth2, or remove it")
        remedy = "" if auth == "oauth2" else "give the login's password, from Ansible Vault"
        problems.text(f"{variable}.password", mailbox.get("password"), missing=remedy)  # no check: never shown
        if auth == "oauth2" and not is_empty(mailbox.get("password")):
            problems.add(f"{variable}.password", "is not used with auth: oauth2: remove it")
    return problems.lines


def _resolver_problem(text: str) -> str:
    """What keeps a text from being the address of a resolver as unbound takes it, with or without @port."""
    address, at, port = text.partition("@")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return "is no address of a resolver: write one such as 192.0.2.53 or 192.0.2.53@5353"
    if at and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536):
        return "has no port after its @: a number from 1 to 65535"
    return ""


def resolver_problems(forwarders: object, zones: object, anchors: object) -> list[str]:
    """Problems of what `unbound` is told of others, one line each. Takes anything, raises nothing."""
    problems = Problems()
    for variable, server in problems.items("unbound_forwarders", forwarders):
        problems.text(variable, server, _resolver_problem, "remove the empty entry")
    for variable, entry in problems.items("unbound_forward_zones", zones):
        zone = problems.dictionary(variable, entry, FORWARD_ZONE_KEYS)
        if zone is None:
            continue
        problems.text(f"{variable}.name", zone.get("name"), _zone_problem, "name it, such as corp.example")
        servers = problems.items(f"{variable}.servers", zone.get("servers"), "give the addresses of its servers")
        for where, server in servers:
            problems.text(where, server, _resolver_problem, "remove the empty entry")
    remedy = "is no DS or DNSKEY record: write it as in a zone file, with the zone's whole name and a dot"
    for variable, anchor in problems.items("unbound_trust_anchors", anchors):
        problems.text(variable, anchor, matches(TRUST_ANCHOR, remedy), "remove the empty entry")
    return problems.lines


def _smarthost_host_problem(name: str) -> str:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return domain_problem(name).replace("domain", "host name")
    return "is an address: write the server's name, which its certificate has"


def _smarthost_port_problem(port: object, tls: object) -> str:
    """What keeps a port from being one, or from being one for that kind of TLS; "" when nothing."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        return f"{shown(port)} is no port: a number from 1 to 65535"
    if tls == "on_connect" and port in (25, 587):
        return f"{port} begins without TLS: write tls: starttls"
    return "465 begins with TLS: leave tls out" if tls == "starttls" and port == 465 else ""


def smarthost_problems(smarthosts: object, databases: object) -> list[str]:
    """Problems of `postfix_smarthosts`, one line each. Takes anything, raises nothing, shows no secret."""
    problems = Problems()
    domains = [
        domain["name"]
        for database in entries_of(databases)
        if isinstance(database, Mapping)
        for domain in _whole(database.get("domains"), ["name"])
    ]
    taken: set[str] = set()
    catches_all = False
    for place, (_, entry) in enumerate(problems.items("postfix_smarthosts", smarthosts)):
        host = entry.get("host") if isinstance(entry, Mapping) else None
        variable = f"postfix_smarthosts[{host if is_text(host) and host.isprintable() else place}]"
        smarthost = problems.dictionary(variable, entry, SMARTHOST_KEYS)
        if smarthost is None:
            continue
        problems.text(f"{variable}.host", host, _smarthost_host_problem, "name the provider's server")
        tls = problems.text(f"{variable}.tls", smarthost.get("tls", "on_connect"), _one_of("on_connect", "starttls"))
        port = smarthost.get("port", 587 if tls == "starttls" else 465)
        if problem := _smarthost_port_problem(port, tls):
            problems.add(f"{variable}.port", problem)
        both = port != 25 or not is_empty(smarthost.get("login")) or not is_empty(smarthost.get("password"))
        remedy = "give the login at the server (only on port 25 may it know this host by its address)" if both else ""
        login = problems.text(f"{variable}.login", smarthost.get("login"), missing=remedy)
        if ":" in login or not login.isprintable() or login.strip() != login:
            problems.add(f"{variable}.login", f"{shown(login)} cannot be kept: no colon, nor a space at its ends")
        remedy = "give the login's password, from Ansible Vault" if both else ""
        password = problems.text(f"{variable}.password", smarthost.get("password"), missing=remedy)  # never shown
        if not password.isprintable() or password.strip() != password:
            problems.add(f"{variable}.password", "cannot be kept: it has a space at its ends or a control character")
        own = list(problems.items(f"{variable}.domains", smarthost.get("domains")))
        if not own and catches_all:
            problems.add(variable, "is the second without domains: say which senders' mail it takes")
        catches_all = catches_all or not own
        for number, (_, domain) in enumerate(own):
            where = f"{variable}.domains[{number}]"
            name = problems.text(where, domain, _one_of(*domains), "remove the empty entry")
            if name in taken:
                problems.add(where, f"{name} is given twice: a domain has one smarthost")
            elif name:
                taken.add(name)
    return problems.lines


def _dnsbl_problem(site: str) -> str:
    found = DNSBL.fullmatch(site)
    if not found or domain_problem(found["list"]):
        return "is no list: write one such as zen.spamhaus.org=127.0.0.[2..11]*3"
    if not found["answers"]:  # 127.255.255.254 is what Spamhaus answers to a resolver that asks too much
        return "counts every answer, errors too, and would refuse all mail: write which do, such as =127.0.0.[2..11]"
    if not found["answers"].startswith("127."):
        return "counts answers that no list gives: write which do, such as =127.0.0.[2..11]"
    return ""


def dnsbl_problems(sites: object) -> list[str]:
    """Problems of `postfix_dnsbl_sites`, one line each. Takes anything, raises nothing."""
    problems = Problems()
    for place, (_, site) in enumerate(problems.items("postfix_dnsbl_sites", sites)):
        problems.text(f"postfix_dnsbl_sites[{place}]", site, _dnsbl_problem, "remove the empty entry")
    return problems.lines


def _key_name_problem(name: str) -> str:
    labels = name.lower().removesuffix(".").split(".")
    return "" if all(ZONE_LABEL.fullmatch(label) for label in labels) else "is no name of a key: see your name server"


def _address_problem(version: int) -> Check:
    example = "192.0.2.25" if version == 4 else "2001:db8::25"

    def check(text: str) -> str:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return f"is no IPv{version} address: write one such as {example}"
        if address.version != version:
            return f"is no IPv{version} address: write one such as {example}"
        if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
            return "cannot be reached by others: give the host's public address"
        return ""

    return check


def host_problems(
    hosts: object, policies: Mapping[str, Sequence[str]] = MappingProxyType({}), routes_only: bool = False
) -> list[str]:
    """Problems of mail hosts, one line each; takes their hostvars, with facts of mail_host_facts. Raises nothing.

    policies: the names under which a host serves MTA-STS policies. routes_only: they get no mail server, so that nobody
    has to reach them.
    """
    problems = Problems()
    for host in entries_of(hosts):
        if not isinstance(host, Mapping):
            continue
        name = str(host.get("inventory_hostname"))
        if not name.isprintable():
            name = shown(name)
        if not routes_only and (problem := domain_problem(name)):
            remedy = "name it in the inventory by its full host name, and say where it is in ansible_host"
            problems.add(name, f"{problem.partition(':')[0].replace('domain', 'full host name')}: {remedy}")
        missing = "" if routes_only else "give the host's public IPv4 address"
        problems.text(f"mail_host_ipv4 of {name}", host.get("mail_host_ipv4"), _address_problem(4), missing)
        problems.text(f"mail_host_ipv6 of {name}", host.get("mail_host_ipv6"), _address_problem(6))
        facts = host.get("ansible_facts")
        if not isinstance(facts, Mapping) or "distribution" not in facts:
            continue
        release = facts.get("distribution_major_version")
        if facts["distribution"] != "Debian" or release not in DEBIAN:
            found = f"{facts['distribution']} {release}".strip() or "no system that we know"
            problems.add(name, f"is {found}: use a host with Debian {' or '.join(DEBIAN)}")
        if facts.get("effective_user_id"):
            problems.add(name, "is entered as a user who is not root: set ansible_user: root, or ansible_become: true")
            continue
        taken = {} if routes_only else facts.get("taken_ports")
        for port, process in taken.items() if isinstance(taken, Mapping) else ():
            if not {"995": host.get("dovecot_pop3"), "443": policies.get(name)}.get(str(port), True):
                continue
            remedy = "or write mta_sts_enabled: false" if str(port) == "443" else "or use another host"
            problems.add(name, f"port {port} is taken by {process}: stop and remove it, {remedy}")
    return problems.lines


def only_odoo_online(databases: object) -> bool:
    """Whether there are databases and all of them are Odoo Online (*.odoo.com). Takes anything, raises nothing."""
    entries = entries_of(databases)
    return bool(entries) and all(isinstance(entry, Mapping) and is_online(entry.get("url")) for entry in entries)


def askable_databases(databases: object) -> list[dict[str, Any]]:
    """What of `odoo_databases` is sound enough to ask Odoo about: the rest has lines of its own. Raises nothing.

    Leaves out databases without the means to log in, Odoo Online, domains without a name and incomplete aliases.
    """
    askable: list[dict[str, Any]] = []
    for entry in entries_of(databases):
        if not isinstance(entry, Mapping):
            continue
        database: dict[str, Any] = {key: entry.get(key) for key in ("name", "url", "login", "password")}
        if not all(map(is_text, database.values())) or url_problem(database["url"]) or is_online(database["url"]):
            continue
        database |= {key: entry[key] for key in ("database", "ca_file") if isinstance(entry.get(key), str)}
        domains = _whole(entry.get("domains"), ("name",))
        database["domains"] = [
            {
                "name": domain["name"],
                **{key: domain[key] for key in ("catchall", "bounce") if isinstance(domain.get(key), str)},
                "aliases": _whole(domain.get("aliases"), ("name", "model", "record")),
                "people": _whole(domain.get("people"), ("name",)),
            }
            for domain in domains
        ]
        askable.append(database)
    return askable


def _whole(entries: object, keys: Sequence[str]) -> list[Mapping[str, Any]]:
    """The dictionaries of a list that have text under all of the keys."""
    return [
        entry
        for entry in entries_of(entries)
        if isinstance(entry, Mapping) and all(is_text(entry.get(key)) for key in keys)
    ]


def problem_count(problems: Sequence[str]) -> str:
    """How many problems there are, in words."""
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"


def problem_list(problems: Sequence[str]) -> str:
    """All problems as a person reads them, under a line that counts them."""
    return "\n".join([f"{problem_count(problems)}; nothing was changed:", *problems])


class FilterModule:
    """Ansible's door to the functions above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {
            "askable_databases": askable_databases,
            "delegation_problems": delegation_problems,
            "dns_name_problems": dns_name_problems,
            "dnsbl_problems": dnsbl_problems,
            "host_problems": host_problems,
            "inventory_problems": inventory_problems,
            "mailbox_problems": mailbox_problems,
            "octodns_problems": octodns_problems,
            "only_odoo_online": only_odoo_online,
            "problem_count": problem_count,
            "problem_list": problem_list,
            "report_problems": report_problems,
            "resolver_problems": resolver_problems,
            "smarthost_problems": smarthost_problems,
            "unused_zone_problems": unused_zone_problems,
            "zone_problems": zone_problems,
        }
