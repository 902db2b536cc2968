"""Mail at a provider: a host without a mail server routes into Odoo, and the provider's servers are Odoo's.

The provider is our own mail host, which has to be converged by inventory/demo; the host that routes is the stranger's.
CONTRIBUTING.md has the command.
"""

from __future__ import annotations

import contextlib
import copy
import email.utils
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.story import Host, Hosts, Story

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
    facts["odoo_databases"][0]["domains"][0]["former_names"] = ["old-bounce"]
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
        units = "fetch-and-route.timer fetch-and-route-watch.service"
        files = "/etc/systemd/system/fetch-and-route*"
        DEMO.ssh(ROUTER, f"systemctl disable --now {units}; rm -r {gone} {files}; systemctl daemon-reload")
        DEMO.ssh(DEMO.mail, "systemctl", "start", "fetch-and-route.timer")


@contextlib.contextmanager
def story(subject: str, *, by_itself: bool = False) -> Iterator[Story]:
    """The story, with the other host to route, when it is told to or by itself."""
    real = Hosts.ssh

    def ssh(self: Hosts, host: Host, *command: str) -> str:
        routes = command == ("systemctl", "start", "fetch-and-route.service")
        return "" if routes and by_itself else real(self, ROUTER if routes else host, *command)

    with pytest.MonkeyPatch.context() as patch, DEMO.names():
        patch.setattr(Hosts, "ssh", ssh)
        with contextlib.closing(Story(DEMO, subject=subject)) as told:
            yield told


@pytest.fixture(scope="module")
def here(inventory: Path) -> Hosts:
    """Who runs site.yml with this inventory."""
    hosts = copy.copy(DEMO)
    hosts.inventory = inventory
    return hosts


def recap(output: str) -> str:
    """The line of the host that routes in Ansible's recap."""
    found = re.search(rf"^{re.escape(ROUTER.name)} +:.*$", output, re.MULTILINE)
    assert found, output
    return found[0]


def has_own_mail() -> tuple[str, str]:
    """What a host that only routes keeps as it is."""
    services = "systemctl is-enabled postfix dovecot rspamd unbound nftables fail2ban 2>&1 || true"
    return DEMO.ssh(ROUTER, services), DEMO.ssh(ROUTER, "cat /etc/postfix/main.cf")


def test_the_way_by_a_provider(here: Hosts) -> None:
    before = has_own_mail()

    first, second = here.site(), here.site()

    assert "unreachable=0    failed=0" in recap(first)
    assert "changed=0 " in recap(second), second
    assert "TASK [postfix : " not in first
    assert "TASK [dns_records : " not in first
    assert has_own_mail() == before
    with story("Ten chairs, by way of a provider") as told:
        told.connections_pass()
        told.customer_writes()
        told.salesperson_answers()
        told.customer_answers()
    assert "routed" in DEMO.ssh(ROUTER, "journalctl -u fetch-and-route --no-pager")
    assert "mailbox-prod" in DEMO.ssh(ROUTER, "ls /etc/fetch-and-route/secrets")


def test_what_comes_back_to_a_name_used_earlier_is_a_bounce_still(here: Hosts) -> None:
    """The provider says which address a mail was sent to; Odoo knows it by its name of today alone."""
    here.site("--tags", "fetch_and_route")
    message_id = email.utils.make_msgid(domain="customer.example")
    with story("A bounce") as told, DEMO.mailbox() as session:
        address = f"old-bounce+7-crm.lead-7@{told.hosts.domain['name']}"  # the form that Odoo 14 sends from
        lines = [f"Delivered-To: {address}", "From: customer@customer.example"]
        lines += ["Subject: It could not be delivered", f"Message-ID: {message_id}", "", "Mailbox full.", ""]
        session.append("INBOX", "\r\n".join(lines).encode())

        told.route(message_id)  # what is no bounce has no route here, and would go to Quarantine


def test_new_mail_is_routed_by_itself_in_push_mode(here: Hosts) -> None:
    push = ["--tags", "fetch_and_route", "--extra-vars", "fetch_and_route_mode=push"]
    here.site(*push)
    assert "changed=0 " in recap(here.site(*push))
    DEMO.ssh(ROUTER, "systemctl stop fetch-and-route.timer fetch-and-route.service")
    with story("Ten chairs, pushed by a provider", by_itself=True) as told:
        told.customer_writes()
    assert "routed" in DEMO.ssh(ROUTER, "journalctl -u fetch-and-route-watch --no-pager")
