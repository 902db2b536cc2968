"""Mail that leaves for a stranger all the while, and connections that come, while somebody changes keys.

`tests/hosts/test_rotate_keys.py` watches one change of each kind of key, `bench/rotation` many, and kills the playbook
by lot; `tests/keys/` kills it at each of its steps.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import email.utils
import json
import os
import random
import re
import signal
import smtplib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from filter_plugins.tlsa import tlsa_keys
from tests.story import ROOT, WAIT, Hosts, StoryError

CUSTOMER = "customer@customer.example"
FOR_EVER = 36500  # days
TTL, RETIRED, CLOCK = 5, 15, 4  # seconds: of records, of a DKIM key afterwards, by which clocks may be wrong
QUICK = {
    "dns_records_dkim_days": 0,
    "dns_records_dkim_retired_days": RETIRED / 86400,
    "dns_records_ttl": TTL,
    "postfix_queue_lifetime": f"{RETIRED - 5}s",
    "__dns_records_clock_tolerance": CLOCK,
}
"""Days are seconds."""


@dataclass
class Sent:
    """A message on its way. raw: as it arrived."""

    raw: bytes = b""

    @property
    def selectors(self) -> list[str]:
        """The selectors of its signatures."""
        signatures = self.message.get_all("DKIM-Signature", [])
        return sorted(re.findall(r"\bs=([^;\s]+)", " ".join(str(value) for value in signatures)))

    @property
    def message(self) -> EmailMessage:
        """The message as it arrived."""
        return email.message_from_bytes(self.raw, policy=email.policy.default)


@dataclass
class Traffic:
    """Messages of the database's login to the customer, one every `pause` seconds, until told to stop.

    sent: by Message-ID. faults: what is wrong with any of them, in one line each.
    """

    hosts: Hosts
    pause: float = 0.5
    sent: dict[str, Sent] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def flowing(self) -> Iterator[None]:
        """Send all the while; what cannot be sent is a fault."""
        over = threading.Event()

        def send() -> None:
            while not over.wait(self.pause):
                try:
                    self.send()
                except (OSError, smtplib.SMTPException) as error:
                    self.faults.append(f"a message was not taken: {error}")

        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield
        finally:
            over.set()
            sender.join()

    def send(self) -> str:
        """Send one, as Odoo does; answer its Message-ID."""
        name, message = self.hosts.database["name"], EmailMessage()
        message["From"] = f"notifications@{self.hosts.domain['name']}"
        message["To"] = CUSTOMER
        message["Subject"] = "While keys change"
        message["Date"] = email.utils.localtime()
        message["Message-ID"] = email.utils.make_msgid(domain=self.hosts.domain["name"])
        message.set_content("Good day\n")
        with smtplib.SMTP_SSL(self.hosts.mail.name, 465, timeout=WAIT, context=self.hosts.tls) as session:
            session.login(name, self.hosts.secret(f"mailbox-{name}"))
            self.sent[message["Message-ID"]] = Sent()
            session.send_message(message)
        return str(message["Message-ID"])

    def collect(self) -> list[Sent]:
        """Take what has arrived out of the customer's mailbox; the verdicts that their server wrote are judged."""
        waiting = {one for one, sent in list(self.sent.items()) if not sent.raw}
        found = []
        session: Any
        with self.hosts.customer_mailbox() as session:
            session.select_folder("INBOX")
            numbers = session.search(["SUBJECT", "While keys change"])
            fetched = session.fetch(numbers, ["BODY.PEEK[]"]) if numbers else {}
            for number, data in fetched.items():
                message = email.message_from_bytes(data[b"BODY[]"], policy=email.policy.default)
                if message["Message-ID"] in waiting:
                    sent = self.sent[message["Message-ID"]]
                    sent.raw = data[b"BODY[]"]
                    found.append(sent)
                session.add_flags([number], [rb"\Deleted"], silent=True)
            session.expunge()
        for sent in found:
            results = " ".join(str(value) for value in sent.message.get_all("Authentication-Results", []))
            missing = [check for check in ("spf=pass", "dkim=pass", "dmarc=pass") if check not in results]
            if missing:
                self.faults.append(f"no {', '.join(missing)} with {' '.join(sent.selectors)}: {results}")
            if len(sent.selectors) != 2:
                self.faults.append(f"signed with {sent.selectors}")
        return found

    def wait(self) -> None:
        """Collect until all has arrived. Raises StoryError when something has not after a minute."""
        deadline = time.monotonic() + WAIT
        while any(not sent.raw for sent in self.sent.values()):
            if not self.collect() and time.monotonic() > deadline:
                raise StoryError(f"{sum(not sent.raw for sent in self.sent.values())} messages have not arrived")


