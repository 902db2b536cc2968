"""Push mode on the real hosts: new mail is in its thread long before the timer's next run, and is there once."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

import pytest

from tests.story import StoryError, wait_for_message

from .test_fetch_and_route import HOSTS, SALES, SERVICE, Mailroom

pytestmark = [pytest.mark.hosts, pytest.mark.once]

WATCH = "fetch-and-route-watch.service"
SOON = 15.0
"""Seconds within which a mail is in its thread, on a machine that all hosts share; the timer takes up to 300."""


def site(mode: str, *more: str) -> str:
    """The output of the part of site.yml that is about fetch-and-route."""
    return HOSTS.site("--extra-vars", f"fetch_and_route_mode={mode}", "--tags", "fetch_and_route", *more)


def changed(output: str) -> int:
    """How many changes a run reports on the mail host."""
    recap = re.search(rf"{re.escape(HOSTS.mail.name)} +: ok=\d+ +changed=(\d+) ", output)
    assert recap is not None, output
    return int(recap[1])


def shown(unit: str, *properties: str) -> list[str]:
    """Properties of a unit."""
    asked = [f"--property={name}" for name in properties]
    lines = HOSTS.ssh(HOSTS.mail, "systemctl", "show", *asked, unit).splitlines()
    values = dict(line.split("=", 1) for line in lines)
    return [values[name] for name in properties]


def watching() -> None:
    """Wait until the watcher is connected and idles, which it tells systemd within seconds."""
    deadline = time.monotonic() + 60
    while not re.fullmatch(r"\S+ watching", shown(WATCH, "StatusText")[0]):
        assert time.monotonic() < deadline, shown(WATCH, "ActiveState", "StatusText")


@pytest.fixture(scope="module")
def pushed() -> Iterator[None]:
    site("push")
    yield
    if shown(WATCH, "LoadState") != ["not-found"]:  # a test before the last one failed, or was run alone
        site("poll")


@pytest.fixture
def mailroom(pushed: None) -> Iterator[Mailroom]:  # noqa: ARG001 -- only has to be there
    """The mailbox and Odoo, with the timer's last run just over and the next one minutes away."""
    with HOSTS.names():
        with contextlib.suppress(StoryError):  # systemd forgets a unit that has nothing to tell
            # The tests start it more often than systemd's limit of five times in ten seconds.
            HOSTS.ssh(HOSTS.mail, "systemctl", "reset-failed", SERVICE, "fetch-and-route.timer", WATCH)
        HOSTS.ssh(HOSTS.mail, "systemctl", "restart", "fetch-and-route.timer")
        HOSTS.ssh(HOSTS.mail, "systemctl", "start", SERVICE)
        watching()
        mailroom = Mailroom(HOSTS.mailbox())
        try:
            yield mailroom
        finally:
            mailroom.clean()
            mailroom.session.logout()
            mailroom.odoo.close()


def send(mailroom: Mailroom) -> str:
    """The customer's own server takes a mail and brings it to ours."""
    raw = mailroom.mail(to=SALES)
    with HOSTS.smtp(HOSTS.outside) as session:
        session.sendmail("customer@customer.example", [SALES], raw)
    return mailroom.sent[-1]


def in_its_thread(mailroom: Mailroom, message_id: str) -> None:
    """The message is routed, and once in Odoo."""
    wait_for_message(mailroom.session, "Message-ID", message_id, ("Routed",))
    assert [entry["model"] for entry in mailroom.posted([message_id])] == ["crm.lead"]


def test_a_mail_is_in_its_thread_long_before_the_timer(mailroom: Mailroom) -> None:
    before = shown(SERVICE, "InvocationID", "ActiveState")
    took = []
    for _ in range(3):
        began = time.monotonic()
        in_its_thread(mailroom, send(mailroom))
        took.append(time.monotonic() - began)
    assert max(took) < SOON
    assert shown(SERVICE, "InvocationID", "ActiveState") == before, "the timer's run had no part in it"
    assert HOSTS.ssh(HOSTS.mail, "systemctl", "is-active", "fetch-and-route.timer").strip() == "active"
    journal = HOSTS.ssh(HOSTS.mail, "journalctl", f"--unit={WATCH}", "--output=cat", "--lines=50")
    for message_id in mailroom.sent:
        assert len(re.findall(rf"message-id={re.escape(message_id)} .*verdict=routed", journal)) == 1


