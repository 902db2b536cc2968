"""odoo_verify against an Odoo and a mailbox that are a few lines each; tests/hosts has the real ones."""

from __future__ import annotations

import contextlib
import smtplib
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest

from library import odoo_verify
from library.odoo_verify import Database, MailHost

PLACE = "odoo_databases[prod].domains[example.com]"
FINE = "aligned, the answer is in its thread, what came back is marked"


class FakeOdoo:
    """Contacts, one message for each post, and what became of it."""

    def __init__(self) -> None:
        self.partners: dict[int, dict[str, Any]] = {7: {"id": 7, "name": "Mailroom probe"}}  # left by a run cut off
        self.companies = [{"id": 1, "name": "Example Ltd", "alias_domain_id": [3, "example.com"]}]
        self.messages: list[dict[str, Any]] = []
        self.state, self.reason = "sent", ""
        self.has_domains = True

    def of(self, *_: Any) -> FakeOdoo:
        return self

    def log_in(self, login: str, password: str) -> None:
        assert (login, password) == ("admin", "secret")

    def close(self) -> None:
        pass

    def fields(self, wanted: Any) -> set[Any]:
        return set(wanted) if self.has_domains else set()

    def create(self, model: str, values: dict[str, Any], **_: Any) -> int:
        assert model == "res.partner"
        identity = max(self.partners, default=10) + 1
        self.partners[identity] = {"id": identity, **values}
        return identity

    def call(self, model: str, method: str, ids: list[int], **options: Any) -> Any:
        if method == "unlink":
            for identity in ids:
                del self.partners[identity]
            return True
        assert (model, method) == ("res.partner", "message_post")
        row = {"id": len(self.messages) + 50, "message_id": f"<{len(self.messages)}@odoo>", "res_id": ids[0]}
        self.messages.append(row | {"model": model, "reply_to": "catchall@example.com"})
        assert [self.partners[partner]["email"].endswith(".invalid") for partner in options["partner_ids"]] == [True]
        return row["id"]

    def search_read(self, model: str, domain: list[Any], _: Any) -> list[dict[str, Any]]:
        if model == "res.partner":
            return list(self.partners.values())
        if model == "res.company":
            return self.companies
        if model == "mail.notification":
            return [{"notification_status": self.state, "failure_reason": self.reason}] if self.state else []
        ((field, _, value),) = domain
        return [row for row in self.messages if row[field] == value]


REPORT = """\
From: MAILER-DAEMON@mail.example.com
To: bounce+7@example.com
Content-Type: multipart/report; report-type=delivery-status; boundary="b"

--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mail.example.com

Final-Recipient: rfc822; x@mailroom-probe.invalid
Action: failed

--b
Content-Type: message/rfc822

DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com;
\ts=mailroom1; bh=x; b=d=y
DKIM-Signature: v=1; a=ed25519-sha256;
\td=example.com; s=mailroom1-ed25519; b=z
From: "Anna, d=evil" <anna@example.com>
To: x@mailroom-probe.invalid

Hello.
--b--
"""


class FakeHost(MailHost):
    """Takes answers, which are routed at once if `routed` says so, and has what was searched for in its mailbox."""

    sent: list[EmailMessage]
    full = True
    report = b""

    def send(self, message: EmailMessage) -> None:
        self.sent.append(message)

    @contextlib.contextmanager
    def mailbox(self) -> Iterator[Any]:
        yield self

    def select(self, folder: str, readonly: bool) -> tuple[str, list[bytes]]:
        assert readonly
        return ("OK" if folder != "Quarantine" else "NO"), [b""]

    def search(self, _: None, *__: str) -> tuple[str, list[bytes]]:
        return "OK", [b"1" if self.full else b""]

    def fetch(self, number: str, parts: str) -> tuple[str, list[Any]]:
        assert (number, parts) == ("1", "(BODY.PEEK[])")
        return "OK", [(b"1 (BODY[] {9}", self.report), b")"] if self.report else [None]


