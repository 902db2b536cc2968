"""The cycle in a small world of its own: a mailbox that survives deaths, an Odoo that knows what it has."""

from __future__ import annotations

import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest

from fetch_and_route.calls import Calls, Gateway, ask
from fetch_and_route.config import Config, Mailbox
from fetch_and_route.message import Prepared, message_id, references
from fetch_and_route.odoo import Broken, Conflict, TooBig
from fetch_and_route.report import Report
from fetch_and_route.routing import Entry, Verdict, key_of
from fetch_and_route.run import cycle
from fetch_and_route.state import Note, State
from fetch_and_route.trouble import Denied, Misconfigured, Unavailable
from tests import delivery_reports

MAILBOX = Mailbox(name="prod", database="prod", host="h", login="l", password="p")
FOLDERS = ("INBOX", "Routed", "Quarantine")


class Killed(BaseException):
    """The program dies here."""


class Fuse:
    """Dies at the n-th step from now, and with it every thread at its next step; n = 0: never."""

    def __init__(self) -> None:
        self.steps = self._last = 0
        self._lock = threading.Lock()

    def arm(self, step: int) -> None:
        self.steps, self._last = 0, step

    def step(self) -> None:
        with self._lock:
            self.steps += 1
            if self._last and self.steps >= self._last:
                raise Killed


class World:
    """What outlives the program: folders of messages, Odoo's database, the notes on disk."""

    def __init__(self, directory: Path) -> None:
        self.folders: dict[str, dict[int, bytes]] = {folder: {} for folder in FOLDERS}
        self.posted: Counter[str] = Counter()
        self.calls: list[list[str]] = []
        self.away = False
        self.directory = directory
        self.fuse = Fuse()

    def deliver(
        self,
        name: str,
        recipient: str = "sales@example.com",
        body: str = "",
        *,
        answers: Sequence[str] = (),
        kind: str = "text/plain",
    ) -> None:
        uid = 1 + max((uid for folder in self.folders.values() for uid in folder), default=0)
        raw = f"Delivered-To: {recipient}\r\nReceived: x\r\nMessage-ID: <{name}@x>\r\n"
        raw += (
            f"Content-Type: {kind}\r\nReferences: " + " ".join(f"<{other}@x>" for other in answers) + f"\r\n\r\n{body}"
        )
        self.folders["INBOX"][uid] = raw.encode()

    def names(self, folder: str) -> list[str]:
        return [message_id(raw)[1:-3] for _, raw in sorted(self.folders[folder].items())]

    def run(
        self,
        *,
        attempts: int = 3,
        stopped: Callable[[], bool] = lambda: False,
        concurrency: int = 1,
        odoo: Callable[[], Gateway] | None = None,
        session: Session | None = None,
        fresh: bool = False,
        batch: int = 4,
    ) -> str:
        output = io.StringIO()
        config = Config(databases=(), mailboxes=(), attempts=attempts, batch_messages=batch, batch_bytes=1000)
        state = FusedState(self.directory, "prod", self.fuse)
        with Calls(odoo or (lambda: Odoo(self)), concurrency) as calls:
            cycle(MAILBOX, session or Session(self), calls, state, config, Report(output), stopped, fresh=fresh)
        return output.getvalue()

    def note(self, name: str) -> Note | None:
        return State(self.directory, "prod")[f"<{name}@x>"]


