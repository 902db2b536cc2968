"""Death and disorder on the real test hosts: mail waits, the program runs over and over, and everything dies meanwhile.

A seed gives the messages and the order of events; when exactly each strikes is the machine's own.  Afterwards all is
healed, runs go on until INBOX is empty, and every message is counted: in Odoo as often as it should be and in its
thread, or in Quarantine because Odoo has no place for it.  `tests/hosts/test_chaos.py` plays it small, `bench/chaos`
large.

The mailbox and the program's state are on small file systems in memory for as long as it lasts, so that they can be
filled, and what was there before is untouched.
"""

from __future__ import annotations

import dataclasses
import email.utils
import random
import re
import subprocess
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ansible.module_utils.odoo_rpc import Odoo, OdooError
from imapclient import IMAPClient  # type: ignore[import-untyped]

from fetch_and_route.message import made_message_id
from tests.story import WAIT, Host, Hosts

Item = TypeVar("Item")

SERVICE = "fetch-and-route.service"
FOLDERS = ("INBOX", "Routed", "Quarantine")
ODOO_CONF = "/etc/odoo/odoo.conf"
WORKERS = 4
"""Of Odoo: with the usual two, a killed program's calls would keep those of the next one waiting, and not meet them."""
DROP_IN = "/run/systemd/system/fetch-and-route.service.d/chaos.conf"
FLAG = "/run/fetch-and-route-chaos"
"""While it is there, the program is run again and again; holds the process of a run by hand."""
RESTART_POSTGRESQL = (
    "timeout 15 systemctl restart postgresql || "
    "{ systemctl kill --signal=KILL 'postgresql@*'; systemctl start postgresql; }"
)
"""Told to stop while it recovers from a killed process, PostgreSQL may wait for its own checkpointer without end.
Killed then, it is started by the restart that is still under way; a second one would tell it to stop again."""
PROGRAM = "usr/local/bin/fetch-and-route usr/local/lib/fetch-and-route etc/fetch-and-route"
"""What the program is made of, below /."""
PATIENCE = 2.0
"""Seconds after which the next event strikes even if no message was settled meanwhile."""
INSTANT = 0.5
"""Seconds, about what a call to Odoo takes, over which the moments of events are spread."""
LONG = 8
"""Events that a second program lives through, at most; other lasting ones end sooner, or nothing would get done."""
STUCK = 120.0
"""Seconds without a settled message after which, all being healed, the rest counts as stuck."""
CHUNK = 200
"""Messages or records in one command or call of the tests' own."""


@dataclasses.dataclass(frozen=True)
class Letter:
    """A message, the addresses that a copy each was delivered to, and what should become of it."""

    message_id: str
    raw: bytes
    recipients: tuple[str, ...]
    models: tuple[str, ...]
    """Of the records it should be on, once each; none: Odoo has no place for it."""
    parent: str = ""
    """The Message-ID that it answers and whose record it should be on; empty: records of its own."""

    @property
    def copies(self) -> list[bytes]:
        """As our LMTP service would leave them in the mailbox."""
        return [
            (
                f"Return-Path: <stranger@customer.example>\r\nDelivered-To: {recipient}\r\n"
                f"Received: from chaos by chaos with LMTP id x for <{recipient}>; now\r\n"
            ).encode()
            + self.raw
            for recipient in self.recipients
        ]


