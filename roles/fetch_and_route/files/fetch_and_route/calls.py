"""Calls to one database's gateway: several at a time, each over a connection of its own, taken apart when they die.

All mailboxes of a database share them, and so its limit. Once Odoo is away or refuses us, nothing more is asked.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from .message import Prepared
from .odoo import Broken, Conflict, TooBig
from .routing import Verdict, held_back
from .trouble import Trouble


class Gateway(Protocol):
    """The part of Odoo that the cycle needs; see odoo.OdooGateway."""

    def ping(self) -> None: ...
    def route(self, messages: Sequence[Prepared]) -> list[Verdict]: ...
    def addresses(self) -> list[tuple[str, str]]: ...
    def close(self) -> None: ...


class Answer(NamedTuple):
    """A verdict for each message of a call, and how long it took."""

    verdicts: list[Verdict]
    seconds: float


class Calls:
    """At most `most` calls at a time; `connect` makes a gateway and may raise Trouble."""

    def __init__(self, connect: Callable[[], Gateway], most: int) -> None:
        """Make one gateway, so that a wrong configuration shows even with nothing to ask."""
        self.most = most
        self.trouble: Trouble | None = None
        """Why nothing more is asked."""
        self.answered = False
        """Whether Odoo has answered a call."""
        self._connect = connect
        self._idle: queue.SimpleQueue[Gateway] = queue.SimpleQueue()
        self._idle.put(connect())
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(most)

    def __enter__(self) -> Self:
        """Use the calls in a `with`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the calls under way and end the connections."""
        self._pool.shutdown()
        while not self._idle.empty():
            self._idle.get().close()

    def ask(self, messages: Sequence[Prepared]) -> Future[Answer]:
        """Ask for verdicts; the future raises Trouble. One that has not begun may be cancelled."""
        return self._pool.submit(self._ask, messages)

    def addresses(self) -> list[tuple[str, str]]:
        """Ask which addresses Odoo has a use for, and wait for the answer.

        Raises Broken when that is all that Odoo cannot do: mail may still be routed. Raises other Trouble, too.
        """
        return self._pool.submit(self._addresses).result()

    def _ask(self, messages: Sequence[Prepared]) -> Answer:
        with self._asking() as gateway:
            began = time.monotonic()
            return Answer(ask(gateway, messages), time.monotonic() - began)

    def _addresses(self) -> list[tuple[str, str]]:
        with self._asking() as gateway:
            try:
                return gateway.addresses()
            except Broken as error:
                gateway.ping()
                broken = error
        raise broken

    @contextmanager
    def _asking(self) -> Iterator[Gateway]:
        """Lend a gateway for one call. Trouble in it is the last call's."""
        self._check()
        try:
            gateway = self._gateway()
            try:
                yield gateway
            finally:
                self._idle.put(gateway)
        except Trouble as trouble:
            with self._lock:
                self.trouble = self.trouble or trouble
            self._check()
            raise
        self.answered = True

    def _check(self) -> None:
        """Raise the first trouble that there was: what follows from it needs no words of its own."""
        with self._lock:
            if self.trouble is not None:
                raise self.trouble

    def _gateway(self) -> Gateway:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._connect()


def ask(gateway: Gateway, messages: Sequence[Prepared]) -> list[Verdict]:
    """Get a verdict for each message. A call that dies is taken apart, to find the message that kills it.

    Nothing is held against a message unless Odoo answers a ping right after: then it is not Odoo that is in trouble.
    What Odoo wants to be asked about again is, as long as each call settles at least one message, but never what comes
    after a failed message of its thread. Raises Unavailable and Denied.
    """
    if not messages:
        return []
    try:
        verdicts = gateway.route(messages)
    except Broken as error:
        gateway.ping()
        if len(messages) == 1:
            return [_verdict_on(error)]
        return _one_by_one(gateway, messages)
    held = held_back([message.thread for message in messages], verdicts)
    again = [number for number, verdict in enumerate(verdicts) if verdict.word == "retry" and not held[number]]
    if len(again) < len(messages):
        for number, verdict in zip(again, ask(gateway, [messages[number] for number in again]), strict=True):
            verdicts[number] = verdict
    return verdicts


def _one_by_one(gateway: Gateway, messages: Sequence[Prepared]) -> list[Verdict]:
    verdicts: list[Verdict] = []
    stuck: set[int] = set()
    for message in messages:
        if message.thread in stuck:
            verdicts.append(Verdict("retry", reason="an earlier message of its thread failed"))
            continue
        verdicts += ask(gateway, [message])
        if message.thread and verdicts[-1].word in ("retry", "error"):
            stuck.add(message.thread)
    return verdicts


def _verdict_on(error: Broken) -> Verdict:
    """What it says about a message that its call alone died while Odoo is well."""
    if isinstance(error, TooBig):
        return Verdict("refused", reason=str(error))
    return Verdict("retry" if isinstance(error, Conflict) else "error", reason=str(error))
