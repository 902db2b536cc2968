#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ask every Odoo database, all at once and without changing anything, what a run has to know before it starts."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import http.client
import ipaddress
import json
import re
import socket
import ssl
import time
import urllib.parse
import xml.parsers.expat
import xmlrpc.client
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: odoo_probe
short_description: Ask Odoo databases what a run has to know before it starts
description:
  - Runs on the control node. Asks each database over XML-RPC, all of them at the same time, for its version, whether
    the login is accepted and is a Settings administrator, which catchall and bounce names it uses, and whether the
    records that are to have business aliases exist. Changes nothing.
  - What is wrong comes back as one line each, not as a failure, so that it can be shown together with other problems.
  - The server's certificate is always verified. Plain http is only for an Odoo on the control node itself.
  - Odoo Online (C(*.odoo.com)) is never contacted.
options:
  databases:
    description: The databases as in C(odoo_databases).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the database.
        type: str
        required: true
      url:
        description: Odoo's address, C(https://host[:port]).
        type: str
        required: true
      login:
        description: Login of a Settings administrator.
        type: str
        required: true
      password:
        description: The password, or an API key.
        type: str
        required: true
      ca_file:
        description: PEM file on the control node with the authority of Odoo's certificate; by default the system's.
        type: str
      domains:
        description: The alias domains, each with O(databases[].name), catchall, bounce, aliases and people.
        type: list
        elements: dict
        default: []
  timeout:
    description: Seconds that one database has for all of its answers.
    type: int
    default: 10
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: Mailroom contributors
"""

EXAMPLES = r"""
- name: Ask Odoo
  odoo_probe:
    databases: "{{ odoo_databases }}"
  delegate_to: localhost
  run_once: true
  no_log: "{{ example_no_log }}"
  register: __example_odoo
"""

RETURN = r"""
databases:
  description: What each database that answered said, by its name.
  returned: always
  type: dict
  contains:
    version:
      description: Odoo's series.
      type: str
      sample: "19.0"
    former:
      description:
        - For each domain the local parts that Odoo uses or has used as catchall or bounce and the inventory no longer
          uses for anything.
      type: dict
      sample: {example.com: [catchall]}
problems:
  description: What is wrong, one line each - which variable, what, what to do.
  returned: always
  type: list
  elements: str
  sample: ["odoo_databases[prod].url: https://192.0.2.69 does not answer (connection refused): is Odoo running there?"]
"""

FORMER_NAMES = "mailroom.former_names"  # our own system parameter: JSON {domain: [local parts]}
OLDEST_MAJOR = 14
CANDIDATES = 5
STRANGER = "does not answer like Odoo: check the address"
LONGEST_ANSWER = 8 << 20  # bytes; a real one has a few thousand
# Codes of Odoo's faults, odoo/addons/base/controllers/rpc.py (19: addons/rpc/controllers/xmlrpc.py).
FAULT_ACCESS_DENIED, FAULT_ACCESS_ERROR = 3, 4


class Problem(Exception):
    """What keeps a database from being used; the text is one line: variable, what, what to do."""


@dataclasses.dataclass
class Odoo:
    """XML-RPC calls to one Odoo over one verified connection, all of them before `deadline` (time.monotonic())."""

    connection: http.client.HTTPConnection
    seconds: int
    deadline: float

    @classmethod
    def at(cls, url: str, ca_file: str | None, seconds: int) -> Odoo:
        """Prepare, not open, a connection. Raises ValueError for a URL that must not be used, OSError for a CA file."""
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        deadline = time.monotonic() + seconds
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=ca_file)
            return cls(http.client.HTTPSConnection(host, parts.port, context=context), seconds, deadline)
        if parts.scheme == "http" and is_loopback(host):
            return cls(http.client.HTTPConnection(host, parts.port), seconds, deadline)
        raise ValueError(f"{url} would send the password unencrypted: use https://")

    def call(self, service: str, method: str, *arguments: Any) -> Any:
        """Call one method of the services `common` or `object`. Raises xmlrpc.client.Fault, OSError, ValueError."""
        body = xmlrpc.client.dumps(arguments, method).encode()
        self._hurry()
        self.connection.request("POST", f"/xmlrpc/2/{service}", body, {"Content-Type": "text/xml"})
        response = self.connection.getresponse()
        if 300 <= response.status < 400:
            raise ValueError(f"redirects to {response.headers.get('Location')}: give the address where it ends")
        if response.status != 200:
            raise ValueError(f"answers HTTP {response.status} {response.reason}: is Odoo up, with its module rpc?")
        answer = b""
        while chunk := response.read1(1 << 16):
            answer += chunk
            if len(answer) > LONGEST_ANSWER:
                raise ValueError("answers without end: is this Odoo?")
            self._hurry()
        response.close()  # read1 leaves a finished answer open, and the connection could not be used again
        try:
            values, _ = xmlrpc.client.loads(answer)
        except (xml.parsers.expat.ExpatError, xmlrpc.client.ResponseError, ValueError) as error:
            raise ValueError(STRANGER) from error
        return values[0]

    def _hurry(self) -> None:
        """Give the next step on the socket no more than the time that is left."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.timeout = left
        if self.connection.sock is not None:
            self.connection.sock.settimeout(left)


