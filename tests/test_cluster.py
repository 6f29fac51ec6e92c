"""A cluster: commands and subscriptions by slot, while slots and primaries move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from redis.exceptions import ResponseError

from plateau_sse import tasks
from plateau_sse.errors import WritesRefused
from plateau_sse.live.hub import Hub
from plateau_sse.redis_urls import address_of
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.figures.workers import Workers
from plateau_sse.store.queue.queue import Leases, Queue
from plateau_sse.store.redis import keys, servers
from plateau_sse.store.redis.connections import (
    connect,
    connect_blocking,
    keep_following,
    servers_of,
)
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.redis.topology import slot_of, topology_of
from plateau_sse.store.runs.appending import BlockingStreams
from plateau_sse.store.runs.streams import Streams
from tests.groups import Cluster
from tests.store import answer, finished, head_of, on_streams, running, texts, until
from tests.test_hub import Bench

MIB = 1024**2


@pytest.fixture
def whole(cluster: Cluster) -> Cluster:
    cluster.wait_until_whole()
    return cluster


async def one_on_each(streams: Streams, cluster: Cluster) -> list[str]:
    """Runs on all primaries."""
    places: set[int] = set()
    found: list[str] = []
    while len(places) < 3:
        run_id = await running(streams)
        place = cluster.primary_of(slot_of(keys.run(run_id).record)).port
        if place not in places:
            places.add(place)
            found.append(run_id)
    return found


def test_what_is_asked_at_once_comes_from_all_of_them(whole: Cluster) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        runs = await one_on_each(streams, whole)
        gone = "0" * 32
        assert await streams.statuses([*runs, gone]) == ["running"] * 3 + [None]
        assert None not in await streams.last_numbers(runs)
        workers = Workers(redis, "web")
        await workers.report({"readers": 1})
        (figures,) = await workers.all()
        # By the one clock that it was written by.
        assert 0 <= float(figures["age_s"]) < 5
        async with redis.pipeline(transaction=False) as pipe:
            pipe.lrange(keys.run(runs[0]).record, 0, -1)
            with pytest.raises(ResponseError):
                await pipe.execute()

    on_streams(whole.url, scenario)


def test_a_script_that_one_of_them_lacks_is_sent_again(whole: Cluster) -> None:
    async def scenario(streams: Streams, _: Any) -> None:
        runs = await one_on_each(streams, whole)
        lacking = whole.primary_of(slot_of(keys.run(runs[0]).record))
        with lacking.client() as client:
            client.script_flush()
        for run_id in runs:
            appended = await streams.append(run_id, 1, texts("a"), first_seq=2)
            assert appended.code == "ok"
        with connect_blocking(whole.url, "test") as blocking, lacking.client() as client:
            client.script_flush()
            there = BlockingStreams(blocking, record_s=600)
            for run_id in runs:
                there.hand_back(run_id, 1, 1)

    on_streams(whole.url, scenario)


def test_a_slot_moves_while_its_run_is_on(whole: Cluster) -> None:
    """Half way what has only some of its keys is refused by both, which passes; what has none
    is asked of the one that takes the slot over."""

    async def scenario(streams: Streams, _: Any) -> None:
        run_id = await running(streams)
        slot = slot_of(keys.run(run_id).record)
        loop = asyncio.get_running_loop()
        said: list[str] = []

        async def half() -> None:
            with pytest.raises(WritesRefused, match="TRYAGAIN"):
                await streams.append(run_id, 1, texts("a"), first_seq=2)
            said.append(await running_in(slot, streams))

        def half_way() -> None:
            asyncio.run_coroutine_threadsafe(half(), loop).result(20)

        await asyncio.to_thread(partial(whole.migrate, slot, half_way=half_way))
        appended = await streams.append(run_id, 1, texts("a", "b"), first_seq=2)
        assert (appended.code, said) == ("ok", ["ok"])
        record = await streams.record(run_id)
        assert record is not None and record.tape.said() == "ab"

    on_streams(whole.url, scenario)


async def running_in(slot: int, streams: Streams) -> str:
    """What is asked of a run of that slot that is not there: nothing, and no error."""
    n = 0
    while slot_of(keys.run(f"{n:032x}").record) != slot:
        n += 1
    assert await streams.statuses([f"{n:032x}"]) == [None]
    return "ok"


@asynccontextmanager
async def followed(cluster: Cluster) -> AsyncIterator[Bench]:
    redis = connect(cluster.url, "test")
    streams = Streams(redis, alive_s=60, record_s=600)
    hub = Hub(cluster.url, streams, "test-hub")
    hub.open()
    following = asyncio.create_task(keep_following(cluster.url, (redis,)))
    try:
        await until(partial(_connected, hub), "it is connected to all")
        yield Bench(hub, streams, redis)
    finally:
        await tasks.end(following)
        await hub.close()
        await redis.aclose()


async def _connected(hub: Hub) -> bool:
    return hub.connected


def test_readers_follow_a_slot_that_moves(whole: Cluster) -> None:
    """The server says so unasked; who waits for a disconnect stays deaf until the sweep."""

    async def scenario() -> None:
        async with followed(whole) as b:
            runs = await one_on_each(b.streams, whole)
            followers = [(await b.follow(run_id))[1] for run_id in runs]
            slot = slot_of(keys.run(runs[0]).record)
            await asyncio.to_thread(whole.migrate, slot)
            loop = asyncio.get_running_loop()
            began = loop.time()
            for run_id, follower in zip(runs, followers, strict=True):
                # Numbered, as runners do it: others begin anew at a server that is another.
                await b.streams.append(run_id, 1, texts("x", "y"), first_seq=2)
                await follower.until(partial(follower.has, 2))
            # The sweep, which is the net under it, comes by once in 15 s.
            assert loop.time() - began < 5
            assert b.hub.connected

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize("how", [(), ("FORCE",), ("TAKEOVER",)])
def test_readers_follow_a_failover(whole: Cluster, how: tuple[str, ...]) -> None:
    async def scenario() -> None:
        async with followed(whole) as b:
            runs = await one_on_each(b.streams, whole)
            followers = [(await b.follow(run_id))[1] for run_id in runs]
            slot = slot_of(keys.run(runs[0]).record)
            await asyncio.to_thread(whole.fail_over, slot, *how)
            loop = asyncio.get_running_loop()
            began = loop.time()
            for run_id, follower in zip(runs, followers, strict=True):
                await b.streams.append(run_id, 1, texts("x"), first_seq=2)
                await follower.until(partial(follower.has, 1))
            await until(partial(_connected, b.hub), "it is connected to all")
            assert loop.time() - began < 10

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_another_primary_is_known_within_seconds(whole: Cluster) -> None:
    """Though nobody asks anything meanwhile."""

    async def scenario() -> None:
        topology = topology_of(address_of(whole.url))
        following = asyncio.create_task(keep_following(whole.url, ()))
        try:
            await topology.known()
            before = topology.owner(0)
            await asyncio.to_thread(whole.fail_over, 0)
            await until(partial(_is_other, topology, before), "it is known", timeout_s=6)
        finally:
            await tasks.end(following)

    asyncio.run(asyncio.wait_for(scenario(), 60))


async def _is_other(topology: Any, before: Any) -> bool:
    return bool(topology.owner(0) != before)


def test_leases_are_renewed_after_a_failover(whole: Cluster) -> None:
    async def scenario() -> None:
        redis, blocking = connect(whole.url, "test"), connect_blocking(whole.url, "leases")
        queue, leases = Queue(redis), Leases(blocking)
        await queue.take("r1", ("notes",), 0)
        assert await queue.enqueue("run-1", "notes", "ann", 10) == "ok"
        assert len((await queue.take("r1", ("notes",), 1)).tickets) == 1
        assert await asyncio.to_thread(leases.renew, "r1", {"run-1": "notes"}) == set()
        await asyncio.to_thread(whole.fail_over, slot_of(keys.QUEUE.since))
        assert await asyncio.to_thread(leases.renew, "r1", {"run-1": "notes"}) == set()
        await asyncio.to_thread(leases.hand_back, "r1", ["notes"])
        (ticket,) = (await queue.take("r2", ("notes",), 1)).tickets
        assert ticket.retaken
        await redis.aclose()
        blocking.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_all_primaries_are_looked_at(whole: Cluster) -> None:
    async def scenario() -> None:
        redis: Any = connect(whole.url, "test")
        # Behind a failover of another test its old primary may be known, until it is asked.
        await topology_of(address_of(whole.url)).learn()
        assert len(await servers_of(redis)) == 3
        fullness = Fullness(redis, 10 * MIB)
        assert 0 < await fullness.share() < 1 and await fullness.bound() == 30 * MIB
        seen: Any = await servers.look(redis)
        assert seen["policy"] == "noeviction" and seen["maxmemory"] == 3 * 64 * MIB
        cache = Cache(redis, ttl_s=60, max_bytes=MIB)
        names = [f"{n:024x}" for n in range(30)]
        for name in names:
            assert await cache.put(name, answer())
        assert (await cache.get(names[7])) is not None
        # Of all of them, wherever they are.
        assert await cache.clear() == 30
        assert (await cache.get(names[7])) is None
        await redis.aclose()

    asyncio.run(scenario())


def test_an_end_waits_for_its_replica(whole: Cluster) -> None:
    async def scenario() -> None:
        redis = connect(whole.url, "test")
        streams = Streams(redis, alive_s=60, record_s=600, replicas=1)
        runs = [await finished(streams, "a") for _ in range(6)]
        assert await streams.statuses(runs) == ["completed"] * 6
        assert await head_of(streams, runs[0])
        await redis.aclose()

    asyncio.run(scenario())
