#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read, in one quick step, the few facts about a mail host that Mailroom decides by."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ansible.module_utils.acme_facts import acme_facts
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: mail_host_facts
short_description: The few facts about a mail host that Mailroom decides by
description:
  - Reads dpkg's status, /proc and a few files of /etc, asks systemd once, and changes nothing.
options: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: Mailroom contributors
"""

EXAMPLES = r"""
- name: Look at the host
  mail_host_facts:

- name: Install the package
  ansible.builtin.apt:
    name: [example]
  when: ["'example' not in ansible_facts['packages']"]
"""

RETURN = r"""
ansible_facts:
  description: The facts, found in C(ansible_facts) afterwards.
  returned: always
  type: dict
  contains:
    distribution:
      description: The ID of /etc/os-release with a capital.
      type: str
      sample: Debian
    distribution_release:
      description: Code name; empty when there is none.
      type: str
      sample: trixie
    distribution_major_version:
      description: Number of the release; empty when there is none.
      type: str
      sample: "13"
    packages:
      description: Version of every Debian package that is completely installed, by name.
      type: dict
      sample: {postfix: 3.10.4-1}
    users:
      description: Names of the local users.
      type: list
      elements: str
      sample: [root, vmail]
    services:
      description:
        - The services and timers of systemd that need nothing done. They are active and enabled, and systemd has read
          their unit files as they are now.
      type: list
      elements: str
      sample: [postfix.service]
    running:
      description: The services and timers of systemd that are active.
      type: list
      elements: str
      sample: [postfix.service]
    in_use:
      description: The services and timers of systemd that are enabled, or neither inactive nor failed.
      type: list
      elements: str
      sample: [postfix.service]
    resolv_conf:
      description: What is in /etc/resolv.conf; empty when it is a link to what somebody else writes.
      type: str
      sample: nameserver 192.0.2.53
    taken_ports:
      description:
        - Name of the process that listens on each TCP port that the mail host needs, by the port, unless it is the
          service that Mailroom runs there. Port 53 counts on 127.0.0.1 alone, all others on any address.
      type: dict
      sample: {"25": exim4}
    port_80:
      description: Name of the process that listens on TCP port 80, on any address; empty when it is nobody.
      type: str
      sample: nginx
    acme_certificate:
      description: Whether certbot has had the mail host's certificate issued and renews it.
      type: bool
      sample: false
    acme_account:
      description: The URL by which the authority knows certbot's account; empty when there is none.
      type: str
      sample: https://acme-v02.api.letsencrypt.org/acme/acct/12345
    tls_keys:
      description:
        - With a certificate from an ACME authority, SHA-256 of the SubjectPublicKeyInfo of the key in use and of the
          next one, in hexadecimal; otherwise empty.
      type: list
      elements: str
      sample: []
    ssh_ports:
      description: TCP ports that SSH servers listen on, and the one that this run came in by.
      type: list
      elements: int
      sample: [22]
    ssh_client:
      description: Address that this run came from; empty when it did not come over SSH.
      type: str
      sample: 192.0.2.7
    effective_user_id:
      description: Number of the user the facts were read as.
      type: int
      sample: 0
    time_epoch:
      description: The host's clock, in seconds since 1970.
      type: int
      sample: 1767225600
"""

LISTEN = "0A"  # TCP_LISTEN in the kernel's include/net/tcp_states.h, as /proc/net/tcp writes it


def os_release(text: str) -> dict[str, str]:
    """The variables of an os-release file, see os-release(5). Lines that are none are left out."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and re.fullmatch(r"[A-Z0-9_]+", name):
            try:
                values[name] = "".join(shlex.split(value))
            except ValueError:
                continue
    return values


