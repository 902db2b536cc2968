"""No secret is where others than its owner can read it: in a journal or log, in a file, in what a process was told."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.story import ROOT, Host, Hosts

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
# Prints where one of the texts on standard input is found. What comes with Debian's packages is left out.
LOOK = r"""
umask 077; texts=$(mktemp); trap 'rm -f $texts' EXIT; cat >$texts
journalctl --no-pager --output=cat | grep --fixed-strings --file=$texts --quiet && echo the journal
find / -xdev \( -path /proc -o -path /sys -o -path /usr -o -path /var/lib/dpkg -o -path /var/lib/apt \) -prune -o \
    -type f -size +0 \( -perm -004 -o -path '/var/log/*' ! -path '*/journal/*' \) -print0 |
    xargs --null --no-run-if-empty grep --fixed-strings --file=$texts --files-with-matches --no-messages
for process in /proc/[0-9]*; do
    cat $process/cmdline $process/environ 2>/dev/null | tr '\0' '\n' | grep -F -f $texts -q && cat $process/comm
done
true
"""


def secrets() -> list[str]:
    """What the control node made or was given: passwords, the gateway's key, keys of DNS, private keys line by line."""
    names = [f"gateway-{HOSTS.database['name']}", f"mailbox-{HOSTS.database['name']}", "mailbox-postmaster"]
    texts = [HOSTS.secret(name) for name in (*names, "tsig-mailroom")]
    keys = [*HOSTS.secrets.glob("ca/*.key"), *HOSTS.secrets.glob("dkim/*.key")]
    return texts + [key.read_text(encoding="utf-8").splitlines()[1] for key in keys]


@pytest.mark.parametrize("host", [HOSTS.mail, HOSTS.odoo, HOSTS.dns, HOSTS.outside], ids=lambda host: str(host.name))
def test_no_secret_can_be_read(host: Host) -> None:
    command = ["ssh", "-F", str(HOSTS.secrets / "ssh" / "config"), "-o", "BatchMode=yes", host.name, LOOK]
    found = subprocess.run(command, input="\n".join(secrets()) + "\n", capture_output=True, text=True, check=True)
    assert found.stdout == ""
