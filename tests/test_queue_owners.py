"""The places of a runner, where owners share the service: none has all of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.redis import keys
from tests.queues import LIMIT, enqueue, names, on_queue, sign_of_life, take

PLACES, ANN_MOST = 32, 28


class Runner:
    """One of `most` places, which takes as many as there are free, and says who has them."""

    def __init__(self, queue: Queue, name: str = "r1", most: int = PLACES) -> None:
        self.queue, self.name, self.most = queue, name, most
        self.held: dict[str, Any] = {}

    @property
    def places(self) -> Counter[str]:
        return Counter(ticket.owner for ticket in self.held.values())

    async def take(self) -> list[str]:
        free = self.most - len(self.held)
        tickets = await take(self.queue, self.name, free, places=self.places)
        self.held |= {ticket.run_id: ticket for ticket in tickets}
        return names(tickets)

    async def end_one(self, owner: str) -> None:
        run = next(run for run, ticket in self.held.items() if ticket.owner == owner)
        await self.queue.done(self.held.pop(run), self.name)


def test_an_owner_whose_runs_never_end_leaves_places_to_others(streams_url: str) -> None:
    """Whoever has none there finds one at once, also behind hundreds that wait."""

    async def scenario(queue: Queue, redis: Any) -> None:
        runner = Runner(queue)
        await enqueue(queue, 500, owner="ann")
        assert len(await runner.take()) == ANN_MOST
        assert queue.has_passed_over and await runner.take() == []
        # Again and again, and for hundreds of runs: nobody but Ann waits for hers.
        for number in range(1000, 1600):
            (run,) = await enqueue(queue, 1, start=number, owner="bob")
            assert await runner.take() == [run]
            await runner.end_one("bob")
        await enqueue(queue, 9, start=2000, owner="bob")
        assert await runner.take() == ["run-2000", "run-2001", "run-2002"]
        # The last one is for who has none.
        (run,) = await enqueue(queue, 1, start=3000, owner="cyd")
        assert await runner.take() == [run]
        assert runner.places == {"ann": ANN_MOST, "bob": 3, "cyd": 1}
        # What ends is theirs who have less.
        for _ in range(8):
            await runner.end_one("ann")
            await runner.take()
        assert runner.places["bob"] == 9

    on_queue(streams_url, scenario, shared=True)


def test_two_who_want_all_have_as_many(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        runner = Runner(queue)
        await enqueue(queue, 200, owner="ann")
        await runner.take()
        await enqueue(queue, 200, start=200, owner="bob")
        await runner.take()
        # Whoever's end.
        for number in range(100):
            await runner.end_one("ann" if number % 2 else "bob")
            await runner.take()
        ann, bob = runner.places["ann"], runner.places["bob"]
        assert abs(ann - bob) <= 2 and ann + bob >= ANN_MOST, runner.places

    on_queue(streams_url, scenario, shared=True)


def test_who_is_alone_has_all_places(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        runner = Runner(queue)
        await enqueue(queue, 40)
        assert len(await runner.take()) == PLACES
        assert not queue.has_passed_over
        assert not await redis.exists(keys.QUEUE.owned, keys.QUEUE.shared)

    on_queue(streams_url, scenario)


@pytest.mark.parametrize(
    ("most", "of_one"), [(1, 1), (2, 1), (3, 2), (8, 7), (16, 14), (100, 87)]
)
def test_some_places_of_a_runner_are_left(streams_url: str, most: int, of_one: int) -> None:
    """An eighth, and one of two; the only one is taken by turns."""

    async def scenario(queue: Queue, redis: Any) -> None:
        runner = Runner(queue, most=most)
        await enqueue(queue, 120, owner="ann")
        assert len(await runner.take()) == of_one
        # Of another runner they have none, whatever they have here.
        other = Runner(queue, "r2", most=1)
        assert len(await other.take()) == 1

    on_queue(streams_url, scenario, shared=True)


def test_what_somebody_had_is_taken_whoever_s_it_is(streams_url: str) -> None:
    """It goes on, or it ends for want of a place."""

    async def scenario(queue: Queue, redis: Any) -> None:
        runner, dead = Runner(queue), Runner(queue, "r2")
        await enqueue(queue, 60, owner="ann")
        await runner.take()
        lost = await dead.take()
        await queue.hand_back("r2", ["notes"], lost=True)
        assert len(lost) == ANN_MOST
        assert sorted(await runner.take()) == sorted(lost)[: PLACES - ANN_MOST]
        assert runner.places == {"ann": PLACES}

    on_queue(streams_url, scenario, shared=True)


def test_others_are_found_behind_any_number_at_no_more_cost(streams_url: str) -> None:
    """By what Redis itself says it took."""

    async def asked(queue: Queue, number: int, owner: str) -> None:
        assert await queue.enqueue(f"run-{number}", "notes", owner, 10 * LIMIT) == "ok"

    async def cost_us(queue: Queue, redis: Any, waiting: int) -> float:
        await redis.flushall()
        runner = Runner(queue)
        await sign_of_life(queue, "starter")
        for number in range(waiting):
            await asked(queue, number, "ann")
        await runner.take()

        async def bob(number: int) -> None:
            await asked(queue, number, "bob")
            assert await runner.take() == [f"run-{number}"]
            await runner.end_one("bob")

        # Far behind Ann in turns.
        for number in range(50_000, 50_100):
            await bob(number)
        await redis.config_resetstat()
        for number in range(60_000, 60_050):
            await bob(number)
        stats = await redis.info("commandstats")
        return float(stats["cmdstat_evalsha"]["usec"])

    async def scenario(queue: Queue, redis: Any) -> None:
        few = await cost_us(queue, redis, 150)
        assert await cost_us(queue, redis, 3000) < 3 * few

    on_queue(streams_url, scenario, shared=True)
