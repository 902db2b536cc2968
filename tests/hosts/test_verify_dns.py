"""playbooks/verify_dns.yml: what the world sees of the mail records, with a real name server and a real resolver."""

from __future__ import annotations

import html
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.zone
import pytest

from tests.story import ROOT, Hosts

pytestmark = [pytest.mark.hosts, pytest.mark.once]

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
DOMAIN = HOSTS.domain["name"]
REVERSE = "0.77.10.in-addr.arpa"


def forget() -> None:
    """The test hosts' resolver remembers nothing: it keeps each record for a second.

    Not by a restart: the mail host's own, which asks it, would leave it alone for a while.
    """
    HOSTS.ssh(HOSTS.dns, "systemctl reload unbound")


def verify(report: Path, *options: str) -> tuple[int, list[tuple[str, str, str]]]:
    """The playbook's exit code, and verdict, check and text of all findings that are not ok; nothing is remembered."""
    forget()
    playbook = Path(sys.executable).parent / "ansible-playbook"
    done = subprocess.run(
        [playbook, "-i", HOSTS.inventory, "playbooks/verify_dns.yml", "-e", f"dns_records_report={report}", *options],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        check=False,
        capture_output=True,
        text=True,
    )
    findings = json.loads(report.read_text(encoding="utf-8"))
    assert all(finding["text"] in done.stdout for finding in findings), done.stdout
    assert (f"in the zone of {DOMAIN}:" in done.stdout) == any("dns_records_page" in option for option in options)
    bad = [finding for finding in findings if finding["verdict"] != "ok"]
    return done.returncode, [(finding["verdict"], finding["check"], finding["text"]) for finding in bad]


def edit(zone: str, *commands: str) -> None:
    """Change a zone on its name server, as another administrator would."""
    steps = " && ".join(f"knotc zone-{command}" for command in commands)
    HOSTS.ssh(HOSTS.dns, f"knotc zone-begin {zone} && {steps} && knotc zone-commit {zone}")


@contextmanager
def replaced(zone: str, owner: str, kind: str, *values: str) -> Iterator[None]:
    """For a while, other values stand in a record set; afterwards those of before, with their TTL."""
    before = HOSTS.ssh(HOSTS.dns, f"knotc zone-read {zone} {owner} {kind}").splitlines()
    where = f"{zone} {owner}"
    kept = [line.split(maxsplit=4) for line in before]  # [zone] owner ttl type value
    edit(zone, f"unset {where} {kind}", *(f"set {where} 60 {kind} {shlex.quote(value)}" for value in values))
    try:
        yield
    finally:
        back = [f"set {where} {line[2]} {kind} {shlex.quote(line[4])}" for line in kept]
        edit(zone, *([f"unset {where} {kind}"] if values else []), *back)


def test_what_site_yml_published_is_what_the_world_should_see(tmp_path: Path) -> None:
    """The demo's authority is its own, and on port 25 weak is better than none."""
    code, bad = verify(tmp_path / "report.json")
    advice = [("advice", check) for check in ("TLS certificate", "TLS key exchange", "TLS version")]
    assert (code, [finding[:2] for finding in bad]) == (0, advice)


def test_what_is_in_no_zone_of_ours_is_on_a_page_to_copy(tmp_path: Path) -> None:
    page, zone = tmp_path / "records.html", tmp_path / "mail.zone"
    options = {"dns_records_zones": [], "dns_records_page": str(page), "dns_records_zone_file": str(zone)}
    with replaced(DOMAIN, "@", "MX", "10 mx.elsewhere.example."):
        code, bad = verify(tmp_path / "report.json", "-e", json.dumps(options))
    assert code == 2
    assert ("fails", "MX") in [finding[:2] for finding in bad]
    shown = html.unescape(page.read_text(encoding="utf-8"))
    assert shown.count('class="fails">not as it has to be<') == 1
    assert "is 10 mx.elsewhere.example.: set MX 10 mail.example.com." in shown
    published = dns.zone.from_text(zone.read_text(encoding="utf-8"), f"{DOMAIN}.", relativize=False, check_origin=False)
    addresses = [rdata.to_text() for _, _, rdata in published.iterate_rdatas("A")]
    assert addresses == [HOSTS.mail.address]
    assert f"<code>{HOSTS.mail.address}</code>" in shown


def test_names_that_are_to_lead_to_us_are_on_the_page(tmp_path: Path) -> None:
    page, to = tmp_path / "records.html", f"keys.{REVERSE}"
    options = {"dns_records_zones": [{"name": REVERSE}], "dns_records_delegation": to, "dns_records_page": str(page)}
    _, bad = verify(tmp_path / "report.json", "-e", json.dumps(options))
    own = "has a record of its own, which stays as it is when ours changes"
    assert ("fails", "delegation", f"{own}: replace it by CNAME _dmarc.{DOMAIN}.{to}.") in bad
    shown = html.unescape(page.read_text(encoding="utf-8"))
    assert f"<code>_dmarc.{DOMAIN}.{to}</code>" in shown
    assert "set once: from then on we write what verifies the signature" in shown


def test_faults_of_others_are_found_and_end_the_run(tmp_path: Path) -> None:
    name = f"{HOSTS.selector}._domainkey"
    key = HOSTS.ssh(HOSTS.dns, f"knotc zone-read {DOMAIN} {name} TXT").split(maxsplit=4)[4].strip()
    with (
        replaced(DOMAIN, "@", "TXT", '"v=spf1 ip4:10.77.0.25 ~all"', '"v=spf1 -all"'),
        replaced(DOMAIN, name, "TXT", key.replace("p=MII", "p=MI I")),
        replaced(REVERSE, "25", "PTR"),
        replaced(DOMAIN, "_25._tcp.mail", "TLSA", f"3 1 1 {'00' * 32}"),
        replaced(DOMAIN, "_mta-sts", "TXT", '"v=STSv1; id=1"'),
    ):
        code, bad = verify(tmp_path / "report.json")
    assert code == 2
    found = {check: text for verdict, check, text in bad if verdict == "fails"}
    assert found.keys() == {"SPF", "DKIM", "reverse DNS", "TLSA", "MTA-STS record"}, bad
    assert f"{DOMAIN} has 2 SPF records, where one is allowed" in found["SPF"]
    assert "holds our key with spaces inside" in found["DKIM"]
    assert "names another certificate than port 25 shows" in found["TLSA"]
    assert "who has fetched an earlier policy keeps to that" in found["MTA-STS record"]
    assert found["reverse DNS"] == "is not there: run site.yml"
