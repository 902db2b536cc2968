"""Figures for Prometheus."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from fetch_and_route.config import Config, Database, Mailbox
from fetch_and_route.metrics import FILE, TOTALS, Folders, Tally, kind_of, look, render, write
from fetch_and_route.trouble import Denied, Misconfigured, Trouble, Unavailable

NOW = 1700000000
LABELS = {"mailbox": "prod", "database": "prod"}
HELD = Folders(NOW - 10, 3, NOW - 90, 120, 2)
SAMPLE = re.compile(r'fetch_and_route_(\w+)\{((?:[a-z]+="(?:[^"\\\n]|\\[\\"n])*",?)+)\} (\d+(?:\.\d+)?)')


def samples(lines: list[str]) -> dict[str, float]:
    """Read the text format strictly: each metric's HELP and TYPE stand before its samples, and each sample is once."""
    found: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for line in lines:
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            kinds[name.removeprefix("fetch_and_route_")] = kind
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            name, labels, value = match.groups()
            assert name in kinds or kinds[re.sub("_(sum|count)$", "", name)] == "summary"
            assert f"{name}{{{labels}}}" not in found
            found[f"{name}{{{labels}}}"] = float(value)
    return found


def config(tmp_path: Path, *names: str) -> Config:
    for name in ("state", "metrics"):
        (tmp_path / name).mkdir(exist_ok=True)
    database = Database(name="odoo", url="https://odoo.example.com", protocol="json2", login="g", key="k", action=7)
    mailboxes = (Mailbox(name=name, database="odoo", host="h", login="l", password="p") for name in names)
    return Config(
        databases=(database,),
        mailboxes=tuple(mailboxes),
        state_directory=str(tmp_path / "state"),
        metrics_directory=str(tmp_path / "metrics"),
    )


def published(config: Config) -> dict[str, float]:
    text = (Path(config.metrics_directory) / FILE).read_text()
    assert text.endswith("\n")
    return samples(text.splitlines())


def test_every_figure_is_there_with_its_labels() -> None:
    tally = Tally(Counter(routed=4, refused=1), Counter(unavailable=2), 1.25, NOW - 5, HELD)
    found = samples(list(render([(LABELS, tally)], NOW)))
    at = 'mailbox="prod",database="prod"'
    assert found.pop(f"waiting_messages{{{at}}}") == 3
    assert found.pop(f"oldest_waiting_seconds{{{at}}}") == 90
    assert found.pop(f"routed_messages{{{at}}}") == 120
    assert found.pop(f"quarantine_messages{{{at}}}") == 2
    assert found.pop(f"looked_timestamp_seconds{{{at}}}") == NOW - 10
    assert found.pop(f'verdicts_total{{{at},verdict="routed"}}') == 4
    assert found.pop(f'verdicts_total{{{at},verdict="refused"}}') == 1
    assert found.pop(f'failures_total{{{at},reason="unavailable"}}') == 2
    assert found.pop(f"message_seconds_sum{{{at}}}") == 1.25
    assert found.pop(f"message_seconds_count{{{at}}}") == 5
    assert found.pop(f"last_success_timestamp_seconds{{{at}}}") == NOW - 5
    assert set(found.values()) == {0}, "what has not happened yet is there as 0"
    assert f'verdicts_total{{{at},verdict="error"}}' in found
    assert f'failures_total{{{at},reason="denied"}}' in found


def test_nothing_waits_since_nothing() -> None:
    found = samples(list(render([(LABELS, Tally(folders=HELD._replace(waiting=0, oldest=None)))], NOW)))
    assert found['oldest_waiting_seconds{mailbox="prod",database="prod"}'] == 0


def test_an_age_that_nobody_knows_is_no_figure() -> None:
    lines = list(render([(LABELS, Tally(folders=HELD._replace(oldest=None)))], NOW))
    assert samples(lines)['waiting_messages{mailbox="prod",database="prod"}'] == 3
    assert not [line for line in lines if line.startswith("fetch_and_route_oldest_waiting_seconds{")]


def test_names_are_quoted() -> None:
    lines = list(render([({"mailbox": 'a"\\\n', "database": "é"}, Tally())], NOW))
    assert samples(lines)['message_seconds_count{mailbox="a\\"\\\\\\n",database="é"}'] == 0


