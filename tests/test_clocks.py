"""Hosts whose clocks differ: what many of them share is dated by the store.

Invariant of these tests: `skewed` is a host like any other, but for its clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from plateau_sse.serve.worker import PlateauWorker, WorkerServer
from plateau_sse.store.conversations.conversations import asked
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.owners import Owners
from plateau_sse.store.redis import keys
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.streams import EXTERNAL, Streams
from tests.intakes import KEYED, SAID, Desk, at_desk
from tests.store import on_streams
from tests.test_external_runs import begun

BOTH_WAYS = [-3600.0, -5.0, 5.0, 3600.0]


@contextmanager
def skewed(seconds: float) -> Iterator[None]:
    """The wall clock of this host is that far ahead within the block."""
    real, real_ns = time.time, time.time_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + seconds)
        patch.setattr(time, "time_ns", lambda: real_ns() + int(seconds * 1e9))
        yield


@pytest.mark.parametrize("seconds", BOTH_WAYS)
def test_a_living_producer_is_left_alone_by_any_host(streams_url: str, seconds: float) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        with skewed(seconds):
            run_id = await begun(streams, redis, External(redis, idle_s=2))
            await streams.append_external(run_id, 1, [])
        # Whenever it is looked at.
        for look in (seconds, -seconds, 0):
            await redis.zadd(keys.EXTERNAL, {run_id: 1})
            with skewed(look):
                assert await External(redis, idle_s=2).silent() == []
        (lease_ms,) = await redis.hmget(keys.run(run_id).record, "lease_ms")
        now, _ = await redis.time()
        assert abs(int(lease_ms) / 1000 - now) < 2

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("seconds", BOTH_WAYS)
def test_what_a_run_took_is_told_by_one_clock(streams_url: str, seconds: float) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        with skewed(seconds):
            run_id = await begun(streams, redis, External(redis, idle_s=60))
        outline = await streams.outline(run_id)
        assert outline is not None and outline.started_ms is not None
        assert outline.agent == EXTERNAL
        assert 0 <= outline.now_ms - outline.started_ms < 2000

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("seconds", BOTH_WAYS)
def test_a_deleted_conversation_stays_so_whoever_asked(
    streams_url: str, seconds: float
) -> None:
    """Asked at one host, deleted at another; then the answer comes."""

    async def scenario(desk: Desk) -> None:
        with skewed(seconds):
            taken = await desk.intake().take(SAID)
        job = await desk.job(taken.run_id)
        with skewed(-seconds):
            await desk.conversations.delete(SAID.place, remember_s=60)
        said = [asked(taken.run_id, job.messages, "")]
        await desk.conversations.add(SAID.place, said, asked_ms=job.asked_ms)
        assert await desk.conversations.read(SAID.place) == []
        # What is asked after that is added.
        with skewed(-seconds):
            again = await desk.intake().take(SAID._replace(mode="off"))
        (message,) = await desk.conversations.read(SAID.place)
        assert message.run_id == again.run_id

    at_desk(streams_url, "", scenario)


@pytest.mark.parametrize("seconds", [-601.0, -0.05, 0.05, 601.0])
def test_an_idempotent_request_is_one_run_at_any_host(streams_url: str, seconds: float) -> None:
    """Also around a window's edge, which is 600 s long."""

    async def scenario(desk: Desk) -> None:
        now = time.time()
        edge = (now // 600 + 1) * 600 - now
        # To one of the two the next window has begun.
        with skewed(edge + 0.02):
            first = await desk.intake().take(KEYED)
        with skewed(edge + 0.02 + seconds):
            second = await desk.intake().take(KEYED)
        assert first.run_id == second.run_id
        assert len(await desk.queued()) == 1

    at_desk(streams_url, "", scenario)


@pytest.mark.parametrize("seconds", BOTH_WAYS)
def test_an_owners_runs_count_at_any_host(streams_url: str, seconds: float) -> None:
    async def scenario(desk: Desk) -> None:
        owners = Owners(desk.redis, most=2, life_s=60)
        for _ in range(2):
            taken = await desk.intake(owners=owners).take(SAID._replace(mode="off"))
            assert taken.how == "miss"
        with skewed(seconds):
            assert (await owners.room("ann", "0" * 32)).is_full
        assert await desk.redis.ttl(keys.owner("ann")) > 50

    at_desk(streams_url, "", scenario)


@pytest.mark.parametrize("seconds", [-2 * 86_400.0, 2 * 86_400.0])
def test_counters_of_all_hosts_are_there_whatever_ones_clock(
    streams_url: str, seconds: float
) -> None:
    async def scenario(_: Streams, redis: Any) -> None:
        one, other = Stats(redis), Stats(redis)
        one._host, other._host = "one", "other"
        one.count("cache_hits")
        await one.flush()
        with skewed(seconds):
            other.count("cache_hits")
            await other.flush()
        assert set(await one.by_host()) == {"one", "other"}

    on_streams(streams_url, scenario)


def test_a_worker_beats_though_the_wall_clock_is_set_back() -> None:
    """gunicorn counts its silence by a clock that is never set."""
    beats: list[float] = []

    async def wrong() -> None:
        raise AssertionError("a beat that goes by the wall clock")

    # As the worker's base makes it: its own wishes first, ours over them.
    options: dict[str, Any] = {"callback_notify": wrong, "timeout_notify": 0}
    options |= PlateauWorker.CONFIG_KWARGS
    config = uvicorn.Config(app="", log_config=None, **options)
    worker: Any = SimpleNamespace(
        cfg=SimpleNamespace(graceful_timeout=10),
        max_requests=10**9,
        min_age_s=60.0,
        ppid=-1,
        notify=lambda: beats.append(time.monotonic()),
    )

    async def scenario() -> None:
        server = WorkerServer(config, worker)
        server.should_exit = False
        for seconds in (0, -3600):
            with skewed(seconds):
                await server.on_tick(0)
                server.should_exit = False

    asyncio.run(scenario())
    assert len(beats) == 2
