#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Have the mail host's certificate issued by an ACME authority, with certbot, which then renews it by itself."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ansible.module_utils.acme_facts import (
    FORMER_KEY,
    LIVE,
    NEXT_KEY,
    acme_facts,
    forget_former_key,
    is_torn,
    make_next_key,
    mend,
    take_next_key,
)
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: acme_certificate
short_description: Have the mail host's certificate issued by an ACME authority
description:
  - Asks the authority with certbot if the host has no certificate yet, or one that was asked for in another way, and
    sees to it that the daemons show what was issued. Otherwise it asks nobody.
  - Makes the key that comes after the one in use, so that others can know of it before. What a run that was cut off
    has left of a change of keys is put right.
  - What fails is told in one line. Nothing that worked before is touched, and the next run tries again.
options:
  state:
    description: C(absent) makes certbot forget the certificate, so that it is renewed no more.
    type: str
    choices: [present, absent]
    default: present
  config:
    description: The file with certbot's options; a change of it has a new certificate issued.
    type: path
    default: /etc/mailroom/acme/certbot.ini
  next_key:
    description: Have a new certificate issued now, from the next key.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: Mailroom contributors
"""

EXAMPLES = r"""
- name: Have the certificate issued
  acme_certificate:
"""

RETURN = r"""
ansible_facts:
  description: C(acme_certificate), C(acme_account) and C(tls_keys), see the module mail_host_facts.
  returned: always
  type: dict
issued:
  description: Whether the authority was asked for a certificate, or would be.
  returned: with state present
  type: bool
"""

NAME = "mailroom"  # of the certificate, in certbot's words its lineage
PROGRAM = "/usr/local/sbin/mailroom-certificate"
TIMEOUT = 600  # seconds; DNS-01 alone may wait minutes for the record to spread

# What the authority reports (RFC 8555, 6.7) or certbot says: the first pattern that is found names the remedy.
REMEDIES = (
    (
        r"rateLimited|too many",
        "wait as long as it says; to try things out, set acme_directory to its staging directory",
    ),
    (r"Account \S+ not found|accountDoesNotExist", "remove /etc/letsencrypt/accounts: the authority does not know it"),
    (r"\bcaa\b", "add a CAA record that allows this authority, or ask one that is allowed"),
    (
        r"NXDOMAIN|no such host|no valid A|Type: *dns|record not found",
        "publish the address records of the name, see dns_records",
    ),
    (
        r"Could not bind|Problem binding",
        "stop what has taken port 80 meanwhile, or write acme_challenge: dns-01",
    ),
    (
        r"certificate.verify.failed",
        "give the authority that the directory's certificate is from as certificate_ca_file",
    ),
    (
        r"Type: *connection",
        "let everybody reach port 80 of this host, at all addresses in DNS, or write acme_challenge: dns-01",
    ),
    (
        r"Type: *unauthorized.*(TXT|dns)|Incorrect TXT",
        "raise acme_propagation_seconds, until all name servers of the zone have the record",
    ),
    (r"Type: *unauthorized", "let the name's address records lead to this host and nowhere else"),
    (
        r"adding TXT record|Received response from server",
        "let the TSIG key write TXT records at _acme-challenge and the name",
    ),
    (
        r"resolve|refused|timed out|Max retries|No route|unreachable",
        "see that this host reaches acme_directory, and the name server with dns-01",
    ),
)


def problem(output: str) -> str:
    """What certbot has failed of, and what to do, in one line; output: all that it printed."""
    text = " ".join(output.split())
    told = re.findall(r"Domain: (\S+) Type: (\S+) Detail: (.*?)(?= Domain: | Hint: | Some challenges|$)", text)
    if told:
        what = "; ".join(f"{domain}: {detail} ({kind})" for domain, kind, detail in dict.fromkeys(told))
    else:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        said = [
            line for line in lines if not re.match(r"Saving debug|Ask for help|See the logfile|An unexpected", line)
        ]
        what = said[-1] if said else "certbot said nothing"
    remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, text, re.IGNORECASE)), "")
    return f"no certificate was issued: {what}: {remedy or 'see /var/log/letsencrypt/letsencrypt.log'}"


def same(one: Path, other: Path) -> bool:
    """Whether two files are there and hold the same."""
    try:
        return one.read_bytes() == other.read_bytes()
    except FileNotFoundError:
        return False


class Certificate:
    """The host's certificate as certbot keeps it."""

    def __init__(self, config: Path, root: Path = Path("/")) -> None:
        self.config, self.root = config, root
        self.renewal = root / "etc/letsencrypt/renewal" / f"{NAME}.conf"
        self.live = root / LIVE
        self.pair = root / "etc/mailroom/tls/pair.pem"
        # How the certificate we have was asked for; what was asked for and failed is asked for again.
        self.asked = root / "var/lib/mailroom/acme.ini"

    def is_due(self) -> bool:
        """Whether the authority has to be asked. When a certificate ends is for certbot's timer to know."""
        return not self.renewal.exists() or not same(self.asked, self.config)

    def is_installed(self) -> bool:
        """Whether the daemons' file holds what certbot has."""
        try:
            parts = [(self.live / name).read_bytes() for name in ("privkey.pem", "fullchain.pem")]
            return self.pair.read_bytes() == b"".join(parts)
        except FileNotFoundError:
            return False

    def command(self, next_key: bool = False) -> list[str]:
        """How certbot is called. One that keeps a certificate would not take up new options."""
        command = ["certbot", "certonly", "--non-interactive", "--config", str(self.config)]
        changed = next_key or (self.renewal.exists() and self.asked.exists())
        return [*command, "--force-renewal" if changed else "--keep-until-expiring"]

    def remember(self) -> None:
        """Note how the certificate was asked for."""
        temporary = self.asked.with_suffix(".new")
        self.asked.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(self.config.read_bytes())
        temporary.replace(self.asked)


