"""The gateway action's verdicts, asked for over Odoo's external API with the gateway's own key.

MAILROOM_INVENTORY names an inventory directory (the demo's by default) and MAILROOM_DATABASE one of its databases (the
first by default).  Every message comes from an address of its own; the records made from them are removed at the end.
"""

from __future__ import annotations

import base64
import os
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import yaml

from module_utils.odoo_rpc import Odoo, OdooError
from tests.story import Hosts, StoryError
from tests.story import Odoo as XmlrpcOdoo

pytestmark = pytest.mark.hosts

INVENTORY = Path(os.environ.get("MAILROOM_INVENTORY", Path(__file__).resolve().parents[2] / "inventory" / "demo"))
PROTOCOLS = pytest.mark.parametrize("xmlrpc", [False, True], ids=["json2", "xmlrpc"], indirect=True)


# What each user of Odoo's portal sees: its own, and lists that come with Odoo or that all share.
OWN = {"res.company", "res.partner", "res.users", "res.users.apikeys"}
LISTS = {
    *("mail.message.subtype", "res.country", "res.country.group", "res.country.state"),
    *("res.currency", "res.currency.rate", "res.lang"),
}
# What it may make and change, of which it sees nothing but its own.
WORK = {
    *("auth.passkey.key", "auth.passkey.key.create", "auth_totp.wizard", "discuss.channel.member", "ir.filters"),
    *("mail.message", "res.users.apikeys.description", "res.users.identitycheck"),
}
# Odoo 14 has more that it lets everybody see, and do.
LISTS_14 = {
    *("crm.stage", "ir.default", "mail.alias", "mail.channel.partner", "mail.notification", "report.layout"),
    *("report.paperformat", "res.partner.title", "res.users.log", "utm.medium", "utm.source"),
}
WORK_14 = {
    *("bus.presence", "ir.ui.view.custom", "mail.channel.partner", "mail.compose.message"),
    *("publisher_warranty.contract", "report.layout", "res.partner.autocomplete.sync", "res.users.log"),
    *("utm.campaign", "utm.medium", "utm.source", "web_editor.converter.test", "web_editor.converter.test.sub"),
}
REACH = """bot = env['res.users'].search([('login', '=', 'LOGIN')])
seen, changed = {}, []
for model in env['ir.model'].search([]).mapped('model'):
    records = env[model].with_user(bot).with_context(active_test=False)
    if not records._abstract and records.has_access('read') and records.search_count([]):
        seen[model] = records.search_count([])
    if [right for right in ('create', 'write', 'unlink') if records.has_access(right)]:
        changed.append(model)
action = {'type': 'ir.actions.act_window_close', 'seen': seen, 'changed': changed}
"""


