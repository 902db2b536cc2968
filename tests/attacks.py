"""What attackers do to port 25. The tests run it as a program on the host that plays the attacker: `run` below."""

from __future__ import annotations

import collections
import concurrent.futures
import json
import shlex
import smtplib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.story import Hosts

SENDER = "stranger@customer.example"
PATIENT = 4  # names in one session: as many as are answered at once


def session(server: str, source: str) -> smtplib.SMTP:
    """A session of an attacker, greeted."""
    made = smtplib.SMTP(local_hostname="client.customer.example", timeout=60, source_address=(source, 0))
    code, _ = made.connect(server, 25)
    if code != 220:
        made.close()
        raise smtplib.SMTPConnectError(code, "no greeting")
    return made


def talk_early(server: str, source: str, recipient: str) -> list[int]:
    """The answers to HELO, MAIL and RCPT of one who does not wait for the greeting, of which only one line comes."""
    with socket.create_connection((server, 25), timeout=60, source_address=(source, 0)) as connection:
        connection.sendall(b"HELO client.customer.example\r\n")
        lines = connection.makefile("rb")
        codes = []
        for command in (None, f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{recipient}>"):
            if command:
                connection.sendall(f"{command}\r\n".encode())
            while (line := lines.readline())[3:4] == b"-":
                pass
            codes.append(int(line[:3]))
        return codes


def ask(server: str, source: str, names: Sequence[str], domain: str) -> Iterator[int]:
    """The code of the answer to each name, in one session; 421 for those after the server has ended it."""
    answered = 0
    try:
        with session(server, source) as made:
            made.ehlo()
            made.mail(SENDER)
            for name in names:
                code = made.rcpt(f"{name}@{domain}")[0]
                answered += 1
                yield code
                if code == 421:
                    break
    except (smtplib.SMTPServerDisconnected, smtplib.SMTPConnectError):
        pass
    yield from [421] * (len(names) - answered)


def guess(server: str, domain: str, count: int, sources: Sequence[str]) -> dict[int, int]:
    """Guess that many names, shared out among the addresses, each a few sessions at a time; how often which answer."""
    names = [f"guessed{number}" for number in range(count)]
    sessions = [(sources[n // PATIENT % len(sources)], names[n : n + PATIENT]) for n in range(0, count, PATIENT)]
    answers: collections.Counter[int] = collections.Counter()
    with concurrent.futures.ThreadPoolExecutor(min(4 * len(sources), 40)) as pool:
        for codes in pool.map(lambda each: list(ask(server, each[0], each[1], domain)), sessions):
            answers.update(codes)
    return dict(answers)


def storm(server: str, domain: str, count: int, recipient: str, sources: Sequence[str]) -> dict[str, Any]:
    """All at once, each from an address of its own: one who does not wait, one who does not stop, one who guesses."""
    hasty, stubborn, guesser = sources
    with concurrent.futures.ThreadPoolExecutor() as pool:
        early = pool.submit(talk_early, server, hasty, recipient)
        names = pool.submit(lambda: list(ask(server, stubborn, [f"n{number}" for number in range(20)], domain)))
        guesses = guess(server, domain, count, [guesser])
        return {"early": early.result(), "stubborn": names.result(), "guesses": guesses}


def try_each(server: str, recipient: str, sources: Sequence[str]) -> list[int]:
    """The answer to that recipient, by the address that asks."""
    name, _, domain = recipient.partition("@")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return [codes[0] for codes in pool.map(lambda source: list(ask(server, source, [name], domain)), sources)]


def run(hosts: Hosts, action: Callable[..., Any], sources: Sequence[str], *arguments: Any) -> Any:
    """Do one of the above on the host outside, which has those addresses, too, meanwhile."""
    hosts.ssh(hosts.outside, "; ".join(f"ip address replace {address}/24 dev eth0" for address in sources))
    try:
        told = shlex.quote(json.dumps([hosts.mail.address, *arguments]))
        ssh = ["ssh", "-F", str(hosts.secrets / "ssh" / "config"), hosts.outside.name]
        done = subprocess.run(
            [*ssh, "python3", "-", action.__name__, told],
            input=Path(__file__).read_text(),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    finally:
        hosts.ssh(hosts.outside, "; ".join(f"ip address delete {address}/24 dev eth0" for address in sources))
    return json.loads(done.stdout)


def since(hosts: Hosts, moment: float, pattern: str) -> list[str]:
    """What Postfix has said since then, as far as it matches."""
    command = f"journalctl --quiet --output=cat --unit='postfix*' --since=@{moment:.0f} --grep='{pattern}' || true"
    return hosts.ssh(hosts.mail, command).splitlines()


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*json.loads(sys.argv[2]))))
