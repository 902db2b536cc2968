"""dns_answer against a scripted resolver on loopback."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest
from ansible.module_utils.testing import patch_module_args

from library import dns_answer

NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5


class Resolver:
    """Answers each question with the next of its codes, the last one again and again; None: not at all."""

    def __init__(self) -> None:
        self.codes: list[int | None] = [NOERROR]
        self.numbers = 0  # what is added to the questions' numbers
        self.asked: list[bytes] = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        while True:
            try:
                question, address = self.socket.recvfrom(512)
            except OSError:
                return
            if not question:
                return
            self.asked.append(question)
            code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
            if code is not None:
                number = (int.from_bytes(question[:2]) + self.numbers) % 65536
                self.socket.sendto(number.to_bytes(2) + bytes([0x81, 0x80 | code]) + question[4:], address)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    monkeypatch.setattr(dns_answer, "PAUSE", 0.01)
    monkeypatch.setattr(dns_answer, "PATIENCE", 0.05)
    resolver = Resolver()
    yield resolver
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as session:
        session.sendto(b"", ("127.0.0.1", resolver.port))
    resolver.socket.close()


def ask(resolver: Resolver, timeout: float = 5) -> str:
    return dns_answer.ask_until("mail.example.com", "127.0.0.1", resolver.port, timeout)


def test_it_asks_for_the_addresses_of_the_name(resolver: Resolver) -> None:
    assert ask(resolver) == "NOERROR"
    assert resolver.asked[0][2:] == b"\x01\0\0\x01\0\0\0\0\0\0\x04mail\x07example\x03com\0\0\x01\0\x01"


@pytest.mark.parametrize("code", [NOERROR, NXDOMAIN])
def test_it_asks_until_there_is_an_answer(resolver: Resolver, code: int) -> None:
    resolver.codes = [SERVFAIL, None, REFUSED, code]
    assert ask(resolver) == dns_answer.CODES[code]
    assert len(resolver.asked) == 4


@pytest.mark.parametrize(("code", "said"), [(SERVFAIL, "SERVFAIL"), (None, "no answer"), (9, "code 9")])
def test_it_says_why_there_is_none_when_the_time_is_up(resolver: Resolver, code: int | None, said: str) -> None:
    resolver.codes = [code]
    assert ask(resolver, timeout=0.2) == said


def test_an_answer_to_something_else_is_none(resolver: Resolver) -> None:
    resolver.numbers = 1
    assert ask(resolver, timeout=0.1) == "an answer to something else"


def test_nobody_there_is_an_answer_too() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert dns_answer.ask_until("mail.example.com", "127.0.0.1", port, 0) == "connection refused"


def run(capsys: pytest.CaptureFixture[str], resolver: Resolver) -> dict[str, object]:
    arguments = {"name": "mail.example.com", "server": "127.0.0.1", "port": resolver.port, "timeout": 0}
    with patch_module_args({**arguments, "remedy": "open port 53"}), pytest.raises(SystemExit):
        dns_answer.main()
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


def test_the_module_says_what_it_was_told(capsys: pytest.CaptureFixture[str], resolver: Resolver) -> None:
    resolver.codes = [NXDOMAIN]
    answer = run(capsys, resolver)
    assert (answer["changed"], answer["code"]) == (False, "NXDOMAIN")


def test_the_module_fails_in_one_line(capsys: pytest.CaptureFixture[str], resolver: Resolver) -> None:
    resolver.codes = [SERVFAIL]
    answer = run(capsys, resolver)
    assert answer["msg"] == "127.0.0.1 does not find mail.example.com (SERVFAIL): open port 53"
