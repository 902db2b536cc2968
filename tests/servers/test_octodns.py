"""Mail records through octoDNS and its provider for BIND, in zones of a real Knot and BIND, beside those of others.

Needs knotd and named (`tests/setup servers` installs them).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.update
import pytest

from library import dns_octodns
from tests.name_servers import APEX, REVERSE, SECRET, NameServer, StartNameServer

pytestmark = pytest.mark.hosts

ROOT = Path(__file__).resolve().parents[2]
HOST, DMARC, DKIM = "mail.example.com.", "_dmarc.example.com.", "mailroom1._domainkey.example.com."
UNUSUAL = '"a \\\\ \\"quoted\\" caf\\233\\010line"'
OURS = '"v=spf1 ip4:192.0.2.25 include:example.net -all"'


def rrset(name: str, kind: str, *values: str, shared: bool = False) -> dict[str, Any]:
    ownership = "shared" if shared else "exclusive"
    return {"name": name, "type": kind, "ttl": 3600, "values": list(values), "ownership": ownership}


RECORDS = [
    rrset(HOST, "A", "192.0.2.25"),
    rrset(HOST, "AAAA", "2001:db8::25"),
    rrset(HOST, "CAA", '0 issue "ca.example"', shared=True),
    rrset(APEX, "MX", "10 mail.example.com."),
    rrset(APEX, "TXT", "v=spf1 ip4:192.0.2.25 ~all", shared=True),
    rrset(DKIM, "TXT", f"v=DKIM1; k=rsa; p={'A' * 392}"),
    rrset(DMARC, "TXT", "v=DMARC1; p=quarantine"),
    rrset(f"_25._tcp.{HOST}", "TLSA", f"3 1 1 {'ab' * 32}"),
]


class Publisher:
    """The module with the parameters of one company."""

    def __init__(self, server: NameServer, directory: Path) -> None:
        self.directory = directory
        self.parameters: dict[str, Any] = {
            "records": RECORDS,
            "zones": [{"name": "example.com", "server": "127.0.0.1", "port": server.port}],
            "elsewhere": [],
            "provider": {
                "class": "octodns_bind.Rfc2136Provider",
                "host": "127.0.0.1",
                "port": server.port,
                "key_name": "mailroom",
                "key_secret": "env/MAILROOM_TEST_SECRET",
                "key_algorithm": "hmac-sha256",
            },
            "directory": str(directory / "octodns"),
            "plugins": str(ROOT / "roles" / "dns_records" / "files"),
            "command": str(Path(sys.executable).parent / "octodns-sync"),
            "apply": True,
            "ledger": str(directory / "dns-ledger.json"),
            "resolver": "127.0.0.1",
            "resolver_port": server.port,
            "adopt": [],
            "remove": [],
            "mx_takeover": False,
            "spf_consolidate": False,
            "prune": False,
            "timeout": 5.0,
            "readback_timeout": 5.0,
        }

    def __call__(self, *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
        return dns_octodns.run(self.parameters | options, check_mode)

    def refusal(self, **options: Any) -> str:
        """Answer the one line with which the module gives up."""
        with pytest.raises(dns_octodns.Refused) as refused:
            self(**options)
        assert "\n" not in str(refused.value)
        return str(refused.value)


@pytest.fixture(params=["knot"])
def server(request: pytest.FixtureRequest, start_name_server: StartNameServer) -> NameServer:
    """A server of a zone that has texts of others, all of which octoDNS can keep."""
    started = start_name_server(request.param)
    started.edit(lambda message: message.delete(APEX, "TXT", UNUSUAL))
    return started


@pytest.fixture
def publish(server: NameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    monkeypatch.setenv("MAILROOM_TEST_SECRET", SECRET)
    return Publisher(server, tmp_path)


def test_the_plan_is_shown_and_nothing_done_until_told(server: NameServer, publish: Publisher) -> None:
    serial = server.serial()
    answer = publish(apply=False)
    assert answer["changed"] is False
    assert any(HOST.rstrip(".") in line and "192.0.2.25" in line for line in answer["plan"])
    assert publish(check_mode=True)["changed"]
    assert server.serial() == serial
    assert not Path(publish.parameters["ledger"]).exists()


def texts(server: NameServer) -> set[str]:
    """The texts at the apex, each in one piece: where they are split is octoDNS's choice."""
    return {value.replace('" "', "") for value in server.values(APEX, "TXT")}


