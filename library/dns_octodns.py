#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Publish record sets through octoDNS, at a provider whose zones take no dynamic updates."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

MISSING = ""
if TYPE_CHECKING:
    from module_utils import dns_ledger, dns_outside, dns_plan, dns_world, dns_zone, octodns_files
else:
    try:
        from ansible.module_utils import dns_ledger, dns_outside, dns_plan, dns_world, dns_zone, octodns_files
    except ImportError as error:
        MISSING = str(error)

DOCUMENTATION = r"""
module: dns_octodns
short_description: Publish record sets through octoDNS, next to what others keep there
description:
  - Runs on the control node and needs dnspython, and octoDNS with the provider's package in an environment of its own.
    Observes the zones through their name servers, plans as M(dns_rrsets) does, and writes octoDNS's configuration with
    whole record sets, values of others included. octoDNS sees no others.
  - octoDNS's own plan is always made first, and answered. It is carried out only when told, and only if it is still the
    same. If the provider has another value than DNS had, nothing is done.
options:
  records:
    description: What to publish, as the filter C(mail_rrsets) answers it.
    type: list
    elements: dict
    required: true
  zones:
    description:
      - Zones at the provider, each with C(name), and C(server) and C(port) when not any of its name servers is to be
        asked.
    type: list
    elements: dict
    required: true
  elsewhere:
    description: Names of zones that are written in another way. What lies in one of these is left to that.
    type: list
    elements: str
    default: []
  provider: {description: 'The provider as octoDNS is configured for it, with C(class).', type: dict, required: true}
  directory: {description: Where the configuration is written., type: path, required: true}
  plugins: {description: Where the processor C(mailroom_octodns) is., type: path, required: true}
  command: {description: The program octodns-sync., type: str, required: true}
  apply: {description: Whether the plan is carried out., type: bool, default: false}
  ledger: {description: File on the control node that remembers what we wrote., type: path, required: true}
  resolver: {description: 'Address of a resolver, by default that of this machine.', type: str, default: ''}
  resolver_port: {description: Its port., type: int, default: 53}
  adopt: {description: Names whose values of others may be replaced., type: list, elements: str, default: []}
  mx_takeover: {description: Whether MX of others may be replaced., type: bool, default: false}
  spf_consolidate: {description: Whether several SPF records at a name may become one., type: bool, default: false}
  remove: {description: Names from which what we wrote is taken out., type: list, elements: str, default: []}
  prune: {description: Whether what we wrote is removed when it is wanted no longer., type: bool, default: false}
  timeout: {description: Seconds that a server may take to answer., type: float, default: 10}
  readback_timeout: {description: Seconds until all servers of a zone must show a change., type: float, default: 30}
attributes:
  check_mode: {support: full, description: 'Observes, plans, and has octoDNS plan; writes its configuration alone.'}
  diff_mode: {support: none}
author: Mailroom contributors
"""

EXAMPLES = r"""
- name: Have octoDNS publish the mail records
  dns_octodns:
    records: "{{ odoo_databases | mail_rrsets(dns_records_hosts, dns_records_dkim) }}"
    zones: [{name: example.com}]
    provider: {class: octodns_cloudflare.CloudflareProvider, token: env/CLOUDFLARE_TOKEN}
    directory: /root/octodns
    plugins: "{{ role_path }}/files"
    command: /root/octodns/venv/bin/octodns-sync
    ledger: /root/dns-ledger.json
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
plan:
  description: What octoDNS would do, or did, in its own words; empty when there is nothing to do.
  returned: always
  type: list
  elements: str
"""


class Refused(Exception):
    """Why nothing, or not everything, was done: one line for each problem."""


