"""Push mode against a mailbox that lives: mail comes at any moment, and connections break at any moment."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fetch_and_route import config as configuration
from fetch_and_route import metrics, notify, watch
from fetch_and_route.__main__ import main
from fetch_and_route.backoff import BackOff
from fetch_and_route.mailbox import ImapMailbox
from fetch_and_route.report import Report
from fetch_and_route.state import Note, State, lock
from fetch_and_route.watch import GivesWay, Line, Stop, Watcher, reconnect_after

from .conftest import Certificate, Configure, HttpServer
from .test_command import own_signals  # noqa: F401 -- a fixture for all tests of this module

PATIENCE = 20
"""Seconds within which anything happens, or it never does."""
VERDICTS = [{"id": str(number), "verdict": "routed", "model": "crm.lead", "res_id": 7} for number in range(20)]
ROUTED = json.dumps({"mailroom": {"version": 1, "verdicts": VERDICTS}}).encode()


class LivingMailbox:
    """An IMAP server with one mailbox, for any number of connections at a time."""

    def __init__(self, context: object) -> None:
        self.folders: dict[str, dict[int, bytes]] = {"INBOX": {}, "Routed": {}, "Quarantine": {}}
        self.capabilities = "IMAP4rev1 AUTH=PLAIN UIDPLUS MOVE IDLE"
        self.refuses = False
        """Whether logins are refused."""
        self.before: dict[str, Callable[[], bytes | None]] = {}
        """What happens before a command is obeyed, by its first word, once: None obeys it, else that is all it says."""
        self.after: dict[str, Callable[[], None]] = {}
        """The same after its answer; what comes then is told behind that."""
        self.commands: list[str] = []
        self.logins = self.idlers = 0
        self._context = context
        self._changed = threading.Condition()
        self._next = 1
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._ended = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def deliver(self, name: str) -> None:
        """A mail comes; those who idle are told."""
        with self._changed:
            raw = f"Delivered-To: sales@example.com\r\nReceived: x\r\nMessage-ID: <{name}@x>\r\n\r\nhello"
            self.folders["INBOX"][self._next] = raw.encode()
            self._next += 1
            self._changed.notify_all()

    def until(self, so: Callable[[], object]) -> None:
        """Wait until something is so."""
        with self._changed:
            assert self._changed.wait_for(so, PATIENCE), "it never came to that"

    def until_idle(self) -> None:
        """Wait until somebody idles who was told of everything."""
        self.until(lambda: self.idlers)

    def until_routed(self, *names: str) -> None:
        """Wait until these mails are routed, and no other."""
        self.until(lambda: self.names("Routed") == list(names))

    def names(self, folder: str) -> list[str]:
        """What is in a folder, in its order."""
        return [re.findall(rb"Message-ID: <(.*)@x>", raw)[0].decode() for raw in self.folders[folder].values()]

    def end(self) -> None:
        """Hang up and stop serving."""
        self._ended = True
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        self._accepting.join(PATIENCE)
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)

    def _accept(self) -> None:
        with self._socket:
            while True:
                connection, _ = self._socket.accept()
                if self._ended:
                    connection.close()
                    return
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(PATIENCE)
        with contextlib.suppress(OSError), plain, self._context.wrap_socket(plain, server_side=True) as connection:  # type: ignore[attr-defined]
            self._open.add(connection)
            try:
                self._talk(connection)
            finally:
                self._open.discard(connection)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _talk(self, connection: socket.socket) -> None:
        lines = connection.makefile("rb")
        send = connection.sendall
        send(b"* OK [CAPABILITY " + self.capabilities.encode() + b"] hello\r\n")
        told = 0
        with lines:
            for line in lines:
                tag, _, command = line.decode().strip().partition(" ")
                word = command.split(" ")[0]
                with self._changed:
                    self.commands.append(command)
                    self._changed.notify_all()
                instead = self.before.pop(word)() if word in self.before else None
                if instead is not None:
                    send(instead)
                    return
                if word == "SELECT":
                    told = self._next
                if word == "IDLE":
                    send(b"+ idling\r\n")
                    self._idle(send, told, lines)
                    told = self._next
                    send(f"{tag} OK done\r\n".encode())
                    continue
                answer = self._answer(command, lines, send) + f"{tag} OK done\r\n".encode()
                if word == "AUTHENTICATE" and self.refuses:
                    answer = f"{tag} NO [AUTHENTICATIONFAILED] no\r\n".encode()
                if word in self.after:
                    self.after.pop(word)()
                    answer += f"* {len(self.folders['INBOX'])} EXISTS\r\n".encode()
                    told = self._next  # a server says it once
                send(answer)
                if word == "LOGOUT":
                    return

    def _idle(self, send: Callable[[bytes], None], told: int, lines: io.BufferedReader) -> None:
        """Tell of mail until the client has heard enough."""
        done = threading.Event()

        def listen() -> None:
            with contextlib.suppress(OSError):
                self.commands.append(lines.readline().decode().strip())
            done.set()
            with self._changed:
                self._changed.notify_all()

        listener = threading.Thread(target=listen)
        listener.start()
        with self._changed:
            while not done.is_set():
                if self._next != told:
                    told = self._next
                    send(f"* {len(self.folders['INBOX'])} EXISTS\r\n".encode())
                else:
                    self.idlers += 1
                    self._changed.notify_all()
                    self._changed.wait(PATIENCE)
                    self.idlers -= 1
        listener.join(PATIENCE)

    def _answer(self, command: str, lines: io.BufferedReader, send: Callable[[bytes], None]) -> bytes:
        inbox = self.folders["INBOX"]
        words = command.split(" ")
        if words[0] == "CAPABILITY":
            return f"* CAPABILITY {self.capabilities}\r\n".encode()
        if words[0] == "AUTHENTICATE":
            send(b"+ \r\n")
            lines.readline()
            with self._changed:
                self.logins += 1
                self._changed.notify_all()
        with self._changed:
            if words[0] in ("SELECT", "EXAMINE"):
                count = len(self.folders[words[1].strip('"')])
                return f"* {count} EXISTS\r\n* OK [UIDNEXT {self._next}] next\r\n".encode()
            if words[0] == "STATUS":
                return f"* STATUS {words[1]} (MESSAGES {len(self.folders[words[1].strip(chr(34))])})\r\n".encode()
            if words[0] == "FETCH":
                return b"".join(fetched(uid, raw, "HEADER.FIELDS (MESSAGE-ID)") for uid, raw in inbox.items())
            if words[:2] == ["UID", "FETCH"]:
                return b"".join(fetched(uid, inbox[uid], "") for uid in uids(words[2]) if uid in inbox)
            if words[:2] == ["UID", "MOVE"]:
                for uid in uids(words[2]):
                    self.folders[words[3].strip('"')][uid] = inbox.pop(uid)
                self._changed.notify_all()
        return b""


def fetched(uid: int, raw: bytes, section: str) -> bytes:
    return f"* 1 FETCH (UID {uid} RFC822.SIZE {len(raw)} BODY[{section}] {{{len(raw)}}}\r\n".encode() + raw + b")\r\n"


def uids(text: str) -> list[int]:
    ranges = [part.split(":") for part in text.split(",")]
    return [uid for ends in ranges for uid in range(int(ends[0]), int(ends[-1]) + 1)]


@pytest.fixture
def mailbox(certificate: Certificate) -> Iterator[LivingMailbox]:
    mailbox = LivingMailbox(certificate.context)
    yield mailbox
    mailbox.end()


class Running:
    """A watch in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.output = io.StringIO()
        self.report = Report(self.output)
        self.stop = Stop()
        self.told: list[dict[str, metrics.Tally]] = []
        self.code: int | None = None
        self.error: BaseException | None = None
        self._config, self._path = configuration.load(path), path
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.code = watch.watch(self._config, self._path, self.report, self.stop, self._afterwards)
        except BaseException as error:
            self.error = error

    def _afterwards(self) -> None:
        self.told.append(self.report.take())

    def end(self) -> list[str]:
        """Tell it to end; returns what it said."""
        self.stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.output.getvalue().splitlines()


