"""site.yml with a wrong inventory: every problem is told at once, in one line each, and nothing is changed."""

from __future__ import annotations

import copy
import datetime
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.story import ROOT, Hosts

pytestmark = [pytest.mark.hosts, pytest.mark.once]

# Takes two ports, and tells systemd when it has them (sd_notify(3)).
LISTENER = """
import os, socket
taken, resolver = socket.create_server(("", 25)), socket.create_server(("127.0.0.1", 53))
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
taken.accept()
""".replace("\n", "; ").strip("; ")


@pytest.fixture(scope="module")
def hosts() -> Hosts:
    return Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))


class Company:
    """A copy of the inventory to spoil, and what site.yml says of it."""

    def __init__(self, hosts: Hosts, directory: Path) -> None:
        self.directory = directory
        self.hosts = yaml.safe_load((hosts.inventory / "hosts.yml").read_text())
        self.facts = yaml.safe_load((hosts.inventory / "group_vars" / "all.yml").read_text())
        (directory / "group_vars").mkdir()
        (directory / "secrets").symlink_to(hosts.secrets.resolve())

    @property
    def database(self) -> dict[str, Any]:
        """The one database."""
        database: dict[str, Any] = self.facts["odoo_databases"][0]
        return database

    @property
    def domain(self) -> dict[str, Any]:
        """Its one domain."""
        domain: dict[str, Any] = self.database["domains"][0]
        return domain

    def run(self) -> tuple[int, str]:
        """Exit code and output of site.yml, which must not have changed anything."""
        (self.directory / "hosts.yml").write_text(yaml.safe_dump(self.hosts))
        (self.directory / "group_vars" / "all.yml").write_text(yaml.safe_dump(self.facts))
        done = subprocess.run(
            [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(self.directory), "site.yml"],
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "NO_COLOR": "1", "COLUMNS": "250"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert set(re.findall(r"changed=(\d+)", done.stdout)) <= {"0"}, done.stdout
        return done.returncode, re.sub(r"\s+", " ", done.stdout)


@pytest.fixture
def company(hosts: Hosts, tmp_path: Path) -> Company:
    return Company(hosts, tmp_path)


def expired_certificate(name: str, chain: Path, key: Path) -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(own.public_key())
    made = made.serial_number(x509.random_serial_number()).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False
    )
    made = made.not_valid_before(datetime.datetime(2020, 1, 1)).not_valid_after(datetime.datetime(2021, 1, 1))  # noqa: DTZ001 - UTC
    chain.write_bytes(made.sign(own, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key.write_bytes(own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))


def test_all_problems_of_the_inventory_are_told_at_once(company: Company) -> None:
    company.domain.update(name="example_com", catchall="catch all", bounce="sales", people=[{"name": "projects"}])
    company.facts["odoo_databases"].append({"name": "second", "login": "admin", "password": "x", "domains": []})
    company.facts["dns_records_zones"][0].pop("key_file")
    company.facts["dns_records_delegation"] = "mail-dns.provider.example"
    company.facts["dns_records_octodns_zones"] = [{"name": "exmaple.com"}]

    code, output = company.run()

    assert code != 0
    for part in ("example_com", "catch all", "bounce", "people", "[second].url", "key_file", "lies in none of"):
        assert part in output
    assert "dns_records_octodns_zones[exmaple.com].name: holds no name of ours" in output
    assert "dns_records_octodns_provider: is nothing, not a dictionary" in output
    assert "nothing was changed" in output


def test_own_files_that_cannot_serve_are_told_with_the_rest(company: Company, hosts: Hosts) -> None:
    company.domain["catchall"] = "catch all"
    company.facts |= {
        "certificate_mode": "files",
        "certificate_chain_file": "{{ secrets_directory }}/ca/odoo.example.com.pem",
        "certificate_key_file": f"{{{{ secrets_directory }}}}/ca/{hosts.mail.name}.key",
    }

    code, output = company.run()

    assert code != 0
    assert "catch all" in output
    assert f"odoo.example.com.pem is not valid for {hosts.mail.name}" in output
    assert f"{hosts.mail.name}.key does not belong to the first certificate" in output
    assert "nothing was changed" in output


def test_settings_of_later_roles_are_told_with_the_rest(company: Company) -> None:
    """Ansible itself would find them when that role's turn comes, with the roles before it already done."""
    company.domain["people"] = [{"name": "sales", "relay_to": "mx.provider.example"}]
    company.facts |= {
        "postfix_inet_protocols": "ipv5",
        "postfix_queue_lifetime": "3 days",
        "fail2ban_ban_time": "for ever",
        "nftables_extra_ports": [70000],
        "unattended_upgrades_reboot_time": "4 am",
        "unbound_forwarders": ["resolver.example.com"],
        "postfix_smarthosts": [{"host": "smtp.provider.example", "tls": "maybe"}],
    }

    code, output = company.run()

    assert code != 0
    for part in (
        "people[sales].name: 'sales' is already a business alias of this domain",
        "instead_of_alias: true",
        "postfix_inet_protocols: 'ipv5' cannot be: use one of all, ipv4, ipv6",
        "postfix_queue_lifetime: '3 days' is no time",
        "fail2ban_ban_time: 'for ever' is no time",
        "nftables_extra_ports: 70000 cannot be",
        "unattended_upgrades_reboot_time: '4 am' is no time of day",
        "is no address of a resolver",
        "postfix_smarthosts[smtp.provider.example].tls: 'maybe' cannot be",
        "postfix_smarthosts[smtp.provider.example].login: is missing",
        "postfix_smarthosts[smtp.provider.example].password: is missing",
    ):
        assert part in output, part
    assert "nothing was changed" in output


def test_a_domain_listed_twice_and_an_expired_certificate_are_told_with_the_rest(
    company: Company, tmp_path: Path
) -> None:
    company.domain["bounce"] = company.domain["catchall"]
    company.facts["odoo_databases"].append(copy.deepcopy(company.database) | {"name": "second"})
    chain, key = tmp_path / "expired.pem", tmp_path / "expired.key"
    expired_certificate("mail.example.com", chain, key)
    company.facts |= {
        "certificate_mode": "files",
        "certificate_chain_file": str(chain),
        "certificate_key_file": str(key),
    }

    code, output = company.run()

    assert code != 0
    for part in ("is given twice", "is already the catchall of this domain", "expired.pem expired on"):
        assert part in output, part
    assert "nothing was changed" in output


def test_what_acme_lacks_is_told_with_the_rest(company: Company, hosts: Hosts) -> None:
    company.domain["catchall"] = "catch all"
    company.facts |= {"certificate_mode": "acme", "acme_challenge": "dns-01"}
    company.facts["dns_records_zones"].pop(0)

    code, output = company.run()

    assert code != 0
    for part in ("catch all", "acme_email", "acme_terms_agreed", f"dns-01 needs a zone that has {hosts.mail.name}"):
        assert part in output
    assert "nothing was changed" in output


def test_an_odoo_that_is_away_or_says_no_is_told_for_each_database(company: Company) -> None:
    first = company.database
    away, login, name = (copy.deepcopy(first) for _ in range(3))
    away.update(name="away", url="https://10.77.0.69:4", domains=[{"name": "away.example"}])
    login.update(login="nobody", domains=[{"name": "login.example"}])
    name.update(name="missing", domains=[{"name": "missing.example"}])
    company.facts["odoo_databases"] = [away, login, name]

    code, output = company.run()

    assert code != 0
    assert "does not answer" in output
    assert "refuses the login" in output or "refuses login" in output
    assert "no database" in output
    assert "nothing was changed" in output


def test_odoo_online_needs_nothing(company: Company) -> None:
    company.database["url"] = "https://yourcompany.odoo.com"

    code, output = company.run()

    assert code == 0
    assert "Odoo Online brings its own mail server: nothing to do" in output


@pytest.fixture
def unfit_host(hosts: Hosts) -> Iterator[str]:
    """A host of another system, whose port 25 has been taken."""
    hosts.ssh(hosts.dns, "cp /etc/os-release /run/os-release && sed -i s/VERSION_ID=.*/VERSION_ID=11/ /etc/os-release")
    hosts.ssh(hosts.dns, "systemd-run --quiet --unit=taken --property=Type=notify python3 -c", f"'{LISTENER}'")
    yield hosts.dns.name
    hosts.ssh(hosts.dns, "systemctl stop taken; cp /run/os-release /etc/os-release")


def test_a_host_that_is_unfit_is_told_with_the_rest(company: Company, unfit_host: str) -> None:
    children = company.hosts["all"]["children"]
    children["mail_hosts"]["hosts"][unfit_host] = children["internet"]["hosts"][unfit_host] | {
        "mail_host_ipv4": "10.77.0.53"
    }
    company.domain["catchall"] = company.domain["bounce"]

    code, output = company.run()

    assert code != 0
    assert "Debian 12 or 13" in output
    for port in ("25", "53"):
        assert f"port {port} is taken by python3: stop and remove it" in output
    assert "catchall" in output


def test_a_mail_host_that_does_not_answer_stops_the_run_for_all(company: Company) -> None:
    mail_hosts = company.hosts["all"]["children"]["mail_hosts"]["hosts"]
    mail_hosts["mail2.example.com"] = {"ansible_host": "10.77.0.9", "mail_host_ipv4": "10.77.0.9"}

    code, output = company.run()

    assert code != 0
    assert "mail2.example.com" in output
    assert "UNREACHABLE" in output
    for role in ("postfix", "dns_records", "odoo_mail", "fetch_and_route"):
        assert f"TASK [{role} :" not in output


def test_the_inventory_chooses_where_secrets_are(company: Company, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    company.facts["secrets_directory"] = str(elsewhere)
    for zone in company.facts["dns_records_zones"]:
        zone["key_file"] = "{{ secrets_directory }}/tsig-mailroom"

    code, output = company.run()

    assert code != 0
    # Only there is it missing; a long path is shown shortened.
    assert "key_file" in output
    assert "cannot be read (no such file or directory)" in output
    assert "nothing was changed" in output
