#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A round trip for each domain: a notification leaves Odoo, its answer reaches the thread, and what bounces is seen."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import email
import email.message
import email.utils
import imaplib
import re
import smtplib
import socket
import ssl
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from module_utils import dmarc
    from module_utils.odoo_rpc import Odoo, OdooError
else:
    from ansible.module_utils import dmarc
    from ansible.module_utils.odoo_rpc import Odoo, OdooError

DOCUMENTATION = r"""
module: odoo_verify
short_description: Send a mail from Odoo, answer it, and have it bounce
description:
  - Runs on the control node, in two steps with a run of fetch-and-route between them. V(send) makes a contact
    C(Mailroom probe) in Odoo for each domain and writes from it to an address that does not exist, so that the mail
    leaves by way of the mail host and comes back to the bounce address; and it answers the mail, as its recipient
    would. It ends when the answer and what came back are in the database's mailbox.
  - V(judge) looks whether Odoo has the answer in its thread and the notification marked as bounced, whether the sender
    in the envelope and who signed are aligned with the one in C(From), as DMARC wants, and removes the contacts. Nobody
    gets a mail.
options:
  databases:
    description: The databases as in C(odoo_databases).
    type: list
    elements: dict
    required: true
  mailbox_passwords:
    description: For each database, in the same order, the password of its account on the mail host.
    type: list
    elements: str
    required: true
  mail_host:
    description: Name of the mail host that Odoo prefers.
    type: str
    required: true
  address:
    description: Its IP address.
    type: str
    required: true
  ca_file:
    description: PEM file with one more authority of its certificate.
    type: path
  probes:
    description: What V(send) answered, for V(judge).
    type: list
    elements: dict
    default: []
  step:
    description: Which of the two steps.
    type: str
    choices: [send, judge]
    required: true
  timeout:
    description: Seconds that each answer of Odoo, and the mails of a database on their way to the mailbox, may take.
    type: int
    default: 60
attributes:
  check_mode:
    support: none
  diff_mode:
    support: none
author: Mailroom contributors
"""

EXAMPLES = r"""
- name: Write, and answer
  odoo_verify:
    databases: "{{ odoo_databases }}"
    mailbox_passwords: ["{{ example_mailbox_password }}"]
    mail_host: mail.example.com
    address: 192.0.2.25
    step: send
  delegate_to: localhost
  run_once: true
  no_log: "{{ example_no_log }}"
  register: __example_sent
"""

RETURN = r"""
probes:
  description: What was sent, for V(judge).
  returned: always
  type: list
  elements: dict
lines:
  description: What was found, one line for each domain.
  returned: always
  type: list
  elements: str
  sample: ["odoo_databases[prod].domains[example.com]: aligned, the answer is in its thread, what came back is marked"]
problems:
  description: What is wrong, one line each - where, what, what to do.
  returned: always
  type: list
  elements: str
"""

NAME = "Mailroom probe"
CAME_BACK = "what came back"
FOLDERS = ("INBOX", "Routed", "Quarantine")
AT_ONCE = 8  # databases, as in odoo_mail
PAUSE = 0.5  # seconds between two looks into the mailbox
QUIET = {"mail_create_nosubscribe": True, "mail_create_nolog": True, "mail_notrack": True, "tracking_disable": True}


@dataclasses.dataclass(frozen=True)
class Probe:
    """A mail that was sent: by which thread to whom, the Message-IDs of it and its answer, and what is not aligned."""

    database: str
    domain: str
    thread: int
    recipient: int
    message: int
    message_id: str
    answer_id: str
    misaligned: Sequence[str] = ()


class Problem(Exception):
    """What went wrong, with the remedy, on one line."""


