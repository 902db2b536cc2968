"""The main job, told step by step on the real test hosts; the demo shows it, the tests assert it.

A customer writes, a lead appears, the salesperson answers, the customer answers that: all through real SMTP, IMAP and
Odoo's API.  A step returns one line of evidence or raises `StoryError`.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import email.utils
import json
import os
import smtplib
import socket
import ssl
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from imapclient import IMAPClient  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
WAIT = 60.0  # seconds that one event may take before the step fails


class StoryError(Exception):
    """A step did not go as told: what, where, and what to do, in one line."""


@dataclass(frozen=True)
class Host:
    """One test host: its name and its address."""

    name: str
    address: str


class Hosts:
    """The test hosts as the inventory describes them, and how to talk to each.

    Database and mail host are the first or the named; Odoo's host is the one at the database's address.
    """

    def __init__(self, inventory: Path = ROOT / "inventory" / "demo", database: str = "", mail: str = "") -> None:
        self.inventory = inventory
        self.secrets = inventory / "secrets"
        children = yaml.safe_load((inventory / "hosts.yml").read_text())["all"]["children"]
        facts = yaml.safe_load((inventory / "group_vars" / "all.yml").read_text())
        self.database: dict[str, Any] = next(
            entry for entry in facts["odoo_databases"] if not database or entry["name"] == database
        )

        def only(group: str, name: str = "") -> Host:
            hosts: dict[str, dict[str, str]] = children[group]["hosts"]
            found = name or next(iter(hosts))
            return Host(found, hosts[found]["ansible_host"])

        groups = [group["hosts"] for group in children.values() if "hosts" in group]
        self.addresses: dict[str, str] = {
            name: entry["ansible_host"] for hosts in groups for name, entry in hosts.items()
        }
        self.mail = only("mail_hosts", mail)
        mail_host = children["mail_hosts"]["hosts"][self.mail.name]
        # One alone where IPv6 is switched off.
        self.mail_addresses: list[str] = [
            mail_host[f"mail_host_{kind}"] for kind in ("ipv4", "ipv6") if f"mail_host_{kind}" in mail_host
        ]
        odoo_hosts: dict[str, dict[str, str]] = children["odoo_hosts"]["hosts"]
        addressed = [name for name, entry in odoo_hosts.items() if entry["ansible_host"] in self.database["url"]]
        self.odoo = only("odoo_hosts", *addressed)
        strangers = ("ns.example.com", "mx.customer.example")
        self.dns, self.outside = (Host(name, self.addresses[name]) for name in strangers)

    @property
    def domain(self) -> dict[str, Any]:
        """The alias domain of the inventory, with its names."""
        domain: dict[str, Any] = self.database["domains"][0]
        return domain

    @property
    def selector(self) -> str:
        """The selector of the domain's DKIM key that signs."""
        state = self.secrets / "dkim" / "selectors.json"
        domains = json.loads(state.read_text(encoding="utf-8"))["domains"] if state.exists() else {}
        keys = domains.get(self.domain["name"], [{"selector": "mailroom1", "phase": "signs"}])
        return next(str(key["selector"]) for key in keys if key["phase"] == "signs")

    def secret(self, name: str) -> str:
        """A secret that is kept on the control node."""
        try:
            return (self.secrets / name).read_text().strip()
        except OSError as error:
            raise StoryError(f"{self.secrets / name}: {error.strerror}: run site.yml first") from error

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """Trust in the demo's own authority and in nothing else."""
        return ssl.create_default_context(cafile=str(self.secrets / "ca" / "ca.pem"))

    @contextlib.contextmanager
    def names(self) -> Iterator[None]:
        """Within this block the hosts' names resolve to their addresses, so that certificates can be verified."""
        real = socket.getaddrinfo

        def resolve(host: Any, *args: Any, **options: Any) -> Any:
            return real(self.addresses.get(host, host), *args, **options)

        socket.getaddrinfo = resolve
        try:
            yield
        finally:
            socket.getaddrinfo = real

    def ssh(self, host: Host, *command: str) -> str:
        """Run a command on a host; returns what it prints."""
        config = self.secrets / "ssh" / "config"
        run = subprocess.run(
            ["ssh", "-F", str(config), "-o", "BatchMode=yes", host.name, *command],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise StoryError(f"{host.name}: '{' '.join(command)}' ended with {run.returncode}: {last_line(run.stderr)}")
        return run.stdout

    def site(self, *options: str, playbook: str = "site.yml") -> str:
        """Run site.yml, or another playbook, on the hosts; returns what it prints. Raises CalledProcessError."""
        return subprocess.run(
            [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(self.inventory), playbook, *options],
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    def smtp(self, host: Host) -> smtplib.SMTP:
        """An SMTP session on port 25 with verified TLS."""
        session = smtplib.SMTP(host.name, 25, local_hostname="client.customer.example", timeout=WAIT)
        session.starttls(context=self.tls)
        return session

    def imap(self, host: Host, user: str, password: str) -> IMAPClient:
        """An IMAP session with verified TLS."""
        session = IMAPClient(host.name, ssl_context=self.tls, timeout=WAIT)
        session.login(user, password)
        return session

    def mailbox(self) -> IMAPClient:
        """The mailbox of the database on our mail host."""
        name = self.database["name"]
        return self.imap(self.mail, name, self.secret(f"mailbox-{name}"))

    def customer_mailbox(self) -> IMAPClient:
        """The customer's own mailbox, outside."""
        return self.imap(self.outside, "customer", "customer")


class Odoo:
    """Odoo's external API for one user."""

    def __init__(self, hosts: Hosts, login: str, password: str) -> None:
        url = hosts.database["url"]
        self.database = hosts.database.get("database") or hosts.database["name"]
        self.password = password
        common = xmlrpc.client.ServerProxy(f"{url}/xmlrpc/2/common", context=hosts.tls)
        self.uid = common.authenticate(self.database, login, password, {})
        common("close")()
        if not self.uid:
            raise StoryError(f"Odoo at {url} refuses the login '{login}': is the database as the demo made it?")
        self.object = xmlrpc.client.ServerProxy(f"{url}/xmlrpc/2/object", context=hosts.tls, allow_none=True)

    def close(self) -> None:
        """End the connection."""
        self.object("close")()

    def __call__(self, model: str, method: str, *args: Any, **options: Any) -> Any:
        """Call a public method; Odoo's refusal becomes a `StoryError` with Odoo's own last line."""
        try:
            return self.object.execute_kw(self.database, self.uid, self.password, model, method, args, options)
        except xmlrpc.client.Fault as fault:
            raise StoryError(f"Odoo refuses {model}.{method}: {last_line(fault.faultString)}") from fault


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "(no message)"


def eventually(what: str, condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds; a host that does not answer yet is no failure."""
    deadline = time.monotonic() + WAIT
    while True:
        with contextlib.suppress(StoryError, OSError):
            if condition():
                return
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def wait_for_message(session: IMAPClient, header: str, value: str, folders: Sequence[str] = ("INBOX",)) -> EmailMessage:
    """The message with that header in one of the folders, as soon as the server tells of it (IDLE, RFC 2177)."""
    deadline = time.monotonic() + WAIT
    while True:
        for folder in reversed(folders):
            session.select_folder(folder, readonly=True)
            found = session.search(["HEADER", header, value])
            if found:
                raw = session.fetch(found[-1:], ["BODY.PEEK[]"])[found[-1]][b"BODY[]"]
                return email.message_from_bytes(raw, policy=email.policy.default)
        left = deadline - time.monotonic()
        if left <= 0:
            raise StoryError(f"no message with {header} {value} in {', '.join(folders)} after {WAIT:.0f} s")
        session.idle()
        try:
            session.idle_check(timeout=min(left, 5))  # the message may have gone to another folder meanwhile
        finally:
            session.idle_done()


@dataclass
class Story:
    """The steps in their order; each leaves what the next one needs."""

    hosts: Hosts
    subject: str = "Ten chairs"
    customer: str = "customer@customer.example"
    lead: int = 0
    answer: EmailMessage = field(default_factory=EmailMessage)

    @cached_property
    def admin(self) -> Odoo:
        """Odoo as its administrator."""
        return Odoo(self.hosts, self.hosts.database["login"], self.hosts.database["password"])

    @cached_property
    def salesperson(self) -> Odoo:
        """Odoo as the salesperson, who may do what a salesperson may."""
        return Odoo(self.hosts, "salesperson", "salesperson")

    def close(self) -> None:
        """End the connections to Odoo."""
        for odoo in (self.__dict__.get("admin"), self.__dict__.get("salesperson")):
            if odoo:
                odoo.close()

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        """Titles and functions, in order."""
        address = f"sales@{self.hosts.domain['name']}"
        return [
            ("Odoo's Test Connection and Test & Confirm pass", self.connections_pass),
            (f"A customer writes to {address}: a lead appears", self.customer_writes),
            ("The salesperson answers in Odoo: signed, and trusted outside", self.salesperson_answers),
            ("The customer answers: the same thread, and the followers' inbox", self.customer_answers),
            ("A stranger writes to an address nobody has: refused at RCPT", self.stranger_is_refused),
        ]

    def names_in_odoo(self) -> tuple[str, str]:
        """Catchall and bounce as Odoo has them for the domain: a record from 17 on, system parameters before."""
        if self.admin("ir.model", "search_count", [("model", "=", "mail.alias.domain")]):
            fields = ["catchall_alias", "bounce_alias"]
            wanted = [("name", "=", self.hosts.domain["name"])]
            (domain,) = self.admin("mail.alias.domain", "search_read", wanted, fields)
            return domain["catchall_alias"], domain["bounce_alias"]
        keys = ["mail.catchall.domain", "mail.catchall.alias", "mail.bounce.alias"]
        rows = self.admin("ir.config_parameter", "search_read", [("key", "in", keys)], ["key", "value"])
        domain_name, catchall, bounce = map({row["key"]: row["value"] for row in rows}.get, keys)
        if domain_name != self.hosts.domain["name"]:
            raise StoryError(f"Odoo's alias domain is {domain_name}: look at the role odoo_mail's result")
        return str(catchall), str(bounce)

    def connections_pass(self) -> str:
        """Both buttons of Odoo's page, pressed through the API."""
        server = self.admin("ir.mail_server", "search", [("smtp_host", "=", self.hosts.mail.name)])
        if not server:
            raise StoryError(f"Odoo has no outgoing server {self.hosts.mail.name}: look at the role odoo_mail's result")
        result = self.admin("ir.mail_server", "test_smtp_connection", server)
        if result.get("params", {}).get("type", "success") != "success":  # Odoo 14 says so in words alone
            raise StoryError(f"Odoo's Test Connection says: {result}")
        incoming = self.admin(
            "fetchmail.server", "search", [("server", "=", self.hosts.mail.name), ("active", "=", False)]
        )
        if not incoming:
            raise StoryError(f"Odoo has no incoming server {self.hosts.mail.name}: look at the role odoo_mail's result")
        self.admin("fetchmail.server", "button_confirm_login", incoming)
        (state,) = self.admin("fetchmail.server", "read", incoming, ["state"])
        if state["state"] != "done":
            raise StoryError(f"Odoo's Test & Confirm left the incoming server in state {state['state']}")
        (outgoing,) = self.admin("ir.mail_server", "read", server, ["smtp_encryption"])
        verified = " with its certificate verified" if outgoing["smtp_encryption"].endswith("strict") else ""
        return f"{self.hosts.mail.name}:465{verified}, and :993"

    def send_from_outside(self, message: EmailMessage) -> str:
        """The customer's mail client hands a message to the customer's own server; returns the Message-ID."""
        message["From"] = f"Customer <{self.customer}>"
        message["Date"] = email.utils.localtime()
        message["Message-ID"] = email.utils.make_msgid(domain="customer.example")
        with self.hosts.smtp(self.hosts.outside) as session:
            session.send_message(message)
        return str(message["Message-ID"])

    def route(self, message_id: str) -> None:
        """Wait until the message is in our mailbox, then let fetch-and-route run as its timer would."""
        folders = ("INBOX", "Routed", "Quarantine")
        with self.hosts.mailbox() as session:
            wait_for_message(session, "Message-ID", message_id, folders)
            self.hosts.ssh(self.hosts.mail, "systemctl", "start", "fetch-and-route.service")
            wait_for_message(session, "Message-ID", message_id, ("Routed",))

    def customer_writes(self) -> str:
        """A new request by SMTP from outside becomes a lead of the team that owns the alias."""
        message = EmailMessage()
        message["To"] = f"sales@{self.hosts.domain['name']}"
        message["Subject"] = self.subject
        message.set_content("Hello,\n\nwhat do ten chairs cost, delivered next week?\n")
        message_id = self.send_from_outside(message)
        self.route(message_id)
        posted = self.admin("mail.message", "search_read", [("message_id", "=", message_id)], ["model", "res_id"])
        if [entry["model"] for entry in posted] != ["crm.lead"]:
            raise StoryError(f"{message_id} is in Odoo as {posted or 'nothing'}, not as one message of a lead")
        self.lead = posted[0]["res_id"]
        (lead,) = self.admin("crm.lead", "read", [self.lead], ["name", "email_from", "team_id"])
        if lead["name"] != self.subject or self.customer not in lead["email_from"] or lead["team_id"][1] != "Sales":
            raise StoryError(f"crm.lead {self.lead} is not the customer's request: {lead}")
        return f"crm.lead {self.lead} '{lead['name']}' of team {lead['team_id'][1]}"

    def salesperson_answers(self) -> str:
        """The answer leaves through our server; the stranger's server records spf, dkim and dmarc."""
        partner = self.salesperson("res.partner", "search", [("email", "=", self.customer)], limit=1)
        partner = partner or [self.salesperson("res.partner", "create", {"name": "Customer", "email": self.customer})]
        self.admin("crm.lead", "message_subscribe", [self.lead], partner_ids=self._partner("salesperson"))
        posted = self.salesperson(
            "crm.lead",
            "message_post",
            [self.lead],
            body="Ten chairs are 900, delivered on Tuesday.",
            message_type="comment",
            subtype_xmlid="mail.mt_comment",
            partner_ids=partner,
        )
        (sent,) = self.admin("mail.message", "read", [posted] if isinstance(posted, int) else posted, ["message_id"])
        with self.hosts.customer_mailbox() as session:
            self.answer = wait_for_message(session, "Message-ID", sent["message_id"])
        results = " ".join(str(value) for value in self.answer.get_all("Authentication-Results", []))
        missing = [check for check in ("spf=pass", "dkim=pass", "dmarc=pass") if check not in results]
        if missing:
            raise StoryError(f"{self.hosts.outside.name} did not record {', '.join(missing)}: {results or 'nothing'}")
        sender = str(self.answer["Return-Path"]).strip("<>")
        local, _, domain = sender.rpartition("@")
        # Odoo 14 tells what came back by an extension: bounce+12-crm.lead-7.
        if (local.partition("+")[0], domain) != (self.hosts.domain["bounce"], self.hosts.domain["name"]):
            wanted = f"{self.hosts.domain['bounce']}@{self.hosts.domain['name']}"
            raise StoryError(f"the answer's envelope sender is {sender}, not {wanted}: bounces would not reach Odoo")
        return f"spf=pass dkim=pass dmarc=pass at {self.hosts.outside.name}, envelope sender {sender}"

    def _partner(self, login: str) -> list[int]:
        (user,) = self.admin("res.users", "search_read", [("login", "=", login)], ["partner_id"])
        return [user["partner_id"][0]]

    def customer_answers(self) -> str:
        """An ordinary reply goes to the catchall address and lands in the thread it belongs to."""
        message = EmailMessage()
        message["To"] = str(self.answer["Reply-To"] or self.answer["From"])
        message["Subject"] = f"Re: {self.answer['Subject']}"
        message["In-Reply-To"] = str(self.answer["Message-ID"])
        message["References"] = f"{self.answer['References'] or ''} {self.answer['Message-ID']}".strip()
        message.set_content("Fine, we take them.\n")
        message_id = self.send_from_outside(message)
        self.route(message_id)
        fields = ["model", "res_id", "notified_partner_ids"]
        posted = self.admin("mail.message", "search_read", [("message_id", "=", message_id)], fields)
        if [(entry["model"], entry["res_id"]) for entry in posted] != [("crm.lead", self.lead)]:
            raise StoryError(f"the reply {message_id} is in Odoo as {posted or 'nothing'}, not in crm.lead {self.lead}")
        inbox = self.salesperson(
            "mail.notification",
            "search_count",
            [
                ("mail_message_id", "=", posted[0]["id"]),
                ("res_partner_id", "in", self._partner("salesperson")),
                ("notification_type", "=", "inbox"),
            ],
        )
        if inbox != 1:
            raise StoryError(f"the reply is in crm.lead {self.lead}, but not in the salesperson's inbox")
        return f"to {message['To']}; crm.lead {self.lead}, and the salesperson's inbox"

    def stranger_is_refused(self) -> str:
        """An address that nobody has is refused in the session: 550 at RCPT, so nothing is ever bounced."""
        nobody = f"nobody-has-this@{self.hosts.domain['name']}"
        with self.hosts.smtp(self.hosts.mail) as session:
            session.ehlo_or_helo_if_needed()
            session.mail("stranger@customer.example")
            code, text = session.rcpt(nobody)
        if code != 550:
            raise StoryError(f"RCPT TO:<{nobody}> was answered with {code} {text.decode(errors='replace')}, not 550")
        return f"{code} {text.decode(errors='replace')}"

    def reply_to(self, address: str) -> str:
        """A reply to a thread that has no alias of its own, sent to the address, lands in that thread."""
        partner = self.admin("res.partner", "create", {"name": f"Thread answered at {address}"})
        posted = self.admin("res.partner", "message_post", [partner], body="What do you think?")
        (sent,) = self.admin("mail.message", "read", [posted] if isinstance(posted, int) else posted, ["message_id"])
        reply = EmailMessage()
        reply["To"] = address
        reply["Subject"] = "Re: what do you think?"
        reply["In-Reply-To"] = reply["References"] = sent["message_id"]
        reply.set_content("Good.\n")
        message_id = self.send_from_outside(reply)
        self.route(message_id)
        found = self.admin("mail.message", "search_read", [("message_id", "=", message_id)], ["model", "res_id"])
        if [(entry["model"], entry["res_id"]) for entry in found] != [("res.partner", partner)]:
            raise StoryError(f"the reply to {address} is in Odoo as {found or 'nothing'}, not in res.partner {partner}")
        return f"res.partner {partner}"
