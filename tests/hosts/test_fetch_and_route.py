"""fetch-and-route on the real hosts: Dovecot's mailbox on one side, Odoo on the other, systemd around it."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import json
import os
import re
import smtplib
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from ansible.module_utils.odoo_rpc import Odoo
from imapclient import IMAPClient  # type: ignore[import-untyped]

from library.odoo_probe import ask
from tests import delivery_reports
from tests.story import ROOT, WAIT, Hosts, StoryError

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
DOMAIN = HOSTS.domain["name"]
SALES, PROJECTS = (
    next(f"{alias['name']}@{DOMAIN}" for alias in HOSTS.domain["aliases"] if alias["model"] == model)
    for model in ("crm.team", "project.project")
)
BOUNCE = f"{HOSTS.domain['bounce']}@{DOMAIN}"
FOLDERS = ("INBOX", "Routed", "Quarantine")
SERVICE = "fetch-and-route.service"
MANY = 60
"""Messages of the test that kills the program."""


class Mailroom:
    """The mailbox, Odoo and the program, and all messages of one test."""

    def __init__(self, session: IMAPClient) -> None:
        self.session = session
        ca_file = str(HOSTS.secrets / "ca" / "ca.pem")
        self.odoo = Odoo(HOSTS.database["url"], HOSTS.database["name"], ca_file, timeout=WAIT)
        self.odoo.log_in(HOSTS.database["login"], HOSTS.database["password"])
        self.tag = f"Router test {uuid.uuid4().hex[:10]}"
        self.sent: list[str] = []

    def mail(self, to: str = "undisclosed-recipients:;", headers: bytes = b"") -> bytes:
        """A message from somebody new; one sender too often is taken for a loop by Odoo."""
        message_id = email.utils.make_msgid(domain="customer.example")
        self.sent.append(message_id)
        number = len(self.sent)
        lines = [
            f"From: Customer <c-{uuid.uuid4().hex[:12]}@customer.example>",
            f"To: {to}",
            f"Subject: {self.tag} {number}",
            f"Message-ID: {message_id}",
            f"Date: {email.utils.formatdate()}",
            "MIME-Version: 1.0",
            "Content-Type: text/plain; charset=iso-8859-1",
            "Content-Transfer-Encoding: 8bit",
        ]
        return "\r\n".join([*lines, ""]).encode() + headers + b"\r\nCaf\xe9 for ten?\r\n"

    def send(self, raw: bytes, *recipients: str) -> str:
        """Let our Postfix deliver a message to all recipients at once, and wait for all copies."""
        data = base64.b64encode(raw.replace(b"\r\n", b"\n")).decode()
        command = f"echo {data} | base64 -d | sendmail -i -f stranger@customer.example {' '.join(recipients)}"
        HOSTS.ssh(HOSTS.mail, "sh", "-c", f"'{command}'")
        self.wait(self.sent[-1], len(recipients))
        return self.sent[-1]

    def wait(self, message_id: str, copies: int) -> None:
        """Wait until so many copies of a message are in INBOX."""
        deadline = time.monotonic() + WAIT
        while len(self.uids("INBOX", message_id)) < copies:
            assert time.monotonic() < deadline, f"{message_id} did not arrive"
            self.session.idle()
            self.session.idle_check(timeout=1)
            self.session.idle_done()

    def put(self, raw: bytes, recipient: str) -> str:
        """Put a message into INBOX as our LMTP service delivers it."""
        trace = (
            "Return-Path: <stranger@customer.example>\r\n"
            f"Delivered-To: {recipient}\r\n"
            f"Received: from {HOSTS.mail.name} by {HOSTS.mail.name} with LMTP id x for <{recipient}>; now\r\n"
        )
        self.session.append("INBOX", trace.encode() + raw)
        return self.sent[-1]

    def run(self) -> int:
        """Let the program run as the timer does; returns its exit code."""
        with contextlib.suppress(StoryError):  # systemctl repeats in words what the exit code says
            HOSTS.ssh(HOSTS.mail, "systemctl", "start", SERVICE)
        return self.exit_code()

    def run_by_hand(self) -> int:
        """Let the program run as a person does, who is not made to wait; returns its exit code."""
        return int(HOSTS.ssh(HOSTS.mail, "fetch-and-route run >/dev/null; echo $?"))

    def exit_code(self) -> int:
        return int(HOSTS.ssh(HOSTS.mail, "systemctl", "show", "--value", "--property=ExecMainStatus", SERVICE))

    def status(self) -> str:
        return HOSTS.ssh(HOSTS.mail, "fetch-and-route", "status")

    def figures(self) -> dict[str, float]:
        """What Prometheus would read of the database's own mailbox, by name and the labels besides its own."""
        text = HOSTS.ssh(HOSTS.mail, "cat", "/var/lib/prometheus/node-exporter/fetch-and-route.prom")
        own = re.compile(r"(?:mailbox|database)=\"[^\"]*\",?")
        lines = [own.sub("", line).replace("{}", "").rsplit(" ", 1) for line in text.splitlines() if line[0] != "#"]
        return {name.removeprefix("fetch_and_route_").replace(",}", "}"): float(value) for name, value in lines}

    def uids(self, folder: str, message_id: str) -> list[int]:
        self.session.select_folder(folder, readonly=True)
        return list(self.session.search(["HEADER", "Message-ID", message_id]))

    def folders(self, message_id: str) -> list[str]:
        """Where the copies of a message are."""
        return [folder for folder in FOLDERS for _ in self.uids(folder, message_id)]

    def posted(self, message_ids: Sequence[str]) -> list[dict[str, object]]:
        """What Odoo has of these messages."""
        fields = ["message_id", "model", "res_id", "body"]
        domain = [["message_id", "in", list(message_ids)]]
        found: list[dict[str, object]] = self.odoo.search_read("mail.message", domain, fields)
        return found

    def move(self, message_id: str, source: str, target: str) -> None:
        uids = self.uids(source, message_id)
        self.session.select_folder(source)
        self.session.move(uids, target)

    def table(self) -> str:
        """The addresses that Odoo has by what the program found out."""
        return HOSTS.ssh(HOSTS.mail, "cat", "/var/lib/fetch-and-route/recipients")

    def submit(self, recipient: str, raw: bytes = b"") -> int:
        """Write to an address as a stranger's server does; the answer to RCPT, or to the message if there is one."""
        with smtplib.SMTP(HOSTS.mail.address, 25, "client.customer.example", timeout=WAIT) as session:
            session.ehlo()
            session.mail("stranger@customer.example")
            code, _ = session.rcpt(recipient)
            return session.data(raw)[0] if raw and code == 250 else code

    def until(self, recipient: str, code: int) -> None:
        """Ask until the answer to RCPT is this one: as soon as the last smtpd has ended that knew the old table."""
        answers = [self.submit(recipient)]
        while answers[-1] != code:
            assert len(answers) < 50, f"{recipient}: {answers}"
            answers.append(self.submit(recipient))

    def clean(self) -> None:
        """Remove this test's mail and what Odoo made of it."""
        for folder in FOLDERS:
            self.session.select_folder(folder)
            uids = self.session.search(["SUBJECT", self.tag])
            if uids:
                self.session.delete_messages(uids)
                self.session.uid_expunge(uids)
        for model in ("crm.lead", "project.task", "res.partner"):
            rows = self.odoo.search_read(model, [["name", "ilike", self.tag]], ["name"])
            self.odoo.call(model, "unlink", [row["id"] for row in rows])


