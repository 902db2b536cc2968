#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look at the mail records as the world sees them, and say what is right and wrong."""

from __future__ import annotations

import contextlib
import http.client
import smtplib
import socket
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

MISSING = ""
if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    from module_utils import dns_world, dns_zone, mail_checks, provider_checks, smtp_tls
else:
    try:
        from ansible.module_utils import dns_world, dns_zone, mail_checks, provider_checks, smtp_tls
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        MISSING = str(error)

DOCUMENTATION = r"""
module: dns_verify
short_description: Look at the mail records as the world sees them
description:
  - Runs on the control node and needs dnspython. Asks a resolver, and every name server of the zones, for all that
    matters to mail, and compares it with what the inventory and the keys say. Changes nothing.
  - Records are compared for equality. SPF is evaluated as receivers do, for our addresses and for a stranger's. TLSA is
    compared with the certificate that port 25 shows, an MTA-STS policy with the MX records. Port 25 is asked what TLS
    it offers and takes, and whether it is there over IPv6.
options:
  records:
    description: What is wanted, as the filter C(mail_rrsets) answers it.
    type: list
    elements: dict
    required: true
  hosts:
    description: The mail hosts, each with C(name), C(ipv4) and C(ipv6).
    type: list
    elements: dict
    required: true
  domains: {description: The domains of mail., type: list, elements: str, required: true}
  providers:
    description: What is wanted of domains whose mail is at a provider, as the filter C(provider_domains) answers it.
    type: list
    elements: dict
    default: []
  zones: {description: Names of the zones that are ours to write., type: list, elements: str, default: []}
  resolver: {description: 'Address of the resolver to ask, by default that of this machine.', type: str, default: ''}
  resolver_port: {description: Its port., type: int, default: 53}
  policy: {description: 'The MTA-STS policy that is to be served, if any.', type: str, default: ''}
  ca_file:
    description:
      - File with the authority of who serves the policy, and of the certificate of port 25; by default those of this
        machine.
    type: str
    default: ''
  issuer: {description: 'The authority''s name in CAA that has to be allowed, if any.', type: str, default: ''}
  block_lists: {description: DNS block lists to look the addresses up in., type: list, elements: str, default: []}
  timeout: {description: Seconds that an answer may take., type: float, default: 5}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
author: Mailroom contributors
"""

EXAMPLES = r"""
- name: Look at the mail records
  dns_verify:
    records: "{{ odoo_databases | mail_rrsets(dns_records_hosts, dns_records_dkim) }}"
    hosts: "{{ dns_records_hosts }}"
    domains: [example.com]
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
findings:
  description: What each check found; those that fail are last.
  returned: always
  type: list
  elements: dict
  sample: [{name: example.com, check: MX, verdict: ok, whose: managed, text: 10 mail.example.com.}]
table:
  description: The findings as lines of a table, and how many there are of each verdict.
  returned: always
  type: list
  elements: str
failing:
  description: How many of them fail.
  returned: always
  type: int
  sample: 0
"""

ORDER = ("ok", "advice", "unknown", "fails")
AT_ONCE = 32  # checks under way
MAX_POLICY = 65536  # bytes; RFC 8461 section 3.3


