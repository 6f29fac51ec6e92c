"""A run's place in the queue: one of those who share it sees to that, the others wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from plateau_sse.errors import Problem
from plateau_sse.intake.ask import Ask, Taken
from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.redis import keys
from plateau_sse.store.runs.shares import TOKENS_MOST, Shares
from tests.intakes import KEYED, QUESTION, Desk, at_desk
from tests.store import queued, until


@pytest.fixture
def nobody_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sees to a run's place is never taken for dead, however slow the machine."""
    monkeypatch.setattr("plateau_sse.store.runs.shares.PLACING_S", 3600.0)


class Died(Exception):
    """A web worker is gone in the middle of a request."""


class Gate(Queue):
    """Nobody gets past its door until that is open."""

    def __init__(self, redis: Any) -> None:
        super().__init__(redis)
        self.door = asyncio.Event()

    async def enqueue(self, run_id: str, agent: str, limit: int) -> Any:
        await self.door.wait()
        return await super().enqueue(run_id, agent, limit)


class CountingShares(Shares):
    """Notes who asked how often."""

    def __init__(self, redis: Any) -> None:
        super().__init__(redis)
        self.asked: dict[str, int] = {}

    async def share(self, run_id: str, token: str) -> Any:
        status = await super().share(run_id, token)
        self.asked[token] = self.asked.get(token, 0) + 1
        return status


@pytest.mark.usefixtures("nobody_is_late")
@pytest.mark.parametrize("ask", [QUESTION, KEYED], ids=["joined", "keyed"])
def test_while_its_leader_is_about_to_enqueue_it_nobody_else_does(
    streams_url: str, cache_url: str, ask: Ask
) -> None:
    async def scenario(desk: Desk) -> None:
        gate, shares = Gate(desk.redis), CountingShares(desk.redis)
        workers = [desk.intake(queue=gate, shares=shares) for _ in range(2)]
        asking = [asyncio.create_task(workers[n % 2].take(ask)) for n in range(20)]

        async def all_wait() -> bool:
            return len(shares.asked) == 19 and min(shares.asked.values()) >= 3

        await until(all_wait, "19 have asked again and again")
        gate.door.set()
        taken = await asyncio.gather(*asking)
        (run_id,) = {one.run_id for one in taken}
        assert {one.status for one in taken} == {"queued"}
        assert await desk.queued() == [run_id]

    at_desk(streams_url, cache_url, scenario)


def test_when_its_leader_has_died_one_of_many_enqueues_it(
    streams_url: str, cache_url: str
) -> None:
    class Dying(Queue):
        async def enqueue(self, run_id: str, agent: str, limit: int) -> Any:
            raise Died

    async def scenario(desk: Desk) -> None:
        with pytest.raises(Died):
            await desk.intake(queue=Dying(desk.redis)).take(QUESTION)
        workers = [desk.intake(), desk.intake()]
        taken = await asyncio.gather(*(workers[n % 2].take(QUESTION) for n in range(50)))
        (run_id,) = {one.run_id for one in taken}
        assert {one.how for one in taken} == {"joined"}
        assert await desk.queued() == [run_id]

    at_desk(streams_url, cache_url, scenario)


@pytest.mark.usefixtures("nobody_is_late")
@pytest.mark.parametrize("ask", [QUESTION, KEYED], ids=["joined", "keyed"])
def test_when_its_leader_is_refused_the_next_tries_at_once(
    streams_url: str, cache_url: str, ask: Ask
) -> None:
    """Nobody waits for one who has given up to be taken for dead."""

    async def scenario(desk: Desk) -> None:
        class RefusingTwice(Queue):
            tries = 0

            async def enqueue(self, run_id: str, agent: str, limit: int) -> Any:
                self.tries += 1
                if self.tries == 1:
                    await until(others_wait, "the others wait")
                if self.tries <= 2:
                    return "full"
                return await super().enqueue(run_id, agent, limit)

        async def others_wait() -> bool:
            return len(shares.asked) == 9

        queue, shares = RefusingTwice(desk.redis), CountingShares(desk.redis)
        worker = desk.intake(queue=queue, shares=shares)
        outcomes = await asyncio.gather(
            *(worker.take(ask) for _ in range(10)), return_exceptions=True
        )
        refused = [one for one in outcomes if isinstance(one, Problem)]
        taken = [one for one in outcomes if isinstance(one, Taken)]
        assert [one.code for one in refused] == ["queue_full"] * 2
        (run_id,) = {one.run_id for one in taken}
        assert len(taken) == 8 and queue.tries == 3
        assert await desk.queued() == [run_id]

    at_desk(streams_url, cache_url, scenario)


