#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Odoo's side of a mail server as desired state: domains, servers, the gateway, business aliases, Odoo's own tests."""

from __future__ import annotations

import concurrent.futures
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from module_utils import odoo_oauth, odoo_wanted
    from module_utils.odoo_gateway_key import KEY_MAKER, GatewayKey
    from module_utils.odoo_records import (
        BEFORE,
        MASK,
        Change,
        Item,
        Notes,
        Record,
        Records,
        Refused,
        by_id,
        plain,
        show,
    )
    from module_utils.odoo_rpc import Odoo, OdooError
else:
    from ansible.module_utils import odoo_oauth, odoo_wanted
    from ansible.module_utils.odoo_gateway_key import KEY_MAKER, GatewayKey
    from ansible.module_utils.odoo_records import (
        BEFORE,
        MASK,
        Change,
        Item,
        Notes,
        Record,
        Records,
        Refused,
        by_id,
        plain,
        show,
    )
    from ansible.module_utils.odoo_rpc import Odoo, OdooError

DOCUMENTATION = r"""
module: odoo_mail
short_description: Odoo's side of a mail server
description:
  - Runs on the control node. For each database, all at the same time - alias domains with catchall, bounce and default
    From, outgoing and incoming servers, the gateway action with its group, portal user and API key, other settings of
    Odoo that have to do with mail, and business aliases on their owner records. Then Odoo's own Test Connection and
    Test & Confirm are run.
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
      database: {description: What Odoo calls it; by default the same., type: str}
      url: {description: "Odoo's address, C(https://host[:port]).", type: str, required: true}
      login: {description: Login of a Settings administrator., type: str, required: true}
      password: {description: "The password, or an API key.", type: str, required: true}
      ca_file: {description: PEM file with the authority of Odoo's certificate; by default the system's., type: str}
      domains: {description: The alias domains with names and aliases., type: list, elements: dict, required: true}
      queue_minutes: {description: Minutes between two runs of the mail queue., type: int}
      fetch_minutes: {description: Minutes between two runs of Odoo's own fetching., type: int}
      loop_minutes: {description: Minutes in which the mails of one sender are counted., type: int}
      loop_threshold: {description: How many of them are taken., type: int}
      allowed_senders: {description: Senders whose mails are not counted., type: list, elements: str}
      allowed_domains: {description: Domains of aliases of which only the local part counts., type: list, elements: str}
      mass_mailing_server: {description: "Server for mass mailings, with host, port, tls, login, password.", type: dict}
      provider: {description: "Not used here, O(servers) are made of it.", type: dict}
  servers:
    description:
      - For each database, in the same order, the list of servers that it sends and receives through, as the filter
        C(odoo_servers) answers it, the preferred one first.
    type: list
    elements: list
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
  state:
    description:
      - V(absent) gives every database back what was there before, as noted in its system parameter C(mailroom.before),
        and removes what was made, and the key on the control node.
    type: str
    choices: [present, absent]
    default: present
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
    servers: "{{ odoo_databases | odoo_servers(['mail.example.com'], {'prod': example_mailbox_password}) }}"
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
advice:
  description: What is not wrong but could be better, one line each.
  returned: always
  type: list
  elements: str
tests:
  description: For each database the results of Odoo's own tests, C(passed), C(failed) or C(skipped).
  returned: always
  type: dict
  sample: {prod: {smtp: passed, imap: passed}}
"""

OWN_RECORDS = ("group_portal", "group_system", "model_mail_thread")  # of every Odoo, as ir.model.data calls them
AT_ONCE = 8  # databases: of one Odoo with two workers each waits for three others, and has its answer in time
TEST_SECONDS = 150  # Odoo itself waits up to 60 s for each step of a connection