@dataclasses.dataclass
class Outcome:
    """What was played and how each message ended."""

    seed: int
    messages: int
    copies: int
    events: Counter[str]
    runs: int = 0
    killed: int = 0
    """Runs that ended by SIGKILL."""
    seconds: float = 0.0
    lost: list[str] = dataclasses.field(default_factory=list)
    """Messages, by Message-ID, that are neither where they should be nor waiting nor in quarantine."""
    twice: list[str] = dataclasses.field(default_factory=list)
    """Messages that are in Odoo more often than they should be."""
    misplaced: list[str] = dataclasses.field(default_factory=list)
    """Messages that are in Odoo, but not in the thread or the kind of record they belong to."""
    quarantined: list[str] = dataclasses.field(default_factory=list)
    """Messages in quarantine that Odoo has a place for."""
    stuck: list[str] = dataclasses.field(default_factory=list)
    """Messages that still wait."""
    stray: int = 0
    """Records made in Odoo that no message is on."""

    @property
    def faults(self) -> dict[str, int]:
        """How often each thing went wrong that never may."""
        return {
            "lost": len(self.lost),
            "twice": len(self.twice),
            "in the wrong thread": len(self.misplaced),
            "quarantined wrongly": len(self.quarantined),
            "still waiting": len(self.stuck),
            "records without a message": self.stray,
        }

    def figures(self) -> dict[str, object]:
        """All of it, for machines."""
        return {**dataclasses.asdict(self), "faults": self.faults}

    def table(self) -> str:
        """All of it, for people."""
        lines = [
            f"seed {self.seed}: {self.messages} messages ({self.copies} copies), {self.events.total()} events, "
            f"{self.runs} runs ({self.killed} killed), {self.seconds:.0f} s",
            "",
            *(f"{kind:28}{count:>6}" for kind, count in sorted(self.events.items())),
            "",
            *(f"{fault:28}{count:>6}" for fault, count in self.faults.items()),
        ]
        for fault in ("lost", "twice", "misplaced", "quarantined", "stuck"):
            lines += [f"{fault}: {message_id}" for message_id in getattr(self, fault)[:10]]
        return "\n".join(lines)


def letters(count: int, chance: random.Random, tag: str, hosts: Hosts) -> list[Letter]:
    """So many messages, in the order they come: new ones, copies, answers in chains, and some without a place."""
    domain = hosts.domain["name"]
    aliases = {alias["model"]: f"{alias['name']}@{domain}" for alias in hosts.domain["aliases"]}
    catchall = f"{hosts.domain['catchall']}@{domain}"
    made: list[Letter] = []
    answerable: list[Letter] = []
    for number in range(count):
        model = chance.choice(("crm.lead", "project.task"))
        alias = aliases[{"crm.lead": "crm.team", "project.task": "project.project"}[model]]
        kind = chance.random()
        letter = Letter("", b"", (alias,), (model,))
        if kind < 0.35 and answerable:
            # Mostly of one just before, so that both are in one call or in two at the same time.
            parent = chance.choice(answerable[-4:] if chance.random() < 0.8 else answerable)
            (model,) = parent.models
            alias = aliases[{"crm.lead": "crm.team", "project.task": "project.project"}[model]]
            letter = Letter("", b"", (chance.choice((alias, catchall)),), (model,), parent.message_id)
        elif kind < 0.45:
            letter = Letter("", b"", (aliases["crm.team"], aliases["project.project"]), ("crm.lead", "project.task"))
        elif kind < 0.50:
            letter = Letter("", b"", (f"nobody-{number}@{domain}",), ())
        letter = written(letter, f"{tag} {number}", nameless=kind > 0.97)
        made.append(letter)
        if len(letter.models) == 1:
            answerable.append(letter)
    return made


def written(letter: Letter, subject: str, *, nameless: bool) -> Letter:
    """The same with its bytes, from somebody new: one sender too often is taken for a loop by Odoo."""
    message_id = email.utils.make_msgid(domain="customer.example")
    lines = [
        f"From: Customer <c-{uuid.uuid4().hex[:12]}@customer.example>",
        f"To: {letter.recipients[0]}",
        f"Subject: {subject}",
        f"Date: {email.utils.formatdate()}",
        *([] if nameless else [f"Message-ID: {message_id}"]),
        *([f"In-Reply-To: {letter.parent}", f"References: {letter.parent}"] if letter.parent else []),
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "",
        "Do you have ten chairs?",
        "",
    ]
    letter = dataclasses.replace(letter, message_id=message_id, raw="\r\n".join(lines).encode())
    return dataclasses.replace(letter, message_id=made_message_id(letter.copies[0])) if nameless else letter


