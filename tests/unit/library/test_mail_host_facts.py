"""mail_host_facts, on made-up hosts below a directory, and once on this machine."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args

from library import mail_host_facts

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

DPKG_STATUS = """\
Package: postfix
Status: install ok installed
Architecture: amd64
Version: 3.10.4-1
Description: mail transport agent
 Package: not-a-package

Package: held
Status: hold ok installed
Version: 1:2.0-3

Package: removed
Status: deinstall ok config-files
Version: 1.0

Package: half
Status: install ok half-configured
Version: 1.0

Package: virtual
Status: install ok not-installed
"""


def row(place: int, address: str, state: str, inode: int) -> str:
    """A line of /proc/net/tcp."""
    return f"   {place}: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1 0 100\n"


def process(proc: Path, pid: int, name: str, program: str, *descriptors: str) -> None:
    """A process that holds descriptors, below a made-up /proc."""
    (proc / str(pid) / "fd").mkdir(parents=True)
    (proc / str(pid) / "comm").write_text(f"{name}\n")
    (proc / str(pid) / "exe").symlink_to(program)
    for number, target in enumerate(descriptors):
        (proc / str(pid) / "fd" / str(number)).symlink_to(target)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    proc = tmp_path / "proc"
    (proc / "net").mkdir(parents=True)
    (proc / "net/tcp").write_text(HEADER)
    return proc


@pytest.mark.parametrize(
    ("text", "major", "release", "name"),
    [
        ('ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n', "13", "trixie", "Debian"),
        ('# comment\n\nID=ubuntu\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n', "24", "noble", "Ubuntu"),
        ('ID=debian\nPRETTY_NAME="Debian GNU/Linux forky/sid"\nVERSION_CODENAME=forky\n', "", "forky", "Debian"),
        ("ID='alpine'\nBROKEN=\"no end\nno line\n", "", "", "Alpine"),
        (None, "", "", ""),
    ],
)
def test_the_distribution_is_told(proc: Path, text: str | None, major: str, release: str, name: str) -> None:
    if text is not None:
        (proc.parent / "etc").mkdir()
        (proc.parent / "etc/os-release").write_text(text)
    facts = mail_host_facts.facts(proc.parent)
    assert facts["distribution"] == name
    assert facts["distribution_major_version"] == major
    assert facts["distribution_release"] == release


def test_packages_are_those_completely_installed() -> None:
    assert mail_host_facts.installed_packages(DPKG_STATUS) == {"postfix": "3.10.4-1", "held": "1:2.0-3"}


def test_a_host_without_dpkg_has_no_packages(proc: Path) -> None:
    assert mail_host_facts.facts(proc.parent)["packages"] == {}


def test_a_resolv_conf_is_told_when_it_is_nobody_elses(proc: Path) -> None:
    etc = proc.parent / "etc"
    etc.mkdir()
    assert mail_host_facts.facts(proc.parent)["resolv_conf"] == ""
    (etc / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    assert mail_host_facts.facts(proc.parent)["resolv_conf"] == "nameserver 192.0.2.53\n"
    (etc / "resolv.conf").rename(etc / "stub-resolv.conf")
    (etc / "resolv.conf").symlink_to("stub-resolv.conf")
    assert mail_host_facts.facts(proc.parent)["resolv_conf"] == ""


def foreign(proc: Path) -> dict[int, str]:
    return mail_host_facts.foreign_listeners(mail_host_facts.SERVICES, proc)


def test_a_free_port_is_nobodys(proc: Path) -> None:
    (proc / "net/tcp").write_text(HEADER + row(0, "00000000:0019", "01", 7) + row(1, "00000000:0016", "0A", 8))
    process(proc, 10, "sshd", "/usr/sbin/sshd", "socket:[7]", "socket:[8]")
    assert foreign(proc) == {}


@pytest.mark.parametrize("table", ["tcp", "tcp6"])
def test_who_has_the_port_is_named(proc: Path, table: str) -> None:
    (proc / f"net/{table}").write_text(HEADER + row(0, "0100007F:0019", "0A", 4711))
    process(proc, 9, "init", "/sbin/init", "/dev/null", "socket:[471]")
    process(proc, 210, "exim4", "/usr/sbin/exim4", "/dev/null", "socket:[4711]")
    assert foreign(proc) == {25: "exim4"}


def test_postfix_and_its_children_may_have_the_port(proc: Path) -> None:
    (proc / "net/tcp").write_text(HEADER + row(0, "00000000:0019", "0A", 4711))
    process(proc, 210, "master", "/usr/lib/postfix/sbin/master", "socket:[4711]")
    process(proc, 211, "smtpd", "/usr/lib/postfix/sbin/smtpd (deleted)", "socket:[4711]")
    assert foreign(proc) == {}


def test_a_child_that_ends_while_it_is_looked_at_does_not_have_the_port(proc: Path) -> None:
    (proc / "net/tcp").write_text(HEADER + row(0, "00000000:01D1", "0A", 4711))
    process(proc, 210, "master", "/usr/lib/postfix/sbin/master", "socket:[4711]")
    process(proc, 211, "smtpd", "/usr/lib/postfix/sbin/smtpd", "socket:[4711]")
    (proc / "211/exe").unlink()
    (proc / "211/comm").unlink()
    assert foreign(proc) == {}


def test_another_programs_master_is_not_postfix(proc: Path) -> None:
    (proc / "net/tcp").write_text(HEADER + row(0, "00000000:0019", "0A", 4711))
    process(proc, 210, "master", "/usr/lib/cyrus/bin/master", "socket:[4711]")
    assert foreign(proc) == {25: "master"}


def test_postfix_on_one_address_does_not_hide_another_on_the_other(proc: Path) -> None:
    (proc / "net/tcp").write_text(HEADER + row(0, "00000000:0019", "0A", 1))
    (proc / "net/tcp6").write_text(HEADER + row(0, f"{'0' * 32}:0019", "0A", 2))
    process(proc, 210, "master", "/usr/lib/postfix/sbin/master", "socket:[1]")
    process(proc, 300, "exim4", "/usr/sbin/exim4", "socket:[2]")
    assert foreign(proc) == {25: "exim4"}


def test_a_holder_that_cannot_be_seen_still_takes_the_port(proc: Path) -> None:
    (proc / "net/tcp").write_text(HEADER + row(0, "00000000:0019", "0A", 4711))
    assert foreign(proc) == {25: "a process out of sight"}


def test_each_port_has_its_own_service(proc: Path) -> None:
    rows = [row(0, "00000000:01D1", "0A", 1), row(1, "00000000:03E1", "0A", 2), row(2, "0100007F:0035", "0A", 3)]
    (proc / "net/tcp").write_text(HEADER + "".join(rows))
    process(proc, 210, "master", "/usr/lib/postfix/sbin/master", "socket:[1]")
    process(proc, 211, "dovecot", "/usr/sbin/dovecot", "socket:[2]")
    process(proc, 212, "imap-login", "/usr/libexec/dovecot/imap-login", "socket:[2]")
    process(proc, 213, "unbound", "/usr/sbin/unbound", "socket:[3]")
    assert foreign(proc) == {}
    process(proc, 300, "haproxy", "/usr/sbin/haproxy", "socket:[2]")
    assert foreign(proc) == {993: "haproxy"}


@pytest.mark.parametrize(
    ("address", "in_the_way"),
    [("0100007F", True), ("00000000", True), ("3500007F", False), ("19004D0A", False)],
)
def test_a_resolver_of_another_address_is_not_in_the_way(proc: Path, address: str, in_the_way: bool) -> None:
    (proc / "net/tcp").write_text(HEADER + row(0, f"{address}:0035", "0A", 4711))
    process(proc, 210, "dnsmasq", "/usr/sbin/dnsmasq", "socket:[4711]")
    assert foreign(proc) == ({53: "dnsmasq"} if in_the_way else {})


def test_this_machines_listener_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = Path("/proc/self/comm").read_text().strip()
        port = server.getsockname()[1]
        assert mail_host_facts.foreign_listeners({port: "/postfix/"}) == {port: name}


def test_the_module_answers_with_facts_and_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.process_time()
    with patch_module_args({"_ansible_check_mode": True}), pytest.raises(SystemExit):
        mail_host_facts.main()
    assert time.process_time() - start < 1  # takes about 0.05 s; Ansible's own facts take more than this allows
    answer = json.loads(capsys.readouterr().out)
    facts = answer["ansible_facts"]
    assert answer["changed"] is False
    assert set(facts) == {
        "distribution",
        "distribution_major_version",
        "distribution_release",
        "effective_user_id",
        "ssh_ports",
        "ssh_client",
        "packages",
        "users",
        "services",
        "running",
        "in_use",
        "resolv_conf",
        "taken_ports",
        "port_80",
        "acme_certificate",
        "acme_account",
        "tls_keys",
        "time_epoch",
    }
    assert facts["effective_user_id"] == os.geteuid()
    assert abs(facts["time_epoch"] - time.time()) < 60


def test_a_service_is_settled_only_when_it_is_active_enabled_and_read() -> None:
    shown = """\
