"""Two mail hosts, and two Odoo each with a database `prod`, in one inventory: mail by each host into the right Odoo.

The second mail host has the other Debian, the second Odoo is of the other version; CONTRIBUTING.md has the command.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import json
import os
import re
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.more_hosts import DEMO, OTHER_DEBIAN, OTHER_ODOO, host, read, running, write
from tests.story import ROOT, WAIT, Hosts, Story, eventually

pytestmark = pytest.mark.hosts

FIRST, SECOND, BRANCH = DEMO.mail.name, "mail2.example.com", "odoo2.example.com"
MAIL_HOSTS = [FIRST, SECOND]
DATABASES = {"prod": "example.com", "branch": "branch.example.com"}
EACH = pytest.mark.parametrize(("database", "mail"), [(name, mail) for name in DATABASES for mail in MAIL_HOSTS])
SERVICES = "postfix dovecot rspamd unbound"
STAFF = "UPDATE res_partner SET email = replace(email, '@example.com', '@{}') WHERE email LIKE '%@example.com'"


class ByOneHost(Story):
    """A story whose customer has a mail server that takes the one mail host, whatever MX says."""

    def send_from_outside(self, message: EmailMessage) -> str:
        message["From"] = f"Customer <{self.customer}>"
        message["Date"] = email.utils.localtime()
        message["Message-ID"] = email.utils.make_msgid(domain="customer.example")
        data = base64.b64encode(bytes(message)).decode()
        mail, to = self.hosts.mail.address, email.utils.parseaddr(str(message["To"]))[1]
        swaks = f"swaks --silent 2 --server {mail} --from {self.customer} --to {to} --data -"
        self.hosts.ssh(self.hosts.outside, f"echo {data} | base64 --decode | {swaks}")
        return str(message["Message-ID"])


@dataclass
class Several:
    """The inventory, and what site.yml said of it the first and the second time."""

    path: Path
    hosts: dict[str, Any]
    facts: dict[str, Any]
    runs: list[str] = field(default_factory=list)

    def save(self) -> None:
        """Write what there is to be."""
        write(self.path, self.hosts, self.facts)

    def leave_out(self, database: str) -> None:
        """Have the inventory without a database, and the hosts, too."""
        self.facts["odoo_databases"] = [one for one in self.facts["odoo_databases"] if one["name"] != database]
        self.save()
        self.site()

    @property
    def mail_hosts(self) -> dict[str, Any]:
        """The mail hosts, as in hosts.yml."""
        found: dict[str, Any] = self.hosts["all"]["children"]["mail_hosts"]["hosts"]
        return found

    def site(self, *options: str, playbook: str = "site.yml") -> str:
        """Run a playbook with the inventory."""
        try:
            return Hosts(self.path).site(*options, playbook=playbook)
        except subprocess.CalledProcessError as error:
            raise AssertionError(error.stdout) from error

    @contextlib.contextmanager
    def story(self, database: str, mail: str = FIRST, kind: type[Story] = ByOneHost) -> Iterator[Story]:
        """The story of a database, with mail by way of one host."""
        hosts = Hosts(self.path, database, mail)
        # Odoo takes twenty mails of one sender in two hours.
        customer = f"customer+{uuid.uuid4().hex[:8]}@customer.example"
        with hosts.names(), contextlib.closing(kind(hosts, f"By {mail} for {database}", customer)) as story:
            yield story


def sql(hosts: Hosts, statement: str, database: str = "prod") -> None:
    """Have PostgreSQL do what people would have done in Odoo before."""
    command = f"cd / && runuser -u postgres -- psql --quiet --dbname={database} --command={shlex.quote(statement)}"
    hosts.ssh(hosts.odoo, command)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    hosts, facts = read()
    one = Several(tmp_path_factory.mktemp("several"), hosts, facts)
    children = hosts["all"]["children"]
    addresses = {"mail_host_ipv4": "10.77.0.26", "mail_host_ipv6": "fd77::26"}
    one.mail_hosts[SECOND] = host("mail2", f"mail-{OTHER_DEBIAN}", 26) | addresses
    children["odoo_hosts"]["hosts"][BRANCH] = host("odoo2", f"odoo-{OTHER_ODOO}", 70)
    (prod,) = facts["odoo_databases"]
    domain = {**prod["domains"][0], "name": DATABASES["branch"]}
    branch = {"name": "branch", "database": "prod", "url": "https://10.77.0.70", "domains": [domain]}
    facts["odoo_databases"] = [prod, {**prod, **branch}]
    facts["fail2ban_never_ban"] += ["10.77.0.70"]
    one.save()
    with running(one.path, SECOND, BRANCH):
        sql(Hosts(one.path, "branch"), STAFF.format(DATABASES["branch"]))
        one.runs += [one.site(), one.site()]
        yield one
        gone = one.mail_hosts.pop(SECOND)
        facts["odoo_databases"] = [prod]
        one.save()
        one.site()  # so that the demo's inventory finds nothing to change
        one.mail_hosts[SECOND] = gone  # to be removed
        one.save()


def recap(output: str, name: str) -> str:
    """A host's line in Ansible's recap."""
    found = re.search(rf"^{re.escape(name)} +:.*$", output, re.MULTILINE)
    assert found, output
    return found[0]


def words(output: str) -> str:
    """What was said, without its line breaks."""
    return " ".join(output.split())


def answer(story: Story, address: str) -> int:
    """What port 25 of the story's mail host says to an address."""
    with story.hosts.smtp(story.hosts.mail) as session:
        session.ehlo_or_helo_if_needed()
        session.mail("stranger@customer.example")
        return session.rcpt(address)[0]