@dataclasses.dataclass(frozen=True)
class Session:
    """A database we are logged in to."""

    odoo: Odoo
    database: str
    uid: int
    password: str

    def search_read(self, model: str, domain: Sequence[Any], fields: Sequence[str], limit: int = 0) -> list[Any]:
        """Records of a model as dicts. Raises what Odoo.call raises."""
        options = {"fields": list(fields), "limit": limit} if limit else {"fields": list(fields)}
        arguments = (self.database, self.uid, self.password, model, "search_read", [list(domain)], options)
        return list(self.odoo.call("object", "execute_kw", *arguments))


def is_loopback(host: str) -> bool:
    """Whether a host name or address of a URL can only be this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_online(url: str) -> bool:
    """Whether a URL is an Odoo Online address, which is never contacted."""
    return (urllib.parse.urlsplit(url).hostname or "").endswith(".odoo.com")


def last_line(fault: xmlrpc.client.Fault) -> str:
    """What a fault says, on one line: Odoo sends a whole traceback, its last line is the message."""
    lines = [" ".join(line.split()) for line in str(fault.faultString).splitlines() if line.strip()]
    return lines[-1][:200] if lines else f"fault {fault.faultCode}"


def why(error: Exception, seconds: int) -> str:
    """Say in words, with the remedy, why an Odoo could not be asked."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        if "mismatch" in reason:
            return f"shows a certificate for another name ({reason.rstrip('.')}): use the name it is for"
        return f"shows a certificate that is not trusted ({reason}): name its authority's file in ca_file"
    if isinstance(error, ssl.SSLError):
        return f"does not speak TLS properly ({error.reason or error}): check the port"
    if isinstance(error, TimeoutError):
        return f"does not answer within {seconds} s: check the address, the firewall and that Odoo is not overloaded"
    if isinstance(error, socket.gaierror):
        return "has a host name without an address: check its spelling and the DNS of the control node"
    if isinstance(error, OSError):
        reason = (error.strerror or "connection closed").lower()
        return f"does not answer ({reason}): check the address and that Odoo runs there"
    if isinstance(error, http.client.HTTPException):
        return f"does not answer like Odoo ({type(error).__name__}): check the address"
    return str(error)


def log_in(odoo: Odoo, database: Mapping[str, Any], where: str) -> Session:
    """Log in to a database. Raises Problem, and what Odoo.call raises when Odoo cannot be reached."""
    name, login = str(database["name"]), str(database["login"])
    try:
        uid = odoo.call("common", "authenticate", name, login, str(database["password"]), {})
    except xmlrpc.client.Fault as fault:
        text = str(fault.faultString)
        if "does not exist" in text and "database" in text:
            raise Problem(f"{where}.name: Odoo has no database {name!r}: check the name") from fault
        if fault.faultCode != FAULT_ACCESS_DENIED:
            raise Problem(f"{where}: Odoo fails to log in ({last_line(fault)}): see Odoo's log") from fault
        uid = False
    if not isinstance(uid, int) or not uid:
        remedy = "check login and password (two-factor sign-in needs an API key as password)"
        raise Problem(f"{where}.login: Odoo refuses the login {login!r}: {remedy}")
    return Session(odoo, name, uid, str(database["password"]))


