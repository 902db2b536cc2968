"""More test hosts than inventory/demo has, made like those, for tests that are run by hand; then they are removed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.story import Hosts

DEMO = Hosts()
OTHER_DEBIAN = "13" if os.environ.get("MAILROOM_DEBIAN") == "12" else "12"
OTHER_ODOO = "19" if os.environ.get("MAILROOM_ODOO") == "14" else "14"


def host(container: str, image: str, number: int) -> dict[str, str]:
    """The entry in hosts.yml of a host that is to be made; `number` is the end of its addresses."""
    return {
        "ansible_host": f"10.77.0.{number}",
        "container_name": f"mailroom-{container}",
        "container_image": image,
        "container_ipv6": f"fd77::{number}",
    }


def write(path: Path, hosts: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write an inventory, which has the demo's secrets."""
    (path / "group_vars").mkdir(exist_ok=True)
    if not (path / "secrets").exists():
        (path / "secrets").symlink_to(DEMO.secrets.resolve())
    (path / "hosts.yml").write_text(yaml.safe_dump(dict(hosts)))
    (path / "group_vars" / "all.yml").write_text(yaml.safe_dump(dict(facts)))


def read() -> tuple[dict[str, Any], dict[str, Any]]:
    """The demo's hosts and facts, to be changed."""
    hosts, facts = DEMO.inventory / "hosts.yml", DEMO.inventory / "group_vars" / "all.yml"
    return yaml.safe_load(hosts.read_text()), yaml.safe_load(facts.read_text())


@contextlib.contextmanager
def running(inventory: Path, *names: str) -> Iterator[Hosts]:
    """Within this block the inventory's hosts are there, those with these names for its sake alone."""
    hosts = Hosts(inventory)
    if not names:
        yield hosts
        return
    hosts.site(playbook="molecule/default/create.yml")
    try:
        hosts.site("--limit", ",".join(names), playbook="molecule/default/prepare.yml")
        yield hosts
    finally:
        hosts.site("--limit", ",".join(["localhost", *names]), playbook="molecule/default/destroy.yml")