@pytest.fixture
def mailroom() -> Iterator[Mailroom]:
    with HOSTS.names():
        HOSTS.ssh(HOSTS.mail, "systemctl", "stop", "fetch-and-route.timer", SERVICE)
        mailroom = Mailroom(HOSTS.mailbox())
        try:
            yield mailroom
        finally:
            HOSTS.ssh(HOSTS.odoo, "systemctl", "start", "odoo")
            mailroom.clean()
            mailroom.session.logout()
            mailroom.odoo.close()
            with contextlib.suppress(StoryError):  # systemd forgets a unit that has nothing to tell
                HOSTS.ssh(HOSTS.mail, "systemctl", "reset-failed", SERVICE)
            HOSTS.ssh(HOSTS.mail, "systemctl", "start", "fetch-and-route.timer")


def test_one_mail_to_two_addresses_reaches_both_records_once(mailroom: Mailroom) -> None:
    message_id = mailroom.send(mailroom.mail(), SALES, PROJECTS)
    assert mailroom.folders(message_id) == ["INBOX", "INBOX"]
    assert mailroom.run() == 0
    assert mailroom.folders(message_id) == ["Routed", "Routed"]
    assert {entry["model"] for entry in mailroom.posted([message_id])} == {"crm.lead", "project.task"}
    assert all("Café" in str(entry["body"]) for entry in mailroom.posted([message_id])), "raw 8-bit text is intact"
    for uid in mailroom.uids("Routed", message_id):
        assert rb"\Seen" not in mailroom.session.get_flags([uid])[uid]


