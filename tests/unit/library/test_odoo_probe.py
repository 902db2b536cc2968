"""odoo_probe against a scripted Odoo on this machine, which says what real ones were seen to say."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import socket
import ssl
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import odoo_rpc
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from library import odoo_probe

PASSWORD = "hunter2"
NO_DATABASE = """Traceback (most recent call last):
  File "odoo/sql_db.py", line 687, in borrow
psycopg2.OperationalError: connection to server on socket "x" failed: FATAL:  database "{}" does not exist

"""


class Odoo:
    """What a scripted Odoo has: change the attributes to change what it says."""

    def __init__(self) -> None:
        self.version = "19.0"
        self.login = ("admin", PASSWORD)
        self.denied_by_fault = False
        self.parameters: dict[str, str] = {}
        self.faults: dict[str, xmlrpc.client.Fault] = {}  # by model
        self.alias_domains: list[tuple[str, str, str]] = []
        self.records = {"crm.team": ["Sales", "Website"], "project.project": ["Site"], "res.partner": ["Azure"]}
        self.reply: Callable[[http.server.BaseHTTPRequestHandler], None] | None = None
        self.calls: list[str] = []
        self.connections = 0

    def answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        self.calls.append(method)
        if method == "version":
            major, _, minor = self.version.partition(".")
            info = [int(major) if major.isdigit() else major, int(minor), 0, "final", 0, ""]
            return {"server_version": self.version, "server_version_info": info, "protocol_version": 1}
        database, *rest = arguments
        if database != "prod":
            raise xmlrpc.client.Fault(1, NO_DATABASE.format(database))
        if method == "authenticate":
            if tuple(rest[:2]) == self.login:
                return 2
            if self.denied_by_fault:
                raise xmlrpc.client.Fault(3, "Access Denied")
            return False
        uid, password, model, what, (domain,), options = rest
        assert (uid, password, what) == (2, PASSWORD, "search_read")
        return [
            {"id": place, **{field: row[field] for field in options["fields"]}}
            for place, row in enumerate(self.rows(model, domain, options), 1)
        ]

    def rows(self, model: str, domain: list[Any], options: dict[str, Any]) -> list[dict[str, Any]]:
        if model == "ir.config_parameter":
            if model in self.faults:
                raise self.faults[model]
            ((_, _, keys),) = domain
            return [{"key": key, "value": value} for key, value in self.parameters.items() if key in keys]
        if model == "ir.model.fields":
            return [{"model": name, "name": field} for name in domain[0][2] for field in self.fields(name)]
        if model == "mail.alias.domain":
            assert self.fields(model)
            return [{"name": a, "catchall_alias": b, "bounce_alias": c} for a, b, c in self.alias_domains]
        if model in self.faults:
            raise self.faults[model]
        names = [name for name in self.records[model] if not domain or name in domain[0][2]]
        return [{"name": name} for name in names[: options.get("limit")]]

    def fields(self, model: str) -> list[str]:
        if model == "mail.alias.domain":
            return ["name"] if float(self.version.rpartition("~")[2]) >= 17 else []
        if model not in self.records:
            return []
        return ["id"] if model == "res.partner" else ["id", "alias_name"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece: two would each wait for the client's acknowledgement
    odoo: Odoo

    def setup(self) -> None:
        super().setup()
        self.odoo.connections += 1

    def do_GET(self) -> None:
        (self.odoo.reply or respond_404)(self)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.odoo.reply or not self.path.startswith("/xmlrpc/2/"):
            (self.odoo.reply or respond_404)(self)
            return
        arguments, method = xmlrpc.client.loads(body)
        try:
            answer = xmlrpc.client.dumps((self.odoo.answer(str(method), arguments),), methodresponse=True)
        except xmlrpc.client.Fault as fault:
            answer = xmlrpc.client.dumps(fault)
        respond(self, 200, answer.encode())

    def log_message(self, *_: Any) -> None:
        """Tests have nothing to log."""


def respond(handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def respond_404(handler: http.server.BaseHTTPRequestHandler) -> None:
    respond(handler, 404)


class Server(http.server.ThreadingHTTPServer):
    context: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread."""
        if self.context is None:
            super().finish_request(request, client_address)
            return
        with self.context.wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)

    def handle_error(self, *_: Any) -> None:
        """A client that does not trust us hangs up: that is what some tests are for."""


