"""Ending lost runs from a web worker: only where nobody is left who would take them over."""

from __future__ import annotations

from typing import Any

import pytest

from plateau_sse.intake.reaper import Reaper
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.queue import ABANDONED_S, LEASE_S, LOOKS_AT_ONCE, Queue, Ticket
from plateau_sse.store.redis import pulse
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.streams import Streams
from tests.queues import LIMIT, age
from tests.store import claim, on_streams, queued

OLD_MS = int(ABANDONED_S * 1000) + 1
# Entries are dated by whole seconds of the server's clock: this one has not begun.
ANY_AGE_S = -1


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pulse, "time", clock)
    return clock


def reaper_of(
    streams: Streams, redis: Any, *, queue_timeout_s: int = 60, queue: Queue | None = None
) -> Reaper:
    return Reaper(
        streams,
        queue or Queue(redis),
        External(redis, idle_s=60),
        Stats(redis),
        queue_timeout_s=queue_timeout_s,
        external_idle_s=60,
    )


async def lost(streams: Streams, queue: Queue, redis: Any) -> str:
    """A run whose runner, the only one, died long ago."""
    await queue.open()
    await queue.take_over("dead", 0)
    run_id = await queued(streams)
    assert await queue.enqueue(run_id, "notes", LIMIT) == "ok"
    (ticket,) = await queue.take("dead", 1, 1000)
    await claim(streams, run_id, 1, "dead")
    await age(redis, "dead", ticket, OLD_MS)
    return run_id


async def watched(reaper: Reaper, clock: Clock, seconds: float) -> None:
    """Looks once a second, by the test's clock."""
    for _ in range(int(seconds) + 1):
        await reaper.look()
        clock.now += 1


def test_a_living_runner_is_left_to_take_over(
    streams_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        queue, reaper = Queue(redis), reaper_of(streams, redis)
        run_id = await lost(streams, queue, redis)
        # It cannot take over yet: it was away itself. It lives all the same.
        await queue.take_over("living", 0)
        await watched(reaper, clock, 3 * LEASE_S)
        record = await streams.record(run_id)
        assert record is not None and record.status == "running"
        # Nobody is alive once none counts as alive.
        monkeypatch.setattr("plateau_sse.store.queue.queue.RUNNER_DEAD_S", 0.0)
        await reaper.look()
        record = await streams.record(run_id)
        assert record is not None and record.status == "failed"
        assert record.error is not None and record.error["code"] == "runner_lost"
        assert await redis.xlen("runs:queue:2") == 0

    on_streams(streams_url, scenario)


def test_a_worker_that_has_just_come_up_waits(
    streams_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have come up at the end of a pause of the store, when every lease is stale."""

    async def scenario(streams: Streams, redis: Any) -> None:
        queue, reaper = Queue(redis), reaper_of(streams, redis)
        run_id = await lost(streams, queue, redis)
        monkeypatch.setattr("plateau_sse.store.queue.queue.RUNNER_DEAD_S", 0.0)
        await watched(reaper, clock, LEASE_S - 1)
        record = await streams.record(run_id)
        assert record is not None and record.status == "running"
        await watched(reaper, clock, 1)
        record = await streams.record(run_id)
        assert record is not None and record.status == "failed"

    on_streams(streams_url, scenario)


# Nobody claims it


async def status_of(streams: Streams, run_id: str) -> str:
    record = await streams.record(run_id)
    assert record is not None
    return record.status


@pytest.mark.parametrize("first", ["claimed", "cancelled", "timed out"])
def test_places_that_no_run_needs_hide_nobody(streams_url: str, first: str) -> None:
    """More of them than are looked at at once stand before a run that nobody claims."""

    async def scenario(streams: Streams, redis: Any) -> None:
        queue, reaper = Queue(redis), reaper_of(streams, redis, queue_timeout_s=ANY_AGE_S)
        await queue.open()
        await queue.take_over("r1", 0)
        run_id, waiting = await queued(streams), await queued(streams)
        if first == "claimed":
            await queue.enqueue(run_id, "notes", LIMIT)
            (ticket,) = await queue.take("r1", 1, 1000)
            await claim(streams, run_id, 1, f"r1 {ticket.entry}")
        for _ in range(LOOKS_AT_ONCE):
            await queue.enqueue(run_id, "notes", LIMIT)
        await queue.enqueue(waiting, "notes", LIMIT)
        if first == "cancelled":
            assert await streams.ask_to_cancel(run_id, "requested") == "cancelled"
        for _ in range(2):
            await reaper.look()
        assert await status_of(streams, waiting) == "failed"
        # That of a run which is executed stays, and the run with it.
        left = {"claimed": "running", "cancelled": "cancelled", "timed out": "failed"}
        assert await status_of(streams, run_id) == left[first]
        assert await redis.xlen("runs:queue:2") == (1 if first == "claimed" else 0)

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("claimant", ["r1 {entry}", "r1"])
def test_a_run_that_is_claimed_while_one_looks_keeps_its_place(
    streams_url: str, claimant: str
) -> None:
    """Also where it was claimed by a release that did not note the place."""

    async def scenario(streams: Streams, redis: Any) -> None:
        class Slow(Queue):
            async def overdue(self, age_s: float) -> list[Ticket]:
                found = await super().overdue(age_s)
                for ticket in await self.take("r1", 1, 1000):
                    named = claimant.format(entry=ticket.entry)
                    await claim(streams, ticket.run_id, 1, named)
                return found

        queue = Slow(redis)
        await queue.open()
        await queue.take_over("r1", 0)
        run_id = await queued(streams)
        await queue.enqueue(run_id, "notes", LIMIT)
        await reaper_of(streams, redis, queue_timeout_s=ANY_AGE_S, queue=queue).look()
        assert await status_of(streams, run_id) == "running"
        assert await redis.xlen("runs:queue:2") == 1

    on_streams(streams_url, scenario)
