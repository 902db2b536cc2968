"""From one DKIM key to the next: no mail is ever without its key in DNS, whatever happens in between."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from module_utils.dkim_rotation import Key, Phase, Seen, Times, moment, next_step, noted, numbered, story

DAY, HOUR = 86400, 3600
TIMES = Times(signs=180 * DAY, retired=7 * DAY)
CLOCK = 300  # seconds by which the clock may be wrong; with more nothing is done
QUEUE = 5 * DAY  # mail waits no longer, here or at a server that it comes through
FIRST: tuple[Key, ...] = (Key("s1", "signs", 0),)


def keys(*phases: Phase, since: int = 0) -> tuple[Key, ...]:
    return tuple(Key(f"s{number}", phase, since) for number, phase in enumerate(phases, 1))


def phases(found: tuple[Key, ...]) -> list[str]:
    return [key.phase for key in found]


def seen(*selectors: str, cached: int = HOUR) -> Seen:
    return Seen(frozenset(selectors), cached=cached)


def step(found: tuple[Key, ...], now: int, what: Seen) -> tuple[Key, ...]:
    return next_step(found, now, what, TIMES, numbered)


def test_a_whole_rotation() -> None:
    """Each line is what one step makes of the line before, at the time in days."""
    state = FIRST
    began = 180 * DAY
    assert step(state, began - 1, seen()) == state
    state = step(state, began, seen())
    assert state == (Key("s1", "signs", 0), Key("s2", "new", began))
    state = noted(state, began + 9, seen("s2"), applied=True)
    assert state[1] == Key("s2", "shown", began + 9)
    assert step(state, began + 8 + HOUR, seen("s2")) == state
    state = step(state, began + 9 + HOUR, seen("s2"))
    assert phases(state) == ["leaving", "signs"]
    assert step(state, began + 30 * DAY, seen()) == state  # cut off before the mail hosts were told
    state = noted(state, began + 30 * DAY, seen(), applied=True)
    assert state[0] == Key("s1", "retired", began + 30 * DAY)
    assert step(state, began + 37 * DAY - 1, seen()) == state
    state = step(state, began + 37 * DAY, seen())
    assert phases(state) == ["removed", "signs"]
    assert noted(state, began + 38 * DAY, seen(), applied=True) == (Key("s2", "signs", began + 9 + HOUR),)


def test_a_key_that_a_server_loses_does_not_sign() -> None:
    state = keys("signs", "shown")
    assert phases(step(state, DAY, seen())) == ["signs", "new"]
    again = noted(step(state, DAY, seen()), DAY + 5, seen("s2"))
    assert again[1] == Key("s2", "shown", DAY + 5)
    assert phases(step(again, DAY + HOUR, seen("s2"))) == ["signs", "shown"]


def test_a_clock_that_may_be_wrong_makes_it_wait_longer() -> None:
    times = Times(180 * DAY, 7 * DAY, clock=300)
    state = keys("signs", "shown")
    assert next_step(state, HOUR + 599, seen("s2"), times, numbered) == state
    assert phases(next_step(state, HOUR + 600, seen("s2"), times, numbered)) == ["leaving", "signs"]


def test_nothing_begins_while_a_name_is_being_taken_out() -> None:
    def other(selector: str) -> str:
        return {"a": "b", "b": "a"}[selector]

    state = (Key("b", "removed", 0), Key("a", "signs", 0))
    assert next_step(state, 180 * DAY, seen(), TIMES, other) == state
    freed = noted(state, 180 * DAY, seen(), applied=True)
    assert next_step(freed, 180 * DAY, seen(), TIMES, other) == (*freed, Key("b", "new", 180 * DAY))


def test_a_removed_key_of_another_name_keeps_nothing_waiting() -> None:
    assert phases(step(keys("removed", "signs"), 180 * DAY, seen())) == ["removed", "signs", "new"]


@pytest.mark.parametrize(
    ("selector", "taken", "after"),
    [
        ("mailroom1", [], "mailroom2"),
        ("mailroom9", [], "mailroom10"),
        ("s", [], "s2"),
        ("2026", [], "2027"),
        ("mailroom1", ["mailroom2", "mailroom3"], "mailroom4"),
    ],
)
def test_selectors_are_counted(selector: str, taken: list[str], after: str) -> None:
    assert numbered(selector, taken) == after


def test_a_time_is_never_told_too_early() -> None:
    assert moment(1) == "1970-01-01 00:01 UTC"
    assert moment(60) == "1970-01-01 00:01 UTC"


def test_the_story_says_what_is_waited_for_and_until_when() -> None:
    def told(*parts: Phase, missing: str = "") -> list[str]:
        return story(keys(*parts), Seen(missing={"s2": missing}, cached=HOUR), TIMES).split("; ")

    assert told("signs") == ["s1 signs until 1970-06-30 00:00 UTC"]
    assert told("signs", "new", missing="ns2 does not show it") == [
        "s1 signs",
        "s2 waits until all name servers show it (ns2 does not show it)",
    ]
    assert told("signs", "shown")[1] == "s2 is shown everywhere and signs from 1970-01-01 01:00 UTC"
    assert told("retired", "signs")[0] == "s1 stays for mail under way until 1970-01-08 00:00 UTC"
    assert told("leaving", "signs", "removed") == ["s1 leaves", "s2 signs", "s3 is taken out"]


@dataclass
class World:
    """Two name servers that follow when they like, two mail hosts, and a clock that is not the time.

    A key is its selector and the how manyth it is there. under_way: when mail was last signed with a key. absent: when
    the world could last see that its selector had nothing, or another key.
    """

    names: tuple[str, ...] = ()
    time: int = 1000 * DAY
    clock: int = 0
    state: tuple[Key, ...] = ()
    made: dict[str, int] = field(default_factory=lambda: {"s1": 1})
    servers: list[set[str]] = field(default_factory=lambda: [{"s1#1"}, {"s1#1"}])
    signing: list[str] = field(default_factory=lambda: ["s1#1", "s1#1"])
    under_way: dict[str, int] = field(default_factory=dict)
    absent: dict[str, int] = field(default_factory=dict)
    rotated: int = 0

    def __post_init__(self) -> None:
        self.state = (Key("s1", "signs", self.now),)

    @property
    def now(self) -> int:
        return self.time + self.clock

    def successor(self, selector: str) -> str:
        if not self.names:
            return numbered(selector)
        return next(name for name in self.names if name != selector)

    def key(self, selector: str, later: int = 0) -> str:
        return f"{selector}#{self.made.get(selector, 0) + later}"

    def look(self) -> Seen:
        shown = self.servers[0] & self.servers[1]
        return Seen(frozenset(one.selector for one in self.state if self.key(one.selector) in shown), cached=HOUR)

    def pass_time(self, seconds: int) -> None:
        """Mail is sent and arrives all the while; every name that is not there is asked for and remembered so."""
        self.send()
        self.time += seconds
        self.send()

    def send(self) -> None:
        self.under_way |= dict.fromkeys(self.signing, self.time)
        known = {self.key(one.selector) for one in self.state}
        coming = {self.key(self.successor(one.selector), later=1) for one in self.state}
        self.absent |= dict.fromkeys((known | coming) - (self.servers[0] & self.servers[1]), self.time)
        for key, sent in self.under_way.items():
            if self.time - sent <= QUEUE:
                assert all(key in server for server in self.servers), f"{key} is needed and is not published"
        for key in self.signing:
            assert self.time - self.absent.get(key, 0) >= HOUR, f"{key} is remembered as missing"

    def decide(self) -> None:
        times = dataclasses.replace(TIMES, clock=CLOCK)
        known = {one.selector for one in self.state}
        self.state = next_step(self.state, self.now, self.look(), times, self.successor)
        for selector in {one.selector for one in self.state} - known:
            self.made[selector] = self.made.get(selector, 0) + 1

    def publish(self, number: int) -> None:
        self.servers[number] = {self.key(one.selector) for one in self.state if one.phase != "removed"}

    def tell(self, number: int) -> None:
        [self.signing[number]] = [self.key(one.selector) for one in self.state if one.phase == "signs"]

    def note(self) -> None:
        before = len(self.state)
        self.state = noted(self.state, self.now, self.look(), applied=True)
        self.rotated += len(self.state) < before

    def run(self, cut_off: int, lagging: bool) -> None:
        """The playbook, whose last steps are missing when it is cut off; a server that lags follows another time."""
        if abs(self.clock) > CLOCK:
            return
        steps = [
            self.decide,
            lambda: self.publish(0),
            lambda: None if lagging else self.publish(1),
            lambda: self.tell(0),
            lambda: self.tell(1),
            self.note,
        ]
        for one in steps[:cut_off]:
            one()
            self.send()
        assert phases(self.state).count("signs") == 1


EVENTS = st.one_of(
    st.tuples(st.just("run"), st.integers(0, 6), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([60, HOUR - 1, HOUR, DAY, 5 * DAY, 8 * DAY, 200 * DAY]), st.just(False)),
    st.tuples(st.just("clock"), st.sampled_from([0, -CLOCK, CLOCK, -DAY, 400 * DAY]), st.just(False)),
)


@pytest.mark.parametrize("names", [(), ("s1", "s2")], ids=["numbered", "slots"])
@given(events=st.lists(EVENTS, min_size=20, max_size=120))
def test_property_every_mail_finds_its_key(names: tuple[str, ...], events: list[tuple[str, int, bool]]) -> None:
    """Cut off anywhere, servers behind, the clock wrong."""
    world = World(names)
    for what, number, lagging in events:
        match what:
            case "run":
                world.run(number, lagging)
            case "wait":
                world.pass_time(number)
            case "clock":
                world.clock = number


@pytest.mark.parametrize("names", [(), ("s1", "s2")], ids=["numbered", "slots"])
def test_run_once_a_day_it_gets_somewhere(names: tuple[str, ...]) -> None:
    world = World(names)
    for _ in range(400):
        world.run(6, lagging=False)
        world.pass_time(DAY)
    assert world.rotated == 2
    assert dataclasses.replace(world.state[0], since=0) == Key("s1" if names else "s3", "signs", 0)
