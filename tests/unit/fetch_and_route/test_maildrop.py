"""A maildrop as the queue: nothing is deleted without a verdict, and nothing lost or twice whenever a session dies."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from fetch_and_route import maildrop
from fetch_and_route.calls import Calls
from fetch_and_route.config import Config
from fetch_and_route.maildrop import Pop3Mailbox
from fetch_and_route.message import Prepared, made_message_id, message_id
from fetch_and_route.originals import Originals
from fetch_and_route.pop3 import Pop3
from fetch_and_route.report import Report
from fetch_and_route.routing import Entry, Listed, Verdict, key_of
from fetch_and_route.run import cycle
from fetch_and_route.state import State
from fetch_and_route.trouble import Denied, Misconfigured, Unavailable

from .conftest import Certificate, PopServer
from .test_pop3 import mailbox


def raw_of(name: str, recipient: str = "sales@example.com") -> bytes:
    return f"Delivered-To: {recipient}\r\nReceived: x\r\nMessage-ID: <{name}@x>\r\n\r\nbody\r\n".encode()


class World:
    """What outlives the program: the maildrop, Odoo's database, the state directory."""

    def __init__(self, server: PopServer, certificate: Certificate, directory: Path) -> None:
        self.server = server
        self.config = mailbox(server.port, certificate)
        self.directory = directory
        self.originals = Originals(directory, "prod")
        self.posted: list[str] = []
        self.seen: list[Prepared] = []
        self.mended = False

    def open(self) -> Pop3Mailbox:
        return Pop3Mailbox(self.config, lambda: Pop3(self.config, "secret"), self.originals)

    def run(self) -> None:
        config = Config(databases=(), mailboxes=(), batch_messages=3)
        state = State(self.directory, "prod")
        with self.open() as queue, Calls(lambda: self, 1) as calls:
            cycle(self.config, queue, calls, state, config, Report(io.StringIO()), lambda: False)

    def close(self) -> None:
        """Nothing is connected."""

    def ping(self) -> None:
        """Odoo is always there."""

    def addresses(self) -> list[tuple[str, str]]:
        return []

    def route(self, messages: Sequence[Prepared]) -> list[Verdict]:
        self.seen += messages
        return [self.post(message.message_id) for message in messages]

    def post(self, identity: str) -> Verdict:
        if "away" in identity:
            raise Unavailable("Odoo is away")
        if "retry" in identity:
            return Verdict("retry")
        if "refused" in identity and not self.mended:
            return Verdict("refused", reason="no route")
        if identity in self.posted:
            return Verdict("duplicate", "crm.lead/1")
        self.posted.append(identity)
        return Verdict("routed", "crm.lead/1")

    def held(self) -> list[bytes | None]:
        return [self.originals.read(name) for name in self.originals.held()]


@pytest.fixture
def world(pop_server: PopServer, certificate: Certificate, state_directory: Path) -> World:
    pop_server.messages = {f"u-{name}": raw_of(name) for name in ("a", "refused", "retry", "b", "c")}
    return World(pop_server, certificate, state_directory)


def test_what_waits_is_indexed_and_read(world: World, pop_server: PopServer) -> None:
    nameless = b"Subject: x\r\n\r\nbody\r\n"
    pop_server.messages = {"u1": raw_of("a"), "u2": nameless, "u3": raw_of("c")}
    with world.open() as queue:
        assert queue.count == 3
        assert queue.can_move
        assert queue.index() == [
            Entry(1, len(raw_of("a")), key_of("<a@x>")),
            Entry(2, len(nameless), key_of(made_message_id(nameless))),
            Entry(3, len(raw_of("c")), key_of("<c@x>")),
        ]
        pop_server.answers["RETR 1"] = b"-ERR no such message\r\n"
        assert queue.fetch([1, 3]) == {3: raw_of("c")}, "a message that is gone is left out"
        assert message_id(queue.fetch([3], header_only=True)[3]) == "<c@x>"
        assert queue.fetch([]) == {}
    assert pop_server.commands.count("RETR 3") == 1, "a header is read by TOP"
    assert len(pop_server.messages) == 3


@pytest.mark.parametrize("capabilities", [["UIDL"], [], ["UIDL", "PIPELINING"]])
def test_without_top_it_is_the_same(world: World, pop_server: PopServer, capabilities: list[str]) -> None:
    pop_server.capabilities = capabilities
    world.run()
    assert sorted(world.posted) == ["<a@x>", "<b@x>", "<c@x>"]
    assert list(pop_server.messages) == ["u-retry"]


def test_an_unannounced_top_is_used(world: World, pop_server: PopServer) -> None:
    pop_server.capabilities = []
    pop_server.answers = {f"TOP {number} 0": b"+OK\r\nMessage-ID: <z@x>\r\n\r\n.\r\n" for number in range(1, 6)}
    with world.open() as queue:
        assert {entry.key for entry in queue.index()} == {key_of("<z@x>")}
    assert not [command for command in pop_server.commands if command.startswith("RETR")]


