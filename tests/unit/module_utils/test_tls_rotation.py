"""From one key of a certificate to the next: whoever goes by DNS finds the key that is shown, whatever happens."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from module_utils.tls_rotation import Keys, Known, Seen, Times, is_due, noted, story

DAY, HOUR = 86400, 3600
TIMES = Times(used=365 * DAY)
CLOCK = 300  # seconds by which the clock may be wrong; with more nothing is done
KEYS = Keys("a" * 64, "b" * 64)
SHOWN = Seen(cached=HOUR)
LATE = Seen("ns2 does not show them", HOUR)


def test_from_seen_to_due() -> None:
    known = noted(None, KEYS, 0, LATE)
    assert known == Known(KEYS.used, 0, KEYS.following, None)
    assert not is_due(known, KEYS, 365 * DAY, SHOWN, TIMES)
    known = noted(known, KEYS, 365 * DAY, SHOWN)
    assert known.shown == 365 * DAY
    assert noted(known, KEYS, 366 * DAY, SHOWN) == known
    assert not is_due(known, KEYS, 365 * DAY + 2 * HOUR - 1, SHOWN, TIMES)
    assert is_due(known, KEYS, 365 * DAY + 2 * HOUR, SHOWN, TIMES)


def test_a_key_that_a_server_loses_begins_anew() -> None:
    known = Known(KEYS.used, 0, KEYS.following, 0)
    known = noted(known, KEYS, 400 * DAY, LATE)
    assert known.shown is None
    known = noted(known, KEYS, 401 * DAY, SHOWN)
    assert not is_due(known, KEYS, 401 * DAY + HOUR, SHOWN, TIMES)


@pytest.mark.parametrize("changed", [Keys("b" * 64, "c" * 64), Keys("a" * 64, "c" * 64)])
def test_another_next_key_is_not_shown_yet(changed: Keys) -> None:
    known = noted(Known(KEYS.used, 0, KEYS.following, 0), changed, 9 * DAY, SHOWN)
    assert known.shown == 9 * DAY
    assert known.since == (0 if changed.used == KEYS.used else 9 * DAY)


@pytest.mark.parametrize("keys", [Keys(KEYS.used, KEYS.following, former=True), Keys(KEYS.used, KEYS.used)])
def test_what_a_run_has_begun_is_ended_first(keys: Keys) -> None:
    known = Known(keys.used, 0, keys.following, 0)
    assert not is_due(known, keys, 999 * DAY, SHOWN, TIMES)


def test_a_clock_that_may_be_wrong_makes_it_wait_longer() -> None:
    known, times = Known(KEYS.used, 0, KEYS.following, 0), Times(0, clock=300)
    assert not is_due(known, KEYS, 2 * HOUR + 599, SHOWN, times)
    assert is_due(known, KEYS, 2 * HOUR + 600, SHOWN, times)


def test_the_story_says_what_is_waited_for_and_until_when() -> None:
    def told(shown: int | None, seen: Seen = SHOWN, former: bool = False, due: bool = False) -> str:
        known = Known(KEYS.used, 0, KEYS.following, shown)
        return story(known, Keys(KEYS.used, KEYS.following, former), seen, TIMES, due)

    used = "key aaaaaaaa is used until 1971-01-01 00:00 UTC"
    assert told(0) == f"{used}; bbbbbbbb can take its place from 1970-01-01 02:00 UTC"
    assert told(None, LATE) == f"{used}; bbbbbbbb waits until all name servers show both (ns2 does not show them)"
    assert told(0, former=True).startswith(f"{used}; the former one is taken out of DNS; bbbbbbbb")
    assert told(0, due=True) == "key bbbbbbbb takes the place of aaaaaaaa"


@dataclass
class World:
    """The private authority's files, a mail host, two name servers that follow when they like, and who remembers them.

    A key is the how manyth it is. remembered: each set of keys with when a server was last seen to show it.
    """

    used: float = DAY  # as Times has it
    time: int = 1000 * DAY
    clock: int = 0
    key: int = 1
    following: int = 2
    former: int = 0
    made: int = 2
    served: int = 1
    servers: list[frozenset[int]] = field(default_factory=lambda: [frozenset({1, 2})] * 2)
    remembered: dict[frozenset[int], int] = field(default_factory=dict)
    known: Known | None = None
    due: bool = False
    rolled: int = 0

    @property
    def now(self) -> int:
        return self.time + self.clock

    @property
    def keys(self) -> Keys:
        return Keys(str(self.key), str(self.following), bool(self.former))

    def published(self) -> frozenset[int]:
        return frozenset({self.key, self.following, self.former} - {0})

    def look(self) -> Seen:
        both = all({self.key, self.following} <= server for server in self.servers)
        return SHOWN if both else LATE

    def check(self) -> None:
        """Everybody asks at every moment, some by a resolver that asks another one."""
        self.remembered |= dict.fromkeys(self.servers, self.time)
        for keys, last in self.remembered.items():
            if self.time - last < 2 * HOUR:
                assert self.served in keys, f"{self.served} is shown, and somebody knows only {sorted(keys)}"

    def pass_time(self, seconds: int) -> None:
        self.check()
        self.time += seconds
        self.check()

    def decide(self) -> None:
        """What the module does; a kill between the two steps is `half`."""
        self.half()
        if self.former == self.key and self.due:
            self.key, self.following = self.following, 0
            self.rolled += 1

    def half(self) -> None:
        self.due = False
        if not self.following:
            return
        if self.former == self.key:  # killed there
            self.former = 0
        seen = self.look()
        self.known = noted(self.known, self.keys, self.now, seen)
        self.due = is_due(self.known, self.keys, self.now, seen, Times(self.used, CLOCK))
        if self.due:
            self.former = self.key

    def make(self) -> None:
        if not self.following:
            self.made += 1
            self.following = self.made

    def deploy(self) -> None:
        self.served = self.key

    def publish(self, number: int) -> None:
        self.servers[number] = self.published()

    def note(self) -> None:
        self.former = 0
        self.known = noted(self.known, self.keys, self.now, self.look())

    def run(self, cut_off: int, lagging: bool) -> None:
        """The playbook, whose last steps are missing when it is cut off; a server that lags follows another time."""
        if abs(self.clock) > CLOCK:
            return
        steps = [
            self.half if cut_off == 1 else self.decide,
            self.make,
            self.deploy,
            lambda: self.publish(0),
            lambda: None if lagging else self.publish(1),
            self.note,
        ]
        for one in steps[:cut_off]:
            one()
            self.check()


EVENTS = st.one_of(
    st.tuples(st.just("run"), st.sampled_from([0, 1, 2, 3, 4, 5, 6, 6, 6, 6]), st.booleans()),
    st.tuples(st.just("publish"), st.integers(0, 1), st.just(False)),  # others of site.yml, whenever
    st.tuples(st.just("deploy"), st.just(0), st.just(False)),
    st.tuples(st.just("wait"), st.sampled_from([60, 2400, HOUR, 2 * HOUR, DAY, DAY]), st.just(False)),
    st.tuples(st.just("clock"), st.sampled_from([0, 0, -CLOCK, CLOCK, -DAY, DAY]), st.just(False)),
)


@pytest.mark.parametrize("used", [0, DAY])
@settings(max_examples=200)
@given(events=st.lists(EVENTS, min_size=20, max_size=120))
def test_property_the_key_that_is_shown_is_known(used: int, events: list[tuple[str, int, bool]]) -> None:
    """Cut off anywhere, servers behind, the clock wrong."""
    world = World(used)
    for what, number, lagging in events:
        match what:
            case "run":
                world.run(number, lagging)
            case "publish":
                world.publish(number)
            case "deploy":
                world.make()
                world.deploy()
            case "wait":
                world.pass_time(number)
            case "clock":
                world.clock = number
        world.check()


def test_run_once_a_day_it_gets_somewhere() -> None:
    world = World(used=365 * DAY)
    for _ in range(3 * 366):
        world.run(6, lagging=False)
        world.pass_time(DAY)
    assert (world.rolled, world.served, world.former) == (3, 4, 0)
    assert world.servers == [frozenset({4, 5})] * 2