Begin = Callable[[Path], Running]


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Begin to watch; connecting again is not waited for."""
    monkeypatch.setattr(watch, "reconnect_after", lambda *_, **__: 0)
    started: list[Running] = []

    def start(path: Path) -> Running:
        started.append(Running(path))
        return started[-1]

    yield start
    for running in started:
        running.end()


@pytest.fixture
def odoo(http_server: HttpServer) -> HttpServer:
    http_server.answers = [(200, ROUTED)]
    return http_server


def test_new_mail_is_routed_as_it_comes(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, begin: Begin
) -> None:
    mailbox.deliver("before")
    running = begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until_routed("before")
    mailbox.until_idle()
    mailbox.deliver("a")
    mailbox.until_routed("before", "a")
    mailbox.until_idle()
    mailbox.deliver("b")
    mailbox.until_routed("before", "a", "b")
    mailbox.until_idle()
    lines = running.end()
    assert running.code == 0
    assert [line.split()[0] for line in lines] == [f"message-id=<{name}@x>" for name in ("before", "a", "b")]
    assert (len(odoo.requests), mailbox.logins) == (3, 1), "each once, all over one connection"
    assert mailbox.commands[-2:] == ["DONE", "LOGOUT"]
    (tallies,) = running.told
    assert tallies["prod"].verdicts == {"routed": 3}, "told at the end, what was not told before"


def test_mail_that_comes_between_looking_and_waiting_is_not_missed(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, begin: Begin
) -> None:
    mailbox.after["SELECT"] = lambda: mailbox.deliver("behind the answer")

    def deliver() -> None:
        mailbox.deliver("before idle")

    mailbox.before["IDLE"] = deliver
    begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until_routed("behind the answer", "before idle")


def test_mail_that_comes_while_one_is_routed_is_not_missed(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, begin: Begin
) -> None:
    mailbox.deliver("a")
    mailbox.after["UID"] = lambda: mailbox.deliver("b")  # behind the answer to the FETCH of the first
    begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until_routed("a", "b")
    assert len(odoo.requests) == 2


@pytest.mark.parametrize("end", [b"", b"* BYE Session invalidated - AccessTokenExpired\r\n"])
@pytest.mark.parametrize("word", ["IDLE", "SELECT", "UID"])
def test_a_connection_that_breaks_is_made_again(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, begin: Begin, end: bytes, word: str
) -> None:
    def broken() -> bytes:
        mailbox.deliver("meanwhile")
        return end

    mailbox.deliver("a")
    mailbox.before[word] = broken
    running = begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until_routed("a", "meanwhile")
    mailbox.until_idle()
    assert mailbox.logins == 2
    assert any("mailbox prod at mail.example.com" in line and "connecting again in" in line for line in running.end())


def test_a_server_without_idle_is_left_to_the_timer(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, begin: Begin
) -> None:
    mailbox.capabilities = "IMAP4rev1 AUTH=PLAIN UIDPLUS MOVE"
    mailbox.deliver("a")
    running = begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until(lambda: "LOGOUT" in mailbox.commands)
    assert running.end() == ["mailbox prod: its server has no IDLE: left to the timer's runs"]
    assert (running.code, mailbox.names("INBOX"), mailbox.logins) == (0, ["a"], 1)


def test_a_maildrop_is_left_to_the_timer(configure: Configure, closed_port: int, begin: Begin) -> None:
    config = configure(closed_port, old=closed_port)
    config.write_text(config.read_text().replace("port = ", 'protocol = "pop3"\nport = '))
    running = begin(config)
    assert running.end() == ["mailbox old: POP3 does not tell of new mail: left to the timer's runs"]
    assert running.code == 0


def test_a_mailbox_that_is_down_delays_no_other(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, closed_port: int, begin: Begin
) -> None:
    config = configure(odoo.server_port, down=closed_port, prod=mailbox.port)
    config.write_text(config.read_text().replace('database = "down"', 'database = "prod"'))
    running = begin(config)
    mailbox.until_idle()
    mailbox.deliver("a")
    mailbox.until_routed("a")
    assert any("mailbox down at mail.example.com" in line for line in running.end())


def test_a_refused_login_is_said_and_not_tried_in_haste(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox.refuses = True
    mailbox.deliver("a")
    begun = threading.Event()
    asked: list[tuple[int, bool]] = []

    def wait(failures: int, *, refused: bool, chance: float) -> float:
        asked.append((failures, refused))
        assert 0 <= chance < 1
        mailbox.refuses = len(asked) < 2
        begun.set()
        return 0

    config = configure(odoo.server_port, prod=mailbox.port)
    monkeypatch.setattr(watch, "reconnect_after", wait)
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    running = begin(config)
    mailbox.until_routed("a")
    lines = running.end()
    assert asked == [(1, True), (2, True)]
    assert all(line.startswith("<3>mailbox prod at") and "check the login 'prod'" in line for line in lines[:2])


def test_what_it_does_after_the_start_is_told_soon(
    configure: Configure,
    mailbox: LivingMailbox,
    odoo: HttpServer,
    begin: Begin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    def tell(*states: str) -> None:
        told.extend(states)

    monkeypatch.setattr(notify, "tell", tell)
    begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until_idle()
    deadline = time.monotonic() + watch.TELL_EVERY / 2
    while "STATUS=prod watching" not in told:
        assert time.monotonic() < deadline, told


def test_a_run_is_waited_for_and_what_came_meanwhile_is_routed(
    configure: Configure,
    mailbox: LivingMailbox,
    odoo: HttpServer,
    begin: Begin,
    state_directory: Path,
    waits: threading.Semaphore,
) -> None:
    begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until_idle()
    with lock(state_directory, "prod"):  # as a run has it
        mailbox.deliver("a")
        assert waits.acquire(timeout=PATIENCE)
        mailbox.deliver("b")
        assert odoo.requests == []
    mailbox.until_routed("a", "b")
    assert len(odoo.requests) == 1


def test_what_a_run_has_routed_is_not_asked_again(
    configure: Configure,
    mailbox: LivingMailbox,
    odoo: HttpServer,
    begin: Begin,
    state_directory: Path,
    waits: threading.Semaphore,
) -> None:
    begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until_idle()
    with lock(state_directory, "prod"):
        mailbox.deliver("a")
        assert waits.acquire(timeout=PATIENCE)
        mailbox.folders["Routed"].update(mailbox.folders["INBOX"])
        mailbox.folders["INBOX"].clear()
    mailbox.until_idle()
    assert odoo.requests == []


def test_a_run_leaves_a_database_to_the_watcher_that_serves_it(
    configure: Configure,
    mailbox: LivingMailbox,
    odoo: HttpServer,
    begin: Begin,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = configure(odoo.server_port, prod=mailbox.port)
    codes: list[int] = []

    def run() -> None:
        codes.append(main(["--config", str(config), "run", "--scheduled"]))

    fetching, ran = threading.Event(), threading.Event()

    def hold() -> None:
        fetching.set()
        assert ran.wait(PATIENCE)

    mailbox.deliver("a")
    mailbox.before["UID"] = hold
    begin(config)
    assert fetching.wait(PATIENCE)
    run()
    ran.set()
    assert codes == [0]
    assert "database prod: another fetch-and-route is running: left to that one" in capsys.readouterr().out
    mailbox.until_routed("a")
    assert len(odoo.requests) == 1


def test_stopped_while_it_waits_for_a_run_it_ends(
    configure: Configure,
    mailbox: LivingMailbox,
    odoo: HttpServer,
    begin: Begin,
    state_directory: Path,
    waits: threading.Semaphore,
) -> None:
    running = begin(configure(odoo.server_port, prod=mailbox.port))
    with lock(state_directory, "prod"):
        mailbox.deliver("a")
        assert waits.acquire(timeout=PATIENCE)
        assert running.end() == []
    assert (running.code, odoo.requests) == (0, [])


def test_what_was_tried_before_is_left_to_a_run(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, begin: Begin, state_directory: Path
) -> None:
    State(state_directory, "prod").update({"<tried@x>": Note(1, "boom", (), 1700000000)})
    mailbox.deliver("tried")
    mailbox.deliver("new")
    begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until_routed("new")
    mailbox.until_idle()
    assert mailbox.names("INBOX") == ["tried"]
    assert len(odoo.requests) == 1


def test_a_database_that_is_away_is_left_alone(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, begin: Begin, state_directory: Path
) -> None:
    odoo.answers = [(503, b"")]
    mailbox.deliver("a")
    running = begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until_idle()
    assert len(odoo.requests) == 1
    mailbox.deliver("b")
    mailbox.until(lambda: mailbox.commands.count("IDLE") == 2)
    mailbox.until_idle()
    assert len(odoo.requests) == 1, "asked nothing"
    odoo.answers = [(200, ROUTED)]
    BackOff(state_directory, "prod").answered()  # as a run finds it
    mailbox.deliver("c")
    mailbox.until_routed("a", "b", "c")
    said = [line for line in running.end() if "message-id" not in line]
    assert len(said) == 2, "each once"
    assert said[0].startswith("database prod: the timer's runs leave it alone until ")
    assert said[1].endswith(": HTTP 503: mail waits, the next run tries again")


def test_a_database_that_was_away_is_asked_again_in_time(
    configure: Configure,
    mailbox: LivingMailbox,
    odoo: HttpServer,
    begin: Begin,
    state_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odoo.answers = [(503, b""), (200, ROUTED)]
    waited: list[float] = []
    real = ImapMailbox.wait_for_news

    def wait(session: ImapMailbox, seconds: float, stop: int) -> bool:
        waited.append(seconds)
        if len(waited) > 1:
            return real(session, seconds, stop)
        BackOff(state_directory, "prod").answered()  # its time is over
        return False

    monkeypatch.setattr(ImapMailbox, "wait_for_news", wait)
    mailbox.deliver("a")
    begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until_routed("a")
    mailbox.until_idle()
    assert 50 < waited[0] <= 60, "the time after a first failure"
    assert waited[1] == watch.REISSUE


def test_a_refused_key_is_said_and_nothing_is_asked_until_more_comes(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, begin: Begin
) -> None:
    odoo.answers = [(401, b"Invalid apikey")]
    mailbox.deliver("a")
    running = begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until_idle()
    assert len(odoo.requests) == 1
    assert [line for line in running.end() if "HTTP 401: Invalid apikey: run the roles" in line]
    assert mailbox.names("INBOX") == ["a"]


def test_a_signal_ends_the_command(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(odoo.server_port, prod=mailbox.port)
    mailbox.deliver("a")

    def end() -> None:
        mailbox.until_routed("a")
        mailbox.until_idle()
        os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=end)
    killer.start()
    assert main(["--config", str(config), "watch"]) == 0
    killer.join(PATIENCE)
    assert mailbox.commands[-2:] == ["DONE", "LOGOUT"]
    assert "message-id=<a@x> mailbox=prod recipients=sales@example.com verdict=routed" in capsys.readouterr().out


def test_figures_are_written_afterwards(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(odoo.server_port, prod=mailbox.port)
    (tmp_path / "metrics").mkdir()
    config.write_text(f'metrics_directory = "{tmp_path / "metrics"}"\n' + config.read_text())
    monkeypatch.setattr(watch, "TELL_EVERY", 0.01)
    mailbox.deliver("a")
    published = threading.Event()
    real = metrics._publish

    def publish(path: Path, content: bytes) -> None:
        real(path, content)
        published.set()

    def end() -> None:
        assert published.wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(metrics, "_publish", publish)
    killer = threading.Thread(target=end)
    killer.start()
    assert main(["--config", str(config), "watch"]) == 0
    killer.join(PATIENCE)
    figures = (tmp_path / "metrics/fetch-and-route.prom").read_text()
    assert 'fetch_and_route_verdicts_total{mailbox="prod",database="prod",verdict="routed"} 1\n' in figures
    assert 'fetch_and_route_waiting_messages{mailbox="prod",database="prod"} 0\n' in figures


def test_a_fault_of_the_program_ends_it(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object, **__: object) -> int:
        raise RuntimeError("a fault")

    monkeypatch.setattr(watch, "attend", fault)
    mailbox.deliver("a")
    running = begin(configure(odoo.server_port, prod=mailbox.port))
    running._thread.join(PATIENCE)
    assert repr(running.error) == "RuntimeError('a fault')"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What systemd hears."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        yield server


def test_systemd_hears_how_it_is(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, begin: Begin, systemd: socket.socket
) -> None:
    running = begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until_idle()
    running.end()
    heard = [systemd.recv(1000) for _ in range(3)]
    assert heard[0] == b"READY=1"
    assert re.fullmatch(rb"STATUS=prod [a-z ]+\nWATCHDOG=1", heard[1])
    assert heard[2] == b"STOPPING=1"


@pytest.mark.parametrize(("due", "well"), [(math.inf, True), (-math.inf, False)])
def test_a_watcher_that_hangs_is_not_called_well(
    configure: Configure, closed_port: int, systemd: socket.socket, due: float, well: bool
) -> None:
    path = configure(closed_port, prod=closed_port)
    config = configuration.load(path)
    output = io.StringIO()
    stop = Stop()
    stop.set()
    watcher = Watcher(config.mailboxes[0], config.databases[0], config, path, Report(output), stop, Line())
    watcher.does, watcher.due = "watching", due
    watch._stay([watcher], Report(output), stop)
    systemd.recv(1000)
    assert (b"WATCHDOG=1" in systemd.recv(1000)) == well
    assert ("mailbox prod: its watcher hangs" in output.getvalue()) != well


def test_a_backlog_gives_way_after_its_share_and_only_to_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    line = Line()
    stop = Stop()
    gives_way = GivesWay(stop, line)
    assert not gives_way()
    now += watch.SHARE + 1
    assert not gives_way(), "nobody waits"
    with line.joined():
        assert gives_way()
    assert gives_way()
    another = GivesWay(stop, line)
    with line.joined():
        assert not another(), "at least one batch is served"
    stop.set()
    assert another()


def test_a_backlog_that_gave_way_is_gone_on_with(
    configure: Configure, mailbox: LivingMailbox, odoo: HttpServer, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    gave: list[bool] = []

    class Once(GivesWay):
        def __call__(self) -> bool:
            self.gave = not gave
            gave.append(self.gave)
            return self.gave

    monkeypatch.setattr(watch, "GivesWay", Once)
    mailbox.deliver("a")
    begin(configure(odoo.server_port, prod=mailbox.port))
    mailbox.until_routed("a")
    assert gave[:2] == [True, False]


@pytest.mark.parametrize(
    ("failures", "refused", "least", "most"),
    [(1, False, 0.5, 1), (4, False, 4, 8), (99, False, 150, 300), (1, True, 30, 60), (99, True, 900, 1800)],
)
def test_connecting_again_is_put_off_ever_longer(failures: int, refused: bool, least: float, most: float) -> None:
    assert reconnect_after(failures, refused=refused, chance=0) == least
    assert reconnect_after(failures, refused=refused, chance=1) == most