class Session:
    """A Queue in the world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.count = len(world.folders["INBOX"])

    def index(self) -> list[Entry]:
        self.world.fuse.step()
        inbox = self.world.folders["INBOX"]
        return [
            Entry(uid, len(raw), key_of(message_id(raw)), tuple(map(key_of, references(raw))))
            for uid, raw in sorted(inbox.items())
        ]

    def fetch(self, uids: Sequence[int], *, header_only: bool = False) -> dict[int, bytes]:
        self.world.fuse.step()
        inbox = self.world.folders["INBOX"]
        return {
            uid: inbox[uid].partition(b"\r\n\r\n")[0] if header_only else inbox[uid] for uid in uids if uid in inbox
        }

    def move(self, uids: Sequence[int], folder: str) -> None:
        for uid in uids:
            self.world.fuse.step()
            if uid in self.world.folders["INBOX"]:
                self.world.folders[folder][uid] = self.world.folders["INBOX"].pop(uid)
        self.world.fuse.step()

    def message_ids(self, folder: str) -> list[str]:
        self.world.fuse.step()
        return [message_id(raw) for raw in self.world.folders[folder].values()]


class Odoo:
    """A Gateway in the world; a message's name says what Odoo makes of it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def close(self) -> None:
        """Nothing is open."""

    def ping(self) -> None:
        if self.world.away:
            raise Unavailable("away")

    def route(self, messages: Sequence[Prepared]) -> list[Verdict]:
        self.world.fuse.step()
        self.world.calls.append([message.message_id[1:-3] for message in messages])
        if self.world.away:
            raise Broken("connection lost")
        deadly = {
            "poison": Broken("boom"),
            "huge": TooBig("too big"),
            "denied": Denied("no"),
            "conflict": Conflict("busy"),
        }
        for kind, error in deadly.items():
            if any(kind in message.message_id for message in messages):
                raise error
        verdicts: list[Verdict] = []
        failed = set()
        for message in messages:
            late = message.thread in failed
            verdicts.append(Verdict("retry", reason="an earlier one failed") if late else self.post(message))
            if verdicts[-1].word in ("error", "retry"):
                failed.add(message.thread)
        self.world.fuse.step()  # Odoo has committed; the answer is lost
        return verdicts

    def addresses(self) -> list[tuple[str, str]]:
        raise Broken("the gateway action does not know")

    def post(self, message: Prepared) -> Verdict:
        if (
            "later" in message.message_id
            and message.message_id[1:-3] in self.world.calls[0]
            and len(self.world.calls) == 1
        ):
            return Verdict("retry", reason="an alias was used for the first time")
        for word in ("refused", "retry", "bounce", "ignored", "error"):
            if word in message.message_id:
                return Verdict(word, reason=f"because {word}")
        if self.world.posted[message.message_id]:
            return Verdict("duplicate", "crm.lead/1")
        self.world.posted[message.message_id] += 1
        return Verdict("routed", "crm.lead/1")


class FusedState(State):
    """Notes whose writing may be the last thing that is done."""

    def __init__(self, directory: Path, mailbox: str, fuse: Fuse) -> None:
        super().__init__(directory, mailbox)
        self._fuse = fuse

    def update(self, notes: dict[str, Note | None]) -> None:
        self._fuse.step()
        super().update(notes)
        self._fuse.step()


@pytest.fixture
def world(state_directory: Path) -> World:
    return World(state_directory)


def test_each_verdict_has_its_folder(world: World) -> None:
    for name in ("a", "refused", "retry", "bounce", "ignored", "error"):
        world.deliver(name)
    output = world.run()
    assert world.names("Routed") == ["a", "bounce", "ignored"]
    assert world.names("Quarantine") == ["refused"]
    assert world.names("INBOX") == ["retry", "error"]
    assert world.note("refused") is not None
    lines = output.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith(
        "message-id=<a@x> mailbox=prod recipients=sales@example.com verdict=routed record=crm.lead/1"
    )
    assert "verdict=refused folder=Quarantine" in lines[1]
    assert lines[1].endswith('reason="because refused"')


def test_what_odoo_wants_to_be_asked_again_is_in_the_same_run(world: World) -> None:
    for name in ("a", "later1", "retry", "later2"):
        world.deliver(name)
    world.run()
    assert world.names("Routed") == ["a", "later1", "later2"]
    assert world.names("INBOX") == ["retry"]
    assert world.calls == [["a", "later1", "retry", "later2"], ["later1", "retry", "later2"], ["retry"]]


def test_order_is_kept_and_calls_are_batches(world: World) -> None:
    names = [f"m{number}" for number in range(10)]
    for name in names:
        world.deliver(name)
    world.run()
    assert world.calls == [names[0:4], names[4:8], names[8:10]]
    assert world.names("Routed") == names


def test_a_few_messages_are_shared_out_among_the_calls(world: World) -> None:
    for number in range(12):
        world.deliver(f"m{number}")
    world.run(concurrency=2, batch=20)
    assert sorted(map(len, world.calls)) == [6, 6]
    assert len(world.names("Routed")) == 12