def test_a_hidden_recipient_and_one_in_mixed_case_are_reached(mailroom: Mailroom) -> None:
    hidden = mailroom.send(mailroom.mail(to="somebody@customer.example"), SALES.upper())
    assert mailroom.run() == 0
    assert [entry["model"] for entry in mailroom.posted([hidden])] == ["crm.lead"]


def test_what_a_stranger_writes_into_the_trace_fields_is_ignored(mailroom: Mailroom) -> None:
    forged = f"Delivered-To: {PROJECTS}\r\nReturn-Path: <victim@example.net>\r\n".encode()
    message_id = mailroom.put(mailroom.mail(headers=forged), SALES)  # Postfix may be set to remove such lines itself
    assert mailroom.run() == 0
    assert [entry["model"] for entry in mailroom.posted([message_id])] == ["crm.lead"]


def test_what_other_servers_report_is_noted_on_the_right_message(mailroom: Mailroom) -> None:
    lead = mailroom.odoo.call("crm.lead", "create", {"name": mailroom.tag})
    forms = [*delivery_reports.FAILURES, *delivery_reports.NOTICES]
    notifications = []
    for number, form in enumerate(forms):
        recipient = f"c-{uuid.uuid4().hex[:12]}@customer.example"
        partner = mailroom.odoo.call("res.partner", "create", {"name": mailroom.tag, "email": recipient})
        about = email.utils.make_msgid(domain=DOMAIN)
        values = {"model": "crm.lead", "res_id": lead, "message_id": about, "message_type": "comment"}
        message = mailroom.odoo.call("mail.message", "create", values)
        values = {"mail_message_id": message, "res_partner_id": partner, "notification_type": "email"}
        notifications.append(
            mailroom.odoo.call("mail.notification", "create", {**values, "notification_status": "sent"})
        )
        own_id = email.utils.make_msgid(domain="customer.example")
        mailroom.sent.append(own_id)
        raw = delivery_reports.write(form, about, recipient, own_id=own_id, to=BOUNCE)
        mailroom.put(raw.replace(b"\r\nSubject: ", f"\r\nSubject: {mailroom.tag} {number} ".encode(), 1), BOUNCE)
    assert mailroom.run() == 0
    assert {folder for message_id in mailroom.sent for folder in mailroom.folders(message_id)} == {"Routed"}
    rows = mailroom.odoo.search_read("mail.notification", [["id", "in", notifications]], ["notification_status"])
    status = {row["id"]: row["notification_status"] for row in rows}
    noted = {form.__name__: status[notification] for form, notification in zip(forms, notifications, strict=True)}
    assert noted == {
        **{form.__name__: "bounce" for form in delivery_reports.FAILURES},
        **{form.__name__: "sent" for form in delivery_reports.NOTICES},
    }
    assert mailroom.posted(mailroom.sent) == []


def test_mail_that_odoo_refuses_is_quarantined_with_its_reason(mailroom: Mailroom) -> None:
    message_id = mailroom.put(mailroom.mail(), f"nobody-{uuid.uuid4().hex[:8]}@{DOMAIN}")
    assert mailroom.run() == 0
    assert mailroom.folders(message_id) == ["Quarantine"]
    assert mailroom.posted([message_id]) == []
    after = mailroom.status().partition(message_id)[2].splitlines()
    assert "No possible route" in after[1]


def test_a_quarantined_message_is_explained_shown_and_tried_again(mailroom: Mailroom) -> None:
    message_id = mailroom.put(mailroom.mail(), f"nobody-{uuid.uuid4().hex[:8]}@{DOMAIN}")
    assert mailroom.run() == 0
    bare = message_id[1:-1]  # a shell takes <> for something else
    explained = HOSTS.ssh(HOSTS.mail, "fetch-and-route", "explain", bare)
    assert re.search(r"mailbox \S+: in Quarantine, .*No possible route", explained)
    assert "Odoo has no message with this Message-ID" in explained
    assert message_id in HOSTS.ssh(HOSTS.mail, "fetch-and-route", "quarantine", "list")
    assert f"Subject: {mailroom.tag}" in HOSTS.ssh(HOSTS.mail, "fetch-and-route", "quarantine", "show", bare)
    HOSTS.ssh(HOSTS.mail, "fetch-and-route", "quarantine", "retry", bare)
    assert mailroom.folders(message_id) == ["INBOX"]
    assert mailroom.run() == 0
    assert mailroom.folders(message_id) == ["Quarantine"], "the unit's own user goes on with the notes root changed"
    HOSTS.ssh(HOSTS.mail, "fetch-and-route", "quarantine", "drop", "--yes", bare)
    assert mailroom.folders(message_id) == []


