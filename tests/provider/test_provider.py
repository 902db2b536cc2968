"""Mail at a provider: a host without a mail server routes into Odoo, and the provider's servers are Odoo's.

The provider is our own mail host, which has to be converged by inventory/demo; the host that routes is the stranger's.
CONTRIBUTING.md has the command.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.story import Hosts, Story

pytestmark = pytest.mark.hosts

DEMO = Hosts()
NAME = DEMO.database["name"]
ROUTER = DEMO.outside


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The demo's inventory without a mail server; meanwhile the mail host itself routes nothing."""
    path = tmp_path_factory.mktemp("provider")
    (path / "group_vars").mkdir()
    (path / "secrets").symlink_to(DEMO.secrets.resolve())
    hosts = yaml.safe_load((DEMO.inventory / "hosts.yml").read_text())
    children = hosts["all"]["children"]
    children["mail_hosts"] = {"hosts": {ROUTER.name: children["internet"]["hosts"].pop(ROUTER.name)}}
    children["internet"]["hosts"][DEMO.mail.name] = {"ansible_host": DEMO.mail.address}
    (path / "hosts.yml").write_text(yaml.safe_dump(hosts))
    facts = yaml.safe_load((DEMO.inventory / "group_vars" / "all.yml").read_text())
    server = {"host": DEMO.mail.name}
    facts["odoo_databases"][0]["provider"] = {
        "login": NAME,
        "password": DEMO.secret(f"mailbox-{NAME}"),
        "ca_file": "{{ secrets_directory }}/ca/ca.pem",
        "imap": server,
        "smtp": server,
    }
    del facts["dns_records_zones"]
    (path / "group_vars" / "all.yml").write_text(yaml.safe_dump(facts))
    DEMO.ssh(DEMO.mail, "systemctl", "stop", "fetch-and-route.timer")
    try:
        yield path
    finally:
        gone = "/usr/local/bin/fetch-and-route /usr/local/lib/fetch-and-route /etc/fetch-and-route"
        units = "/etc/systemd/system/fetch-and-route.service /etc/systemd/system/fetch-and-route.timer"
        DEMO.ssh(
            ROUTER, f"systemctl disable --now fetch-and-route.timer; rm -r {gone} {units}; systemctl daemon-reload"
        )
        DEMO.ssh(DEMO.mail, "systemctl", "start", "fetch-and-route.timer")


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    """The story, with the other host to route."""
    real = Hosts.ssh

    def ssh(self: Hosts, host: object, *command: str) -> str:
        routes = command == ("systemctl", "start", "fetch-and-route.service")
        return real(self, ROUTER if routes else host, *command)  # type: ignore[arg-type]

    monkeypatch.setattr(Hosts, "ssh", ssh)
    with DEMO.names(), contextlib.closing(Story(DEMO, subject="Ten chairs, by way of a provider")) as told:
        yield told


def recap(output: str) -> str:
    """The line of the host that routes in Ansible's recap."""
    found = re.search(rf"^{re.escape(ROUTER.name)} +:.*$", output, re.MULTILINE)
    assert found, output
    return found[0]


def test_the_way_by_a_provider(inventory: Path, story: Story) -> None:
    services = "systemctl is-enabled postfix dovecot rspamd unbound nftables fail2ban 2>&1 || true"
    before = DEMO.ssh(ROUTER, services), DEMO.ssh(ROUTER, "cat /etc/postfix/main.cf")
    here = copy.copy(DEMO)
    here.inventory = inventory

    first, second = here.site(), here.site()

    assert "unreachable=0    failed=0" in recap(first)
    assert "changed=0 " in recap(second), second
    assert "TASK [postfix : " not in first
    assert "TASK [dns_records : " not in first
    assert (DEMO.ssh(ROUTER, services), DEMO.ssh(ROUTER, "cat /etc/postfix/main.cf")) == before

    story.connections_pass()
    story.customer_writes()
    story.salesperson_answers()
    story.customer_answers()
    assert "routed" in DEMO.ssh(ROUTER, "journalctl -u fetch-and-route --no-pager")
    assert "mailbox-prod" in DEMO.ssh(ROUTER, "ls /etc/fetch-and-route/secrets")
