"""odoo_mail against a small Odoo of our own: XML-RPC and JSON-2 on loopback, records in memory."""

from __future__ import annotations

import ast
import copy
import dis
import json
import types
import xmlrpc.client
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from filter_plugins.providers import odoo_servers
from library.odoo_mail import Database, on_all, remedy
from module_utils.odoo_records import show, signed
from module_utils.odoo_wanted import former_names
from tests import odoo_shapes

ROOT = Path(__file__).resolve().parents[3]
CODE = (ROOT / "roles/odoo_mail/files/gateway_action.py").read_text(encoding="utf-8")
PASSWORD, MAILBOX_PASSWORD = "admin-secret", "mailbox-secret"
HOST = "mail.example.com"

VERSIONS = pytest.mark.parametrize("version", odoo_shapes.VERSIONS)


# What is written to a field of each type.
TYPES: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "char": (str, bool),
    "integer": (int,),
    "many2many": (list,),
    "many2one": (int, bool),
    "selection": (str,),
    "text": (str, bool),
}


class FakeOdoo:
    """As much of Odoo as odoo_mail uses: records by model, links as [id, name], names tidied up on writing.

    It has the models and fields of its version and refuses others as Odoo does.
    """

    def __init__(self, version: str) -> None:
        self.shape = odoo_shapes.shape(version)
        self.major = self.shape.major
        self.keys: list[str] = []  # API keys of the gateway's user
        self.made = 0  # of them, ever
        self.writes: list[tuple[str, str, Any]] = []
        self.complaints: dict[str, str] = {}  # what a method, or writing to a model, is refused with
        self.models: dict[str, dict[int, dict[str, Any]]] = {
            "ir.model.data": self._rows(
                [
                    {"module": "base", "name": "group_portal", "res_id": 71},
                    {"module": "base", "name": "group_system", "res_id": 72},
                    {"module": "mail", "name": "ir_cron_mail_scheduler_action", "res_id": 1},
                    {"module": "mail", "name": "ir_cron_mail_gateway_action", "res_id": 2},
                    {"module": "mail", "name": "model_mail_thread", "res_id": 1},
                ]
            ),
            "ir.cron": self._rows(
                [
                    {"interval_number": 1, "interval_type": "hours"},
                    {"interval_number": 5, "interval_type": "minutes"},
                ]
            ),
            "mail.gateway.allowed": {},
            "res.partner": {},
            "ir.config_parameter": {},
            "ir.mail_server": {},
            "fetchmail.server": {},
            "res.groups": {},
            "res.users": {},
            "ir.actions.server": {},
            "mail.alias.domain": {},
            "res.company": self._rows([{"name": "My Company", "alias_domain_id": False, "email": False}]),
            "mail.alias": self._rows([self._alias("info"), self._alias(False), self._alias("taken")]),
            "crm.team": self._rows([{"name": "Sales", "alias_id": [1, "info"], **self._alias("info")}]),
            "project.project": self._rows([{"name": "Website", "alias_id": [2, ""], **self._alias(False)}]),
        }
        self.models["ir.model"] = self._rows([{"model": "mail.thread"}, *({"model": name} for name in self.models)])

    @staticmethod
    def _rows(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
        return {number: {"id": number, **row} for number, row in enumerate(rows, start=1)}

    @staticmethod
    def _alias(name: str | bool) -> dict[str, Any]:
        return {"alias_name": name, "alias_domain_id": False, "alias_contact": "everyone", "display_name": name or ""}

    def records(self, model: str) -> list[dict[str, Any]]:
        return list(self.models[model].values())

    def one(self, model: str) -> dict[str, Any]:
        (record,) = self.records(model)
        return record

    def common(self, method: str, arguments: tuple[Any, ...]) -> Any:
        if method == "version":
            return {"server_version_info": [self.major, 0, 0, "final", 0, ""]}
        _, login, password, _ = arguments
        if (login, password) == ("admin", PASSWORD):
            return 2
        return 7 if login == "mailroom-gateway" and password in self.keys else False

    def execute(self, model: str, method: str, arguments: list[Any], options: dict[str, Any]) -> Any:
        if method in self.complaints or (method in {"write", "create"} and model in self.complaints):
            raise xmlrpc.client.Fault(2, self.complaints.get(method) or self.complaints[model])
        if model not in self.shape.fields:
            raise xmlrpc.client.Fault(2, f"Object {model} doesn't exist")
        if method == "fields_get":
            return {name: {"selection": [[v, v] for v in self.shape.choices[model, name]]} for name in arguments[0]}
        if method == "search_read":
            return self.search_read(model, arguments[0], options["fields"])
        if method in {"create", "write", "unlink"}:
            self.writes.append((model, method, arguments[0][0] if method == "create" else arguments[-1]))
        if method == "create":
            return [self.create(model, values) for values in arguments[0]]
        if method == "write":
            for identity in arguments[0]:
                self.update(model, self.models[model][identity], arguments[1])
            return True
        if method == "unlink":
            (identity,) = arguments[0]
            links = [row["alias_domain_id"] for row in self.records("mail.alias") if model == "mail.alias.domain"]
            if identity in [link[0] for link in links if link]:
                raise xmlrpc.client.Fault(2, "Another model requires the record being deleted")
            if model == "res.users" and self.keys and self.major == 14:
                raise xmlrpc.client.Fault(2, "Another model requires the record being deleted")
            del self.models[model][identity]
            return True
        if method == "run":
            return self.run(arguments[0][0])
        if method == "button_confirm_login":
            self.models[model][arguments[0][0]]["state"] = "done"
        return {"type": "ir.actions.client"}

    def search_read(self, model: str, domain: list[Any], fields: list[str]) -> list[dict[str, Any]]:
        for field in [*fields, *(field for field, _, _ in domain)]:
            self.kind(model, field)
        if model == "ir.model.fields":
            rows = [{"model": name, "name": field} for name, found in self.shape.fields.items() for field in found]
            self.models[model] = self._rows(rows)

        def matches(record: dict[str, Any]) -> bool:
            for field, operator, value in domain:
                own = record.get(field, False)
                own = own[0] if isinstance(own, list) and field.endswith("_id") else own
                fits = own in value if operator == "in" else own == value
                if fits == (operator == "!="):
                    return False
            return True

        return [
            {"id": record["id"], **{field: record.get(field, False) for field in fields}}
            for record in self.records(model)
            if matches(record)
        ]

    def kind(self, model: str, field: str) -> str:
        """The type of a field. Raises the fault that Odoo answers for one that it does not have."""
        if field == "id":
            return "integer"
        if field not in self.shape.fields[model]:
            raise xmlrpc.client.Fault(1, f"Traceback:\nValueError: Invalid field {field!r} on {model!r}\n")
        return self.shape.fields[model][field]

    def create(self, model: str, values: dict[str, Any]) -> int:
        identity = max(self.models[model], default=100) + 1
        fresh = {"state": "draft"} if model == "fetchmail.server" else {}
        record = self.models[model][identity] = {"id": identity, "active": True, "share": True, **fresh}
        self.update(model, record, values)
        if model == "mail.alias.domain" and len(self.models[model]) == 1:
            # The first one becomes everybody's (addons/mail/models/mail_alias_domain.py).
            for other in ("res.company", "mail.alias", "crm.team", "project.project"):
                for row in self.records(other):
                    row["alias_domain_id"] = row["alias_domain_id"] or [identity, values["name"]]
        if model == "res.users":
            record["partner_id"] = [self.create("res.partner", {"name": values["name"]}), values["name"]]
        return identity

    def update(self, model: str, record: dict[str, Any], values: dict[str, Any]) -> None:
        for field, value in values.items():
            kind = self.kind(model, field)
            choices = self.shape.choices.get((model, field))
            types = TYPES[kind]
            assert type(value) in types, f"{model}.{field} is {kind}"
            if choices and value not in choices:
                raise xmlrpc.client.Fault(1, f"Traceback:\nValueError: Wrong value for {model}.{field}: {value!r}\n")
            if kind == "many2many":
                record[field] = value[0][2]
            elif field == "alias_domain_id":
                record[field] = value and [value, self.models["mail.alias.domain"][value]["name"]]
            elif field == "model_id":
                record[field] = [value, "Email Thread"]
            elif isinstance(value, str) and (field.endswith("_alias") or field == "alias_name"):
                record[field] = value.replace(" ", "-")
            else:
                record[field] = value

        if model == "ir.mail_server" and self.by_token(record):
            # google_gmail and microsoft_outlook, models/ir_mail_server.py, _check_use_..._service
            fine = not record.get("smtp_pass") and record["smtp_encryption"] == "starttls" and record.get("smtp_user")
            if not fine:
                raise xmlrpc.client.Fault(2, "Please leave the password field empty; use STARTTLS; fill in Username")

    @staticmethod
    def by_token(record: dict[str, Any]) -> str:
        """Whose module a server logs in by."""
        switches = {"use_google_gmail_service": "gmail", "use_microsoft_outlook_service": "outlook"}
        chosen = [name for switch, name in switches.items() if record.get(switch)]
        authentication = str(record.get("smtp_authentication"))
        return "".join(chosen) or (authentication if authentication in switches.values() else "")

    def run(self, identity: int) -> dict[str, Any]:
        code = self.models["ir.actions.server"][identity]["code"]
        if "_generate(" in code:
            self.made += 1
            self.keys = [*([] if "former.unlink()" in code else self.keys), f"key-{self.made}"]
            return {"type": "x", "mailroom_key": self.keys[-1]}
        if "former.unlink()" in code:
            self.keys = []
        if "older.unlink()" in code:
            retired, self.keys = len(self.keys) - 1, self.keys[-1:]
            return {"type": "x", "mailroom_retired": retired}
        return {"type": "x", "mailroom": {"version": 1, "verdicts": []}}

    def answer(self, path: str, body: bytes, key: str) -> tuple[int, bytes]:
        if path.startswith("/web/session/"):
            return 200, json.dumps({"error": {"data": {"message": "Access Denied"}}}).encode()
        if path.startswith("/json/2/"):
            if not self.shape.json2:
                return 404, b"<html>"
            if key not in self.keys:
                return 401, json.dumps({"message": "Invalid apikey"}).encode()
            return 200, json.dumps(self.run(json.loads(body)["ids"][0])).encode()
        arguments, method = xmlrpc.client.loads(body)
        try:
            if path.endswith("/common"):
                result = self.common(str(method), arguments)
            else:
                _, _, password, model, name, positional, options = arguments
                assert password in {PASSWORD, *self.keys}
                result = self.execute(str(model), str(name), list(positional), options)  # type: ignore[arg-type]
            return 200, xmlrpc.client.dumps((result,), methodresponse=True).encode()
        except xmlrpc.client.Fault as fault:
            return 200, xmlrpc.client.dumps(fault, methodresponse=True).encode()


class Lab:
    """A fake Odoo behind a real socket, and runs of the module against it."""

    def __init__(self, odoo: FakeOdoo, url: str, secrets: Path) -> None:
        self.odoo = odoo
        self.url = url
        self.secrets = secrets
        self.domain: dict[str, Any] = {
            "name": "example.com",
            "aliases": [
                {"name": "sales", "model": "crm.team", "record": "Sales"},
                {"name": "projects", "model": "project.project", "record": "Website"},
            ],
        }
        self.more_domains: list[dict[str, Any]] = []
        self.login = "admin"
        self.more: dict[str, Any] = {}  # settings of the database

    def run(
        self,
        check_mode: bool = False,
        hosts: tuple[str, ...] = (HOST,),
        gateway_key: str = "keep",
        remove: bool = False,
    ) -> Database:
        params = {
            "secrets_directory": str(self.secrets),
            "timeout": 5,
            "gateway_code": CODE,
            "gateway_key": gateway_key,
        }
        settings = {
            "name": "prod",
            "url": self.url,
            "login": self.login,
            "password": PASSWORD,
            "domains": [self.domain, *self.more_domains],
            **self.more,
        }
        self.odoo.writes.clear()
        (servers,) = odoo_servers([settings], hosts, {"prod": MAILBOX_PASSWORD})
        database = Database(settings, servers, params, check_mode)
        if remove:
            if on_all([database], Database.read_for_removal):
                on_all([database], Database.remove)
        elif on_all([database], Database.read) and on_all([database], Database.apply):
            on_all([database], Database.test)
        if hasattr(database, "odoo"):
            database.odoo.close()
        return database

    def install_oauth(self) -> None:
        """Odoo's modules Gmail and Outlook are there, too."""
        self.odoo.shape = self.odoo.shape.including_oauth()

    def install_mass_mailing(self) -> None:
        """Odoo's app Email Marketing is there, too."""
        self.odoo.shape = self.odoo.shape.including(odoo_shapes.MASS_MAILING)

    def lines(self, **options: Any) -> list[str]:
        """What another run changes, in words."""
        return [change.line() for change in self.run(**options).changes]

    def settle(self) -> None:
        """Bring Odoo into the wanted state."""
        assert self.run().problems == []

    def parameters(self) -> dict[str, str]:
        """Odoo's system parameters, without our notes."""
        rows = {row["key"]: row["value"] for row in self.odoo.records("ir.config_parameter")}
        return {key: value for key, value in rows.items() if key != "mailroom.before"}

    def key(self) -> str:
        return (self.secrets / "gateway-prod").read_text(encoding="utf-8").strip()


MakeLab = Callable[[int | str], Lab]


@pytest.fixture
def make_lab(tmp_path: Path) -> Iterator[MakeLab]:
    servers: list[tuple[ThreadingHTTPServer, Thread]] = []

    def make(version: int | str) -> Lab:
        odoo = FakeOdoo(str(version))

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet for head and body

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                key = self.headers.get("Authorization", "").removeprefix("bearer ")
                status, answer = odoo.answer(self.path, body, key)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return Lab(odoo, f"http://127.0.0.1:{server.server_port}", tmp_path / "secrets")

    yield make
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    return make_lab(19)


# The wanted state


@VERSIONS
def test_a_second_run_changes_nothing(make_lab: MakeLab, version: str) -> None:
    lab = make_lab(version)
    first = lab.run()
    assert first.problems == []
    assert first.changes
    second = lab.run()
    assert (second.problems, second.changes, lab.odoo.writes) == ([], [], [])
    assert second.tests == {"smtp": "passed", "imap": "passed"}


@VERSIONS
def test_check_mode_tells_what_a_run_does_and_does_nothing(make_lab: MakeLab, version: str) -> None:
    lab = make_lab(version)
    foretold = lab.run(check_mode=True)
    assert lab.odoo.writes == []
    assert not lab.secrets.exists()
    assert foretold.tests == {"smtp": "skipped", "imap": "skipped"}
    done = lab.run()
    assert [change.path for change in foretold.changes] == [change.path for change in done.changes]
    assert foretold.gateway["action_id"] == 0
    assert done.gateway["action_id"] > 0


def test_odoo_19_gets_domain_servers_gateway_and_aliases(lab: Lab) -> None:
    lab.settle()
    odoo = lab.odoo
    domain = odoo.one("mail.alias.domain")
    assert domain.items() >= {"name": "example.com", "catchall_alias": "catchall", "bounce_alias": "bounce"}.items()
    assert domain["default_from"] == "notifications"
    link = [domain["id"], "example.com"]
    assert odoo.one("res.company")["alias_domain_id"] == link
    assert lab.parameters() == {"base_setup.default_external_email_server": "True"}
    outgoing = {
        "smtp_host": HOST,
        "smtp_port": 465,
        "smtp_encryption": "ssl_strict",
        "smtp_authentication": "login",
        "smtp_user": "prod",
        "smtp_pass": MAILBOX_PASSWORD,
        "from_filter": "example.com",
    }
    assert odoo.one("ir.mail_server").items() >= outgoing.items()
    incoming = {"server": HOST, "port": 993, "is_ssl": True, "active": False, "state": "done", "object_id": False}
    assert odoo.one("fetchmail.server").items() >= incoming.items()
    group, user, action = odoo.one("res.groups"), odoo.one("res.users"), odoo.one("ir.actions.server")
    assert user["group_ids"] == [71, group["id"]]
    assert (action["group_ids"], action["state"], action["code"]) == ([group["id"]], "code", signed(CODE))
    assert [(row["alias_name"], row["alias_domain_id"]) for row in odoo.records("crm.team")] == [("sales", link)]
    assert [(row["alias_name"], row["alias_domain_id"]) for row in odoo.records("project.project")] == [
        ("projects", link)
    ]


def test_odoo_14_gets_parameters_and_fields_it_knows(make_lab: MakeLab) -> None:
    lab = make_lab(14)
    lab.settle()
    assert lab.parameters() == {
        "base_setup.default_external_email_server": "True",
        "mail.catchall.domain": "example.com",
        "mail.catchall.alias": "catchall",
        "mail.bounce.alias": "bounce",
        "mail.default.from": "notifications",
    }
    server = lab.odoo.one("ir.mail_server")
    assert server["smtp_encryption"] == "ssl"
    assert not {"from_filter", "smtp_authentication"} & server.keys()
    assert lab.odoo.one("res.users")["groups_id"] == [71, lab.odoo.one("res.groups")["id"]]
    assert lab.run().gateway["protocol"] == "xmlrpc"


def test_odoo_19_is_called_over_json_2(lab: Lab) -> None:
    lab.settle()
    action = lab.odoo.one("ir.actions.server")["id"]
    assert lab.run().gateway == {"action_id": action, "protocol": "json2", "login": "mailroom-gateway"}


def test_each_mail_host_has_its_servers_in_order(lab: Lab) -> None:
    database = lab.run(hosts=("mx1.example.com", "mx2.example.com"))
    assert database.problems == []
    assert [(row["smtp_host"], row["sequence"]) for row in lab.odoo.records("ir.mail_server")] == [
        ("mx1.example.com", 1),
        ("mx2.example.com", 2),
    ]
    assert [row["server"] for row in lab.odoo.records("fetchmail.server")] == ["mx1.example.com", "mx2.example.com"]


@VERSIONS
def test_odoo_sends_no_more_by_a_mail_host_that_is_gone(make_lab: MakeLab, version: str) -> None:
    lab = make_lab(version)
    lab.run(hosts=("mx1.example.com", "mx2.example.com"))
    second = ("mx2.example.com",)

    assert lab.lines(hosts=second) == [
        "odoo_databases[prod].outgoing server mx2.example.com.sequence: 2 -> 1",
        "odoo_databases[prod].outgoing server mx1.example.com.active: True -> False",
    ]
    assert lab.lines(hosts=second) == []
    (gone,) = [row["id"] for row in lab.odoo.records("ir.mail_server") if row["smtp_host"] == "mx1.example.com"]
    del lab.odoo.models["ir.mail_server"][gone]
    assert lab.lines(hosts=second) == []
    assert "odoo_databases[prod].outgoing server mx1.example.com: none -> new" in lab.lines(
        hosts=("mx1.example.com", *second)
    )


def test_servers_are_for_all_domains_and_the_first_is_the_company_s(lab: Lab) -> None:
    lab.more_domains = [{"name": "example.net"}]
    lab.settle()
    assert lab.odoo.one("ir.mail_server")["from_filter"] == "example.com,example.net"
    assert lab.odoo.one("res.company")["alias_domain_id"][1] == "example.com"


def test_companies_get_the_domain_they_are_told(lab: Lab) -> None:
    lab.odoo.models["res.company"][2] = {"id": 2, "name": "Second", "alias_domain_id": False}
    lab.more_domains = [{"name": "example.net", "companies": ["Second"]}]
    lab.settle()
    domains = {row["name"]: row["alias_domain_id"][1] for row in lab.odoo.records("res.company")}
    assert domains == {"My Company": "example.com", "Second": "example.net"}


@pytest.mark.parametrize(("companies", "expected"), [(1, "example.com"), (2, "old.example.net")])
def test_a_foreign_domain_is_replaced_only_where_there_is_no_choice(lab: Lab, companies: int, expected: str) -> None:
    lab.odoo.create("mail.alias.domain", {"name": "old.example.net", "catchall_alias": "c", "bounce_alias": "b"})
    foreign = lab.odoo.one("mail.alias.domain")["id"]
    for number in range(1, companies + 1):
        company = {"id": number, "name": f"Company {number}", "alias_domain_id": [foreign, "old.example.net"]}
        lab.odoo.models["res.company"][number] = company
    lab.settle()
    assert {row["alias_domain_id"][1] for row in lab.odoo.records("res.company")} == {expected}


def test_what_somebody_changed_by_hand_is_put_back_and_nothing_else(lab: Lab) -> None:
    lab.settle()
    lab.odoo.one("ir.mail_server").update(smtp_port=25, smtp_debug=True)
    changes = lab.run().changes
    assert [change.line() for change in changes] == [
        f"odoo_databases[prod].outgoing server {HOST}.smtp_port: 25 -> 465"
    ]
    assert lab.odoo.writes == [("ir.mail_server", "write", {"smtp_port": 465})]
    assert lab.odoo.one("ir.mail_server")["smtp_debug"] is True


# What somebody may have changed by hand, by model; where a version has no such field, it stays as it is.
DRIFT: dict[str, dict[str, Any]] = {
    "mail.alias.domain": {"bounce_alias": "returns", "default_from": "robot"},
    "res.company": {"alias_domain_id": False},
    "ir.mail_server": {"smtp_host": "mail.example.net", "smtp_encryption": "none", "from_filter": "a@example.com"},
    "fetchmail.server": {"active": True, "is_ssl": False, "port": 143, "object_id": [9, "Lead"]},
    "ir.actions.server": {"code": "action = {}", "groups_id": [], "group_ids": []},
    "res.users": {"active": False, "groups_id": [71], "group_ids": [71]},
    "crm.team": {"alias_name": "info", "alias_domain_id": False},
}


@VERSIONS
def test_whatever_drifts_is_told_and_put_back(make_lab: MakeLab, version: str) -> None:
    lab = make_lab(version)
    lab.settle()
    settled = copy.deepcopy(lab.odoo.models)
    drifted: set[str] = set()
    for model, values in DRIFT.items():
        for record in lab.odoo.records(model):
            known = {field: value for field, value in values.items() if field in lab.odoo.shape.fields[model]}
            record.update(known)
            drifted |= known.keys()
    for row in lab.odoo.records("ir.config_parameter"):
        if row["key"] in {"mail.bounce.alias", "mail.default.from", "base_setup.default_external_email_server"}:
            row["value"] = "drifted"
            drifted.add(row["key"])
    foretold = lab.run(check_mode=True)
    assert lab.odoo.models != settled
    run = lab.run()
    assert (run.problems, run.changes) == ([], foretold.changes)
    told = " ".join(change.line() for change in run.changes)
    assert not [what for what in drifted if what not in told]
    recorded = {"mailroom.former_names", "mailroom.before"}
    before, after = settled["ir.config_parameter"].values(), lab.odoo.records("ir.config_parameter")
    assert [row for row in after if row["key"] not in recorded] == [row for row in before if row["key"] not in recorded]
    assert {**lab.odoo.models, "ir.config_parameter": {}} == {**settled, "ir.config_parameter": {}}


@VERSIONS
def test_each_version_is_called_by_its_protocol(make_lab: MakeLab, version: str) -> None:
    lab = make_lab(version)
    lab.settle()
    assert lab.run().gateway["protocol"] == ("json2" if lab.odoo.shape.json2 else "xmlrpc")


@pytest.mark.parametrize(("version", "expected"), [("14", None), ("15", "one.example"), ("16", "one.example")])
def test_before_17_a_server_is_filtered_by_one_domain(make_lab: MakeLab, version: str, expected: str | None) -> None:
    lab = make_lab(version)
    lab.domain["name"] = "one.example"
    lab.settle()
    assert lab.odoo.one("ir.mail_server").get("from_filter") == expected


@pytest.mark.parametrize("version", ["14", "14-late", "15"])
def test_the_module_for_fetching_may_be_missing(make_lab: MakeLab, version: str) -> None:
    lab = make_lab(version)
    lab.odoo.shape = lab.odoo.shape.without("fetchmail.server")
    assert lab.run().problems == [
        "odoo_databases[prod]: Odoo has no incoming mail servers: install its module fetchmail"
    ]
    assert lab.odoo.writes == []


def test_the_contact_policy_is_left_alone_unless_given(lab: Lab) -> None:
    lab.settle()
    lab.odoo.one("crm.team")["alias_contact"] = "partners"
    assert lab.run().changes == []
    lab.domain["aliases"][0]["contact"] = "followers"
    assert [change.after for change in lab.run().changes] == ["followers"]


def test_a_portal_group_that_implies_others_is_no_difference(lab: Lab) -> None:
    lab.settle()
    lab.odoo.one("res.users")["group_ids"] += [99]
    assert lab.run().changes == []


def test_a_user_who_has_become_an_employee_is_put_back(lab: Lab) -> None:
    lab.settle()
    lab.odoo.one("res.users").update(share=False, group_ids=[*lab.odoo.one("res.users")["group_ids"], 1])
    lab.run()
    assert lab.odoo.one("res.users")["group_ids"] == [71, lab.odoo.one("res.groups")["id"]]


# Names used earlier


def test_a_former_name_is_recorded_before_it_is_changed(lab: Lab) -> None:
    lab.settle()
    lab.domain["catchall"] = "reception"
    assert lab.run().problems == []
    assert [(model, values) for model, _, values in lab.odoo.writes if '"made"' not in str(values)] == [
        ("ir.config_parameter", {"key": "mailroom.former_names", "value": '{"example.com": ["catchall"]}'}),
        ("mail.alias.domain", {"catchall_alias": "reception"}),
    ]
    assert lab.run().changes == []


def test_odoo_14_s_former_names_are_recorded_too(make_lab: MakeLab) -> None:
    lab = make_lab(14)
    lab.settle()
    lab.domain["bounce"] = "returns"
    lab.settle()
    values = {row["key"]: row["value"] for row in lab.odoo.records("ir.config_parameter")}
    assert values["mailroom.former_names"] == '{"example.com": ["bounce"]}'
    assert values["mail.bounce.alias"] == "returns"


def test_former_names_grow_and_are_never_forgotten() -> None:
    today = [{"name": "example.com", "catchall_alias": "reception", "bounce_alias": "bounce"}]
    wanted = [{"name": "example.com", "catchall_alias": "hello", "bounce_alias": "bounce"}]
    recorded = {"example.com": ["catchall"], "example.net": ["catchall"]}
    expected = {"example.com": ["catchall", "reception"], "example.net": ["catchall"]}
    assert former_names(recorded, today, wanted) == expected
    assert former_names(expected, today, wanted) == expected


def test_a_damaged_record_of_former_names_stops_everything(lab: Lab) -> None:
    lab.odoo.create("ir.config_parameter", {"key": "mailroom.former_names", "value": "catchall"})
    database = lab.run()
    assert lab.odoo.writes == []
    assert "mailroom.former_names is damaged" in database.problems[0]


# More of Odoo's settings


EVERYTHING: dict[str, Any] = {
    "queue_minutes": 5,
    "fetch_minutes": 7,
    "loop_minutes": 60,
    "loop_threshold": 50,
    "allowed_senders": ["robot@customer.example"],
    "allowed_domains": ["example.com", "example.net"],
    "mass_mailing_server": {
        "host": "smtp.provider.example",
        "tls": "starttls",
        "login": "us",
        "password": "mass-secret",
    },
}


def test_the_settings_that_the_inventory_names_are_kept(lab: Lab) -> None:
    lab.install_mass_mailing()
    lab.more = EVERYTHING
    foretold = lab.lines(check_mode=True)
    lab.settle()
    assert [(row["interval_number"], row["interval_type"]) for row in lab.odoo.records("ir.cron")] == [
        (5, "minutes"),
        (7, "minutes"),
    ]
    mass = next(row for row in lab.odoo.records("ir.mail_server") if row["name"] == "Mailroom mass mailing")
    expected = {"smtp_port": 587, "smtp_encryption": "starttls_strict", "smtp_user": "us", "sequence": 1000}
    assert mass.items() >= {**expected, "smtp_pass": "mass-secret", "from_filter": "example.com"}.items()
    assert lab.parameters() == {
        "base_setup.default_external_email_server": "True",
        "mail.gateway.loop.minutes": "60",
        "mail.gateway.loop.threshold": "50",
        "mail.catchall.domain.allowed": "example.com,example.net",
        "mass_mailing.outgoing_mail_server": "True",
        "mass_mailing.mail_server_id": str(mass["id"]),
    }
    assert lab.odoo.one("mail.gateway.allowed")["email"] == "robot@customer.example"
    assert "odoo_databases[prod].mail queue.interval_number: 1 -> 5" in foretold
    assert lab.lines() == []
    lab.more = {}
    assert lab.lines() == [], "what is not named is not touched"


def test_a_schedule_that_runs_is_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.more = {"queue_minutes": 5}
    lab.odoo.complaints["ir.cron"] = "This cron task is currently being executed"
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            del lab.odoo.complaints["ir.cron"]

    monkeypatch.setattr("time.sleep", pause)
    lab.settle()
    assert len(pauses) == 3
    assert lab.odoo.models["ir.cron"][1]["interval_number"] == 5


def test_a_mail_host_of_ours_serves_for_mass_mailings_without_a_login(lab: Lab) -> None:
    lab.install_mass_mailing()
    lab.more = {"mass_mailing_server": {"host": HOST}}
    lab.settle()
    assert [(row["smtp_user"], row["smtp_pass"]) for row in lab.odoo.records("ir.mail_server")] == [
        ("prod", MAILBOX_PASSWORD)
    ] * 2
    lab.more = {"mass_mailing_server": {"host": "smtp.provider.example"}}
    assert lab.run().problems == [
        "odoo_databases[prod].mass_mailing_server.login: smtp.provider.example is none of the mail hosts: "
        "give login and password at that server"
    ]


def test_what_this_odoo_does_not_have_is_told(make_lab: MakeLab) -> None:
    lab = make_lab(14)
    lab.more = EVERYTHING
    remedy = "leave it out, or upgrade to Odoo 16"
    assert lab.run().problems == [
        f"odoo_databases[prod].loop_minutes: this Odoo 14 has no limit against loops: {remedy}",
        f"odoo_databases[prod].loop_threshold: this Odoo 14 has no limit against loops: {remedy}",
        f"odoo_databases[prod].allowed_senders: this Odoo 14 has no limit against loops: {remedy}",
        "odoo_databases[prod].mass_mailing_server: this Odoo 14 has no mass mailing: install its app Email Marketing",
    ]
    assert lab.odoo.writes == []


def test_odoo_does_not_fetch_from_a_mailbox_of_ours(lab: Lab) -> None:
    for server in (HOST, "imap.provider.example"):
        lab.odoo.create("fetchmail.server", {"name": "Catchall", "server": server})
    lab.settle()
    others = [row for row in lab.odoo.records("fetchmail.server") if row["name"] == "Catchall"]
    assert [(row["server"], row["active"]) for row in others] == [(HOST, False), ("imap.provider.example", True)]


@pytest.mark.parametrize(
    ("from_filter", "address"),
    [
        ("example.net, Boss@example.com", "boss@example.com"),
        ("boss@example.com, example.com", ""),
        ("boss@example.net", ""),
    ],
)
def test_a_server_that_keeps_what_comes_back_from_odoo_is_told(lab: Lab, from_filter: str, address: str) -> None:
    lab.odoo.create("ir.mail_server", {"name": "Old", "from_filter": from_filter})
    expected = [
        f"odoo_databases[prod].outgoing server Old: its FROM filter has {address} alone, so that what comes back for "
        "it would not reach Odoo: archive it in Odoo, or filter by example.com"
    ]
    assert lab.run().problems == expected * bool(address)
    assert bool(lab.odoo.writes) != bool(address)


@pytest.mark.parametrize("major", [14, 19])
@pytest.mark.parametrize("email", [False, "catchall@example.com", "Bounce@example.com"])
def test_a_company_that_nobody_can_write_to_is_told(make_lab: MakeLab, major: int, email: str | bool) -> None:
    lab = make_lab(major)
    lab.odoo.one("res.company")["email"] = email
    (advice,) = lab.run().advice
    assert advice.startswith("odoo_databases[prod].company My Company: ")
    lab.domain["companies"] = [{"name": "My Company", "email": "office@example.com"}]
    assert (lab.run().advice, lab.odoo.one("res.company")["email"]) == ([], "office@example.com")


def test_an_administrator_without_an_address_is_told(lab: Lab) -> None:
    lab.odoo.one("res.company")["email"] = "office@example.com"
    user = {"login": "admin", "email": "admin@yourcompany.example.com", "name": "Admin"}
    lab.odoo.models["res.users"][2] = {"id": 2, "share": False, **user}
    (advice,) = lab.run().advice
    assert advice.startswith("odoo_databases[prod].user admin: admin@yourcompany.example.com is what Odoo has before")


# The gateway action's code


def test_another_version_of_the_gateway_s_code_is_told_from_a_changed_one(lab: Lab) -> None:
    lab.settle()
    action = lab.odoo.one("ir.actions.server")
    action["code"] = signed("an older program\n")
    version = signed("an older program\n")[2:10]
    (line,) = lab.lines()
    assert line.startswith(f"odoo_databases[prod].gateway action.code: version {version} -> version ")
    action["code"] += "\n# and one more line"
    (line,) = lab.lines()
    assert ", changed in Odoo -> version " in line
    assert action["code"] == signed(CODE)


# Removal


def snapshot(odoo: FakeOdoo) -> dict[str, Any]:
    return copy.deepcopy({model: rows for model, rows in odoo.models.items() if model != "ir.model.fields"})


@VERSIONS
def test_removal_leaves_odoo_as_it_was(make_lab: MakeLab, version: str) -> None:
    lab = make_lab(version)
    lab.install_mass_mailing()
    lab.odoo.create("ir.config_parameter", {"key": "mail.catchall.alias", "value": "everything"})
    lab.odoo.create("fetchmail.server", {"name": "Catchall", "server": HOST})
    before = snapshot(lab.odoo)
    new = ("loop_minutes", "loop_threshold", "allowed_senders")
    lab.more = {key: value for key, value in EVERYTHING.items() if lab.odoo.major >= 16 or key not in new}
    lab.domain["companies"] = [{"name": "My Company", "email": "office@example.com"}]
    lab.settle()
    lab.domain["catchall"] = "reception"
    lab.settle()
    after = snapshot(lab.odoo)

    foretold = lab.lines(check_mode=True, remove=True)

    assert snapshot(lab.odoo) == after
    assert (lab.secrets / "gateway-prod").exists()
    assert lab.lines(remove=True) == foretold
    assert snapshot(lab.odoo) == before
    assert not (lab.secrets / "gateway-prod").exists()
    assert (lab.lines(remove=True), lab.odoo.writes) == ([], [])


def test_what_came_last_is_given_back_first(make_lab: MakeLab) -> None:
    """Odoo lets a catchall have its former name only when no alias has it any more."""
    lab = make_lab(14)
    lab.odoo.create("ir.config_parameter", {"key": "mail.catchall.alias", "value": "catchall"})
    lab.domain["catchall"] = "reception"
    lab.domain["aliases"][0]["name"] = "catchall"
    lab.settle()
    lab.run(remove=True)
    written = [model for model, method, _ in lab.odoo.writes if method == "write"]
    assert written.index("crm.team") < written.index("ir.config_parameter")


def test_a_run_that_was_cut_off_is_removed_too(lab: Lab) -> None:
    before = snapshot(lab.odoo)
    lab.odoo.complaints["ir.actions.server"] = "The server is going down"
    lab.run()
    lab.odoo.complaints.clear()
    assert lab.run(remove=True).problems == []
    assert snapshot(lab.odoo) == before


def test_what_others_made_in_our_domain_is_no_obstacle(lab: Lab) -> None:
    lab.settle()
    domain = lab.odoo.one("mail.alias.domain")
    lab.odoo.models["mail.alias"][9] = {"id": 9, **lab.odoo._alias("later"), "alias_domain_id": [domain["id"], "x"]}
    assert "odoo_databases[prod].aliases.alias_domain_id: example.com -> none" in lab.lines(remove=True)
    assert lab.odoo.models["mail.alias"][9]["alias_domain_id"] is False


def test_what_is_gone_is_not_brought_back(lab: Lab) -> None:
    lab.settle()
    del lab.odoo.models["crm.team"][1]
    lab.odoo.models["fetchmail.server"].clear()
    assert lab.run(remove=True).problems == []
    assert lab.odoo.records("crm.team") == []


def test_a_removal_that_odoo_refuses_is_completed_by_the_next_one(lab: Lab) -> None:
    before = snapshot(lab.odoo)
    lab.settle()
    lab.odoo.complaints["unlink"] = "Not now"
    assert "Not now" in lab.run(remove=True).problems[0]
    assert (lab.secrets / "gateway-prod").exists()
    del lab.odoo.complaints["unlink"]
    assert lab.run(remove=True).problems == []
    assert snapshot(lab.odoo) == before


def test_lost_notes_still_cover_what_has_our_name(lab: Lab) -> None:
    lab.settle()
    (notes,) = [row["id"] for row in lab.odoo.records("ir.config_parameter") if row["key"] == "mailroom.before"]
    del lab.odoo.models["ir.config_parameter"][notes]
    assert lab.lines() == ["odoo_databases[prod].parameter mailroom.before: none -> new"]
    lab.run(remove=True)
    left = {model: lab.odoo.records(model) for model in ("ir.mail_server", "res.users", "res.partner", "res.groups")}
    assert not any(left.values()), left


@pytest.mark.parametrize("remove", [False, True])
def test_damaged_notes_stop_everything(lab: Lab, remove: bool) -> None:
    lab.odoo.create("ir.config_parameter", {"key": "mailroom.before", "value": '{"made": 5}'})
    (problem,) = lab.run(remove=remove).problems
    assert problem.startswith("odoo_databases[prod]: Odoo's system parameter mailroom.before is damaged: ")
    assert lab.odoo.writes == []


# The key


def test_the_key_is_kept_where_only_its_owner_can_read_it(lab: Lab) -> None:
    lab.settle()
    assert lab.key() == lab.odoo.keys[0]
    assert (lab.secrets / "gateway-prod").stat().st_mode & 0o777 == 0o600
    assert lab.secrets.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in lab.secrets.iterdir()] == ["gateway-prod"]


