"""Another value of a setting changes what has to do with it and nothing else; daemons take it up as they run."""

from __future__ import annotations

import os
import re
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.story import ROOT, WAIT, Hosts

pytestmark = [pytest.mark.hosts, pytest.mark.once]

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
MAIL = HOSTS.mail
SETTINGS = {
    "postfix": "postfix_message_size_limit=60000000",
    "dovecot": "dovecot_quota_megabytes=600",
    "rspamd": "rspamd_reject_score=16",
    "fail2ban": "fail2ban_ban_time=2h",
}
MAIN_PROCESSES = (
    "cat /var/spool/postfix/pid/master.pid && systemctl show --value --property=MainPID dovecot rspamd fail2ban unbound"
)


@pytest.fixture(scope="module")
def changed() -> Iterator[tuple[list[str], str, str]]:
    """The names of the tasks that changed something, and the main processes before and after."""
    before = HOSTS.ssh(MAIL, MAIN_PROCESSES)
    output = HOSTS.site(*(option for setting in SETTINGS.values() for option in ("--extra-vars", setting)))
    tasks = re.findall(r"^(?:TASK|RUNNING HANDLER) \[([^]]*)\] \**\nchanged", output, re.MULTILINE)
    yield tasks, before, HOSTS.ssh(MAIL, MAIN_PROCESSES)
    HOSTS.site()


def test_each_changes_one_role_and_settles_it(changed: tuple[list[str], str, str]) -> None:
    tasks = changed[0]
    assert sorted(tasks) == sorted(
        task
        for role, name in (
            ("postfix", "Postfix"),
            ("dovecot", "Dovecot"),
            ("rspamd", "rspamd"),
            ("fail2ban", "fail2ban"),
        )
        for task in (
            f"{role} : Write {name}'s configuration{' and the keys' if role == 'rspamd' else ''}",
            f"{role} : Reload {name}",
            f"{role} : Settle {name}",
        )
    )


def test_no_daemon_is_started_anew(changed: tuple[list[str], str, str]) -> None:
    _, before, after = changed
    assert len(before.split()) == 5
    assert after == before


@pytest.mark.usefixtures("changed")
def test_the_new_values_are_in_force() -> None:
    with smtplib.SMTP(MAIL.address, 25, timeout=WAIT) as session:
        session.ehlo()
        assert session.esmtp_features["size"] == "60000000"
    assert HOSTS.ssh(MAIL, "fail2ban-client get mailroom-dovecot bantime").strip() == "7200"
    assert "614400" in HOSTS.ssh(MAIL, f"doveadm -f tab quota get -u {HOSTS.database['name']}")
