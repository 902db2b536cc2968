# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which addresses the mail host knows, and where the mail for each of them goes: the content of Postfix's tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

# The local mailbox of whoever runs the host. Its domain is `localhost` because every other name may be a mail domain.
POSTMASTER = "postmaster@localhost"
# The local mailbox of what other servers report about our mail, by machines for machines; it has a domain of its own,
# by which Dovecot finds mailboxes. The names are those that mail_rrsets publishes.
REPORTS = "reports@reports.localhost"
REPORT_NAMES = ("dmarc-reports", "tls-reports")
# RFC 2142 sections 4 and 5, RFC 5321 section 4.5.1: a mail domain has these two, whatever else it has.
ROLE_NAMES = ("abuse", "postmaster")
# Who gets mail at the host's own name: cron and the like write to root, people answer to Postfix's own reports.
HOST_NAMES = ("abuse", "mailer-daemon", "postmaster", "root")
# Odoo's own defaults, see addons/mail/models/mail_alias_domain.py of Odoo 17 and later.
OWN_NAMES = {"catchall": "catchall", "bounce": "bounce", "default_from": "notifications"}

# RFC 5322 section 3.2.3, dot-atom. Nothing that Postfix's tables or Dovecot's files would read as a separator.
_DOT_ATOM = re.compile(r"[a-z0-9!#$%&'*/=?^_`{|}~+-]+(\.[a-z0-9!#$%&'*/=?^_`{|}~+-]+)*")
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_IP_ADDRESS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-f]*:[0-9a-f:]+")


def _name(value: object, where: str) -> str:
    """A local part in lower case, as Postfix looks it up. Raises ValueError."""
    name = str(value).lower()
    if not _DOT_ATOM.fullmatch(name):
        raise ValueError(f"{where}: {value!r} is not the part of an address before the @: use letters, digits, . - _")
    return name


def _host(value: object, where: str) -> str:
    """A host or domain name in lower case without the final dot. Raises ValueError."""
    host = str(value).lower().rstrip(".")
    if not _HOST_NAME.fullmatch(host):
        raise ValueError(
            f"{where}: {value!r} is not a domain name: write it like example.com (xn--... if it has accents)"
        )
    return host


def _address(value: object, where: str) -> str:
    """A mail address in lower case. Raises ValueError."""
    local, at, domain = str(value).rpartition("@")
    if not at:
        raise ValueError(f"{where}: {value!r} is not a mail address: write it like user@example.com")
    return f"{_name(local, where)}@{_host(domain, where)}"


def _next_hop(value: object, where: str) -> str:
    """The transport to a host without a look-up of its MX, see transport(5). Raises ValueError."""
    host = str(value).lower().strip("[]")
    return f"smtp:[{host if _IP_ADDRESS.fullmatch(host) else _host(host, where)}]"


