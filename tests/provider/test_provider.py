"""Mail at a provider: a host without a mail server routes into Odoo, and the provider's servers are Odoo's.

The provider is our own mail host, which has to be converged by inventory/demo. The host that routes is the stranger's,
which has mail services of its own, and then a bare one of the other Debian. CONTRIBUTING.md has the command.
"""

from __future__ import annotations

import contextlib
import email.utils
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.more_hosts import DEMO, OTHER_DEBIAN, host, read, running, write
from tests.story import Host, Hosts, Story

pytestmark = pytest.mark.hosts

NAME = DEMO.database["name"]
OTHER = "router.example.com"


def inventory(path: Path, router: str) -> None:
    """The demo's inventory without a mail server; a host that is not in it is made, with the other Debian."""
    hosts, facts = read()
    children = hosts["all"]["children"]
    strangers = children["internet"]["hosts"]
    strangers.update(children["mail_hosts"]["hosts"])
    children["mail_hosts"] = {"hosts": {router: strangers.pop(router, host("router", f"mail-{OTHER_DEBIAN}", 27))}}
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
    write(path, hosts, facts)


@pytest.fixture(scope="module", params=[DEMO.outside.name, OTHER])
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Who runs site.yml for a host that routes; meanwhile the mail host itself routes nothing."""
    path = tmp_path_factory.mktemp("provider")
    inventory(path, request.param)
    with running(path, *{OTHER} & {request.param}) as hosts:
        DEMO.ssh(DEMO.mail, "systemctl", "stop", "fetch-and-route.timer")
        try:
            yield hosts
        finally:
            gone = "/usr/local/bin/fetch-and-route /usr/local/lib/fetch-and-route /etc/fetch-and-route"
            units = "fetch-and-route.timer fetch-and-route-watch.service"
            files = "/etc/systemd/system/fetch-and-route*"
            hosts.ssh(hosts.mail, f"systemctl disable --now {units}; rm -r {gone} {files}; systemctl daemon-reload")
            DEMO.ssh(DEMO.mail, "systemctl", "start", "fetch-and-route.timer")


@contextlib.contextmanager
def story(here: Hosts, subject: str, *, by_itself: bool = False) -> Iterator[Story]:
    """The story, with the other host to route, when it is told to or by itself."""
    real = Hosts.ssh

    def ssh(self: Hosts, host: Host, *command: str) -> str:
        routes = command == ("systemctl", "start", "fetch-and-route.service")
        return "" if routes and by_itself else real(self, here.mail if routes else host, *command)

    with pytest.MonkeyPatch.context() as patch, DEMO.names():
        patch.setattr(Hosts, "ssh", ssh)
        # Odoo takes twenty mails of one sender in two hours.
        customer = f"customer+{uuid.uuid4().hex[:8]}@customer.example"
        with contextlib.closing(Story(DEMO, subject=subject, customer=customer)) as told:
            yield told


def recap(here: Hosts, output: str) -> str:
    """The line of the host that routes in Ansible's recap."""
    found = re.search(rf"^{re.escape(here.mail.name)} +:.*$", output, re.MULTILINE)
    assert found, output
    return found[0]


def has_own_mail(here: Hosts) -> str:
    """What a host that only routes keeps as it is."""
    services = "systemctl is-enabled postfix dovecot rspamd unbound nftables fail2ban"
    return here.ssh(here.mail, f"{{ {services}; cat /etc/postfix/main.cf /etc/resolv.conf; }} 2>&1 || true")


def test_the_way_by_a_provider(here: Hosts) -> None:
    before = has_own_mail(here)

    first, second = here.site(), here.site()

    assert "unreachable=0    failed=0" in recap(here, first)
    assert "changed=0 " in recap(here, second), second
    assert "TASK [postfix : " not in first
    assert "TASK [dns_records : " not in first
    assert has_own_mail(here) == before
    with story(here, "Ten chairs, by way of a provider") as told:
        told.connections_pass()
        told.customer_writes()
        told.salesperson_answers()
        told.customer_answers()
    assert "routed" in here.ssh(here.mail, "journalctl -u fetch-and-route --no-pager")
    assert "mailbox-prod" in here.ssh(here.mail, "ls /etc/fetch-and-route/secrets")


def test_what_comes_back_to_a_name_used_earlier_is_a_bounce_still(here: Hosts) -> None:
    """The provider says which address a mail was sent to; Odoo knows it by its name of today alone."""
    here.site("--tags", "fetch_and_route")
    message_id = email.utils.make_msgid(domain="customer.example")
    with story(here, "A bounce") as told, DEMO.mailbox() as session:
        address = f"old-bounce+7-crm.lead-7@{told.hosts.domain['name']}"  # the form that Odoo 14 sends from
        lines = [f"Delivered-To: {address}", "From: customer@customer.example"]
        lines += ["Subject: It could not be delivered", f"Message-ID: {message_id}", "", "Mailbox full.", ""]
        session.append("INBOX", "\r\n".join(lines).encode())

        told.route(message_id)  # what is no bounce has no route here, and would go to Quarantine


def test_new_mail_is_routed_by_itself_in_push_mode(here: Hosts) -> None:
    push = ["--tags", "fetch_and_route", "--extra-vars", "fetch_and_route_mode=push"]
    here.site(*push)
    assert "changed=0 " in recap(here, here.site(*push))
    here.ssh(here.mail, "systemctl stop fetch-and-route.timer fetch-and-route.service")
    with story(here, "Ten chairs, pushed by a provider", by_itself=True) as told:
        told.customer_writes()
    assert "routed" in here.ssh(here.mail, "journalctl -u fetch-and-route-watch --no-pager")
