"""What can be judged of the gateway action without Odoo: what it asks the database, its reasons, its language."""

from __future__ import annotations

import ast
import base64
import xmlrpc.client
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

CODE = (Path(__file__).resolve().parents[3] / "roles/odoo_mail/files/gateway_action.py").read_text(encoding="utf-8")
STORED = [("<1@x>", 5, "crm.lead", 7), ("<1@x>", 6, None, None)]


class Environment:
    """Odoo's `env` of a call: knows the table of messages, and no more than reading it."""

    def __init__(self, **asked: Any) -> None:
        self.context = {"mailroom": {"version": 1, **asked}}
        self.asked: list[str] = []
        self.cr: Any = SimpleNamespace(execute=self.execute, fetchall=self.fetchall)

    def __call__(self, user: int, context: dict[str, Any]) -> Environment:
        assert (user, context) == (1, {})
        return self

    def execute(self, query: str, parameters: tuple[list[str]]) -> None:
        assert query.startswith("SELECT message_id, id, model, res_id FROM mail_message WHERE message_id = ANY(%s)")
        (self.asked,) = parameters

    def fetchall(self) -> list[tuple[Any, ...]]:
        return [row for row in STORED if row[0] in self.asked]


def behind(*messages: dict[str, str]) -> Mock:
    """Odoo's `env` of a call whose transaction began before <1@x> was stored, which only a later one sees."""
    env = Mock()
    env.return_value = {"mail.thread": env.thread}
    env.thread.message_process.return_value = 9
    env.context = {"mailroom": {"version": 1, "messages": list(messages)}}
    env.registry.cursor().fetchall.return_value = STORED[:1]
    env.cr.savepoint = lambda: SimpleNamespace(close=Mock())
    env.cr.postcommit._funcs, env.cr.postcommit.data = [], {}
    env.cr.fetchone.return_value = (0, 0, 8)
    env.cr.fetchall = lambda: [(9, "crm.lead", 9)] if "id > %s" in env.cr.execute.call_args[0][0] else []
    return env


def run(environment: Environment | Mock) -> dict[str, Any]:
    """All that the action has defined in the end."""
    names: dict[str, Any] = {"env": environment, "b64decode": base64.b64decode, "UserError": ValueError}
    exec(compile(CODE, "gateway_action", "exec"), names)  # noqa: S102 - as Odoo does with it
    return names


def answer(environment: Environment | Mock) -> dict[str, Any]:
    found: dict[str, Any] = run(environment)["action"]["mailroom"]
    return found


def test_where_messages_are_is_answered_and_nothing_is_changed() -> None:
    place = {"verdict": "known", "reason": "", "message_id": "<1@x>"}
    assert answer(Environment(messages=[], find=["<2@x>", " <1@x>\0"])) == {
        "version": 1,
        "verdicts": [],
        "found": [
            {**place, "mail_message_id": 5, "model": "crm.lead", "res_id": 7},
            {**place, "mail_message_id": 6, "model": False, "res_id": False},
        ],
        "addresses": [],
    }


@pytest.mark.parametrize("asked", [{}, {"find": []}, {"messages": []}])
def test_whoever_asks_nothing_costs_no_query(asked: dict[str, Any]) -> None:
    environment = Environment(**asked)
    environment.cr = None
    assert answer(environment) == {"version": 1, "verdicts": [], "found": [], "addresses": []}


class Knowing(Environment):
    """Odoo's `env` of a call that asks for addresses: has these records, and no table."""

    def __init__(self, **records: list[dict[str, Any]]) -> None:
        super().__init__(addresses=True)
        self.cr = None
        self.records = {model.replace("_", "."): rows for model, rows in records.items()}

    def __contains__(self, model: str) -> bool:
        return model in self.records

    def __getitem__(self, model: str) -> Any:
        return SimpleNamespace(
            search_read=lambda _, fields: [{field: row[field] for field in fields} for row in self.records[model]],
            get_param=lambda name: {"mail.catchall.alias": "reception", "mail.bounce.alias": False}[name],
        )


def test_addresses_are_those_of_aliases_and_of_each_alias_domain() -> None:
    domain = {"name": "example.com", "catchall_alias": "reception", "bounce_alias": "bounce"}
    aliases = [
        {"alias_name": "sales", "alias_domain": "example.com", "alias_incoming_local": False},
        {"alias_name": "anywhere", "alias_domain": "example.com", "alias_incoming_local": True},
        {"alias_name": "nowhere", "alias_domain": False, "alias_incoming_local": False},
    ]
    assert answer(Knowing(mail_alias_domain=[domain], mail_alias=aliases))["addresses"] == [
        ["reception", "example.com"],
        ["bounce", "example.com"],
        ["sales", "example.com"],
        ["anywhere", ""],
        ["nowhere", ""],
    ]


def test_up_to_odoo_16_an_alias_is_in_every_domain() -> None:
    assert answer(Knowing(mail_alias=[{"alias_name": "sales"}]))["addresses"] == [["reception", ""], ["sales", ""]]


@pytest.mark.parametrize(
    "stranger", ["\x01", "\x0b", "\x1b[2J", "\0", "\x85", "\ufffe", "\uffff", "\udcff", "\ud800\ud800"]
)
def test_a_reason_can_be_carried_by_xml_whatever_a_stranger_has_written(stranger: str) -> None:
    verdict = run(Environment())["refusal"](ValueError(f"No possible route found for\n x{stranger}y <a@b>"))
    assert verdict["verdict"] == "refused"
    ((carried,), _) = xmlrpc.client.loads(xmlrpc.client.dumps((verdict,), methodresponse=True).encode())
    assert carried == verdict
    assert verdict["reason"].startswith("No possible route found for x")
    assert verdict["reason"].endswith("y <a@b>")


def test_a_reason_keeps_every_language() -> None:
    text = "No possible route found for Jörg 東京 🪑"
    assert run(Environment())["refusal"](ValueError(text))["reason"] == text


def test_an_error_that_says_nothing_is_named() -> None:
    assert run(Environment())["refusal"](KeyError()) == {"verdict": "error", "reason": "KeyError: KeyError"}


def test_an_answer_waits_while_its_transaction_does_not_see_what_it_answers() -> None:
    threads = {"<1@x>": "7", "<2@x>": "7", "<3@x>": "8", "<4@x>": ""}
    env = behind(*({"id": name, "message_id": name, "thread": thread, "raw": ""} for name, thread in threads.items()))
    verdicts = {verdict["id"]: verdict for verdict in answer(env)["verdicts"]}
    assert [verdicts[name]["verdict"] for name in threads] == ["duplicate", "retry", "routed", "routed"]
    assert "ask again" in verdicts["<2@x>"]["reason"]
    assert env.thread.message_process.call_count == 2


def test_it_is_written_in_what_every_odoo_s_safe_eval_takes() -> None:
    refused = (ast.Import, ast.ImportFrom, ast.With, ast.ClassDef, ast.JoinedStr, ast.Lambda, ast.Global, ast.Nonlocal)
    for node in ast.walk(ast.parse(CODE)):
        assert not isinstance(node, refused), f"line {node.lineno}"
        assert not isinstance(node, ast.Dict) or None not in node.keys, "** needs an operation that 14 does not allow"
        for name in (getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "name", "")):
            assert "__" not in (name or "")