def run(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of a command, which speaks English."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, run without a shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError:
        return 127, f"{command[0]} is not installed"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not end within {TIMEOUT} s"
    return done.returncode, done.stdout


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        {
            "state": {"choices": ["present", "absent"], "default": "present"},
            "config": {"type": "path", "default": "/etc/mailroom/acme/certbot.ini"},
            "next_key": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    certificate = Certificate(Path(module.params["config"]))
    if module.params["state"] == "absent":
        there = certificate.renewal.exists()
        if there and not module.check_mode:
            code, output = run(["certbot", "delete", "--non-interactive", "--cert-name", NAME])
            if code:
                module.fail_json(msg=f"certbot keeps the certificate: {output.strip()}")
            certificate.asked.unlink(missing_ok=True)
            (certificate.root / NEXT_KEY).unlink(missing_ok=True)
            forget_former_key(certificate.root)
        module.exit_json(changed=there, ansible_facts=acme_facts(certificate.root))
    root, due = certificate.root, certificate.is_due()
    takes = module.params["next_key"] and not due
    torn = certificate.renewal.exists() and is_torn(root)
    begun = (root / FORMER_KEY).exists()
    shown = not (due or takes or torn or begun) and certificate.is_installed()
    changed = not shown or not (root / NEXT_KEY).exists()
    if module.check_mode or not changed:
        module.exit_json(changed=changed, issued=due or takes, ansible_facts=acme_facts(root))
    if torn:
        mend(root)
    takes = takes and certificate.is_installed() and (root / NEXT_KEY).exists()
    if due or takes:
        if takes:
            take_next_key(root)
        code, output = run(certificate.command(takes))
        if code:
            mend(root)
            module.fail_json(msg=problem(output))
        certificate.remember()
    if not shown:
        code, output = run([PROGRAM, "wait" if certificate.is_installed() else "install"])
        if code:
            module.fail_json(msg="; ".join(output.splitlines()), changed=True, issued=due or takes)
    make_next_key(root)
    forget_former_key(root)
    module.exit_json(changed=True, issued=due or takes, ansible_facts=acme_facts(root))


if __name__ == "__main__":
    main()