def remedy(message: str, host: str, ours: bool = True, oauth: bool = False) -> str:
    """What to do about Odoo's complaint about a mail host, of ours or a provider's."""
    text = message.lower()
    if oauth and "httpsconnectionpool" in text:  # of Odoo's library for web requests: the endpoint for tokens
        return "let Odoo's machine reach that over https and trust its authority, then restart Odoo"
    if oauth and "access token" in text:
        return "correct client_id and client_secret, or have a person authorise again and give the new refresh_token"
    if oauth and ("authentic" in text or re.search(r"\b53[05]\b|\b5\.7\.", text)):
        return f"have the login itself authorise, with the right to send, and allow it SMTP at {host}"
    if not ours:
        if "certificate" in text or "ssl" in text:
            return (
                f"Odoo's machine must trust the authority of {host}'s certificate: add it to its system's trust store"
            )
        if "authentication" in text or "535" in text or "login" in text:
            return "correct login and password; Gmail wants an app password, Microsoft 365 has to allow SMTP AUTH"
        return f"see whether {host} is the provider's server, and lets this login send for the domain"
    if "certificate" in text or "ssl" in text:
        return (
            f"Odoo's machine must trust the authority of {host}'s certificate: list it under odoo_hosts in the "
            "inventory, or add the authority to its system's trust store"
        )
    if "codepoint" in text:  # 14 to 16 treat a login without @ as a domain name
        text = "this Odoo can only log in with a name of lower-case letters, digits and -"
        return f"{text}: choose such a name, and give Odoo's as database"
    if "not owned by user" in text:  # up to 16 the test's sender is the login's own address
        return "give the user of the database's login an e-mail address in one of its domains: Odoo tests with it"
    if "authentication" in text or "535" in text or "login" in text:
        return f"the account's password on {host} is another one: run site.yml --tags dovecot"
    if "refused the sender" in text or "refused the test recipient" in text or "server replied" in text:
        return f"see the mail log of {host}"
    return f"make {host} reachable from Odoo's machine (DNS, firewall, mail services running)"


