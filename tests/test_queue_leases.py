"""Whose a run is: leases, their renewal, and what is taken over after a crash."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import Any

import pytest

from plateau_sse.errors import StoreFull
from plateau_sse.store.queue.announcements import Announcements
from plateau_sse.store.queue.queue import (
    TAKE_WITHOUT_A_PLACE,
    WITHOUT_AFTER_S,
    Leases,
    Queue,
    Ticket,
)
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect_blocking
from tests.queues import (
    FRESH_MS,
    LATE_MS,
    LEASE_MS,
    LIMIT,
    age,
    enqueue,
    held,
    let_wait,
    names,
    on_queue,
    sign_of_life,
    take,
    waiting,
)
from tests.store import full


def back(ticket: Ticket) -> Ticket:
    return ticket._replace(retaken=True)


def test_a_successor_gets_the_runs_of_its_predecessor_at_once(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 4)
        first, second = map(back, await take(queue, "r1", 2))
        (third,) = map(back, await take(queue, "r2", 1))
        assert set(await queue.inherit("r3", "r1")) == {first, second}
        assert await queue.inherit("r3", "r1") == []
        assert await queue.inherit("r3", "r4") == []
        # Nobody has them twice.
        assert names(await take(queue, "r4", 10)) == ["run-3"]
        await queue.done(first, "r3")
        assert await queue.inherit("r4", "r3") == [second]
        assert await queue.inherit("r5", "r2") == [third]
        assert {lease.age_ms < LEASE_MS for lease in (await held(redis)).values()} == {True}

    on_queue(streams_url, scenario)


def test_a_run_is_taken_over_only_after_its_lease(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 3)
        tickets = await take(queue, "r1", 3)
        assert await take(queue, "r2", 10) == []
        await age(redis, "run-0", FRESH_MS)
        await age(redis, "run-2", LATE_MS)
        # Whoever sees it puts it back, whatever agents it has itself.
        await sign_of_life(queue, "r2")
        assert await waiting(redis) == ["run-2"]
        assert await take(queue, "r2", 1) == [back(tickets[2])]
        # It has been renewed by that.
        assert await take(queue, "r3", 10) == []
        assert {run for run, lease in (await held(redis)).items() if lease.runner == "r1"} == {
            "run-0",
            "run-1",
        }

    on_queue(streams_url, scenario)


def test_a_lost_run_is_in_front_of_everyone(streams_url: str) -> None:
    """Whoever's it is."""

    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 60)
        await take(queue, "r1", 58)
        (lost,) = await take(queue, "r2", 1)
        await enqueue(queue, 3, start=100, owner="bob")
        await age(redis, lost.run_id, LATE_MS)
        await sign_of_life(queue, "r3")
        assert await take(queue, "r3", 1) == [back(lost)]
        assert names(await take(queue, "r3", 1)) == ["run-100"]

    on_queue(streams_url, scenario)


def test_of_several_runners_one_takes_over_a_lost_run(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 20)
        lost = await take(queue, "r1", 20)
        for ticket in lost:
            await age(redis, ticket.run_id, LATE_MS)
        shares = [
            *await asyncio.gather(*(take(queue, f"s{i}", 6) for i in range(6))),
            *await asyncio.gather(*(take(queue, f"s{i}", 6) for i in range(6))),
        ]
        assert sorted(chain(*shares)) == sorted(map(back, lost))

    on_queue(streams_url, scenario)


def test_what_others_have_lost_goes_to_whoever_has_places_and_waits_a_while_for_them(
    streams_url: str,
) -> None:
    """A full runner would let it wait, beside one that has nothing to do."""

    async def scenario(queue: Queue, redis: Any) -> None:
        count = TAKE_WITHOUT_A_PLACE + 20
        await enqueue(queue, count + 1)
        lost = sorted(names(await take(queue, "r1", count)))
        for run in lost:
            await age(redis, run, LATE_MS)
        await sign_of_life(queue, "r2")
        assert await take(queue, "r2", 0) == []
        # No new one as long as one that is not waits, and none beyond the places.
        assert names(await take(queue, "r3", 2)) == lost[:2]
        for run in lost[2:-1]:
            await let_wait(redis, run, int(WITHOUT_AFTER_S * 1000) + 1)
        # Kept alive by somebody from now on, a part at a time.
        taken = names(await take(queue, "r2", 1))
        assert taken == lost[2 : 2 + 1 + TAKE_WITHOUT_A_PLACE]
        assert names(await take(queue, "r2", 0)) == lost[2 + len(taken) : -1]
        assert await take(queue, "r2", 0) == []
        assert names(await take(queue, "r3", 9)) == [lost[-1], f"run-{count}"]

    on_queue(streams_url, scenario)


def test_a_full_runner_sees_what_waits_for_long_behind_what_was_lost_a_moment_ago(
    streams_url: str,
) -> None:
    """In a line those that were lost stand by their names."""

    async def scenario(queue: Queue, redis: Any) -> None:
        first, second, third, other = await enqueue(queue, 4)
        assert await queue.enqueue("elsewhere", "else", "ann", LIMIT) == "ok"
        await queue.take("r1", ["notes", "else"], 5)
        await queue.hand_back("r1", ["notes", "else"], lost=True)
        old_ms = int(WITHOUT_AFTER_S * 1000)
        await let_wait(redis, third, old_ms + 2000)
        await let_wait(redis, second, old_ms + 1000)
        await let_wait(redis, "elsewhere", old_ms + 3000)
        assert names(await take(queue, "r2", 0)) == [third, second]
        assert sorted(await waiting(redis)) == ["elsewhere", first, other]
        assert names(await take(queue, "r3", 1)) == [first]

    on_queue(streams_url, scenario)