def read_parameters(session: Session, where: str) -> dict[str, str]:
    """The system parameters we need, by key. Raises Problem when the login is no administrator."""
    keys = ["mail.catchall.domain", "mail.catchall.alias", "mail.bounce.alias", FORMER_NAMES]
    try:
        rows = session.search_read("ir.config_parameter", [["key", "in", keys]], ["key", "value"])
    except xmlrpc.client.Fault as fault:
        if fault.faultCode == FAULT_ACCESS_ERROR:
            remedy = "use one with the access right Administration: Settings"
            raise Problem(f"{where}.login: the user is no Settings administrator: {remedy}") from fault
        raise
    return {row["key"]: row["value"] for row in rows}


def names_in_use(session: Session, major: int, parameters: Mapping[str, str]) -> dict[str, set[str]]:
    """Today's catchall and bounce names in Odoo, by domain: records from Odoo 17 on, system parameters before."""
    if major >= 17:
        rows = session.search_read("mail.alias.domain", [], ["name", "catchall_alias", "bounce_alias"])
    else:
        rows = [
            {
                "name": parameters.get("mail.catchall.domain"),
                "catchall_alias": parameters.get("mail.catchall.alias"),
                "bounce_alias": parameters.get("mail.bounce.alias"),
            }
        ]
    return {row["name"]: {name for name in (row["catchall_alias"], row["bounce_alias"]) if name} for row in rows}


def recorded_names(parameters: Mapping[str, str], where: str) -> dict[str, set[str]]:
    """The names an earlier run has recorded in Odoo, by domain. Raises Problem when the record is not ours."""
    try:
        recorded = json.loads(parameters.get(FORMER_NAMES) or "{}")
        return {str(domain): {str(name) for name in names} for domain, names in recorded.items()}
    except (ValueError, TypeError, AttributeError) as error:
        remedy = 'correct it to {"domain": ["name"]}, or delete it'
        raise Problem(f"{where}: Odoo's system parameter {FORMER_NAMES} is damaged: {remedy}") from error


