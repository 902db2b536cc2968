from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import dns.message
import dns.query
import dns.update
import pytest

from bench.relay import Relay

DELAY = 0.05


def echo(answers: Callable[[bytes], bytes]) -> Iterator[int]:
    """A server on UDP and TCP that answers each message; its port."""
    with socket.create_server(("127.0.0.1", 0)) as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        port = int(stream.getsockname()[1])
        datagrams.bind(("127.0.0.1", port))

        def by_udp() -> None:
            while (received := datagrams.recvfrom(65535))[0]:
                datagrams.sendto(answers(received[0]), received[1])

        def by_tcp() -> None:
            with closing(stream.accept()[0]) as connection:
                while head := connection.recv(2):
                    answer = answers(connection.recv(int.from_bytes(head)))
                    connection.sendall(len(answer).to_bytes(2) + answer)

        threads = [threading.Thread(target=each) for each in (by_udp, by_tcp)]
        for thread in threads:
            thread.start()
        yield port
        with socket.socket(type=socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", port))
        for thread in threads:
            thread.join(10)


@pytest.fixture
def server() -> Iterator[int]:
    yield from echo(lambda wire: dns.message.make_response(dns.message.from_wire(wire)).to_wire())


def test_each_way_takes_its_time_and_requests_are_counted(server: int) -> None:
    question, update = dns.message.make_query("example.com", "MX"), dns.update.UpdateMessage("example.com")
    with Relay(server, DELAY).running() as relay:
        began = time.monotonic()
        assert dns.query.udp(question, "127.0.0.1", 5, relay.port).id == question.id
        by_udp = time.monotonic() - began
        assert dns.query.tcp(update, "127.0.0.1", 5, relay.port).id == update.id
        by_tcp = time.monotonic() - began - by_udp
        assert relay.counted() == {0: 1, 5: 1}
        assert relay.counted() == {}
    assert by_udp >= 2 * DELAY
    assert by_tcp >= 4 * DELAY, "a connection has to be made first"
