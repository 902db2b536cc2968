"""The gateway action over HTTP, against a server that says what it is told."""

from __future__ import annotations

import base64
import json
import xmlrpc.client
from dataclasses import replace
from typing import Any

import pytest

from fetch_and_route.config import Database
from fetch_and_route.message import Prepared
from fetch_and_route.odoo import Broken, Conflict, Known, OdooGateway, TooBig, retry_after
from fetch_and_route.routing import Verdict
from fetch_and_route.trouble import Denied, Misconfigured, Unavailable

from .conftest import Certificate, HttpServer

RAW = b"Subject: caf\xe9\x00\r\n\r\n"
MESSAGES = [Prepared('<1"\ufffd@x>', ("sales@example.com",), RAW), Prepared("<2@x>", (), b"", thread=7)]


def config(server: HttpServer | None, protocol: Any = "json2", port: int = 0, database: str = "") -> Database:
    port = server.server_port if server else port
    return Database(
        name="prod",
        url=f"http://127.0.0.1:{port}/odoo/",
        protocol=protocol,
        login="gate",
        key="k",
        action=7,
        database=database,
        timeout=10,
    )


def answer(*verdicts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "ir.actions.act_window_close", "mailroom": {"version": 1, "verdicts": list(verdicts)}}


GOOD = answer(
    {"id": "1", "verdict": "refused", "model": False, "res_id": False, "reason": "no\nroute"},
    {"id": "0", "verdict": "routed", "model": "crm.lead", "res_id": 7, "mail_message_id": 5, "reason": ""},
)
VERDICTS = [Verdict("routed", "crm.lead/7"), Verdict("refused", "", "no route")]


def rpc(value: Any) -> bytes:
    return xmlrpc.client.dumps((value,), methodresponse=True).encode()


def fault(code: Any, text: str) -> bytes:
    return xmlrpc.client.dumps(xmlrpc.client.Fault(code, text)).encode()


def test_json2_carries_many_messages_over_one_connection(http_server: HttpServer) -> None:
    http_server.answers = [(200, json.dumps(GOOD).encode())]
    gateway = OdooGateway(config(http_server), "sesame")
    assert gateway.route(MESSAGES) == VERDICTS
    assert gateway.route(MESSAGES) == VERDICTS
    gateway.close()
    request = http_server.requests[0]
    assert request.path == "/odoo/json/2/ir.actions.server/run"
    assert request.headers["Authorization"] == "bearer sesame"
    assert request.headers["X-Odoo-Database"] == "prod"
    body = json.loads(request.body)
    assert body["ids"] == [7]
    sent = body["context"]["mailroom"]["messages"]
    assert body["context"]["mailroom"]["version"] == 1
    assert [item["thread"] for item in sent] == ["", "7"]
    assert [item["message_id"] for item in sent] == ['<1"\ufffd@x>', "<2@x>"]
    assert [base64.b64decode(item["raw"]) for item in sent] == [RAW, b""]
    assert http_server.connections == 1


def test_xmlrpc_logs_in_once_and_carries_the_same(http_server: HttpServer) -> None:
    http_server.answers = [(200, rpc(9)), (200, rpc(GOOD))]
    gateway = OdooGateway(config(http_server, "xmlrpc"), "sesame")
    assert gateway.route(MESSAGES) == VERDICTS
    assert gateway.route(MESSAGES) == VERDICTS
    gateway.close()
    assert [request.path for request in http_server.requests] == [
        "/odoo/xmlrpc/2/common",
        "/odoo/xmlrpc/2/object",
        "/odoo/xmlrpc/2/object",
    ]
    arguments: Any
    arguments, method = xmlrpc.client.loads(http_server.requests[1].body)
    assert method == "execute_kw"
    assert arguments[:6] == ("prod", 9, "sesame", "ir.actions.server", "run", [[7]])
    assert [base64.b64decode(item["raw"]) for item in arguments[6]["context"]["mailroom"]["messages"]] == [RAW, b""]


