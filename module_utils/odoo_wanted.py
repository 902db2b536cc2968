# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Odoo's side of a mail server is to be like, as data: one function for each part, for every version of Odoo.

Each takes entries of the inventory and what this Odoo can do, and answers the records as they are wanted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from module_utils import odoo_oauth
    from module_utils.odoo_records import Item, Record, Ref, show, signed
else:
    from ansible.module_utils import odoo_oauth
    from ansible.module_utils.odoo_records import Item, Record, Ref, show, signed

GATEWAY = "Mailroom gateway"  # the server action and its group
LOGIN = "mailroom-gateway"
MASS_MAILING = "Mailroom mass mailing"
FORMER_NAMES = "mailroom.former_names"  # system parameter: JSON {domain: [local parts]}
CUSTOM_SERVERS = "base_setup.default_external_email_server"
# Before Odoo 17 a database's one alias domain is four system parameters.
PARAMETERS = {
    "name": "mail.catchall.domain",
    "catchall_alias": "mail.catchall.alias",
    "bounce_alias": "mail.bounce.alias",
    "default_from": "mail.default.from",
}
# What an administrator may be called before anybody has given an address (odoo/addons/base/data).
PLACEHOLDERS = ("admin@example.com", "admin@yourcompany.example.com")
# Fields that tell versions and installed apps apart.
FEATURES = {
    "mail.alias.domain": ["catchall_alias"],
    "mail.gateway.allowed": ["email"],
    "mailing.mailing": ["mail_server_id"],
    "fetchmail.server": ["server_type", *odoo_oauth.TOKENS],
    "ir.mail_server": ["from_filter", "smtp_authentication", "owner_user_id", *odoo_oauth.FIELDS],
    "ir.actions.server": ["group_ids", "groups_id"],
    "res.users": ["group_ids", "groups_id"],
    "res.users.apikeys": ["expiration_date"],
}
# Scheduled actions by their key in the inventory: what people call them, and their name in ir.model.data.
SCHEDULES = {
    "queue_minutes": ("mail queue", "ir_cron_mail_scheduler_action"),
    "fetch_minutes": ("fetching", "ir_cron_mail_gateway_action"),
}
LIMITS = {"loop_minutes": "mail.gateway.loop.minutes", "loop_threshold": "mail.gateway.loop.threshold"}
# Keys of a database that take a field which not every Odoo has: the field, what is wrong, what to do.
LOOP = ("mail.gateway.allowed", "email", "has no limit against loops", "leave it out, or upgrade to Odoo 16")
NEEDS = {
    "loop_minutes": LOOP,
    "loop_threshold": LOOP,
    "allowed_senders": LOOP,
    "mass_mailing_server": (
        "mailing.mailing",
        "mail_server_id",
        "has no mass mailing",
        "install its app Email Marketing",
    ),
}
MASS_MAILING_SWITCH = "mass_mailing.outgoing_mail_server"
MASS_MAILING_SERVER = "mass_mailing.mail_server_id"
ALLOWED_DOMAINS = "mail.catchall.domain.allowed"
# All system parameters that may be written.
PARAMETER_KEYS = (
    FORMER_NAMES,
    CUSTOM_SERVERS,
    *PARAMETERS.values(),
    *LIMITS.values(),
    ALLOWED_DOMAINS,
    MASS_MAILING_SWITCH,
    MASS_MAILING_SERVER,
    *odoo_oauth.PARAMETER_KEYS,
)


@dataclasses.dataclass(frozen=True)
class Features:
    """What this Odoo can do, found out rather than guessed from its version."""

    fields: frozenset[tuple[str, str]]
    encryptions: tuple[str, ...]
    major: int

    def has(self, model: str, field: str) -> bool:
        """Whether the model has the field."""
        return (model, field) in self.fields

    def of(self, model: str) -> frozenset[str]:
        """The fields of the model."""
        return frozenset(field for name, field in self.fields if name == model)

    @property
    def json2(self) -> bool:
        """Whether JSON-2 is there, which takes an API key as it is."""
        return self.major >= 19

    @property
    def alias_domains(self) -> bool:
        """Whether alias domains are records (17 on) rather than system parameters."""
        return self.has("mail.alias.domain", "catchall_alias")

    def groups(self, model: str) -> str:
        """The name of the model's field for groups: group_ids from 19 on."""
        return "group_ids" if self.has(model, "group_ids") else "groups_id"

    def encryption(self, kind: str) -> str:
        """Odoo's word for `ssl` or `starttls`, of the kind that verifies the certificate where there is one (19 on)."""
        return f"{kind}_strict" if f"{kind}_strict" in self.encryptions else kind


def alias_domain(domain: Record) -> dict[str, str]:
    """A domain of the inventory with the fields of an alias domain."""
    return {
        "name": domain["name"],
        "catchall_alias": domain.get("catchall") or "catchall",
        "bounce_alias": domain.get("bounce") or "bounce",
        "default_from": domain.get("default_from") or "notifications",
    }