class Gateway:
    """The gateway action of one database as the router uses it, and the administrator's view of what it did."""

    def __init__(self) -> None:
        facts = yaml.safe_load((INVENTORY / "group_vars" / "all.yml").read_text(encoding="utf-8"))
        databases = {database["name"]: database for database in facts["odoo_databases"]}
        name = os.environ.get("MAILROOM_DATABASE", next(iter(databases)))
        self.facts = databases[name]
        self.domain: dict[str, Any] = {"catchall": "catchall", "bounce": "bounce", **self.facts["domains"][0]}
        secrets = INVENTORY / "secrets"
        ca_file = self.facts.get("ca_file", "").replace("{{ secrets_directory }}", str(secrets)) or None
        self.key = (secrets / f"gateway-{name}").read_text(encoding="utf-8").strip()
        self.admin = Odoo.of({**self.facts, "ca_file": ca_file}, 60)
        self.admin.log_in(self.facts["login"], self.facts["password"])
        self.bot = XmlrpcOdoo(Hosts(INVENTORY, name), "mailroom-gateway", self.key)
        domain = [["name", "=", "Mailroom gateway"], ["state", "=", "code"]]
        self.action = self.admin.search_read("ir.actions.server", domain, ["name"])[0]["id"]
        self.major = self.admin.version()
        self.json2 = self.major >= 19
        self.tag = uuid.uuid4().hex[:10]

    def address(self, local_part: str) -> str:
        """An address in the database's first domain."""
        return f"{local_part}@{self.domain['name']}"

    def alias(self, model: str) -> str:
        """The name of the alias that the inventory gives to this model."""
        return next(str(alias["name"]) for alias in self.domain["aliases"] if alias["model"] == model)

    def ask(self, *messages: EmailMessage | bytes, xmlrpc: bool = False) -> list[dict[str, Any]]:
        """Hand messages to the action in one call; returns its verdicts without their ids, which are checked."""
        entries = []
        for number, message in enumerate(messages):
            raw = message if isinstance(message, bytes) else message.as_bytes()
            head = raw.split(b"\n\n", 1)[0].decode("latin-1")
            found = [line[12:] for line in head.splitlines() if line.startswith("Message-ID: ")]
            entry = {"id": f"message-{number}", "raw": base64.b64encode(raw).decode("ascii")}
            entries.append({**entry, "message_id": found[0]} if found else entry)
        return self.call(entries, xmlrpc)

    def call(self, entries: list[dict[str, str]], xmlrpc: bool = False) -> list[dict[str, Any]]:
        """Call the action as the router does."""
        verdicts: list[dict[str, Any]] = self.run({"messages": entries}, xmlrpc)["verdicts"]
        assert [verdict.pop("id") for verdict in verdicts] == [entry["id"] for entry in entries]
        return verdicts

    def run(self, asked: dict[str, Any], xmlrpc: bool = False) -> dict[str, Any]:
        """Run the action; returns its answer."""
        context = {"mailroom": {"version": 1, **asked}}
        if xmlrpc or not self.json2:
            answer = self.bot("ir.actions.server", "run", [self.action], context=context)
        else:
            body = {"ids": [self.action], "context": context}
            answer = self.admin.json2(self.key, "ir.actions.server", "run", body)
        assert answer["type"] == "ir.actions.act_window_close"
        assert answer["mailroom"]["version"] == 1
        found: dict[str, Any] = answer["mailroom"]
        return found

    def stored(self, message: EmailMessage) -> list[dict[str, Any]]:
        """The messages Odoo has stored under this Message-ID."""
        fields = ["model", "res_id", "body", "is_internal", "parent_id", "message_type"]
        rows: list[dict[str, Any]] = self.admin.search_read(
            "mail.message", [["message_id", "=", str(message["Message-ID"])]], fields
        )
        return rows

    def records(self, message: EmailMessage, model: str = "crm.lead") -> list[int]:
        """The records made from messages with this subject."""
        return [row["id"] for row in self.admin.search_read(model, [["name", "=", str(message["Subject"])]], ["name"])]

    def mail(self, *to: str, sender: str = "", **headers: str) -> EmailMessage:
        """A message from somebody new to local parts of the domain, with further headers (_ for -)."""
        message = EmailMessage()
        number = uuid.uuid4().hex[:12]
        message["From"] = sender or f"Customer <c-{number}@customer.example>"
        message["To"] = ", ".join(self.address(local_part) for local_part in to)
        message["Subject"] = f"Gateway test {self.tag} {number}"
        message["Message-ID"] = f"<{number}@customer.example>"
        for name, value in headers.items():
            message[name.replace("_", "-")] = value
        message.set_content("Do you have ten chairs?\n")
        return message

    def lead(self) -> tuple[EmailMessage, dict[str, Any]]:
        """A message that has become a lead, and its verdict."""
        message = self.mail(self.alias("crm.team"))
        (verdict,) = self.ask(message)
        assert verdict["verdict"] == "routed", verdict
        return message, verdict

    def partner(self, address: str) -> int:
        """A new contact."""
        return int(self.admin.call("res.partner", "create", {"name": f"Gateway test {self.tag}", "email": address}))

    def close(self) -> None:
        """Close both connections."""
        self.admin.close()
        self.bot.close()

    def remove_traces(self) -> None:
        """Remove what was made of this run's messages."""
        for model in ("crm.lead", "project.task", "res.partner"):
            rows = self.admin.search_read(model, [["name", "ilike", f"Gateway test {self.tag}"]], ["name"])
            self.admin.call(model, "unlink", [row["id"] for row in rows])


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    gateway.lead()  # the first message for an alias marks it as working, see the test of that
    yield gateway
    gateway.remove_traces()
    gateway.close()


