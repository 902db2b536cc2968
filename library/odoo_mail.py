#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Odoo's side of a mail server as desired state: domains, servers, the gateway, business aliases, Odoo's own tests."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from module_utils.odoo_rpc import Odoo, OdooError
else:
    from ansible.module_utils.odoo_rpc import Odoo, OdooError

DOCUMENTATION = r"""
module: odoo_mail
short_description: Odoo's side of a mail server
description:
  - Runs on the control node. For each database, all at the same time - alias domains with catchall, bounce and default
    From, outgoing and incoming servers, the gateway action with its group, portal user and API key, and business
    aliases on their owner records. Then Odoo's own Test Connection and Test & Confirm are run.
  - What is there is read first and only what differs is written. Everything is found again by its name, so a run that
    was interrupted is completed by the next one.
  - What is wrong comes back in RV(problems) instead of failing, so that it can be shown where the arguments may not be.
    Problems that can be seen beforehand in any database keep all of them from being changed.
options:
  databases:
    description: The databases as in C(odoo_databases).
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name of the database; also its account on the mail hosts., type: str, required: true}
      url: {description: "Odoo's address, C(https://host[:port]).", type: str, required: true}
      login: {description: Login of a Settings administrator., type: str, required: true}
      password: {description: "The password, or an API key.", type: str, required: true}
      ca_file: {description: PEM file with the authority of Odoo's certificate; by default the system's., type: str}
      domains: {description: The alias domains with names and aliases., type: list, elements: dict, required: true}
  mailbox_passwords:
    description: For each database, in the same order, the password of its account on the mail hosts.
    type: list
    elements: str
    required: true
  mail_hosts:
    description: Names of the mail hosts, the preferred one first.
    type: list
    elements: str
    required: true
  gateway_code:
    description: The Python code of the gateway action.
    type: str
    required: true
  secrets_directory:
    description: Where the gateway's API keys are kept, C(gateway-<database>), readable by nobody else.
    type: path
    required: true
  gateway_key:
    description:
      - V(keep) makes an API key for the gateway's user only where the kept one does not work. V(renew) makes one in any
        case, beside the former ones, which go on to work. V(retire) has Odoo forget all but the newest.
    type: str
    choices: [keep, renew, retire]
    default: keep
  timeout:
    description: Seconds that Odoo has for each answer.
    type: int
    default: 20
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: Mailroom contributors
"""

EXAMPLES = r"""
- name: Set up Odoo's side
  odoo_mail:
    databases: "{{ odoo_databases }}"
    mailbox_passwords: ["{{ example_mailbox_password }}"]
    mail_hosts: [mail.example.com]
    gateway_code: "{{ lookup('ansible.builtin.file', 'gateway_action.py') }}"
    secrets_directory: "{{ secrets_directory }}"
  delegate_to: localhost
  run_once: true
  no_log: "{{ example_no_log }}"
  register: __example_odoo
"""

RETURN = r"""
gateways:
  description: For each database how its gateway action is called; C(action_id) is 0 where it is not made yet.
  returned: always
  type: dict
  sample: {prod: {action_id: 412, protocol: json2, login: mailroom-gateway}}
changes:
  description: What was changed, or would be in check mode, one line for each field; secrets are masked.
  returned: always
  type: list
  elements: str
  sample: ["odoo_databases[prod].domains[example.com].catchall_alias: catchall -> reception"]
problems:
  description: What is wrong, one line each - where, what, what to do.
  returned: always
  type: list
  elements: str
tests:
  description: For each database the results of Odoo's own tests, C(passed), C(failed) or C(skipped).
  returned: always
  type: dict
  sample: {prod: {smtp: passed, imap: passed}}
"""

