"""Whose a run is: leases, their renewal, and what is taken over after a crash."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import Any

import pytest

from plateau_sse.errors import StoreFull
from plateau_sse.store.queue.queue import Depth, Leases, Queue
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect_blocking
from tests.queues import (
    FRESH_MS,
    LATE_MS,
    LIMIT,
    age,
    enqueue,
    names,
    on_queue,
    pending,
)
from tests.store import full


def test_who_comes_back_under_the_same_name_gets_its_runs_at_once(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 4)
        first, second = await queue.take("r1", 2, 1000)
        (third,) = await queue.take("r2", 1, 1000)
        assert await queue.mine("r1") == [first, second]
        assert await queue.mine("r2") == [third]
        assert await queue.mine("r3") == []
        # Nobody has them twice: a look at one's own renews them.
        assert await queue.take_over("r2", 10) == []
        await queue.done(first)
        assert await queue.mine("r1") == [second]

    on_queue(streams_url, scenario)


def test_a_run_is_taken_over_only_after_its_lease(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 3)
        tickets = await queue.take("r1", 3, 1000)
        assert await queue.take_over("r2", 10) == []
        await age(redis, "r1", tickets[0], FRESH_MS)
        await age(redis, "r1", tickets[2], LATE_MS)
        assert await queue.take_over("r2", 0) == []
        assert await queue.take_over("r2", 10) == [tickets[2]]
        # It has been renewed by that.
        assert await queue.take_over("r3", 10) == []
        assert await queue.mine("r1") == tickets[:2]

    on_queue(streams_url, scenario)


def test_a_lost_run_is_found_behind_any_number_of_others(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 60)
        await queue.take("r1", 59, 1000)
        (lost,) = await queue.take("r2", 1, 1000)
        await age(redis, "r2", lost, LATE_MS)
        assert await queue.take_over("r3", 1) == [lost]

    on_queue(streams_url, scenario)


def test_of_several_runners_one_takes_over_a_lost_run(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 20)
        lost = await queue.take("r1", 20, 1000)
        for ticket in lost:
            await age(redis, "r1", ticket, LATE_MS)
        shares = await asyncio.gather(*(queue.take_over(f"s{i}", 6) for i in range(6)))
        rest = await queue.take_over("s9", 20)
        assert sorted(chain(*shares, rest)) == sorted(lost)
        assert all(len(share) <= 6 for share in shares)

    on_queue(streams_url, scenario)


def test_what_is_pending_without_an_entry_is_cleared_away(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 2)
        gone, there = await queue.take("r1", 2, 1000)
        await redis.xdel(keys.QUEUE, gone.entry)
        assert await queue.mine("r1") == [there]
        for ticket in (gone, there):
            await age(redis, "r1", ticket, LATE_MS)
        assert await queue.take_over("r2", 10) == [there]
        assert list(await pending(redis)) == [there.entry]
        assert await queue.depth() == Depth(0, 1, 3)

    on_queue(streams_url, scenario)


def test_leases_are_renewed_and_never_taken_back(streams_url: str) -> None:
    blocking: Any = connect_blocking(streams_url, "test-leases")
    leases = Leases(blocking)

    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 3)
        kept, lost, ended = await queue.take("r1", 3, 1000)
        for ticket in (kept, lost):
            await age(redis, "r1", ticket, LATE_MS)
        await queue.done(ended)
        assert await queue.take_over("r2", 1) == [kept]
        await age(redis, "r2", kept, 3000)
        # The one that was late, but that nobody took, is still ours.
        entries = [ticket.entry for ticket in (kept, lost, ended)]
        assert leases.renew("r1", entries) == {kept.entry, ended.entry}
        rows = await pending(redis)
        assert rows[kept.entry][0] == "r2" and rows[kept.entry][1] >= 3000
        assert rows[lost.entry][0] == "r1" and rows[lost.entry][1] < LATE_MS
        assert {row[2] for row in rows.values()} <= {1, 2}
        assert leases.renew("r2", [kept.entry]) == set()
        assert (await pending(redis))[kept.entry][:1] == ("r2",)
        assert await queue.take_over("r3", 10) == []

    with blocking:
        on_queue(streams_url, scenario)


def test_a_full_store_lets_nobody_in_and_everybody_finish(streams_url: str) -> None:
    blocking: Any = connect_blocking(streams_url, "test-leases")

    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 3)
        (first,) = await queue.take("r1", 1, 1000)
        await age(redis, "r1", first, LATE_MS)
        with full(streams_url):
            with pytest.raises(StoreFull):
                await queue.enqueue("run-4", "notes", LIMIT)
            with pytest.raises(StoreFull):
                await queue.publish_agents({"notes": "1"})
            assert await queue.mine("r9") == []
            assert await queue.take_over("r2", 1) == [first]
            assert names(await queue.take("r2", 5, 1000)) == ["run-1", "run-2"]
            assert Leases(blocking).renew("r2", [first.entry]) == set()
            for ticket in await queue.mine("r2"):
                await queue.done(ticket)
            assert await queue.depth() == Depth(0, 0, 4)

    with blocking:
        on_queue(streams_url, scenario)
