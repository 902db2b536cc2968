#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Publish record sets in DNS zones of our own, next to what others keep there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

MISSING = ""
if TYPE_CHECKING:
    from module_utils import dns_ledger, dns_outside, dns_plan, dns_world, dns_zone
else:
    try:
        from ansible.module_utils import dns_ledger, dns_outside, dns_plan, dns_world, dns_zone
    except ImportError as error:
        MISSING = str(error)

DOCUMENTATION = r"""
module: dns_rrsets
short_description: Publish record sets in DNS, next to what others keep there
description:
  - Runs on the control node and needs dnspython. Compares every record set with the zone's primary server, and changes
    what differs by dynamic update (RFC 2136), signed with a TSIG key (RFC 8945), over TCP.
  - Never removes or alters a value that it did not write, unless told by name. Text of others beside ours stays byte
    for byte, an SPF record of others is merged with ours and never weakened, mail servers of others are not replaced.
  - All problems of all zones are told before the first update, also what comes of it with others' records - an SPF
    record that leads receivers to too many names, or DMARC reports to whoever has not agreed to get them. There is one
    update for each zone (more where one cannot hold it, hundreds of sets), made only if every set in it is still as it
    was found; else it is planned and judged once more, with a warning of what others have changed, and then given up.
  - Waits until all authoritative servers of a zone show what was changed.
options:
  records:
    description: What to publish, as the filter C(mail_rrsets) answers it. TXT values are plain text in one piece.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Absolute name., type: str, required: true}
      type: {description: Type such as V(MX)., type: str, required: true}
      ttl: {description: Seconds., type: int, required: true}
      values: {description: All values of the set., type: list, elements: str, required: true}
      why: {description: What it is good for., type: str, default: ''}
      rfc: {description: Where it is specified., type: str, default: ''}
      level:
        description: How much it matters.
        type: str
        choices: [required, recommended, optional]
        default: required
      ownership:
        description: Whether the set holds these values alone or those of others too.
        type: str
        choices: [exclusive, shared]
        default: exclusive
      where:
        description: V(signed) leaves the set out where the zone is not signed by DNSSEC.
        type: str
        choices: ['', signed]
        default: ''
  zones:
    description: The zones that we may update. A record goes into the longest one that holds its name.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name of the zone., type: str, required: true}
      server: {description: Its primary name server., type: str, required: true}
      port: {description: TCP port of the server., type: int, default: 53}
      key_name: {description: Name of the TSIG key., type: str, required: true}
      key_algorithm:
        description: V(hmac-sha256), V(hmac-sha384) or V(hmac-sha512).
        type: str
        default: hmac-sha256
      key_file:
        description: File with the key's secret in base64, and nothing else. Must not be readable by everybody.
        type: path
        required: true
  elsewhere:
    description: Names of zones that are written in another way. What lies in one of these is left to that.
    type: list
    elements: str
    default: []
  ledger:
    description: File on the control node that remembers what we wrote.
    type: path
    required: true
  adopt:
    description: Names whose values by others may be replaced. Text beside ours and MX are never meant.
    type: list
    elements: str
    default: []
  mx_takeover: {description: Whether MX values of others may be replaced., type: bool, default: false}
  spf_consolidate: {description: Whether several SPF records at a name may become one., type: bool, default: false}
  remove: {description: Names from which what we wrote is taken out., type: list, elements: str, default: []}
  prune: {description: Whether what we wrote is removed when it is wanted no longer., type: bool, default: false}
  resolver:
    description:
      - Address of the resolver that is asked what others have in DNS, by default that of this machine. It is asked only
        where an SPF record of others is to be changed, or DMARC reports are to go to others.
    type: str
    default: ''
  resolver_port: {description: Its port., type: int, default: 53}
  timeout: {description: Seconds that a server may take to answer., type: float, default: 10}
  readback_timeout: {description: Seconds until all servers of a zone must show a change., type: float, default: 30}
attributes:
  check_mode: {support: full, description: Observes and plans; sends no update and writes no file.}
  diff_mode: {support: full}
author: Mailroom contributors
"""

EXAMPLES = r"""
- name: Publish the mail records
  dns_rrsets:
    records: "{{ odoo_databases | mail_rrsets(dns_records_hosts, dns_records_dkim) }}"
    zones:
      - {name: example.com, server: ns.example.com, key_name: mailroom, key_file: /root/tsig-mailroom}
    ledger: /root/dns-ledger.json
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
unmanaged:
  description:
    - Lines of a zone file for what lies in none of O(zones) and O(elsewhere), to be set by hand, with level and reason.
  returned: always
  type: list
  elements: dict
  sample: [{record: 'example.com. 3600 IN MX 10 mail.example.com.', level: required, why: brings mail to the mail host}]
leftovers:
  description: Names and types with values that we wrote and that are wanted no longer; see O(prune).
  returned: always
  type: list
  elements: str
  sample: [old._domainkey.example.com. TXT]
"""