GATEWAY = "Mailroom gateway"  # the server action and its group
LOGIN = "mailroom-gateway"
KEY_NAME = "Mailroom"
KEY_MAKER = "Mailroom: make the gateway's key"  # a server action that lives for one call
FORMER_NAMES = "mailroom.former_names"  # system parameter: JSON {domain: [local parts]}
CUSTOM_SERVERS = "base_setup.default_external_email_server"
TEST_SECONDS = 150  # Odoo itself waits up to 60 s for each step of a connection
MASK = "********"
SECRET_FIELDS = ("smtp_pass", "password")
# Before Odoo 17 a database's one alias domain is four system parameters.
PARAMETERS = {
    "name": "mail.catchall.domain",
    "catchall_alias": "mail.catchall.alias",
    "bounce_alias": "mail.bounce.alias",
    "default_from": "mail.default.from",
}
# Fields that tell versions apart.
FEATURES = {
    "mail.alias.domain": ["catchall_alias"],
    "fetchmail.server": ["server_type"],
    "ir.mail_server": ["from_filter", "smtp_authentication"],
    "ir.actions.server": ["group_ids", "groups_id"],
    "res.users": ["group_ids", "groups_id"],
    "res.users.apikeys": ["expiration_date"],
}

Record = Mapping[str, Any]


class Refused(Exception):
    """What speaks against a change, on one line, and at `what` it was to be made."""

    def __init__(self, what: str, text: str) -> None:
        super().__init__(text)
        self.what = what


@dataclasses.dataclass(frozen=True)
class Ref:
    """A wanted link to a record, with the name people know it by; id 0 stands for one that is not made yet."""

    id: int
    name: str


@dataclasses.dataclass(frozen=True)
class Change:
    """A field that was, or would be, changed; both values as shown to people."""

    path: str
    before: str
    after: str

    def line(self) -> str:
        """The change on one line."""
        return f"{self.path}: {self.before} -> {self.after}"


def mail_servers(
    database: str, domains: Sequence[str], hosts: Sequence[str], password: str, features: Features
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The outgoing (ir.mail_server) and incoming (fetchmail.server) server of a database for each mail host."""
    servers = []
    for number, host in enumerate(hosts, start=1):
        outgoing: dict[str, Any] = {
            "name": f"Mailroom {host}",
            "active": True,
            "sequence": number,
            "smtp_host": host,
            "smtp_port": 465,
            # Only the strict kind verifies the certificate (19 on).
            "smtp_encryption": "ssl_strict" if "ssl_strict" in features.encryptions else "ssl",
            "smtp_user": database,
            "smtp_pass": password,
        }
        if features.has("ir.mail_server", "smtp_authentication"):
            outgoing["smtp_authentication"] = "login"
        if features.has("ir.mail_server", "from_filter"):
            # The envelope sender is the bounce address only where this filter matches it, so domains, not addresses.
            outgoing["from_filter"] = ",".join(domains if features.alias_domains else domains[:1])
        incoming = {
            "name": f"Mailroom {host}",
            "active": False,  # fetch-and-route fetches; Odoo's cron must not
            "server_type": "imap",
            "server": host,
            "port": 993,
            "is_ssl": True,
            "user": database,
            "password": password,
            "object_id": False,  # new threads come from aliases alone
        }
        servers.append((outgoing, incoming))
    return servers


@dataclasses.dataclass(frozen=True)
class Features:
    """What this Odoo can do, found out rather than guessed from its version."""

    fields: frozenset[tuple[str, str]]
    encryptions: tuple[str, ...]
    major: int

    def has(self, model: str, field: str) -> bool:
        """Whether the model has the field."""
        return (model, field) in self.fields

    @property
    def alias_domains(self) -> bool:
        """Whether alias domains are records (17 on) rather than system parameters."""
        return self.has("mail.alias.domain", "catchall_alias")

    def groups(self, model: str) -> str:
        """The name of the model's field for groups: group_ids from 19 on."""
        return "group_ids" if self.has(model, "group_ids") else "groups_id"


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


def show(field: str, value: Any, boolean: bool = False) -> str:
    """A field's value for people: links by name, long texts by their size, secrets not at all.

    Odoo says False for every empty value; only that of a `boolean` field is shown as it is.
    """
    if field in SECRET_FIELDS:
        return MASK if value else "none"
    if isinstance(value, Ref):
        return value.name
    if isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[1], str):
        return str(value[1])  # a link as Odoo reads it: [id, name]
    if isinstance(value, str) and "\n" in value:
        return f"{len(value.splitlines())} lines"
    return "none" if value == "" or (value is False and not boolean) else str(value)