def test_the_postmaster_is_told_once_what_is_new_in_quarantine(mailroom: Mailroom) -> None:
    HOSTS.ssh(HOSTS.mail, "rm", "-f", "/var/lib/fetch-and-route/.summary.json")
    since = HOSTS.ssh(HOSTS.mail, "date", "+%s").strip()
    for _ in range(2):
        mailroom.put(mailroom.mail(), f"nobody-{uuid.uuid4().hex[:8]}@{DOMAIN}")
        assert mailroom.run() == 0
    journal = HOSTS.ssh(HOSTS.mail, "journalctl", "--unit=fetch-and-route", "--output=cat", f"--since=@{since}")
    told = [line for line in journal.splitlines() if line.startswith("summary")]
    assert told == [f"summary of the quarantine sent to postmaster@{HOSTS.mail.name}"], "Postfix took it, once"


def test_a_message_that_odoo_has_already_is_not_posted_twice(mailroom: Mailroom) -> None:
    message_id = mailroom.put(mailroom.mail(), SALES)
    assert mailroom.run() == 0
    mailroom.move(message_id, "Routed", "INBOX")  # as after a crash between Odoo's commit and the move
    assert mailroom.run() == 0
    assert mailroom.folders(message_id) == ["Routed"]
    assert len(mailroom.posted([message_id])) == 1
    lines = HOSTS.ssh(HOSTS.mail, "journalctl", "--unit=fetch-and-route", "--output=cat", "--lines=50").splitlines()
    (line,) = [line for line in lines if f"message-id={message_id}" in line and "verdict=duplicate" in line]
    assert re.search(rf"mailbox=\S+ recipients={SALES} .*record=crm\.lead/\d+ folder=Routed seconds=", line)


def test_an_alias_made_in_odoo_is_known_after_one_run_and_forgotten_like_that(mailroom: Mailroom) -> None:
    name = f"jobs-{uuid.uuid4().hex[:8]}"
    address = f"{name}@{DOMAIN}"
    model = mailroom.odoo.search_read("ir.model", [["model", "=", "crm.lead"]], ["model"])[0]["id"]
    alias = mailroom.odoo.call("mail.alias", "create", {"alias_name": name, "alias_model_id": model})
    try:
        assert mailroom.submit(address) == 550
        assert mailroom.run() == 0
        mailroom.until(address, 250)
        raw = mailroom.mail(to=address).replace(b"@customer.example>\r\nTo", b"@stranger.example>\r\nTo")
        assert mailroom.submit(address, raw) == 250
        mailroom.wait(mailroom.sent[-1], 1)
        assert mailroom.run() == 0
        assert [entry["model"] for entry in mailroom.posted(mailroom.sent)] == ["crm.lead"]
    finally:
        mailroom.odoo.call("mail.alias", "unlink", [alias])
    assert mailroom.run() == 0
    mailroom.until(address, 550)


def asked() -> str:
    """What preflight would say of Odoo, "" when nothing is wrong."""
    database = HOSTS.database | {"ca_file": str(HOSTS.secrets / "ca" / "ca.pem")}
    return "\n".join(ask(database, 20)[1])


AWAY = (
    f"odoo_databases[{HOSTS.database['name']}].url: {HOSTS.database['url']} answers HTTP 502: the proxy is there, Odoo "
    "is starting or down: start Odoo, or try again in a minute"
)


def test_mail_waits_while_odoo_is_away(mailroom: Mailroom) -> None:
    message_id = mailroom.put(mailroom.mail(), SALES)
    table = mailroom.table()
    assert f"{SALES} OK" in table
    HOSTS.ssh(HOSTS.odoo, "systemctl", "stop", "odoo")
    assert asked() == AWAY
    assert mailroom.run() == 75
    assert mailroom.table() == table, "nobody is refused because Odoo is away"
    assert mailroom.folders(message_id) == ["INBOX"]
    HOSTS.ssh(HOSTS.odoo, "systemctl", "start", "odoo")
    assert mailroom.run() == 75, "the timer leaves it alone for a while"
    while mailroom.run_by_hand() == 75:  # each try is answered; Odoo takes a few seconds to start
        assert mailroom.folders(message_id) == ["INBOX"]
        assert asked() in {AWAY, ""}, "it is told in words"
    assert mailroom.folders(message_id) == ["Routed"]
    assert len(mailroom.posted([message_id])) == 1
    assert asked() == ""