def test_copies_are_asked_about_once_and_moved_together(world: World) -> None:
    world.deliver("a", "sales@example.com", "body")
    world.deliver("b")
    world.deliver("a", "projects@example.com", "body")
    output = world.run()
    assert world.calls == [["a", "b"]]
    assert "recipients=sales@example.com,projects@example.com" in output
    assert world.names("Routed") == ["a", "b", "a"]


def test_errors_count_over_runs_until_the_message_is_quarantined(world: World) -> None:
    world.deliver("error")
    for attempt in (1, 2):
        world.run()
        note = world.note("error")
        assert note is not None
        assert note.attempts == attempt
        assert world.names("INBOX") == ["error"]
    world.run()
    assert world.names("Quarantine") == ["error"]
    note = world.note("error")
    assert note is not None
    assert note.reason == "failed 3 times, at last: because error"
    assert note.recipients == ("sales@example.com",)


def test_what_was_tried_before_may_be_left_to_a_run(world: World) -> None:
    world.deliver("error")
    world.deliver("follows", answers=["error"])
    world.run()
    world.deliver("new")
    world.deliver("follows2", answers=["error"])
    world.calls.clear()
    world.run(fresh=True)
    assert world.calls == [["new"]]
    assert world.names("INBOX") == ["error", "follows", "follows2"]
    note = world.note("error")
    assert note is not None
    assert note.attempts == 1
    world.run()
    assert world.calls[1] == ["error", "follows", "follows2"]


def test_a_message_that_kills_the_call_is_found_and_delays_no_other(world: World) -> None:
    for name in ("a", "poison", "b", "huge"):
        world.deliver(name)
    world.run()
    assert world.names("Routed") == ["a", "b"]
    assert world.names("INBOX") == ["poison"]
    assert world.names("Quarantine") == ["huge"], "too big is for good"
    world.run()
    world.run()
    assert world.names("Quarantine") == ["poison", "huge"]


def test_nothing_is_held_against_a_message_while_odoo_is_away(world: World) -> None:
    world.deliver("a")
    world.away = True
    for _ in range(5):
        with pytest.raises(Unavailable):
            world.run()
    assert world.names("INBOX") == ["a"]
    assert world.note("a") is None
    world.away = False
    world.run()
    assert world.names("Routed") == ["a"]


def test_a_refusal_of_us_stops_the_cycle_and_keeps_all(world: World) -> None:
    for name in ("denied", "a", "b", "c", "d"):
        world.deliver(name)
    with pytest.raises(Denied):
        world.run()
    assert len(world.calls) == 1
    assert len(world.names("INBOX")) == 5


def test_on_a_full_disk_only_what_needs_a_note_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.deliver("error1")
    world.run()
    for name in ("refused", "a", "b", "c", "d", "e"):
        world.deliver(name)
    with monkeypatch.context() as patch:
        patch.setattr("fetch_and_route.durable.replace", Mock(side_effect=Misconfigured("full")))
        with pytest.raises(Misconfigured, match="full"):
            world.run()
    assert world.names("Routed") == ["a", "b", "c", "d", "e"]
    assert world.names("INBOX") == ["error1", "refused"]
    assert world.note("refused") is None
    world.run()
    assert world.names("Quarantine") == ["refused"]


