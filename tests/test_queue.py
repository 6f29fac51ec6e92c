"""The door of the queue: who is let in, in what order they come out, who is there to ask."""

from __future__ import annotations

import asyncio
import time
from itertools import chain
from typing import Any

import pytest
from redis import Redis

from plateau_sse.store.queue import queue
from plateau_sse.store.queue.queue import AGENTS_LIFE_S, Depth, Queue, Ticket
from plateau_sse.store.redis import keys
from tests.queues import (
    LIMIT,
    enqueue,
    idle_ms,
    names,
    on_queue,
    pending,
)
from tests.store import until


def test_a_run_goes_from_the_door_to_done(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await queue.open()
        await queue.take_over("r1", 0)
        assert await queue.depth() == Depth(0, 0, 1)
        assert await queue.enqueue("run-1", "notes", LIMIT) == "ok"
        assert await queue.depth() == Depth(1, 0, 1)
        (ticket,) = await queue.take("r1", 10, 1000)
        assert (ticket.run_id, ticket.agent) == ("run-1", "notes")
        assert await queue.depth() == Depth(0, 1, 1)
        await queue.done(ticket)
        assert await redis.xlen(keys.QUEUE) == 0
        assert await pending(redis) == {}
        assert await queue.depth() == Depth(0, 0, 1)
        await queue.done(ticket)
        assert await queue.depth() == Depth(0, 0, 1)
        assert await queue.take("r1", 10, 1) == []

    on_queue(streams_url, scenario)


def test_runs_are_taken_in_order_each_by_one_runner(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        expected = await enqueue(queue, 40)
        taken: list[list[Ticket]] = await asyncio.gather(
            *(queue.take(f"r{i % 4}", 10, 1000) for i in range(4))
        )
        assert sorted(chain(*map(names, taken)), key=expected.index) == expected
        for tickets in taken:
            assert names(tickets) == sorted(names(tickets), key=expected.index)

    on_queue(streams_url, scenario)


def test_opening_again_changes_nothing(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 3)
        await queue.take("r1", 1, 1000)
        before = await queue.depth()
        await queue.open()
        assert await queue.depth() == before == Depth(2, 1, 2)
        assert names(await queue.take("r1", 10, 1000)) == ["run-1", "run-2"]

    on_queue(streams_url, scenario)


def test_a_group_that_is_made_late_finds_what_waits(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await redis.xadd(keys.QUEUE, {"run": "early", "agent": "notes"})
        await queue.open()
        assert names(await queue.take("r1", 10, 1000)) == ["early"]

    on_queue(streams_url, scenario)


def test_without_a_runner_nobody_is_let_in(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(opened: Queue, redis: Any) -> None:
        assert await opened.enqueue("run-0", "notes", LIMIT) == "no_runner"
        assert await opened.depth() == Depth(0, 0, 0)
        assert await redis.exists(keys.QUEUE) == 0
        await opened.open()
        assert await opened.enqueue("run-0", "notes", LIMIT) == "no_runner"
        await opened.take_over("r1", 0)
        assert await opened.enqueue("run-1", "notes", LIMIT) == "ok"

        monkeypatch.setattr(queue, "RUNNER_DEAD_S", 0.2)

        async def refused() -> bool:
            return await opened.enqueue("run-2", "notes", LIMIT) == "no_runner"

        await until(refused, "a silent runner counts as dead")
        assert (await opened.depth()).runners == 0
        # It was asleep, not dead.
        await opened.take_over("r1", 0)
        monkeypatch.undo()
        assert await opened.enqueue("run-3", "notes", LIMIT) == "ok"

    on_queue(streams_url, scenario)


@pytest.mark.parametrize("holds", [0, 2])
@pytest.mark.parametrize("count", [0, 5])
def test_looking_for_lost_runs_is_a_sign_of_life(
    streams_url: str, holds: int, count: int
) -> None:
    """Whatever is found: with nothing to do, and at full concurrency, where none is wanted."""

    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, holds)
        if holds:
            assert len(await queue.take("r1", holds, 1000)) == holds
        await queue.take_over("r1", count)
        for _ in range(3):

            async def silent() -> bool:
                return await idle_ms(redis, "r1") > 50

            await until(silent, "the runner has been silent for a while")
            before = time.monotonic()
            await queue.take_over("r1", count)
            idle = await idle_ms(redis, "r1")
            assert idle <= (time.monotonic() - before) * 1000 + 2

    on_queue(streams_url, scenario)


def test_a_runner_that_waits_for_work_is_alive_and_gets_it(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await queue.open()
        await queue.take_over("r1", 3)
        taking = asyncio.create_task(queue.take("r1", 3, 4000))

        async def blocked() -> bool:
            return int((await redis.info("clients"))["blocked_clients"]) == 1

        await until(blocked, "the runner blocks")
        assert (await queue.depth()).runners == 1
        assert await queue.enqueue("run-1", "notes", LIMIT) == "ok"
        assert names(await taking) == ["run-1"]

    on_queue(streams_url, scenario)


def test_a_runner_outlives_an_emptied_store(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 1)
        await queue.take("r1", 1, 1000)
        await redis.flushall()
        await queue.open()
        await queue.take_over("r1", 1)
        assert await queue.enqueue("run-1", "notes", LIMIT) == "ok"

    on_queue(streams_url, scenario)


def test_only_what_waits_counts_against_the_limit(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 3)
        assert await queue.enqueue("more", "notes", 3) == "full"
        assert await redis.xlen(keys.QUEUE) == 3
        (first, *_) = await queue.take("r1", 2, 1000)
        assert await queue.enqueue("run-3", "notes", 3) == "ok"
        assert await queue.enqueue("run-4", "notes", 3) == "ok"
        assert await queue.enqueue("more", "notes", 3) == "full"
        await queue.done(first)
        assert await queue.enqueue("more", "notes", 3) == "full"
        assert await queue.depth() == Depth(3, 1, 2)

    on_queue(streams_url, scenario)


def test_agents_are_known_for_a_day(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        assert await queue.agent_versions() == {}
        await queue.publish_agents({"notes": "1", "résumé": "1"})
        await redis.expire(keys.AGENTS, 10)
        await queue.publish_agents({"notes": "2"})
        assert await queue.agent_versions() == {"notes": "2", "résumé": "1"}
        assert AGENTS_LIFE_S - 5 <= await redis.ttl(keys.AGENTS) <= AGENTS_LIFE_S

    on_queue(streams_url, scenario)


def test_the_group_is_the_only_trace_of_an_empty_queue(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 50)
        for ticket in await queue.take("r1", 50, 1000):
            await queue.done(ticket)

    on_queue(streams_url, scenario)
    with Redis.from_url(streams_url, protocol=2) as client:
        assert client.keys("*") == [keys.QUEUE.encode()]
        assert client.xlen(keys.QUEUE) == 0