@pytest.fixture
def xmlrpc(gateway: Gateway, request: pytest.FixtureRequest) -> bool:
    """Whether to ask over XML-RPC rather than JSON-2."""
    if not request.param and not gateway.json2:
        pytest.skip("this Odoo has no JSON-2")
    return bool(request.param)


@pytest.fixture
def broken_alias(gateway: Gateway) -> Iterator[str]:
    """An alias that makes leads in a stage that is not there: PostgreSQL refuses them."""
    models = gateway.admin.search_read("ir.model", [["model", "=", "crm.lead"]], ["model"])
    values = {
        "alias_name": f"zz-broken-{gateway.tag}",  # Odoo takes aliases in the order of their names
        "alias_model_id": models[0]["id"],
        "alias_defaults": "{'stage_id': 999999999}",
    }
    identity = gateway.admin.call("mail.alias", "create", values)
    yield values["alias_name"]
    gateway.admin.call("mail.alias", "unlink", [identity])


@pytest.fixture
def new_alias(gateway: Gateway) -> Iterator[str]:
    """An alias for leads that has never had a message."""
    models = gateway.admin.search_read("ir.model", [["model", "=", "crm.lead"]], ["model"])
    values = {"alias_name": f"new-{gateway.tag}", "alias_model_id": models[0]["id"]}
    identity = gateway.admin.call("mail.alias", "create", values)
    yield values["alias_name"]
    gateway.admin.call("mail.alias", "unlink", [identity])


def test_nothing_is_a_ping(gateway: Gateway) -> None:
    assert gateway.call([]) == []
    assert gateway.call([], xmlrpc=True) == []


@PROTOCOLS
def test_a_message_for_an_alias_becomes_a_record(gateway: Gateway, xmlrpc: bool) -> None:
    message = gateway.mail(gateway.alias("crm.team"))
    (verdict,) = gateway.ask(message, xmlrpc=xmlrpc)
    (stored,) = gateway.stored(message)
    assert verdict == {
        "verdict": "routed",
        "model": "crm.lead",
        "res_id": gateway.records(message)[0],
        "mail_message_id": stored["id"],
        "reason": "",
    }
    assert (stored["model"], stored["res_id"]) == (verdict["model"], verdict["res_id"])


def test_a_reply_goes_to_its_thread(gateway: Gateway) -> None:
    question, lead = gateway.lead()
    reply = gateway.mail(gateway.domain["catchall"], In_Reply_To=question["Message-ID"])
    (verdict,) = gateway.ask(reply)
    assert (verdict["verdict"], verdict["model"], verdict["res_id"]) == ("routed", "crm.lead", lead["res_id"])
    assert verdict["mail_message_id"] != lead["mail_message_id"]
    assert gateway.records(reply) == []


def test_a_reply_to_an_internal_note_stays_internal(gateway: Gateway) -> None:
    _, lead = gateway.lead()
    note = gateway.admin.call(
        "crm.lead", "message_post", [lead["res_id"]], body="Careful, they never pay.", subtype_xmlid="mail.mt_note"
    )
    identity = note[0] if isinstance(note, list) else note
    (parent,) = gateway.admin.search_read("mail.message", [["id", "=", identity]], ["message_id"])
    reply = gateway.mail(gateway.domain["catchall"], In_Reply_To=parent["message_id"])
    (verdict,) = gateway.ask(reply)
    (stored,) = gateway.stored(reply)
    assert (verdict["verdict"], verdict["res_id"]) == ("routed", lead["res_id"])
    assert stored["is_internal"]


