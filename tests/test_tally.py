"""Counters in shared memory: what a process has counted survives it, however it ends, and is
added to the store once, whatever becomes of the reply."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from plateau_sse.errors import StoreError
from plateau_sse.store.figures.by_agent import AGENTS_MOST, NAME_BYTES
from plateau_sse.store.figures.stats import (
    CODE_CHARS,
    CODES_MOST,
    FIELDS_MOST,
    HOSTS_MOST,
    TOKENS_MOST,
    Stats,
)
from plateau_sse.store.figures.tally import NAMES, ROWS, Batch, Board, Row
from plateau_sse.store.figures.workers import Workers
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from tests.flaky_redis import FlakyRedis
from tests.store import counters, full, until


def in_child(act: Callable[[], None], number: signal.Signals = signal.SIGKILL) -> None:
    """`act` in a process that is killed right after it."""
    pid = os.fork()
    if not pid:
        try:
            act()
        finally:
            os.kill(os.getpid(), number)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -number


def taken(row: Row) -> dict[str, int]:
    """What it has to send, as if the store had added it."""
    batch = row.batch()
    row.added()
    return {} if batch is None else batch.counts


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
    assert [taken(row) for row in board.left_behind()] == [{"cache_hits": 3000}]
    assert list(board.left_behind()) == []
    assert taken(mine) == {"runs_joined": 2}


def test_who_has_ended_is_told_once() -> None:
    board = Board()
    board.claim()
    assert board.ended() == []
    dead = [_ended_after(board) for _ in range(3)]
    # The first two by those who took their row, who did not live to say so.
    assert board.ended() == dead[2:]
    assert board.ended() == []
    last = _ended_after(board)
    board.claim()
    assert board.ended() == [last]
    assert board.ended() == []


def _ended_after(board: Board) -> int:
    """The pid of one that has claimed a row and was killed."""
    reading, writing = os.pipe()

    def act() -> None:
        board.claim()
        os.write(writing, str(os.getpid()).encode())

    in_child(act)
    pid = int(os.read(reading, 100))
    os.close(reading)
    os.close(writing)
    return pid


def test_a_batch_stays_the_same_until_it_is_added() -> None:
    row = Row()
    assert row.batch() is None
    row.add("cache_hits", 2)
    first = row.batch()
    row.add("cache_hits", 3)
    assert first is not None and first.counts == {"cache_hits": 2}
    assert row.batch() == first
    row.added()
    second = row.batch()
    assert second is not None and second.counts == {"cache_hits": 3}
    assert second.stamp > first.stamp
    row.added()
    assert row.batch() is None


def test_who_is_killed_with_a_batch_under_way_leaves_it_under_its_stamp() -> None:
    """Whether the store has it, only the store knows."""
    board = Board()
    reading, writing = os.pipe()

    def send() -> None:
        row = board.claim()
        row.add("cache_hits", 2)
        batch = row.batch()
        assert batch is not None
        os.write(writing, b"%d" % batch.stamp)
        row.add("cache_hits", 3)

    in_child(send)
    (row,) = board.left_behind()
    assert row.batch() == Batch(int(os.read(reading, 20)), {"cache_hits": 2})
    row.added()
    assert taken(row) == {"cache_hits": 3}


def test_a_living_process_row_is_nobody_elses() -> None:
    board = Board()
    reading, writing = os.pipe()
    going, leave = os.pipe()
    pid = os.fork()
    if not pid:
        board.claim().add("readers_slow", 7)
        os.write(writing, b".")
        os.read(going, 1)
        os._exit(0)
    os.read(reading, 1)
    assert list(board.left_behind()) == []
    own = board.claim()
    own.add("readers_slow", 1)
    os.write(leave, b".")
    os.waitpid(pid, 0)
    assert [taken(row) for row in board.left_behind()] == [{"readers_slow": 7}]
    assert taken(own) == {"readers_slow": 1}


def test_more_processes_than_rows_count_in_memory_of_their_own() -> None:
    board = Board()
    rows = [board.claim() for _ in range(ROWS + 5)]
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        row.add("cache_misses")
    assert [taken(row) for row in rows] == [{"cache_misses": 1}] * (ROWS + 5)


def test_what_the_master_counts_any_of_the_others_sends() -> None:
    board = Board()
    board.died("workers_died")
    seen, tell = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(tell, repr([taken(row) for row in board.left_behind()]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(seen, 100) == b"[{'workers_died': 1}]"
    assert list(board.left_behind()) == []
    board.died("workers_died")
    assert [taken(row) for row in board.left_behind()] == [{"workers_died": 1}]


def test_a_histogram_counts_each_value_in_one_bucket() -> None:
    row = Row()
    for seconds in (0.0004, 0.001, 0.0011, 3.0, 100.0):
        row.observe("event_lag", seconds)
    counts = taken(row)
    assert counts.pop("event_lag_us") == 103_002_500
    assert counts == {"event_lag_0": 2, "event_lag_1": 1, "event_lag_9": 1, "event_lag_10": 1}


def test_what_a_killed_process_counted_of_agents_is_theirs() -> None:
    """Each has its places in another order."""
    board = Board()

    def count(*agents: str) -> None:
        row = board.claim()
        for number, agent in enumerate(agents, 1):
            row.add_of(agent, "completed", number)

    in_child(lambda: count("a", "b:c"))
    in_child(lambda: count("b:c", "ü" * (NAME_BYTES // 2), "a"))
    (row,) = board.left_behind()
    assert taken(row) == {
        "agent:a:completed": 4,
        "agent:b:c:completed": 3,
        f"agent:{'ü' * (NAME_BYTES // 2)}:completed": 2,
    }


def test_agents_beyond_the_places_are_others() -> None:
    row = Row()
    for number in range(AGENTS_MOST + 3):
        row.add_of(f"a{number}", "completed")
    for name in ("other", "", "x" * (NAME_BYTES + 1), "a\0b"):
        row.add_of(name, "cancelled")
    row.add_of("a0", "a_code_of_its_own")
    counts = taken(row)
    assert counts.pop("agent:other:completed") == 3
    assert counts.pop("agent:other:cancelled") == 4
    assert counts.pop("agent:a0:other") == 1
    assert counts == {f"agent:a{number}:completed": 1 for number in range(AGENTS_MOST)}


def test_an_end_is_counted_for_all_and_for_its_agent(streams_url: str) -> None:
    async def scenario() -> None:
        redis: Any = connect(streams_url, "test")
        try:
            stats = Stats(redis)
            usage = {"input_tokens": 7, "output_tokens": 2**53, "reasoning_tokens": 0}
            stats.count_end("notes", "completed", usage)
            stats.count_end("notes", "cancelled")
            stats.count_end("notes", "timeout")
            stats.count_end("notes", "my_own_code")
            assert await counters(stats) == {
                "runs_completed": 1,
                "runs_cancelled": 1,
                "runs_failed_timeout": 1,
                "runs_failed_other": 1,
                "agent:notes:completed": 1,
                "agent:notes:cancelled": 1,
                "agent:notes:timeout": 1,
                "agent:notes:other": 1,
                "agent:notes:input_tokens": 7,
                "agent:notes:output_tokens": TOKENS_MOST,
            }
        finally:
            await redis.aclose()

    asyncio.run(scenario())


def test_codes_of_agents_own_are_named_and_bounded(streams_url: str) -> None:
    async def scenario() -> None:
        redis: Any = connect(streams_url, "test")
        try:
            one, other = Stats(redis), Stats(redis)
            for stats in (one, other):
                for end in ("completed", "timeout", "overcast", "c" * (CODE_CHARS + 1)):
                    stats.count_end("notes", end)
                await stats.flush()
                await stats.flush()
            assert await one.own_failures() == {"overcast": 2}
            assert await redis.ttl(keys.own_failures()) > 0
            for stats in (one, other):
                for number in range(CODES_MOST):
                    stats.count_end("notes", f"code_of_{id(stats)}_{number}")
                stats.count_end("notes", "overcast")
                await stats.flush()
            found = await one.own_failures()
            # What a process has in hand is bounded, too: the last one found no place there.
            assert len(found) == CODES_MOST and found["overcast"] == 2
        finally:
            await redis.aclose()

    asyncio.run(scenario())


def test_the_agents_of_a_host_are_bounded(streams_url: str) -> None:
    """Each process may have called its own as it likes."""

    async def scenario() -> None:
        redis: Any = connect(streams_url, "test")
        try:
            key = keys.stats(socket.gethostname())
            await redis.hset(
                key, mapping={f"agent:{n}:completed": 1 for n in range(FIELDS_MOST)}
            )
            await redis.expire(key, 60)
            stats = Stats(redis)
            stats.count_end("late", "completed")
            stats.count_end("5", "completed")
            await stats.flush()
            fields = await redis.hgetall(key)
            assert b"agent:late:completed" not in fields
            assert fields[b"agent:other:completed"] == b"1"
            assert fields[b"agent:5:completed"] == fields[b"runs_completed"] == b"2"
        finally:
            await redis.aclose()

    asyncio.run(scenario())


def test_hosts_add_up_and_only_grow(streams_url: str) -> None:
    async def scenario() -> None:
        redis = connect(streams_url, "test")
        board = Board()
        try:
            stats = Stats(redis, board)
            stats.count("cache_hits", 5)
            assert (await counters(stats))["cache_hits"] == 5
            # A failure whose code is an agent's own, and one that does not exist.
            stats.count("runs_failed_my_own_code")
            with pytest.raises(KeyError):
                stats.count("cache_hit")
            in_child(lambda: board.claim().add("cache_hits", 7))
            totals = await counters(stats)
            assert (totals["cache_hits"], totals["runs_failed_other"]) == (12, 1)
            assert await counters(stats) == totals
        finally:
            await redis.aclose()

    asyncio.run(scenario())


def test_a_store_that_is_away_costs_no_count(streams_url: str) -> None:
    async def scenario() -> None:
        async with FlakyRedis(streams_url) as flaky:
            redis = connect(flaky.url, "test")
            stats = Stats(redis)
            await flaky.go_away()
            for _ in range(2):
                stats.count("cache_hits", 5)
                with pytest.raises(StoreError):
                    await stats.flush()
            flaky.come_back()
            assert (await counters(stats))["cache_hits"] == 10
            await redis.aclose()

    asyncio.run(scenario())


def test_a_reply_that_was_lost_counts_nothing_twice(streams_url: str) -> None:
    async def scenario() -> None:
        async with FlakyRedis(streams_url) as flaky:
            redis = connect(flaky.url, "test")
            stats = Stats(redis)
            stats.count("cache_hits", 5)
            # The call and its retry: done by Redis, and nobody knows.
            flaky.lose_replies(2)
            with pytest.raises(StoreError):
                await stats.flush()
            assert flaky.lost == 2
            stats.count("cache_hits", 2)
            assert (await counters(stats))["cache_hits"] == 7
            await redis.aclose()

    asyncio.run(scenario())


def test_a_look_that_is_given_up_loses_no_count(streams_url: str) -> None:
    """Whoever looks has two seconds' patience with a store that is frozen."""

    async def scenario() -> None:
        async with FlakyRedis(streams_url) as flaky:
            redis = connect(flaky.url, "test")
            stats = Stats(redis)
            # The server learns the script: its reply that it does not know it would be held.
            stats.count("cache_misses")
            await stats.flush()
            stats.count("cache_hits", 5)
            flaky.hold_replies()
            looking = asyncio.create_task(stats.by_host())
            await until(lambda: arrived(streams_url), "the store has it")
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            flaky.go_on()
            assert (await counters(stats))["cache_hits"] == 5
            await redis.aclose()

    async def arrived(url: str) -> object:
        looking = connect(url, "looking")
        try:
            return await looking.hget(keys.stats(socket.gethostname()), "cache_hits")
        finally:
            await looking.aclose()

    asyncio.run(scenario())


def test_who_sends_for_the_dead_sends_nothing_twice(streams_url: str) -> None:
    board = Board()

    def send_and_die() -> None:
        async def sending() -> None:
            stats = Stats(connect(streams_url, "test"), board)
            stats.count("cache_hits", 5)
            row: Any = stats._row
            row.added = lambda: os.kill(os.getpid(), signal.SIGKILL)
            await stats.flush()

        asyncio.run(sending())

    async def scenario() -> None:
        redis: Any = connect(streams_url, "test")
        stats = Stats(redis, board)
        assert await redis.hget(keys.stats(stats._host), "cache_hits") == b"5"
        assert (await counters(stats))["cache_hits"] == 5
        await redis.aclose()

    in_child(send_and_die)
    asyncio.run(scenario())


def test_a_full_store_is_told_all_the_same(streams_url: str) -> None:
    async def scenario() -> None:
        redis = connect(streams_url, "test")
        try:
            stats, workers = Stats(redis), Workers(redis, "web")
            stats.count("runs_refused_store_full", 5)
            await workers.report({"open": 3})
            assert (await counters(stats))["runs_refused_store_full"] == 5
            assert [worker["open"] for worker in await workers.all()] == [3]
        finally:
            await redis.aclose()

    with full(streams_url):
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
