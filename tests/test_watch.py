"""What a worker sees and remembers: asked for as one, as fresh as whoever asks needs it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest
from redis import Redis

from plateau_sse import tasks
from plateau_sse.live.hub import Hub
from plateau_sse.ops import watch as watch_module
from plateau_sse.ops.canary import Canary
from plateau_sse.ops.watch import Watch
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.figures.workers import Workers
from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs.streams import Streams
from tests.flaky_redis import FlakyRedis
from tests.store import counters, until


@dataclass
class Seat:
    """A watch, with what it counts by; `looks` counts how often it really looked."""

    watch: Watch
    stats: Stats
    looks: int = 0

    async def lately(self, name: str) -> int:
        return (await self.watch.look(within_s=0)).lately[name]


@asynccontextmanager
async def seated(streams_url: str, cache_url: str) -> AsyncIterator[Seat]:
    redis: Any = connect(streams_url, "test")
    cache: Any = connect(cache_url, "test", timeout_s=0.5)
    streams = Streams(redis, alive_s=60, record_s=600)
    stats, workers = Stats(redis), Workers(redis, "web")
    hub = Hub(streams_url, streams, "test-hub")
    canary = Canary(hub, streams, stats)
    watch = Watch(redis, cache, Queue(redis), workers, stats, hub, canary)
    seat = Seat(watch, stats)
    look = watch._look

    async def counted() -> Any:
        seat.looks += 1
        return await look()

    cast(Any, watch)._look = counted
    try:
        yield seat
    finally:
        await redis.aclose()
        await cache.aclose()


@asynccontextmanager
async def remembering(seat: Seat) -> AsyncIterator[None]:
    task = asyncio.create_task(seat.watch.keep_watching(lambda _: None))
    try:
        yield
    finally:
        await tasks.end(task)


def test_however_many_look_the_servers_are_asked_once(streams_url: str, cache_url: str) -> None:
    async def scenario() -> None:
        async with seated(streams_url, cache_url) as seat:
            found = await asyncio.gather(*(seat.watch.look() for _ in range(50)))
            assert seat.looks == 1
            assert all(one is found[0] for one in found)
            assert await seat.watch.look() is found[0]
            # One who must know how it is now is not content with that.
            assert await seat.watch.look(within_s=0) is not found[0]
            assert seat.looks == 2

    asyncio.run(scenario())


def test_nobody_is_given_a_look_from_before_the_runner_had_come(
    streams_url: str, cache_url: str
) -> None:
    """While a service comes up: a minute later it would be as fresh as any."""

    async def scenario() -> None:
        async with seated(streams_url, cache_url) as seat, remembering(seat):
            before = await seat.watch.look()
            assert before.depth is not None and before.depth.runners == 0
            with Redis.from_url(streams_url) as redis:
                redis.zadd(keys.QUEUE.runners, {"box:8000:1": time.time() * 1000})
            after = await seat.watch.look()
            assert after.depth is not None and after.depth.runners == 1

    asyncio.run(scenario())


def test_who_asks_how_it_is_now_is_not_told_how_it_was(
    streams_url: str, cache_url: str
) -> None:
    """Another look is under way, slowly, since the cache does not answer: what it has read may
    be older than what another worker has said meanwhile."""

    async def scenario() -> None:
        async with FlakyRedis(cache_url) as flaky, seated(streams_url, flaky.url) as seat:
            await seat.watch.look()
            await flaky.go_away()
            early = asyncio.create_task(seat.watch.look(within_s=0))

            async def has_read() -> bool:
                return seat.looks == 2 and flaky.refused > 0

            await until(has_read, "the slow look is under way")
            seat.stats.count("cache_hits", 5)
            now = [asyncio.create_task(seat.watch.look(within_s=0)) for _ in range(20)]
            found = await asyncio.gather(*now)
            counted = [
                sum(hits.get("cache_hits", 0) for hits in one.by_host.values()) for one in found
            ]
            assert counted == [5] * 20
            assert all(one.cache != "" and not isinstance(one.cache, dict) for one in found)
            # They shared one.
            assert seat.looks == 3
            await early

    asyncio.run(scenario())


def test_runners_disagree_where_that_is_no_deploy(streams_url: str, cache_url: str) -> None:
    async def scenario() -> None:
        async with seated(streams_url, cache_url) as seat:
            redis: Any = connect(streams_url, "test-runners")

            async def apart(*, later: bool = False) -> Any:
                if later:
                    seat.watch._apart_since["notes"] -= watch_module.OVERLAP_S
                return (await seat.watch.look(within_s=0)).apart

            queue = Queue(redis)
            await queue.take("one", ["notes@1", "words@1"], 0)
            await queue.take("two", ["notes@2", "words@1"], 0)
            # They may be about to take turns.
            assert await apart() == {}
            assert await apart(later=True) == {"notes": {"1": ["one"], "2": ["two"]}}
            await queue.hand_back("one", [])
            assert await apart() == {}
            await queue.take("one", ["notes@1"], 0)
            assert await apart() == {}
            await redis.aclose()

    asyncio.run(scenario())


def test_what_is_counted_is_compared_with_a_minute_ago(
    streams_url: str, cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "REPORT_S", 0.05)
    monkeypatch.setattr(watch_module, "WINDOW_S", 0.5)

    async def scenario() -> None:
        async with seated(streams_url, cache_url) as seat, remembering(seat):
            seat.stats.count("cache_hits", 100)
            assert (await counters(seat.stats))["cache_hits"] == 100

            async def passed() -> bool:
                return await seat.lately("cache_hits") == 0

            await until(passed, "what was counted before has passed")
            began = time.monotonic()
            seat.stats.count("cache_hits", 7)
            assert await seat.lately("cache_hits") == 7
            await until(passed, "that has passed, too")
            assert time.monotonic() - began > 0.3
            assert len(seat.watch._samples) <= 11

    asyncio.run(scenario())


def test_what_was_not_seen_was_not_nothing(
    streams_url: str, cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that was away has not counted everything in the last minute."""
    monkeypatch.setattr(watch_module, "REPORT_S", 0.05)
    monkeypatch.setattr(watch_module, "WINDOW_S", 0.5)

    async def scenario() -> None:
        async with (
            FlakyRedis(streams_url) as streams,
            FlakyRedis(cache_url) as cache,
            seated(streams.url, cache.url) as seat,
        ):
            seat.stats.count("cache_hits", 100)
            await seat.stats.flush()
            async with remembering(seat):
                await asyncio.gather(streams.go_away(), cache.go_away())

                gone_at = time.monotonic()

                async def blind() -> bool:
                    await seat.watch.look(within_s=0)
                    # Longer than the window.
                    return time.monotonic() - gone_at > 0.7

                await until(blind, "nothing has been seen for a while")
                away = await seat.watch.look(within_s=0)
                assert (away.depth, away.by_host, away.workers) == (None, {}, [])
                assert away.lately == {} and isinstance(away.streams, str)
                streams.come_back()
                cache.come_back()

                async def sees() -> bool:
                    now = await seat.watch.look(within_s=0)
                    assert now.lately["cache_hits"] == 0
                    return now.depth is not None and isinstance(now.cache, dict)

                await until(sees, "it sees again")
                for _ in range(20):
                    await sees()

    asyncio.run(scenario())


def test_a_server_that_began_anew_has_evicted_nothing(streams_url: str, cache_url: str) -> None:
    async def scenario() -> None:
        async with seated(streams_url, cache_url) as seat:
            seen = await seat.watch.look()
            assert isinstance(seen.cache, dict)
            before = watch_module._sample(
                seen._replace(cache={**seen.cache, "evicted_keys": 50})
            )
            after = watch_module._sample(seen._replace(cache={**seen.cache, "evicted_keys": 2}))
            assert watch_module._grown(before, after)["cache_evicted_keys"] == 0
            assert watch_module._grown(after, before)["cache_evicted_keys"] == 48
            away = watch_module._sample(seen._replace(cache="away"))
            assert watch_module._grown(away, after)["cache_evicted_keys"] == 0

    asyncio.run(scenario())