def test_the_same_message_again_is_a_duplicate(gateway: Gateway) -> None:
    message, lead = gateway.lead()
    again = gateway.ask(message, message)
    assert again == [{**lead, "verdict": "duplicate"}] * 2
    assert len(gateway.records(message)) == 1


def test_the_same_message_twice_in_one_call_is_stored_once(gateway: Gateway) -> None:
    message = gateway.mail(gateway.alias("crm.team"))
    first, second = gateway.ask(message, message)
    assert (first["verdict"], second["verdict"]) == ("routed", "duplicate")
    assert second["res_id"] == first["res_id"]
    assert len(gateway.stored(message)) == 1


def test_a_known_message_under_another_name_is_a_duplicate(gateway: Gateway) -> None:
    message, lead = gateway.lead()
    raw = base64.b64encode(message.as_bytes()).decode("ascii")
    (verdict,) = gateway.call([{"id": "1", "message_id": "<somebody-elses@idea>", "raw": raw}])
    assert verdict == {**lead, "verdict": "duplicate"}


def test_two_aliases_make_two_records_of_one_message(gateway: Gateway) -> None:
    gateway.ask(gateway.mail(gateway.alias("project.project")))  # so that the alias is known to work
    message = gateway.mail(gateway.alias("crm.team"), gateway.alias("project.project"))
    (verdict,) = gateway.ask(message)
    (lead,), (task,) = gateway.records(message), gateway.records(message, "project.task")
    assert verdict["verdict"] == "routed"
    places = {("crm.lead", lead), ("project.task", task)}
    assert {(row["model"], row["res_id"]) for row in gateway.stored(message)} == places
    ((other_model, other_id),) = places - {(verdict["model"], verdict["res_id"])}
    assert verdict["reason"] == f"also in {other_model} {other_id}"


def test_a_message_without_a_route_is_refused_in_odoo_s_words(gateway: Gateway) -> None:
    message = gateway.mail("nobody")
    (verdict,) = gateway.ask(message)
    assert verdict["verdict"] == "refused"
    assert verdict["reason"].startswith("No possible route found for incoming message")
    assert "\n" not in verdict["reason"]
    assert gateway.stored(message) == []


def test_mail_to_the_catchall_itself_is_answered_by_odoo(gateway: Gateway) -> None:
    message = gateway.mail(gateway.domain["catchall"])
    (verdict,) = gateway.ask(message)
    assert verdict["verdict"] == "ignored"
    assert "answered the sender" in verdict["reason"]
    assert gateway.stored(message) == []


@pytest.mark.parametrize("sign", ["recipient", "sender", "type"])
def test_a_bounce_is_told_from_what_odoo_ignores(gateway: Gateway, sign: str) -> None:
    original, _ = gateway.lead()
    bounce = gateway.domain["bounce"] + ("+7-crm.lead-7" if gateway.major < 15 else "")  # 14 knows its sent mail by it
    parts = {
        "recipient": ("Customer <someone@customer.example>", bounce, "multipart/mixed"),
        "sender": ("Mail Delivery System <MAILER-DAEMON@customer.example>", "nobody", "multipart/mixed"),
        "type": ("Customer <someone@customer.example>", "nobody", "multipart/report; report-type=delivery-status"),
    }
    sender, to, content_type = parts[sign]
    message_id = f"<{uuid.uuid4().hex}@customer.example>"
    report = (
        f"Return-Path: <>\nFrom: {sender}\nTo: {gateway.address(to)}\nMessage-ID: {message_id}\n"
        f"Subject: Undelivered Mail Returned to Sender\nMIME-Version: 1.0\n"
        f'Content-Type: {content_type};\n boundary="=="\n\n'
        "--==\nContent-Type: text/plain\n\nIt could not be delivered.\n"
        "--==\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.customer.example\n\n"
        "Final-Recipient: rfc822; gone@customer.example\nAction: failed\nStatus: 5.1.1\n"
        f"--==\nContent-Type: text/rfc822-headers\n\nMessage-ID: {original['Message-ID']}\n\n--==--\n"
    )
    (verdict,) = gateway.ask(report.encode())
    assert verdict == {"verdict": "bounce", "model": False, "res_id": False, "mail_message_id": False, "reason": ""}


