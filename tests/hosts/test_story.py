"""The story of the demo, asserted step by step on the real hosts."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.story import ROOT, Hosts, Story

pytestmark = pytest.mark.hosts


@pytest.fixture
def story() -> Iterator[Story]:
    hosts = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
    with hosts.names(), contextlib.closing(Story(hosts, subject=f"Ten chairs {uuid.uuid4().hex[:8]}")) as story:
        yield story


def test_the_whole_story_comes_true(story: Story) -> None:
    for title, step in story.steps():
        print(f"{title}: {step()}")


def test_a_reply_to_catchall_reaches_a_thread_that_has_no_alias(story: Story) -> None:
    story.reply_to(f"{story.hosts.domain['catchall']}@{story.hosts.domain['name']}")
