"""What a refusal costs: a few commands, and nothing that is written."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from plateau_sse.errors import Problem, StoreUnavailable
from plateau_sse.intake import door
from plateau_sse.intake.ask import Ask
from plateau_sse.intake.door import Door
from plateau_sse.store.queue import owners as owners_module
from plateau_sse.store.queue.owners import Owners
from plateau_sse.store.queue.queue import Depth
from plateau_sse.store.redis import keys
from tests.intakes import KEYED, QUESTION, RUN_LIFE_S, Desk, at_desk
from tests.queues import enqueue
from tests.store import ALIVE_S, queued, until
from tests.test_intake import ForgetfulStreams

OUTSIDE = Ask("external", "ann", "", [], {})
TIMES = 50
LIMIT = 20


async def commands(redis: Any) -> Counter[str]:
    stats = await redis.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): it["calls"] for name, it in stats.items()})


@pytest.mark.parametrize("why", ["queue_full", "owner_limit", "no_runner"])
def test_who_is_refused_costs_a_few_commands_and_leaves_nothing(
    streams_url: str, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    # However slow this machine is: what was known at the beginning is known at the end.
    monkeypatch.setattr(door, "FRESH_S", 3600.0)
    monkeypatch.setattr(owners_module, "LOOK_AGAIN_S", 3600.0)

    async def scenario(desk: Desk) -> None:
        most = 500 if why == "owner_limit" else 10_000
        owners = Owners(desk.redis, most=most, life_s=RUN_LIFE_S)
        if why == "queue_full":
            await enqueue(desk.queue, LIMIT)
        elif why == "no_runner":
            await desk.redis.delete(keys.QUEUE.runners)
        else:
            run_id = await queued(desk.streams)
            # Each of them is on, as far as that can be seen.
            for number in range(500):
                record = keys.run(f"{number:032x}").record
                await desk.redis.copy(keys.run(run_id).record, record)
                await desk.redis.expire(record, ALIVE_S)
                assert await owners.admit("ann", f"{number:032x}")
        intake = desk.intake(owners=owners)

        async def refused() -> None:
            with pytest.raises(Problem) as caught:
                await intake.take(QUESTION._replace(mode="off"))
            assert caught.value.code == why
            assert "Retry-After" in caught.value.headers

        await refused()
        names = {key async for key in desk.redis.scan_iter(count=1000)}
        before = await commands(desk.redis)
        for _ in range(TIMES):
            await refused()
        done = await commands(desk.redis) - before
        assert sum(done.values()) <= 6 * TIMES, done
        assert not done.keys() & {"hset", "sadd", "zadd", "xadd", "del", "set"}, done
        assert {key async for key in desk.redis.scan_iter(count=1000)} == names

    at_desk(streams_url, "", scenario, limit=LIMIT)


def asked(text: str) -> Ask:
    return QUESTION._replace(messages=[{"role": "user", "content": text}])


def test_room_that_a_worker_makes_it_knows_of_at_once(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "FRESH_S", 3600.0)
    monkeypatch.setattr(owners_module, "LOOK_AGAIN_S", 3600.0)

    async def scenario(desk: Desk) -> None:
        intake = desk.intake(owners=Owners(desk.redis, most=2, life_s=RUN_LIFE_S))
        first = await intake.take(asked("1"))
        await intake.take(asked("2"))
        for text in ("3", "4"):
            with pytest.raises(Problem):
                await intake.take(asked(text))
        cancel = intake._placement.cancel(first.run_id, "notes", "ann", "requested")
        assert await cancel == "cancelled"
        third = await intake.take(asked("3"))
        assert third.run_id in await desk.queued()

    at_desk(streams_url, "", scenario, limit=2)


def test_room_that_others_make_is_known_soon(streams_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        intake = desk.intake()
        await intake.take(asked("1"))
        for text in ("2", "3"):
            with pytest.raises(Problem):
                await intake.take(asked(text))
        assert len(await desk.queued()) == 1

        async def is_let_in() -> bool:
            try:
                return (await intake.take(asked("4"))).status == "queued"
            except Problem:
                return False

        await until(is_let_in, "there is room", timeout_s=door.FRESH_S + 5)

    at_desk(streams_url, "", scenario, limit=1)


def test_where_the_store_is_silent_all_who_wait_are_told_at_once() -> None:
    class Silent:
        asked = 0

        async def depth(self) -> None:
            self.asked += 1
            await asyncio.sleep(0.05)
            raise StoreUnavailable("as it was asked to be")

    async def scenario() -> None:
        queue: Any = Silent()
        at_the_door = door.Door(queue, LIMIT)
        waiting = [asyncio.create_task(at_the_door.look()) for _ in range(TIMES)]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, StoreUnavailable) for one in found)
        assert queue.asked == 1
        await at_the_door.close()

    asyncio.run(scenario())


class Blind(Door):
    """Knows of nobody who waits, as one does whose knowledge is half a second old."""

    async def look(self) -> Depth:
        return (await super().look())._replace(waiting=0)


@pytest.mark.parametrize("kind", ["queued", "outside"])
def test_who_is_refused_behind_his_record_is_counted_nowhere(
    streams_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Neither among the minute's nor among those that are on."""
    monkeypatch.setattr("tests.intakes.Door", Blind)

    async def scenario(desk: Desk) -> None:
        ask = OUTSIDE if kind == "outside" else QUESTION._replace(mode="off")
        owners = Owners(desk.redis, most=10, life_s=RUN_LIFE_S, per_minute=60)
        intake = desk.intake(owners=owners)
        if kind == "outside":
            await desk.intake().take(OUTSIDE)
        else:
            await enqueue(desk.queue, 1)
        for _ in range(TIMES):
            with pytest.raises(Problem) as caught:
                await intake.take(ask)
            # None of them was one too many of the owner's, or of a minute's.
            assert caught.value.code == "queue_full"
        assert await desk.redis.zcard(keys.owner(ask.account)) == 0
        for number in range(60):
            assert (await owners.room(ask.account, f"{number:032x}")).wait_ms == 0

    at_desk(streams_url, "", scenario, limit=1)