def test_a_key_that_works_is_kept(lab: Lab) -> None:
    lab.settle()
    key = lab.key()
    lab.run()
    assert (lab.key(), lab.odoo.keys) == (key, [key])


@pytest.mark.parametrize("major", [14, 19])
def test_a_key_that_is_refused_is_made_again(make_lab: MakeLab, major: int) -> None:
    lab = make_lab(major)
    lab.settle()
    lab.odoo.keys = ["somebody-elses"]
    foretold = lab.run(check_mode=True)
    assert lab.odoo.keys == ["somebody-elses"]
    database = lab.run()
    assert [change.line() for change in database.changes] == ["odoo_databases[prod].gateway key: ******** -> ********"]
    assert foretold.changes == database.changes
    assert lab.key() == lab.odoo.keys[0]


@pytest.mark.parametrize("major", [14, 19])
def test_a_renewed_key_works_beside_the_former_one_until_that_is_retired(make_lab: MakeLab, major: int) -> None:
    lab = make_lab(major)
    lab.settle()
    former = lab.key()
    foretold = lab.run(check_mode=True, gateway_key="renew")
    assert (lab.key(), lab.odoo.keys) == (former, [former])
    renewed = lab.run(gateway_key="renew")
    assert renewed.problems == []
    assert renewed.changes == foretold.changes
    assert lab.odoo.keys == [former, lab.key()]
    retired = lab.run(gateway_key="retire")
    assert [change.line() for change in retired.changes] == ["odoo_databases[prod].gateway keys: 2 -> 1"]
    assert lab.odoo.keys == [lab.key()]
    assert lab.run(gateway_key="retire").changes == []