@dataclasses.dataclass(frozen=True)
class MailHost:
    """The mail host, and an account on it."""

    name: str
    address: str
    context: ssl.SSLContext
    login: str
    password: str
    timeout: int

    def _connect(self, port: int) -> ssl.SSLSocket:
        plain = socket.create_connection((self.address, port), self.timeout)
        return self.context.wrap_socket(plain, server_hostname=self.name)

    def send(self, message: email.message.EmailMessage) -> None:
        """Hand over a message from the sender and to the recipient in its header. Raises OSError, SMTPException."""
        with smtplib.SMTP(timeout=self.timeout) as session:
            session.sock = self._connect(465)
            session.file = None
            session.getreply()
            session.login(self.login, self.password)
            session.send_message(message)

    @contextlib.contextmanager
    def mailbox(self) -> Iterator[imaplib.IMAP4]:
        """A session with the database's mailbox. Raises OSError, IMAP4.error."""
        host = self

        class Session(imaplib.IMAP4):
            def _create_socket(self, timeout: float | None) -> socket.socket:  # noqa: ARG002 - the host has its own
                return host._connect(993)

        with Session(self.name, 993, self.timeout) as session:
            session.login(self.login, self.password)
            yield session


def waiting(session: imaplib.IMAP4, search: Sequence[str]) -> email.message.Message | None:
    """A message that fits in one of the folders, if there is one. Raises IMAP4.error."""
    for folder in FOLDERS:
        status, _ = session.select(folder, readonly=True)
        numbers = session.search(None, *search)[1][0].split() if status == "OK" else []
        for number in numbers[:1]:
            for part in session.fetch(number.decode(), "(BODY.PEEK[])")[1]:
                if isinstance(part, tuple):  # it may have been moved away meanwhile
                    return email.message_from_bytes(part[1])
    return None


def misaligned(report: email.message.Message) -> list[str]:
    """What keeps DMARC from passing for a mail that came back (RFC 9989, 4.4), one line each.

    report: of its failed delivery, with the mail in it (RFC 6522).
    """
    mail = next((part.get_payload(0) for part in report.walk() if part.get_content_type() == "message/rfc822"), None)
    if not isinstance(mail, email.message.Message):
        return ["what came back does not hold the mail: raise bounce_size_limit of Postfix"]
    author, envelope = (
        email.utils.parseaddr(str(header))[1].rpartition("@")[2].lower() for header in (mail["From"], report["To"])
    )
    signatures = mail.get_all("DKIM-Signature", [])
    signers = [found[1].lower() for one in signatures if (found := re.search(r"(?:^|;)\s*d\s*=\s*([^;\s]+)", str(one)))]
    problems = []
    if not dmarc.related(author, envelope):
        problems.append(f"it is from {author}, but SPF is asked of {envelope}, the sender in its envelope")
    if not any(dmarc.related(author, signer) for signer in signers):
        problems.append(f"it is from {author}, but signed by {', '.join(dict.fromkeys(signers)) or 'nobody'}")
    return [f"{problem}, so that is not aligned for DMARC: run site.yml" for problem in problems]


def wait(host: MailHost, probes: Sequence[Probe]) -> dict[str, email.message.Message]:
    """Wait until answers and what came back are in the mailbox; the latter, by the Message-ID of what was sent.

    Raises Problem, OSError, IMAP4.error.
    """
    reports: dict[str, email.message.Message] = {}
    missing = [
        (probe, what, search)
        for probe in probes
        for what, search in (
            ("the answer", ["HEADER", "Message-ID", f'"{probe.answer_id}"']),
            (CAME_BACK, ["FROM", "MAILER-DAEMON", "TEXT", f'"{probe.message_id}"']),
        )
    ]
    deadline = time.monotonic() + host.timeout
    with host.mailbox() as session:
        while missing:
            found = [(entry, waiting(session, entry[2])) for entry in missing]
            reports |= {entry[0].message_id: message for entry, message in found if message and entry[1] == CAME_BACK}
            missing = [entry for entry, message in found if not message]
            if missing and time.monotonic() > deadline:
                probe, what, _ = missing[0]
                where = f"is not in the mailbox of {probe.database} after {host.timeout} s"
                raise Problem(f"domains[{probe.domain}]: {what} {where}: see the queue and the log of {host.name}")
            if missing:
                time.sleep(PAUSE)
    return reports


