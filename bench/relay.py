"""Something between a DNS client and a server that makes them far apart, and counts what the client asks."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import struct
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any


class Relay:
    """A server as it is reached on `port` of 127.0.0.1: over UDP and TCP, each way taking `delay` seconds."""

    def __init__(self, port: int, delay: float) -> None:
        """port: the server's own."""
        self._server, self._delay = port, delay
        self._pipe, self._other = multiprocessing.Pipe()
        self.port = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[Relay]:
        """Relay for as long as this block lasts; in a process of its own, so that it takes no time of the client's."""
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_run, args=(self._server, self._delay, self._other), daemon=True)
        process.start()
        try:
            self.port = self._pipe.recv()
            yield self
        finally:
            process.terminate()
            process.join()

    def counted(self) -> Counter[int]:
        """Answer how many requests there were since the last time, by opcode (RFC 6895 section 2.2)."""
        self._pipe.send(None)
        counts: Counter[int] = self._pipe.recv()
        return counts


def _run(server: int, delay: float, pipe: Connection) -> None:
    asyncio.run(_relay(server, delay, pipe))


async def _relay(server: int, delay: float, pipe: Connection) -> None:
    loop, counts = asyncio.get_running_loop(), Counter[int]()

    def count(message: bytes) -> None:
        counts[message[2] >> 3 & 15] += 1

    def tell() -> None:
        pipe.recv()
        pipe.send(Counter(counts))
        counts.clear()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * delay)  # what the connection's own first two packets take
        try:
            there, back = await asyncio.open_connection("127.0.0.1", server)
            await asyncio.gather(_copied(reader, back, delay, count), _copied(there, writer, delay, None))
        finally:
            writer.close()

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=500)
    port = listener.sockets[0].getsockname()[1]
    await loop.create_datagram_endpoint(lambda: _Datagrams(server, delay, count), ("127.0.0.1", port))
    loop.add_reader(pipe.fileno(), tell)
    pipe.send(port)
    await listener.serve_forever()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float, count: Any) -> None:
    """Copy messages, each `delay` after it came, until there are no more."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readexactly(2)
            message = await reader.readexactly(struct.unpack("!H", head)[0])
            if count:
                count(message)
            loop.call_later(delay, writer.write, head + message)
    loop.call_later(delay, writer.close)


class _Datagrams(asyncio.DatagramProtocol):
    """What clients send by UDP; each of them gets a socket of its own at the server."""

    def __init__(self, server: int, delay: float, count: Any) -> None:
        self._server, self._delay, self._count = server, delay, count

    def connection_made(self, transport: Any) -> None:
        """Keep what answers are sent by."""
        self._transport = transport

    def datagram_received(self, data: bytes, client: Any) -> None:
        self._count(data)
        loop = asyncio.get_running_loop()
        loop.call_later(self._delay, lambda: loop.create_task(self._passed_on(data, client)))

    async def _passed_on(self, data: bytes, client: Any) -> None:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bytes] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Answer(answered), remote_addr=("127.0.0.1", self._server)
        )
        transport.sendto(data)
        try:
            answer = await asyncio.wait_for(answered, 10)
        except (TimeoutError, OSError):
            return
        finally:
            transport.close()
        loop.call_later(self._delay, self._transport.sendto, answer, client)


class _Answer(asyncio.DatagramProtocol):
    def __init__(self, answered: asyncio.Future[bytes]) -> None:
        self._answered = answered

    def datagram_received(self, data: bytes, _: Any) -> None:
        if not self._answered.done():
            self._answered.set_result(data)

    def error_received(self, error: Exception) -> None:
        if not self._answered.done():
            self._answered.set_exception(error)
