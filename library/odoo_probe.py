#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ask every Odoo database, all at once and without changing anything, what a run has to know before it starts."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from module_utils.odoo_rpc import Odoo, OdooError
else:
    from ansible.module_utils.odoo_rpc import Odoo, OdooError

DOCUMENTATION = r"""
module: odoo_probe
short_description: Ask Odoo databases what a run has to know before it starts
description:
  - Runs on the control node. Asks each database, four of each Odoo at the same time, for its version, whether the login
    is accepted and is a Settings administrator, which catchall and bounce names it uses, and whether the records that
    are to have business aliases exist. Changes nothing.
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
      database:
        description: What Odoo calls it; by default the same.
        type: str
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
    description:
      - Seconds that one database has for all of its answers, from its turn on. The first, for which Odoo opens no
        database, must come within 10.
    type: int
    default: 30
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
  sample: ["odoo_databases[prod].name: Odoo has no database 'prod': check the name"]
"""

FORMER_NAMES = "mailroom.former_names"  # our own system parameter: JSON {domain: [local parts]}
# Before Odoo 17 a database's one alias domain is three system parameters.
PARAMETERS = ("mail.catchall.domain", "mail.catchall.alias", "mail.bounce.alias")
OLDEST_MAJOR = 14
CANDIDATES = 5
FIRST_ANSWER = 10  # seconds; Odoo tells its version without opening a database, so that silence is not work
AT_ONCE = 4  # databases of one Odoo, which has a process or two for each core: more would only wait, and time out


def is_online(url: str) -> bool:
    """Whether a URL is an Odoo Online address, which is never contacted."""
    return (urllib.parse.urlsplit(url).hostname or "").endswith(".odoo.com")


def names_in_use(odoo: Odoo, has_records: bool, parameters: Mapping[str, str]) -> dict[str, set[str]]:
    """Today's catchall and bounce names in Odoo, by domain. Raises OdooError."""
    fields = ("name", "catchall_alias", "bounce_alias")
    if has_records:
        rows = odoo.search_read("mail.alias.domain", [], fields)
    else:
        rows = [dict(zip(fields, map(parameters.get, PARAMETERS), strict=True))]
    return {row["name"]: {name for name in (row["catchall_alias"], row["bounce_alias"]) if name} for row in rows}


def recorded_names(parameters: Mapping[str, str]) -> dict[str, set[str]]:
    """The names an earlier run has recorded in Odoo, by domain. Raises OdooError when the record is not ours."""
    try:
        recorded = json.loads(parameters.get(FORMER_NAMES) or "{}")
        return {str(domain): {str(name) for name in names} for domain, names in recorded.items()}
    except (ValueError, TypeError, AttributeError) as error:
        cure = 'correct it to {"domain": ["name"]}, or delete it'
        raise OdooError(f"Odoo's system parameter {FORMER_NAMES} is damaged", cure) from error