def _domains(databases: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Each domain as (database, name in lower case, its entry). Raises ValueError when two databases share one."""
    owners: dict[str, str] = {}
    for database in databases:
        for domain in database["domains"]:
            name = _host(domain["name"], f"odoo_databases, {database['name']}")
            if name in owners:
                raise ValueError(
                    f"odoo_databases, {database['name']}: {name} already belongs to {owners[name]}: "
                    "a domain can only belong to one database, use a subdomain for the other"
                )
            owners[name] = database["name"]
            yield database["name"], name, domain


def domain_databases(databases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Each mail domain with the database (and so the mailbox) it belongs to.

    `databases` is the inventory's odoo_databases. Raises ValueError for a domain that is none or that two share.
    """
    return {name: database for database, name, _ in _domains(databases)}


def sender_logins(databases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Postfix's smtpd_sender_login_maps: a database's account may use every local part of its domains.

    Odoo needs them all: bounce+..., notifications, every user's own address, those of campaigns and templates.
    """
    return {f"@{domain}": database.lower() for domain, database in domain_databases(databases).items()}


def people_transports(databases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Postfix's transport_maps: the addresses of people, with the host that has their mailbox."""
    transports: dict[str, str] = {}
    for _, domain, entry in _domains(databases):
        where = f"odoo_databases, people of {domain}"
        for person in entry.get("people") or []:
            transports[f"{_name(person['name'], where)}@{domain}"] = _next_hop(person["relay_to"], where)
    return transports


def smarthosts(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each smarthost of `postfix_smarthosts` as Postfix needs it, all keys filled in.

    `service` (its name in master.cf), `next_hop` ([host]:port), `tls` (on_connect or starttls), `login` and `password`
    ("" when it asks for none), `domains` (of senders; [] for all that no other has). Raises ValueError for no host.
    """
    found: list[dict[str, Any]] = []
    for number, entry in enumerate(entries, 1):
        tls = entry.get("tls") or "on_connect"
        host = _host(entry["host"], "postfix_smarthosts")
        port = entry.get("port") or {"on_connect": 465, "starttls": 587}[tls]
        found.append(
            {
                "service": f"smarthost{number}",
                "next_hop": f"[{host}]:{port}",
                "tls": tls,
                "login": entry.get("login") or "",
                "password": entry.get("password") or "",
                "domains": [_host(domain, f"postfix_smarthosts, {host}") for domain in entry.get("domains") or []],
            }
        )
    return found


def default_transport(entries: Sequence[Mapping[str, Any]]) -> str:
    """Postfix's default_transport: the smarthost without domains, else each recipient's own mail server.

    Mail without a sender, which Postfix's own reports are, goes this way, too.
    """
    found = [f"{each['service']}:{each['next_hop']}" for each in smarthosts(entries) if not each["domains"]]
    return found[0] if found else "smtp"


def smarthost_transports(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Postfix's sender_dependent_default_transport_maps: the domains of senders with their smarthost."""
    return {
        f"@{domain}": f"{each['service']}:{each['next_hop']}"
        for each in smarthosts(entries)
        for domain in each["domains"]
    }


def smarthost_passwords(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Postfix's smtp_sasl_password_maps: `login:password` by the sender's domain, else by the smarthost.

    Only the services of smarthosts log in at all, so that no other server is ever shown what belongs to a domain.
    """
    logins: dict[str, str] = {}
    for each in smarthosts(entries):
        keys = [f"@{domain}" for domain in each["domains"]] or [each["next_hop"]]
        logins.update({key: f"{each['login']}:{each['password']}" for key in keys if each["login"]})
    return logins


def _odoo_names(entry: Mapping[str, Any], former: Iterable[object], where: str) -> set[str]:
    """Local parts of a domain whose mail goes to Odoo."""
    names = [entry.get(key) or default for key, default in OWN_NAMES.items()]
    names += entry.get("former_names") or []
    names += [alias["name"] for alias in entry.get("aliases") or []]
    names += former
    return {_name(name, where) for name in names}


def _listed(databases: Sequence[Mapping[str, Any]], odoo: Mapping[str, Any] | None) -> set[str]:
    """The addresses that are somebody's on purpose: Odoo's and people's."""
    addresses = set(people_transports(databases))
    for database, domain, entry in _domains(databases):
        former = ((odoo or {}).get(database) or {}).get("former") or {}
        names = _odoo_names(entry, former.get(entry["name"]) or [], f"odoo_databases, {domain}")
        addresses.update(f"{name}@{domain}" for name in names)
    return addresses


def forwards(databases: Sequence[Mapping[str, Any]], odoo: Mapping[str, Any] | None, host: str) -> dict[str, str]:
    """Postfix's virtual_alias_maps: postmaster and abuse of each domain, and the host's own root, postmaster...

    They go where the domain's `postmaster` says, else to the local mailbox, and each domain's reports to theirs, unless
    the address is Odoo's or a person's.
    `odoo` is what preflight found in Odoo (preflight_odoo), `host` the mail host's own name.
    """
    targets = {f"{name}@{_host(host, 'inventory_hostname')}": POSTMASTER for name in HOST_NAMES}
    for _, domain, entry in _domains(databases):
        forward = entry.get("postmaster")
        target = _address(forward, f"odoo_databases, postmaster of {domain}") if forward else POSTMASTER
        targets.update({f"{name}@{domain}": target for name in ROLE_NAMES})
        targets.update({f"{name}@{domain}": REPORTS for name in REPORT_NAMES})
    taken = _listed(databases, odoo) | {POSTMASTER}
    return {address: target for address, target in sorted(targets.items()) if address not in taken}


def recipients(databases: Sequence[Mapping[str, Any]], odoo: Mapping[str, Any] | None, host: str) -> list[str]:
    """Every address that mail is accepted for, sorted (sub-addresses of them come in addition).

    `odoo` and `host` as for `forwards`. Raises ValueError for what is no address, naming it and its place.
    """
    return sorted(_listed(databases, odoo) | set(forwards(databases, odoo, host)) | {POSTMASTER, REPORTS})


class FilterModule:
    """Ansible's door to the functions above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {
            "default_transport": default_transport,
            "domain_databases": domain_databases,
            "forwards": forwards,
            "people_transports": people_transports,
            "recipients": recipients,
            "sender_logins": sender_logins,
            "smarthost_passwords": smarthost_passwords,
            "smarthost_transports": smarthost_transports,
            "smarthosts": smarthosts,
        }
