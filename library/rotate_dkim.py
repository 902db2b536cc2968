#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Decide which DKIM key of each domain signs, from what the name servers show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

MISSING = ""
if TYPE_CHECKING:
    from module_utils import dkim_state, dns_zone, rotations
    from module_utils.dkim_rotation import Key, Seen, Times, moment, next_step, noted, numbered, story
    from module_utils.dns_plan import Wanted
else:
    try:
        from ansible.module_utils import dkim_state, dns_zone, rotations
        from ansible.module_utils.dkim_rotation import Key, Seen, Times, moment, next_step, noted, numbered, story
    except ImportError as error:
        MISSING = str(error)

DOCUMENTATION = r"""
module: rotate_dkim
short_description: Decide which DKIM key of each domain signs
description:
  - Runs on the control node and needs dnspython. Keeps in O(directory) which selectors each domain has and what becomes
    of each, and takes every step that is due, so that mail which was sent can be verified at any moment.
  - It neither publishes nor signs. What it decides is to be published and told to all mail hosts; afterwards it is run
    again with O(applied).
options:
  directory: {description: Where the keys are., type: path, required: true}
  domains: {description: The domains that sign., type: list, elements: str, required: true}
  selector: {description: Selector of a domain's first key., type: str, required: true}
  records:
    description:
      - What is wanted in DNS, as the filters C(mail_rrsets) and C(delegated) answer it. Where aliases lead to the keys
        of a domain, its keys take turns with these names.
    type: list
    elements: dict
    required: true
  zones: {description: The zones that are ours to write., type: list, elements: dict, default: []}
  resolver:
    description: Address of the resolver that finds the servers of others' zones, by default that of this machine.
    type: str
    default: ''
  days: {description: Days for which a key signs., type: float, required: true}
  retired_days: {description: Days for which it is published afterwards., type: float, required: true}
  clocks:
    description: What each mail host says that the time is, in seconds since 1970. Keys are retired by the clock.
    type: dict
    default: {}
  clock_tolerance: {description: Seconds by which a clock may be another than ours., type: float, default: 300}
  left_out: {description: Mail hosts that are not told what is decided., type: list, elements: str, default: []}
  applied:
    description: Whether what was decided has been published and told to all mail hosts. Nothing new is decided then.
    type: bool
    default: false
  timeout: {description: Seconds that a server may take to answer., type: float, default: 10}
attributes:
  check_mode: {support: full, description: Looks and decides; writes no file.}
  diff_mode: {support: full}
author: Mailroom contributors
"""

EXAMPLES = r"""
- name: Decide what is due
  rotate_dkim:
    directory: "{{ secrets_directory }}/dkim"
    domains: [example.com]
    selector: mailroom1
    records: "{{ odoo_databases | mail_rrsets(dns_records_hosts, dns_records_dkim) }}"
    days: 180
    retired_days: 7
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
story:
  description: For each domain, where its keys are, what is waited for, and until when.
  returned: always
  type: list
  elements: str
  sample: ['example.com: mailroom1 signs until 2027-05-27 11:00 UTC']
"""

ED25519 = "-ed25519"