def test_who_is_refused_though_his_record_was_written_twice_is_counted_nowhere(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the first time was lost, so that it looks like another's."""
    monkeypatch.setattr("tests.intakes.Door", Blind)

    async def scenario(desk: Desk) -> None:
        owners = Owners(desk.redis, most=10, life_s=RUN_LIFE_S, per_minute=60)
        streams = ForgetfulStreams(desk.redis, alive_s=120, record_s=600)
        await enqueue(desk.queue, 1)
        with pytest.raises(Problem) as caught:
            await desk.intake(owners=owners, streams=streams).take(
                QUESTION._replace(mode="off")
            )
        assert caught.value.code == "queue_full"
        assert await desk.redis.zcard(keys.owner(QUESTION.account)) == 0

    at_desk(streams_url, "", scenario, limit=1)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "ask",
    [QUESTION, KEYED, OUTSIDE._replace(idempotency_key="k")],
    ids=["the same", "a key", "from outside"],
)
def test_who_shares_a_run_or_finds_its_answer_spends_nothing_of_the_minute(
    streams_url: str, cache_url: str, workers: int, ask: Ask
) -> None:
    """However many ask the same at once, and more than might begin a run."""

    async def scenario(desk: Desk) -> None:
        owners = Owners(desk.redis, most=100, life_s=RUN_LIFE_S, per_minute=10)
        intakes = [desk.intake(owners=owners) for _ in range(workers)]
        taken = await asyncio.gather(*(intakes[n % workers].take(ask) for n in range(30)))
        assert len({one.run_id for one in taken}) == 1
        if not ask.idempotency_key:
            assert [one.how for one in taken].count("miss") == 1
        waits = [(await owners.room(ask.account, f"{n:032x}")).wait_ms for n in range(10)]
        # One is spent.
        assert [bool(wait_ms) for wait_ms in waits] == [False] * 9 + [True]

    at_desk(streams_url, cache_url, scenario)
