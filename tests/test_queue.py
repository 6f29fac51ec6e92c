"""The door of the queue: who is let in, in what order they come out, who is there to ask."""

from __future__ import annotations

import asyncio
import time
from itertools import chain, count
from typing import Any

import pytest
from redis import Redis

from plateau_sse.store.queue import queue
from plateau_sse.store.queue.queue import Depth, Queue, Ticket
from plateau_sse.store.redis import keys
from tests.queues import (
    LIMIT,
    enqueue,
    held,
    idle_ms,
    names,
    on_queue,
    sign_of_life,
    take,
    waiting,
)
from tests.store import until


def test_a_run_goes_from_the_door_to_done(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await sign_of_life(queue, "r1")
        assert await queue.depth() == Depth(0, 0, 1)
        assert await queue.enqueue("run-1", "notes", "ann", LIMIT) == "ok"
        assert (await queue.depth())[:3] == (1, 0, 1)
        (ticket,) = await take(queue, "r1", 10)
        assert ticket == Ticket("run-1", "notes", False, "ann")
        assert await queue.depth() == Depth(0, 1, 1)
        await queue.done(ticket, "r1")
        assert await held(redis) == {}
        assert await queue.depth() == Depth(0, 0, 1)
        await queue.done(ticket, "r1")
        assert await queue.depth() == Depth(0, 0, 1)
        assert await take(queue, "r1", 10) == []

    on_queue(streams_url, scenario)


def test_runs_are_taken_in_order_each_by_one_runner(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        expected = await enqueue(queue, 40)
        taken: list[list[Ticket]] = await asyncio.gather(
            *(take(queue, f"r{i % 4}", 10) for i in range(4))
        )
        assert sorted(chain(*map(names, taken)), key=expected.index) == expected
        for tickets in taken:
            assert names(tickets) == sorted(names(tickets), key=expected.index)

    on_queue(streams_url, scenario)


def test_who_is_enqueued_twice_has_one_place(streams_url: str) -> None:
    """Waiting or taken, and also where nobody else would be let in."""

    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 2)
        assert await queue.enqueue("run-0", "notes", "ann", 2) == "ok"
        assert (await queue.depth()).waiting == 2
        assert names(await take(queue, "r1", 10)) == ["run-0", "run-1"]
        assert await queue.enqueue("run-0", "notes", "ann", LIMIT) == "ok"
        assert (await queue.depth())[:2] == (0, 2)
        assert await take(queue, "r2", 10) == []

    on_queue(streams_url, scenario)


def test_owners_take_turns(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 6, owner="ann")
        await take(queue, "r1", 2)
        await enqueue(queue, 3, start=10, owner="bob")
        await enqueue(queue, 1, start=20, owner="cyd")
        taken = names(await take(queue, "r1", 4))
        assert taken == ["run-10", "run-20", "run-11", "run-2"]
        # Who comes again and again has one turn as everyone has, and no other is passed over.
        order = []
        for number in range(30, 34):
            await enqueue(queue, 1, start=number, owner="dan")
            order += names(await take(queue, "r1", 1))
        assert set(order) & {"run-12", "run-3"} == {"run-12", "run-3"}
        assert len(await take(queue, "r1", 10)) == 4
        # One alone is first come, first served.
        assert names(await take(queue, "r1", 10)) == []
        expected = await enqueue(queue, 5, start=40)
        assert names(await take(queue, "r1", 10)) == expected

    on_queue(streams_url, scenario)


def test_a_place_that_is_given_up_costs_its_owner_no_turn(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 3, owner="bob")
        for number in range(10, 30):
            await enqueue(queue, 1, start=number, owner="ann")
            await queue.drop(f"run-{number}")
        assert await waiting(redis) == ["run-0", "run-1", "run-2"]
        await enqueue(queue, 1, start=30, owner="ann")
        assert names(await take(queue, "r1", 2)) == ["run-0", "run-30"]
        # What is held is nobody's to give up, but its runner's.
        await queue.drop("run-0")
        assert set(await held(redis)) == {"run-0", "run-30"}
        await queue.done(Ticket("run-0", "notes", False), "r2")
        assert set(await held(redis)) == {"run-0", "run-30"}

    on_queue(streams_url, scenario)


def test_each_takes_what_it_has_the_agents_for(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await sign_of_life(queue, "r1")
        for number in range(6):
            agent = ("one", "two words")[number % 2]
            assert await queue.enqueue(f"run-{number}", agent, "ann", LIMIT) == "ok"
        assert names(await take(queue, "r1", 10, ["other"])) == []
        assert names(await take(queue, "r1", 2, ["two words"])) == ["run-1", "run-3"]
        both = await take(queue, "r2", 10, ["one", "two words"])
        assert names(both) == ["run-0", "run-2", "run-4", "run-5"]
        assert [one.agent for one in both] == ["one", "one", "one", "two words"]

    on_queue(streams_url, scenario)


def test_without_a_runner_nobody_is_let_in(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(opened: Queue, redis: Any) -> None:
        assert await opened.enqueue("run-0", "notes", "ann", LIMIT) == "no_runner"
        assert await opened.depth() == Depth(0, 0, 0)
        assert await redis.keys("*") == []
        await sign_of_life(opened, "r1")
        assert await opened.enqueue("run-1", "notes", "ann", LIMIT) == "ok"

        monkeypatch.setattr(queue, "RUNNER_DEAD_S", 0.2)

        numbers = count(100)

        async def refused() -> bool:
            name = f"run-{next(numbers)}"
            return await opened.enqueue(name, "notes", "ann", LIMIT) == "no_runner"

        await until(refused, "a silent runner counts as dead")
        assert (await opened.depth()).runners == 0
        # It was asleep, not dead.
        await sign_of_life(opened, "r1")
        monkeypatch.undo()
        assert await opened.enqueue("run-3", "notes", "ann", LIMIT) == "ok"

    on_queue(streams_url, scenario)


@pytest.mark.parametrize("holds", [0, 2])
@pytest.mark.parametrize("count", [0, 5])
def test_looking_for_runs_is_a_sign_of_life(streams_url: str, holds: int, count: int) -> None:
    """Whatever is found: with nothing to do, and at full concurrency, where none is wanted."""

    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, holds)
        if holds:
            assert len(await take(queue, "r1", holds)) == holds
        await take(queue, "r1", count)
        for _ in range(3):

            async def silent() -> bool:
                return await idle_ms(redis, "r1") > 50

            await until(silent, "the runner has been silent for a while")
            before = time.monotonic()
            await take(queue, "r1", count)
            idle = await idle_ms(redis, "r1")
            assert idle <= (time.monotonic() - before) * 1000 + 2

    on_queue(streams_url, scenario)


def test_names_of_runners_that_are_gone_are_forgotten(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(opened: Queue, redis: Any) -> None:
        await sign_of_life(opened, "gone")
        monkeypatch.setattr(queue, "RUNNER_FORGOTTEN_S", -1.0)
        await sign_of_life(opened, "r1")
        assert await redis.zrange(keys.QUEUE.runners, 0, -1) == []

    on_queue(streams_url, scenario)


def test_a_runner_that_waits_for_work_hears_of_it(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        _, rung = await queue.take("r1", ["notes"], 3)
        waiting = asyncio.create_task(queue.wait(rung, 4000))

        async def blocked() -> bool:
            return int((await redis.info("clients"))["blocked_clients"]) == 1

        await until(blocked, "the runner blocks")
        assert (await queue.depth()).runners == 1
        assert await queue.enqueue("run-1", "notes", "ann", LIMIT) == "ok"
        began = time.monotonic()
        await waiting
        assert time.monotonic() - began < 2
        tickets, rung = await queue.take("r1", ["notes"], 3)
        assert names(tickets) == ["run-1"]
        # What comes between looking and waiting is not missed either.
        assert await queue.enqueue("run-2", "notes", "ann", LIMIT) == "ok"
        began = time.monotonic()
        await queue.wait(rung, 4000)
        assert time.monotonic() - began < 2
        assert names(await take(queue, "r1", 3)) == ["run-2"]

    on_queue(streams_url, scenario)


def test_a_runner_outlives_an_emptied_store(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 1)
        await take(queue, "r1", 1)
        await redis.flushall()
        await sign_of_life(queue, "r1")
        assert await queue.enqueue("run-1", "notes", "ann", LIMIT) == "ok"

    on_queue(streams_url, scenario)


def test_only_what_waits_counts_against_the_limit(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 3)
        assert await queue.enqueue("more", "notes", "ann", 3) == "full"
        assert len(await waiting(redis)) == 3
        (first, *_) = await take(queue, "r1", 2)
        assert await queue.enqueue("run-3", "notes", "ann", 3) == "ok"
        assert await queue.enqueue("run-4", "notes", "ann", 3) == "ok"
        assert await queue.enqueue("more", "notes", "ann", 3) == "full"
        await queue.done(first, "r1")
        assert await queue.enqueue("more", "notes", "ann", 3) == "full"
        assert (await queue.depth())[:3] == (3, 1, 2)

    on_queue(streams_url, scenario)


@pytest.mark.parametrize("how", ["lost", "handed back"])
def test_what_waits_again_turns_nobody_away(streams_url: str, how: str) -> None:
    """A runner's death would close the door until others have taken over what it had."""

    async def scenario(queue: Queue, redis: Any) -> None:
        runs = await enqueue(queue, 3)
        await take(queue, "r1", 3)
        await queue.hand_back("r1", ["notes"], lost=how == "lost")
        assert sorted(await waiting(redis)) == runs
        depth = await queue.depth()
        assert (depth.waiting, depth.new) == (3, 0)
        for name in ("more", "and more", "most"):
            assert await queue.enqueue(name, "notes", "ann", 3) == "ok"
        assert await queue.enqueue("too many", "notes", "ann", 3) == "full"
        assert (await queue.depth()).new == 3

    on_queue(streams_url, scenario)


def test_an_empty_queue_leaves_the_names_of_runners_and_its_bell(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        for owner in ("ann", "bob"):
            await enqueue(queue, 50, owner=owner, start=50 * (owner == "bob"))
        for ticket in await take(queue, "r1", 90):
            await queue.done(ticket, "r1")
        for run in await waiting(redis):
            await queue.drop(run)

    on_queue(streams_url, scenario)
    with Redis.from_url(streams_url, protocol=2) as client:
        left = {key.decode() for key in client.keys("*")}
        assert left == {keys.QUEUE.runners, keys.QUEUE.serving, keys.QUEUE.bell}
        assert client.xlen(keys.QUEUE.bell) == 1