def former_names(domains: Sequence[Mapping[str, Any]], *sources: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """For each domain of the inventory the names that `sources` know and the inventory uses for nothing, sorted."""
    former: dict[str, list[str]] = {}
    for domain in domains:
        used = {domain.get("catchall", "catchall"), domain.get("bounce", "bounce")}
        used |= {entry["name"] for key in ("aliases", "people") for entry in domain.get(key) or []}
        known = {name.lower() for source in sources for name in source.get(domain["name"], set())}
        former[domain["name"]] = sorted(known - {name.lower() for name in used})
    return former


def wanted_aliases(domains: Sequence[Mapping[str, Any]], where: str) -> dict[str, list[tuple[str, str]]]:
    """The business aliases of all domains by model, each as (its place in the inventory, name of the owner record)."""
    wanted: dict[str, list[tuple[str, str]]] = {}
    for domain in domains:
        for alias in domain.get("aliases") or []:
            place = f"{where}.domains[{domain['name']}].aliases[{alias['name']}]"
            wanted.setdefault(alias["model"], []).append((place, alias["record"]))
    return wanted


def alias_problems(
    odoo: Odoo, model: str, aliases: Sequence[tuple[str, str]], fields: frozenset[tuple[str, str]]
) -> list[str]:
    """One line for each alias of a model whose owner record is not there, or not clear, or cannot have an alias."""
    if (model, "id") not in fields:
        return [
            f"{place}.model: Odoo has no model {model}: install its app, or correct the name" for place, _ in aliases
        ]
    if (model, "alias_name") not in fields:
        return [f"{place}.model: records of {model} have no e-mail alias: name another model" for place, _ in aliases]
    names = sorted({record for _, record in aliases})
    try:
        found = [row["name"] for row in odoo.search_read(model, [["name", "in", names]], ["name"], context={})]
        others: list[str] = []
        if not set(names) <= set(found):
            rows = odoo.search_read(model, [], ["name"], limit=CANDIDATES, context={})
            others = [repr(row["name"]) for row in rows]
    except OdooError as error:
        if error.kind != "rights":
            raise
        return [f"{place}.model: {error}: {error.cure}" for place, _ in aliases]
    problems = []
    for place, record in aliases:
        if (count := found.count(record)) > 1:
            problems.append(f"{place}.record: {count} records of {model} are named {record!r}: rename all but one")
        if not count:
            cure = f"name one of {', '.join(others)}, or make it in Odoo" if others else "make it in Odoo"
            problems.append(f"{place}.record: Odoo has no {model} named {record!r}: {cure}")
    return problems


def ask(database: Mapping[str, Any], seconds: int) -> tuple[dict[str, Any], list[str]]:
    """Ask one database. Returns what RETURN describes under `databases`, empty when it cannot be used, and problems."""
    where, url = f"odoo_databases[{database['name']}]", str(database["url"])
    if is_online(url):
        return {}, []
    try:
        deadline = time.monotonic() + seconds
        with contextlib.closing(Odoo.of(database, min(seconds, FIRST_ANSWER))) as odoo:
            if odoo.version() < OLDEST_MAJOR:
                text, cure = f"{url} is Odoo {odoo.series()}", f"upgrade it to {OLDEST_MAJOR} or later"
                raise OdooError(text, cure, "url")
            odoo.timeout, odoo.deadline = seconds, deadline
            odoo.log_in(str(database["login"]), str(database["password"]))
            keys = [*PARAMETERS, FORMER_NAMES]
            rows = odoo.search_read("ir.config_parameter", [["key", "in", keys]], ["key", "value"])
            parameters = {row["key"]: row["value"] for row in rows}
            domains = database.get("domains") or []
            aliases = wanted_aliases(domains, where)
            fields = odoo.fields({**dict.fromkeys(aliases, ("id", "alias_name")), "mail.alias.domain": ["name"]})
            in_use = names_in_use(odoo, ("mail.alias.domain", "name") in fields, parameters)
            told = {"version": odoo.series(), "former": former_names(domains, recorded_names(parameters), in_use)}
            return told, [line for model in aliases for line in alias_problems(odoo, model, aliases[model], fields)]
    except OdooError as error:
        return {}, [error.line(where)]


def ask_all(databases: Sequence[Mapping[str, Any]], seconds: int) -> tuple[dict[str, Any], list[str]]:
    """Ask all databases side by side. Returns RETURN's `databases` and `problems`, in the order given."""
    turns = {database["url"]: threading.Semaphore(AT_ONCE) for database in databases}

    def ask_in_turn(database: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        with turns[database["url"]]:
            return ask(database, seconds)

    with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, len(databases))) as pool:
        answers = list(pool.map(ask_in_turn, databases))
    told = {str(database["name"]): answer for database, (answer, _) in zip(databases, answers, strict=True) if answer}
    return told, [problem for _, problems in answers for problem in problems]


def main() -> None:
    """Run as an Ansible module."""
    options = {
        "name": {"type": "str", "required": True},
        "database": {"type": "str"},
        "url": {"type": "str", "required": True},
        "login": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
        "ca_file": {"type": "str"},
        "domains": {"type": "list", "elements": "dict", "default": []},
    }
    module = AnsibleModule(
        {
            "databases": {"type": "list", "elements": "dict", "required": True, "options": options},
            "timeout": {"type": "int", "default": 30},
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