def run(parameters: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Plan, have octoDNS plan, and carry it out when told; answer what the module answers. Raises Refused."""
    problems: list[str] = []
    names = [dns_zone.checked_name(zone["name"], "zones", problems) for zone in parameters["zones"]]
    adopt, remove = (
        frozenset(dns_zone.checked_name(name, option, problems) for name in parameters[option])
        for option in ("adopt", "remove")
    )
    zones = [
        dns_zone.Zone(name, zone.get("server", ""), "", "")
        for name, zone in zip(names, parameters["zones"], strict=True)
    ]
    every = [*zones, *dns_zone.zones_elsewhere(parameters["elsewhere"], problems)]
    wanted = dns_zone.wanted_sets(parameters["records"], problems)
    if problems:
        raise Refused("\n".join(problems))
    policy = dns_plan.Policy(
        apexes=frozenset(names),
        hosts=dns_zone.hosts_of(wanted),
        adopt=adopt,
        remove=remove,
        mx_takeover=parameters["mx_takeover"],
        spf_consolidate=parameters["spf_consolidate"],
        prune=parameters["prune"],
    )
    path = Path(parameters["ledger"])
    try:
        with dns_ledger.locked(path):
            return _run(parameters, check_mode, zones, every, wanted, policy, path)
    except OSError as error:
        text = f"{error.filename or path}: {error.strerror}: let the user who runs Ansible read and write it"
        raise Refused(text) from None
    except (dns_zone.ZoneError, ValueError) as error:
        raise Refused(str(error)) from None


def _run(
    parameters: Mapping[str, Any],
    check_mode: bool,
    zones: Sequence[dns_zone.Zone],
    every: Sequence[dns_zone.Zone],
    wanted: Sequence[dns_plan.Wanted],
    policy: dns_plan.Policy,
    path: Path,
) -> dict[str, Any]:
    ledger = dns_ledger.load(path)
    world = dns_world.World(parameters["resolver"], parameters["resolver_port"], parameters["timeout"])
    drafts = []
    for zone, parameter in zip(zones, parameters["zones"], strict=True):
        address = parameter.get("server") or _server(zone.name, world)
        server = dns_zone.Server(address, int(parameter.get("port", 53)), parameters["timeout"])
        ours = [one for one in wanted if dns_zone.zone_of(one.name, every) == zone]
        known = {key: values for key, values in ledger.items() if dns_zone.zone_of(key[0], every) == zone}
        drafts.append(dns_zone.prepare_at(server, zone, ours, known, policy))
    conflicts = [conflict for draft in drafts for conflict in draft.plan.conflicts]
    objections, untold = dns_outside.objections([] if conflicts else drafts, world, dns_zone.delegated_names(wanted))
    after: dict[dns_plan.Key, dns_plan.RRset] = {}
    before: dict[dns_plan.Key, frozenset[str]] = {}
    files: dict[str, Any] = {}
    for draft in drafts:
        found = {key: dns_zone.to_rrset(rdataset) for key, rdataset in draft.observed.items()}
        sets = dns_plan.apply(found, draft.plan.changes)
        concerned = {one.key for one in draft.wanted} | {change.key for change in draft.plan.changes}
        mine = {key: rrset for key, rrset in sets.items() if key in concerned}
        after |= mine
        files[draft.zone.name] = octodns_files.zone_file(draft.zone.name, mine)
        for name, kind in concerned:
            before |= {
                key: found[key].values if key in found else frozenset() for key in ((name, kind), (name, "CNAME"))
            }
    problems = conflicts + objections + octodns_files.unsafe(after)
    if problems:
        raise Refused("\n".join(dict.fromkeys(problems)))
    changes = [change for draft in drafts for change in draft.plan.changes]
    answer: dict[str, Any] = {"changed": bool(changes), "plan": [], "warnings": untold}
    directory = Path(parameters["directory"])
    (directory / "zones").mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in files.items():
        _write(directory / "zones" / f"{name}yaml", content)
    config = octodns_files.configuration(parameters["provider"], [zone.name for zone in zones], before)
    _write(directory / "config.yaml", config)
    if not changes:
        return answer
    output = _octodns(parameters)
    answer["plan"] = _shown(output)
    checksum = re.search(r"checksum=([0-9a-f]{16,})", output)
    if not checksum:
        raise Refused(f"octoDNS has no plan where {len(changes)} record sets differ: see {directory}/config.yaml")
    if check_mode or not parameters["apply"]:
        answer["changed"] = check_mode and parameters["apply"]
        return answer
    dns_ledger.save(path, dns_plan.united(ledger, *(draft.plan.ledger for draft in drafts)))
    _octodns(parameters, "--checksum", checksum[1])
    outside = {key: values for key, values in ledger.items() if dns_zone.zone_of(key[0], every) not in zones}
    dns_ledger.save(path, dns_plan.united(outside, *(draft.plan.ledger for draft in drafts)))
    for draft in drafts:
        errors, unknown = dns_zone.read_back(draft, parameters["readback_timeout"])
        if errors:
            raise Refused("\n".join(errors))
        answer["warnings"] += unknown
    return answer


def _write(path: Path, content: object) -> None:
    """Write a file that nobody else may read."""
    path.touch(0o600)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _server(zone: str, world: dns_world.World) -> str:
    """Answer the address of a zone's name server. Raises Refused."""
    for name in world.ask(zone, "NS").values:
        for address in world.ask(name, "A").values or world.ask(name, "AAAA").values:
            return address
    raise Refused(f"{zone}: its name servers cannot be found: correct the zone's name, or dns_records_resolver")


def _octodns(parameters: Mapping[str, Any], *options: str) -> str:
    """Answer what octoDNS prints. Raises Refused with its last words."""
    command = [str(Path(parameters["command"]).expanduser()), "--config-file", "config.yaml", *options]
    environment = os.environ | {"PYTHONPATH": str(Path(parameters["plugins"]).resolve())}
    try:
        done = subprocess.run(  # noqa: S603 - the program that the inventory names
            command,
            cwd=parameters["directory"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except OSError as error:
        text = f"{command[0]}: {error.strerror}: install octoDNS and give dns_records_octodns_command its octodns-sync"
        raise Refused(text) from None
    if done.returncode:
        words = done.stdout.strip().splitlines()[-1:] or ["(it says nothing)"]
        if "mailroom: " in words[0]:
            raise Refused(f"{words[0].partition('mailroom: ')[2]}: see who edits it, wait for its TTL, run again")
        raise Refused(f"octodns-sync failed: {words[0]}: see roles/dns_records/README.md, octoDNS")
    return done.stdout


def _shown(output: str) -> list[str]:
    """Answer the lines of octoDNS's plan."""
    lines = [line for line in output.splitlines() if line.startswith("* ")]
    return [line.removeprefix("* ").rstrip() for line in lines]


def main() -> None:
    """Ansible's door to `run`."""
    flag, texts = {"type": "bool", "default": False}, {"type": "list", "elements": "str", "default": []}
    dicts, path = {"type": "list", "elements": "dict", "required": True}, {"type": "path", "required": True}
    module = AnsibleModule(
        argument_spec={
            "records": dicts,
            "zones": dicts,
            "elsewhere": texts,
            # A token that is written out instead of named (env/...) stays out of the control node's syslog ...
            "provider": {"type": "dict", "required": True, "no_log": True},
            "directory": path,
            "plugins": path,
            "command": {"type": "str", "required": True},
            "apply": flag,
            "ledger": path,
            "resolver": {"type": "str", "default": ""},
            "resolver_port": {"type": "int", "default": 53},
            "adopt": texts,
            "remove": texts,
            "mx_takeover": flag,
            "spf_consolidate": flag,
            "prune": flag,
            "timeout": {"type": "float", "default": 10},
            "readback_timeout": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    # ... and, with the arguments, out of the answer; but its other words are not to be blanked there.
    module.no_log_values.clear()
    untold: dict[str, Any] = {"module_args": {}}
    if MISSING:
        module.fail_json(msg=missing_required_lib("dnspython", reason="(control node)"), exception=MISSING)
    try:
        answer = run(module.params, module.check_mode)
    except Refused as refused:
        module.fail_json(msg=str(refused), invocation=untold)
    for warning in answer.pop("warnings"):
        module.warn(warning)
    module.exit_json(**answer, invocation=untold)


if __name__ == "__main__":
    main()