def test_an_empty_maildrop_is_asked_nothing_more(world: World, pop_server: PopServer) -> None:
    pop_server.messages = {}
    world.run()
    assert pop_server.commands[-2:] == ["STAT", "QUIT"]
    with world.open() as queue:
        assert queue.index() == []


def test_each_verdict_has_its_place(world: World, pop_server: PopServer) -> None:
    world.run()
    assert list(pop_server.messages) == ["u-retry"], "what is to wait stays"
    assert world.posted == ["<a@x>", "<b@x>", "<c@x>"]
    assert world.held() == [raw_of("refused")]
    note = State(world.directory, "prod")["<refused@x>"]
    assert note is not None
    assert note.reason == "no route"
    with world.open() as queue:
        assert queue.message_ids("Quarantine") == ["<refused@x>"]
        assert (queue.size_of("Quarantine"), queue.size_of("Routed"), queue.message_ids("Routed")) == (1, 0, [])


def test_what_the_server_does_not_hand_out_is_not_deleted(world: World, pop_server: PopServer) -> None:
    with world.open() as queue:
        uids = [entry.uid for entry in queue.index()]
        pop_server.answers["RETR 2"] = b"-ERR [SYS/TEMP] later\r\n"
        queue.move(uids[:3], "Quarantine")
    assert list(pop_server.messages) == ["u-refused", "u-b", "u-c"]
    assert set(world.held()) == {raw_of("a"), raw_of("retry")}


def test_nothing_is_deleted_for_a_folder_that_cannot_be(world: World, pop_server: PopServer) -> None:
    with world.open() as queue, pytest.raises(Denied, match="has no folder Elsewhere"):
        queue.move([entry.uid for entry in queue.index()], "Elsewhere")
    assert len(pop_server.messages) == 5


def test_copies_are_merged_and_each_original_is_kept(world: World, pop_server: PopServer) -> None:
    second = raw_of("refused", "projects@example.com")
    pop_server.messages["u-refused2"] = second
    pop_server.messages["u-a2"] = raw_of("a", "projects@example.com")
    world.run()
    assert sorted(filter(None, world.held())) == sorted([raw_of("refused"), second])
    assert world.seen[0].recipients == ("sales@example.com", "projects@example.com")
    assert list(pop_server.messages) == ["u-retry"]


def test_deletions_are_done_after_trouble_with_odoo_too(world: World, pop_server: PopServer) -> None:
    pop_server.messages = {f"u-{name}": raw_of(name) for name in ("a", "b", "c", "away")}
    with pytest.raises(Unavailable, match="Odoo is away"):
        world.run()
    assert list(pop_server.messages) == ["u-away"]


def test_nothing_is_deleted_whose_original_cannot_be_written(world: World, pop_server: PopServer) -> None:
    (world.directory / "quarantine").touch()
    pop_server.messages = {"u-refused": raw_of("refused")}
    with pytest.raises(Misconfigured, match="quarantine"):
        world.run()
    assert list(pop_server.messages) == ["u-refused"]


@pytest.mark.parametrize("died", range(1, 23))
def test_wherever_a_session_dies_nothing_is_lost_or_posted_twice(
    world: World, pop_server: PopServer, died: int
) -> None:
    pop_server.dies_at = died
    with pytest.raises(Unavailable):
        world.run()
    kept = {message_id(raw) for raw in [*pop_server.messages.values(), *filter(None, world.held())]}
    assert kept | set(world.posted) == {f"<{name}@x>" for name in ("a", "refused", "retry", "b", "c")}
    world.run()
    assert world.posted == ["<a@x>", "<b@x>", "<c@x>"]
    assert world.held() == [raw_of("refused")]
    assert list(pop_server.messages) == ["u-retry"]


def test_the_deaths_above_are_all(world: World, pop_server: PopServer) -> None:
    world.run()
    assert len(pop_server.commands) == 22


def test_a_message_that_is_routed_in_the_end_leaves_the_quarantine(world: World, pop_server: PopServer) -> None:
    pop_server.answers["QUIT"] = b""
    with pytest.raises(Unavailable):
        world.run()
    assert world.held() == [raw_of("refused")]
    pop_server.answers = {}
    world.mended = True
    world.run()
    assert "<refused@x>" in world.posted
    assert world.held() == []


def test_a_unique_id_that_comes_again_costs_no_original(world: World, pop_server: PopServer) -> None:
    for name in ("refused", "refused2"):
        pop_server.messages = {"u1": raw_of(name)}
        world.run()
    assert set(world.held()) == {raw_of("refused"), raw_of("refused2")}


@pytest.mark.parametrize("answer", [b"-ERR some deleted messages not removed\r\n", b""])
def test_deletions_that_were_not_done_are_said(world: World, pop_server: PopServer, answer: bytes) -> None:
    pop_server.answers["QUIT"] = answer
    with pytest.raises(Unavailable, match="ending the session"):
        world.run()
    world.open().close()  # which never raises


def test_a_refused_deletion_is_said(world: World, pop_server: PopServer) -> None:
    pop_server.answers["DELE 1"] = b"-ERR read-only\r\n"
    with pytest.raises(Unavailable, match="deleting a message: the server says no"):
        world.run()
    assert "u-a" in pop_server.messages


