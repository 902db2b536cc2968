"""How other mail servers are verified while the host's resolver (unbound) is restarted, or finds that DNS is forged.

All on loopback, see tests/servers/private_dns.py.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import dns.query
import mailroom_tls_policy
import pytest
from mailroom_tls_policy import netstring, read

from tests.servers.private_dns import Tree, Zone, free_port

pytestmark = pytest.mark.hosts

WAIT = 30.0  # seconds for what has to come


def mail_server(domain: str) -> list[str]:
    """Records by which the mail server of a domain is verified."""
    return [f"{domain} 300 IN MX 1 mx.{domain}", f"_25._tcp.mx.{domain} 300 IN TLSA 3 1 1 {'ab' * 32}"]


class Host:
    """A mail host: its resolver, which runs or does not, and what Postfix asks."""

    def __init__(self, directory: Path, tree: Tree) -> None:
        self.directory, self.tree, self.port, self.socket = directory, tree, free_port(), directory / "socket"

    def ask(self, domain: str) -> str | None:
        """What Postfix is told about a domain."""
        with socket.socket(socket.AF_UNIX) as postfix, postfix.makefile("rb") as stream:
            postfix.settimeout(WAIT)
            postfix.connect(str(self.socket))
            postfix.sendall(netstring(f"policy {domain}"))
            return read(stream)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A mail host whose resolver does not run yet."""
    directory = tmp_path_factory.mktemp("tls-policy")
    zones = [Zone("right.test.", mail_server("right.test.")), Zone("forged.test.", ds="other key")]
    made = Host(directory, Tree(directory, zones))
    with (
        pytest.MonkeyPatch.context() as patch,
        made.tree.running(),
        mailroom_tls_policy.Server(str(made.socket), mailroom_tls_policy.Session) as server,
    ):
        patch.setattr("dns.query.udp_with_fallback", partial(dns.query.udp_with_fallback, port=made.port))
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield made
        server.shutdown()


def test_a_resolver_that_is_restarted_puts_no_mail_off(host: Host) -> None:
    answers: list[str | None] = []
    postfix = threading.Thread(target=lambda: answers.append(host.ask("right.test")))
    with socket.socket(type=socket.SOCK_DGRAM) as ending:
        ending.bind(("127.0.0.1", host.port))
        postfix.start()
        assert ending.recv(1000), "it takes a question with it"
    with host.tree.resolver(host.directory / "resolver", port=host.port):
        postfix.join()
    assert answers == ["OK dane"]


def test_postfix_is_told_why_mail_waits(host: Host) -> None:
    with host.tree.resolver(host.directory / "resolver", port=host.port):
        said = host.ask("forged.test") or ""
    assert said.startswith("TEMP forged.test. MX: the resolver says SERVFAIL (")
    assert "DNSKEY" in said