def plain(value: Any) -> Any:
    """A wanted or read value in the form in which both can be compared."""
    if isinstance(value, Ref):
        return value.id
    if isinstance(value, list | tuple):
        if len(value) == 2 and isinstance(value[1], str):
            return value[0]
        return sorted(value)
    return value.strip() if isinstance(value, str) else value


def writable(value: Any) -> Any:
    """A wanted value as Odoo takes it: links as ids, sets of links as a command."""
    if isinstance(value, Ref):
        return value.id
    return [[6, 0, value]] if isinstance(value, list) else value


def remedy(message: str, host: str) -> str:
    """What to do about Odoo's complaint about a mail host."""
    text = message.lower()
    if "certificate" in text or "ssl" in text:
        return (
            f"Odoo's machine must trust the authority of {host}'s certificate: list it under odoo_hosts in the "
            "inventory, or add the authority to its system's trust store"
        )
    if "codepoint" in text:  # 14 to 16 treat a login without @ as a domain name
        return "this Odoo can only log in with a name of lower-case letters, digits and -: rename the database"
    if "not owned by user" in text:  # up to 16 the test's sender is the login's own address
        return "give the user of the database's login an e-mail address in one of its domains: Odoo tests with it"
    if "authentication" in text or "535" in text or "login" in text:
        return f"the account's password on {host} is another one: run site.yml --tags dovecot"
    if "refused the sender" in text or "refused the test recipient" in text or "server replied" in text:
        return f"see the mail log of {host}"
    return f"make {host} reachable from Odoo's machine (DNS, firewall, mail services running)"


