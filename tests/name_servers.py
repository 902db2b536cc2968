"""Name servers of example.com and of a reverse zone, started on a port of the loopback address, with other editors.

Needs knotd, named and pdns_server (`tests/setup servers` installs them); their services need not run.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import sqlite3
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import dns.update
import dns.zone

SECRET = "c2l4dGVlbiBieXRlcyBhcmUgbm90IGVub3VnaCBoZXJl"  # of the tests only
KEY = dns.tsig.Key("mailroom", SECRET, "hmac-sha256")
APEX = "example.com."
ZONE_FILE = """
$ORIGIN example.com.
$TTL 3600
@ SOA ns.example.com. hostmaster.example.com. 1 3600 600 86400 60
@ NS ns.example.com.
ns A 127.0.0.1
@ A 192.0.2.80
@ TXT "google-site-verification=a  B" "in two strings"
@ TXT "MS=ms1"
@ TXT "a \\\\ \\"quoted\\" caf\\233\\010line"
www A 192.0.2.80
*.wild A 192.0.2.80
"""
REVERSE = "2.0.192.in-addr.arpa"
REVERSE_FILE = """
$ORIGIN 2.0.192.in-addr.arpa.
$TTL 3600
@ SOA ns.example.com. hostmaster.example.com. 1 3600 600 86400 60
@ NS ns.example.com.
80 PTR www.example.com.
"""
ZONES = {APEX.rstrip("."): ZONE_FILE, REVERSE: REVERSE_FILE}

KNOT = """\
server:
  rundir: {directory}
  listen: 127.0.0.1@{port}
database:
  storage: {directory}
  journal-db-mode: asynchronous
key:
  - id: mailroom
    algorithm: hmac-sha256
    secret: {secret}
  - id: narrow
    algorithm: hmac-sha256
    secret: {secret}
  - id: half
    algorithm: hmac-sha256
    secret: {secret}
acl:
  - id: mailroom
    key: mailroom
    action: [query, update, transfer]
  - id: narrow
    key: narrow
    action: [query, update]
    update-type: [A]
  - id: half
    key: half
    action: query
template:
  - id: default
    storage: {directory}
    file: "%s.zone"
    zonefile-sync: -1
    dnssec-signing: {signed}
zone:
  - domain: example.com
    acl: [mailroom, narrow]
  - domain: 2.0.192.in-addr.arpa
    acl: [mailroom, half]