class Runner:
    """Runs the program on a host again and again, and knows what it settled."""

    def __init__(self, chaos: Chaos, host: Host, *, by_hand: bool) -> None:
        """Begin. The unit is run as its timer would, but without leaving Odoo alone for minutes."""
        self._chaos = chaos
        self.host = host
        self.by_hand = by_hand
        flag = f"{FLAG}/{'by-hand' if by_hand else 'unit'}"
        self._stop = f"rm -f {flag}; kill $(cat {FLAG}/pid) 2>/dev/null || true" if by_hand else f"rm -f {flag}"
        if by_hand:
            runs = f"fetch-and-route run & echo $! >{FLAG}/pid; wait $!; code=$?; rm {FLAG}/pid"
            follow = ":"
        else:
            result = f"systemctl show --value --property=ExecMainStatus {SERVICE}"
            runs = f"systemctl start {SERVICE}; code=$({result})"
            follow = f"journalctl --follow --lines=0 --output=cat --unit={SERVICE} & follower=$!"
        # What was killed begins anew at once; else there is a moment for the servers that are about to come back.
        again = 'case "$code" in 9|137) ;; *) sleep 0.5 ;; esac'
        # Before anybody may remove it: the connection of the script takes its time.
        chaos.hosts.ssh(host, f"mkdir -p {FLAG}; touch {flag}")
        script = f"{follow}; while [ -e {flag} ]; do {runs}; echo run-ended=$code; {again}; done; kill ${{follower:-}}"
        self._ssh = subprocess.Popen(
            chaos.ssh_command(host, f"({script}) 2>/dev/null"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self._ssh.stdout or ():
            settled = re.match(r"(?:<\d>)?message-id=(\S+) .*folder=(?:Routed|Quarantine)", line)
            ended = re.match(r"run-ended=(\d+)", line)
            if settled:
                self._chaos.saw(settled=settled[1])
            elif ended:
                self._chaos.saw(ended=int(ended[1]))
            else:
                self._chaos.log(f"{self.host.name}: {line.rstrip()}")

    def kill(self) -> None:
        """End the run under way by SIGKILL, wherever it is; if none is, the next one as it begins."""
        find = f"cat {FLAG}/pid" if self.by_hand else f"systemctl show --value --property=MainPID {SERVICE}"
        caught = f'pid=$({find}); [ "${{pid:-0}}" != 0 ] && kill -KILL "$pid"'
        self._chaos.hosts.ssh(self.host, f"(until {caught}; do sleep 0.02; done) 2>/dev/null")

    def stop(self) -> None:
        """Let the run under way end, one by hand with the calls it has out, and begin no other."""
        self._chaos.hosts.ssh(self.host, self._stop)
        with self._ssh:
            self._reader.join()


class Chaos:
    """One play, in which the hosts are prepared, and after which they are as they were."""

    def __init__(self, hosts: Hosts, count: int, events: int, seed: int, say: Callable[[str], None]) -> None:
        """Change nothing yet; `say` is given a line about progress now and then."""
        self.hosts = hosts
        self._mailbox = hosts.ssh(hosts.mail, f"doveadm user -f home {hosts.database['name']}").strip()
        self._state = hosts.ssh(hosts.mail, "readlink -f /var/lib/fetch-and-route").strip()
        self._say = say
        self._chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.tag = f"Chaos {uuid.uuid4().hex[:10]}"
        self.letters = letters(count, self._chance, self.tag, hosts)
        self._kinds: dict[str, Callable[[], Callable[[], None] | None]] = {
            "kill the program": self._kill,
            "restart Odoo": lambda: self._do(hosts.odoo, "systemctl restart odoo"),
            "kill Odoo": lambda: self._do(hosts.odoo, "systemctl kill --signal=KILL odoo; systemctl restart odoo"),
            "kill a worker of Odoo": lambda: self._do(
                hosts.odoo,
                "kill -KILL $(pgrep -P $(systemctl show --value --property=MainPID odoo) | shuf -n 1) || true",
            ),
            "restart PostgreSQL": lambda: self._do(hosts.odoo, RESTART_POSTGRESQL),
            "kill a PostgreSQL backend": self._kill_backend,
            "restart Dovecot": lambda: self._do(hosts.mail, "systemctl restart dovecot"),
            "cut the network": self._cut,
            "slow the network": self._slow,
            "fill the state's disk": lambda: self._fill(self._state),
            "fill the mailbox's disk": lambda: self._fill(self._mailbox),
            "a second program": lambda: self._second(hosts.mail),
            "a second host": lambda: self._second(hosts.outside),
        }
        self._events = deck(list(self._kinds), events, self._chance)
        copies = sum(len(letter.recipients) for letter in self.letters)
        self.outcome = Outcome(seed, count, copies, Counter(self._events))
        self.said: list[str] = []
        """What the programs said, other than what they settled, each with its second."""
        self._began = time.monotonic()
        self._changed = threading.Condition()
        self._ours = {letter.message_id for letter in self.letters}
        self._settled: set[str] = set()
        self._good_runs = 0
        self._runners: list[Runner] = []

    # The hosts before and after.

    def _prepare(self) -> None:
        """Put the mailbox and the state on file systems of their own, and the program on the second host, too."""
        ssh, mail = self.hosts.ssh, self.hosts.mail
        ssh(mail, f"systemctl stop fetch-and-route.timer {SERVICE}")
        self._unmount()
        ssh(mail, f"mkdir -p {DROP_IN.rpartition('/')[0]}")
        drop_in = (
            r"[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=\nExecStart=/usr/local/bin/fetch-and-route run\n"
        )
        ssh(mail, f"printf '{drop_in}' >{DROP_IN}; systemctl daemon-reload")
        for path, size in ((self._mailbox, (32 << 20) + (self.outcome.copies << 14)), (self._state, 2 << 20)):
            options = f"size={size},mode=0700,uid=$(stat -c %u {path}),gid=$(stat -c %g {path})"
            ssh(mail, f"mount -t tmpfs -o {options} chaos {path}")
        ssh(mail, "systemctl restart dovecot")
        more = f"s/^workers = .*/workers = {WORKERS}/"
        ssh(self.hosts.odoo, f"[ -e {ODOO_CONF}.before ] || cp -a {ODOO_CONF} {ODOO_CONF}.before")
        ssh(self.hosts.odoo, f"sed -i '{more}' {ODOO_CONF} && systemctl restart odoo")
        self._copy_program()
        self._odoo("version")

    def _restore(self) -> None:
        """Stop and remove everything."""
        ssh, mail = self.hosts.ssh, self.hosts.mail
        while self._runners:
            self._runners.pop().stop()
        ssh(mail, f"systemctl stop {SERVICE}; rm -f {DROP_IN}; systemctl daemon-reload")
        self._unmount()
        ssh(mail, f"systemctl restart dovecot; systemctl reset-failed {SERVICE} 2>/dev/null; rm -rf {FLAG}")
        ssh(self.hosts.odoo, f"mv {ODOO_CONF}.before {ODOO_CONF}; systemctl restart odoo")
        ssh(self.hosts.outside, f"cd / && rm -rf {PROGRAM} var/lib/fetch-and-route {FLAG}")
        for model in ("crm.lead", "project.task"):
            while made := self._odoo("search_read", model, [["name", "ilike", self.tag]], ["name"])[:CHUNK]:
                self._odoo("call", model, "unlink", [row["id"] for row in made])
        ssh(mail, "systemctl start fetch-and-route.timer")

    def _unmount(self) -> None:
        for path in (self._mailbox, self._state):
            self.hosts.ssh(self.hosts.mail, f"while mountpoint -q {path}; do umount --lazy {path}; done")

    def _copy_program(self) -> None:
        """The program as on the mail host, with a state of its own and the way to the mailbox over the network."""
        mail, other = self.hosts.mail, self.hosts.outside
        with subprocess.Popen(
            self.ssh_command(mail, f"tar -C / -cz {PROGRAM}"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as packed:
            subprocess.run(self.ssh_command(other, "tar -C / -xz"), stdin=packed.stdout, check=True)
        to = f's/^address = .*/address = "{mail.address}"/'
        config = "/etc/fetch-and-route/config.toml"
        self.hosts.ssh(other, f"sed -i '{to}' {config} && grep -q {mail.address} {config}")

    def ssh_command(self, host: Host, command: str) -> list[str]:
        """The words that run a command on a host."""
        config = self.hosts.secrets / "ssh" / "config"
        return ["ssh", "-F", str(config), "-o", "BatchMode=yes", host.name, command]

    def _odoo(self, method: str, *arguments: Any) -> Any:
        """Ask Odoo as its administrator; it answers badly once for each connection that PostgreSQL's death broke."""
        database = self.hosts.database
        deadline = time.monotonic() + WAIT
        while True:
            odoo = Odoo(database["url"], database["name"], str(self.hosts.secrets / "ca" / "ca.pem"), timeout=WAIT)
            try:
                odoo.log_in(database["login"], database["password"])
                return getattr(odoo, method)(*arguments)
            except OdooError:
                if time.monotonic() > deadline:
                    raise
            finally:
                odoo.close()

    # The play.

    def play(self) -> Outcome:
        """Let mail wait, play all events, heal everything, run until INBOX is empty, and count."""
        try:
            self._prepare()
            self._began = time.monotonic()
            with self.hosts.names():
                with self.hosts.mailbox() as session:
                    for chunk in chunks([copy for letter in self.letters for copy in letter.copies]):
                        session.multiappend("INBOX", chunk)
                self._runners.append(Runner(self, self.hosts.mail, by_hand=False))
                self._disorder()
                self._drain()
                self.outcome.seconds = time.monotonic() - self._began
                self._count()
        finally:
            self._restore()
        return self.outcome

    def _disorder(self) -> None:
        """Play the events, spread over the work; some last while others strike."""
        lasting: dict[str, tuple[int, Callable[[], None]]] = {}
        try:
            for number, kind in enumerate(self._events, 1):
                self._wait(len(self.letters) * number // (len(self._events) + 1), PATIENCE)
                time.sleep(self._chance.uniform(0, INSTANT))  # the instant is what is random
                for other in [other for other, (until, _) in lasting.items() if until <= number or other == kind]:
                    lasting.pop(other)[1]()
                self._say(f"event {number}/{len(self._events)}: {kind}; {len(self._settled)} messages settled")
                self.log(f"event {number}: {kind}")
                heal = self._kinds[kind]()
                if heal:
                    longest = LONG if kind.startswith("a second") else 2
                    lasting[kind] = (number + self._chance.randint(1, longest), heal)
        finally:
            for _, heal in lasting.values():
                heal()

    def _wait(self, settled: int, seconds: float, good_runs: float = float("inf")) -> bool:
        """Wait until so many messages are settled or so many runs have ended well; returns whether it came true."""
        with self._changed:
            return self._changed.wait_for(
                lambda: len(self._settled) >= settled or self._good_runs >= good_runs, seconds
            )

    def _drain(self) -> None:
        """Run until INBOX is empty; what is still there when nothing moves any more is stuck."""
        good_runs = self._good_runs
        while self._wait(len(self._settled) + 1, STUCK, good_runs + 1):
            self._say(f"all is healed; {len(self._settled)} messages settled")
            if self._good_runs > good_runs:
                good_runs = self._good_runs
                with self.hosts.mailbox() as session:
                    if session.folder_status("INBOX", [b"MESSAGES"])[b"MESSAGES"] == 0:
                        break
        self._runners.pop().stop()

    def saw(self, *, settled: str = "", ended: int | None = None) -> None:
        """A program said that it has settled a message, or has ended with a status."""
        with self._changed:
            if settled in self._ours:  # and no bounce of what Odoo sent to somebody who wrote
                self._settled.add(settled)
            if ended is not None:
                self.outcome.runs += 1
                self.outcome.killed += ended in (9, 137)
                self._good_runs += ended == 0
            self._changed.notify_all()

    def log(self, line: str) -> None:
        """Keep a line for whoever looks for a fault."""
        self.said.append(f"{time.monotonic() - self._began:6.2f} {line}")

    # The events; each returns how to heal it, if it lasts.

    def _do(self, host: Host, command: str) -> None:
        self.hosts.ssh(host, command)

    def _kill(self) -> None:
        self._chance.choice(self._runners).kill()

    def _kill_backend(self) -> None:
        """The one whose transaction is the oldest, which makes PostgreSQL recover from its log."""
        query = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " ORDER BY xact_start LIMIT 1"
        )
        ask = f'runuser -u postgres -- psql -d {self.hosts.database["name"]} -Atc "{query}"'
        self._do(self.hosts.odoo, f"kill -KILL $({ask}) || true")

    def _cut(self) -> Callable[[], None]:
        """Frames between the two hosts go to nobody, as when a cable is pulled: no answer, and no refusal either."""
        ends = ((self.hosts.mail, self.hosts.odoo.address), (self.hosts.odoo, self.hosts.mail.address))
        for host, other in ends:
            self._do(host, f"ip neigh replace {other} lladdr 02:00:00:00:00:01 nud permanent dev eth0")

        def heal() -> None:
            for host, other in ends:
                self._do(host, f"ip neigh del {other} dev eth0")

        return heal

    def _slow(self) -> Callable[[], None]:
        """A line to Odoo of 256 kbit/s, on which packets queue for seconds (not every kernel has netem's delays)."""
        mail, odoo = self.hosts.mail, self.hosts.odoo.address
        self._do(
            mail,
            "tc qdisc replace dev eth0 root handle 1: htb default 1"
            " && tc class add dev eth0 parent 1: classid 1:1 htb rate 1gbit"
            " && tc class add dev eth0 parent 1: classid 1:2 htb rate 256kbit"
            f" && tc filter add dev eth0 parent 1: protocol ip u32 match ip dst {odoo} flowid 1:2",
        )
        return lambda: self._do(mail, "tc qdisc del dev eth0 root")

    def _fill(self, path: str) -> Callable[[], None]:
        self._do(self.hosts.mail, f"dd if=/dev/zero of={path}/filler bs=64k 2>/dev/null || true")
        return lambda: self._do(self.hosts.mail, f"rm {path}/filler")

    def _second(self, host: Host) -> Callable[[], None]:
        """On the same host both share a lock; another host has one of its own, and the same mailbox and Odoo."""
        runner = Runner(self, host, by_hand=True)
        self._runners.append(runner)

        def heal() -> None:
            self._runners.remove(runner)
            runner.stop()

        return heal

    # The count.

    def _count(self) -> None:
        """Look where each message is by now."""
        folders: dict[str, set[str]] = {}
        with self.hosts.mailbox() as session:
            for folder in FOLDERS:
                folders[folder] = set(message_ids(session, folder))
        rows: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        for chunk in chunks([letter.message_id for letter in self.letters]):
            fields = ["message_id", "model", "res_id"]
            for row in self._odoo("search_read", "mail.message", [["message_id", "in", chunk]], fields):
                rows[row["message_id"]].append((row["model"], row["res_id"]))
        with_message = {record for records in rows.values() for record in records}
        for model in ("crm.lead", "project.task"):
            made = self._odoo("search_read", model, [["name", "ilike", self.tag]], ["name"])
            self.outcome.stray += sum((model, row["id"]) not in with_message for row in made)
        for letter in self.letters:
            self._judge(letter, rows, folders)

    def _judge(self, letter: Letter, rows: dict[str, list[tuple[str, int]]], folders: dict[str, set[str]]) -> None:
        outcome, identity, places = self.outcome, letter.message_id, rows[letter.message_id]
        quarantined, waiting = identity in folders["Quarantine"], identity in folders["INBOX"]
        if waiting:
            outcome.stuck.append(identity)
        if quarantined and letter.models:
            outcome.quarantined.append(identity)
        if len(places) > len(letter.models):
            outcome.twice.append(identity)
        elif (len(places) < len(letter.models) or not (letter.models or quarantined)) and not (quarantined or waiting):
            outcome.lost.append(identity)
        elif letter.models and places:
            right_kind = sorted(model for model, _ in places) == sorted(letter.models)
            if not right_kind or (letter.parent and places != rows[letter.parent]):
                outcome.misplaced.append(identity)


def deck(kinds: Sequence[str], count: int, chance: random.Random) -> list[str]:
    """So many events in random order: each kind once, as far as they reach; of the rest two in three are the first."""
    rest = (kinds[0] if chance.random() < 2 / 3 else chance.choice(kinds[1:]) for _ in range(count - len(kinds)))
    events = [*kinds[:count], *rest]
    chance.shuffle(events)
    return events


def chunks(items: Sequence[Item]) -> Iterator[list[Item]]:
    """The same in lists of at most CHUNK."""
    for start in range(0, len(items), CHUNK):
        yield list(items[start : start + CHUNK])


def message_ids(session: IMAPClient, folder: str) -> Iterator[str]:
    """The Message-IDs in a folder, those that the program gives to mail without one, too."""
    session.select_folder(folder, readonly=True)
    for uids in chunks(session.search()):
        for data in session.fetch(uids, ["BODY.PEEK[]"]).values():
            raw = data[b"BODY[]"]
            found = re.search(rb"(?im)^message-id: *(\S+)", raw)
            yield found[1].decode() if found else made_message_id(raw)