class Refused(Exception):
    """Why nothing, or not everything, was done: one line for each problem; `changed` when something was."""

    def __init__(self, problems: Iterable[str], changed: bool = False) -> None:
        super().__init__("\n".join(problems))
        self.changed = changed


def run(parameters: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Publish the records and answer what the module answers. Raises Refused."""
    problems: list[str] = []
    zones = dns_zone.zones_of(parameters["zones"], problems)
    every = [*zones, *dns_zone.zones_elsewhere(parameters["elsewhere"], problems)]
    wanted = dns_zone.wanted_sets(parameters["records"], problems)
    policy = dns_plan.Policy(
        apexes=frozenset(zone.name for zone in zones),
        hosts=dns_zone.hosts_of(wanted),
        adopt=frozenset(dns_zone.checked_name(name, "adopt", problems) for name in parameters["adopt"]),
        remove=frozenset(dns_zone.checked_name(name, "remove", problems) for name in parameters["remove"]),
        mx_takeover=parameters["mx_takeover"],
        spf_consolidate=parameters["spf_consolidate"],
        prune=parameters["prune"],
    )
    if problems:
        raise Refused(problems)
    path = Path(parameters["ledger"])
    warnings: list[str] = []
    try:
        world = dns_world.World(parameters["resolver"], parameters["resolver_port"], parameters["timeout"])
    except ValueError as error:
        raise Refused([str(error)]) from None
    try:
        with contextlib.nullcontext() if check_mode else dns_ledger.locked(path):
            ledger = _ledger(path)
            drafts = _drafts(zones, every, wanted, ledger, policy, parameters["timeout"])
            judge = partial(dns_outside.objections, resolver=world, aliases=dns_zone.delegated_names(wanted))
            problems, warnings = judge(drafts)
            if problems:
                raise Refused(problems)
            if not check_mode:
                drafts, unread = _carried_out(drafts, judge, ledger, path, parameters["readback_timeout"])
                warnings += unread
    except OSError as error:
        where = error.filename or path
        raise Refused([f"{where}: {error.strerror}: let the user who runs Ansible read and write it"]) from None
    unmanaged = [
        {"record": line, "level": record["level"], "why": record["why"]}
        for one, record in zip(wanted, parameters["records"], strict=True)
        if dns_zone.zone_of(one.name, every) is None
        for line in dns_zone.by_hand(one)
    ]
    missing = [entry["record"] for entry in unmanaged if entry["level"] == "required"]
    if missing:
        warnings.append(f"These records lie in none of dns_records_zones, see that they are set: {' | '.join(missing)}")
    return {
        "changed": any(draft.plan.changes for draft in drafts),
        "diff": [_diff(draft) for draft in drafts if draft.plan.changes],
        "unmanaged": unmanaged,
        "leftovers": [" ".join(key) for draft in drafts for key in draft.plan.leftovers],
        "warnings": list(dict.fromkeys([*(line for draft in drafts for line in draft.plan.warnings), *warnings])),
    }


def _ledger(path: Path) -> dict[dns_plan.Key, frozenset[str]]:
    """Answer the ledger. Raises Refused when the file is none."""
    try:
        return dns_ledger.load(path)
    except ValueError as error:
        raise Refused([str(error)]) from None


def _drafts(
    zones: Sequence[dns_zone.Zone],
    every: Sequence[dns_zone.Zone],
    wanted: Sequence[dns_plan.Wanted],
    ledger: Mapping[dns_plan.Key, frozenset[str]],
    policy: dns_plan.Policy,
    timeout: float,
) -> list[dns_zone.Draft]:
    """Plan all zones that matter, each with what lies in none that is nearer among every one.

    Raises Refused with all problems of all zones.
    """

    def draft(zone: dns_zone.Zone) -> dns_zone.Draft | str:
        inside = [one for one in wanted if dns_zone.zone_of(one.name, every) == zone]
        known = {key: values for key, values in ledger.items() if dns_zone.zone_of(key[0], every) == zone}
        try:
            return dns_zone.prepare(zone, inside, known, policy, timeout)
        except dns_zone.ZoneError as error:
            return str(error)

    names = [one.name for one in wanted] + [name for name, _ in ledger]
    concerned = [zone for zone in zones if any(dns_zone.zone_of(name, every) == zone for name in names)]
    drafts = dns_zone.each(concerned, draft)
    problems = [one for one in drafts if isinstance(one, str)]
    done = [one for one in drafts if not isinstance(one, str)]
    problems += [conflict for one in done for conflict in one.plan.conflicts]
    if problems:
        raise Refused(dict.fromkeys(problems))
    return done


def _carried_out(
    drafts: Sequence[dns_zone.Draft],
    judge: Callable[[Sequence[dns_zone.Draft]], tuple[list[str], list[str]]],
    ledger: Mapping[dns_plan.Key, frozenset[str]],
    path: Path,
    timeout: float,
) -> tuple[list[dns_zone.Draft], list[str]]:
    """Update the zones and read them back; answer what was carried out, and warnings.

    judge: answers what stands against all drafts, and what cannot be told; asked of each plan that has to be made once
    more. Raises Refused with all that went wrong. The ledger has the new values before they can be in DNS, and the old
    ones as long as they may be there, so that a crash at any point leaves nothing of ours that we take for foreign.
    """

    def do(draft: dns_zone.Draft) -> tuple[dns_zone.Draft | None, list[str], list[str], bool]:
        def anew(another: dns_zone.Draft) -> tuple[list[str], list[str]]:
            return judge([another if one is draft else one for one in drafts])

        try:
            done = dns_zone.carry_out(draft, anew)
        except dns_zone.ZoneError as error:
            return None, [str(error)], [], error.begun
        changed = bool(done.plan.changes)
        try:
            return done, *(dns_zone.read_back(done, timeout) if changed else ([], [])), changed
        except dns_zone.ZoneError as error:
            return done, [str(error)], [], changed

    outside = {key: values for key, values in ledger.items() if all(key not in draft.ledger for draft in drafts)}
    if any(draft.plan.changes for draft in drafts):
        dns_ledger.save(path, dns_plan.united(ledger, *(draft.plan.ledger for draft in drafts)))
    results = dns_zone.each(drafts, do)
    ours = [
        one.plan.ledger if one else dns_plan.united(draft.ledger, draft.plan.ledger)
        for draft, (one, _, _, _) in zip(drafts, results, strict=True)
    ]
    dns_ledger.save(path, dns_plan.united(outside, *ours))
    errors = [error for _, errors, _, _ in results for error in errors]
    if errors:
        raise Refused(errors, changed=any(changed for _, _, _, changed in results))
    return [draft for draft, _, _, _ in results if draft], [line for _, _, lines, _ in results for line in lines]


def _diff(draft: dns_zone.Draft) -> dict[str, str]:
    """Answer what changes in a zone as Ansible shows it: one line for each value, in the order of a zone file."""

    def lines(name: str, kind: str, rrset: dns_plan.RRset | None) -> list[str]:
        values = sorted(rrset.values) if rrset else []
        return [f"{name} {rrset.ttl} {kind} {dns_plan.shown(kind, value)}\n" for value in values if rrset]

    where = f"{draft.zone.name} at {draft.server}"
    return {
        "before_header": where,
        "after_header": where,
        "before": "".join(line for change in draft.plan.changes for line in lines(*change.key, change.before)),
        "after": "".join(line for change in draft.plan.changes for line in lines(*change.key, change.after)),
    }


def main() -> None:
    """Ansible's door to `run`."""
    text, flag = {"type": "str", "required": True}, {"type": "bool", "default": False}
    texts = {"type": "list", "elements": "str", "default": []}
    record = {
        "name": text,
        "type": text,
        "ttl": {"type": "int", "required": True},
        "values": {"type": "list", "elements": "str", "required": True},
        "why": {"type": "str", "default": ""},
        "rfc": {"type": "str", "default": ""},
        "level": {"type": "str", "choices": ["required", "recommended", "optional"], "default": "required"},
        "ownership": {"type": "str", "choices": ["exclusive", "shared"], "default": "exclusive"},
        "where": {"type": "str", "choices": ["", "signed"], "default": ""},
    }
    zone = {
        "name": text,
        "server": text,
        "port": {"type": "int", "default": 53},
        "key_name": text,
        "key_algorithm": {"type": "str", "default": "hmac-sha256"},
        "key_file": {"type": "path", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "records": {"type": "list", "elements": "dict", "required": True, "options": record},
            "zones": {"type": "list", "elements": "dict", "required": True, "options": zone},
            "elsewhere": texts,
            "ledger": {"type": "path", "required": True},
            "adopt": texts,
            "remove": texts,
            "mx_takeover": flag,
            "spf_consolidate": flag,
            "prune": flag,
            "resolver": {"type": "str", "default": ""},
            "resolver_port": {"type": "int", "default": 53},
            "timeout": {"type": "float", "default": 10},
            "readback_timeout": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib("dnspython", reason="(control node)"), exception=MISSING)
    try:
        answer = run(module.params, module.check_mode)
    except Refused as refused:
        module.fail_json(msg=str(refused), changed=refused.changed)
    for warning in answer.pop("warnings"):
        module.warn(warning)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