def test_long_work_is_done_in_several_sessions(
    world: World, pop_server: PopServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maildrop, "COMMIT_EVERY", 3)
    names = ["retry", *map(str, range(10)), "refused", "copy"]
    pop_server.messages = {f"u-{name}": raw_of(name) for name in names}
    pop_server.messages["u-copy2"] = raw_of("copy", "projects@example.com")
    world.run()
    assert pop_server.sessions > 1
    assert world.posted == [f"<{name}@x>" for name in [*map(str, range(10)), "copy"]]
    assert world.held() == [raw_of("refused")]
    assert list(pop_server.messages) == ["u-retry"]


def test_what_is_to_be_tried_again_waits_with_the_rest(world: World, pop_server: PopServer) -> None:
    world.run()
    (name,) = world.originals.held()
    world.originals.try_again(name)
    with world.open() as queue:
        assert queue.count == 2
        assert queue.index()[0] == Entry(-1, len(raw_of("refused")), key_of("<refused@x>"))
    world.run()
    assert (world.originals.held(), world.originals.waiting()) == ([name], []), "refused again"
    world.originals.try_again(name)
    pop_server.messages = {}
    world.mended = True
    world.run()
    assert "<refused@x>" in world.posted
    assert (world.originals.held(), world.originals.waiting()) == ([], [])


def test_each_folder_is_opened(world: World, pop_server: PopServer) -> None:
    nameless = b"Subject: x\r\n\r\nbody\r\n"
    pop_server.messages = {"u1": nameless, "u2": raw_of("a")}
    for name in ("q1", "q2", "again"):
        world.originals.keep(name, raw_of(name))
    world.originals.try_again("again")
    with world.open() as queue:
        with queue.opened("INBOX") as listed:
            assert listed == [Listed(-1, "<again@x>"), Listed(1, made_message_id(nameless)), Listed(2, "<a@x>")]
        with queue.opened("Quarantine") as listed:
            assert [entry.message_id for entry in listed] == ["<q1@x>", "<q2@x>"]
            first, second = (entry.uid for entry in listed)
            assert second < -1, "no UID is given twice"
            assert queue.fetch([second, first]) == {first: raw_of("q1"), second: raw_of("q2")}
            assert queue.fetch([first, 2], header_only=True) == {
                uid: raw_of(name).partition(b"\r\n\r\n")[0] + b"\r\n" for uid, name in ((first, "q1"), (2, "a"))
            }, "a header is a header, wherever it is from"
        with queue.opened("Routed") as listed:
            assert listed == []
        assert len(queue.index()) == queue.count == 3
    assert len(pop_server.messages) == 2


def test_what_is_quarantined_moves_back_or_is_removed(world: World, pop_server: PopServer) -> None:
    pop_server.messages = {"u1": raw_of("a")}
    for name in ("q1", "q2", "q3"):
        world.originals.keep(name, raw_of(name))
    with world.open() as queue, queue.opened("Quarantine", writable=True) as listed:
        uids = [entry.uid for entry in listed]
        queue.remove(uids[:1])
        queue.move(uids[1:2], "INBOX")
        world.originals.forget("q3")
        queue.move(uids[2:], "INBOX")
        queue.remove(uids[2:])
        assert queue.fetch(uids[2:]) == {}, "what is gone meanwhile does not matter"
        assert (world.originals.held(), world.originals.waiting()) == ([], ["q2"])
    assert list(pop_server.messages) == ["u1"]
    world.run()
    assert world.posted == ["<q2@x>", "<a@x>"]
    assert world.originals.waiting() == []


def test_what_waits_is_counted_anew_and_its_age_unknown(world: World, pop_server: PopServer) -> None:
    world.originals.keep("again", raw_of("again"))
    world.originals.try_again("again")
    with world.open() as queue:
        assert queue.waiting_since() == (6, None)
        queue.index()
        queue.move([-1, 1], "Routed")
        assert queue.waiting_since() == (4, None)
        assert [queue.make(folder) for folder in ("Routed", "Quarantine")] == [False, False]
    queue = world.open()
    queue.index()
    pop_server.answers["RETR 1"] = b"9 octets\r\n+OK 77 0\r\n"
    with pytest.raises(Unavailable, match="not an answer of POP3"):
        queue.fetch([1])
    with pytest.raises(Unavailable, match="counting: the connection broke: it broke off before"):
        queue.waiting_since()
    queue.close()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"-ERR what?\r\n", "it has no UIDL: use IMAP"),
        (b"+OK\r\n1 x\r\n2 x\r\n.\r\n", "two messages have one unique-id"),
    ],
)
def test_a_server_whose_messages_cannot_be_told_apart_is_named(
    world: World, pop_server: PopServer, answer: bytes, text: str
) -> None:
    pop_server.answers["UIDL"] = answer
    with pytest.raises(Denied, match=text):
        world.run()


def test_a_count_that_is_none_is_an_answer_we_cannot_read(world: World, pop_server: PopServer) -> None:
    pop_server.answers["STAT"] = b"+OK many\r\n"
    with pytest.raises(Unavailable, match="counting"):
        world.open()