class Database:
    """One database: read() what is there, apply() what differs, test() the result; or remove() what was made."""

    def __init__(self, settings: Record, servers: Sequence[Record], params: Record, check_mode: bool) -> None:
        """`settings` is one of the databases, `servers` those that it sends and receives through."""
        self.name: str = settings["name"]
        self.where = f"odoo_databases[{self.name}]"
        self.settings = settings
        self.servers = servers
        self.params = params
        self.check_mode = check_mode
        self.problems: list[str] = []
        self.advice: list[str] = []
        self.tests = {"smtp": "skipped", "imap": "skipped"}
        self.notes = Notes.parse("")
        self.gateway: dict[str, Any] = {"action_id": 0, "protocol": "xmlrpc", "login": odoo_wanted.LOGIN}
        self.key_path = Path(params["secrets_directory"]) / f"gateway-{self.name}"
        self.domains = [odoo_wanted.alias_domain(domain) for domain in settings["domains"]]
        self.company_domains: dict[str, str] = {}  # by the company's name, after the run; none before Odoo 17
        self.names = [domain["name"] for domain in self.domains]
        self.odoo: Odoo
        self.features: odoo_wanted.Features
        self.records: Records
        self.items: list[Item] = []  # all that is wanted, in the order in which it is made
        self.ours = all(pair["ours"] for pair in servers)
        self.outgoing: list[Item] = []
        self.incoming: list[Item] = []
        self.granted: Item | None = None  # by which the refresh token that Odoo has is known again

    @property
    def changes(self) -> list[Change]:
        """What was changed, or would be."""
        return self.records.changes if hasattr(self, "records") else []

    def problem(self, what: str, text: str, cure: str) -> None:
        """Note what is wrong at `what` below this database."""
        self.problems.append(f"{self.where}{'.' * bool(what)}{what}: {text}: {cure}")

    def _change(self, what: str, before: str, after: str) -> None:
        self.changes.append(Change(f"{self.where}.{what}", before, after))

    def log_in(self, login: str, password: str) -> Odoo:
        """A connection to this database. Raises OdooError."""
        odoo = Odoo.of(self.settings, float(self.params["timeout"]))
        try:
            odoo.log_in(login, password)
        except OdooError:
            odoo.close()
            raise
        return odoo

    def open(self) -> None:
        """Log in as the administrator. Raises OdooError."""
        self.odoo = self.log_in(self.settings["login"], self.settings["password"])
        self.records = Records(self.odoo, self.where, self.check_mode)

    # Reading

    def read(self) -> None:
        """Learn what is there. Problems that would come up later are found here, before anything is changed."""
        if not self.domains:
            self.problem("domains", "the list is empty", "name at least one domain")
            return
        try:
            self.open()
            self._read_own()
            self._check_features()
            self._read_domains()
            self._read_companies()
            self._read_servers()
            self._read_settings()
            self._read_gateway()
            self._read_aliases()
        except OdooError as error:
            self.problems.append(error.line(self.where))

    def _read_own(self) -> None:
        """What this Odoo can do, and the ids of what it has by itself: groups, scheduled actions, a model."""
        described = self.odoo.call("ir.mail_server", "fields_get", ["smtp_encryption"], ["selection"])
        encryptions = tuple(value for value, _ in described["smtp_encryption"]["selection"])
        owners = [alias["model"] for domain in self.settings["domains"] for alias in domain.get("aliases") or []]
        fields = self.odoo.fields({**odoo_wanted.FEATURES, **{owner: ["company_id"] for owner in owners}})
        self.features = odoo_wanted.Features(fields, encryptions, self.odoo.version())
        names = [*OWN_RECORDS, *(name for _, name in odoo_wanted.SCHEDULES.values())]
        data = [["module", "in", ["base", "mail", "fetchmail"]], ["name", "in", names]]
        rows = self.odoo.search_read("ir.model.data", data, ["name", "res_id"])
        self.base = {row["name"]: row["res_id"] for row in rows}
        self.thread = self.base["model_mail_thread"]

    def _check_features(self) -> None:
        if self.features.json2:
            self.gateway["protocol"] = "json2"
        if not self.features.has("fetchmail.server", "server_type"):
            self.problem("", "Odoo has no incoming mail servers", "install its module fetchmail")
        if not self.features.alias_domains and len(self.domains) > 1:
            text = f"Odoo {self.features.major} has one alias domain for everything"
            self.problem("domains", text, "keep one domain, or upgrade to Odoo 17")
        for key, (model, field, text, cure) in odoo_wanted.NEEDS.items():
            if self.settings.get(key) and not self.features.has(model, field):
                self.problem(key, f"this Odoo {self.features.major} {text}", cure)

    def _read_domains(self) -> None:
        """Alias domains, and all system parameters that count."""
        self.records.read("ir.config_parameter", [BEFORE, *odoo_wanted.PARAMETER_KEYS], ["value"])
        if self.features.alias_domains:
            today = self.odoo.search_read("mail.alias.domain", [], list(odoo_wanted.PARAMETERS), order="sequence, id")
            # One name may be there several times with other catchall names: rather the one we want.
            wanted = [tuple(domain.values())[:3] for domain in self.domains]
            today.sort(key=lambda row: (row["name"], row["catchall_alias"], row["bounce_alias"]) not in wanted)
            self.records.keep("mail.alias.domain", today)
            names = list(dict.fromkeys(row["name"] for row in today))
            today = [self.records.found["mail.alias.domain", name] for name in names]
        else:
            today = [{field: self.records.parameter(key) for field, key in odoo_wanted.PARAMETERS.items()}]
        try:
            recorded = json.loads(self.records.parameter(odoo_wanted.FORMER_NAMES) or "{}")
            former = odoo_wanted.former_names(recorded, today, self.domains)
            if former != recorded:  # before the change itself, so that no crash can lose them
                text = json.dumps(former, sort_keys=True)
                self.items.append(odoo_wanted.parameter(odoo_wanted.FORMER_NAMES, text, ours=True))
        except (ValueError, AttributeError, TypeError):
            text = f"Odoo's system parameter {odoo_wanted.FORMER_NAMES} is damaged"
            self.problem("", text, 'correct it to {"domain": ["name"]}, or delete it')
        self.notes = self._notes()
        self.items += odoo_wanted.domain_items(self.domains, self.features)

    def _notes(self) -> Notes:
        """What was there before us, as noted by earlier runs."""
        try:
            return Notes.parse(self.records.parameter(BEFORE))
        except ValueError:
            text = f"Odoo's system parameter {BEFORE} is damaged"
            self.problem("", text, "restore it from a backup; if you delete it, what was there before stays unknown")
            return Notes.parse("")

    def _read_companies(self) -> None:
        fields = ["name", "email", *(["alias_domain_id"] if self.features.alias_domains else [])]
        companies = self.odoo.search_read("res.company", [], fields)
        self.records.keep("res.company", companies)
        names = [company["name"] for company in companies]
        for domain in self.settings["domains"]:
            for company in odoo_wanted.companies_of(domain):
                if company["name"] not in names:
                    text = f"Odoo has no company {company['name']!r}"
                    self.problem(f"domains[{domain['name']}].companies", text, f"name one of {', '.join(names)}")
        items = odoo_wanted.company_items(self.settings["domains"], companies, self.features)
        self.items += items
        if self.features.alias_domains:
            self.company_domains = odoo_wanted.domains_of_companies(companies, items)
        for name in odoo_wanted.companies_without_address(self.domains, companies, items, self.features):
            text = "Odoo names its e-mail address to those who write to the catchall, and it is none that people read"
            cure = "set it in Odoo, or here: companies: [{name: ..., email: ...}]"
            self.advice.append(f"{self.where}.company {name}: {text}: {cure}")

    def _read_servers(self) -> None:
        outgoing, incoming = ([pair[way] for pair in self.servers if pair[way]] for way in ("outgoing", "incoming"))
        self.outgoing = odoo_wanted.outgoing_items(outgoing, self.names, self.features)
        self.incoming = odoo_wanted.incoming_items(incoming)
        settings: list[Item] = []
        server = self.settings.get("mass_mailing_server")
        if server:
            account = next((one for one in outgoing if one["host"] == server["host"]), None)
            if not server.get("login") and not account:
                text = f"{server['host']} is none of the mail hosts"
                self.problem("mass_mailing_server.login", text, "give login and password at that server")
            keys = ("login", "password") if server.get("password") else ("login", "password", "oauth")
            login = {key: (account or server).get(key) for key in keys}
            items = odoo_wanted.mass_mailing_items({**login, **server}, self.names, self.features)
            self.outgoing.append(items[0])
            settings = items[1:]
        if self.outgoing:
            wanted = sorted({field for item in self.outgoing for field in item.wanted})
            self.records.read("ir.mail_server", [item.name for item in self.outgoing], wanted)
        for known in outgoing:
            if known.get("oauth"):
                self._read_oauth(known["login"], known["oauth"])
        self.items += [*self.outgoing, *([self.granted] if self.granted else []), *self.incoming, *settings]
        self._archive_former("ir.mail_server", [*(item.name for item in self.outgoing), odoo_wanted.MASS_MAILING])
        if not self.features.has("fetchmail.server", "server_type"):
            return
        for item in self.incoming[-1:]:
            fields = [*item.wanted, "state"]
            rows = self.odoo.search_read(
                item.model, [["server", "in", [server["host"] for server in incoming]]], fields
            )
            self.records.keep(item.model, rows)
            ours = {self.records.identity(item.model, item.name) for item in self.incoming}
            others = [row for row in rows if row["active"] and row["id"] not in ours]
            self.records.found.update({(item.model, by_id(row)): row for row in others})
            self.items += [  # two that fetch from one mailbox take each other's mail
                Item(f"incoming server {row['name']}", item.model, by_id(row), {"active": False}) for row in others
            ]
        self._archive_former("fetchmail.server", [item.name for item in self.incoming])
        self._check_filters()

    def _archive_former(self, model: str, names: Sequence[str]) -> None:
        """Archive the servers that earlier runs made for hosts that the inventory has no more."""
        former = {name: what for other, name, what in self.notes.made if other == model and name not in names}
        if former:
            self.records.read(model, list(former), ["active"])
        self.items += [
            Item(what, model, name, {"active": False}, ours=True)
            for name, what in former.items()
            if self.records.identity(model, name)
        ]

    def _read_oauth(self, login: str, oauth: Record) -> None:
        """What an outgoing server by OAuth takes besides: Odoo's module, and the parameters of the application."""
        service = odoo_oauth.SERVICES[oauth["service"]]
        if not self.features.has("ir.mail_server", service.refresh_token):
            text = f"this Odoo {self.features.major} does not send by OAuth"
            cure = f"install its module {service.module} ({service.prefix}), which early builds of 14 lack"
            self.problem("provider.oauth", text, f"{cure}, or give smtp a password, a relay's for instance")
            return
        self._check_application(service, oauth["client_id"])
        self.items += [odoo_wanted.parameter(key, value) for key, value in service.parameters(oauth).items()]
        granted = odoo_oauth.digest(login, oauth)
        if self.records.parameter(odoo_oauth.GRANTED) == granted:
            found = self.records.found
            self.outgoing = [
                odoo_oauth.as_granted(item, service, found.get((item.model, item.name))) for item in self.outgoing
            ]
        self.granted = odoo_wanted.parameter(odoo_oauth.GRANTED, granted, ours=True)

    def _check_application(self, service: odoo_oauth.Service, client_id: str) -> None:
        """Odoo knows one application, and servers that others have connected by another would be cut off."""
        today = self.records.parameter(f"{service.prefix}_client_id")
        if today in {"", client_id}:
            return
        ours = [item.name for item in self.outgoing]
        connected: list[Any] = [["active", "=", True], [service.refresh_token, "!=", False]]
        for model, kind in (("ir.mail_server", "outgoing"), ("fetchmail.server", "incoming")):
            there = self.features.has(model, service.refresh_token)
            for row in self.odoo.search_read(model, connected, ["name"]) if there else []:
                if row["name"] not in ours:
                    text = f"it is connected by the application {today}, and Odoo can have one only"
                    self.problem(f"{kind} server {row['name']}", text, "authorise by that one, or archive it in Odoo")

    def _check_filters(self) -> None:
        """An outgoing server for a single address of ours takes its mail from ours, and with it the bounce address."""
        if not self.features.has("ir.mail_server", "from_filter"):
            return
        domain: list[Any] = [["active", "=", True], ["from_filter", "!=", False]]
        if self.features.has("ir.mail_server", "owner_user_id"):
            domain.append(["owner_user_id", "=", False])  # a person's own, which is for no other mail
        ours = [item.name for item in self.outgoing]
        for server in self.odoo.search_read("ir.mail_server", domain, ["name", "from_filter"]):
            for address in odoo_wanted.single_addresses(server["from_filter"], self.names):
                if server["name"] not in ours:
                    text = f"its FROM filter has {address} alone, so that what comes back for it would not reach Odoo"
                    cure = f"archive it in Odoo, or filter by {address.partition('@')[2]}"
                    self.problem(f"outgoing server {server['name']}", text, cure)

    def _read_settings(self) -> None:
        """The items of Odoo's other settings."""
        self.items += odoo_wanted.setting_items(self.settings)
        senders = self.settings.get("allowed_senders")
        if senders and self.features.has("mail.gateway.allowed", "email"):
            self.records.read("mail.gateway.allowed", senders, [])
        for item in self.items:
            if item.model == "ir.cron":
                wanted = [["id", "=", self.base.get(item.name, 0)]]
                rows = self.odoo.search_read("ir.cron", wanted, list(item.wanted))
                self.records.keep("ir.cron", [row | {"name": item.name} for row in rows])
                if not rows:
                    self.problem(item.what, "Odoo has no such scheduled action any more", "leave its interval out")
        people = [["share", "=", False], ["email", "in", list(odoo_wanted.PLACEHOLDERS)]]
        for user in self.odoo.search_read("res.users", people, ["login", "email"], context={}):
            if user["email"].partition("@")[2] not in self.names:
                text = f"{user['email']} is what Odoo has before anybody gives an address"
                self.advice.append(f"{self.where}.user {user['login']}: {text}: give the user a real one in Odoo")

    def _read_gateway(self) -> None:
        self.records.read("res.groups", [odoo_wanted.GATEWAY], [])
        users = ["name", "active", "share", self.features.groups("res.users")]
        self.records.read("res.users", [odoo_wanted.LOGIN], users)
        fields = ["name", "state", "code", "model_id", self.features.groups("ir.actions.server")]
        wanted = [["name", "in", [odoo_wanted.GATEWAY, KEY_MAKER]], ["state", "=", "code"]]
        self.records.keep("ir.actions.server", self.odoo.search_read("ir.actions.server", wanted, fields))
        self.gateway["action_id"] = self.records.identity("ir.actions.server", odoo_wanted.GATEWAY)
        self.items += odoo_wanted.gateway_items(
            self.params["gateway_code"],
            self.thread,
            self.base["group_portal"],
            self.records.found.get(("res.users", odoo_wanted.LOGIN)),
            self.records.identity("res.groups", odoo_wanted.GATEWAY),
            self.features,
        )

    def _read_aliases(self) -> None:
        """Find the owner of every business alias; it must be there, once, and no name of ours somebody else's alias."""
        wanted: dict[str, list[tuple[str, Record]]] = {}
        for domain in self.settings["domains"]:
            for alias in domain.get("aliases") or []:
                wanted.setdefault(alias["model"], []).append((domain["name"], alias))
        names = {alias["name"] for aliases in wanted.values() for _, alias in aliases}
        names |= {domain[key] for domain in self.domains for key in ("catchall_alias", "bounce_alias")}
        fields = ["alias_name", *(["alias_domain_id"] if self.features.alias_domains else [])]
        taken = self.odoo.search_read("mail.alias", [["alias_name", "in", sorted(names)]], fields)
        for domain in self.domains:
            for key in ("catchall", "bounce"):
                place = f"domains[{domain['name']}].{key}"
                self._check_taken(place, domain["name"], domain[f"{key}_alias"], 0, taken)
        for model, aliases in wanted.items():
            try:
                records = self.odoo.search_read(
                    model,
                    [["name", "in", sorted({alias["record"] for _, alias in aliases})]],
                    ["name", "alias_id", "alias_contact", *fields, *self._company_field(model)],
                    context={},
                )
            except OdooError as error:
                for domain_name, alias in aliases:
                    place = f"domains[{domain_name}].aliases[{alias['name']}].model"
                    self.problem(place, f"records of {model} cannot own an alias here ({error})", "name another model")
                continue
            self.records.keep(model, records)
            for domain_name, alias in aliases:
                self._check_alias(
                    f"domains[{domain_name}].aliases[{alias['name']}]", domain_name, alias, records, taken
                )
        self.items += odoo_wanted.alias_items(self.settings["domains"], self.features)

    def _company_field(self, model: str) -> list[str]:
        return ["company_id"] if self.features.alias_domains and self.features.has(model, "company_id") else []

    def _check_alias(
        self, place: str, domain: str, alias: Record, records: Sequence[Record], taken: Sequence[Record]
    ) -> None:
        owners = [record for record in records if record["name"] == alias["record"]]
        if len(owners) != 1:
            text = f"Odoo has {len(owners) or 'no'} {alias['model']} named {alias['record']!r}"
            self.problem(f"{place}.record", text, "rename all but one" if owners else "make it in Odoo, or correct it")
            return
        company = show("", owners[0].get("company_id") or False)
        own_domain = self.company_domains.get(company, domain)
        if own_domain != domain and domain in self.company_domains.values():
            # mail.alias, _check_alias_domain_id_mc
            text = f"{alias['record']!r} is the company {company}'s, whose domain is {own_domain}"
            self.problem(place, text, f"list the alias there, or the company under companies of {domain}")
        self._check_taken(place, domain, alias["name"], plain(owners[0]["alias_id"]), taken)

    def _check_taken(self, place: str, domain: str, name: str, own: int, taken: Sequence[Record]) -> None:
        """Whether a name in a domain is the alias of another record than the one with the alias `own`."""
        # The first domain that there ever is gets all aliases that have none (mail.alias.domain.create).
        first = "" if any(model == "mail.alias.domain" for model, _ in self.records.found) else self.names[0]
        for other in taken:
            itself = other["alias_name"] != name or other["id"] == own
            link = other.get("alias_domain_id")
            if not itself and (not self.features.alias_domains or (show("", link) if link else first) == domain):
                text = f"another record has this alias already (mail.alias {other['id']})"
                self.problem(place, text, "take it away there in Odoo, or choose another name")

    # Changing

    def apply(self) -> None:
        """Write what differs. One thing that Odoo refuses does not keep the others from being done."""
        try:
            self.records.note(self.items)
        except Refused as error:
            self._refused(error)
            return
        for item in self.items:
            if item is self.granted and self.problems:
                continue  # the next run gives the token again
            if self.check_mode or not self.records.waits(item):  # what it waits for has its own line
                try:
                    self.records.ensure(item)
                except Refused as error:
                    self._refused(error)
                    if error.final:
                        return
        for what, kept in self.records.unkept:
            self.problem(what, f"Odoo keeps {kept!r}", "write it like that")
        self.gateway["action_id"] = self.records.identity("ir.actions.server", odoo_wanted.GATEWAY)
        try:
            self._ensure_key()
        except (OdooError, Refused) as error:
            self._refused(error)

    def _refused(self, error: OdooError | Refused) -> None:
        if isinstance(error, Refused):
            self.problem(error.what, str(error), error.cure)
        else:
            self.problems.append(error.line(self.where))

    def _ensure_key(self) -> None:
        """Have a key of the gateway's user that works; the one kept is tried first."""
        key = GatewayKey(self.odoo, self.log_in, self.features, self.key_path)
        key.read()
        action, user = self.gateway["action_id"], self.records.identity("res.users", odoo_wanted.LOGIN)
        works = bool(key.text and action and key.answers(action))
        wish = self.params["gateway_key"]
        ids = (user, self.base["group_system"], self.thread)
        if wish == "retire" and not works:
            text = f"the one in {self.key_path} does not work, so the former ones stay"
            self.problem("gateway key", text, "run site.yml, which makes one that works, then this again")
            return
        self._remove_leftover()
        if wish == "retire" and not self.check_mode and (retired := key.retire(*ids)):
            self._change("gateway keys", str(retired + 1), "1")
        if works and wish != "renew":
            return
        if self.check_mode or (action and user):  # else what Odoo refused has its own line
            self._change("gateway key", MASK if key.text else "none", MASK)
        if self.check_mode or not (action and user):
            return
        key.make(*ids, beside=works)
        if not key.answers(action):
            self.problem("gateway", "Odoo does not accept the API key it has just made", "see Odoo's log")

    def _remove_leftover(self) -> None:
        """Remove what a run that was cut off while it made a key has left."""
        leftover = self.records.identity("ir.actions.server", KEY_MAKER)
        if leftover and not self.check_mode:
            self.odoo.call("ir.actions.server", "unlink", [leftover])

    # Removing

    def read_for_removal(self) -> None:
        """Learn what was made, and what was there before."""
        try:
            self.open()
            self._read_own()
            self.records.read("ir.config_parameter", [BEFORE], ["value"])
            self.records.read("ir.actions.server", [KEY_MAKER], [])
            self.notes = self._notes()
            self.former = self.records.former(self.notes)
            self.made = self.records.made(self.notes)
            ours = [record["id"] for _, model, record in self.made if model == "mail.alias.domain"]
            wanted = [["alias_domain_id", "in", ours]]
            rows = self.odoo.search_read("mail.alias", wanted, ["alias_name"]) if ours else []
            self.aliases = [row["id"] for row in rows]
        except OdooError as error:
            self.problems.append(error.line(self.where))

    def remove(self) -> None:
        """Give back what was there before, and remove what was made, and the key on the control node."""
        steps: list[Callable[[], None]] = [partial(self.records.ensure, item) for item in self.former]
        steps += [self._empty_domains, self._remove_leftover]
        for what, model, record in self.made:
            if model == "res.users" and not self.check_mode:  # up to 14 Odoo keeps a user who has any
                key = GatewayKey(self.odoo, self.log_in, self.features, self.key_path)
                steps.append(partial(key.forget, record["id"], self.base["group_system"], self.thread))
            steps.append(partial(self.records.remove, what, model, record["id"]))
            if model == "res.users":
                steps.append(partial(self.records.remove, f"{what}'s contact", "res.partner", record["partner_id"][0]))
        for step in steps:
            try:
                step()
            except (OdooError, Refused) as error:
                self._refused(error)
        notes = self.records.identity("ir.config_parameter", BEFORE)
        if self.problems:
            return  # the next run needs the notes
        if notes:
            self.records.remove(f"parameter {BEFORE}", "ir.config_parameter", notes)
        if self.key_path.exists():
            self._change("gateway key", MASK, "none")
            if not self.check_mode:
                self.key_path.unlink()

    def _empty_domains(self) -> None:
        """Take the aliases out of the domains that were made: Odoo keeps a domain that has any.

        The first domain was given to all aliases by Odoo itself, when it was made (mail.alias.domain.create). They get
        the domain of a company before, or none.
        """
        if not self.aliases:
            return
        links = [values["alias_domain_id"] for _, values in self.notes.values.values() if "alias_domain_id" in values]
        link = next((link for link in links if link), False)
        ours = [record for _, model, record in self.made if model == "mail.alias.domain"]
        names = ", ".join(record["name"] for record in ours)
        self._change("aliases.alias_domain_id", names, show("", link))
        if not self.check_mode:
            wanted = [["id", "in", self.aliases], ["alias_domain_id", "in", [record["id"] for record in ours]]]
            left = [alias["id"] for alias in self.odoo.search_read("mail.alias", wanted, ["alias_name"])]
            self.odoo.call("mail.alias", "write", left, {"alias_domain_id": plain(link)})

    # Testing

    def test(self) -> None:
        """Run Odoo's Test Connection and Test & Confirm on every server. Check mode only tells what they would set."""
        for item in self.incoming:
            state = self.records.found.get((item.model, item.name), {}).get("state", "draft")
            if state != "done":
                self._change(f"{item.what}.state", state, "done")
        if self.check_mode:
            return
        try:
            for item in self.outgoing:
                self._test("smtp", item.wanted["smtp_host"], item, "test_smtp_connection")
            for item in self.incoming:
                self._test("imap", item.wanted["server"], item, "button_confirm_login")
        except OdooError as error:
            self.problems.append(error.line(self.where))

    def _test(self, kind: str, host: str, item: Item, method: str) -> None:
        """Run one of Odoo's tests. Raises OdooError where the way to Odoo fails: that says nothing about the server."""
        identity = self.records.identity(item.model, item.name)
        try:
            self.odoo.call(item.model, method, [identity], timeout=TEST_SECONDS)
        except OdooError as error:
            button, server = ("Test Connection", "outgoing") if kind == "smtp" else ("Test & Confirm", "incoming")
            if error.at:
                text = f"no answer to Odoo's {button} of {host}: {error}"
                raise OdooError(text, error.cure, error.at) from error
            self.tests[kind] = "failed"
            cure = remedy(str(error), host, self.ours, oauth=kind == "smtp" and self.granted is not None)
            self.problem(f"{server} server {host}", f"Odoo's {button} says: {error}", cure)
        else:
            if self.tests[kind] == "skipped":
                self.tests[kind] = "passed"


