"""The client for Odoo's API against scripted answers; library/test_odoo_probe.py has more of what goes wrong."""

from __future__ import annotations

import json
import socket
import time
import xmlrpc.client
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from module_utils.odoo_rpc import Odoo, OdooError, is_loopback

Answer = tuple[int, bytes]
KEY = "0123456789abcdef0123456789abcdef01234567"


def answer(value: Any) -> Answer:
    return 200, xmlrpc.client.dumps((value,), methodresponse=True).encode()


def fault(code: int, text: str) -> Answer:
    return 200, xmlrpc.client.dumps(xmlrpc.client.Fault(code, text), methodresponse=True).encode()


def value(found: Any, status: int = 200) -> Answer:
    return status, json.dumps(found).encode()


def version(major: int) -> Answer:
    return answer({"server_version_info": [major, 0, 0, "final", 0, ""]})


def what_people_are_told(message: str) -> Answer:
    return value({"error": {"code": 200, "message": "Odoo Server Error", "data": {"message": message}}})


class Script:
    """A server that gives the next of its answers, the last one again and again, and remembers the requests."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet for head and body

            def setup(self) -> None:
                super().setup()
                script.connections += 1

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                script.requests.append((self.path, dict(self.headers), body))
                status, body = script.answers[min(len(script.requests), len(script.answers)) - 1]
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.odoo = Odoo(f"http://127.0.0.1:{self.server.server_port}", "prod", timeout=5)

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.requests]

    def close(self) -> None:
        self.odoo.close()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def script(request: pytest.FixtureRequest) -> Iterator[Script]:
    script = Script(*request.param)
    yield script
    script.close()


def scripted(*answers: Answer) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("script", [answers], indirect=True)


def said(script: Script, login: str = "admin", password: str = "secret") -> str:
    """What a refused login is told; never the password."""
    with pytest.raises(OdooError) as raised:
        script.odoo.log_in(login, password)
    assert raised.value.refused
    assert password not in raised.value.line("x")
    return raised.value.line("x")


# Calls


@scripted(answer([{"id": 7, "name": "Sales"}]))
def test_records_are_read_archived_ones_too(script: Script) -> None:
    assert script.odoo.search_read("crm.team", [["name", "=", "Sales"]], ["name"]) == [{"id": 7, "name": "Sales"}]
    path, _, body = script.requests[0]
    arguments, method = xmlrpc.client.loads(body)
    assert (path, method) == ("/xmlrpc/2/object", "execute_kw")
    assert arguments[0] == "prod"
    assert arguments[3:] == (
        "crm.team",
        "search_read",
        [[["name", "=", "Sales"]]],
        {"fields": ["name"], "order": "id", "context": {"active_test": False}},
    )


@scripted(answer([{"id": 1, "model": "crm.team", "name": "alias_name"}]))
def test_fields_of_several_models_are_one_question(script: Script) -> None:
    wanted = {"crm.team": ["alias_name"], "no.model": ["id"]}
    assert script.odoo.fields(wanted) == {("crm.team", "alias_name")}
    (arguments, _) = xmlrpc.client.loads(script.requests[0][2])
    assert arguments[5] == [[["model", "in", ["crm.team", "no.model"]], ["name", "in", ["alias_name", "id"]]]]


@scripted(answer({"server_version_info": ["saas~18", 2, 0, "final", 0, ""]}))
def test_a_version_between_two_is_the_older(script: Script) -> None:
    assert (script.odoo.version(), script.odoo.series()) == (18, "saas~18.2")
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([fault(1, 'Traceback (most recent call last):\n  File "x"\nValueError: No route\n')], "ValueError: No route"),
        ([fault(2, "That alias\n is in use.")], "That alias is in use."),
        ([fault(1, "")], "fault 1"),
        ([fault(2, "Object crm.team doesn't exist")], "Odoo has no model crm.team"),
        ([fault(4, "You are not allowed to modify 'Sales Team'.")], "Odoo does not let '' use crm.team"),
    ],
    indirect=["script"],
)
def test_what_odoo_has_against_a_call_is_one_line(script: Script, expected: str) -> None:
    with pytest.raises(OdooError) as raised:
        script.odoo.call("crm.team", "write", [1], {})
    assert str(raised.value) == expected
    assert not raised.value.refused


# The login


@scripted(version(14), answer(2), answer(True))
def test_a_password_goes_over_xmlrpc(script: Script) -> None:
    script.odoo.log_in("admin", KEY)
    script.odoo.call("crm.team", "write", [1], {})
    assert script.paths == ["/xmlrpc/2/common", "/xmlrpc/2/common", "/xmlrpc/2/object"]
    assert xmlrpc.client.loads(script.requests[2][2])[0][:3] == ("prod", 2, KEY)
    assert script.connections == 1


@scripted(version(19), value({"lang": "en_US"}), value([4]), value(True), value([{"id": 4}]), value({"done": 1}))
def test_a_key_goes_over_json_2_where_odoo_has_it(script: Script) -> None:
    odoo = script.odoo
    odoo.log_in("admin", KEY)
    assert odoo.create("crm.team", {"name": "Sales"}, context={"x": 1}) == 4
    odoo.call("crm.team", "write", [4], {"name": "Sale"})
    assert odoo.search_read("crm.team", [["id", "=", 4]], ["id"], limit=1) == [{"id": 4}]
    assert odoo.call("ir.actions.server", "run", [7]) == {"done": 1}
    assert script.paths[1:] == [
        "/json/2/res.users/context_get",
        "/json/2/crm.team/create",
        "/json/2/crm.team/write",
        "/json/2/crm.team/search_read",
        "/json/2/ir.actions.server/run",
    ]
    assert {head["Authorization"] for _, head, _ in script.requests[1:]} == {f"bearer {KEY}"}
    assert [json.loads(body) for _, _, body in script.requests[2:]] == [
        {"vals_list": [{"name": "Sales"}], "context": {"x": 1}},
        {"ids": [4], "vals": {"name": "Sale"}},
        {"domain": [["id", "=", 4]], "fields": ["id"], "order": "id", "limit": 1, "context": {"active_test": False}},
        {"ids": [7]},
    ]


@scripted(version(19), value({"message": "Invalid apikey"}, 401), answer(2))
def test_a_password_that_looks_like_a_key_is_still_one(script: Script) -> None:
    script.odoo.log_in("admin", KEY)
    assert script.paths[1:] == ["/json/2/res.users/context_get", "/xmlrpc/2/common"]


@scripted((404, b"<html>"), value({"version_info": [22, 0, 0, "final", 0, ""]}), value({"lang": "en_US"}))
def test_an_odoo_without_xmlrpc_is_asked_over_json_2(script: Script) -> None:
    script.odoo.log_in("admin", "whatever keys look like then")
    assert script.odoo.series() == "22.0"
    assert script.paths == ["/xmlrpc/2/common", "/json/version", "/json/2/res.users/context_get"]


@scripted((404, b"<html>"), value({"version_info": [22, 0, 0, "final", 0, ""]}), value({"message": "Invalid"}, 401))
def test_an_odoo_without_xmlrpc_wants_a_key(script: Script) -> None:
    assert said(script).endswith("make an API key in that user's preferences in Odoo, and give it as password")


@scripted((404, b"<html>"), (404, b"<html>"), version(19), answer(2), answer([]))
def test_an_odoo_that_has_its_api_in_databases_alone_is_told_which_one(script: Script) -> None:
    script.odoo.log_in("admin", "secret")
    script.odoo.search_read("res.users", [], ["login"])
    assert script.paths == ["/xmlrpc/2/common", "/json/version", *["/xmlrpc/2/common"] * 2, "/xmlrpc/2/object"]
    assert [headers.get("X-Odoo-Database") for _, headers, _ in script.requests] == [None, None, *["prod"] * 3]


@pytest.mark.parametrize("script", [[(404, b"<html>")], [(404, b""), (303, b"")] * 2], indirect=True)
def test_an_odoo_without_its_module_rpc_is_told(script: Script) -> None:
    with pytest.raises(OdooError) as raised:
        script.odoo.log_in("admin", "secret")
    assert raised.value.line("x").endswith(
        "has no external API (HTTP 404): check the address, the database's name, and that Odoo's module rpc is "
        "installed"
    )


@scripted(version(19), fault(1, 'psycopg2.OperationalError: FATAL:  database "prod" does not exist\n'))
def test_a_wrong_database_is_told(script: Script) -> None:
    with pytest.raises(OdooError) as raised:
        script.odoo.log_in("admin", "secret")
    assert raised.value.line("x") == "x.name: Odoo has no database 'prod': check the name"


@scripted(version(14), answer(False), what_people_are_told("Access Denied"))
def test_a_wrong_password_is_told(script: Script) -> None:
    assert said(script) == "x.login: Odoo refuses the login 'admin': check login and password"


@scripted(version(14), fault(3, "Access Denied"), (404, b"<html>"))
def test_a_login_is_refused_where_nobody_says_why(script: Script) -> None:
    assert said(script) == "x.login: Odoo refuses the login 'admin': check login and password"


@scripted(version(19), answer(False), value({"result": {"uid": None}}))
def test_an_account_with_two_factors_needs_a_key(script: Script) -> None:
    assert said(script) == (
        "x.login: Odoo refuses the login 'admin': the account has two-factor sign-in: "
        "make an API key in that user's preferences in Odoo, and give it as password"
    )
    assert json.loads(script.requests[2][2])["params"] == {"db": "prod", "login": "admin", "password": "secret"}


@scripted(version(19), answer(False), what_people_are_told("Too many login failures, please wait a bit."))
def test_too_many_failures_are_told(script: Script) -> None:
    assert said(script).endswith("(Too many login failures, please wait a bit): correct the password, wait a minute")


# JSON-2


@scripted(value({"mailroom": 1}))
def test_json_2_sends_key_and_database_in_the_head(script: Script) -> None:
    assert script.odoo.json2("key", "ir.actions.server", "run", {"ids": [4]}) == {"mailroom": 1}
    path, head, body = script.requests[0]
    assert path == "/json/2/ir.actions.server/run"
    assert (head["Authorization"], head["X-Odoo-Database"]) == ("bearer key", "prod")
    assert json.loads(body) == {"ids": [4]}


@pytest.mark.parametrize(
    ("script", "expected", "kind"),
    [
        ([value({"message": "Invalid apikey"}, 401)], "Odoo refuses the API key (Invalid apikey)", "login"),
        ([value({"message": "Not\nyou"}, 403)], "Odoo does not let the key's user use crm.team", "rights"),
        ([value({"message": "the model 'crm.team' does not exist"}, 404)], "Odoo has no model crm.team", "model"),
        ([value({"message": "The method 'x' does not exist"}, 404)], "The method 'x' does not exist", ""),
        ([value({"message": "In use"}, 422)], "In use", ""),
    ],
    indirect=["script"],
)
def test_json_2_says_what_is_wrong(script: Script, expected: str, kind: str) -> None:
    with pytest.raises(OdooError) as raised:
        script.odoo.json2("key", "crm.team", "x", {})
    assert (str(raised.value), raised.value.kind) == (expected, kind)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([(502, b"<html>")], "answers HTTP 502: the proxy is there, Odoo is starting or down: start Odoo, or"),
        ([(404, b"<html>")], "answers HTTP 404 Not Found: check the address, the database's name, and that"),
        ([(500, b"oops")], "answers HTTP 500 Internal Server Error: see the log"),
    ],
    indirect=["script"],
)
def test_json_2_knows_what_is_not_odoo_s(script: Script, expected: str) -> None:
    with pytest.raises(OdooError) as raised:
        script.odoo.json2("key", "crm.team", "x", {})
    assert expected in raised.value.line("x")


# The way there


@scripted(version(19))
def test_a_connection_that_was_idle_is_not_trusted(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        script.odoo.call("crm.team", "write", [1], {})
    assert script.connections == 1
    now = time.monotonic()
    monkeypatch.setattr("module_utils.odoo_rpc.time.monotonic", lambda: now + 6)
    script.odoo.call("crm.team", "write", [1], {})
    assert script.connections == 2


@scripted(answer(True))
def test_each_answer_has_only_the_time_that_is_left(script: Script) -> None:
    odoo = script.odoo
    odoo.deadline = time.monotonic() + 60
    odoo.call("crm.team", "write", [1], {})
    odoo.deadline -= 50
    odoo.call("crm.team", "write", [1], {})
    assert (odoo._connection.sock.gettimeout() or 60) <= 10
    odoo.deadline -= 50
    with pytest.raises(OdooError, match="does not answer within 5 s"):
        odoo.call("crm.team", "write", [1], {})


def test_an_odoo_that_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        odoo = Odoo(f"http://127.0.0.1:{server.getsockname()[1]}", "prod", timeout=0.05)
        with pytest.raises(OdooError, match=r"does not answer within 0\.05 s"):
            odoo.version()


@pytest.mark.parametrize("url", ["http://192.0.2.1", "ftp://127.0.0.1", "odoo.example.com"])
def test_a_password_goes_over_tls_or_stays_on_this_machine(url: str) -> None:
    with pytest.raises(OdooError) as raised:
        Odoo(url, "prod")
    assert raised.value.line("x") == f"x.url: {url} would send the password unencrypted: use https://"


@pytest.mark.parametrize("url", ["https://odoo.example.com:port", "https://[odoo.example.com"])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(OdooError, match="is no address"):
        Odoo(url, "prod")


@pytest.mark.parametrize(("url", "port"), [("https://[2001:db8::69]", 443), ("https://[2001:db8::69]:8443", 8443)])
def test_an_ipv6_address_is_not_cut(url: str, port: int) -> None:
    connection = Odoo(url, "prod")._connection
    assert (connection.host, connection.port) == ("2001:db8::69", port)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1"])
def test_this_machine_has_several_names(host: str) -> None:
    assert is_loopback(host)


def test_a_missing_ca_file_is_named() -> None:
    with pytest.raises(OdooError, match=r"/nowhere/ca\.pem: No such file"):
        Odoo("https://127.0.0.1", "prod", "/nowhere/ca.pem")