@pytest.fixture
def odoo() -> Odoo:
    return Odoo()


@pytest.fixture
def server(odoo: Odoo) -> Iterator[Server]:
    handler = type("Scripted", (Handler,), {"odoo": odoo})
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def database(server: Server) -> dict[str, Any]:
    """A database as in the inventory, at the scripted Odoo."""
    return {
        "name": "prod",
        "url": f"http://127.0.0.1:{server.server_port}",
        "login": "admin",
        "password": PASSWORD,
        "domains": [{"name": "example.com", "aliases": [{"name": "sales", "model": "crm.team", "record": "Sales"}]}],
    }


def with_alias(database: dict[str, Any], model: str, record: str) -> dict[str, Any]:
    alias = {"name": "sales", "model": model, "record": record}
    return {**database, "domains": [{"name": "example.com", "aliases": [alias]}]}


def problem(database: dict[str, Any], seconds: int = 10) -> str:
    """The one problem that a database has; then it has no facts."""
    told, problems = odoo_probe.ask(database, seconds)
    assert told == {}
    assert len(problems) == 1
    assert "\n" not in problems[0]
    assert PASSWORD not in problems[0]
    return problems[0]


def test_a_sound_database_tells_its_version_over_one_connection(odoo: Odoo, database: dict[str, Any]) -> None:
    told, problems = odoo_probe.ask(database, 10)
    assert (told, problems) == ({"version": "19.0", "former": {"example.com": []}}, [])
    assert odoo.connections == 1
    assert len(odoo.calls) == 6  # every one of them costs Odoo a check of the password


@pytest.mark.parametrize("version", ["17.0", "saas~18.2", "19.0"])
def test_names_of_the_alias_domain_are_former_when_the_inventory_has_others(
    odoo: Odoo, database: dict[str, Any], version: str
) -> None:
    odoo.version = version
    odoo.alias_domains = [("example.com", "Reception", "bounce"), ("other.example", "x", "y")]
    assert odoo_probe.ask(database, 10)[0]["former"] == {"example.com": ["reception"]}


@pytest.mark.parametrize("version", ["14.0", "16.0"])
def test_before_17_the_names_are_system_parameters(odoo: Odoo, database: dict[str, Any], version: str) -> None:
    odoo.version = version
    odoo.parameters = {
        "mail.catchall.domain": "example.com",
        "mail.catchall.alias": "all",
        "mail.bounce.alias": "bounce",
    }
    assert odoo_probe.ask(database, 10)[0]["former"] == {"example.com": ["all"]}
    odoo.parameters.pop("mail.catchall.alias")
    assert odoo_probe.ask(database, 10)[0]["former"] == {"example.com": []}
    odoo.parameters.pop("mail.catchall.domain")
    assert odoo_probe.ask(database, 10)[0]["former"] == {"example.com": []}


def test_recorded_names_stay_former_until_they_are_used_again(odoo: Odoo, database: dict[str, Any]) -> None:
    recorded = {"example.com": ["first", "second", "anna", "sales", "catchall"], "gone.example": ["x"]}
    odoo.parameters = {"mailroom.former_names": json.dumps(recorded)}
    odoo.alias_domains = [("example.com", "third", "bounces")]
    database["domains"][0].update(bounce="second", people=[{"name": "Anna", "relay_to": "mx.example"}])
    assert odoo_probe.ask(database, 10)[0]["former"] == {"example.com": ["bounces", "first", "third"]}


@pytest.mark.parametrize("damaged", ["{", "[]", '{"example.com": 1}', "null"])
def test_a_damaged_record_of_names_is_a_problem(odoo: Odoo, database: dict[str, Any], damaged: str) -> None:
    odoo.parameters = {"mailroom.former_names": damaged}
    assert "mailroom.former_names is damaged" in problem(database)


def test_odoo_may_call_a_database_otherwise(database: dict[str, Any]) -> None:
    told, problems = odoo_probe.ask({**database, "name": "branch", "database": "prod"}, 10)
    assert (list(told), problems) == (["version", "former"], [])
    assert "has no database 'nope'" in problem({**database, "database": "nope"})