def test_no_key_is_retired_unless_the_kept_one_works(lab: Lab) -> None:
    lab.settle()
    lab.odoo.keys = ["former", "somebody-elses"]
    database = lab.run(gateway_key="retire")
    assert "does not work, so the former ones stay" in database.problems[0]
    assert lab.odoo.keys == ["former", "somebody-elses"]


def test_the_action_that_makes_the_key_is_the_administrators_and_does_not_stay(lab: Lab) -> None:
    lab.settle()
    made = [values for model, method, values in lab.odoo.writes if (model, method) == ("ir.actions.server", "create")]
    assert [values["group_ids"] for values in made if "_generate(" in values["code"]] == [[[6, 0, [72]]]]
    assert [row["name"] for row in lab.odoo.records("ir.actions.server")] == ["Mailroom gateway"]


@VERSIONS
def test_the_key_does_not_expire_where_keys_can(make_lab: MakeLab, version: str) -> None:
    lab = make_lab(version)
    arguments = "('rpc', 'Mailroom', False)" if lab.odoo.shape.major >= 18 else "('rpc', 'Mailroom')"
    lab.settle()
    assert f"._generate{arguments}\n" in str([values for _, _, values in lab.odoo.writes]).replace("\\n", "\n")


def test_a_key_maker_left_over_by_a_crash_is_removed(lab: Lab) -> None:
    lab.odoo.create("ir.actions.server", {"name": "Mailroom: make the gateway's key", "state": "code", "code": "x"})
    lab.settle()
    assert [row["name"] for row in lab.odoo.records("ir.actions.server")] == ["Mailroom gateway"]