def notifications(odoo: Odoo, message: int, recipient: int) -> list[tuple[str, str]]:
    """What Odoo says of a mail to its recipient: state, and why it failed. Raises OdooError."""
    domain = [["mail_message_id", "=", message], ["res_partner_id", "=", recipient]]
    rows = odoo.search_read("mail.notification", domain, ["notification_status", "failure_reason"])
    return [(row["notification_status"], " ".join(str(row["failure_reason"] or "no reason").split())) for row in rows]


class Database:
    """One database of the inventory."""

    def __init__(self, settings: Mapping[str, Any], host: MailHost, timeout: int) -> None:
        self.settings = settings
        self.name = str(settings["name"])
        self.where = f"odoo_databases[{self.name}]"
        self.host = host
        self.timeout = timeout
        self.problems: list[str] = []
        self.lines: list[str] = []
        self.probes: list[Probe] = []

    @contextlib.contextmanager
    def _session(self) -> Iterator[Odoo]:
        """A connection as the administrator; what goes wrong in the block becomes a problem."""
        try:
            with contextlib.closing(Odoo.of(self.settings, float(self.timeout))) as odoo:
                odoo.log_in(self.settings["login"], self.settings["password"])
                yield odoo
        except OdooError as error:
            self.problems.append(error.line(self.where))
        except Problem as problem:
            self.problems.append(f"{self.where}.{problem}")
        except (OSError, smtplib.SMTPException, imaplib.IMAP4.error) as error:
            reason = " ".join(str(error).split())
            self.problems.append(f"{self.where}: {self.host.name} does not take the answer ({reason}): run site.yml")

    def send(self) -> None:
        """Write from a contact of each domain, and answer that."""
        with self._session() as odoo:
            self._remove(odoo)  # what a run that was cut off has left
            has_domains = bool(odoo.fields({"res.company": ["alias_domain_id"]}))
            fields = ["name", *(["alias_domain_id"] if has_domains else [])]
            companies = odoo.search_read("res.company", [], fields)
            for domain in self.settings["domains"]:
                ours = [
                    row
                    for row in companies
                    if not has_domains or (row["alias_domain_id"] or [0, ""])[1] == domain["name"]
                ]
                if ours:
                    self.probes.append(self._write(odoo, domain["name"], ours[0]["id"]))
                else:
                    self.lines.append(
                        f"{self.where}.domains[{domain['name']}]: no company writes from it, nothing to test"
                    )
            reports = wait(self.host, self.probes)
            self.probes = [
                dataclasses.replace(probe, misaligned=misaligned(reports[probe.message_id])) for probe in self.probes
            ]
        if self.problems:
            self.probes.clear()  # there is nothing to judge, only to remove

    def _write(self, odoo: Odoo, domain: str, company: int) -> Probe:
        token = uuid.uuid4().hex
        thread = odoo.create("res.partner", {"name": NAME, "company_id": company}, context=QUIET)
        nobody = {"name": NAME, "email": f"{token}@mailroom-probe.invalid", "company_id": company}
        recipient = odoo.create("res.partner", nobody, context=QUIET)
        odoo_id = odoo.call(
            "res.partner",
            "message_post",
            [thread],
            body="Mailroom verifies the way of mail.",
            subject=NAME,
            message_type="comment",
            subtype_xmlid="mail.mt_comment",
            partner_ids=[recipient],
            context=QUIET,
        )
        message = odoo_id[0] if isinstance(odoo_id, list) else odoo_id
        for state, reason in notifications(odoo, message, recipient):
            if state == "exception":
                raise Problem(f"domains[{domain}]: Odoo cannot send ({reason}): run playbooks/odoo_mail.yml")
        (sent,) = odoo.search_read("mail.message", [["id", "=", message]], ["message_id", "reply_to"])
        answer = email.message.EmailMessage()
        answer["From"] = f"{NAME} <mailroom-probe@{domain}>"  # whom the account may write as
        answer["To"] = sent["reply_to"]
        answer["Subject"] = f"Re: {NAME}"
        answer["Date"] = email.utils.localtime()
        answer["Message-ID"] = f"<{token}@{domain}>"
        answer["In-Reply-To"] = answer["References"] = sent["message_id"]
        answer.set_content("It has arrived.\n")
        self.host.send(answer)
        return Probe(self.name, domain, thread, recipient, message, sent["message_id"], str(answer["Message-ID"]))

    def judge(self, probes: Sequence[Probe]) -> None:
        """Say what became of the probes, and remove their records."""
        with self._session() as odoo:
            for probe in probes:
                place = f"{self.where}.domains[{probe.domain}]"
                wrong = [*probe.misaligned, *self._wrong(odoo, probe)]
                self.problems += [f"{place}: {line}" for line in wrong]
                if not wrong:
                    self.lines.append(f"{place}: aligned, the answer is in its thread, what came back is marked")
            self._remove(odoo)

    def _wrong(self, odoo: Odoo, probe: Probe) -> list[str]:
        wrong = []
        found = odoo.search_read("mail.message", [["message_id", "=", probe.answer_id]], ["model", "res_id"])
        if [(row["model"], row["res_id"]) for row in found] != [("res.partner", probe.thread)]:
            place = f"in {found[0]['model']} {found[0]['res_id']}" if found else "not in Odoo"
            cure = f"see fetch-and-route explain '{probe.answer_id}' on {self.host.name}"
            wrong.append(f"the answer is {place}, not in its thread: {cure}")
        states = notifications(odoo, probe.message, probe.recipient)
        if [state for state, _ in states] != ["bounce"]:
            state, reason = states[0] if states else ("gone", "no reason")
            cure = f"see the mail log of {self.host.name}, and fetch-and-route status"
            wrong.append(f"what came back did not mark the mail, which is {state!r} ({reason}): {cure}")
        return wrong

    def _remove(self, odoo: Odoo) -> None:
        left = [row["id"] for row in odoo.search_read("res.partner", [["name", "=", NAME]], ["name"])]
        if left:
            odoo.call("res.partner", "unlink", left)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            # no_log keeps the passwords out of the control node's syslog ...
            "databases": {"type": "list", "elements": "dict", "required": True, "no_log": True},
            "mailbox_passwords": {"type": "list", "elements": "str", "required": True, "no_log": True},
            "mail_host": {"type": "str", "required": True},
            "address": {"type": "str", "required": True},
            "ca_file": {"type": "path"},
            "probes": {"type": "list", "elements": "dict", "default": []},
            "step": {"type": "str", "choices": ["send", "judge"], "required": True},
            "timeout": {"type": "int", "default": 60},
        }
    )
    # ... but it would also blank every name in the answer, which holds nothing secret and leaves the arguments out.
    module.no_log_values.clear()
    params = module.params
    context = ssl.create_default_context()
    if params["ca_file"]:
        context.load_verify_locations(params["ca_file"])
    databases = [
        Database(
            settings,
            MailHost(params["mail_host"], params["address"], context, settings["name"], password, params["timeout"]),
            params["timeout"],
        )
        for settings, password in zip(params["databases"], params["mailbox_passwords"], strict=True)
    ]
    probes = [Probe(**probe) for probe in params["probes"]]

    def work(database: Database) -> None:
        if params["step"] == "send":
            database.send()
        else:
            database.judge([probe for probe in probes if probe.database == database.name])

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, databases))
    module.exit_json(
        changed=False,
        probes=[dataclasses.asdict(probe) for database in databases for probe in database.probes],
        lines=[line for database in databases for line in database.lines],
        problems=[problem for database in databases for problem in database.problems],
        invocation={"module_args": {}},
    )


if __name__ == "__main__":
    main()
