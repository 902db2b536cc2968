"""A DNS of its own on loopback: a signed root and what is below it on one Knot, and resolvers (unbound).

Each zone is signed here, by dnspython, as well or as badly as a test wants it; Knot serves what it is given. Needs
knotd and unbound (Debian's packages knot and unbound); their services need not run.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import dns.dnssec
import dns.dnssectypes
import dns.message
import dns.name
import dns.query
import dns.rdata
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec

from module_utils.dns_zone import to_rdata

Signing = Literal["signed", "unsigned", "expired"]
Delegation = Literal["right", "none", "other key"]

SERVER = "127.99.0.1"
"""The address that the zones' name servers have in DNS. Nobody listens there: see Tree.ports."""
LAME = "127.99.0.2"
"""That of a name server that answers, but has none of the zones."""
DEAD = "127.99.0.3"
"""That of one that does not answer."""
OVER_IPV6 = {SERVER: "fd99::1", LAME: "fd99::2", DEAD: "fd99::3"}
"""Their addresses in IPv6, which stand for the same."""
REVERSE = "2.0.192.in-addr.arpa."


@dataclass
class Zone:
    """A zone. name: absolute. records: lines of a zone file with absolute names, without SOA and NS.

    ds: what the zone above says of its keys. address: that of its name server, which has the zone if it is SERVER.
    ours: whether a Tree's key may update it.
    """

    name: str
    records: Sequence[str] = ()
    signing: Signing = "signed"
    ds: Delegation = "right"
    address: str = SERVER
    ours: bool = True

    def __post_init__(self) -> None:
        """Make its key."""
        self.key, self.dnskey = new_key()

    @property
    def server(self) -> str:
        """The name of its name server, absolute."""
        return f"ns.{self.name}".replace("..", ".")

    def addresses(self) -> list[str]:
        """Answer those of its name server."""
        return [f"{self.server} 300 IN A {self.address}", f"{self.server} 300 IN AAAA {OVER_IPV6[self.address]}"]

    def delegation(self) -> list[str]:
        """Answer what the zone above has of it."""
        lines = [f"{self.name} 300 IN NS {self.server}", *self.addresses()]
        if self.ds == "none":
            return lines
        return [*lines, f"{self.name} 300 IN DS {self.ds_of(self.dnskey if self.ds == 'right' else new_key()[1])}"]

    def ds_of(self, key: Any) -> str:
        """Answer the DS that names a key."""
        name, digest = dns.name.from_text(self.name), dns.dnssectypes.DSDigest.SHA256
        return dns.dnssec.make_ds(name, key, digest, validating=True).to_text()

    def file(self, children: Iterable[Zone]) -> str:
        """Answer its zone file, signed."""
        lines = [
            f"{self.name} 300 IN SOA {self.server} hostmaster.test. 1 3600 600 86400 60",
            f"{self.name} 300 IN NS {self.server}",
            *self.addresses(),
            *self.records,
            *(line for child in children for line in child.delegation()),
        ]
        zone = dns.zone.from_text("\n".join(lines), self.name, relativize=False)
        if self.signing != "unsigned":
            now = datetime.now(UTC)
            until = now + timedelta(days=-3 if self.signing == "expired" else 14)
            keys: Any = [(self.key, self.dnskey)]
            with zone.writer() as transaction:
                dns.dnssec.sign_zone(
                    zone, transaction, keys, dnskey_ttl=300, inception=now - timedelta(days=30), expiration=until
                )
        return str(zone.to_text(relativize=False))


