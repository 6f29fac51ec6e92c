"""Runs of producers outside, in the store: what they cost, and what is repeated of them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from plateau_sse.store.redis import keys, pulse
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.external import PAUSE_S, External
from plateau_sse.store.runs.streams import EXTERNAL, Claimed, Streams
from tests.flaky_redis import FlakyRedis
from tests.store import ALIVE_S, RECORD_S, TOKEN, full, on_streams, text_of, texts, until


async def begun(streams: Streams, redis: Any, external: External) -> str:
    run_id = ids.new_run_id()
    assert await external.admit(run_id, 100)
    await streams.create(run_id, agent=EXTERNAL, owner="ann", token=TOKEN, request=b"{}")
    claimed = await streams.begin(run_id, 1, EXTERNAL, EXTERNAL)
    assert isinstance(claimed, Claimed)
    return run_id


async def silent_for(redis: Any, run_id: str, seconds: int) -> None:
    """As if its last append, and the time to look at it, were so long ago."""
    record = keys.run(run_id).record
    now, _ = await redis.time()
    await redis.hset(record, "lease_ms", (now - seconds) * 1000)
    await redis.zadd(keys.EXTERNAL, {run_id: now - 1})


def test_a_full_store_ends_those_whose_producer_is_silent(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        external = External(redis, idle_s=60)
        dead = await begun(streams, redis, external)
        living = await begun(streams, redis, external)
        await silent_for(redis, dead, 61)
        await silent_for(redis, living, 10)
        with full(streams_url):
            (found,) = await external.silent()
            assert found.run_id == dead
            last = events.failed("producer_lost", "Silent.", retryable=True)
            assert (await streams.end(dead, 1, last)).code == "ok"
            await external.forget(dead)
            # The living is put back under its time, and is in nobody's way.
            now, _ = await redis.time()
            assert await redis.zscore(keys.EXTERNAL, living) > now + 40
            assert await external.silent() == []

    on_streams(streams_url, scenario)


def test_a_pause_of_the_store_ends_nobody(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile no producer could renew its lease: each is given the time to do so."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(pulse, "time", SimpleNamespace(monotonic=lambda: clock.now))

    async def scenario(streams: Streams, redis: Any) -> None:
        external = External(redis, idle_s=60)
        run_id = await begun(streams, redis, external)
        assert await external.silent() == []
        await silent_for(redis, run_id, 61)
        clock.now += PAUSE_S + 1
        assert await external.silent() == []
        for _ in range(12):
            clock.now += 5
            found = await external.silent()
        assert [one.run_id for one in found] == [run_id]

    on_streams(streams_url, scenario)


def test_what_each_of_two_producers_sent_once_is_there_once(streams_url: str) -> None:
    """The first's reply is lost, the second's append comes, and the first's is sent again by
    its connection."""

    async def scenario() -> None:
        async with FlakyRedis(streams_url) as flaky:
            losing = connect(flaky.url, "test", connections=1)
            redis: Any = connect(streams_url, "test")
            first = Streams(losing, alive_s=ALIVE_S, record_s=RECORD_S)
            second = Streams(redis, alive_s=ALIVE_S, record_s=RECORD_S)
            run_id = await begun(second, redis, External(redis, idle_s=60))
            # The script is known, and the connection made.
            await first.append_external(run_id, 1, [])
            flaky.lose_replies(1)
            once = asyncio.create_task(first.append_external(run_id, 1, texts("A")))

            async def is_written() -> bool:
                return await text_of(redis, run_id) == "A"

            await until(is_written, "it is written")
            for _ in range(7):
                # Before the other comes again: it waits a moment before that.
                await second.append_external(run_id, 1, texts("b"))
            assert (await once).code == "dup"
            assert await text_of(redis, run_id) == "Abbbbbbb"
            await losing.aclose()
            await redis.aclose()

    asyncio.run(scenario())


def test_two_calls_that_say_the_same_are_two(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await begun(streams, redis, External(redis, idle_s=60))
        for _ in range(20):
            assert (await streams.append_external(run_id, 1, texts("a"))).code == "ok"
        assert await text_of(redis, run_id) == "a" * 20
        names = (await redis.hget(keys.run(run_id).record, "batch")).split()
        assert len(names) == len(set(names)) == 8

    on_streams(streams_url, scenario)