def test_counts_go_on_from_run_to_run(tmp_path: Path) -> None:
    both = config(tmp_path, "prod", "test")
    write(both, {"prod": Tally(Counter(routed=4), Counter(), 0.5, NOW, HELD)}, NOW)
    write(both, {"prod": Tally(Counter(routed=1, error=1), Counter(unavailable=1), 0.25)}, NOW + 300)
    found = published(both)
    prod = 'mailbox="prod",database="odoo"'
    assert found[f'verdicts_total{{{prod},verdict="routed"}}'] == 5
    assert found[f'failures_total{{{prod},reason="unavailable"}}'] == 1
    assert found[f"message_seconds_sum{{{prod}}}"] == 0.75
    assert found[f"last_success_timestamp_seconds{{{prod}}}"] == NOW
    assert found[f"waiting_messages{{{prod}}}"] == 3, "as it was looked at last"
    assert found[f"looked_timestamp_seconds{{{prod}}}"] == NOW - 10
    assert found[f"oldest_waiting_seconds{{{prod}}}"] == 390
    assert found['last_success_timestamp_seconds{mailbox="test",database="odoo"}'] == 0
    assert 'waiting_messages{mailbox="test",database="odoo"}' not in found, "nobody has looked yet"


def test_a_mailbox_that_is_gone_leaves_the_figures(tmp_path: Path) -> None:
    write(config(tmp_path, "prod", "test"), {}, NOW)
    write(config(tmp_path, "prod"), {}, NOW)
    assert not any('mailbox="test"' in name for name in published(config(tmp_path, "prod")))


@pytest.mark.parametrize("content", [b"", b"[]", b'{"prod": {}}', b'{"prod": 1}', b"\xff"])
def test_broken_totals_begin_anew(tmp_path: Path, content: bytes) -> None:
    one = config(tmp_path, "prod")
    (tmp_path / "state" / TOTALS).write_bytes(content)
    write(one, {"prod": Tally(Counter(routed=1))}, NOW)
    assert published(one)['verdicts_total{mailbox="prod",database="odoo",verdict="routed"}'] == 1
    assert json.loads((tmp_path / "state" / TOTALS).read_text())["prod"]["verdicts"] == {"routed": 1}


def test_all_may_read_the_figures_and_nothing_else_lies_about(tmp_path: Path) -> None:
    one = config(tmp_path, "prod")
    directory = Path(one.metrics_directory)
    directory.joinpath("fetch-and-route.new").write_text("left behind by a death")
    before = os.umask(0o077)  # the unit's
    try:
        write(one, {}, NOW)
    finally:
        os.umask(before)
    assert [entry.name for entry in directory.iterdir()] == [FILE]
    assert directory.joinpath(FILE).stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "state" / TOTALS).stat().st_mode & 0o777 == 0o600


def test_the_figures_are_replaced_in_one_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = config(tmp_path, "prod")
    write(one, {}, NOW)
    target = Path(one.metrics_directory) / FILE
    before = target.read_text()

    def die(path: Path, other: Path) -> Path:
        if other == target:
            raise OSError(28, "No space left on device")
        os.replace(path, other)  # noqa: PTH105 - this is Path.replace
        return other

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(Misconfigured, match=r"fetch-and-route\.prom: No space left"):
        write(one, {"prod": Tally(Counter(routed=1))}, NOW)
    assert target.read_text() == before


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    one = config(tmp_path, "prod")
    Path(one.metrics_directory).rmdir()
    with pytest.raises(Misconfigured, match="No such file or directory: run the role"):
        write(one, {}, NOW)


class Gone:
    """A session whose connection has broken."""

    def waiting_since(self) -> tuple[int, int | None]:
        raise Unavailable("broken")

    def size_of(self, _: str) -> int:
        return 0


def test_a_mailbox_that_does_not_answer_is_no_new_trouble() -> None:
    assert look(Gone(), "Routed", "Quarantine") is None


def test_trouble_is_counted_by_what_has_to_happen_next() -> None:
    assert [kind_of(kind("x")) for kind in (Unavailable, Denied, Misconfigured, Trouble)] == [
        "unavailable",
        "denied",
        "misconfigured",
        "other",
    ]