def test_odoo_may_call_the_database_by_another_name(http_server: HttpServer) -> None:
    http_server.answers = [(200, json.dumps(GOOD).encode()), (200, rpc(9)), (200, rpc(GOOD))]
    for protocol in ("json2", "xmlrpc"):
        gateway = OdooGateway(config(http_server, protocol, database="main"), "sesame")
        gateway.route(MESSAGES)
        gateway.close()
    assert http_server.requests[0].headers["X-Odoo-Database"] == "main"
    for request in http_server.requests[1:]:
        assert xmlrpc.client.loads(request.body)[0][0] == "main"


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (401, b"Invalid apikey", Denied, "HTTP 401: Invalid apikey: run the roles"),
        (403, b"", Denied, "HTTP 403"),
        (401, b'{"message": "Invalid apikey"}', Denied, "HTTP 401: Invalid apikey: run"),
        (404, b"", Unavailable, "HTTP 404: .* PostgreSQL .* check the url"),
        (303, b"", Denied, "points to https://elsewhere"),
        (413, b"", TooBig, "too big"),
        (409, b"", Unavailable, "HTTP 409"),
        (429, b"", Unavailable, "HTTP 429"),
        (502, b"<html>", Unavailable, "HTTP 502"),
        (503, b"", Unavailable, "HTTP 503"),
        (504, b"", Unavailable, "HTTP 504"),
        (500, b'{"name": "x", "message": "boom\\nbang"}', Broken, "HTTP 500: boom bang"),
        (500, b"<html>", Broken, "not JSON: <html>"),
        (500, b'{"name": "psycopg2.errors.SerializationFailure", "message": "x"}', Conflict, "HTTP 500: x"),
        (422, b'{"message": "wrong"}', Broken, "HTTP 422: wrong"),
        (200, b"<html>login</html>", Broken, "not JSON"),
        (200, b"null", Broken, "not an answer of the gateway action: None"),
        (200, b"false", Broken, "not an answer of the gateway action: False"),
        (200, b'{"mailroom": {}}', Broken, "not an answer of the gateway action"),
        (200, b'{"mailroom": {"verdicts": [5]}}', Broken, "not an answer of the gateway action"),
        (0, b"", Broken, "the call was cut off"),
    ],
)
def test_no_other_answer_is_taken_as_done(
    http_server: HttpServer, status: int, body: bytes, kind: type[Exception], text: str
) -> None:
    http_server.answers = [(status, body)]
    gateway = OdooGateway(config(http_server), "sesame")
    with pytest.raises(kind, match=text) as caught:
        gateway.route(MESSAGES)
    gateway.close()
    assert "sesame" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answers", "kind", "text"),
    [
        ([rpc(False)], Denied, "refuses the login 'gate'"),
        ([b"<html>"], Broken, "not XML-RPC"),
        ([rpc(9), rpc(False)], Broken, "not an answer of the gateway action"),
        ([rpc(9), fault(3, "Access Denied")], Denied, "Access Denied"),
        ([rpc(9), fault(4, "no right")], Denied, "no right"),
        ([rpc(9), fault(1, "Trace\n  x\nTypeError: y\n")], Broken, ": TypeError: y"),
        ([rpc(9), fault("w", "who")], Broken, "who"),
        ([rpc(9), fault(1, "psycopg2.errors.LockNotAvailable: canceling\nCONTEXT: x")], Conflict, "CONTEXT: x"),
    ],
)
def test_xmlrpc_faults(http_server: HttpServer, answers: list[bytes], kind: type[Exception], text: str) -> None:
    http_server.answers = [(200, body) for body in answers]
    gateway = OdooGateway(config(http_server, "xmlrpc"), "sesame")
    with pytest.raises(kind, match=text):
        gateway.route(MESSAGES)
    gateway.close()


def test_a_verdict_that_is_missing_or_unknown_is_an_error(http_server: HttpServer) -> None:
    http_server.answers = [(200, json.dumps(answer({"id": "0", "verdict": "done"})).encode())]
    gateway = OdooGateway(config(http_server), "sesame")
    first, second = gateway.route(MESSAGES)
    gateway.close()
    assert (first.word, second.word) == ("error", "error")
    assert "unknown verdict 'done'" in first.reason
    assert "no verdict" in second.reason


def test_a_kept_connection_that_was_closed_is_replaced(http_server: HttpServer) -> None:
    good = (200, json.dumps(GOOD).encode())
    http_server.answers = [good, (0, b""), good]
    gateway = OdooGateway(config(http_server), "sesame")
    assert gateway.route(MESSAGES) == gateway.route(MESSAGES) == VERDICTS
    gateway.close()
    assert len(http_server.requests) == 3


def test_a_ping_turns_everything_but_a_refusal_into_unavailable(http_server: HttpServer) -> None:
    http_server.answers = [(200, json.dumps(answer()).encode()), (500, b"{}"), (200, b"null"), (401, b"")]
    gateway = OdooGateway(config(http_server), "sesame")
    gateway.ping()
    assert json.loads(http_server.requests[0].body)["context"]["mailroom"]["messages"] == []
    for _ in range(2):
        with pytest.raises(Unavailable):
            gateway.ping()
    with pytest.raises(Denied):
        gateway.ping()
    gateway.close()


FOUND = [
    {"message_id": "<1@x>", "mail_message_id": 5, "model": "crm.lead", "res_id": 7, "verdict": "known", "reason": ""},
    {"message_id": "<1@x>", "mail_message_id": 6, "model": False, "res_id": False},
]