def test_a_database_that_is_not_there(database: dict[str, Any]) -> None:
    database["name"] = "prd"
    assert problem(database) == "odoo_databases[prd].name: Odoo has no database 'prd': check the name"


@pytest.mark.parametrize("by_fault", [True, False])
def test_a_login_that_is_refused(odoo: Odoo, database: dict[str, Any], by_fault: bool) -> None:
    odoo.login = ("admin", "another")
    odoo.denied_by_fault = by_fault
    assert problem(database).startswith("odoo_databases[prod].login: Odoo refuses the login 'admin': check login and")


def test_a_login_without_the_settings(odoo: Odoo, database: dict[str, Any]) -> None:
    odoo.faults["ir.config_parameter"] = xmlrpc.client.Fault(
        4, "You are not allowed to access 'System Parameter' records.\n\nAsk."
    )
    line = problem(database)
    assert line.startswith(
        "odoo_databases[prod].login: Odoo does not let 'admin' use ir.config_parameter: use one with"
    )
    assert line.endswith("with the access right Administration: Settings")


def test_any_other_fault_is_told_by_its_last_line(odoo: Odoo, database: dict[str, Any]) -> None:
    odoo.faults["ir.config_parameter"] = xmlrpc.client.Fault(1, "Traceback:\n  File x\nKeyError:  'boom'\n\n")
    assert problem(database) == "odoo_databases[prod]: KeyError: 'boom': see Odoo's log"


def test_an_old_odoo(odoo: Odoo, database: dict[str, Any]) -> None:
    odoo.version = "13.0"
    assert problem(database).endswith("is Odoo 13.0: upgrade it to 14 or later")
    assert odoo.calls == ["version"]


@pytest.mark.parametrize(
    ("model", "record", "expected"),
    [
        ("crm.team", "Slaes", "record: Odoo has no crm.team named 'Slaes': name one of 'Sales', 'Website', or make it"),
        ("res.partner", "Azure", "model: records of res.partner have no e-mail alias: name another model"),
        ("no.model", "x", "model: Odoo has no model no.model: install its app, or correct the name"),
    ],
)
def test_an_alias_without_its_record(database: dict[str, Any], model: str, record: str, expected: str) -> None:
    told, problems = odoo_probe.ask(with_alias(database, model, record), 10)
    assert told["version"] == "19.0"
    assert len(problems) == 1
    assert problems[0].startswith(f"odoo_databases[prod].domains[example.com].aliases[sales].{expected}")


def test_an_app_that_the_login_may_not_use(odoo: Odoo, database: dict[str, Any]) -> None:
    odoo.faults["crm.team"] = xmlrpc.client.Fault(4, "You are not allowed to access 'Sales Team'.")
    assert odoo_probe.ask(database, 10)[1] == [
        "odoo_databases[prod].domains[example.com].aliases[sales].model: Odoo does not let 'admin' use crm.team: "
        "give it access to the app"
    ]


def test_at_most_five_records_are_named_instead(odoo: Odoo, database: dict[str, Any]) -> None:
    odoo.records["crm.team"] = [f"Team {number}" for number in range(9)]
    (line,) = odoo_probe.ask(database, 10)[1]
    assert line.count("Team") == 5


def test_no_record_at_all_names_none(odoo: Odoo, database: dict[str, Any]) -> None:
    odoo.records["crm.team"] = []
    assert odoo_probe.ask(database, 10)[1][0].endswith("named 'Sales': make it in Odoo")


def test_two_records_of_one_name(odoo: Odoo, database: dict[str, Any]) -> None:
    odoo.records["crm.team"] = ["Sales", "Sales"]
    assert odoo_probe.ask(database, 10)[1] == [
        "odoo_databases[prod].domains[example.com].aliases[sales].record: 2 records of crm.team are named 'Sales': "
        "rename all but one"
    ]


