"""Debian 12 becomes 13 under a host in use, by the commands of docs/operations.md, and nothing is lost.

It takes the hosts of the scenario debian12 and leaves its mail host with Debian 13; CONTRIBUTING.md says when and how.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

import pytest
from imapclient import IMAPClient  # type: ignore[import-untyped]

from tests.story import ROOT, WAIT, Hosts, Story, eventually

pytestmark = pytest.mark.hosts

HOSTS = Hosts()
MAIL = HOSTS.mail
LOGIN = HOSTS.database["name"]
CONTAINER = "mailroom-mail"
KEPT = "/etc/dovecot/users /etc/fetch-and-route /etc/mailroom/tls /var/lib/rspamd/dkim"


@dataclass
class Upgrade:
    """What there was before, the Message-IDs of what was sent meanwhile, and what the runs of site.yml said."""

    mail: dict[str, Any]
    files: str
    sent: list[str]
    runs: list[str]


@contextlib.contextmanager
def mailbox(name: str) -> Iterator[IMAPClient]:
    with HOSTS.imap(MAIL, name, HOSTS.secret(f"mailbox-{name}")) as session:
        yield session


def letter(number: int) -> bytes:
    return f"From: a@customer.example\r\nSubject: {number}\r\n\r\nschöne Grüße\r\n".encode("latin-1")


def fill() -> None:
    """Put mail with flags into every folder, with gaps in the UIDs. The database's INBOX is left to the router."""
    for name, folder in (("postmaster", "INBOX"), (LOGIN, "Routed"), (LOGIN, "Quarantine")):
        with mailbox(name) as session:
            for number, flags in enumerate(
                [[], [b"\\Seen"], [b"\\Flagged", b"\\Answered", b"$Forwarded"], [b"\\Draft"]]
            ):
                session.append(folder, letter(number), flags)
            session.select_folder(folder)
            first = session.search(["SUBJECT", "0"])[-1]
            session.delete_messages([first])
            session.uid_expunge([first])


def all_mail() -> dict[str, Any]:
    """Every message of every folder but the database's INBOX: UIDVALIDITY, UID, flags, date and content."""
    found: dict[str, Any] = {}
    for name in (LOGIN, "postmaster"):
        with mailbox(name) as session:
            for _, _, folder in session.list_folders():
                if (name, folder) == (LOGIN, "INBOX"):
                    continue
                state = session.select_folder(folder, readonly=True)
                messages = session.fetch(session.search(), ["FLAGS", "INTERNALDATE", "BODY.PEEK[]"])
                found |= {
                    f"{name} {folder} UIDVALIDITY": state[b"UIDVALIDITY"],
                    f"{name} {folder}": {
                        uid: (set(each[b"FLAGS"]) - {b"\\Recent"}, each[b"INTERNALDATE"], each[b"BODY[]"])
                        for uid, each in messages.items()
                    },
                }
    return found


def kept() -> str:
    """Digests of the files that have to stay as they are."""
    return HOSTS.ssh(MAIL, f"find {KEPT} -type f -exec sha256sum {{}} + | sort")


def commands() -> str:
    """What docs/operations.md has people type on the mail host."""
    text = (ROOT / "docs" / "operations.md").read_text()
    (block,) = re.findall(r"^## From Debian 12 to 13\n.*?^ *```\n(.*?)^ *```\n", text, re.DOTALL | re.MULTILINE)
    return str(block)


def podman(*command: str) -> None:
    environment = os.environ | {"CONTAINERS_CONF": str(ROOT / ".cache" / "containers.conf")}
    subprocess.run(["podman", *command, CONTAINER], env=environment, check=True, capture_output=True, timeout=WAIT)


def send(story: Story) -> str:
    """A customer writes; returns the Message-ID."""
    message = EmailMessage()
    message["To"] = f"{HOSTS.domain['aliases'][0]['name']}@{HOSTS.domain['name']}"
    message["Subject"] = "Sent meanwhile"
    message.set_content("Good day\n")
    return story.send_from_outside(message)


def queued() -> str:
    return HOSTS.ssh(MAIL, "postqueue -p")


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    with HOSTS.names(), contextlib.closing(Story(HOSTS)) as story:
        yield story


@pytest.fixture(scope="module")
def upgrade(story: Story) -> Upgrade:
    """The host is filled, upgraded and started again as people would, while customers write."""
    release = "cat /etc/debian_version"
    assert HOSTS.ssh(MAIL, release).startswith("12."), "molecule converge -s debian12 makes the host for this"
    fill()
    mail, files = all_mail(), kept()
    begun = time.monotonic()
    config = str(HOSTS.secrets / "ssh" / "config")
    with subprocess.Popen(
        ["ssh", "-F", config, "-o", "BatchMode=yes", "-o", "ControlPath=none", MAIL.name, f"set -e\n{commands()}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as session:
        eventually("Dovecot has not stopped", lambda: "inactive" in HOSTS.ssh(MAIL, "systemctl is-active dovecot || :"))
        sent = [send(story)]
        eventually("no mail waits in our queue", lambda: "Connection refused" in queued() or "No such file" in queued())
        output, _ = session.communicate()
    assert session.returncode in (0, 255), output  # the reboot may be quicker than ssh
    done = time.monotonic() - begun
    podman("wait")
    sent.append(send(story))
    podman("start")
    eventually("the host is not back with Debian 13", lambda: HOSTS.ssh(MAIL, release).startswith("13."))
    runs = [HOSTS.site()]
    print(f"the commands took {done:.0f} s; mail is in the mailboxes again after {time.monotonic() - begun:.0f} s")
    runs.append(HOSTS.site())
    for host in (HOSTS.outside, MAIL):
        HOSTS.ssh(host, "postqueue -f")
    return Upgrade(mail, files, sent, runs)


def test_all_mail_keeps_its_uids_and_flags(upgrade: Upgrade) -> None:
    now = all_mail()
    for folder, before in upgrade.mail.items():
        if isinstance(before, dict):  # more may have come
            assert {uid: now[folder].get(uid) for uid in before} == before, folder
        else:
            assert now[folder] == before, folder
    assert sum(len(before) for before in upgrade.mail.values() if isinstance(before, dict)) >= 9


def test_keys_and_passwords_are_kept(upgrade: Upgrade) -> None:
    assert kept() == upgrade.files


def test_what_customers_sent_meanwhile_is_in_odoo_once(upgrade: Upgrade, story: Story) -> None:
    for message_id in upgrade.sent:
        story.route(message_id)
        assert story.admin("mail.message", "search_count", [("message_id", "=", message_id)]) == 1


def test_a_second_run_changes_nothing(upgrade: Upgrade) -> None:
    first, second = upgrade.runs
    print(first[first.index("PLAY RECAP") :])
    assert re.findall(r"changed=(\d+)", second) == ["0", "0"]


def test_neither_dns_nor_odoo_was_changed(upgrade: Upgrade) -> None:
    assert not re.findall(r"^TASK \[(?:dns_records|odoo_mail) : [^\n]*\nchanged", upgrade.runs[0], re.MULTILINE)


@pytest.mark.usefixtures("upgrade")
def test_the_whole_story_comes_true(story: Story) -> None:
    for title, step in story.steps():
        print(f"{title}: {step()}")


@pytest.mark.usefixtures("upgrade")
def test_no_unit_has_failed_and_the_old_one_of_postfix_is_gone() -> None:
    assert HOSTS.ssh(MAIL, "systemctl --failed --plain --no-legend") == ""
    assert HOSTS.ssh(MAIL, "find /etc/systemd -name 'postfix@*' ! -type d") == ""