def test_where_a_message_is_can_be_asked_without_handing_it_over(http_server: HttpServer) -> None:
    known = {"mailroom": {"version": 1, "verdicts": [], "found": FOUND}}
    http_server.answers = [(200, json.dumps(known).encode()), (200, rpc(9)), (200, rpc(known))]
    for protocol in ("json2", "xmlrpc"):
        gateway = OdooGateway(config(http_server, protocol), "sesame")
        assert gateway.find(["<1@x>", "<2\ufffd@x>"]) == [Known("<1@x>", 5, "crm.lead/7"), Known("<1@x>", 6, "")]
        gateway.close()
    sent = json.loads(http_server.requests[0].body)["context"]["mailroom"]
    assert sent == {"version": 1, "messages": [], "find": ["<1@x>", "<2\ufffd@x>"]}
    arguments: Any
    arguments, _ = xmlrpc.client.loads(http_server.requests[2].body)
    assert arguments[6]["context"]["mailroom"] == sent


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (200, json.dumps(answer()).encode(), Denied, "does not know this: run the role odoo_mail"),
        (200, b"false", Denied, "run the role odoo_mail"),
        (500, b"{}", Unavailable, "HTTP 500"),
        (401, b"", Denied, "HTTP 401"),
    ],
)
def test_no_answer_is_not_taken_for_odoo_has_nothing(
    http_server: HttpServer, status: int, body: bytes, kind: type[Exception], text: str
) -> None:
    http_server.answers = [(status, body)]
    gateway = OdooGateway(config(http_server), "sesame")
    with pytest.raises(kind, match=text):
        gateway.find(["<1@x>"])
    gateway.close()


ADDRESSES = {"mailroom": {"version": 1, "addresses": [["sales", "example.com"], ["info", ""]]}}


def test_which_addresses_there_are_is_asked_over_either_protocol(http_server: HttpServer) -> None:
    http_server.answers = [(200, json.dumps(ADDRESSES).encode()), (200, rpc(9)), (200, rpc(ADDRESSES))]
    for protocol in ("json2", "xmlrpc"):
        gateway = OdooGateway(config(http_server, protocol), "k")
        assert gateway.addresses() == [("sales", "example.com"), ("info", "")]
        gateway.close()
    asked = json.loads(http_server.requests[0].body)["context"]["mailroom"]
    assert asked == {"version": 1, "addresses": True, "messages": []}
    arguments: Any = xmlrpc.client.loads(http_server.requests[2].body)[0]
    assert arguments[6] == {"context": {"mailroom": asked}}


@pytest.mark.parametrize(
    "mailroom",
    [{"version": 1, "verdicts": []}, {"addresses": []}, {"addresses": [["sales"]]}, {"addresses": None}, 5],
)
def test_no_answer_is_not_taken_for_no_addresses(http_server: HttpServer, mailroom: Any) -> None:
    http_server.answers = [(200, json.dumps({"mailroom": mailroom}).encode())]
    gateway = OdooGateway(config(http_server), "k")
    with pytest.raises(Broken, match="run the role odoo_mail"):
        gateway.addresses()
    gateway.close()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120), (" 5 ", 5), ("Thu, 01 Jan 1970 00:01:40 GMT", 60), ("-1", 0), ("soon", 0), ("", 0), ("9" * 30, 0)],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: int) -> None:
    assert retry_after(value, 40.0) == seconds


def test_how_long_odoo_wants_to_be_left_alone_is_passed_on(http_server: HttpServer) -> None:
    http_server.answers, http_server.retry_after = [(503, b"")], "77"
    gateway = OdooGateway(config(http_server), "sesame")
    with pytest.raises(Unavailable) as caught:
        gateway.route(MESSAGES)
    gateway.close()
    assert caught.value.retry_after == 77


def test_nobody_listens(closed_port: int) -> None:
    with pytest.raises(Unavailable, match="cannot connect: Connection refused"):
        OdooGateway(config(None, port=closed_port), "sesame").ping()


def test_without_an_action_the_remedy_is_named(http_server: HttpServer) -> None:
    with pytest.raises(Denied, match="no gateway action yet: run the roles odoo_mail"):
        OdooGateway(replace(config(http_server), action=0), "sesame")


def test_odoos_certificate_is_verified(http_server: HttpServer, certificate: Certificate) -> None:
    http_server.answers = [(200, json.dumps(answer()).encode())]
    http_server.socket = certificate.context.wrap_socket(http_server.socket, server_side=True)
    url = f"https://localhost:{http_server.server_port}"
    for ca_file in ("", certificate.ca_file):  # unknown authority; known authority but another name
        with pytest.raises(Denied, match="its certificate is not trusted"):
            OdooGateway(replace(config(http_server), url=url, ca_file=ca_file), "sesame").ping()
    with pytest.raises(Misconfigured, match=r"/none\.pem"):
        OdooGateway(replace(config(http_server), url=url, ca_file="/none.pem"), "sesame").ping()
    assert http_server.requests == []