Id=good.service
ActiveState=active
UnitFileState=enabled
NeedDaemonReload=no

Id=stopped.service
ActiveState=inactive
UnitFileState=enabled
NeedDaemonReload=no

Id=by-hand.service
ActiveState=active
UnitFileState=disabled
NeedDaemonReload=no

Id=changed.timer
ActiveState=active
UnitFileState=enabled
NeedDaemonReload=yes
"""

    assert mail_host_facts.units_that_are(mail_host_facts.SETTLED, shown) == ["good.service"]
    running = mail_host_facts.units_that_are(mail_host_facts.RUNNING, shown)
    assert running == ["by-hand.service", "changed.timer", "good.service"]


def test_a_unit_is_in_use_unless_it_is_disabled_and_has_ended() -> None:
    states = {
        "good": ("active", "enabled"),
        "stopped": ("inactive", "enabled"),
        "refused": ("failed", "enabled"),
        "by-hand": ("active", "disabled"),
        "again-and-again": ("activating", "disabled"),
        "off": ("inactive", "disabled"),
        "gone": ("inactive", ""),
        "gone-badly": ("failed", ""),
    }
    shown = "\n\n".join(
        f"Id={name}.service\nActiveState={active}\nUnitFileState={file}\nNeedDaemonReload=no"
        for name, (active, file) in states.items()
    )

    in_use = mail_host_facts.units_in_use(shown)
    assert in_use == [f"{name}.service" for name in ("again-and-again", "by-hand", "good", "refused", "stopped")]


def test_local_users_are_named(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\nvmail:x:999:999::/var/vmail:/bin/false\n")
    (tmp_path / "proc/net").mkdir(parents=True)

    assert mail_host_facts.facts(tmp_path)["users"] == ["root", "vmail"]


def test_who_came_over_ssh_is_known_even_below_sudo(proc: Path) -> None:
    for pid, parent, environ in (
        (30, 20, b"HOME=/root\0"),
        (20, 1, b"SSH_CONNECTION=2001:db8::7 50000 2001:db8::25 2222\0"),
    ):
        process(proc, pid, "sh", "/bin/sh")
        (proc / str(pid) / "environ").write_bytes(environ)
        (proc / str(pid) / "stat").write_text(f"{pid} (a) b) S {parent} 0 0")
    assert mail_host_facts.ssh_session(proc, 30) == ("2001:db8::7", 2222)
    assert mail_host_facts.ssh_session(proc, 99) == ("", 0)


def test_the_ports_of_ssh_are_those_its_server_listens_on(proc: Path) -> None:
    (proc / "net/tcp").write_text(HEADER + row(0, "00000000:0016", "0A", 7) + row(1, "00000000:08AE", "0A", 8))
    process(proc, 10, "sshd", "/usr/sbin/sshd", "socket:[7]", "socket:[8]")
    process(proc, 11, "master", "/usr/lib/postfix/sbin/master", "socket:[9]")
    assert mail_host_facts.ssh_ports(proc) == [22, 2222]