@dataclass
class Strangers:
    """Connections from outside to the domain's mail server, verified by DANE alone, one every `pause` seconds.

    verified: how many were. faults: what Postfix outside said of the others.
    """

    hosts: Hosts
    pause: float = 0.5
    verified: int = 0
    faults: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def connecting(self) -> Iterator[None]:
        """Connect all the while."""
        over = threading.Event()
        finger = f"posttls-finger -t 30 -T 30 -L summary -l dane-only {self.hosts.domain['name']} 2>&1"
        config = str(self.hosts.secrets / "ssh" / "config")
        ssh = ["ssh", "-F", config, self.hosts.outside.name, f"while read -r _; do {finger} | tr '\\n' ' '; echo; done"]
        # ssh would make the stderr that others have, too, a non-blocking one, which Ansible refuses.
        with subprocess.Popen(
            ssh, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as outside:

            def connect() -> None:
                assert outside.stdin and outside.stdout  # noqa: PT018 - both are pipes
                while not over.wait(self.pause):
                    outside.stdin.write("\n")
                    outside.stdin.flush()
                    said = outside.stdout.readline()
                    if "Verified TLS connection established" in said:
                        self.verified += 1
                    else:
                        self.faults.append(f"{time.strftime('%H:%M:%S')} not verified: {said.strip()}")
                outside.stdin.close()

            thread = threading.Thread(target=connect)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()


@dataclass
class Run:
    """A run of a playbook: the tasks that it has come to, and which of them, counted from 1, have changed something."""

    tasks: list[str] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)