def test_nobody_there(database: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    database["url"] = f"http://127.0.0.1:{port}"
    assert problem(database) == (
        f"odoo_databases[prod].url: http://127.0.0.1:{port} does not answer (connection refused): "
        "check the address and that Odoo runs there"
    )


def test_a_name_without_an_address(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    database["url"] = "https://odoo.invalid"
    assert "has a host name without an address" in problem(database)


def test_silence_ends_with_the_time_allowed(odoo: Odoo, database: dict[str, Any]) -> None:
    over = threading.Event()
    odoo.reply = lambda _handler: (over.wait(10), None)[1]
    try:
        assert "does not answer within 1 s: check" in problem(database, 1)
    finally:
        over.set()


def test_an_odoo_that_says_nothing_at_all_has_less_time(
    odoo: Odoo, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(odoo_probe, "FIRST_ANSWER", 0.1)
    over = threading.Event()
    odoo.reply = lambda _handler: (over.wait(10), None)[1]
    try:
        assert "does not answer within 0.1 s: check" in problem(database, 30)
    finally:
        over.set()


def test_all_answers_have_one_time_together(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[float] = []
    log_in = odoo_rpc.Odoo.log_in

    def watched(odoo: Any, login: str, password: str) -> None:
        log_in(odoo, login, password)
        left.append(odoo.deadline - time.monotonic())

    monkeypatch.setattr(odoo_rpc.Odoo, "log_in", watched)
    assert odoo_probe.ask(database, 60)[1] == []
    assert 50 < left[0] < 60


def test_an_answer_in_drops_has_no_more_time_than_one_at_once(odoo: Odoo, database: dict[str, Any]) -> None:
    over = threading.Event()

    def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not over.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    odoo.reply = drip
    try:
        assert "does not answer within 1 s: check" in problem(database, 1)
    finally:
        over.set()


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected"),
    [
        (502, b"", {}, "answers HTTP 502: the proxy is there, Odoo is starting or down: start Odoo, or try again"),
        (404, b"", {}, "has no external API (HTTP 404): check the address, the database's name, and that"),
        (401, b"", {}, "answers HTTP 401 Unauthorized: let the proxy before Odoo pass this machine"),
        (500, b"", {}, "answers HTTP 500 Internal Server Error: see the log of Odoo, or of the proxy before it"),
        (301, b"", {"Location": "https://www.example.com/"}, "redirects to https://www.example.com/: give the address"),
        (200, b"<html>Welcome</html>", {}, "answers with a web page, not like Odoo: check the address"),
        (200, b"\n<!DOCTYPE html><p>Welcome", {}, "answers with a web page, not like Odoo: check the address"),
        (200, b"It works", {}, "does not answer like Odoo: check the address"),
        (200, b"", {}, "does not answer like Odoo: check the address"),
        (200, xmlrpc.client.dumps((1,), methodresponse=True).encode(), {}, "does not answer like Odoo"),
        (200, xmlrpc.client.dumps(({},), methodresponse=True).encode(), {}, "does not answer like Odoo"),
    ],
)
def test_something_else_there(
    odoo: Odoo, database: dict[str, Any], status: int, body: bytes, headers: dict[str, str], expected: str
) -> None:
    odoo.reply = lambda handler: respond(handler, status, body, **headers)
    assert expected in problem(database)


def test_a_connection_that_is_closed(odoo: Odoo, database: dict[str, Any]) -> None:
    def close(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.close_connection = True

    odoo.reply = close
    assert "does not answer (connection closed)" in problem(database)


def test_an_answer_without_end(odoo: Odoo, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible.module_utils.odoo_rpc.LONGEST_ANSWER", 1000)
    odoo.reply = lambda handler: respond(handler, 200, b" " * 100_000)
    assert "answers without end" in problem(database)


@pytest.fixture
def certified(server: Server, database: dict[str, Any], tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Gives the scripted Odoo a certificate for a name or address; returns the database with its https:// URL."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    now = datetime.datetime.now(datetime.UTC)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])

    def certified(name: str) -> dict[str, Any]:
        kind = x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(issuer)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([kind]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        (tmp_path / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (tmp_path / "key.pem").write_bytes(pem)
        server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
        return {**database, "url": f"https://127.0.0.1:{server.server_port}", "ca_file": str(tmp_path / "ca.pem")}

    return certified


def test_a_certificate_of_the_named_authority_is_trusted(certified: Callable[[str], dict[str, Any]]) -> None:
    assert odoo_probe.ask(certified("127.0.0.1"), 10)[1] == []


def test_a_certificate_of_an_unknown_authority_is_not(odoo: Odoo, certified: Callable[[str], dict[str, Any]]) -> None:
    line = problem({**certified("127.0.0.1"), "ca_file": None})
    assert "shows a certificate that is not trusted (self-signed certificate): name its authority's file" in line
    assert odoo.calls == []


def test_a_certificate_for_another_name_is_not(odoo: Odoo, certified: Callable[[str], dict[str, Any]]) -> None:
    assert "shows a certificate for another name (IP address mismatch" in problem(certified("odoo.example.com"))
    assert odoo.calls == []


def test_what_does_not_speak_tls(database: dict[str, Any]) -> None:
    database["url"] = database["url"].replace("http:", "https:")
    assert "does not speak TLS properly" in problem(database)


def test_a_wrong_ca_file(certified: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    missing, empty = str(tmp_path / "missing.pem"), str(tmp_path / "empty.pem")
    assert problem({**certified("127.0.0.1"), "ca_file": missing}) == (
        f"odoo_databases[prod].ca_file: {missing}: No such file or directory: name a PEM file on the control node"
    )
    assert problem({**certified("127.0.0.1"), "ca_file": empty}) == (
        f"odoo_databases[prod].ca_file: {empty} holds no certificate: name a PEM file"
    )


@pytest.mark.parametrize("host", ["192.0.2.69", "odoo.example.com", "127.0.0.1.example.com", "[2001:db8::1]"])
def test_http_is_for_this_machine_only(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("contacted"))
    database["url"] = f"http://{host}"
    assert problem(database) == (
        f"odoo_databases[prod].url: http://{host} would send the password unencrypted: use https://"
    )


@pytest.mark.parametrize("url", ["https://acme.odoo.com", "https://acme.odoo.com:443/", "https://ACME.ODOO.COM"])
def test_odoo_online_is_never_contacted(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("contacted"))
    assert odoo_probe.ask({**database, "url": url}, 10) == ({}, [])


def test_databases_are_asked_at_the_same_time(odoo: Odoo, database: dict[str, Any]) -> None:
    all_there = threading.Barrier(3)
    answer = odoo.answer

    def together(method: str, arguments: tuple[Any, ...]) -> Any:
        if method == "version":
            all_there.wait(10)  # raises when it waits in vain
        return answer(method, arguments)

    odoo.answer = together  # type: ignore[method-assign]
    told, problems = odoo_probe.ask_all([database, {**database, "name": "b"}, {**database, "name": "a"}], 10)
    assert list(told) == ["prod"]
    assert [line.split(":")[0] for line in problems] == ["odoo_databases[b].name", "odoo_databases[a].name"]


def test_one_odoo_is_not_asked_for_all_of_its_databases_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, too_many, there, most = threading.Lock(), threading.Event(), {"a": 0, "b": 0}, {"a": 0, "b": 0}

    def ask(database: Mapping[str, Any], _seconds: int) -> tuple[dict[str, Any], list[str]]:
        url = str(database["url"])
        with lock:
            there[url] += 1
            most[url] = max(most[url], there[url])
            if there[url] > 4:
                too_many.set()
        too_many.wait(0.1)
        with lock:
            there[url] -= 1
        return {}, []

    monkeypatch.setattr(odoo_probe, "ask", ask)
    odoo_probe.ask_all([{"name": number, "url": "ab"[number % 2]} for number in range(12)], 10)
    assert most == {"a": 4, "b": 4}


def test_the_module_answers_without_the_password(
    odoo: Odoo, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(AnsibleModule, "log", lambda _self, message, **_: logged.append(message))
    odoo.records["crm.team"] = []
    with patch_module_args({"databases": [database], "_ansible_check_mode": True}), pytest.raises(SystemExit):
        odoo_probe.main()
    output = capsys.readouterr().out
    answer = json.loads(output)
    assert answer["databases"] == {"prod": {"version": "19.0", "former": {"example.com": []}}}
    assert answer["changed"] is False
    assert "crm.team named 'Sales'" in answer["problems"][0]
    assert PASSWORD not in output + "".join(logged)
    assert "Invoked" in "".join(logged)


def test_a_word_that_is_the_password_too_is_shown(
    odoo: Odoo, database: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    odoo.login = ("admin", "other")
    arguments = {"databases": [{**database, "password": "admin"}]}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        odoo_probe.main()
    assert "Odoo refuses the login 'admin'" in json.loads(capsys.readouterr().out)["problems"][0]