"""
BIND = """\
options {{
  directory "{directory}"; pid-file none; session-keyfile none; recursion no; dnssec-validation no;
  listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; allow-transfer {{ key mailroom; }};
}};
controls {{ }};
key mailroom {{ algorithm hmac-sha256; secret "{secret}"; }};
key narrow {{ algorithm hmac-sha256; secret "{secret}"; }};
key half {{ algorithm hmac-sha256; secret "{secret}"; }};
zone example.com {{
  type primary; file "example.com.zone"; {signed}
  update-policy {{ grant mailroom zonesub ANY; grant narrow zonesub A; }};
}};
zone 2.0.192.in-addr.arpa {{
  type primary; file "2.0.192.in-addr.arpa.zone"; {signed}
  update-policy {{ grant mailroom zonesub ANY; }};
}};
"""
POWERDNS = """\
launch=gsqlite3
gsqlite3-database={directory}/zones.sqlite3
gsqlite3-pragma-synchronous=0
local-address=127.0.0.1
local-port={port}
socket-dir={directory}
dnsupdate=yes
disable-syslog=yes
security-poll-suffix=
"""
POWERDNS_SCHEMA = Path("/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql")
POWERDNS_COMMANDS = """\
import-tsig-key mailroom hmac-sha256 {secret}
import-tsig-key narrow hmac-sha256 {secret}
import-tsig-key half hmac-sha256 {secret}
set-meta example.com TSIG-ALLOW-DNSUPDATE mailroom
set-meta example.com TSIG-ALLOW-AXFR mailroom
set-meta 2.0.192.in-addr.arpa TSIG-ALLOW-DNSUPDATE mailroom
set-meta 2.0.192.in-addr.arpa TSIG-ALLOW-AXFR mailroom
"""

CONFIGURATIONS = {
    "knot": ("knotd", KNOT, "off"),
    "knot-signed": ("knotd", KNOT, "on"),
    "bind": ("named", BIND, ""),
    "bind-signed": ("named", BIND, "dnssec-policy default; inline-signing yes;"),
    "powerdns": ("pdns_server", POWERDNS, ""),
}
"""By kind: the program, its configuration, and what stands in it for signatures."""
ARGUMENTS = {
    "knotd": ["-c", "conf"],
    "named": ["-g", "-c", "conf"],
    "pdns_server": ["--config-dir=.", "--guardian=no", "--daemon=no"],
}
# What a signing server adds by itself.
OWN_TYPES = {"SOA", "RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "DNSKEY", "CDS", "CDNSKEY", "TYPE65534"}


class NameServer:
    """An authoritative server of example.com on a loopback port."""

    def __init__(self, kind: str, directory: Path, configuration: str = "") -> None:
        """kind: one of CONFIGURATIONS; configuration: one in place of the kind's, with the same places to fill in."""
        self.kind, self.directory = kind, directory
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        program, usual, signed = CONFIGURATIONS[kind]
        for zone, content in ZONES.items():
            (directory / f"{zone}.zone").write_text(content, encoding="utf-8")
        values = {"directory": directory, "port": self.port, "secret": SECRET, "signed": signed}
        name = "pdns.conf" if kind == "powerdns" else "conf"
        (directory / name).write_text(textwrap.dedent(configuration or usual).format(**values), encoding="utf-8")
        self.command = [_binary(program), *ARGUMENTS[program]]
        self.process: subprocess.Popen[bytes] | None = None
        self._marks = itertools.count(1)
        if kind == "powerdns":
            self._fill_database()

    def _fill_database(self) -> None:
        with sqlite3.connect(self.directory / "zones.sqlite3") as database:
            database.executescript(POWERDNS_SCHEMA.read_text(encoding="utf-8"))
        database.close()
        for zone in ZONES:
            self.pdnsutil(f"load-zone {zone} {zone}.zone")
        for line in POWERDNS_COMMANDS.format(secret=SECRET).splitlines():
            self.pdnsutil(line)

    def pdnsutil(self, line: str) -> None:
        """Run a command of PowerDNS's tool."""
        command = [_binary("pdnsutil"), "--config-dir=.", *line.split()]
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True)

    def start(self) -> None:
        """Start, and wait until the zone is answered for. Raises RuntimeError with the server's log if it is not."""
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(self.command, cwd=self.directory, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                signed = not self.kind.endswith("-signed") or self._asked(APEX, "DNSKEY").answer
                if signed and self._asked(APEX, "SOA").answer:
                    return
            except (OSError, EOFError):
                pass
            time.sleep(0.02)  # a server can only be asked again
        self.stop()
        raise RuntimeError((self.directory / "log").read_text(encoding="utf-8"))

    def stop(self) -> None:
        """Stop, if it runs."""
        if self.process:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def _asked(self, name: str, kind: str) -> dns.message.Message:
        return dns.query.tcp(dns.message.make_query(name, kind), "127.0.0.1", 5, self.port)

    def values(self, name: str, kind: str) -> set[str]:
        """Ask for the values of a set as a zone file has them."""
        answer = self._asked(name, kind)
        rrset = answer.get_rrset(
            answer.answer, dns.name.from_text(name), dns.rdataclass.IN, dns.rdatatype.from_text(kind)
        )
        return {rdata.to_text() for rdata in rrset or ()}

    def ttl(self, name: str, kind: str) -> int:
        """Ask for the TTL of a set."""
        return int(self._asked(name, kind).answer[0].ttl)

    def serial(self, zone: str = APEX) -> int:
        """Ask for a zone's serial number, which grows with every update."""
        [soa] = self._asked(zone, "SOA").answer[0]
        return int(soa.serial)

    def edit(self, change: Callable[[dns.update.UpdateMessage], None], zone: str = APEX) -> None:
        """Change a zone as somebody else would, and wait until it is seen."""
        self.change(change, zone)
        self.settle(zone)

    def change(self, change: Callable[[dns.update.UpdateMessage], None], zone: str = APEX) -> None:
        """Change a zone as somebody else would, and do not wait until it is seen."""
        message = dns.update.UpdateMessage(zone, keyring=KEY)
        change(message)
        assert dns.query.tcp(message, "127.0.0.1", 5, self.port).rcode() == dns.rcode.NOERROR

    def settle(self, zone: str = APEX) -> None:
        """Wait until all earlier changes are seen: BIND shows them, in order, when it has signed them."""
        if self.kind != "bind-signed":
            return
        mark = f'"{next(self._marks)}"'
        name = f"_mark.{zone.rstrip('.')}."
        self.change(lambda message: message.replace(name, 60, "TXT", mark), zone)
        deadline = time.monotonic() + 10
        while self.values(name, "TXT") != {mark}:
            assert time.monotonic() < deadline, "a change is not seen"
            time.sleep(0.002)

    def records(self, zone: str = APEX) -> set[tuple[str, str, int, str]]:
        """All records of a zone at one moment, but for its SOA and signatures: name, type, TTL and value."""
        found = dns.zone.Zone(zone, relativize=False)
        query, _ = dns.xfr.make_query(found, keyring=KEY)
        dns.query.inbound_xfr("127.0.0.1", found, query, self.port, timeout=5)
        return _records(found)

    def reset(self) -> None:
        """Make the zones as they were at the beginning."""
        for zone, content in ZONES.items():
            self.settle(zone)
            right, found = _records(dns.zone.from_text(content, zone, relativize=False)), self.records(zone)
            message = dns.update.UpdateMessage(zone, keyring=KEY)
            for name, kind, _, value in sorted(found - right):
                message.delete(name, kind, value)
            for name, kind, ttl, value in sorted(right - found):
                message.add(name, ttl, kind, value)
            if found != right:
                assert dns.query.tcp(message, "127.0.0.1", 5, self.port).rcode() == dns.rcode.NOERROR
                self.settle(zone)


StartNameServer = Callable[[str], NameServer]


@contextmanager
def running(kind: str, directory: Path, configuration: str = "") -> Iterator[NameServer]:
    """Run a name server as long as it is needed, whatever happens."""
    started = NameServer(kind, directory, configuration)
    try:
        started.start()
        yield started
    finally:
        started.stop()


def _records(zone: dns.zone.Zone) -> set[tuple[str, str, int, str]]:
    return {
        (name.to_text(), dns.rdatatype.to_text(rdata.rdtype), ttl, rdata.to_text())
        for name, ttl, rdata in zone.iterate_rdatas()
        if dns.rdatatype.to_text(rdata.rdtype) not in OWN_TYPES and name.labels[0] != b"_mark"
    }


def _binary(name: str) -> str:
    """Find a server's program, for people who have no /usr/sbin in their PATH, too."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") or name