def installed_packages(status: str) -> dict[str, str]:
    """Name and version of each package in dpkg's status file whose state is "installed", see dpkg-query(1)."""
    packages: dict[str, str] = {}
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version): *(.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            packages[fields["Package"]] = fields.get("Version", "")
    return packages


SERVICES = {
    25: "/postfix/",
    465: "/postfix/",
    587: "/postfix/",
    993: "/dovecot",
    995: "/dovecot",
    443: "/haproxy",
    53: "/unbound",
}
"""What is in the path of the programs that Mailroom runs on each port."""
HTTP = 80
RESOLVER, OF_RESOLVER = 53, ("0100007F", "7F000001", "00000000", "0" * 32)
"""Other addresses of this host may have other resolvers, as systemd-resolved at 127.0.0.53."""


def listening_sockets(table: str) -> dict[str, int]:
    """The TCP ports that are listened on in a /proc/net/tcp or tcp6 table, by the sockets' inodes, see proc_net(5)."""
    rows = [line.split() for line in table.splitlines()[1:]]
    found = [(row[9], *row[1].split(":")) for row in rows if len(row) > 9 and row[3] == LISTEN]
    ports = [(inode, address, int(port, 16)) for inode, address, port in found]
    return {inode: port for inode, address, port in ports if port != RESOLVER or address in OF_RESOLVER}


def all_listening(proc: Path) -> dict[str, int]:
    """The same of both tables, by what a descriptor of a process links to."""
    tables = (proc / "net" / table for table in ("tcp", "tcp6"))  # no tcp6 without IPv6
    found = [listening_sockets(table.read_text()) for table in tables if table.exists()]
    return {f"socket:[{inode}]": port for sockets in found for inode, port in sockets.items()}


def _links(process: Path) -> Iterator[str]:
    """What the descriptors of a process link to."""
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:  # the process has ended meanwhile, or is not ours to see
        return
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            yield str(descriptor.readlink())


def _holders(proc: Path) -> dict[int, list[Path]]:
    """The processes that listen on each TCP port; none where they cannot be seen."""
    listening = all_listening(proc)
    holders: dict[int, list[Path]] = {port: [] for port in listening.values()}
    processes = sorted((entry for entry in proc.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
    for process in processes:
        for port in {listening[link] for link in _links(process) if link in listening}:
            holders[port].append(process)
    return holders


def _runs(process: Path, program: str) -> bool:
    try:
        return program in str((process / "exe").readlink())
    except OSError:
        return False


def _name(process: Path) -> str:
    """The name of a process; "" of one that has ended."""
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def foreign_listeners(services: Mapping[int, str], proc: Path = Path("/proc")) -> dict[int, str]:
    """Name of a process that listens on each of these TCP ports; none for those that nobody has, or that program."""
    found = {}
    for port, holders in _holders(proc).items():
        if port in services:
            foreign = list(filter(None, (_name(holder) for holder in holders if not _runs(holder, services[port]))))
            if foreign or not holders:
                found[port] = foreign[0] if foreign else "a process out of sight"
    return found


def ssh_session(proc: Path = Path("/proc"), process: int | None = None) -> tuple[str, int]:
    """The address that this process was started from over SSH, and the port it came in by; ("", 0) when neither.

    From SSH_CONNECTION (ssh(1)) of this process or the nearest above it that has it: sudo takes it from those below.
    """
    process = process or os.getpid()
    while process > 0:
        try:
            words = (proc / str(process) / "environ").read_bytes().split(b"\0")
            stat = (proc / str(process) / "stat").read_text(errors="replace")
        except OSError:  # it has ended meanwhile, or is not ours to see
            break
        for word in words:
            if word.startswith(b"SSH_CONNECTION="):
                client, _, _, port = word.decode().partition("=")[2].split(" ")
                return client, int(port)
        process = int(stat.rpartition(")")[2].split()[1])
    return "", 0


def ssh_ports(proc: Path = Path("/proc")) -> list[int]:
    """The TCP ports that processes called sshd listen on."""
    return sorted(port for port, holders in _holders(proc).items() if any(_name(each) == "sshd" for each in holders))


SETTLED = {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
RUNNING = {"ActiveState": "active"}


def units_that_are(state: Mapping[str, str], shown: str) -> list[str]:
    """The units whose properties are as in `state`, from what `systemctl show` prints."""
    units = [dict(line.split("=", 1) for line in unit.splitlines() if "=" in line) for unit in shown.split("\n\n")]
    return sorted(unit["Id"] for unit in units if "Id" in unit and state.items() <= unit.items())


def units_in_use(shown: str) -> list[str]:
    """The units that have to be stopped or disabled to be gone; systemd has loaded all of these."""
    ended = {name for state in ("inactive", "failed") for name in units_that_are({"ActiveState": state}, shown)}
    enabled = units_that_are({"UnitFileState": "enabled"}, shown)
    return sorted({*units_that_are({}, shown)} - ended | {*enabled})


def show_units() -> str:
    """What systemd says of all services and timers it has loaded; nothing on a host without systemd."""
    properties = "--property=Id,ActiveState,UnitFileState,NeedDaemonReload"
    try:
        command = ["systemctl", "show", properties, "*.service", "*.timer"]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout  # noqa: S603 - fixed
    except (OSError, subprocess.TimeoutExpired):
        return ""


def facts(root: Path = Path("/")) -> dict[str, object]:
    """The facts as RETURN describes them. Raises OSError when the host has no /proc."""
    release_file, status_file = root / "etc/os-release", root / "var/lib/dpkg/status"
    release = os_release(release_file.read_text(errors="replace")) if release_file.exists() else {}
    status = status_file.read_text(errors="replace") if status_file.exists() else ""
    units = show_units()
    ssh_client, ssh_port = ssh_session(root / "proc")
    taken = foreign_listeners(SERVICES | {HTTP: "/postfix/"}, root / "proc")
    passwd_file = root / "etc/passwd"
    passwd = passwd_file.read_text(errors="replace") if passwd_file.exists() else ""
    resolv_conf = root / "etc/resolv.conf"
    own = resolv_conf.is_file() and not resolv_conf.is_symlink()
    return {
        "distribution": release.get("ID", "").capitalize(),
        "distribution_release": release.get("VERSION_CODENAME", ""),
        "distribution_major_version": release.get("VERSION_ID", "").partition(".")[0],
        "packages": installed_packages(status),
        "users": [line.partition(":")[0] for line in passwd.splitlines() if line],
        "services": units_that_are(SETTLED, units),
        "running": units_that_are(RUNNING, units),
        "in_use": units_in_use(units),
        "resolv_conf": resolv_conf.read_text(errors="replace") if own else "",
        "taken_ports": {str(port): name for port, name in taken.items() if port != HTTP},
        "port_80": taken.get(HTTP, ""),
        **acme_facts(root),
        "ssh_ports": sorted({*ssh_ports(root / "proc"), ssh_port} - {0}),
        "ssh_client": ssh_client,
        "effective_user_id": os.geteuid(),
        "time_epoch": int(time.time()),
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule({}, supports_check_mode=True)
    try:
        module.exit_json(changed=False, ansible_facts=facts())
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}: is this a Linux host?")


if __name__ == "__main__":
    main()