def companies_of(domain: Record) -> list[dict[str, str]]:
    """The companies of a domain, name and email (may be ""); a mere text is the name."""
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in domain.get("companies") or []]
    return [{"name": entry["name"], "email": entry.get("email") or ""} for entry in entries]


def former_names(
    recorded: Mapping[str, Sequence[str]], today: Iterable[Record], domains: Iterable[Record]
) -> dict[str, list[str]]:
    """The names to record for each domain: those recorded, and those of `today` that `domains` no longer want.

    `today` are alias domains as Odoo has them, `domains` as the inventory wants them, both with name, catchall_alias
    and bounce_alias.
    """
    names = {domain: list(known) for domain, known in recorded.items()}
    wanted = {domain["name"]: domain for domain in domains}
    for domain in today:
        if domain["name"] not in wanted:
            continue
        for field in ("catchall_alias", "bounce_alias"):
            name = domain[field]
            if name and name != wanted[domain["name"]][field] and name not in names.get(domain["name"], []):
                names.setdefault(domain["name"], []).append(name)
    return names


def parameter(key: str, value: str | Ref, ours: bool = False) -> Item:
    """A system parameter."""
    return Item(f"parameter {key}", "ir.config_parameter", key, {"value": value}, ours)


def domain_items(domains: Sequence[Mapping[str, str]], features: Features) -> list[Item]:
    """The switch for own servers, and the alias domains: records, or parameters before Odoo 17."""
    items = [parameter(CUSTOM_SERVERS, "True")]
    for domain in domains:
        if features.alias_domains:
            items.append(Item(f"domains[{domain['name']}]", "mail.alias.domain", domain["name"], domain))
        else:
            items += [parameter(key, domain[field]) for field, key in PARAMETERS.items()]
    return items


def company_items(domains: Sequence[Record], companies: Sequence[Record], features: Features) -> list[Item]:
    """Which company gets which alias domain: as told, else one that has none of ours gets the first; and its address.

    `companies` are those of Odoo, with name, email and, from 17 on, alias_domain_id.
    """
    told = {company["name"]: (domain["name"], company) for domain in domains for company in companies_of(domain)}
    ours = {domain["name"] for domain in domains}
    items = []
    for company in companies:
        wanted: dict[str, Any] = {}
        name, entry = told.get(company["name"], ("", {}))
        if features.alias_domains:
            today = company["alias_domain_id"][1] if company["alias_domain_id"] else ""
            if not name and (not today or (len(companies) == 1 and today not in ours)):
                name = domains[0]["name"]
            if name:
                wanted["alias_domain_id"] = Ref("mail.alias.domain", name)
        if entry.get("email"):
            wanted["email"] = entry["email"]
        if wanted:
            items.append(Item(f"company {company['name']}", "res.company", company["name"], wanted))
    return items


def domains_of_companies(companies: Sequence[Record], items: Sequence[Item]) -> dict[str, str]:
    """The alias domain of each company after the items, by the company's name. `companies` are as for company_items."""
    wanted = {item.name: item.wanted.get("alias_domain_id") for item in items}
    return {
        company["name"]: ref.name
        if isinstance(ref := wanted.get(company["name"]), Ref)
        else show("", company["alias_domain_id"])
        for company in companies
    }


def companies_without_address(
    domains: Sequence[Mapping[str, str]], companies: Sequence[Record], items: Sequence[Item], features: Features
) -> list[str]:
    """The companies of our domains that have no address, or the catchall's or bounce's, also after the items."""
    own = {f"{domain[key]}@{domain['name']}" for domain in domains for key in ("catchall_alias", "bounce_alias")}
    ours = {domain["name"] for domain in domains}
    wanted = {item.name: item.wanted for item in items}
    names = []
    for company in companies:
        after = {**company, **wanted.get(company["name"], {})}
        affected = not features.alias_domains or show("", after["alias_domain_id"]) in ours
        if affected and (after["email"] or "").lower() in {"", *own}:
            names.append(company["name"])
    return names


def single_addresses(from_filter: str, domains: Sequence[str]) -> list[str]:
    """The addresses of our domains in a FROM filter that has not the whole domain, too."""
    entries = [entry.strip().lower() for entry in from_filter.split(",")]
    places = [(entry, entry.partition("@")[2]) for entry in entries if "@" in entry]
    return [address for address, domain in places if domain in domains and domain not in entries]