def run(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Ask everything at the same time; answer what the module answers. Raises ValueError with all that is no record."""
    problems: list[str] = []
    wanted = dns_zone.wanted_sets(parameters["records"], problems)
    zones = [dns_zone.checked_name(zone, "zones", problems) for zone in parameters["zones"]]
    if problems:
        raise ValueError("\n".join(problems))
    world = dns_world.World(parameters["resolver"], parameters["resolver_port"], parameters["timeout"])
    hosts = {
        _bare(host["name"]): [host[family] for family in ("ipv4", "ipv6") if host.get(family)]
        for host in parameters["hosts"]
    }
    expected = mail_checks.Expected(
        domains=list(dict.fromkeys(map(_bare, parameters["domains"]))),
        hosts=hosts,
        wanted=list(zip(wanted, (record["level"] for record in parameters["records"]), strict=True)),
        zones=zones,
        issuer=parameters["issuer"],
        policy=parameters["policy"],
    )
    timeout = parameters["timeout"]
    jobs = mail_checks.checks(expected, world)
    jobs += [job for wished in parameters["providers"] for job in provider_checks.checks(wished, world)]
    jobs += [partial(_port_25, expected, world, host, parameters["ca_file"], timeout) for host in hosts]
    jobs += [partial(_over_ipv6, host, own, timeout) for host in hosts for own in hosts[host] if ":" in own]
    jobs += [partial(_policy, expected, world, domain, parameters["ca_file"], timeout) for domain in expected.domains]
    jobs += [
        partial(mail_checks.block_list, world, address, zone)
        for zone in parameters["block_lists"]
        for addresses in hosts.values()
        for address in addresses
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        placed = [pool.submit(job) for job in mail_checks.places(expected, world)]
        under_way = [pool.submit(job) for job in jobs]
        zone_jobs = mail_checks.zone_checks(expected, world, [one.result() for one in placed])
        under_way += [pool.submit(job) for job in zone_jobs]
    findings = list(dict.fromkeys(finding for one in under_way for finding in one.result()))
    findings.sort(key=lambda one: (ORDER.index(one.verdict), one.name.split(".")[::-1], one.check))
    return {
        "findings": [asdict(finding) for finding in findings],
        "table": table(findings),
        "failing": sum(finding.verdict == "fails" for finding in findings),
        "changed": False,
    }


def table(findings: Sequence[mail_checks.Finding]) -> list[str]:
    """The findings as aligned lines, and a last line that counts them."""
    rows = [(finding.verdict, finding.whose, finding.check, finding.name) for finding in findings]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), finding.text])
        for row, finding in zip(rows, findings, strict=True)
    ]
    counts = [(sum(finding.verdict == verdict for finding in findings), verdict) for verdict in ORDER]
    return [*lines, f"{len(rows)} checks: " + ", ".join(f"{count} {verdict}" for count, verdict in counts if count)]


def _port_25(
    expected: mail_checks.Expected, world: dns_world.World, host: str, ca_file: str, timeout: float
) -> list[mail_checks.Finding]:
    """Look at what port 25 offers, and compare the certificate that it shows with TLSA records, if there are any."""
    offer = smtp_tls.offered(host, expected.hosts[host], ca_file, timeout)
    found = mail_checks.port_25(host, offer, ca_file)
    name = f"_25._tcp.{host}"
    if not world.ask(name, "TLSA").values:
        return found
    if isinstance(offer, str) or not offer.certificate:
        text = f"{host} port 25 shows no certificate from here"
        return [*found, mail_checks.Finding(name, "TLSA", "unknown", expected.whose(f"{name}."), text)]
    public = x509.load_der_x509_certificate(offer.certificate).public_key()
    key = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return [*found, *mail_checks.served_certificate(expected, world, host, offer.certificate, key)]


def _over_ipv6(host: str, address: str, timeout: float) -> list[mail_checks.Finding]:
    """See whether port 25 is there for who has IPv6 alone."""
    try:
        smtp_tls.greeting(address, timeout)
    except (OSError, smtplib.SMTPException) as error:
        return mail_checks.over_ipv6(host, address, error)
    return mail_checks.over_ipv6(host, address, None)


class _Https(http.client.HTTPSConnection):
    """HTTPS with a host at an address that the world's resolver has told."""

    def __init__(self, host: str, address: str, ca_file: str, timeout: float) -> None:
        self.address, self.tls = address, ssl.create_default_context(cafile=ca_file or None)
        super().__init__(host, timeout=timeout, context=self.tls)

    def connect(self) -> None:
        """Begin TLS with the address, and verify by the name."""
        connection = socket.create_connection((self.address, self.port), self.timeout)
        self.sock = self.tls.wrap_socket(connection, server_hostname=self.host)


def _policy(
    expected: mail_checks.Expected, world: dns_world.World, domain: str, ca_file: str, timeout: float
) -> list[mail_checks.Finding]:
    """Compare the MTA-STS policy, if there is a record, with ours and with the MX records."""
    if not world.ask(f"_mta-sts.{domain}", "TXT").values:
        return []
    name = f"mta-sts.{domain}"
    return mail_checks.served_policy(expected, world, domain, _fetched(name, world, ca_file, timeout))


def _fetched(name: str, world: dns_world.World, ca_file: str, timeout: float) -> str:
    """The policy that a name serves, from the first address that answers; what went wrong begins with `!`.

    A redirection is none (RFC 8461 section 3.3).
    """
    problem = f"{name} has no address"
    for address in (*world.ask(name, "A").values, *world.ask(name, "AAAA").values):
        try:
            with contextlib.closing(_Https(name, address, ca_file, timeout)) as connection:
                connection.request("GET", "/.well-known/mta-sts.txt")
                response = connection.getresponse()
                kind = response.headers.get_content_type()
                if (response.status, kind) == (200, "text/plain"):
                    return response.read(MAX_POLICY).decode("utf-8", "replace")
                problem = f"https://{name} answers {response.status} {response.reason}, {kind}"
        except (OSError, http.client.HTTPException) as error:
            problem = f"https://{name} at {address}: {error}"
    return f"! {problem}"


def _bare(name: str) -> str:
    """A name in lower case without the final dot."""
    return name.lower().rstrip(".")


def main() -> None:
    """Ansible's door to `run`."""
    text = {"type": "str", "default": ""}
    dicts = {"type": "list", "elements": "dict", "required": True}
    texts = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "records": dicts,
            "hosts": dicts,
            "domains": {"type": "list", "elements": "str", "required": True},
            "providers": {"type": "list", "elements": "dict", "default": []},
            "zones": texts,
            "resolver": text,
            "resolver_port": {"type": "int", "default": 53},
            "policy": text,
            "ca_file": text,
            "issuer": text,
            "block_lists": texts,
            "timeout": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib("dnspython", reason="(control node)"), exception=MISSING)
    try:
        answer = run(module.params)
    except ValueError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