def test_a_run_that_was_interrupted_is_completed(lab: Lab) -> None:
    lab.odoo.complaints["ir.actions.server"] = "The server is going down"
    assert "The server is going down" in lab.run().problems[0]
    del lab.odoo.complaints["ir.actions.server"]
    lab.settle()
    assert len(lab.odoo.records("res.users")) == len(lab.odoo.records("ir.mail_server")) == 1
    assert lab.run().changes == []


# What is wrong


def test_all_that_can_be_seen_beforehand_is_said_before_anything_is_changed(lab: Lab) -> None:
    lab.domain["aliases"] = [
        {"name": "sales", "model": "crm.team", "record": "Nobody"},
        {"name": "jobs", "model": "hr.job", "record": "Cook"},
        {"name": "taken", "model": "project.project", "record": "Website"},
    ]
    lab.domain["companies"] = ["Elsewhere"]
    lab.odoo.models["mail.alias"][3]["alias_domain_id"] = [1, "example.com"]
    database = lab.run()
    place = "odoo_databases[prod].domains[example.com]"
    assert lab.odoo.writes == []
    assert database.problems == [
        f"{place}.companies: Odoo has no company 'Elsewhere': name one of My Company",
        f"{place}.aliases[sales].record: Odoo has no crm.team named 'Nobody': make it in Odoo, or correct it",
        f"{place}.aliases[jobs].model: records of hr.job cannot own an alias here (Odoo has no model hr.job): "
        "name another model",
        f"{place}.aliases[taken]: another record has this alias already (mail.alias 3): "
        "take it away there in Odoo, or choose another name",
    ]


