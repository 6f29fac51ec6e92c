"""Ending lost runs from a web worker: only where nobody is left who would take them over."""

from __future__ import annotations

from typing import Any

import pytest

from plateau_sse.intake.reaper import LOOK_S, Reaper
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.announcements import Announcements
from plateau_sse.store.queue.queue import (
    ABANDONED_S,
    LEASE_S,
    LOOKS_AT_ONCE,
    Depth,
    Look,
    Queue,
)
from plateau_sse.store.redis import keys, pulse
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.streams import Streams
from tests.queues import LIMIT, age, held, let_wait, sign_of_life, take, waiting
from tests.store import began, claim, counters, forget, on_streams, queued

OLD_MS = int(ABANDONED_S * 1000) + 1


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
    streams: Streams,
    redis: Any,
    *,
    queue_timeout_s: int = 60,
    life_s: int = 3600,
    queue: Queue | None = None,
    stats: Stats | None = None,
) -> Reaper:
    return Reaper(
        streams,
        queue or Queue(redis),
        Announcements(redis),
        External(redis, idle_s=60),
        stats or Stats(redis),
        queue_timeout_s=queue_timeout_s,
        life_s=life_s,
        external_idle_s=60,
    )


async def lost(streams: Streams, queue: Queue, redis: Any, agent: str = "notes") -> str:
    """A run whose runner, the only one, died long ago."""
    await sign_of_life(queue, "dead")
    run_id = await queued(streams)
    assert await queue.enqueue(run_id, agent, "ann", LIMIT) == "ok"
    assert len(await take(queue, "dead", 1, [agent])) == 1
    await claim(streams, run_id, 1, "dead")
    await age(redis, run_id, OLD_MS)
    return run_id


async def handed_back(streams: Streams, queue: Queue, redis: Any) -> str:
    """A run whose runner, the only one, has left."""
    run_id = await lost(streams, queue, redis)
    await queue.hand_back("dead", ["notes"])
    await redis.zrem(keys.QUEUE.runners, "dead")
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
        await sign_of_life(queue, "living")
        await watched(reaper, clock, 3 * LEASE_S)
        record = await streams.record(run_id)
        assert record is not None and record.status == "running"
        # Nobody is alive once none counts as alive.
        monkeypatch.setattr("plateau_sse.store.queue.queue.RUNNER_DEAD_S", 0.0)
        await reaper.look()
        record = await streams.record(run_id)
        assert record is not None and record.status == "failed"
        assert record.error is not None and record.error["code"] == "runner_lost"
        assert await queue.depth() == Depth(0, 0, 0)

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


