"""Cancelling runs that wait, new ones and those that somebody had, whoever comes in between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from plateau_sse.store.queue.owners import Owners
from plateau_sse.store.queue.queue import Depth
from plateau_sse.store.redis import keys
from tests.intakes import LINE, QUESTION, RUN_LIFE_S, RUNNER, Desk, at_desk
from tests.queues import LATE_MS, age, held, names, take, waiting
from tests.store import claim, counters

OFF = QUESTION._replace(mode="off")


async def lose(desk: Desk, run_ids: list[str]) -> None:
    for run_id in run_ids:
        await age(desk.redis, run_id, LATE_MS)
    # Whoever looks next puts them back.
    await take(desk.queue, "another", 0, ())


async def hand_back(desk: Desk, _: list[str]) -> None:
    await desk.queue.hand_back(RUNNER, [LINE])


async def begun(desk: Desk, count: int, **parts: Any) -> list[str]:
    intake = desk.intake(**parts)
    runs = [(await intake.take(OFF)).run_id for _ in range(count)]
    assert sorted(await desk.queued()) == sorted(runs)
    for run_id in runs:
        await desk.start(run_id)
    return runs


@pytest.mark.parametrize("leave", [lose, hand_back])
def test_a_run_that_waits_for_another_runner_is_cancelled_at_once(
    streams_url: str, leave: Any
) -> None:
    """And gives its place back, and its owner's share: no runner may ever come."""

    async def scenario(desk: Desk) -> None:
        owners = Owners(desk.redis, most=2, life_s=RUN_LIFE_S)
        placement = desk.placement(owners=owners)
        run_id, other = await begun(desk, 2, owners=owners)
        assert await placement.cancel(other, "notes", "ann", "requested") == "running"
        await leave(desk, [run_id, other])
        assert set(await waiting(desk.redis)) == {run_id, other}
        assert await placement.cancel(run_id, "notes", "ann", "requested") == "cancelled"
        assert await desk.status(run_id) == "cancelled"
        assert await waiting(desk.redis) == [other]
        assert await desk.redis.zrange(keys.QUEUE.back, 0, -1) == [other.encode()]
        assert not (await owners.room("ann", "another")).is_full
        # Whoever takes the other finds the wish.
        assert names(await take(desk.queue, RUNNER, 5, [LINE])) == [other]
        assert (await claim(desk.streams, other, 2)).cancel == "requested"
        assert await desk.queue.depth() == Depth(0, 1, (await desk.queue.depth()).runners)

    at_desk(streams_url, "", scenario)


def test_however_many_cancel_a_run_it_is_counted_once(streams_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        placement = desk.placement()
        runs = await begun(desk, 10)
        await hand_back(desk, runs)
        new = [(await desk.intake().take(OFF)).run_id for _ in range(10)]
        told = await asyncio.gather(
            *(
                placement.cancel(run_id, "notes", "ann", "requested")
                for run_id in (*runs, *new)
                for _ in range(5)
            )
        )
        assert set(told) == {"cancelled"}
        assert (await counters(desk.stats))["runs_cancelled"] == 20
        assert await waiting(desk.redis) == []

    at_desk(streams_url, "", scenario)


def test_a_run_that_is_let_go_of_or_taken_while_it_is_cancelled_hears_of_it(
    streams_url: str,
) -> None:
    """Either it ends at once, or who has it, or finds it, has the wish before it."""

    async def scenario(desk: Desk) -> None:
        placement = desk.placement()
        runs = await begun(desk, 40)

        async def take_and_begin() -> None:
            for ticket in await take(desk.queue, "r2", 1000, [LINE]):
                await desk.streams.begin(ticket.run_id, 2, "r2", "notes")

        async def cancel(run_id: str) -> str:
            return await placement.cancel(run_id, "notes", "ann", "requested")

        told = await asyncio.gather(
            *map(cancel, runs[:20]),
            hand_back(desk, runs),
            *map(cancel, runs[20:]),
            take_and_begin(),
        )
        for run_id, said in zip(runs, [*told[:20], *told[21:-1]], strict=True):
            assert said in ("cancelled", "running")
            if said == "cancelled":
                assert await desk.status(run_id) == "cancelled"
                continue
            assert await desk.streams.cancel_reasons([run_id]) == {run_id: "requested"}
        ended = {run_id for run_id in runs if await desk.status(run_id) == "cancelled"}
        assert not ended & set(await waiting(desk.redis))
        # Who took one that had ended by then finds nothing to do.
        for run_id in ended & set(await held(desk.redis)):
            assert (await desk.streams.begin(run_id, 3, "r3", "notes"))[0] == "ended"

    at_desk(streams_url, "", scenario)
