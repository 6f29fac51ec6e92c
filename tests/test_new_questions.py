"""What nobody has asked a worker lately: it leads without a look, and looks at more at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from plateau_sse.errors import Problem, StoreError
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.queue.owners import Owners
from plateau_sse.store.queue.queue import Depth, Queue
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.together import Call, together
from plateau_sse.store.runs.inflight import Inflight
from tests.intakes import QUESTION, RUN_LIFE_S, Desk, at_desk

BOUNDS: Any = {"ttl_s": 60, "max_bytes": 10 * 1024**2}
WITHIN_S = 10


def test_where_there_is_no_room_it_still_joins_who_asked_at_another_worker(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        first = await desk.intake().take(QUESTION)
        second = await desk.intake().take(QUESTION)
        assert (second.how, second.run_id) == ("joined", first.run_id)
        other = QUESTION._replace(messages=[{"role": "user", "content": "How?"}])
        with pytest.raises(Problem) as refused:
            await desk.intake().take(other)
        assert refused.value.code == "queue_full"
        assert await desk.runs() == {first.run_id}

    at_desk(streams_url, cache_url, scenario, limit=1)


def test_a_hint_that_is_refused_takes_its_record_with_it(
    streams_url: str, cache_url: str
) -> None:
    class Refused(Inflight):
        def taking(self, key: str, run_id: str, *, instead_of: str = "") -> Call:
            call = super().taking(key, run_id, instead_of=instead_of)
            return Call(call.script, call.keys, [run_id, instead_of, "no number"])

    async def scenario(desk: Desk) -> None:
        with pytest.raises(StoreError):
            await desk.intake(inflight=Refused(desk.redis, life_s=300)).take(QUESTION)
        assert await desk.runs() == set()

    at_desk(streams_url, cache_url, scenario)


def test_the_streams_are_looked_at_while_the_cache_is(streams_url: str, cache_url: str) -> None:
    looked = asyncio.Event()

    class Looked(Queue):
        async def depth(self) -> Depth:
            looked.set()
            return await super().depth()

    class Waiting(Cache):
        async def get(self, key: str) -> Answer | None:
            async with asyncio.timeout(WITHIN_S):
                await looked.wait()
            return await super().get(key)

    async def scenario(desk: Desk) -> None:
        cache = Waiting(desk.cache._redis, **BOUNDS)
        intake = desk.intake(cache=cache, queue=Looked(desk.redis))
        assert (await intake.take(QUESTION)).how == "miss"

    at_desk(streams_url, cache_url, scenario)


def test_a_hit_waits_for_nothing_of_that(streams_url: str, cache_url: str) -> None:
    class Silent(Queue):
        async def depth(self) -> Depth:
            return await asyncio.Future()

    async def scenario(desk: Desk) -> None:
        taken = await desk.intake().take(QUESTION)
        await desk.start(taken.run_id)
        await desk.complete(taken.run_id)
        intake = desk.intake(queue=Silent(desk.redis))
        async with asyncio.timeout(WITHIN_S):
            assert (await intake.take(QUESTION)).how == "hit"
        await intake._admission.close()

    at_desk(streams_url, cache_url, scenario)


def test_an_owner_s_run_is_counted_with_its_record_and_once(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        owners = Owners(desk.redis, most=1, life_s=RUN_LIFE_S)
        intake = desk.intake(owners=owners)
        first = await intake.take(QUESTION)
        name = keys.owner("ann")
        assert await desk.redis.zrange(name, 0, -1) == [first.run_id.encode()]
        other = QUESTION._replace(messages=[{"role": "user", "content": "How?"}])
        with pytest.raises(Problem) as refused:
            await intake.take(other)
        assert refused.value.code == "owner_limit"
        assert await desk.runs() == {first.run_id}
        assert await desk.redis.zrange(name, 0, -1) == [first.run_id.encode()]
        # One that has ended counts no more.
        await desk.start(first.run_id)
        await desk.fail(first.run_id)
        owners._full_until.clear()
        assert (await intake.take(other)).how == "miss"

    at_desk(streams_url, cache_url, scenario)


def test_scripts_that_a_server_does_not_have_are_sent_again_in_their_order(
    streams_url: str,
) -> None:
    async def scenario(desk: Desk) -> None:
        append = desk.redis.register_script(
            "#!lua\nreturn redis.call('RPUSH', KEYS[1], ARGV[1])"
        )
        for _ in range(2):
            calls = [Call(append, ["list"], [word]) for word in ("a", "b")]
            await desk.redis.delete("list")
            await together(desk.redis, *calls)
            assert [call.reply for call in calls] == [1, 2]
            assert await desk.redis.lrange("list", 0, -1) == [b"a", b"b"]
        await desk.redis.delete("list")

    at_desk(streams_url, "", scenario)