def former_names(domains: Sequence[Mapping[str, Any]], *sources: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """For each domain of the inventory the names that `sources` know and the inventory uses for nothing, sorted."""
    former: dict[str, list[str]] = {}
    for domain in domains:
        used = {domain.get("catchall", "catchall"), domain.get("bounce", "bounce")}
        used |= {entry["name"] for key in ("aliases", "people") for entry in domain.get(key) or []}
        known = {name.lower() for source in sources for name in source.get(domain["name"], set())}
        former[domain["name"]] = sorted(known - {name.lower() for name in used})
    return former


def alias_problems(session: Session, domains: Sequence[Mapping[str, Any]], where: str) -> list[str]:
    """One line for each business alias whose owner record is not there, or not clear, or cannot have an alias."""
    wanted: dict[str, list[tuple[str, str]]] = {}
    for domain in domains:
        for alias in domain.get("aliases") or []:
            variable = f"{where}.domains[{domain['name']}].aliases[{alias['name']}]"
            wanted.setdefault(alias["model"], []).append((variable, alias["record"]))
    problems: list[str] = []
    for model, records in wanted.items():
        names = sorted({record for _, record in records})
        try:
            rows = session.search_read(model, [["name", "in", names]], ["name", "alias_name"])
        except xmlrpc.client.Fault as fault:
            text = last_line(fault)
            if "alias_name" in text:
                problem = f"records of {model} have no e-mail alias: name another model"
            elif "doesn't exist" in text:
                problem = f"Odoo has no model {model}: install its app, or correct the name"
            else:
                problem = f"Odoo does not let us read {model} ({text})"
            problems += [f"{variable}.model: {problem}" for variable, _ in records]
            continue
        found = [row["name"] for row in rows]
        for variable, record in records:
            if (count := found.count(record)) > 1:
                text = f"{count} records of {model} are named {record!r}: rename all but one"
                problems.append(f"{variable}.record: {text}")
            if not count:
                others = [repr(row["name"]) for row in session.search_read(model, [], ["name"], CANDIDATES)]
                remedy = f"name one of {', '.join(others)}, or make it in Odoo" if others else "make it in Odoo"
                problems.append(f"{variable}.record: Odoo has no {model} named {record!r}: {remedy}")
    return problems


def ask(database: Mapping[str, Any], seconds: int) -> tuple[dict[str, Any], list[str]]:
    """Ask one database. Returns what RETURN describes under `databases`, empty when it cannot be used, and problems."""
    where, url = f"odoo_databases[{database['name']}]", str(database["url"])
    if is_online(url):
        return {}, []
    try:
        odoo = Odoo.at(url, database.get("ca_file"), seconds)
    except ValueError as error:
        return {}, [f"{where}.url: {error}"]
    except ssl.SSLError:
        return {}, [f"{where}.ca_file: {database['ca_file']} holds no certificate: name a PEM file"]
    except OSError as error:
        return {}, [f"{where}.ca_file: {database['ca_file']}: {error.strerror}: name a PEM file on the control node"]
    try:
        version = str(odoo.call("common", "version")["server_serie"])
        major = int((re.findall(r"\d+", version) or ["0"])[0])
        if major < OLDEST_MAJOR:
            raise Problem(f"{where}.url: {url} is Odoo {version}: upgrade it to {OLDEST_MAJOR} or later")
        session = log_in(odoo, database, where)
        parameters = read_parameters(session, where)
        domains = database.get("domains") or []
        former = former_names(domains, recorded_names(parameters, where), names_in_use(session, major, parameters))
        return {"version": version, "former": former}, alias_problems(session, domains, where)
    except Problem as problem:
        return {}, [str(problem)]
    except xmlrpc.client.Fault as fault:
        return {}, [f"{where}: Odoo answers with an error ({last_line(fault)}): see Odoo's log"]
    except (OSError, ValueError, http.client.HTTPException) as error:
        return {}, [f"{where}.url: {url} {why(error, seconds)}"]
    except (LookupError, TypeError):  # it is XML-RPC, but not of the shape that Odoo's has
        return {}, [f"{where}.url: {url} {STRANGER}"]
    finally:
        odoo.connection.close()


def ask_all(databases: Sequence[Mapping[str, Any]], seconds: int) -> tuple[dict[str, Any], list[str]]:
    """Ask every database at the same time. Returns RETURN's `databases` and `problems`, in the order given."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, min(16, len(databases)))) as pool:
        answers = list(pool.map(lambda database: ask(database, seconds), databases))
    told = {str(database["name"]): answer for database, (answer, _) in zip(databases, answers, strict=True) if answer}
    return told, [problem for _, problems in answers for problem in problems]


def main() -> None:
    """Run as an Ansible module."""
    options = {
        "name": {"type": "str", "required": True},
        "url": {"type": "str", "required": True},
        "login": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
        "ca_file": {"type": "str"},
        "domains": {"type": "list", "elements": "dict", "default": []},
    }
    module = AnsibleModule(
        {
            "databases": {"type": "list", "elements": "dict", "required": True, "options": options},
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    # no_log has kept the passwords out of the control node's syslog; the answer has none, but it may well have the same
    # word in another place, a login, where it is not to be blanked.
    module.no_log_values.clear()
    databases, problems = ask_all(module.params["databases"], module.params["timeout"])
    module.exit_json(changed=False, databases=databases, problems=problems, invocation={"module_args": {}})


if __name__ == "__main__":
    main()