def run(parameters: Mapping[str, Any], check_mode: bool, now: int) -> dict[str, Any]:
    """Look, decide and keep it; answer what the module answers. Raises ValueError with what is wrong, OSError."""
    problems = rotations.left_out(parameters["left_out"])
    problems += [
        f"{host} says that it is {moment(float(clock))}, this computer {moment(now)}: set the clocks"
        for host, clock in parameters["clocks"].items()
        if abs(now - float(clock)) > parameters["clock_tolerance"]
    ]
    directory = Path(parameters["directory"]).expanduser()
    zones = rotations.zones_of(parameters, problems)
    wanted = dns_zone.wanted_sets([one for one in parameters["records"] if "._domainkey." in one["name"]], problems)
    if problems:
        raise ValueError("\n".join(problems))
    signs, retired = (parameters[name] * rotations.DAY for name in ("days", "retired_days"))
    times = Times(signs, retired, parameters["clock_tolerance"])
    with rotations.locked(directory):
        kept = dkim_state.load(directory / dkim_state.FILE)
        first = (Key(parameters["selector"], "signs", now),)
        before = {domain: kept.get(domain, first) for domain in parameters["domains"]}
        seen = _seen(before, wanted, zones, parameters["resolver"], parameters["timeout"])
        after = {}
        for domain, keys in before.items():
            if parameters["applied"]:
                after[domain] = noted(keys, now, seen[domain], applied=True)
            else:
                after[domain] = next_step(keys, now, seen[domain], times, _successor(domain, wanted, directory))
        changed = any(kept.get(domain) != keys for domain, keys in after.items())
        if changed and not check_mode:
            for domain, keys in before.items():
                for other in {key.selector for key in keys} ^ {key.selector for key in after[domain]}:
                    for suffix in ("", ED25519):  # of one that begins, a key from earlier must not come back
                        (directory / f"{domain}.{other}{suffix}.key").unlink(missing_ok=True)
            dkim_state.save(directory / dkim_state.FILE, kept | after)
    lines = {domain: f"{domain}: {story(keys, seen[domain], times)}" for domain, keys in after.items()}
    return {
        "changed": changed,
        "story": list(lines.values()),
        "diff": {"before": _shown(kept), "after": _shown(kept | after)},
    }


def _successor(domain: str, wanted: Sequence[Wanted], directory: Path) -> Callable[[str], str]:
    """Answer what names the key that comes after another.

    Where a domain's names are aliases, which somebody else has set once, there is none but these.
    """
    names = [one.name.partition("._domainkey.") for one in wanted if one.type == "CNAME"]
    aliases = sorted({first.removesuffix(ED25519) for first, _, rest in names if rest == f"{domain}."})
    if aliases:
        return lambda selector: next((one for one in aliases if one != selector), selector)
    taken = [file.name.removesuffix(".key").removeprefix(f"{domain}.") for file in directory.glob("*.key")]
    return partial(numbered, taken=taken)


def _seen(
    domains: Mapping[str, Sequence[Key]],
    wanted: Sequence[Wanted],
    zones: Sequence[dns_zone.Zone],
    resolver: str,
    timeout: float,
) -> dict[str, Seen]:
    """Answer what DNS shows of the keys that do not sign yet; of the others nothing has to be known."""
    sets = {
        (domain, key.selector): [
            one
            for one in wanted
            if one.name.startswith(tuple(f"{key.selector}{suffix}._domainkey.{domain}." for suffix in ("", ED25519)))
        ]
        for domain, keys in domains.items()
        for key in keys
        if key.phase in ("new", "shown")
    }
    every = [one for found in sets.values() for one in found]
    reasons, remembered = rotations.look_everywhere(every, zones, resolver, timeout, dns_zone.not_shown)
    cached = max(remembered.values(), default=0)
    result: dict[str, Seen] = {}
    for domain in domains:
        missing = {
            selector: next((reasons[one.key] for one in found if one.key in reasons), "" if found else "none is wanted")
            for (owner, selector), found in sets.items()
            if owner == domain
        }
        shown = frozenset(selector for selector, reason in missing.items() if not reason)
        result[domain] = Seen(shown, {one: reason for one, reason in missing.items() if reason}, cached)
    return result


def _shown(domains: Mapping[str, Sequence[Key]]) -> str:
    """Answer the keys of all domains for a diff."""
    return "".join(f"{domain} {key.selector} {key.phase}\n" for domain, keys in domains.items() for key in keys)


def main() -> None:
    """Ansible's door to `run`."""
    dicts = {"type": "list", "elements": "dict"}
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "domains": {"type": "list", "elements": "str", "required": True},
            "selector": {"type": "str", "required": True},
            "records": {**dicts, "required": True},
            "zones": {**dicts, "default": []},
            "resolver": {"type": "str", "default": ""},
            "days": {"type": "float", "required": True},
            "retired_days": {"type": "float", "required": True},
            "clocks": {"type": "dict", "default": {}},
            "clock_tolerance": {"type": "float", "default": 300},
            "left_out": {"type": "list", "elements": "str", "default": []},
            "applied": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 10},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib("dnspython", reason="(control node)"), exception=MISSING)
    rotations.carry_out(module, run)


if __name__ == "__main__":
    main()