def new_key() -> tuple[ec.EllipticCurvePrivateKey, Any]:
    """Answer a key that signs a zone, and its DNSKEY, which is the one of which a DS is made (KSK and ZSK in one)."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key, dns.dnssec.make_dnskey(key.public_key(), dns.dnssectypes.Algorithm.ECDSAP256SHA256, flags=257)


def lines(records: Iterable[Mapping[str, Any]], zone: str) -> list[str]:
    """Answer the lines of a zone file for those record sets (see the filter mail_rrsets) that lie in a zone."""
    return [
        f"{record['name']} {record['ttl']} IN {record['type']} {to_rdata(record['type'], value).to_text()}"
        for record in records
        for value in record["values"]
        if f".{record['name']}".endswith(f".{zone}")
    ]


class Tree:
    """The root, `test.`, the zones below it, and reverse zones, on one Knot; and one that has none of them.

    key: secret of the key `mailroom` that may update the zones, empty for none. ports: by the address that a name
    server has in DNS, the port of 127.0.0.1 that stands for it.
    """

    def __init__(self, directory: Path, zones: Sequence[Zone], key: str = "") -> None:
        self.directory = directory
        self.ports = {address: free_port() for address in (SERVER, LAME, DEAD)}
        self.ports |= {other: self.ports[address] for address, other in OVER_IPV6.items()}
        self.root = Zone(".")
        test, arpa = Zone("test."), [zone for zone in zones if zone.name.endswith(".arpa.")]
        below = [zone for zone in zones if zone not in arpa and zone.name.count(".") == 2]  # not what is below these
        self.zones = [self.root, test, *zones]
        files = {".": self.root.file([test, *arpa]), "test.": test.file(below)}
        files |= {zone.name: zone.file([]) for zone in zones if zone.address == SERVER}
        for name, text in files.items():
            (directory / f"{name}zone").write_text(text, encoding="utf-8")
        may_update = {zone.name: "    acl: mailroom\n" for zone in self.zones if key and zone.ours}
        served = [
            f"  - domain: {name}\n    storage: {directory}\n    file: {name}zone\n{may_update.get(name, '')}"
            for name in files
        ]
        updates = f"""\
            key:
              - id: mailroom
                algorithm: hmac-sha256
                secret: {key}
            acl:
              - id: mailroom
                key: mailroom
                action: [query, update]
        """
        self._configure("knot", SERVER, f"{textwrap.dedent(updates) if key else ''}zone:\n{''.join(served)}")
        self._configure("lame", LAME, "")

    def _configure(self, name: str, address: str, zones: str) -> None:
        """Write a configuration of Knot."""
        rundir = self.directory / name
        rundir.mkdir()
        configuration = f"""\
            server:
              rundir: {rundir}
              listen: 127.0.0.1@{self.ports[address]}
            database:
              storage: {rundir}
            log:
              - target: stderr
                any: warning
        """
        text = textwrap.dedent(configuration) + zones
        (self.directory / f"{name}.conf").write_text(text, encoding="utf-8")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve the zones for as long as this block lasts."""
        with ExitStack() as stack:
            for name, address in (("knot", SERVER), ("lame", LAME)):
                configuration = self.directory / f"{name}.conf"
                process = _process("knotd", configuration, self.ports[address], ["-c", configuration.name])
                stack.enter_context(process)
            yield

    def _stubs(self) -> list[tuple[str, str]]:
        """Answer where a resolver finds the zones, since it knows of port 53 alone."""
        return [(zone.name, f"127.0.0.1@{self.ports[zone.address]}") for zone in self.zones]

    @contextmanager
    def resolver(
        self,
        directory: Path,
        anchor: Zone | None = None,
        *,
        port: int = 0,
        explains: bool = True,
        remembers: bool = True,
    ) -> Iterator[int]:
        """Run a validating resolver; answers its port. anchor: whose key it trusts as the root's, by default the root.

        port: to have, by default one that is free. explains: whether it says why something is bogus (RFC 8914).
        remembers: whether it asks once in a TTL.
        """
        port = port or free_port()
        key = (anchor or self.root).dnskey.to_text()
        reverse = [zone.name for zone in self.zones if zone.name.endswith(".arpa.")]
        configuration = f"""\
            server:
                directory: "{directory}"
                chroot: ""
                username: ""
                pidfile: ""
                use-syslog: no
                log-time-ascii: yes
                interface: 127.0.0.1@{port}
                do-not-query-localhost: no
                module-config: "validator iterator"
                trust-anchor: ". DNSKEY {key}"
                ede: {"yes" if explains else "no"}
                val-log-level: 0
                num-threads: 2
            {"" if remembers else "    cache-max-ttl: 0"}
            {"".join(f'    local-zone: "{name}" nodefault{chr(10)}            ' for name in ("test.", *reverse))}
            remote-control:
                control-enable: no
        """
        stubs = [f'stub-zone:\n    name: "{name}"\n    stub-addr: {address}\n' for name, address in self._stubs()]
        directory.mkdir(exist_ok=True)
        (directory / "unbound.conf").write_text(textwrap.dedent(configuration) + "".join(stubs), encoding="utf-8")
        with _process("unbound", directory / "unbound.conf", port, ["-d", "-c", "unbound.conf"]):
            yield port


def free_port() -> int:
    """Answer a port of loopback that is free for UDP and TCP."""
    while True:
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            stream.bind(("127.0.0.1", 0))
            port = int(stream.getsockname()[1])
            try:
                datagram.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextmanager
def _process(binary: str, configuration: Path, port: int, arguments: Sequence[str]) -> Iterator[None]:
    """Run a server until the block ends; it begins when the server answers. Raises RuntimeError with its log."""
    found = shutil.which(binary, path=f"{os.environ['PATH']}:/usr/sbin") or binary
    with configuration.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen([found, *arguments], cwd=configuration.parent, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                dns.query.tcp(dns.message.make_query(".", "SOA", flags=0), "127.0.0.1", 2, port)
                break
            except (OSError, EOFError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(configuration.with_suffix(".log").read_text(encoding="utf-8")) from None
                time.sleep(0.02)  # a server can only be asked again
        yield
    finally:
        process.terminate()
        process.wait(10)