class Lab:
    """A database, its Odoo and its mail host, through both steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.odoo = FakeOdoo()
        self.host = FakeHost("mail.example.com", "192.0.2.25", None, "prod", "x", 0)  # type: ignore[arg-type]
        object.__setattr__(self.host, "sent", [])
        object.__setattr__(self.host, "report", REPORT.encode())
        monkeypatch.setattr(odoo_verify, "Odoo", self.odoo)
        self.domains = [{"name": "example.com"}]
        self.moves_on = True

    def run(self) -> Database:
        settings = {"name": "prod", "url": "https://x", "login": "admin", "password": "secret", "domains": self.domains}
        database = Database(settings, self.host, 5)
        database.send()
        if self.moves_on:  # fetch-and-route runs
            self.odoo.state = "bounce"
            for answer, post in zip(self.host.sent, list(self.odoo.messages), strict=False):
                row = {"id": 99, "message_id": answer["Message-ID"], "model": "res.partner", "res_id": post["res_id"]}
                self.odoo.messages.append(row)
        judge = Database(settings, self.host, 5)
        judge.judge(database.probes)
        judge.problems = database.problems + judge.problems
        judge.lines = database.lines + judge.lines
        assert self.odoo.partners == {}, "nothing stays in Odoo"
        return judge


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(monkeypatch)


@pytest.mark.parametrize("has_domains", [True, False])
def test_a_mail_that_came_round_is_told(lab: Lab, has_domains: bool) -> None:
    lab.odoo.has_domains = has_domains
    found = lab.run()
    assert (found.problems, found.lines) == ([], [f"{PLACE}: {FINE}"])
    (answer,) = lab.host.sent
    assert (answer["To"], answer["In-Reply-To"]) == ("catchall@example.com", "<0@odoo>")
    assert answer["From"].endswith("@example.com>")


def test_each_domain_is_written_from_by_its_company(lab: Lab) -> None:
    lab.odoo.companies.append({"id": 2, "name": "Sister", "alias_domain_id": [4, "example.net"]})
    lab.domains += [{"name": "example.net"}, {"name": "example.org"}]
    found = lab.run()
    assert found.problems == []
    assert found.lines[0].endswith("domains[example.org]: no company writes from it, nothing to test")
    assert len(found.lines) == 3


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"anna@example.com": "anna@mail.example.com"}, ""),
        ({"v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com": "v=1; d=other.example"}, ""),
        (
            {"bounce+7@example.com": "bounce+7@other.example"},
            "it is from example.com, but SPF is asked of other.example, the sender in its envelope",
        ),
        ({"DKIM-Signature": "X-Signature"}, "it is from example.com, but signed by nobody"),
        ({"d=example.com": "d=other.example"}, "it is from example.com, but signed by other.example"),
        (
            {"d=example.com": "d=notexample.com", "bounce+7@example.com": "bounce@notexample.com"},
            "it is from example.com, but SPF is asked of notexample.com, the sender in its envelope",
        ),
    ],
)
def test_what_odoo_really_sends_has_to_be_aligned(lab: Lab, changes: dict[str, str], problem: str) -> None:
    report = REPORT
    for old, new in changes.items():
        assert old in report
        report = report.replace(old, new)
    object.__setattr__(lab.host, "report", report.encode())
    found = lab.run().problems
    assert found[:1] == ([f"{PLACE}: {problem}, so that is not aligned for DMARC: run site.yml"] if problem else [])
    assert len(found) == bool(problem) * len(changes)


def test_a_report_without_the_mail_tells_nothing(lab: Lab) -> None:
    object.__setattr__(lab.host, "report", REPORT.replace("message/rfc822", "text/rfc822-headers").encode())
    assert lab.run().problems == [f"{PLACE}: what came back does not hold the mail: raise bounce_size_limit of Postfix"]


def test_a_report_that_is_moved_away_is_looked_for_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(odoo_verify, "PAUSE", 0)
    lab.host.__dict__["report"] = b""
    (problem,) = lab.run().problems
    assert "is not in the mailbox of prod after 0 s" in problem


def test_what_did_not_come_through_is_told(lab: Lab) -> None:
    lab.moves_on = False
    lost, unmarked = lab.run().problems
    assert lost.startswith(f"{PLACE}: the answer is not in Odoo, not in its thread: see fetch-and-route explain '<")
    assert unmarked.startswith(f"{PLACE}: what came back did not mark the mail, which is 'sent' (no reason): see ")


def test_a_mail_that_odoo_cannot_send_is_told_with_the_reason(lab: Lab) -> None:
    lab.odoo.state, lab.odoo.reason = "exception", "Connection\nrefused"
    assert lab.run().problems == [f"{PLACE}: Odoo cannot send (Connection refused): run playbooks/odoo_mail.yml"]


def test_a_mail_that_does_not_reach_the_mailbox_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeHost, "full", False)
    monkeypatch.setattr(odoo_verify, "PAUSE", 0)
    (problem,) = lab.run().problems
    assert problem.startswith(f"{PLACE}: the answer is not in the mailbox of prod after 0 s: see the queue")


def test_a_mail_host_that_takes_nothing_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise smtplib.SMTPAuthenticationError(535, b"authentication\nfailed")

    monkeypatch.setattr(FakeHost, "send", refuse)
    lab.moves_on = False
    (problem,) = lab.run().problems
    assert problem.startswith("odoo_databases[prod]: mail.example.com does not take the answer (")
    assert "\n" not in problem