@VERSIONS
@pytest.mark.parametrize("key", ["catchall", "bounce"])
def test_a_record_s_alias_is_no_name_for_what_comes_back(make_lab: MakeLab, version: str, key: str) -> None:
    lab = make_lab(version)
    lab.odoo.models["mail.alias"][3]["alias_name"] = "office"
    lab.domain[key] = "office"
    assert lab.run().problems == [
        f"odoo_databases[prod].domains[example.com].{key}: another record has this alias already (mail.alias 3): "
        "take it away there in Odoo, or choose another name"
    ]
    assert lab.odoo.writes == []


def test_aliases_without_a_domain_count_where_the_first_is_made(lab: Lab) -> None:
    lab.odoo.models["mail.alias"][3]["alias_name"] = "sales"
    (problem,) = lab.run().problems
    assert "aliases[sales]: another record has this alias already (mail.alias 3)" in problem
    lab.odoo.create("mail.alias.domain", {"name": "example.net", "catchall_alias": "c", "bounce_alias": "b"})
    lab.settle()


def test_an_alias_of_another_domain_is_free_here(lab: Lab) -> None:
    lab.odoo.models["mail.alias"][3].update(alias_name="sales", alias_domain_id=[9, "example.net"])
    lab.settle()


@pytest.mark.parametrize(
    ("company", "domains", "told"),
    [
        ("Sister", ["sister.example"], True),
        ("Sister", [], False),  # it gets the first domain
        ("My Company", ["sister.example"], False),
        (False, ["sister.example"], False),
    ],
)
def test_the_owner_of_an_alias_is_of_a_company_of_its_domain(
    lab: Lab, company: str | bool, domains: list[str], told: bool
) -> None:
    lab.odoo.models["res.company"][2] = {"id": 2, "name": "Sister", "alias_domain_id": False, "email": False}
    lab.odoo.models["crm.team"][1]["company_id"] = company and [2, company]
    lab.more_domains = [{"name": name, "companies": ["Sister"]} for name in domains]
    line = (
        "odoo_databases[prod].domains[example.com].aliases[sales]: 'Sales' is the company Sister's, whose domain is "
        "sister.example: list the alias there, or the company under companies of example.com"
    )
    assert lab.run().problems == [line] * told
    assert bool(lab.odoo.writes) != told