@pytest.mark.parametrize("server", ["knot", "bind"], indirect=True)
def test_records_are_made_beside_those_of_others(server: NameServer, publish: Publisher) -> None:
    server.edit(lambda message: message.add(APEX, 3600, "TXT", '"v=spf1 include:example.net -all"'))
    before, others = texts(server), {kind: server.values(APEX, kind) for kind in ("A", "NS")}
    assert publish()["changed"]
    assert texts(server) == before - {'"v=spf1 include:example.net -all"'} | {OURS}
    assert {kind: server.values(APEX, kind) for kind in ("A", "NS")} == others
    assert server.values("www.example.com.", "A") == {"192.0.2.80"}
    assert server.values(HOST, "AAAA") == {"2001:db8::25"}
    assert server.values(HOST, "CAA") == {'0 issue "ca.example"'}
    assert server.values(APEX, "MX") == {"10 mail.example.com."}
    assert server.values(f"_25._tcp.{HOST}", "TLSA") == {f"3 1 1 {'ab' * 32}"}
    [key] = server.values(DKIM, "TXT")
    assert key.replace('" "', "") == f'"v=DKIM1; k=rsa; p={"A" * 392}"'
    serial = server.serial()
    assert publish() == {"changed": False, "plan": [], "warnings": []}
    assert server.serial() == serial


def test_what_is_nearer_to_another_zone_is_left_alone(server: NameServer, publish: Publisher) -> None:
    publish(elsewhere=["mail.example.com"])
    assert server.values(DMARC, "TXT") == {'"v=DMARC1; p=quarantine"'}
    assert server.values(HOST, "A") == set()


Edit = Callable[[dns.update.UpdateMessage], None]


def too_much(message: dns.update.UpdateMessage) -> None:
    message.add(APEX, 3600, "TXT", '"v=spf1 include:spf.example.com -all"')
    message.add("spf.example.com.", 3600, "TXT", f'"v=spf1 {"a:www.example.com " * 10}-all"')


REPORTS = rrset(DMARC, "TXT", f"v=DMARC1; p=none; rua=mailto:a@{REVERSE}")
REFUSALS: dict[str, tuple[list[dict[str, Any]], Edit, str]] = {
    "MX of others": (
        [],
        lambda message: message.add(APEX, 3600, "MX", "1 mx.example.net."),
        "example.com. MX sends mail to 1 mx.example.net., which we did not set",
    ),
    "a policy of others": (
        [],
        lambda message: message.add(DMARC, 3600, "TXT", '"v=DMARC1; p=reject"'),
        "_dmarc.example.com to dns_records_adopt",
    ),
    "an alias": (
        [],
        lambda message: message.add(DMARC, 3600, "CNAME", "dmarc.example.net."),
        "_dmarc.example.com. is a CNAME of dmarc.example.net.",
    ),
    "two SPF records": (
        [],
        lambda message: message.add(APEX, 3600, "TXT", '"v=spf1 -all"', '"v=spf1 mx -all"'),
        "example.com. TXT has 2 SPF records",
    ),
    "SPF over ten lookups": ([], too_much, "receivers would give up on SPF (a:www.example.com is lookup 11"),
    "reports to who has not agreed": ([REPORTS], lambda _: None, f"{REVERSE} has not agreed to get its DMARC reports"),
    "the address of the zone": ([rrset(APEX, "A", "192.0.2.25")], lambda _: None, "is the address of the zone itself"),
    "a name server": ([rrset(APEX, "NS", "ns.example.com.")], lambda _: None, "NS is no type of record for mail"),
    "a label of 64": ([rrset(f"{'a' * 64}.{APEX}", "A", "192.0.2.25")], lambda _: None, "is no name in DNS"),
    "a name of 256": ([rrset(f"{'a.' * 122}{APEX}", "A", "192.0.2.25")], lambda _: None, "is no name in DNS"),
    "no value": ([rrset(APEX, "MX", "mail.example.com.")], lambda _: None, "is no value of type MX"),
}


@pytest.mark.parametrize(("records", "edit", "text"), REFUSALS.values(), ids=REFUSALS)
def test_what_may_not_be_is_refused_before_octodns_is_asked(
    server: NameServer, publish: Publisher, records: list[dict[str, Any]], edit: Edit, text: str
) -> None:
    keys = {(record["name"], record["type"]) for record in records}
    others = [record for record in RECORDS if (record["name"], record["type"]) not in keys]
    server.edit(edit)
    serial = server.serial()
    assert text in publish.refusal(records=[*others, *records], command="/nowhere/octodns-sync")
    assert server.serial() == serial