def save(path: Path, text: str) -> None:
    """Write a secret so that only its owner can read it, and a crash leaves the old file or the new one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600 from the start
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class Database:
    """One database: read() what is there, apply() what differs, test() the result."""

    def __init__(self, settings: Record, password: str, params: Record, check_mode: bool) -> None:
        """`settings` is one of the databases, `password` that of its account on the mail hosts."""
        self.name: str = settings["name"]
        self.where = f"odoo_databases[{self.name}]"
        self.settings = settings
        self.mailbox_password = password
        self.params = params
        self.check_mode = check_mode
        self.problems: list[str] = []
        self.changes: list[Change] = []
        self.tests = {"smtp": "skipped", "imap": "skipped"}
        self.gateway: dict[str, Any] = {"action_id": 0, "protocol": "xmlrpc", "login": LOGIN}
        self.key_path = Path(params["secrets_directory"]) / f"gateway-{self.name}"
        self.domains = [
            {
                "name": domain["name"],
                "catchall_alias": domain.get("catchall") or "catchall",
                "bounce_alias": domain.get("bounce") or "bounce",
                "default_from": domain.get("default_from") or "notifications",
            }
            for domain in settings["domains"]
        ]
        self.odoo: Odoo
        self.features: Features
        self.servers: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.companies: dict[int, Ref] = {}
        self.found: dict[tuple[str, str], Record] = {}

    # Reading

    def read(self) -> None:
        """Learn what is there. Problems that would come up later are found here, before anything is changed."""
        if not self.domains:
            self.problem("domains", "the list is empty", "name at least one domain")
            return
        try:
            self.odoo = Odoo(
                self.settings["url"], self.name, self.settings.get("ca_file"), float(self.params["timeout"])
            )
            self.odoo.log_in(self.settings["login"], self.settings["password"])
            self._read_features()
            self._read_domains()
            self._read_servers()
            self._read_gateway()
            self._read_aliases()
        except OdooError as error:
            self.problems.append(error.line(self.where))

    def problem(self, what: str, text: str, cure: str) -> None:
        """Note what is wrong at `what` below this database."""
        self.problems.append(f"{self.where}{'.' * bool(what)}{what}: {text}: {cure}")

    def _read_features(self) -> None:
        described = self.odoo.call("ir.mail_server", "fields_get", ["smtp_encryption"], ["selection"])
        encryptions = tuple(value for value, _ in described["smtp_encryption"]["selection"])
        self.features = Features(self.odoo.fields(FEATURES), encryptions, self.odoo.version())
        if self.features.major >= 19:
            self.gateway["protocol"] = "json2"
        if not self.features.has("fetchmail.server", "server_type"):
            self.problem("", "Odoo has no incoming mail servers", "install its module fetchmail")
        if not self.features.alias_domains and len(self.domains) > 1:
            text = f"Odoo {self.features.major} has one alias domain for everything"
            self.problem("domains", text, "keep one domain, or upgrade to Odoo 17")

    def _keep(self, model: str, rows: Iterable[Record], key: str = "name") -> None:
        """Remember records by name; of several with one name, the first."""
        for row in rows:
            self.found.setdefault((model, str(row[key])), row)

    def _read_domains(self) -> None:
        keys = [FORMER_NAMES, CUSTOM_SERVERS, *PARAMETERS.values()]
        self._keep(
            "ir.config_parameter",
            self.odoo.search_read("ir.config_parameter", [["key", "in", keys]], ["key", "value"]),
            "key",
        )
        if self.features.alias_domains:
            rows = self.odoo.search_read("mail.alias.domain", [], list(PARAMETERS), order="sequence, id")
            wanted = [tuple(domain.values())[:3] for domain in self.domains]
            # One name may be there several times with other catchall names: rather the one we want.
            rows.sort(key=lambda row: (row["name"], row["catchall_alias"], row["bounce_alias"]) not in wanted)
            self._keep("mail.alias.domain", rows)
            self._read_companies()
        else:
            values = {field: self._parameter(key) or False for field, key in PARAMETERS.items()}
            self._keep("mail.alias.domain", [{"id": 0, **values}])
        try:
            recorded = json.loads(self._parameter(FORMER_NAMES) or "{}")
            today = [row for (model, _), row in self.found.items() if model == "mail.alias.domain"]
            self.former = former_names(recorded, today, self.domains)
            self.former_changed = self.former != recorded
        except (ValueError, AttributeError, TypeError):
            text = f"Odoo's system parameter {FORMER_NAMES} is damaged"
            self.problem("", text, 'correct it to {"domain": ["name"]}, or delete it')

    def _parameter(self, key: str) -> str:
        return str(self.found.get(("ir.config_parameter", key), {}).get("value") or "")

    def _read_companies(self) -> None:
        """Decide which company gets which alias domain: as told, else one that has none of ours gets the first."""
        rows = self.odoo.search_read("res.company", [], ["name", "alias_domain_id"])
        self._keep("res.company", rows)
        told = {name: domain["name"] for domain in self.settings["domains"] for name in domain.get("companies") or []}
        for name in sorted(set(told) - {row["name"] for row in rows}):
            names = ", ".join(row["name"] for row in rows)
            self.problem(f"domains[{told[name]}].companies", f"Odoo has no company {name!r}", f"name one of {names}")
        ours = {domain["name"] for domain in self.domains}
        for row in rows:
            today = row["alias_domain_id"][1] if row["alias_domain_id"] else ""
            if row["name"] in told:
                wanted = told[row["name"]]
            elif not today or (len(rows) == 1 and today not in ours):
                wanted = self.domains[0]["name"]
            else:
                continue
            self.companies[row["id"]] = Ref(0, wanted)

    def _read_servers(self) -> None:
        names = [domain["name"] for domain in self.domains]
        self.servers = mail_servers(self.name, names, self.params["mail_hosts"], self.mailbox_password, self.features)
        for number, model in enumerate(("ir.mail_server", "fetchmail.server")):
            if not self.servers or (model == "fetchmail.server" and not self.features.has(model, "server_type")):
                continue
            fields = [*self.servers[0][number], *(["state"] if model == "fetchmail.server" else [])]
            domain = [["name", "in", [pair[number]["name"] for pair in self.servers]]]
            self._keep(model, self.odoo.search_read(model, domain, fields))

    def _read_gateway(self) -> None:
        data = [["module", "=", "base"], ["name", "in", ["group_portal", "group_system"]]]
        rows = self.odoo.search_read("ir.model.data", data, ["name", "res_id"])
        self.base = {row["name"]: row["res_id"] for row in rows}
        self.thread = self.odoo.search_read("ir.model", [["model", "=", "mail.thread"]], ["model"])[0]["id"]
        self._keep("res.groups", self.odoo.search_read("res.groups", [["name", "=", GATEWAY]], ["name"]))
        fields = ["name", "login", "active", "share", self.features.groups("res.users")]
        self._keep("res.users", self.odoo.search_read("res.users", [["login", "=", LOGIN]], fields), "login")
        fields = ["name", "state", "code", "model_id", self.features.groups("ir.actions.server")]
        domain = [["name", "in", [GATEWAY, KEY_MAKER]], ["state", "=", "code"]]
        self._keep("ir.actions.server", self.odoo.search_read("ir.actions.server", domain, fields))
        self.gateway["action_id"] = self.found.get(("ir.actions.server", GATEWAY), {}).get("id", 0)

    def _read_aliases(self) -> None:
        """Find the owner of every business alias; it must be there, once, and the alias nobody else's."""
        wanted: dict[str, list[tuple[str, Record]]] = {}
        for domain in self.settings["domains"]:
            for alias in domain.get("aliases") or []:
                wanted.setdefault(alias["model"], []).append((domain["name"], alias))
        if not wanted:
            return
        names = sorted({alias["name"] for aliases in wanted.values() for _, alias in aliases})
        fields = ["alias_name", *(["alias_domain_id"] if self.features.alias_domains else [])]
        taken = self.odoo.search_read("mail.alias", [["alias_name", "in", names]], [*fields, "display_name"])
        for model, aliases in wanted.items():
            try:
                records = self.odoo.search_read(
                    model,
                    [["name", "in", sorted({alias["record"] for _, alias in aliases})]],
                    ["name", "alias_id", "alias_contact", *fields],
                    context={},
                )
            except OdooError as error:
                for domain_name, alias in aliases:
                    place = f"domains[{domain_name}].aliases[{alias['name']}].model"
                    self.problem(place, f"records of {model} cannot own an alias here ({error})", "name another model")
                continue
            self._keep(model, records)
            for domain_name, alias in aliases:
                self._check_alias(
                    f"domains[{domain_name}].aliases[{alias['name']}]", domain_name, alias, records, taken
                )

    def _check_alias(
        self, place: str, domain: str, alias: Record, records: Sequence[Record], taken: Sequence[Record]
    ) -> None:
        owners = [record for record in records if record["name"] == alias["record"]]
        if len(owners) != 1:
            text = f"Odoo has {len(owners) or 'no'} {alias['model']} named {alias['record']!r}"
            self.problem(f"{place}.record", text, "rename all but one" if owners else "make it in Odoo, or correct it")
            return
        own = plain(owners[0]["alias_id"])
        for other in taken:
            same = other["alias_name"] == alias["name"] and other["id"] != own
            elsewhere = self.features.alias_domains and show("", other["alias_domain_id"]) != domain
            if same and not elsewhere:
                text = f"the alias belongs to another record already (mail.alias {other['id']})"
                self.problem(place, text, "take it away there in Odoo, or choose another name")

    # Changing

    def apply(self) -> None:
        """Write what differs. One thing that Odoo refuses does not keep the others from being done."""
        for step in (self._apply_domains, self._apply_servers, self._apply_gateway, self._apply_aliases):
            try:
                step()
            except (OdooError, Refused) as error:
                self._refused(error)

    def _refused(self, error: Exception) -> None:
        what = error.what if isinstance(error, Refused) else ""
        self.problem(what, str(error), "correct it in Odoo or in the inventory, then run again")

    def ensure(self, what: str, model: str, record: Record | None, wanted: Record) -> int:
        """Give a record, read before with these fields (None: not there), the wanted values; returns its id.

        The id is 0 for a record that check mode would make. Raises Refused when Odoo does.
        """
        differing = {
            field: value
            for field, value in wanted.items()
            if record is None or plain(record[field]) != plain(value) or (isinstance(value, Ref) and not value.id)
        }
        if record is None:
            self.changes.append(Change(f"{self.where}.{what}", "none", "new"))
        for field, value in differing.items():
            if record is None and (field in ("name", "key", "login") or value is False):
                continue  # that is what it is called, or nothing
            boolean = isinstance(value, bool)
            before = "none" if record is None else show(field, record[field], boolean)
            self.changes.append(Change(f"{self.where}.{what}.{field}", before, show(field, value, boolean)))
        identity = int(record["id"]) if record else 0
        if not differing or self.check_mode:
            return identity
        values = {field: writable(value) for field, value in differing.items()}
        try:
            if identity:
                self.odoo.call(model, "write", [identity], values)
            else:
                # Inviting the gateway's user by mail would be of no use.
                identity = self.odoo.create(model, values, context={"no_reset_password": True})
            # Odoo tidies some values up: one that it does not keep as it is would be written again by every run.
            kept = self.odoo.search_read(model, [["id", "=", identity]], list(differing))[0]
        except OdooError as error:
            raise Refused(what, str(error)) from error
        for field, value in differing.items():
            if isinstance(value, list):
                continue  # groups bring the groups they imply
            if plain(kept[field]) != plain(value):
                self.problem(f"{what}.{field}", f"Odoo keeps {show(field, kept[field])!r}", "write it like that")
        return identity

    def _ensure_parameter(self, key: str, value: str) -> None:
        record = self.found.get(("ir.config_parameter", key))
        wanted = {"value": value} if record else {"key": key, "value": value}
        self.ensure(f"parameter {key}", "ir.config_parameter", record, wanted)

    def _apply_domains(self) -> None:
        if self.former_changed:  # before the change itself, so that no crash can lose them
            self._ensure_parameter(FORMER_NAMES, json.dumps(self.former, sort_keys=True))
        self._ensure_parameter(CUSTOM_SERVERS, "True")
        self.domain_refs: dict[str, Ref] = {}
        for domain in self.domains:
            what = f"domains[{domain['name']}]"
            if not self.features.alias_domains:
                for field, key in PARAMETERS.items():
                    self._ensure_parameter(key, domain[field])
                continue
            record = self.found.get(("mail.alias.domain", domain["name"]))
            identity = self.ensure(what, "mail.alias.domain", record, domain)
            self.domain_refs[domain["name"]] = Ref(identity, domain["name"])
        for company in (row for (model, _), row in self.found.items() if model == "res.company"):
            if company["id"] in self.companies:
                ref = self.domain_refs[self.companies[company["id"]].name]
                self.ensure(f"company {company['name']}", "res.company", company, {"alias_domain_id": ref})

    def _apply_servers(self) -> None:
        for outgoing, incoming in self.servers:
            for model, wanted in (("ir.mail_server", outgoing), ("fetchmail.server", incoming)):
                kind = "outgoing" if model == "ir.mail_server" else "incoming"
                record = self.found.get((model, wanted["name"]))
                identity = self.ensure(
                    f"{kind} server {wanted['smtp_host' if kind == 'outgoing' else 'server']}", model, record, wanted
                )
                self.found[model, wanted["name"]] = {"state": "draft", **(record or {}), "id": identity}

    def _apply_gateway(self) -> None:
        group = self.ensure(
            f"group {GATEWAY}", "res.groups", self.found.get(("res.groups", GATEWAY)), {"name": GATEWAY}
        )
        user = self._ensure_user(group)
        wanted = {
            "name": GATEWAY,
            "model_id": Ref(self.thread, "mail.thread"),
            "state": "code",
            "code": self.params["gateway_code"].strip(),
            self.features.groups("ir.actions.server"): [group],
        }
        record = self.found.get(("ir.actions.server", GATEWAY))
        self.gateway["action_id"] = self.ensure("gateway action", "ir.actions.server", record, wanted)
        self._ensure_key(user)

    def _ensure_user(self, group: int) -> int:
        record = self.found.get(("res.users", LOGIN))
        field = self.features.groups("res.users")
        groups = [self.base["group_portal"], group]
        if record and record["share"] and set(groups) <= set(record[field]):
            groups = record[field]  # portal's group may imply others
        wanted = {"name": GATEWAY, "login": LOGIN, "active": True, field: groups}
        return self.ensure(f"user {LOGIN}", "res.users", record, wanted)

    def _ensure_key(self, user: int) -> None:
        """Have a key of the gateway's user that works; the one kept is tried first."""
        try:
            key = self.key_path.read_text(encoding="utf-8").strip() if self.key_path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise Refused("gateway key", f"{self.key_path} cannot be read ({error})") from error
        works = bool(key and self.gateway["action_id"] and self._answers(key))
        wish = self.params["gateway_key"]
        if wish == "retire" and not works:
            text = f"the one in {self.key_path} does not work, so the former ones stay"
            self.problem("gateway key", text, "run site.yml, which makes one that works, then this again")
            return
        if wish == "retire" and not self.check_mode:
            self._retire_keys(user)
        if works and wish != "renew":
            return
        self.changes.append(Change(f"{self.where}.gateway key", MASK if key else "none", MASK))
        if self.check_mode:
            return
        key = self._make_key(user, beside=works)
        try:
            save(self.key_path, key + "\n")
        except OSError as error:
            raise Refused("gateway key", f"{self.key_path} cannot be written ({error.strerror})") from error
        if not self._answers(key):
            self.problem("gateway", "Odoo does not accept the API key it has just made", "see Odoo's log")

    def _answers(self, key: str) -> bool:
        """Whether the gateway action answers to this key. Raises OdooError when that cannot be told."""
        body = {"ids": [self.gateway["action_id"]], "context": {"mailroom": {"version": 1, "messages": []}}}
        try:
            if self.gateway["protocol"] == "json2":
                answer = self.odoo.json2(key, "ir.actions.server", "run", body)
            else:
                bot = Odoo(self.settings["url"], self.name, self.settings.get("ca_file"), float(self.params["timeout"]))
                with contextlib.closing(bot):
                    bot.log_in(LOGIN, key)
                    answer = bot.call("ir.actions.server", "run", body["ids"], context=body["context"])
        except OdooError as error:
            if error.refused:
                return False
            raise Refused("gateway action", str(error)) from error
        return bool(isinstance(answer, dict) and answer.get("mailroom", {}).get("verdicts") == [])

    def _make_key(self, user: int, beside: bool) -> str:
        """Have Odoo make an API key for the gateway's user, `beside` the former ones or in their place."""
        expiry = ", False" if self.features.has("res.users.apikeys", "expiration_date") else ""
        answer = self._from_inside(
            user,
            ("" if beside else "former.unlink()\n")
            + f"key = keys.with_user(bot).sudo()._generate('rpc', {KEY_NAME!r}{expiry})\n"
            "action = {'type': 'ir.actions.act_window_close', 'mailroom_key': key}\n",
        )
        return str(answer["mailroom_key"])

    def _retire_keys(self, user: int) -> None:
        """Have Odoo forget all keys of the gateway's user but the newest."""
        code = (
            "older = former.sorted('id')[:-1]\n"
            "action = {'type': 'ir.actions.act_window_close', 'mailroom_retired': len(older)}\n"
            "older.unlink()\n"
        )
        retired = self._from_inside(user, code)["mailroom_retired"]
        if retired:
            self.changes.append(Change(f"{self.where}.gateway keys", str(retired + 1), "1"))

    def _from_inside(self, user: int, code: str) -> dict[str, Any]:
        """Run code about the keys of a user inside Odoo; it has `bot`, `keys` and the bot's `former` ones of our name.

        Odoo has no public method for keys: a server action, which only Settings administrators may run and which is
        removed right away, does it (odoo/addons/base/models/res_users.py, res.users.apikeys._generate).
        """
        leftover = self.found.get(("ir.actions.server", KEY_MAKER))
        if leftover:
            self.odoo.call("ir.actions.server", "unlink", [leftover["id"]])
        values = {
            "name": KEY_MAKER,
            "model_id": self.thread,
            "state": "code",
            "code": f"bot = env['res.users'].browse({user})\n"
            "keys = env['res.users.apikeys'].sudo()\n"
            f"former = keys.search([('user_id', '=', bot.id), ('name', '=', {KEY_NAME!r})])\n" + code,
            self.features.groups("ir.actions.server"): [[6, 0, [self.base["group_system"]]]],
        }
        maker = self.odoo.create("ir.actions.server", values)
        try:
            return dict(self.odoo.call("ir.actions.server", "run", [maker]))
        finally:
            self.odoo.call("ir.actions.server", "unlink", [maker])

    def _apply_aliases(self) -> None:
        for domain in self.settings["domains"]:
            for alias in domain.get("aliases") or []:
                wanted: dict[str, Any] = {"alias_name": alias["name"]}
                if self.features.alias_domains:
                    wanted["alias_domain_id"] = self.domain_refs[domain["name"]]
                if alias.get("contact"):
                    wanted["alias_contact"] = alias["contact"]
                what = f"domains[{domain['name']}].aliases[{alias['name']}]"
                try:
                    self.ensure(what, alias["model"], self.found[alias["model"], alias["record"]], wanted)
                except Refused as error:
                    self._refused(error)

    # Testing

    def test(self) -> None:
        """Run Odoo's Test Connection and Test & Confirm on every server. Check mode only tells what they would set."""
        for outgoing, incoming in self.servers:
            host = outgoing["smtp_host"]
            server = self.found["fetchmail.server", incoming["name"]]
            if server["state"] != "done":
                self.changes.append(Change(f"{self.where}.incoming server {host}.state", server["state"], "done"))
            if self.check_mode:
                continue
            outgoing_id = self.found["ir.mail_server", outgoing["name"]]["id"]
            self._test("smtp", host, "ir.mail_server", "test_smtp_connection", outgoing_id)
            self._test("imap", host, "fetchmail.server", "button_confirm_login", server["id"])

    def _test(self, kind: str, host: str, model: str, method: str, identity: int) -> None:
        try:
            self.odoo.call(model, method, [identity], timeout=TEST_SECONDS)
        except OdooError as error:
            self.tests[kind] = "failed"
            button, server = ("Test Connection", "outgoing") if kind == "smtp" else ("Test & Confirm", "incoming")
            self.problem(f"{server} server {host}", f"Odoo's {button} says: {error}", remedy(str(error), host))
        else:
            if self.tests[kind] == "skipped":
                self.tests[kind] = "passed"