def test_two_owners_of_one_name_are_not_guessed_between(lab: Lab) -> None:
    lab.odoo.models["crm.team"][2] = {**lab.odoo.models["crm.team"][1], "id": 2}
    assert "Odoo has 2 crm.team named 'Sales': rename all but one" in lab.run().problems[0]


def test_odoo_14_has_one_domain(make_lab: MakeLab) -> None:
    lab = make_lab(14)
    lab.more_domains = [{"name": "example.net"}]
    assert lab.run().problems == [
        "odoo_databases[prod].domains: Odoo 14 has one alias domain for everything: "
        "keep one domain, or upgrade to Odoo 17"
    ]


def test_a_value_that_odoo_does_not_keep_is_told(lab: Lab) -> None:
    lab.domain["catchall"] = "front desk"
    assert lab.run().problems == [
        "odoo_databases[prod].domains[example.com].catchall_alias: Odoo keeps 'front-desk': write it like that"
    ]


def test_what_odoo_refuses_is_told_and_the_rest_is_done(lab: Lab) -> None:
    lab.odoo.complaints["crm.team"] = "That alias is\nin use."
    database = lab.run()
    assert database.problems == [
        "odoo_databases[prod].domains[example.com].aliases[sales]: That alias is in use.: "
        "correct it in Odoo or in the inventory, then run again"
    ]
    assert lab.odoo.one("project.project")["alias_name"] == "projects"