def outgoing(name: str, host: str, domains: Sequence[str], login: Record, features: Features) -> dict[str, Any]:
    """An outgoing server (ir.mail_server); `login` may have port, tls, login, and password or oauth."""
    oauth = login.get("oauth") or {}
    starttls = bool(oauth) or login.get("tls") == "starttls"
    values: dict[str, Any] = {
        "name": name,
        "active": True,
        "smtp_host": host,
        "smtp_port": login.get("port") or (587 if starttls else 465),
        "smtp_encryption": features.encryption("starttls" if starttls else "ssl"),
        "smtp_user": login["login"],
        "smtp_pass": login.get("password"),
    }
    values |= odoo_oauth.authentication(oauth, features.of("ir.mail_server"))
    if features.has("ir.mail_server", "from_filter"):
        # The envelope sender is the bounce address only where this filter matches it, so domains, not addresses.
        values["from_filter"] = ",".join(domains if features.alias_domains else domains[:1])
    return values


def outgoing_items(servers: Sequence[Record], domains: Sequence[str], features: Features) -> list[Item]:
    """The outgoing servers (ir.mail_server), the preferred one first; each as for outgoing, with its host."""
    items = []
    for number, server in enumerate(servers, start=1):
        host, name = server["host"], f"Mailroom {server['host']}"
        values = {"sequence": number} | outgoing(name, host, domains, server, features)
        items.append(Item(f"outgoing server {host}", "ir.mail_server", name, values, ours=True))
    return items


def incoming_items(servers: Sequence[Record]) -> list[Item]:
    """The incoming servers (fetchmail.server); each has type (imap or pop), host, port, login and password."""
    items = []
    for server in servers:
        name = f"Mailroom {server['host']}"
        values = {
            "name": name,
            "active": False,  # fetch-and-route fetches; Odoo's cron must not
            "server_type": server["type"],
            "server": server["host"],
            "port": server["port"],
            "is_ssl": True,
            "user": server["login"],
            "password": server["password"],
            "object_id": False,  # new threads come from aliases alone
        }
        items.append(Item(f"incoming server {server['host']}", "fetchmail.server", name, values, ours=True))
    return items


def mass_mailing_items(server: Record, domains: Sequence[str], features: Features) -> list[Item]:
    """The outgoing server for mass mailings alone, as for outgoing_items, and the settings that name it."""
    # Last, so that no other mail takes it: Odoo takes the first that matches the sender.
    values = {"sequence": 1000} | outgoing(MASS_MAILING, server["host"], domains, server, features)
    return [
        Item(f"mass_mailing_server {server['host']}", "ir.mail_server", MASS_MAILING, values, ours=True),
        parameter(MASS_MAILING_SWITCH, "True"),
        parameter(MASS_MAILING_SERVER, Ref("ir.mail_server", MASS_MAILING, text=True)),
    ]


def setting_items(settings: Record) -> list[Item]:
    """What the inventory names of Odoo's other settings: schedules, limits against loops, who and what is allowed."""
    items = [
        Item(what, "ir.cron", name, {"interval_number": settings[key], "interval_type": "minutes"})
        for key, (what, name) in SCHEDULES.items()
        if settings.get(key)
    ]
    items += [parameter(name, str(settings[key])) for key, name in LIMITS.items() if settings.get(key)]
    if settings.get("allowed_domains"):
        items.append(parameter(ALLOWED_DOMAINS, ",".join(settings["allowed_domains"])))
    items += [
        Item(f"allowed_senders[{sender}]", "mail.gateway.allowed", sender, {"email": sender})
        for sender in settings.get("allowed_senders") or []
    ]
    return items


def gateway_items(
    code: str, thread: int, portal: int, user: Record | None, group: int, features: Features
) -> list[Item]:
    """The gateway action, its group and its portal user; `user` and `group` as they are, None and 0 if not there."""
    groups: list[Any] = [portal, Ref("res.groups", GATEWAY)]
    field = features.groups("res.users")
    if user and group and user["share"] and {portal, group} <= set(user[field]):
        groups = user[field]  # portal's group may imply others
    action = {
        "name": GATEWAY,
        "model_id": [thread, "mail.thread"],
        "state": "code",
        "code": signed(code),
        features.groups("ir.actions.server"): [Ref("res.groups", GATEWAY)],
    }
    return [
        Item(f"group {GATEWAY}", "res.groups", GATEWAY, {"name": GATEWAY}, ours=True),
        Item(f"user {LOGIN}", "res.users", LOGIN, {"name": GATEWAY, "active": True, field: groups}, ours=True),
        Item("gateway action", "ir.actions.server", GATEWAY, action, ours=True),
    ]


def alias_items(domains: Sequence[Record], features: Features) -> list[Item]:
    """The business aliases, on their owner records."""
    items = []
    for domain in domains:
        for alias in domain.get("aliases") or []:
            wanted: dict[str, Any] = {"alias_name": alias["name"]}
            if features.alias_domains:
                wanted["alias_domain_id"] = Ref("mail.alias.domain", domain["name"])
            if alias.get("contact"):
                wanted["alias_contact"] = alias["contact"]
            what = f"domains[{domain['name']}].aliases[{alias['name']}]"
            items.append(Item(what, alias["model"], alias["record"], wanted))
    return items