def test_killed_again_and_again_it_loses_none_and_posts_none_twice(mailroom: Mailroom) -> None:
    recipients = [SALES, PROJECTS]
    message_ids = [mailroom.put(mailroom.mail(), recipients[number % 2]) for number in range(MANY)]
    kills = 0
    for hundredths in (*range(14, 40, 2), 50, 70, 100):  # each life a little longer, however fast the hosts are
        life = hundredths / 100
        command = f"timeout --signal=KILL {life} fetch-and-route run >/dev/null; echo $?"
        kills += HOSTS.ssh(HOSTS.mail, "sh", "-c", f"'{command}'").strip() == "137"
    assert mailroom.run() == 0
    assert kills >= 3, "the program was hardly ever caught alive"
    assert [mailroom.folders(message_id) for message_id in message_ids] == [["Routed"]] * MANY, "lost"
    posted = [entry["message_id"] for entry in mailroom.posted(message_ids)]
    assert sorted(map(str, posted)) == sorted(message_ids), "each message is once in Odoo"


def test_the_figures_are_written_where_the_exporter_looks(mailroom: Mailroom) -> None:
    assert mailroom.run() == 0
    before = mailroom.figures()
    mailroom.put(mailroom.mail(), SALES)
    mailroom.put(mailroom.mail(), f"nobody-{uuid.uuid4().hex[:8]}@{DOMAIN}")
    assert mailroom.run() == 0, "the unit's own user, which is another each time, may write there"
    after = mailroom.figures()
    rise = {name: after[name] - before[name] for name in after}
    assert rise['verdicts_total{verdict="routed"}'] == rise['verdicts_total{verdict="refused"}'] == 1
    assert rise["routed_messages"] == rise["quarantine_messages"] == 1
    assert rise["message_seconds_count"] == 2
    assert after["waiting_messages"] == after["oldest_waiting_seconds"] == 0
    assert 0 <= rise["last_success_timestamp_seconds"] < WAIT
    assert mailroom.run_by_hand() == 0, "root may, too"
    assert mailroom.run() == 0
    assert mailroom.figures()["last_success_timestamp_seconds"] >= after["last_success_timestamp_seconds"]


def test_two_runs_at_once_do_not_meet(mailroom: Mailroom) -> None:
    message_ids = [mailroom.put(mailroom.mail(), SALES) for _ in range(20)]
    both = f"systemctl start --no-block {SERVICE}; for number in 1 2 3; do fetch-and-route run & done; wait"
    assert "another fetch-and-route is running" in HOSTS.ssh(HOSTS.mail, "sh", "-c", f"'{both}'")
    assert mailroom.run() == 0
    assert len(mailroom.posted(message_ids)) == 20
    assert [mailroom.folders(message_id) for message_id in message_ids] == [["Routed"]] * 20


@pytest.mark.usefixtures("mailroom")
def test_check_finds_everything_in_order() -> None:
    output = HOSTS.ssh(HOSTS.mail, "fetch-and-route", "check")
    assert [line.split()[:2] for line in output.splitlines()] == [["ok:", "mailbox"], ["ok:", "database"]]


def test_the_unit_is_locked_in_and_its_secrets_too() -> None:
    verdict = HOSTS.ssh(HOSTS.mail, "systemd-analyze", "security", "--no-pager", SERVICE).splitlines()[-1]
    score = re.search(r"exposure level for fetch-and-route.service: ([0-9.]+)", verdict)
    assert score is not None
    assert float(score[1]) <= 2.0
    listing = HOSTS.ssh(HOSTS.mail, "find", "/etc/fetch-and-route/secrets", "-printf", r"'%m %u %y\n'").splitlines()
    assert set(listing) == {"700 root d", "600 root f"}
    config = HOSTS.ssh(HOSTS.mail, "cat", "/etc/fetch-and-route/config.toml")
    for name in (f"gateway-{HOSTS.database['name']}", f"mailbox-{HOSTS.database['name']}"):
        assert HOSTS.secret(name) not in config


def test_the_timer_is_enabled_and_has_the_next_run() -> None:
    timers = json.loads(HOSTS.ssh(HOSTS.mail, "systemctl", "list-timers", "--output=json", "fetch-and-route.timer"))
    assert [timer["activates"] for timer in timers] == [SERVICE]
    assert HOSTS.ssh(HOSTS.mail, "systemctl", "is-enabled", "fetch-and-route.timer").strip() == "enabled"