def test_a_run_that_was_handed_back_has_the_time_of_one_that_waits(
    streams_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody died: a deploy may take longer than a dead runner is waited for."""

    async def scenario(streams: Streams, redis: Any) -> None:
        queue, reaper = Queue(redis), reaper_of(streams, redis)
        run_id = await lost(streams, queue, redis)
        monkeypatch.setattr("plateau_sse.store.queue.queue.RUNNER_DEAD_S", 0.0)
        # Only by whoever has it.
        await queue.hand_back("another", ["notes"])
        assert run_id in await held(redis)
        await queue.hand_back("dead", ["notes"])
        await let_wait(redis, run_id, OLD_MS)
        await watched(reaper, clock, 3 * LEASE_S)
        assert await status_of(streams, run_id) == "running"
        await let_wait(redis, run_id, OLD_MS + 60_000)
        await reaper.look()
        assert await status_of(streams, run_id) == "failed"
        assert await queue.depth() == Depth(0, 0, 0)

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_whose_agent_no_runner_has_is_not_waited_for_for_ever(
    streams_url: str, clock: Clock, begun: bool
) -> None:
    """Begun before and handed back, or not: in a deploy the next runner that has it may take
    long to come."""

    async def scenario(streams: Streams, redis: Any) -> None:
        queue, reaper = Queue(redis), reaper_of(streams, redis)
        await sign_of_life(queue, "living")
        assert await Announcements(redis).of(["living"]) is None
        await Announcements(redis).say("living", {"other": "1"})
        await Announcements(redis).say("gone", {"notes": "1"})
        if begun:
            run_id = await handed_back(streams, queue, redis)
        else:
            run_id = await queued(streams)
            await queue.enqueue(run_id, "notes", "ann", LIMIT)
        await watched(reaper, clock, 2 * LEASE_S)
        if begun:
            await let_wait(redis, run_id, 55_000)
            await reaper.look()
        assert await status_of(streams, run_id) == ("running" if begun else "queued")
        await let_wait(redis, run_id, 61_000)
        await reaper.look()
        record = await streams.record(run_id)
        assert record is not None and record.error is not None
        assert (record.error["code"], record.error["retryable"]) == ("agent_unknown", False)
        assert (await queue.depth())[:2] == (0, 0)

    on_streams(streams_url, scenario)


def test_a_lost_run_whose_agent_nobody_has_ends_within_15_s_of_its_fault(
    streams_url: str, clock: Clock
) -> None:
    """As where no runner is left: the others there cannot take it over."""

    async def scenario(streams: Streams, redis: Any) -> None:
        queue, reaper = Queue(redis), reaper_of(streams, redis)
        await sign_of_life(queue, "living")
        await Announcements(redis).say("living", {"other": "1"})
        await Announcements(redis).say("dead", {"notes": "1"})
        run_id = await lost(streams, queue, redis)
        await redis.zrem(keys.QUEUE.runners, "dead")
        # The first looks believe no lease; by the store's clock no time passes.
        await watched(reaper, clock, LEASE_S + LOOK_S)
        record = await streams.record(run_id)
        assert record is not None and record.error is not None
        assert (record.error["code"], record.error["retryable"]) == ("runner_lost", True)
        assert (await queue.depth())[:2] == (0, 0)
        assert ABANDONED_S + LOOK_S < 15

    on_streams(streams_url, scenario)


def test_a_deploy_that_leaves_an_agent_without_a_runner_for_seconds_loses_nothing(
    streams_url: str, clock: Clock
) -> None:
    """Though its last one was killed, and lost the run."""

    async def scenario(streams: Streams, redis: Any) -> None:
        queue, reaper = Queue(redis), reaper_of(streams, redis)
        await sign_of_life(queue, "living")
        await Announcements(redis).say("living", {"other": "1"})
        run_id = await lost(streams, queue, redis)
        await age(redis, run_id, OLD_MS - 2000)
        await redis.zrem(keys.QUEUE.runners, "dead")
        await watched(reaper, clock, LEASE_S + LOOK_S)
        assert await status_of(streams, run_id) == "running"
        # It says what it has before it gives a sign of life.
        await Announcements(redis).say("next", {"notes": "1"})
        await sign_of_life(queue, "next")
        await let_wait(redis, run_id, 30_000)
        await watched(reaper, clock, 3)
        assert await status_of(streams, run_id) == "running"
        assert [one.run_id for one in await take(queue, "next", 1)] == [run_id]

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("leave", [lost, handed_back])
def test_a_run_that_is_let_go_of_with_the_wish_to_cancel_ends_at_the_next_look(
    streams_url: str, clock: Clock, leave: Any
) -> None:
    """Nobody might come who takes it, and finds the wish."""

    async def scenario(streams: Streams, redis: Any) -> None:
        queue, stats = Queue(redis), Stats(redis)
        reaper = reaper_of(streams, redis, stats=stats)
        await sign_of_life(queue, "living")
        await Announcements(redis).say("living", {"other": "1"})
        # From now on it believes leases.
        await watched(reaper, clock, LEASE_S + 1)
        run_id = await leave(streams, queue, redis)
        # While its runner had it.
        assert await streams.ask_to_cancel(run_id, "requested") == "running"
        await watched(reaper, clock, 1)
        assert await status_of(streams, run_id) == "cancelled"
        assert await waiting(redis) == [] == list(await held(redis))
        assert (await counters(stats))["runs_cancelled"] == 1

    on_streams(streams_url, scenario)


def test_a_run_that_is_handed_back_again_and_again_has_an_end(
    streams_url: str, clock: Clock
) -> None:
    """Each time it waits anew; its life began with its first attempt."""

    async def scenario(streams: Streams, redis: Any) -> None:
        queue, reaper = Queue(redis), reaper_of(streams, redis, life_s=100)
        await watched(reaper, clock, LEASE_S + 1)
        run_id = await handed_back(streams, queue, redis)
        for attempt, age_s in enumerate((60, 99, 101), 2):
            await began(redis, run_id, age_s)
            await reaper.look()
            expected = "failed" if age_s > 100 else "running"
            assert await status_of(streams, run_id) == expected
            if expected == "failed":
                break
            assert len(await take(queue, "next", 1)) == 1
            await claim(streams, run_id, attempt, "next")
            await queue.hand_back("next", ["notes"])
        record = await streams.record(run_id)
        assert record is not None and record.error is not None
        assert record.error["code"] == "timeout" and "100 s" in record.error["message"]
        assert await waiting(redis) == []

    on_streams(streams_url, scenario)


# Nobody claims it


async def status_of(streams: Streams, run_id: str) -> str:
    record = await streams.record(run_id)
    assert record is not None
    return record.status


def test_a_run_that_no_runner_takes_in_time_ends(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        queue, reaper = Queue(redis), reaper_of(streams, redis, queue_timeout_s=5)
        await sign_of_life(queue, "busy")
        await Announcements(redis).say("busy", {"notes": "1"})
        late, young = await queued(streams), await queued(streams)
        for run_id in (late, young):
            await queue.enqueue(run_id, "notes", "ann", LIMIT)
        await let_wait(redis, late, 6000)
        await reaper.look()
        record = await streams.record(late)
        assert record is not None and record.error is not None
        assert (record.error["code"], record.error["retryable"]) == ("queue_timeout", True)
        assert await status_of(streams, young) == "queued"
        assert await waiting(redis) == [young]

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("why", ["cancelled", "gone"])
def test_places_that_no_run_needs_hide_nobody(streams_url: str, why: str) -> None:
    """More of them than are looked at at once stand before a run that nobody claims."""

    async def scenario(streams: Streams, redis: Any) -> None:
        queue, reaper = Queue(redis), reaper_of(streams, redis, queue_timeout_s=5)
        await sign_of_life(queue, "r1")
        runs = [await queued(streams) for _ in range(LOOKS_AT_ONCE + 1)]
        for number, run_id in enumerate(runs):
            await queue.enqueue(run_id, "notes", "ann", LIMIT)
            await let_wait(redis, run_id, 7000 - number)
        for run_id in runs[:-1]:
            if why == "cancelled":
                assert await streams.ask_to_cancel(run_id, "requested") == "cancelled"
            else:
                await forget(redis, run_id)
        for _ in range(2):
            await reaper.look()
        assert await status_of(streams, runs[-1]) == "failed"
        assert await waiting(redis) == []

    on_streams(streams_url, scenario)


def test_a_lost_run_is_seen_behind_any_number_of_those_that_were_handed_back(
    streams_url: str, clock: Clock
) -> None:
    """Those have QUEUE_TIMEOUT_S, and a deploy without a successor hands many back."""

    async def scenario(streams: Streams, redis: Any) -> None:
        queue, reaper = Queue(redis), reaper_of(streams, redis)
        for _ in range(LOOKS_AT_ONCE + 1):
            run_id = await queued(streams)
            await sign_of_life(queue, "dead")
            await queue.enqueue(run_id, "notes", "ann", LIMIT)
        await take(queue, "dead", LOOKS_AT_ONCE + 1)
        await queue.hand_back("dead", ["notes"])
        for run in await waiting(redis):
            await let_wait(redis, run, 2 * OLD_MS)
        run_id = await lost(streams, queue, redis, "other")
        await redis.zrem(keys.QUEUE.runners, "dead")
        await watched(reaper, clock, ABANDONED_S)
        record = await streams.record(run_id)
        assert record is not None and record.status == "failed"
        assert len(await waiting(redis)) == LOOKS_AT_ONCE + 1

    on_streams(streams_url, scenario)


def test_who_looks_again_and_again_sees_all_that_was_handed_back(streams_url: str) -> None:
    """More than one look shows, or one look reads."""

    async def scenario(streams: Streams, redis: Any) -> None:
        count = 2500
        lua = """
        for n = 1, tonumber(ARGV[1]) do
          redis.call('ZADD', KEYS[1], n, 'many-' .. n)
          redis.call('ZADD', KEYS[2], n, 'many-' .. n)
          redis.call('HSET', KEYS[3], 'many-' .. n, 'h - ann notes')
        end
        redis.call('HSET', KEYS[3], 'many-' .. ARGV[1], 'l r1 ann notes')
        """
        names = keys.QUEUE
        await redis.eval(lua, 3, names.since, names.back, names.places, count)
        queue, seen, shows_lost = Queue(redis), set[str](), set[int]()
        for look in range(2 * (2000 // LOOKS_AT_ONCE)):
            back = (await queue.look(1e12)).back
            assert len(back) <= 2 * LOOKS_AT_ONCE
            seen |= {one.run_id for one in back}
            if any(one.is_lost for one in back):
                shows_lost.add(look % 2)
        assert len(seen) == count and shows_lost == {1}

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("was_lost", [False, True])
def test_a_run_that_is_taken_while_one_looks_keeps_its_place(
    streams_url: str, clock: Clock, was_lost: bool
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        class Slow(Queue):
            async def look(self, wait_s: float) -> Look:
                found = await super().look(wait_s)
                late = [*found.overdue, *found.lost]
                if late:
                    looked.append(late[0].run_id)
                    for ticket in await take(self, "r1", 1):
                        await claim(streams, ticket.run_id, 1 + was_lost, "r1")
                return found

        looked: list[str] = []
        queue = Slow(redis)
        reaper = reaper_of(streams, redis, queue_timeout_s=5, queue=queue)
        if was_lost:
            run_id = await lost(streams, queue, redis)
            await redis.zrem(keys.QUEUE.runners, "dead")
            await watched(reaper, clock, 2 * LEASE_S)
        else:
            await sign_of_life(queue, "r1")
            run_id = await queued(streams)
            await queue.enqueue(run_id, "notes", "ann", LIMIT)
            await let_wait(redis, run_id, 6000)
            await reaper.look()
        assert looked == [run_id]
        assert await status_of(streams, run_id) == "running"
        assert list(await held(redis)) == [run_id]

    on_streams(streams_url, scenario)