def test_the_timer_and_the_watcher_post_nothing_twice(mailroom: Mailroom) -> None:
    message_ids = []
    for _ in range(4):
        HOSTS.ssh(HOSTS.mail, "systemctl", "start", "--no-block", SERVICE)
        message_ids += [mailroom.put(mailroom.mail(), SALES) for _ in range(5)]
    for message_id in message_ids:
        wait_for_message(mailroom.session, "Message-ID", message_id, ("Routed",))
    assert sorted(str(entry["message_id"]) for entry in mailroom.posted(message_ids)) == sorted(message_ids)
    assert [mailroom.folders(message_id) for message_id in message_ids] == [["Routed"]] * 20


def test_it_goes_on_after_dovecot_was_restarted(mailroom: Mailroom) -> None:
    mailroom.session.logout()
    HOSTS.ssh(HOSTS.mail, "systemctl", "restart", "dovecot")
    mailroom.session = HOSTS.mailbox()
    in_its_thread(mailroom, send(mailroom))
    assert shown(WATCH, "NRestarts", "ActiveState") == ["0", "active"]


def test_it_ends_at_once_and_starts_again(mailroom: Mailroom) -> None:
    began = time.monotonic()
    HOSTS.ssh(HOSTS.mail, "systemctl", "stop", WATCH)
    assert time.monotonic() - began < 10
    assert shown(WATCH, "Result", "ActiveState") == ["success", "inactive"]
    message_id = mailroom.put(mailroom.mail(), SALES)
    HOSTS.ssh(HOSTS.mail, "systemctl", "start", WATCH)
    in_its_thread(mailroom, message_id)


def test_a_killed_one_is_started_again(mailroom: Mailroom) -> None:
    patience, process = shown(WATCH, "WatchdogUSec", "MainPID")
    assert patience == "2min", "after which systemd kills one that hangs"
    HOSTS.ssh(HOSTS.mail, "kill", "-KILL", process)
    in_its_thread(mailroom, send(mailroom))
    assert shown(WATCH, "NRestarts") == ["1"]
    HOSTS.ssh(HOSTS.mail, "systemctl", "restart", WATCH)


@pytest.mark.usefixtures("mailroom")
def test_both_units_are_the_same_user_and_locked_in() -> None:
    verdict = HOSTS.ssh(HOSTS.mail, "systemd-analyze", "security", "--no-pager", WATCH).splitlines()[-1]
    score = re.search(r"exposure level for fetch-and-route-watch.service: ([0-9.]+)", verdict)
    assert score is not None
    assert float(score[1]) <= 2.0
    (process,) = shown(WATCH, "MainPID")
    owners = HOSTS.ssh(
        HOSTS.mail,
        "stat",
        "--format=%u",
        f"/proc/{process}",
        f"/var/lib/private/fetch-and-route/{HOSTS.database['name']}.busy",
    )
    assert len(set(owners.split())) == 1
    assert owners.split()[0] != "0"


@pytest.mark.usefixtures("mailroom")
def test_the_mode_is_changed_truthfully_and_back() -> None:
    assert changed(site("push")) == 0, "nothing to do"
    (process,) = shown(WATCH, "MainPID")
    assert changed(site("poll", "--check")) >= 2, "the service and its file"
    assert shown(WATCH, "MainPID", "ActiveState") == [process, "active"], "checking does nothing"

    output = site("push", "--extra-vars", "fetch_and_route_attempts=6")
    assert re.search(r"Restart fetch-and-route\] \**\nchanged: ", output), output
    assert shown(WATCH, "MainPID") != [process], "it has the new configuration"

    assert changed(site("poll")) >= 2
    assert shown(WATCH, "ActiveState", "LoadState") == ["inactive", "not-found"]
    assert changed(site("push", "--check")) >= 2
    assert shown(WATCH, "LoadState") == ["not-found"], "checking does nothing"
