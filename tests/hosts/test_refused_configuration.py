"""What Postfix or Dovecot would refuse: the run ends before it is on the host, and mail goes on as before."""

from __future__ import annotations

import json
import os
import re
import smtplib
import subprocess
from pathlib import Path

import pytest

from tests.story import ROOT, WAIT, Hosts

pytestmark = [pytest.mark.hosts, pytest.mark.once]

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
STATE = (
    "find /etc/postfix /etc/dovecot /var/lib/mailroom -type f -exec sha256sum {} + && "
    "cat /var/spool/postfix/pid/master.pid && systemctl show --value --property=MainPID dovecot"
)
# The language of the other Debian's Dovecot; and a line of its own that is no setting of Postfix's.
OTHER_DOVECOT = {"12": "2.4", "13": "2.3"}
NO_SETTING = ["static:may\nsmtp_tls_polcy_maps"]


def debian() -> str:
    return HOSTS.ssh(HOSTS.mail, ". /etc/os-release && echo $VERSION_ID").strip()


@pytest.mark.parametrize("role", ["postfix", "dovecot"])
def test_it_never_reaches_the_host(role: str) -> None:
    settings = {"postfix_tls_policy_maps": NO_SETTING, "__dovecot_version": OTHER_DOVECOT[debian()]}
    before = HOSTS.ssh(HOSTS.mail, STATE)

    with pytest.raises(subprocess.CalledProcessError) as refused:
        HOSTS.site("--tags", role, "--extra-vars", json.dumps(settings))

    (error,) = re.findall(r"^\[ERROR\]: (.*)", refused.value.stdout, re.MULTILINE)
    assert "refuses the new files, so none was written" in error
    assert re.search(r"/etc/postfix/main.cf, line \d+: .*smtp_tls_polcy_maps|/etc/dovecot/dovecot.conf", error)
    assert HOSTS.ssh(HOSTS.mail, STATE) == before
    with smtplib.SMTP(HOSTS.mail.address, 25, timeout=WAIT) as session:
        assert session.noop()[0] == 250
    with HOSTS.names():
        HOSTS.mailbox().logout()