def rotate(hosts: Hosts, options: dict[str, Any], kill_at: int | None = None) -> Run:
    """Run playbooks/rotate_keys.yml with variables. Raises StoryError when it fails.

    kill_at: kill it, and all that it has started here, as soon as the how manyth task begins.
    """
    run = Run()
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(hosts.inventory)]
    with subprocess.Popen(
        [*command, "playbooks/rotate_keys.yml", "-e", json.dumps(options)],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout  # it is a pipe
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("changed: ["):
                run.changed.append(len(run.tasks))
            elif found := re.match(r"(?:TASK|RUNNING HANDLER) \[(.*)\] \*", line):
                run.tasks.append(found[1])
                if len(run.tasks) == kill_at:
                    os.killpg(process.pid, signal.SIGKILL)
                    return run
    if process.returncode:
        raise StoryError(f"playbooks/rotate_keys.yml ended with {process.returncode}:\n{''.join(said)[-3000:]}")
    return run


@dataclass
class Rounds:
    """All keys are changed again and again, and the playbook is killed on its way: what strangers see of that.

    Days are seconds, but nothing is played: what somebody may remember for a TTL they do remember. In each round other
    DKIM keys begin to sign, and the certificate is made from its next key, or in every third round with the same.
    """

    hosts: Hosts
    wanted: int
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)  # variables of each run
    zones: tuple[str, ...] = ("example.com",)  # in which the names of keys are
    say: Callable[[str], None] = lambda _: None
    done: int = 0
    runs: int = 0
    renewed: int = 0
    seconds: float = 0
    killed: list[str] = field(default_factory=list)  # the tasks that had just begun
    keys: set[str] = field(default_factory=set)  # that the certificate has had
    tasks: int = 1  # of a whole run

    def __post_init__(self) -> None:
        self.traffic, self.strangers = Traffic(self.hosts), Strangers(self.hosts)
        self.lots = random.Random(self.seed)  # noqa: S311 - no secret

    @property
    def faults(self) -> list[str]:
        """What is wrong, in one line each."""
        return [*self.traffic.faults, *self.strangers.faults]

    def play(self, limit: float) -> None:
        """Play all rounds, and begin none after so many seconds. Raises StoryError."""
        began = time.monotonic()
        with self._memories():
            with self.traffic.flowing(), self.strangers.connecting():
                while self.done < self.wanted and time.monotonic() - began < limit:
                    self._round()
                    self.done += 1
                    self.seconds = time.monotonic() - began
                    self.say(f"round {self.done} of {self.wanted}, {self.seconds:.0f} s: {self._summary()}")
            self.traffic.wait()

    def _round(self) -> None:
        before = self.hosts.selector
        days = FOR_EVER if self.done % 3 == 2 else 0
        if days:
            (self.hosts.secrets / "ca" / f"{self.hosts.mail.name}.pem").unlink()  # as if it ended soon
            self.renewed += 1
        while self.hosts.selector == before:
            if self.lots.random() < 0.4:
                self._run(self.lots.randint(1, self.tasks), dns_records_tlsa_days=days)
            self._run(dns_records_tlsa_days=days)

    def _run(self, kill_at: int | None = None, **options: object) -> Run:
        run = rotate(self.hosts, QUICK | self.options | options, kill_at)
        self.runs += 1
        if kill_at is None:
            self.tasks = len(run.tasks)
        elif len(run.tasks) == kill_at:
            self.killed.append(run.tasks[-1])
        self.keys.add(self._digests()[0])
        self.traffic.collect()
        return run

    def _digests(self) -> list[str]:
        """The keys of the mail host's certificate: the one in use, the next, and a former one if there is any."""
        [found] = tlsa_keys([{"inventory_hostname": self.hosts.mail.name}], str(self.hosts.secrets / "ca"))
        return found["digests"]

    @contextlib.contextmanager
    def _memories(self) -> Iterator[None]:
        """Strangers remember for as long as they may; that something is not there for no longer than that it is."""
        config = "/etc/unbound/unbound.conf"
        before = {
            zone: self.hosts.ssh(self.hosts.dns, f"knotc zone-read {zone} @ SOA").split()[-1] for zone in self.zones
        }
        self._run(dns_records_dkim_days=FOR_EVER, dns_records_tlsa_days=FOR_EVER)  # gives all records their TTL
        for zone in self.zones:
            self._negative(zone, TTL)
        self.hosts.ssh(self.hosts.dns, f"sed -i.before '/cache-max-/d' {config} && systemctl reload unbound")
        again = "systemd-run --quiet --unit=try-again --collect sh -c 'while sleep 2; do postqueue -f; done'"
        self.hosts.ssh(self.hosts.mail, again)  # what waits in the queue is tried again every other minute
        try:
            yield
        finally:
            self.hosts.ssh(self.hosts.mail, "systemctl stop try-again")
            self.hosts.ssh(self.hosts.dns, f"mv {config}.before {config} && systemctl reload unbound")
            for zone, seconds in before.items():
                self._negative(zone, int(seconds))
            rotate(self.hosts, self.options)  # gives all records their TTL back

    def _negative(self, zone: str, seconds: int) -> None:
        *_, owner, ttl, _, server, person, serial, refresh, retry, expire, _ = self.hosts.ssh(
            self.hosts.dns, f"knotc zone-read {zone} @ SOA"
        ).split()
        soa = f"{server} {person} {int(serial) + 1} {refresh} {retry} {expire} {seconds}"
        steps = (f"begin {zone}", f"set {zone} {owner} {ttl} SOA '{soa}'", f"commit {zone}")
        self.hosts.ssh(self.hosts.dns, " && ".join(f"knotc zone-{step}" for step in steps))

    def _summary(self) -> str:
        connections = self.strangers.verified + len(self.strangers.faults)
        return (
            f"{self.runs} runs, {len(self.killed)} killed, {len(self.traffic.sent)} messages, "
            f"{connections} connections, {len(self.faults)} faults"
        )

    def figures(self) -> dict[str, object]:
        """All that was counted."""
        return {
            "seed": self.seed,
            "rounds": self.done,
            "seconds": round(self.seconds),
            "certificate's keys": len(self.keys),
            "renewals with the same key": self.renewed,
            "runs of the playbook": self.runs,
            "killed": len(self.killed),
            "tasks": self.tasks,
            "tasks that were killed": len(set(self.killed)),
            "messages": len(self.traffic.sent),
            "not believed": len(self.traffic.faults),
            "connections": self.strangers.verified + len(self.strangers.faults),
            "not verified": len(self.strangers.faults),
        }

    def table(self) -> str:
        """The same for people, and what is wrong."""
        return "\n".join([*(f"{name:28}{value:>8}" for name, value in self.figures().items()), *self.faults])