def test_a_bounce_turns_the_notification_red(gateway: Gateway) -> None:
    _, lead = gateway.lead()
    address = f"gone-{uuid.uuid4().hex[:8]}@customer.example"
    partner = gateway.partner(address)
    posted = gateway.admin.call(
        "crm.lead",
        "message_post",
        [lead["res_id"]],
        body="Yes.",
        partner_ids=[partner],
        subtype_xmlid="mail.mt_comment",
    )
    identity = posted[0] if isinstance(posted, list) else posted
    (sent,) = gateway.admin.search_read("mail.message", [["id", "=", identity]], ["message_id"])
    report = (
        f"Return-Path: <>\nFrom: MAILER-DAEMON@customer.example\nTo: {gateway.address(gateway.domain['bounce'])}\n"
        f"Message-ID: <{uuid.uuid4().hex}@customer.example>\nSubject: Undelivered Mail Returned to Sender\n"
        'MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary="=="\n\n'
        "--==\nContent-Type: text/plain\n\nIt could not be delivered.\n"
        "--==\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.customer.example\n\n"
        f"Final-Recipient: rfc822; {address}\nAction: failed\nStatus: 5.1.1\n"
        f"--==\nContent-Type: text/rfc822-headers\n\nMessage-ID: {sent['message_id']}\n\n--==--\n"
    )
    (verdict,) = gateway.ask(report.encode())
    assert verdict["verdict"] == "bounce"
    domain = [["mail_message_id", "=", sent["id"]], ["res_partner_id", "=", partner]]
    (notification,) = gateway.admin.search_read("mail.notification", domain, ["notification_status"])
    assert notification["notification_status"] == "bounce"


@PROTOCOLS
def test_where_a_message_is_can_be_asked_without_handing_it_over(gateway: Gateway, xmlrpc: bool) -> None:
    message, lead = gateway.lead()
    stranger = gateway.mail(gateway.alias("crm.team"))
    identities = [str(stranger["Message-ID"]), f" {message['Message-ID']} "]
    answer = gateway.run({"find": identities}, xmlrpc)
    assert answer["verdicts"] == []
    assert answer["found"] == [{**lead, "verdict": "known", "message_id": str(message["Message-ID"])}]
    assert gateway.records(stranger) == [], "nothing was made of asking"
    assert gateway.run({"find": []}, xmlrpc)["found"] == []


@PROTOCOLS
def test_a_stranger_s_control_characters_do_not_spoil_the_answer(gateway: Gateway, xmlrpc: bool) -> None:
    hidden = base64.b64encode(b"Customer \x01\x02\x1b[2J").decode()
    nobody = gateway.mail("nobody", sender=f"=?utf-8?b?{hidden}?= <c-{uuid.uuid4().hex[:12]}@customer.example>")
    message = gateway.mail(gateway.alias("crm.team"))
    refused, routed = gateway.ask(nobody, message, xmlrpc=xmlrpc)
    assert refused["verdict"] == "refused"
    assert refused["reason"].startswith("No possible route found for incoming message from")
    assert routed["verdict"] == "routed"


@PROTOCOLS
def test_an_8_bit_latin_1_message_arrives_intact(gateway: Gateway, xmlrpc: bool) -> None:
    message = gateway.mail(gateway.alias("crm.team"))
    head = "\n".join(f"{name}: {value}" for name, value in message.items() if name.lower() != "content-type")
    head = head.replace("Content-Transfer-Encoding: 7bit", "Content-Transfer-Encoding: 8bit")
    raw = f"{head}\nContent-Type: text/plain; charset=iso-8859-1\n\nZw\xf6lf St\xfchle f\xfcr 5 \xa3, bitte\n".encode(
        "latin-1"
    )
    (verdict,) = gateway.ask(raw, xmlrpc=xmlrpc)
    assert verdict["verdict"] == "routed"
    assert "Zwölf Stühle für 5 £, bitte" in gateway.stored(message)[0]["body"]


