#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Decide which key each mail host's certificate has, from what the name servers show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

MISSING = ""
if TYPE_CHECKING:
    from module_utils import dns_zone, durable, rotations
    from module_utils.dns_plan import Key, Wanted
    from module_utils.tls_rotation import Keys, Known, Seen, Times, is_due, noted, story
else:
    try:
        from ansible.module_utils import dns_zone, durable, rotations
        from ansible.module_utils.tls_rotation import Keys, Known, Seen, Times, is_due, noted, story
    except ImportError as error:
        MISSING = str(error)

DOCUMENTATION = r"""
module: rotate_tls
short_description: Decide which key each mail host's certificate has
description:
  - Runs on the control node and needs dnspython. Keeps in O(directory) since when each key is used, and since when all
    name servers show the next one (TLSA), and says whose turn it is to take the next one.
  - With the private authority it puts the next key into the place of the one in use, and keeps that as the former one;
    the certificate is made and shown by others. Afterwards it is run again with O(applied).
options:
  directory: {description: Where the private authority is., type: path, required: true}
  hosts:
    description: The mail hosts and their keys, as the filter C(renewable_keys) answers them.
    type: list
    elements: dict
    required: true
  zones: {description: The zones that are ours to write., type: list, elements: dict, default: []}
  delegation:
    description: The name below which is what hosts in others' zones lead to, as for the filter C(delegated).
    type: str
    default: ''
  resolver:
    description: Address of the resolver that finds the servers of others' zones, by default that of this machine.
    type: str
    default: ''
  days: {description: Days for which a key is used., type: float, required: true}
  clock_tolerance: {description: Seconds by which the clock may be wrong., type: float, default: 300}
  left_out: {description: Mail hosts that are not in this run., type: list, elements: str, default: []}
  applied:
    description: Whether all mail hosts show the certificates that they are to have. Nothing new is decided then.
    type: bool
    default: false
  timeout: {description: Seconds that a server may take to answer., type: float, default: 10}
attributes:
  check_mode: {support: full, description: Looks and decides; writes no file.}
  diff_mode: {support: none}
author: Mailroom contributors
"""

EXAMPLES = r"""
- name: Decide what is due
  rotate_tls:
    directory: "{{ secrets_directory }}/ca"
    hosts: "{{ groups['mail_hosts'] | map('extract', hostvars) | renewable_keys(secrets_directory ~ '/ca') }}"
    days: 365
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
due:
  description: The hosts whose certificate has to be made from the next key now; with O(applied), those with C(acme).
  returned: always
  type: list
  elements: str
story:
  description: For each host, which key is used, what is waited for, and until when.
  returned: always
  type: list
  elements: str
  sample: ['mail.example.com: key 0a1b2c3d is used until 2027-11-28 11:00 UTC; 4e5f6071 can take its place from ...']
"""

FILE = "keys.json"
VERSION = 1


def run(parameters: Mapping[str, Any], check_mode: bool, now: int) -> dict[str, Any]:
    """Look, decide and keep it; answer what the module answers. Raises ValueError with what is wrong, OSError."""
    problems = rotations.left_out(parameters["left_out"])
    directory, hosts = Path(parameters["directory"]).expanduser(), parameters["hosts"]
    zones = rotations.zones_of(parameters, problems)
    sets = {
        host["host"]: dns_zone.wanted_sets(_records(host, parameters["delegation"], zones), problems) for host in hosts
    }
    if problems:
        raise ValueError("\n".join(problems))
    times = Times(parameters["days"] * rotations.DAY, parameters["clock_tolerance"])
    with rotations.locked(directory):
        kept = _load(directory / FILE)
        every = [one for found in sets.values() for one in found]
        reasons, cached = rotations.look_everywhere(
            every, zones, parameters["resolver"], parameters["timeout"], not_shown
        )
        after, due, lines, changed = dict(kept), [], [], False
        for host in hosts:
            name, found = host["host"], [one.key for one in sets[host["host"]]]
            reason = next((reasons[key] for key in found if key in reasons), "")
            seen = Seen(reason, max(cached[key] for key in found))
            keys = Keys(host["used"], host["following"], host["former"])
            after[name] = known = noted(kept.get(name), keys, now, seen)
            takes = is_due(known, keys, now, seen, times)
            if host["file"]:
                files = _Files(Path(host["file"]))
                changed |= parameters["applied"] and files.forget(check_mode)
                takes = takes and not parameters["applied"] and files.take(check_mode)
                changed |= takes
            due += [name] if takes else []
            lines.append(f"{name}: {story(known, keys, seen, times, takes)}")
        changed |= after != kept
        if after != kept and not check_mode:
            _save(directory / FILE, after)
    return {"changed": changed, "due": due, "story": lines}


