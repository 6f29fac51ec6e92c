"""The tape through the real store: however it is read, every reader ends with the same parts.

A run is appended to, claimed anew, trimmed and ended, and its store comes back without what
came last, while readers come from wherever they are, in pieces of every size, and go again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

from plateau_sse.errors import StoreError
from plateau_sse.store.runs import appending, looks, reading
from plateau_sse.store.runs.streams import Streams
from tests.conftest import assert_all_have_a_life, end_server, start_server
from tests.tape_machine import CRAMPED, drive


def test_every_reader_ends_with_the_same_parts(streams_url: str) -> None:
    drive(streams_url)


@pytest.fixture
def other_url(tmp_path: Path) -> Iterator[str]:
    """A server of the other kind than the bundled one."""
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server on the PATH")
    server = start_server("streams", tmp_path, "redis-server")
    try:
        yield server.url
        with server.client() as client:
            assert_all_have_a_life(client)
    finally:
        end_server(server)


def test_and_so_on_the_other_engine(other_url: str) -> None:
    drive(other_url, settings(CRAMPED, max_examples=25))


# Broken on purpose: each of these changes is found

# The same examples each time: enough to find what is broken, and no more.
BROKEN = settings(
    CRAMPED, max_examples=150, derandomize=True, database=None, phases=[Phase.generate]
)
CHANGES = {
    "an opening that is not counted": (
        appending.SCRIPT,
        "opened, opened + 1, points + 1, at + 1",
        "opened, opened + 1, points + 1, at",
    ),
    "a mark that is not kept": (
        appending.SCRIPT,
        "redis.call('XADD', marks, prefix .. at, 'n', points, 'm', json)",
        "if op == 'e' then redis.call('XADD', marks, prefix .. at, 'n', points, 'm', json) end",
    ),
    "a mark that is counted twice": (
        looks._READ,
        "passed = tonumber(last[2][2])",
        "passed = tonumber(last[2][2]) + 1",
    ),
    "a piece that ends too early": (looks._READ, "start, until_ - 1)", "start, until_ - 2)"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_broken_on_purpose_is_found(streams_url: str, what: str) -> None:
    script, text, other = CHANGES[what]
    assert script.count(text) == 1

    def change(redis: Any, store: Streams) -> None:
        broken = redis.register_script(script.replace(text, other))
        if script is looks._READ:
            store._read = broken
        else:
            store._writing._append = broken

    with pytest.raises((AssertionError, ValueError, StoreError)):
        drive(streams_url, BROKEN, change)


def test_a_piece_that_is_cut_inside_a_character_is_found(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "whole_characters", lambda text: text)
    monkeypatch.setattr(looks, "READ_BYTES", 13)
    with pytest.raises(UnicodeDecodeError):
        drive(streams_url, BROKEN)
