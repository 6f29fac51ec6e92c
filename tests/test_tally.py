"""Counters in shared memory: what a process has counted survives it, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from service.store import keys
from service.store.connections import connect
from service.store.stats import HOSTS_MOST, Stats
from service.store.tally import NAMES, ROWS, Board, Row


def in_child(act: Callable[[], None], number: signal.Signals = signal.SIGKILL) -> None:
    """`act` in a process that is killed right after it."""
    pid = os.fork()
    if not pid:
        try:
            act()
        finally:
            os.kill(os.getpid(), number)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -number


def test_what_a_killed_process_counted_is_left_behind_once() -> None:
    board = Board()
    mine = board.claim()
    mine.add("runs_joined", 2)

    def count() -> None:
        row = board.claim()
        for _ in range(1000):
            row.add("cache_hits")

    for _ in range(3):
        in_child(count)
    # Each took the row of the one before, with what was in it.
    assert [row.take() for row in board.left_behind()] == [{"cache_hits": 3000}]
    assert list(board.left_behind()) == []
    assert mine.take() == {"runs_joined": 2}


def test_a_living_process_row_is_nobody_elses() -> None:
    board = Board()
    reading, writing = os.pipe()
    going, leave = os.pipe()
    pid = os.fork()
    if not pid:
        board.claim().add("snapshots", 7)
        os.write(writing, b".")
        os.read(going, 1)
        os._exit(0)
    os.read(reading, 1)
    assert list(board.left_behind()) == []
    own = board.claim()
    own.add("snapshots", 1)
    os.write(leave, b".")
    os.waitpid(pid, 0)
    assert [row.take() for row in board.left_behind()] == [{"snapshots": 7}]
    assert own.take() == {"snapshots": 1}


def test_more_processes_than_rows_count_in_memory_of_their_own() -> None:
    board = Board()
    rows = [board.claim() for _ in range(ROWS + 5)]
    for row in rows:
        row.add("cache_misses")
    assert [row.take() for row in rows] == [{"cache_misses": 1}] * (ROWS + 5)


def test_the_masters_count_is_seen_by_all() -> None:
    board = Board()
    board.died("workers_died")
    seen, tell = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(tell, b"%d" % board.deaths["workers_died"])
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(seen, 10) == b"1"


def test_a_histogram_counts_each_value_in_one_bucket() -> None:
    row = Row()
    for seconds in (0.0004, 0.001, 0.0011, 3.0, 100.0):
        row.observe("event_lag", seconds)
    taken = row.take()
    assert taken.pop("event_lag_us") == 103_002_500
    assert taken == {"event_lag_0": 2, "event_lag_1": 1, "event_lag_9": 1, "event_lag_10": 1}


def test_hosts_add_up_and_only_grow(streams_url: str) -> None:
    async def scenario() -> None:
        redis = connect(streams_url, "test")
        board = Board()
        try:
            stats = Stats(redis, board)
            stats.count("cache_hits", 5)
            assert (await stats.totals())["cache_hits"] == 5
            # A failure whose code is an agent's own, and one that does not exist.
            stats.count("runs_failed_my_own_code")
            with pytest.raises(KeyError):
                stats.count("cache_hit")
            in_child(lambda: board.claim().add("cache_hits", 7))
            totals = await stats.totals()
            assert (totals["cache_hits"], totals["runs_failed_other"]) == (12, 1)
            assert await stats.totals() == totals
        finally:
            await redis.aclose()

    asyncio.run(scenario())


def test_a_store_that_is_away_costs_no_count(streams_url: str) -> None:
    async def scenario() -> None:
        redis = connect(streams_url, "test")
        away = connect("redis://127.0.0.1:1/0", "test")
        try:
            stats = Stats(away)
            stats.count("cache_hits", 5)
            for _ in range(2):
                with pytest.raises(Exception, match="1"):
                    await stats.flush()
            stats._redis = redis
            assert (await stats.totals())["cache_hits"] == 5
        finally:
            await redis.aclose()
            await away.aclose()

    asyncio.run(scenario())


def test_the_hosts_are_bounded(streams_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        redis = connect(streams_url, "test")
        try:
            for number in range(HOSTS_MOST + 3):
                monkeypatch.setattr("socket.gethostname", lambda number=number: f"h{number}")
                stats = Stats(redis)
                stats.count("cache_hits")
                await stats.flush()
            assert len(await stats.by_host()) == HOSTS_MOST
            assert await redis.ttl(keys.HOSTS) > 0
        finally:
            await redis.aclose()

    asyncio.run(scenario())


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)
