"""The client for Odoo's API against scripted answers on loopback."""

from __future__ import annotations

import json
import socket
import xmlrpc.client
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from module_utils.odoo_rpc import Odoo, OdooError


class Script:
    """A server that gives one answer to everything and remembers the last request."""

    def __init__(self, status: int, body: bytes) -> None:
        self.request: tuple[str, dict[str, str], bytes] = ("", {}, b"")
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet for head and body

            def do_POST(self) -> None:
                script.request = self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.odoo = Odoo(f"http://127.0.0.1:{self.server.server_port}", "prod", timeout=5)

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


def answer(value: Any) -> tuple[int, bytes]:
    return 200, xmlrpc.client.dumps((value,), methodresponse=True).encode()


def fault(code: int, text: str) -> tuple[int, bytes]:
    return 200, xmlrpc.client.dumps(xmlrpc.client.Fault(code, text), methodresponse=True).encode()


@pytest.mark.parametrize("script", [answer([{"id": 7, "name": "Sales"}])], indirect=True)
def test_records_are_read_archived_ones_too(script: Script) -> None:
    assert script.odoo.search_read("crm.team", [["name", "=", "Sales"]], ["name"]) == [{"id": 7, "name": "Sales"}]
    path, _, body = script.request
    arguments, method = xmlrpc.client.loads(body)
    assert (path, method) == ("/xmlrpc/2/object", "execute_kw")
    assert arguments[0] == "prod"
    assert arguments[3:] == (
        "crm.team",
        "search_read",
        [[["name", "=", "Sales"]]],
        {"fields": ["name"], "order": "id", "context": {"active_test": False}},
    )


@pytest.mark.parametrize("script", [answer({"server_version_info": ["saas~18", 2, 0, "final", 0, ""]})], indirect=True)
def test_a_version_between_two_is_the_older(script: Script) -> None:
    assert script.odoo.version() == 18


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (fault(1, 'Traceback (most recent call last):\n  File "x"\nValueError: No route\n'), "ValueError: No route"),
        (fault(2, "That alias\n is in use."), "That alias is in use."),
        (fault(1, ""), "fault 1"),
        ((502, b"<html>Bad Gateway</html>"), "Odoo answers HTTP 502: is it up, with its module rpc?"),
        ((200, b"<html><br></html>"), "it does not answer like Odoo: check the address"),
    ],
    indirect=["script"],
)
def test_what_goes_wrong_is_one_line(script: Script, said: str) -> None:
    with pytest.raises(OdooError) as raised:
        script.odoo.call("crm.team", "write", [1], {})
    assert str(raised.value) == said
    assert not raised.value.refused


@pytest.mark.parametrize("script", [answer(False), fault(3, "Access Denied")], indirect=True)
def test_a_refused_login_is_told_from_other_errors(script: Script) -> None:
    with pytest.raises(OdooError) as raised:
        script.odoo.log_in("admin", "wrong")
    assert raised.value.refused
    assert "wrong" not in str(raised.value)


@pytest.mark.parametrize("script", [(200, b'{"mailroom": 1}')], indirect=True)
def test_json_2_sends_key_and_database_in_the_head(script: Script) -> None:
    assert script.odoo.json2("key", "ir.actions.server", "run", {"ids": [4]}) == {"mailroom": 1}
    path, head, body = script.request
    assert path == "/json/2/ir.actions.server/run"
    assert (head["Authorization"], head["X-Odoo-Database"]) == ("bearer key", "prod")
    assert json.loads(body) == {"ids": [4]}


@pytest.mark.parametrize(
    ("script", "said", "refused"),
    [
        ((401, b'{"message": "Invalid apikey"}'), "HTTP 401: Invalid apikey", True),
        ((403, b'{"message": "Not\\nyou"}'), "HTTP 403: Not you", False),
        ((502, b"<html>"), "HTTP 502: no reason given", False),
    ],
    indirect=["script"],
)
def test_json_2_says_what_is_wrong(script: Script, said: str, refused: bool) -> None:
    with pytest.raises(OdooError) as raised:
        script.odoo.json2("key", "ir.actions.server", "run", {})
    assert (str(raised.value), raised.value.refused) == (said, refused)


def test_an_odoo_that_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        odoo = Odoo(f"http://127.0.0.1:{server.getsockname()[1]}", "prod", timeout=0.05)
        with pytest.raises(OdooError, match="no answer within 0 s"):
            odoo.version()


@pytest.mark.parametrize("url", ["http://192.0.2.1", "ftp://127.0.0.1", "odoo.example.com"])
def test_a_password_goes_over_tls_or_stays_on_this_machine(url: str) -> None:
    with pytest.raises(OdooError, match="use https://"):
        Odoo(url, "prod")


def test_a_missing_ca_file_is_named() -> None:
    with pytest.raises(OdooError, match=r"ca_file /nowhere/ca\.pem cannot be read"):
        Odoo("https://127.0.0.1", "prod", "/nowhere/ca.pem")