def test_a_text_that_was_added_after_the_look_stays(
    server: NameServer, publish: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = dns_octodns._octodns

    def late(*arguments: Any) -> str:
        server.edit(lambda message: message.add(APEX, 3600, "TXT", '"apple-domain-verification=x"'))
        return ask(*arguments)

    monkeypatch.setattr(dns_octodns, "_octodns", late)
    line = publish.refusal()
    assert line.startswith("the provider has something else at example.com. TXT than DNS had")
    assert '"apple-domain-verification=x"' in server.values(APEX, "TXT")
    assert server.values(HOST, "A") == set()


def test_a_text_that_might_not_survive_is_refused(server: NameServer, publish: Publisher) -> None:
    server.edit(lambda message: message.add(APEX, 3600, "TXT", UNUSUAL))
    assert "example.com. TXT has a text with quotes" in publish.refusal()
    assert server.values(HOST, "A") == set()


def test_what_is_wanted_no_longer_goes_when_told(server: NameServer, publish: Publisher) -> None:
    publish()
    publish(records=[record for record in RECORDS if record["name"] != DMARC], prune=True)
    assert server.values(DMARC, "TXT") == set()
    assert server.values("www.example.com.", "A") == {"192.0.2.80"}
    assert f"{DMARC} TXT" not in json.loads(Path(publish.parameters["ledger"]).read_text(encoding="utf-8"))["records"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"command": "/nowhere/octodns-sync"}, "install octoDNS and give dns_records_octodns_command"),
        ({"provider": {"class": "octodns_nothing.Provider"}}, "octodns-sync failed: "),
        ({"zones": [{"name": "example.org", "server": "127.0.0.1", "port": 1}]}, "cannot be reached"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(publish: Publisher, options: dict[str, Any], text: str) -> None:
    records = [rrset("example.org.", "MX", "10 mail.example.com."), *RECORDS]
    assert text in publish.refusal(records=records, **options)


def test_the_role_shows_the_plan_and_carries_it_out_when_told(
    server: NameServer, publish: Publisher, tmp_path: Path
) -> None:
    inventory = tmp_path / "inventory"
    inventory.mkdir()
    variables = {
        "secrets_directory": str(tmp_path / "secrets"),
        "odoo_databases": [{"name": "prod", "domains": [{"name": "example.com"}]}],
        "dns_records_octodns_zones": publish.parameters["zones"],
        "dns_records_octodns_provider": publish.parameters["provider"],
        "dns_records_octodns_command": publish.parameters["command"],
    }
    hosts = {"mail_hosts": {"hosts": {"mail.example.com": {"mail_host_ipv4": "192.0.2.25"}}}}
    (inventory / "hosts.yml").write_text(json.dumps({"all": {"children": hosts, "vars": variables}}), encoding="utf-8")
    play = [{"name": "Publish", "hosts": "mail_hosts", "gather_facts": False, "roles": ["dns_records"]}]
    (tmp_path / "publish.yml").write_text(json.dumps(play), encoding="utf-8")

    def played(*arguments: str) -> str:
        command = ["ansible-playbook", "-i", str(inventory), str(tmp_path / "publish.yml"), *arguments]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "LC_ALL": "C.UTF-8"}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    shown = played()
    assert "octoDNS would do, with dns_records_octodns_apply:" in shown
    assert "192.0.2.25" in shown
    assert "changed=0" in shown
    assert server.values(HOST, "A") == set()
    assert SECRET not in shown
    assert "octoDNS has done:" in played("-e", "dns_records_octodns_apply=true")
    assert server.values(HOST, "A") == {"192.0.2.25"}


def test_a_token_that_is_written_out_is_not_told(tmp_path: Path) -> None:
    parameters = {
        "records": [],
        "zones": [],
        "provider": {"class": "example.Provider", "token": "a-secret-token"},
        "directory": str(tmp_path),
        "plugins": str(tmp_path),
        "command": "/bin/true",
        "ledger": str(tmp_path / "ledger.json"),
    }
    ansible = [str(Path(sys.prefix, "bin", "ansible")), "localhost", "-vvv", "-c", "local", "-m", "dns_octodns"]
    ansible += ["-e", f"ansible_python_interpreter={sys.executable}", "-a", json.dumps(parameters)]
    done = subprocess.run(ansible, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "SUCCESS" in done.stdout
    assert "a-secret-token" not in done.stdout + done.stderr
