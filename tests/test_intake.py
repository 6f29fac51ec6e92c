"""Taking a run on: whoever is told its id finds it in the queue, whatever went wrong before."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from plateau_sse.errors import Problem
from plateau_sse.intake.ask import Ask
from plateau_sse.intake.start import LOOK_AGAIN_S
from plateau_sse.store.queue.announcements import Announced, Announcements
from plateau_sse.store.queue.queue import Depth, Queue
from plateau_sse.store.redis import keys
from plateau_sse.store.runs.streams import Streams
from tests.intakes import KEYED, QUESTION, RUNNER, Desk, at_desk
from tests.queues import sign_of_life
from tests.store import until


class ForgetfulStreams(Streams):
    """Its first answer gets lost, so the client library asks again."""

    async def create(self, run_id: str, **values: Any) -> str:
        await super().create(run_id, **values)
        return await super().create(run_id, **values)


class NoRunner(Queue):
    """Nobody is there any more to take anything from it."""

    async def enqueue(self, run_id: str, agent: str, owner: str, limit: int) -> Any:
        return "no_runner"


@pytest.mark.parametrize("ask", [KEYED, QUESTION], ids=["keyed", "unkeyed"])
def test_a_record_whose_answer_was_lost_is_handed_over(streams_url: str, ask: Ask) -> None:
    async def scenario(desk: Desk) -> None:
        forgetful = ForgetfulStreams(desk.redis, alive_s=120, record_s=600)
        taken = await desk.intake(streams=forgetful).take(ask)
        assert await desk.queued() == [taken.run_id]

    at_desk(streams_url, "", scenario)


def test_what_a_key_stands_for_is_left_to_who_comes_next(streams_url: str) -> None:
    """Another may have come with the same key meanwhile, and have been told the run's id."""

    async def scenario(desk: Desk) -> None:
        with pytest.raises(Problem) as refused:
            await desk.intake(queue=NoRunner(desk.redis)).take(KEYED)
        assert refused.value.code == "no_runner"
        taken = await desk.intake().take(KEYED)
        assert taken.status == "queued"
        assert await desk.queued() == [taken.run_id]

    at_desk(streams_url, "", scenario)


@pytest.mark.parametrize("said_before", [False, True])
def test_in_the_first_moments_a_run_waits_for_the_runner(
    streams_url: str, said_before: bool
) -> None:
    """Whether or not an earlier one has left word of what it has."""

    async def scenario(desk: Desk) -> None:
        await desk.redis.flushdb()
        if said_before:
            await desk.announcements.say(RUNNER, {"notes": "1"})
        looks, really = 0, desk.queue.depth

        async def counting() -> Depth:
            nonlocal looks
            looks += 1
            return await really()

        desk.queue.depth = counting  # type: ignore[method-assign]
        intake = desk.intake(within_s=30.0)
        asking = [asyncio.create_task(intake.take(ask)) for ask in (QUESTION, KEYED)]

        async def both_look() -> bool:
            return looks > 2

        await until(both_look, "they look for it")
        assert not any(it.done() for it in asking)
        await desk.announcements.say(RUNNER, {"notes": "1"})
        await sign_of_life(desk.queue, RUNNER)
        taken = await asyncio.gather(*asking)
        assert {it.status for it in taken} == {"queued"}
        # One may join the other.
        assert set(await desk.queued()) == {it.run_id for it in taken}

    at_desk(streams_url, "", scenario)


def test_those_who_wait_for_the_runner_ask_for_it_as_one(streams_url: str) -> None:
    """Of a hundred, each would ask ten times a second, of a store that has just come up."""

    async def scenario(desk: Desk) -> None:
        asked = Counter[str]()

        class Counting(Announcements):
            async def agents(self) -> dict[str, Announced]:
                asked["agents"] += 1
                return await super().agents()

        class Watched(Queue):
            async def depth(self) -> Depth:
                asked["depth"] += 1
                return await super().depth()

        for name in (keys.AGENTS, keys.ANNOUNCED):
            await desk.redis.delete(name)
        queue = Watched(desk.redis)
        intake = desk.intake(announcements=Counting(desk.redis), queue=queue, within_s=0.5)
        told = await asyncio.gather(
            *(intake.take(QUESTION) for _ in range(100)), return_exceptions=True
        )
        assert {one.code for one in told if isinstance(one, Problem)} == {"no_runner"}
        looks = 0.5 / LOOK_AGAIN_S
        # Each once before it waits, which those who come meanwhile share.
        assert max(asked.values()) <= looks + 3, asked

    at_desk(streams_url, "", scenario)


@pytest.mark.parametrize("mode", ["use", "refresh", "off"])
def test_without_a_key_a_refused_run_leaves_nothing_behind(streams_url: str, mode: Any) -> None:
    async def scenario(desk: Desk) -> None:
        with pytest.raises(Problem):
            await desk.intake(queue=NoRunner(desk.redis)).take(QUESTION._replace(mode=mode))
        assert await desk.runs() == set()
        assert await desk.redis.keys("inflight:*") == []

    at_desk(streams_url, "", scenario)


def test_a_key_is_good_across_an_upgrade() -> None:
    """What the release before conversations kept of a request is what is made of it now."""
    asked = KEYED._replace(options={"b": 1, "a": [2]}, ttl_s=60)
    assert asked.fingerprint() == "d5bf02ae79bc91d53833e074288e7278"
    assert asked._replace(idempotency_key="k2").fingerprint() == asked.fingerprint()
    within = asked._replace(conversation_id="c1")
    assert within.fingerprint() != asked.fingerprint()
    assert within._replace(conversation_id="c2").fingerprint() != within.fingerprint()