def test_a_second_run_changes_nothing(several: Several) -> None:
    for name in MAIL_HOSTS:
        assert "failed=0" in recap(several.runs[0], name)
        assert "changed=0 " in recap(several.runs[1], name), several.runs[1]


@EACH
def test_the_story_comes_true_by_each_host_for_each_odoo(several: Several, database: str, mail: str) -> None:
    with several.story(database, mail) as story:
        for title, step in story.steps():
            print(f"{database} by {mail}: {title}: {step()}")
    for other in DATABASES.keys() - {database}:
        with several.story(other) as elsewhere:
            assert not elsewhere.admin("crm.lead", "search_count", [("name", "=", story.subject)])


@EACH
def test_each_host_asks_each_odoo_for_its_addresses(several: Several, database: str, mail: str) -> None:
    with several.story(database, mail) as story:
        (team,) = story.admin("crm.team", "search", [("name", "=", "Sales")])
        (model,) = story.admin("ir.model", "search", [("model", "=", "crm.lead")])
        name = f"later-{mail.partition('.')[0]}"
        values = {"alias_name": name, "alias_model_id": model, "alias_parent_thread_id": team}
        alias = story.admin("mail.alias", "create", values)
        try:
            story.hosts.ssh(story.hosts.mail, "systemctl", "start", "fetch-and-route.service")
            eventually("nobody asked Odoo", lambda: answer(story, f"{name}@{DATABASES[database]}") == 250)
            for other in DATABASES.keys() - {database}:
                assert answer(story, f"{name}@{DATABASES[other]}") == 550
        finally:
            story.admin("mail.alias", "unlink", [alias])


def test_the_world_sees_both_hosts_for_all_domains(several: Several) -> None:
    for domain in DATABASES.values():
        kdig = f"kdig +short @{DEMO.dns.address} {domain}"
        assert sorted(DEMO.ssh(DEMO.dns, f"{kdig} MX").split()[1::2]) == [f"{name}." for name in sorted(MAIL_HOSTS)]
        spf = DEMO.ssh(DEMO.dns, f"{kdig} TXT")
        for address in ("ip4:10.77.0.25", "ip4:10.77.0.26", "ip6:fd77::25", "ip6:fd77::26"):
            assert f"{address} " in spf
    DEMO.ssh(DEMO.dns, "systemctl reload unbound")
    several.site(playbook="playbooks/verify_dns.yml")  # ends with an error where anything fails


def test_mail_of_each_odoo_comes_round(several: Several) -> None:
    said = words(several.site(playbook="playbooks/verify_mail.yml"))
    for database, domain in DATABASES.items():
        assert f"odoo_databases[{database}].domains[{domain}]: aligned, the answer is in its thread" in said


def test_the_gateways_keys_are_replaced_on_both_hosts(several: Several) -> None:
    former = {name: DEMO.secret(f"gateway-{name}") for name in DATABASES}
    said = several.site(playbook="playbooks/rotate_odoo_key.yml")
    for name, key in former.items():
        assert f"odoo_databases[{name}].gateway keys: 2 -> 1" in said
        assert DEMO.secret(f"gateway-{name}") != key
    for mail in MAIL_HOSTS:
        hosts = Hosts(several.path, mail=mail)
        checked = [line.split()[0] for line in hosts.ssh(hosts.mail, "fetch-and-route check").splitlines()]
        assert checked == ["ok:"] * 2 * len(DATABASES)


def let_days_pass(days: int) -> None:
    """For the rotations: each key has been what it is for so many days longer."""
    for path, part, moments in (("dkim/selectors.json", "domains", "since"), ("ca/keys.json", "hosts", "shown")):
        content = json.loads((DEMO.secrets / path).read_text(encoding="utf-8"))
        for known in content[part].values():
            for entry in known if isinstance(known, list) else [known]:
                if entry.get(moments):
                    entry[moments] -= days * 86400
        (DEMO.secrets / path).write_text(json.dumps(content), encoding="utf-8")


def test_keys_in_dns_are_replaced_on_both_hosts(several: Several) -> None:
    now = ["-e", json.dumps({"dns_records_dkim_days": 0, "dns_records_tlsa_days": 0})]
    certificates = {name: (DEMO.secrets / "ca" / f"{name}.pem").read_text() for name in MAIL_HOSTS}
    several.site(*now, playbook="playbooks/rotate_keys.yml")
    let_days_pass(1)
    several.site(*now, playbook="playbooks/rotate_keys.yml")
    for name in MAIL_HOSTS:
        hosts = Hosts(several.path, mail=name)
        assert (DEMO.secrets / "ca" / f"{name}.pem").read_text() != certificates[name]
        with hosts.names(), hosts.smtp(hosts.mail):  # its certificate is verified
            pass
    for database, domain in DATABASES.items():
        assert "mailroom2" in DEMO.ssh(hosts.mail, f"ls /var/lib/rspamd/dkim/{domain}.*")
        with several.story(database) as story:
            story.customer_writes()
            story.salesperson_answers()
    DEMO.ssh(DEMO.dns, "systemctl reload unbound")
    several.site(playbook="playbooks/verify_dns.yml")