def _records(host: Mapping[str, Any], delegation: str, zones: Sequence[dns_zone.Zone]) -> list[dict[str, Any]]:
    """Answer what has to be in DNS before a host's next key may be used, as the filter mail_rrsets does.

    In a zone that is not ours the name leads to one of ours, if there is a delegation; or has records all the same.
    """
    values = [f"3 1 1 {host[which]}" for which in ("used", "following")]
    names = [f"_25._tcp.{host['host']}."]
    if delegation and dns_zone.zone_of(names[0], zones) is None:
        names.append(f"{names[0]}{delegation.lower().rstrip('.')}.")
    return [{"name": name, "type": "TLSA", "ttl": 0, "values": values, "ownership": "exclusive"} for name in names]


def not_shown(servers: Sequence[dns_zone.Server], zone: str, wanted: Sequence[Wanted]) -> tuple[dict[Key, str], int]:
    """Answer which sets not every server shows, with the reason, and for how long others may remember others.

    zone: its absolute name. A set may have more values. One that no server has at all misleads nobody.
    """
    keys, soa = [one.key for one in wanted], (zone, "SOA")

    def ask(server: dns_zone.Server) -> tuple[str, Mapping[Key, Any]]:
        try:
            return "", server.ask([*keys, soa])
        except dns_zone.ZoneError as error:
            return str(error), {}

    answers = dns_zone.each(servers, ask)
    for reason, _ in answers:
        if reason:
            return dict.fromkeys(keys, reason), 0
    late, cached = {}, 0
    for server, (_, found) in reversed(list(zip(servers, answers, strict=True))):
        negative = min(found[soa].ttl, found[soa][0].minimum) if soa in found else 0
        cached = max([cached, negative, *(found[key].ttl for key in keys if key in found)])
        for one in wanted:
            values = dns_zone.to_rrset(found[one.key]).values if one.key in found else frozenset()
            if not one.rrset.values <= values and any(one.key in other for _, other in answers):
                late[one.key] = f"{server} does not show {' '.join(one.key)} of both"
    return late, cached


class _Files:
    """The keys of a certificate of the private authority."""

    def __init__(self, key: Path) -> None:
        self.key = key
        self.following, self.former = (key.with_name(f"{key.name}.{which}") for which in ("next", "former"))

    def take(self, check_mode: bool) -> bool:
        """Put the next key into its place; say whether it was there, and nobody else has done so meanwhile.

        Killed in between, it leaves a former key that is still the one in use.
        """
        used = self.key.read_text(encoding="ascii")
        begun = self.former.exists() and self.former.read_text(encoding="ascii") != used
        if begun or not self.following.exists():
            return False
        if not check_mode:
            durable.replace(self.former, used)
            self.following.replace(self.key)
        return True

    def forget(self, check_mode: bool) -> bool:
        """Delete the former key; say whether there was one."""
        found = self.former.exists()
        if found and not check_mode:
            self.former.unlink()
        return found


def _load(path: Path) -> dict[str, Known]:
    """Answer what is known of each host, nothing when there is no file. Raises ValueError when it is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError("another version")
        return {host: Known(**known) for host, known in content["hosts"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} does not say how old keys are: restore it, or remove it to begin anew") from None


def _save(path: Path, hosts: Mapping[str, Known]) -> None:
    """Replace the file as a whole, durably, mode 0600."""
    content = {"version": VERSION, "hosts": {host: asdict(known) for host, known in sorted(hosts.items())}}
    durable.replace(path, json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Ansible's door to `run`."""
    dicts = {"type": "list", "elements": "dict"}
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "hosts": {**dicts, "required": True},
            "zones": {**dicts, "default": []},
            "delegation": {"type": "str", "default": ""},
            "resolver": {"type": "str", "default": ""},
            "days": {"type": "float", "required": True},
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