def test_a_message_without_message_id_is_stored_and_found(gateway: Gateway) -> None:
    message = gateway.mail(gateway.alias("crm.team"))
    del message["Message-ID"]
    (verdict,) = gateway.ask(message)
    assert (verdict["verdict"], verdict["model"]) == ("routed", "crm.lead")
    assert [verdict["res_id"]] == gateway.records(message)
    assert verdict["mail_message_id"]


def test_a_sender_over_odoo_s_limit_is_ignored(gateway: Gateway) -> None:
    if gateway.major < 16:
        pytest.skip("this Odoo has no limit")
    sender = f"robot-{uuid.uuid4().hex[:8]}@customer.example"
    messages = [gateway.mail(gateway.alias("crm.team"), sender=sender) for _ in range(22)]
    verdicts = gateway.ask(*messages)
    assert [verdict["verdict"] for verdict in verdicts] == ["routed"] * 20 + ["ignored"] * 2
    assert "too many messages from this sender" in verdicts[-1]["reason"]


def test_a_message_that_fails_halfway_harms_no_other(gateway: Gateway, broken_alias: str) -> None:
    sales = gateway.alias("crm.team")
    teams = gateway.admin.search_read("crm.team", [["alias_name", "=", sales]], ["name"])
    subtypes = gateway.admin.search_read("mail.message.subtype", [["res_model", "in", ["crm.team", False]]], ["name"])
    follower = {
        "res_model": "crm.team",
        "res_id": teams[0]["id"],
        "partner_id": gateway.partner(f"follower-{gateway.tag}@customer.example"),
        "subtype_ids": [[6, 0, [subtype["id"] for subtype in subtypes]]],
    }
    follows = gateway.admin.call(
        "mail.followers", "create", follower
    )  # a mail about each new lead leaves after the commit
    first, last = gateway.mail(sales), gateway.mail(sales)
    halfway = gateway.mail(sales, broken_alias)  # the lead for sales is made, then the other fails
    garbage = {"id": "message-2", "message_id": "<garbage@customer.example>", "raw": "not base64"}
    entries = [
        {
            "id": f"message-{place}",
            "message_id": str(message["Message-ID"]),
            "raw": base64.b64encode(bytes(message)).decode(),
        }
        for place, message in ((0, first), (1, halfway), (3, last))
    ]
    try:
        verdicts = gateway.call([*entries[:2], garbage, entries[2]])
    finally:
        gateway.admin.call("mail.followers", "unlink", [follows])
    assert [verdict["verdict"] for verdict in verdicts] == ["routed", "error", "error", "routed"]
    assert verdicts[1]["reason"].startswith("ForeignKeyViolation: ")
    assert "\n" not in verdicts[1]["reason"]
    assert gateway.records(halfway) == []
    assert gateway.stored(halfway) == []
    assert len(gateway.records(first)) == len(gateway.records(last)) == 1


def test_the_rest_waits_when_an_alias_is_used_for_the_first_time(gateway: Gateway, new_alias: str) -> None:
    if gateway.major < 17:
        pytest.skip("this Odoo does not mark its aliases")
    messages = [gateway.mail(new_alias) for _ in range(3)]
    verdicts = gateway.ask(*messages)
    assert [verdict["verdict"] for verdict in verdicts] == ["routed", "retry", "retry"]
    assert "ask again" in verdicts[1]["reason"]
    assert [verdict["verdict"] for verdict in gateway.ask(*messages)] == ["duplicate", "routed", "routed"]


def test_calls_at_the_same_time_store_each_message_once(gateway: Gateway) -> None:
    others = [Gateway() for _ in range(3)]
    for _ in range(5):
        messages = [gateway.mail(gateway.alias("crm.team")) for _ in range(4)]
        with ThreadPoolExecutor(len(others)) as pool:
            orders = [messages, messages[::-1], messages[2:] + messages[:2]]
            runs = [pool.submit(other.ask, *order) for other, order in zip(others, orders, strict=True)]
        verdicts = [verdict for run in runs for verdict in run.result()]
        assert sorted(verdict["verdict"] for verdict in verdicts) == ["duplicate"] * 8 + ["routed"] * 4
        assert [len(gateway.stored(message)) for message in messages] == [1] * 4
        assert [len(gateway.records(message)) for message in messages] == [1] * 4
    for other in others:
        other.close()