def test_a_failing_test_says_what_odoo_said_and_what_to_do(lab: Lab) -> None:
    lab.odoo.complaints["test_smtp_connection"] = "An SSL exception occurred.\n CERTIFICATE_VERIFY_FAILED"
    database = lab.run()
    assert database.tests == {"smtp": "failed", "imap": "passed"}
    assert database.problems == [
        f"odoo_databases[prod].outgoing server {HOST}: Odoo's Test Connection says: An SSL exception occurred. "
        f"CERTIFICATE_VERIFY_FAILED: Odoo's machine must trust the authority of {HOST}'s certificate: list it under "
        "odoo_hosts in the inventory, or add the authority to its system's trust store"
    ]


@pytest.mark.parametrize(
    ("method", "button"),
    [("test_smtp_connection", "Test Connection"), ("button_confirm_login", "Test & Confirm")],
)
def test_an_odoo_that_goes_away_has_not_failed_its_test(
    lab: Lab, method: str, button: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = lab.odoo.execute

    def die(model: str, name: str, *arguments: Any) -> Any:
        if name == method:
            raise ConnectionAbortedError
        return execute(model, name, *arguments)

    monkeypatch.setattr(lab.odoo, "execute", die)
    database = lab.run()
    assert "failed" not in database.tests.values()
    assert database.problems == [
        f"odoo_databases[prod].url: no answer to Odoo's {button} of {HOST}: {lab.url} does not answer (connection "
        "closed): check the address and that Odoo runs there"
    ]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Connection Test Failed! (535, b'5.7.8 Error: authentication failed')", "--tags dovecot"),
        ("No response received. Check server address and port number. timed out", "reachable from Odoo's machine"),
        ("The server refused the sender address (x@example.com) with error b'5.7.1'", "see the mail log"),
        (
            "The server refused the test recipient (noreply@odoo.com) with error b'5.7.1 <a@example.com>: "
            "Sender address rejected: not owned by user second'",
            "an e-mail address in one of its domains",
        ),
        ("Invalid server name ! Codepoint U+005F at position 5 of 'my_db' not allowed", "give Odoo's as database"),
    ],
)
def test_each_complaint_has_its_remedy(said: str, advice: str) -> None:
    assert advice in remedy(said, HOST)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("(535, b'5.7.139 Authentication unsuccessful')", "Gmail wants an app password"),
        ("An SSL exception occurred.", "add it to its system's trust store"),
        ("The server refused the sender address", "lets this login send for the domain"),
    ],
)
def test_a_provider_s_complaint_has_another(said: str, advice: str) -> None:
    assert advice in remedy(said, "smtp.provider.example", ours=False)


@VERSIONS
def test_a_provider_s_servers_are_set_up_like_ours(make_lab: MakeLab, version: str) -> None:
    lab = make_lab(version)
    lab.more = {"provider": {"preset": "gmail", "login": "odoo@example.com", "password": "app"}}
    database = lab.run()
    outgoing, incoming = lab.odoo.one("ir.mail_server"), lab.odoo.one("fetchmail.server")
    assert database.problems == []
    assert database.tests == {"smtp": "passed", "imap": "passed"}
    assert {key: outgoing[key] for key in ("name", "smtp_host", "smtp_port", "smtp_user", "smtp_pass")} == {
        "name": "Mailroom smtp.gmail.com",
        "smtp_host": "smtp.gmail.com",
        "smtp_port": 465,
        "smtp_user": "odoo@example.com",
        "smtp_pass": "app",
    }
    assert (incoming["server"], incoming["port"], incoming["active"]) == ("imap.gmail.com", 993, False)
    assert lab.lines() == []


# Sending by OAuth

OAUTH = {"client_id": "me", "client_secret": "hush", "refresh_token": "granted"}
BY_OAUTH = pytest.mark.parametrize("version", [version for version in odoo_shapes.VERSIONS if version != "14"])


def at(preset: str, **more: Any) -> dict[str, Any]:
    return {"provider": {"preset": preset, "login": "odoo@example.com", "oauth": {**OAUTH, **more}}}


@BY_OAUTH
@pytest.mark.parametrize(("preset", "prefix"), [("gmail", "google_gmail"), ("microsoft365", "microsoft_outlook")])
def test_odoo_sends_by_oauth(make_lab: MakeLab, version: str, preset: str, prefix: str) -> None:
    lab = make_lab(version)
    lab.install_oauth()
    lab.more = at(preset)
    first = lab.run()
    assert first.problems == []
    assert first.tests == {"smtp": "passed", "imap": "skipped"}
    server = lab.odoo.one("ir.mail_server")
    assert server.items() >= {f"{prefix}_refresh_token": "granted", f"{prefix}_access_token_expiration": 0}.items()
    assert (server["smtp_port"], server["smtp_encryption"], server["smtp_pass"]) == (587, "starttls", False)
    assert lab.odoo.by_token(server) == ("gmail" if preset == "gmail" else "outlook")
    endpoint = {"microsoft_outlook.endpoint": "https://login.microsoftonline.com/example.com/oauth2/v2.0/"}
    assert (
        lab.parameters().items()
        >= {
            f"{prefix}_client_id": "me",
            f"{prefix}_client_secret": "hush",
            **(endpoint if preset == "microsoft365" else {}),
        }.items()
    )

    server |= {
        f"{prefix}_refresh_token": "renewed",
        f"{prefix}_access_token": "a",
        f"{prefix}_access_token_expiration": 9,
    }

    second = lab.run()
    assert (second.problems, second.changes, lab.odoo.writes) == ([], [], [])


@pytest.mark.parametrize("change", [{"refresh_token": "again"}, {"client_id": "other", "refresh_token": "again"}])
def test_who_authorises_again_is_heard(lab: Lab, change: dict[str, str]) -> None:
    lab.more = at("microsoft365")
    lab.settle()
    lab.odoo.one("ir.mail_server")["microsoft_outlook_access_token_expiration"] = 9
    lab.more = at("microsoft365", **change)
    assert lab.lines(check_mode=True) == lab.lines()
    server = lab.odoo.one("ir.mail_server")
    assert server["microsoft_outlook_refresh_token"] == "again"
    assert server["microsoft_outlook_access_token_expiration"] == 0  # the former token's access token is not used
    assert lab.lines() == []


def test_a_token_that_is_gone_is_given_again(lab: Lab) -> None:
    lab.more = at("gmail")
    lab.settle()
    lab.odoo.one("ir.mail_server")["google_gmail_refresh_token"] = False
    assert lab.lines() == [
        "odoo_databases[prod].outgoing server smtp.gmail.com.google_gmail_refresh_token: none -> ********"
    ]


def test_a_token_that_odoo_did_not_take_is_given_again(lab: Lab) -> None:
    lab.more = at("gmail")
    lab.settle()
    lab.more = at("gmail", refresh_token="again")
    lab.odoo.complaints["ir.mail_server"] = "The server is going down"
    assert len(lab.run().problems) == 1
    lab.odoo.complaints.clear()
    assert lab.run().problems == []
    assert lab.odoo.one("ir.mail_server")["google_gmail_refresh_token"] == "again"