def test_on_a_full_disk_a_note_may_outlive_its_message(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.deliver("a")
    State(world.directory, "prod").update({"<a@x>": Note(1, "it failed", (), 0)})
    with monkeypatch.context() as patch:
        patch.setattr("fetch_and_route.durable.replace", Mock(side_effect=Misconfigured("full")))
        with pytest.raises(Misconfigured, match="full"):
            world.run()
    assert world.names("Routed") == ["a"]


def test_a_stop_ends_after_the_calls_under_way(world: World) -> None:
    names = [f"m{number}" for number in range(20)]
    for name in names:
        world.deliver(name)
    world.run(stopped=lambda: bool(world.calls))
    assert world.names("Routed")[:4] == names[:4]
    assert world.names("INBOX")[-12:] == names[-12:], "what was not yet fetched"
    assert world.posted.keys() == {f"<{name}@x>" for name in world.names("Routed")}


def test_reports_are_kept_from_odoo(world: World) -> None:
    receipt, failure = (
        f"multipart/report; report-type={kind}" for kind in ("disposition-notification", "delivery-status")
    )
    for number in range(5):
        world.deliver(f"report{number}", kind=receipt)
    world.deliver("bounce", kind=failure)
    world.deliver("a", answers=["report0"])
    output = world.run()
    assert sorted(world.calls) == [["a"], ["bounce"]]
    assert len(world.names("Routed")) == 7
    assert "message-id=<report0@x> mailbox=prod recipients=sales@example.com verdict=report folder=Routed" in output
    assert 'reason="a read receipt (RFC 8098): kept from Odoo' in output


def test_delivery_reports_are_handed_over_as_odoo_reads_them_and_notices_are_not(world: World) -> None:
    handed: dict[str, bytes] = {}

    class Reader(Odoo):
        def route(self, messages: Sequence[Prepared]) -> list[Verdict]:
            handed.update((message.message_id, message.raw) for message in messages)
            return super().route(messages)

    for uid, form in enumerate((delivery_reports.qmail, delivery_reports.postfix, delivery_reports.delayed), 1):
        own_id = f"<{form.__name__}@x>"
        world.folders["INBOX"][uid] = delivery_reports.write(form, "<m@x>", "anna@customer.example", own_id=own_id)
    bounced = delivery_reports.write(delivery_reports.postfix, "<m@x>", "anna@customer.example", own_id="<abuse@x>")
    world.folders["INBOX"][9] = bounced.replace(b"report-type=delivery-status", b"report-type=feedback-report")
    output = world.run(odoo=lambda: Reader(world))
    assert handed.keys() == {"<qmail@x>", "<postfix@x>"}
    assert b"Final-Recipient: rfc822; anna@customer.example" in handed["<qmail@x>"]
    assert len(world.names("Routed")) == 4
    assert 'reason="an abuse report' in output, "even of a delivery report"
    assert 'reason="a notice of a delay (RFC 3464): kept from Odoo' in output


class Meeting(Odoo):
    """An Odoo whose first calls are answered only once two are there at the same time."""

    def __init__(self, world: World, barrier: threading.Barrier) -> None:
        super().__init__(world)
        self.barrier = barrier

    def route(self, messages: Sequence[Prepared]) -> list[Verdict]:
        if len(self.world.calls) < 2:
            self.barrier.wait(10)
        return super().route(messages)


def test_several_calls_at_a_time_each_over_its_own_connection(world: World) -> None:
    for number in range(8):
        world.deliver(f"m{number}")
    barrier, made = threading.Barrier(2), []

    def connect() -> Odoo:
        made.append(Meeting(world, barrier))
        return made[-1]

    world.run(concurrency=2, odoo=connect)
    assert len(made) == 2
    assert len(world.names("Routed")) == 8


def test_while_odoo_works_the_next_batch_is_fetched(world: World) -> None:
    for number in range(8):
        world.deliver(f"m{number}")
    fetched = threading.Event()

    class Watched(Session):
        def fetch(self, uids: Sequence[int], *, header_only: bool = False) -> dict[int, bytes]:
            if 5 in uids:
                fetched.set()
            return super().fetch(uids, header_only=header_only)

    class Slow(Odoo):
        def route(self, messages: Sequence[Prepared]) -> list[Verdict]:
            assert fetched.wait(10)
            return super().route(messages)

    world.run(odoo=lambda: Slow(world), session=Watched(world))
    assert len(world.names("Routed")) == 8


def test_what_follows_a_failed_message_in_its_thread_waits_for_it(world: World) -> None:
    for name, answers in (("error", []), ("b", ["error"]), ("c", ["b"]), ("d", []), ("e", ["c"]), ("f", ["e"])):
        world.deliver(name, answers=answers)
    for _ in range(2):
        world.run(concurrency=2)
        assert world.names("Routed") == ["d"]
        assert world.names("INBOX") == ["error", "b", "c", "e", "f"]
    world.run(concurrency=2)
    assert world.names("Quarantine") == ["error"]
    world.run()
    assert world.names("Routed") == ["b", "c", "d", "e", "f"]


def test_what_follows_a_deadly_message_in_its_thread_waits_for_it(world: World) -> None:
    for name, answers in (("a", ["old"]), ("poison", ["old"]), ("b", ["old"]), ("c", [])):
        world.deliver(name, answers=answers)
    world.run()
    assert world.names("Routed") == ["a", "c"]
    assert world.names("INBOX") == ["poison", "b"]


def test_a_conflict_in_odoo_is_nobodys_fault(world: World) -> None:
    for name in ("a", "conflict", "b"):
        world.deliver(name)
    for _ in range(4):
        world.run()
    assert world.names("Routed") == ["a", "b"]
    assert world.names("INBOX") == ["conflict"]


def test_once_odoo_is_away_nothing_more_is_asked_and_answers_are_settled(world: World) -> None:
    for number in range(20):
        world.deliver(f"m{number}")

    class Leaving(Odoo):
        def route(self, messages: Sequence[Prepared]) -> list[Verdict]:
            world.away = bool(world.calls)
            return super().route(messages)

    with pytest.raises(Unavailable):
        world.run(odoo=lambda: Leaving(world))
    assert world.names("Routed") == [f"m{number}" for number in range(4)]
    assert len(world.calls) == 2


def test_an_empty_mailbox_asks_nobody(world: World) -> None:
    world.fuse.arm(1)
    assert world.run() == ""


def test_notes_of_messages_that_are_gone_are_forgotten(world: World) -> None:
    world.deliver("refused1")
    world.deliver("error")
    world.run()
    world.folders["Quarantine"].clear()
    world.deliver("refused2")
    world.run()
    notes = json.loads((world.directory / "prod.json").read_text())["messages"]
    assert notes.keys() == {"<error@x>", "<refused2@x>"}


def test_mail_that_is_taken_away_meanwhile_is_no_trouble(world: World) -> None:
    for name in ("a", "b"):
        world.deliver(name)
    session = Session(world)
    entries = session.index()
    del world.folders["INBOX"][1]
    session.index = lambda: entries  # type: ignore[method-assign]
    world.run(session=session)
    assert world.names("Routed") == ["b"]


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("step", range(1, 61))
def test_killed_at_any_step_nothing_is_lost_or_posted_twice(state_directory: Path, step: int, concurrency: int) -> None:
    world = World(state_directory)
    names = ["a", "refused", "b", "copy", "poison", "c", "error", "d"]
    for name in names:
        world.deliver(name, answers=["b"] if name in "cd" else [])
    world.deliver("copy", "projects@example.com")
    world.fuse.arm(step)
    deaths = 0
    for _ in range(8):
        try:
            world.run(concurrency=concurrency)
        except Killed:
            deaths += 1
            world.fuse.arm(step if deaths < 2 else 0)  # and again, at the same step of the next run
        everywhere = [name for folder in FOLDERS for name in world.names(folder)]
        assert sorted(everywhere) == sorted([*names, "copy"]), "in one folder at every moment"
        for name in world.names("Quarantine"):
            assert world.note(name) is not None, "never in quarantine without its reason"
    assert sorted(world.names("Routed")) == ["a", "b", "c", "copy", "copy", "d"]
    assert sorted(world.names("Quarantine")) == ["error", "poison", "refused"]
    assert world.posted == {f"<{name}@x>": 1 for name in ("a", "b", "copy", "c", "d")}


def test_the_steps_above_are_all_steps(world: World) -> None:
    for name in ("a", "refused", "b", "copy", "poison", "c", "error", "d", "copy"):
        world.deliver(name)
    world.run()
    assert world.fuse.steps <= 60


def test_nothing_to_ask_asks_nothing(world: World) -> None:
    world.fuse.arm(1)
    assert ask(Odoo(world), []) == []


def test_not_to_know_the_addresses_keeps_no_mail_waiting(world: World) -> None:
    with Calls(lambda: Odoo(world), 1) as calls:
        with pytest.raises(Broken, match="does not know"):
            calls.addresses()
        assert calls.trouble is None
        world.away = True
        with pytest.raises(Unavailable):
            calls.addresses()
        assert isinstance(calls.trouble, Unavailable)
