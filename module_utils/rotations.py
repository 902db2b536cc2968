"""What the rotations of keys have in common: how they are run and refused, and how all name servers are asked."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from module_utils import dns_world, dns_zone, mail_checks
    from module_utils.dns_plan import Key, Wanted
else:
    from ansible.module_utils import dns_world, dns_zone, mail_checks

DAY = 86400
Look = Callable[[Sequence[Any], str, "Sequence[Wanted]"], "tuple[dict[Key, str], int]"]
"""Asks the servers of a zone, given by its absolute name, for sets: which are not shown, and why; and for how many
seconds others may remember what was there before."""


def left_out(hosts: Iterable[str]) -> list[str]:
    """Answer why nothing may be decided when mail hosts are left out, one line each."""
    return [f"{host} is left out: run for all mail hosts, since what one of them may use has to stay" for host in hosts]


def zones_of(parameters: Mapping[str, Any], problems: list[str]) -> list[dns_zone.Zone]:
    """Answer the zones that are ours; what is wrong with them is added to problems."""
    defaults = {"port": 53, "key_algorithm": dns_zone.ALGORITHMS[0]}
    return dns_zone.zones_of([defaults | zone for zone in parameters["zones"]], problems)


def look_everywhere(
    wanted: Iterable[Wanted], zones: Sequence[dns_zone.Zone], resolver: str, timeout: float, look: Look
) -> tuple[dict[Key, str], dict[Key, int]]:
    """Ask all name servers of the zones that sets are in, ours or not, each zone at the same time.

    The answers are by set: why it is not shown, if so, and for how long others may remember another answer.
    """
    world = dns_world.World(resolver, timeout=timeout)
    places: dict[str, list[Wanted]] = {}
    for one in wanted:
        ours = dns_zone.zone_of(one.name, zones)
        places.setdefault(ours.name if ours else mail_checks.zone_of(one.name, world), []).append(one)

    def ask(place: str) -> tuple[dict[Key, str], int]:
        inside = places[place]
        ours = next((zone for zone in zones if zone.name == place), None)
        try:
            servers, unknown = dns_zone.authoritative(ours, timeout) if ours else dns_world.servers_of(place, world)
        except dns_zone.ZoneError as error:
            servers, unknown = [], [str(error)]
        if unknown or not servers:
            reason = unknown[0] if unknown else f"nobody can tell the name servers of {place or inside[0].name}"
            return {one.key: reason for one in inside}, 0
        return look(servers, place, inside)

    reasons: dict[Key, str] = {}
    cached: dict[Key, int] = {}
    for place, (late, seconds) in zip(places, dns_zone.each(places, ask), strict=True):
        reasons |= late
        cached |= {one.key: seconds for one in places[place]}
    return reasons, cached


def carry_out(module: AnsibleModule, run: Callable[[Mapping[str, Any], bool, int], dict[str, Any]]) -> None:
    """Do what a module is there for, at this time, and end it: with its answer, or in words."""
    try:
        answer = run(module.params, module.check_mode, int(time.time()))
    except ValueError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}: let the user who runs Ansible read and write it")
    module.exit_json(**answer)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory of keys, which the lookups that make them take, too; makes the directory."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