def test_a_full_runner_leaves_alone_what_a_release_before_has_taken(streams_url: str) -> None:
    """Which says nothing of it in the list of those that somebody had."""

    async def scenario(queue: Queue, redis: Any) -> None:
        (run,) = await enqueue(queue, 1)
        await take(queue, "r1", 1)
        await queue.hand_back("r1", ["notes"], lost=True)
        await let_wait(redis, run, int(WITHOUT_AFTER_S * 1000) + 1000)
        stale = await redis.zrange(keys.QUEUE.back, 0, -1, withscores=True)
        assert names(await take(queue, "before", 1)) == [run]
        await redis.zadd(keys.QUEUE.back, dict(stale))
        assert await take(queue, "r2", 0) == []
        assert (await held(redis))[run].runner == "before"
        # And goes once somebody looks at it.
        await queue.look(60)
        assert await redis.zcard(keys.QUEUE.back) == 0

    on_queue(streams_url, scenario)


def test_what_is_handed_back_goes_to_whoever_has_the_agent(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 3)
        tickets = await take(queue, "r1", 2)
        await queue.hand_back("r2", ["notes"])
        await queue.hand_back("r1", ["other"])
        assert len(await held(redis)) == 2
        await queue.hand_back("r1", ["other", "notes"])
        assert await held(redis) == {}
        assert await take(queue, "r2", 10, ["other"]) == []
        new = Ticket("run-2", "notes", False, "ann")
        assert await take(queue, "r2", 10) == [*map(back, tickets), new]
        # Who has let go of it does not end it for others.
        await queue.done(tickets[0], "r1")
        assert len(await held(redis)) == 3

    on_queue(streams_url, scenario)


def test_leases_are_renewed_and_never_taken_back(streams_url: str) -> None:
    blocking: Any = connect_blocking(streams_url, "test-leases")
    leases = Leases(blocking)

    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 3)
        kept, lost, ended = await take(queue, "r1", 3)
        await age(redis, kept.run_id, LATE_MS)
        await queue.done(ended, "r1")
        await sign_of_life(queue, "r2")
        assert await take(queue, "r2", 1) == [back(kept)]
        await age(redis, kept.run_id, 3000)
        # The one that was late, but that nobody took, is still ours.
        await age(redis, lost.run_id, LATE_MS)
        await sign_of_life(queue, "r2")
        assert await waiting(redis) == [lost.run_id]
        ours = {ticket.run_id: ticket.line for ticket in (kept, lost, ended)}
        assert leases.renew("r1", ours) == {kept.run_id, ended.run_id}
        assert await waiting(redis) == [] == await take(queue, "r2", 1)
        rows = await held(redis)
        assert rows[kept.run_id].runner == "r2" and rows[kept.run_id].age_ms >= 3000
        assert rows[lost.run_id].runner == "r1" and rows[lost.run_id].age_ms < LATE_MS
        assert leases.renew("r2", {kept.run_id: "notes"}) == set()
        assert (await held(redis))[kept.run_id].runner == "r2"
        assert await take(queue, "r3", 10) == []

    with blocking:
        on_queue(streams_url, scenario)


def test_a_full_store_lets_nobody_in_and_everybody_finish(streams_url: str) -> None:
    blocking: Any = connect_blocking(streams_url, "test-leases")

    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 4)
        (first,) = await take(queue, "r1", 1)
        await age(redis, first.run_id, LATE_MS)
        with full(streams_url):
            with pytest.raises(StoreFull):
                await queue.enqueue("run-5", "notes", "ann", LIMIT)
            with pytest.raises(StoreFull):
                await Announcements(redis).say("r1", {"notes": "1"})
            assert await queue.inherit("r9", "r9") == []
            await sign_of_life(queue, "r2")
            assert await take(queue, "r2", 1) == [back(first)]
            assert names(await take(queue, "r2", 2)) == ["run-1", "run-2"]
            assert Leases(blocking).renew("r2", {first.run_id: "notes"}) == set()
            await queue.hand_back("r2", ["notes"])
            await queue.drop("run-3")
            assert len(await take(queue, "r3", 5)) == 3
            for ticket in await queue.inherit("r2", "r3"):
                await queue.done(ticket, "r2")
            assert (await queue.depth())[:2] == (0, 0)

    with blocking:
        on_queue(streams_url, scenario)


def test_ten_thousand_leases_are_looked_at_as_one_is(streams_url: str) -> None:
    """By what Redis itself says it took: a look walks nothing."""

    async def looks(queue: Queue, redis: Any) -> float:
        """Microseconds for each."""
        await redis.config_resetstat()
        for _ in range(200):
            await sign_of_life(queue, "r1")
            await queue.look(60)
            await queue.depth()
        stats = await redis.info("commandstats")
        return float(stats["cmdstat_evalsha"]["usec"] / 600)

    async def scenario(queue: Queue, redis: Any) -> None:
        await enqueue(queue, 1)
        await take(queue, "r1", 1)
        one = await looks(queue, redis)
        await redis.eval(
            """
            for n = 1, 10000 do
              redis.call('ZADD', KEYS[1], ARGV[1], 'many-' .. n)
              redis.call('HSET', KEYS[2], 'many-' .. n, 'n r1 ann notes')
            end
            """,
            2,
            keys.QUEUE.held,
            keys.QUEUE.places,
            4_000_000_000_000,
        )
        assert await looks(queue, redis) < 3 * one
        assert (await queue.depth()).running == 10_001

    on_queue(streams_url, scenario)