@BY_OAUTH
def test_a_password_takes_the_place_of_oauth(make_lab: MakeLab, version: str) -> None:
    lab = make_lab(version)
    lab.install_oauth()
    lab.more = at("gmail")
    lab.settle()
    lab.more["provider"]["smtp"] = {"password": "app"}
    lab.settle()
    server = lab.odoo.one("ir.mail_server")
    assert (server["smtp_pass"], server["google_gmail_refresh_token"]) == ("app", False)
    assert lab.odoo.by_token(server) == ""
    assert lab.lines() == []


def test_a_server_for_mass_mailings_at_the_same_host_has_the_same_token(lab: Lab) -> None:
    lab.install_mass_mailing()
    lab.more = at("gmail")
    lab.settle()
    lab.more |= {"mass_mailing_server": {"host": "smtp.gmail.com"}}
    lab.settle()
    assert [row["google_gmail_refresh_token"] for row in lab.odoo.records("ir.mail_server")] == ["granted"] * 2
    assert lab.lines() == []
    lab.more["mass_mailing_server"] |= {"login": "news@example.com", "password": "app"}
    lab.settle()
    assert [lab.odoo.by_token(row) for row in lab.odoo.records("ir.mail_server")] == ["gmail", ""]
    assert [row["google_gmail_refresh_token"] for row in lab.odoo.records("ir.mail_server")] == ["granted", False]
    assert lab.lines() == []


@pytest.mark.parametrize("version", ["14", "14-late", "16"])
def test_an_odoo_without_the_module_is_told_before_anything_is_changed(make_lab: MakeLab, version: str) -> None:
    lab = make_lab(version)
    lab.more = at("microsoft365")
    assert lab.run().problems == [
        f"odoo_databases[prod].provider.oauth: this Odoo {lab.odoo.major} does not send by OAuth: install its module "
        "Outlook (microsoft_outlook), which early builds of 14 lack, or give smtp a password, a relay's for instance"
    ]
    assert lab.odoo.writes == []


def test_servers_that_others_have_connected_keep_their_application(lab: Lab) -> None:
    lab.odoo.create("ir.config_parameter", {"key": "google_gmail_client_id", "value": "theirs"})
    values = {"name": "Anna", "smtp_user": "a@example.com", "smtp_encryption": "starttls"}
    lab.odoo.create("ir.mail_server", {**values, "google_gmail_refresh_token": "x"})
    lab.more = at("gmail")
    assert lab.run().problems == [
        "odoo_databases[prod].outgoing server Anna: it is connected by the application theirs, and Odoo can have one "
        "only: authorise by that one, or archive it in Odoo"
    ]
    assert lab.odoo.writes == []
    lab.odoo.one("ir.mail_server")["active"] = False
    lab.settle()


@BY_OAUTH
def test_removal_gives_back_the_application_of_before(make_lab: MakeLab, version: str) -> None:
    lab = make_lab(version)
    lab.install_oauth()
    lab.odoo.create("ir.config_parameter", {"key": "microsoft_outlook_client_secret", "value": "former-hush"})
    before = snapshot(lab.odoo)
    lab.more = at("microsoft365")
    told = lab.lines()
    foretold = lab.lines(check_mode=True, remove=True)
    assert lab.lines(remove=True) == foretold
    assert snapshot(lab.odoo) == before
    text = "".join(told + foretold)
    assert not [secret for secret in ("hush", "granted") if secret in text.replace("oauth_granted", "")]
    assert "parameter microsoft_outlook_client_secret.value: ******** -> ********" in text


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("An error occurred when fetching the access token. AADSTS700082: expired", "have a person authorise again"),
        ("refused the sender address (a@example.com) with error b'5.7.57 Client not authenticated'", "right to send"),
        ("refused the sender address (a@example.com) with error b'5.5.1 Authentication Required'", "right to send"),
        ("Server replied with following exception: (535, b'5.7.3')", "right to send"),
        ("HTTPSConnectionPool(host='x', port=443): certificate verify failed", "reach that over https and trust its"),
        ("No response received.", "see whether smtp.example is the provider's server"),
    ],
)
def test_a_complaint_about_oauth_has_its_remedy(said: str, advice: str) -> None:
    assert advice in remedy(said, "smtp.example", ours=False, oauth=True)


def test_what_takes_a_browser_is_left_to_people(lab: Lab) -> None:
    oauth = {"client_id": "me", "refresh_token": "granted"}
    smtp = {"login": "apikey", "password": "relay", "host": "smtp.relay.example", "tls": "starttls"}
    lab.more = {"provider": {"preset": "microsoft365", "login": "odoo@example.com", "oauth": oauth, "smtp": smtp}}
    assert lab.run().tests == {"smtp": "passed", "imap": "skipped"}
    assert lab.odoo.one("ir.mail_server")["smtp_encryption"].startswith("starttls")
    assert lab.odoo.records("fetchmail.server") == []


def test_a_wrong_login_is_told_without_the_password(lab: Lab) -> None:
    lab.login = "nobody"
    database = lab.run()
    assert database.problems == [
        "odoo_databases[prod].login: Odoo refuses the login 'nobody': check login and password"
    ]
    assert PASSWORD not in str(database.problems)


def test_an_odoo_that_is_away_is_told(lab: Lab) -> None:
    lab.url = "http://127.0.0.1:9"
    assert "does not answer (connection refused)" in lab.run().problems[0]


def test_a_password_is_not_sent_unencrypted(lab: Lab) -> None:
    lab.url = "http://odoo.example.com"
    assert "use https://" in lab.run().problems[0]


def test_no_secret_is_shown(lab: Lab) -> None:
    database = lab.run()
    text = "".join(change.line() for change in database.changes)
    assert not [secret for secret in (PASSWORD, MAILBOX_PASSWORD, lab.key()) if secret in text]
    lab.odoo.one("ir.mail_server")["smtp_pass"] = "changed-by-hand"
    assert lab.lines() == [f"odoo_databases[prod].outgoing server {HOST}.smtp_pass: ******** -> ********"]


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("smtp_pass", "secret", "********"),
        ("password", False, "none"),
        ("alias_domain_id", [3, "example.com"], "example.com"),
        ("alias_name", False, "none"),
        ("code", "a\nb", "2 lines"),
        ("group_ids", [1, 2], "1, 2"),
    ],
)
def test_values_are_shown_for_people(field: str, value: Any, shown: str) -> None:
    assert show(field, value) == shown


# The gateway action's code, as far as it can be judged outside Odoo; tests/hosts has the rest


def code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_objects(constant)


def test_the_action_keeps_to_what_safe_eval_allows() -> None:
    forbidden = (
        ast.Import,
        ast.ImportFrom,
        ast.With,
        ast.ClassDef,
        ast.Global,
        ast.Nonlocal,
        ast.JoinedStr,
        ast.Assert,
    )
    tree = ast.parse(CODE)
    assert not [node for node in ast.walk(tree) if isinstance(node, forbidden)]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)]  # stores __annotations__
    for code in code_objects(compile(CODE, "gateway action", "exec")):
        assert not [name for name in code.co_names if "__" in name]
        assert not code.co_freevars, f"{code.co_name} is a closure"
        assert "STORE_ATTR" not in {instruction.opname for instruction in dis.get_instructions(code)}


def test_the_action_uses_only_the_builtins_that_odoo_gives() -> None:
    # odoo/tools/safe_eval.py, _BUILTINS, of 14 and 19 alike, and what server actions get besides
    given = {"bytes", "str", "bool", "dict", "list", "enumerate", "repr", "isinstance", "Exception", "sorted", "len"}
    given |= {"zip", "chr", "int", "tuple", "range", "env", "b64decode", "UserError"}
    tree = ast.parse(CODE)
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    stored |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    stored |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    stored |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert loaded - stored <= given