def test_who_waits_while_the_run_ends_is_told_of_it(streams_url: str, cache_url: str) -> None:
    """It may be enqueued, executed and over between two looks: it was joined all the same."""

    async def scenario(desk: Desk) -> None:
        joining: list[asyncio.Task[Taken]] = []

        class Fast(Queue):
            async def enqueue(self, run_id: str, agent: str, limit: int) -> Any:
                joining.append(asyncio.create_task(desk.intake().take(QUESTION)))
                tokens = keys.run(run_id).tokens

                async def joined() -> bool:
                    return await desk.redis.scard(tokens) == 2  # type: ignore[no-any-return]

                await until(joined, "another has joined")
                code = await super().enqueue(run_id, agent, limit)
                await desk.start(run_id)
                await desk.complete(run_id)
                return code

        led = await desk.intake(queue=Fast(desk.redis)).take(QUESTION)
        joined = await joining[0]
        assert (joined.run_id, joined.how) == (led.run_id, "joined")
        assert joined.status == "completed"
        record = await desk.streams.record(joined.run_id, joined.token)
        assert record is not None and record.output == "Because."

    at_desk(streams_url, cache_url, scenario)


def test_a_refused_run_that_its_joiners_have_given_up_ends(
    streams_url: str, cache_url: str
) -> None:
    """They still read it, and it has no place from which anyone would end it."""

    async def scenario(desk: Desk) -> None:
        runs: list[str] = []

        class GivenUp(Queue):
            async def enqueue(self, run_id: str, agent: str, limit: int) -> Any:
                runs.append(run_id)
                await desk.shares.share(run_id, "token2")
                assert await desk.shares.give_up(run_id, "token2", "requested") == 1
                return "full"

        with pytest.raises(Problem):
            await desk.intake(queue=GivenUp(desk.redis)).take(QUESTION)
        record = await desk.streams.record(runs[0], "token2")
        assert record is not None and record.status == "cancelled"
        # And meanwhile nobody could have joined it.
        assert await desk.shares.share(runs[0], "token3") == "over"

    at_desk(streams_url, cache_url, scenario)


def test_a_share_that_is_taken_back_leaves_the_run_to_those_who_hold_theirs(
    streams_url: str,
) -> None:
    async def scenario(desk: Desk) -> None:
        shares = desk.shares
        run_id = await queued(desk.streams)
        record, tokens = keys.run(run_id).record, keys.run(run_id).tokens
        leader = next(iter(await desk.redis.smembers(tokens))).decode()
        for token in ("a", "b"):
            assert await shares.share(run_id, token) == "queued"
        assert await shares.give_up(run_id, "a", "requested") == 2
        assert await shares.withdraw(run_id, leader, "requested") == "left"
        assert await desk.redis.hget(record, "cancel") is None
        # The leader saw to its place: now another does.
        assert await shares.share(run_id, "b") == "unplaced"
        assert await shares.share(run_id, "c") == "queued"
        # Who does not see to it takes nobody's turn away.
        assert await shares.withdraw(run_id, "c", "requested") == "left"
        assert await shares.share(run_id, "d") == "queued"
        assert await shares.withdraw(run_id, "d", "requested") == "left"
        assert await shares.withdraw(run_id, "b", "requested") == "given_up"
        assert await desk.redis.hget(record, "cancel") == b"requested"
        assert await shares.share(run_id, "e") == "over"
        # What has been given up still reads.
        assert await desk.streams.record(run_id, "a") is not None

    at_desk(streams_url, "", scenario)


def test_who_sees_to_a_place_is_known_until_the_run_is_claimed(streams_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        taken = await desk.intake().take(QUESTION)
        record = keys.run(taken.run_id).record
        placer = await desk.redis.hget(record, "placer")
        assert placer.decode().split()[0] == taken.token
        # Joined to the brim or not: who has a share is told.
        await desk.redis.sadd(keys.run(taken.run_id).tokens, *map(str, range(TOKENS_MOST)))
        assert await desk.shares.share(taken.run_id, taken.token) == "enqueued"
        assert await desk.shares.share(taken.run_id, "new") == "over"
        await desk.start(taken.run_id)
        assert not await desk.redis.hexists(record, "placer")
        assert await desk.shares.share(taken.run_id, taken.token) == "running"

    at_desk(streams_url, "", scenario)