def on_all(databases: Sequence[Database], work: Callable[[Database], None]) -> bool:
    """Do some work on all databases side by side; returns whether there is no problem in any."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(work, databases))
    return not any(database.problems for database in databases)


def main() -> None:
    """Run the module."""
    options = {
        "name": {"type": "str", "required": True},
        "url": {"type": "str", "required": True},
        "login": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
        "ca_file": {"type": "str"},
        "domains": {"type": "list", "elements": "dict", "required": True},
    }
    module = AnsibleModule(
        {
            # no_log keeps the passwords out of the control node's syslog ...
            "databases": {"type": "list", "elements": "dict", "required": True, "no_log": True, "options": options},
            "mailbox_passwords": {"type": "list", "elements": "str", "required": True, "no_log": True},
            "mail_hosts": {"type": "list", "elements": "str", "required": True},
            "gateway_code": {"type": "str", "required": True},
            "secrets_directory": {"type": "path", "required": True, "no_log": False},
            "gateway_key": {"type": "str", "choices": ["keep", "renew", "retire"], "default": "keep", "no_log": False},
            "timeout": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    # ... but it would also blank every name in the answer, which holds nothing secret and leaves the arguments out.
    module.no_log_values.clear()
    pairs = zip(module.params["databases"], module.params["mailbox_passwords"], strict=True)
    databases = [Database(settings, password, module.params, module.check_mode) for settings, password in pairs]
    if on_all(databases, Database.read) and on_all(databases, Database.apply):
        on_all(databases, Database.test)
    changes = [change for database in databases for change in database.changes]
    module.exit_json(
        changed=bool(changes),
        changes=[change.line() for change in changes],
        problems=[problem for database in databases for problem in database.problems],
        gateways={database.name: database.gateway for database in databases},
        tests={database.name: database.tests for database in databases},
        diff={
            "before": "".join(f"{change.path}: {change.before}\n" for change in changes),
            "after": "".join(f"{change.path}: {change.after}\n" for change in changes),
        },
        invocation={"module_args": {}},
    )


if __name__ == "__main__":
    main()