def test_an_answer_finds_what_another_call_stores_at_the_same_time(gateway: Gateway) -> None:
    other = Gateway()
    for _ in range(8):
        question = gateway.mail(gateway.alias("crm.team"))
        reply = gateway.mail(gateway.domain["catchall"], In_Reply_To=question["Message-ID"])
        entries = [
            {
                "id": str(message["Message-ID"]),
                "message_id": str(message["Message-ID"]),
                "thread": "1",
                "raw": base64.b64encode(bytes(message)).decode(),
            }
            for message in (question, reply)
        ]
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(other.call, entries[:1])
            verdicts = gateway.call(entries)
        assert {first.result()[0]["verdict"], verdicts[0]["verdict"]} == {"routed", "duplicate"}
        assert verdicts[1]["verdict"] in ("routed", "retry")
        if verdicts[1]["verdict"] == "retry":
            verdicts = gateway.call(entries)
            assert verdicts[1]["verdict"] == "routed"
        assert verdicts[1]["res_id"] == verdicts[0]["res_id"], "not in its thread"
    other.close()


def reach(gateway: Gateway) -> tuple[dict[str, int], set[str]]:
    """How many records of each model the gateway's user sees, none left out, and of which it may make or change some.

    Asked inside Odoo, where it takes a second for the three hundred models.
    """
    code = REACH.replace("LOGIN", "mailroom-gateway")
    code = code if gateway.major >= 18 else re.sub(r"has_access\((.*?)\)", r"check_access_rights(\1, False)", code)
    (model,) = gateway.admin.search_read("ir.model", [["model", "=", "ir.model"]], ["model"])
    values = {"name": "Reach", "model_id": model["id"], "state": "code", "code": code}
    action = gateway.admin.create("ir.actions.server", values)
    try:
        answer = gateway.admin.call("ir.actions.server", "run", [action])
    finally:
        gateway.admin.call("ir.actions.server", "unlink", [action])
    return answer["seen"], set(answer["changed"])


def test_the_gateway_s_user_sees_itself_and_lists_of_odoo_s(gateway: Gateway) -> None:
    seen, changed = reach(gateway)
    old = gateway.major < 15
    assert seen.keys() <= OWN | LISTS | (LISTS_14 if old else set())
    assert {seen[model] for model in ("res.users", "res.partner", "res.company")} == {1}
    assert changed <= WORK | (WORK_14 if old else set())


def refused() -> Any:
    """Odoo says that the user may not do that."""
    return pytest.raises((StoryError, OdooError), match=r"request access|does not let")


@PROTOCOLS
@pytest.mark.parametrize("model", ["crm.lead", "ir.config_parameter", "ir.mail_server", "fetchmail.server"])
def test_its_key_opens_nothing_else(gateway: Gateway, xmlrpc: bool, model: str) -> None:
    def call(method: str, **arguments: Any) -> None:
        if xmlrpc or not gateway.json2:
            gateway.bot(model, method, *arguments.values())
        else:
            gateway.admin.json2(gateway.key, model, method, arguments)

    with refused():
        call("search_read", domain=[], fields=["id"])
    with refused():
        call("search_count", domain=[])
    with refused():
        call("read_group", domain=[], fields=["id"], groupby=["id"])
    with refused():
        call("unlink", ids=[1])


def test_it_may_not_hand_mail_over_by_itself_or_change_the_action(gateway: Gateway) -> None:
    message = gateway.mail(gateway.alias("crm.team"))
    with pytest.raises(StoryError):
        gateway.bot("mail.thread", "message_process", False, message.as_string())
    assert gateway.stored(message) == []
    with pytest.raises(StoryError):
        gateway.bot("ir.actions.server", "write", [gateway.action], {"code": "action = {}"})