def on_all(databases: Sequence[Database], work: Callable[[Database], None]) -> bool:
    """Do some work on all databases side by side; returns whether there is no problem in any."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, databases))
    return not any(database.problems for database in databases)


def main() -> None:
    """Run the module."""
    options = {
        "name": {"type": "str", "required": True},
        "database": {"type": "str"},
        "url": {"type": "str", "required": True},
        "login": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
        "ca_file": {"type": "str"},
        "domains": {"type": "list", "elements": "dict", "required": True},
        "queue_minutes": {"type": "int"},
        "fetch_minutes": {"type": "int"},
        "loop_minutes": {"type": "int"},
        "loop_threshold": {"type": "int"},
        "allowed_senders": {"type": "list", "elements": "str"},
        "allowed_domains": {"type": "list", "elements": "str"},
        "mass_mailing_server": {"type": "dict"},
        "provider": {"type": "dict"},
    }
    module = AnsibleModule(
        {
            # no_log keeps the passwords out of the control node's syslog ...
            "databases": {"type": "list", "elements": "dict", "required": True, "no_log": True, "options": options},
            "servers": {"type": "list", "elements": "list", "required": True, "no_log": True},
            "gateway_code": {"type": "str", "required": True},
            "secrets_directory": {"type": "path", "required": True, "no_log": False},
            "gateway_key": {"type": "str", "choices": ["keep", "renew", "retire"], "default": "keep", "no_log": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "timeout": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    # ... but it would also blank every name in the answer, which holds nothing secret and leaves the arguments out.
    module.no_log_values.clear()
    pairs = zip(module.params["databases"], module.params["servers"], strict=True)
    databases = [Database(settings, servers, module.params, module.check_mode) for settings, servers in pairs]
    if module.params["state"] == "absent":
        if on_all(databases, Database.read_for_removal):
            on_all(databases, Database.remove)
    elif on_all(databases, Database.read) and on_all(databases, Database.apply):
        on_all(databases, Database.test)
    changes = [change for database in databases for change in database.changes]
    module.exit_json(
        changed=bool(changes),
        changes=[change.line() for change in changes],
        problems=[problem for database in databases for problem in database.problems],
        advice=[line for database in databases for line in database.advice],
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