@contextlib.contextmanager
def down(several: Several, name: str) -> Iterator[None]:
    """A host is not there within this block."""
    container = several.hosts["all"]["children"]["mail_hosts"]["hosts"][name]["container_name"]

    def podman(command: str) -> None:
        environment = os.environ | {"CONTAINERS_CONF": str(ROOT / ".cache" / "containers.conf")}
        subprocess.run(["podman", command, container], env=environment, check=True, capture_output=True, timeout=WAIT)

    podman("stop")
    try:
        yield
    finally:
        podman("start")
        hosts = Hosts(several.path, mail=name)
        eventually(f"{name} is not back", lambda: hosts.ssh(hosts.mail, f"systemctl is-active {SERVICES}"))


def test_mail_goes_on_while_a_host_is_down(several: Several) -> None:
    other = ["--tags", "odoo_mail", "--extra-vars", json.dumps({"odoo_mail_hosts": [SECOND]})]
    try:
        with down(several, FIRST):
            for database in DATABASES:
                with several.story(database, SECOND, Story) as story:  # the customer's server goes by MX
                    story.customer_writes()
            said = several.site("--limit", SECOND, *other)
            for database in DATABASES:
                assert f"odoo_databases[{database}].outgoing server {FIRST}.active: True -> False" in said
                with several.story(database, SECOND, Story) as story:
                    story.customer_writes()
                    story.salesperson_answers()
                    assert f"from {SECOND}" in " ".join(story.answer.get_all("Received", []))
                    story.customer_answers()
    finally:
        said = several.site()
    for database in DATABASES:
        assert f"odoo_databases[{database}].outgoing server {FIRST}.active: False -> True" in said
        with several.story(database) as story:
            story.customer_writes()
            story.salesperson_answers()
            assert f"from {FIRST}" in " ".join(story.answer.get_all("Received", []))


def lives(several: Several) -> dict[str, str]:
    """Since when each service runs, which a run must not start anew."""
    found = {}
    for name in MAIL_HOSTS:
        hosts = Hosts(several.path, mail=name)
        show = f"systemctl show --property=MainPID,ActiveEnterTimestampMonotonic {SERVICES}"
        found[name] = hosts.ssh(hosts.mail, show)
    return found


@pytest.fixture
def third(several: Several) -> Iterator[str]:
    """One more database, in the first Odoo, which the inventory has from now on; its domain."""
    hosts = Hosts(several.path)
    sql(hosts, "CREATE DATABASE third OWNER odoo TEMPLATE pristine", "postgres")
    sql(hosts, "UPDATE res_partner SET email = 'admin@third.example.com' WHERE email LIKE 'admin@%'", "third")
    domain = {"name": "third.example.com", "aliases": [{"name": "sales", "model": "crm.team", "record": "Sales"}]}
    several.facts["odoo_databases"].append({**several.facts["odoo_databases"][0], "name": "third", "domains": [domain]})
    several.save()
    try:
        yield "third.example.com"
    finally:
        several.leave_out("third")
        sql(hosts, "DROP DATABASE third WITH (FORCE)", "postgres")


def test_another_database_adds_what_it_needs_and_goes_without_a_trace(several: Several, third: str) -> None:
    before, checked = lives(several), several.site("--check", "--diff")
    said = several.site("--diff")

    for output in (checked, said):
        changes = re.findall(r"odoo_databases\[[^\]]*\][^\n\"]*", output)
        assert {change[: len("odoo_databases[third]")] for change in changes} == {"odoo_databases[third]"}
    removed = {line for line in said.splitlines() if re.match("-(?!--)", line)}
    assert [line for line in removed if not line.startswith("-virtual_mailbox_domains = ")] == []
    secrets = [DEMO.secret("gateway-third"), DEMO.secret("mailbox-third")]
    assert [secret for secret in secrets if secret in said] == []
    assert lives(several) == before
    for mail in MAIL_HOSTS:
        with several.story("third", mail) as story:
            eventually("Odoo was not asked by itself", lambda: answer(story, f"nobody@{third}") == 550)
            story.customer_writes()
    again = several.site()
    assert [name for name in MAIL_HOSTS if "changed=0 " not in recap(again, name)] == []

    only = ["--extra-vars", json.dumps({"odoo_mail_only": ["third"]})]
    said = several.site(*only, playbook="playbooks/odoo_remove.yml")

    assert "odoo_databases[third].gateway action: there -> none" in said
    assert "odoo_databases[prod]" not in said
    assert "odoo_databases[branch]" not in said
    several.leave_out("third")
    for database in DATABASES:
        with several.story(database, SECOND) as story:
            story.customer_writes()
