"""A service of Sentinels: the primary is found, followed, and left when it is none any more."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from plateau_sse import tasks
from plateau_sse.errors import StoreUnavailable
from plateau_sse.live.hub import Hub
from plateau_sse.redis_urls import address_of
from plateau_sse.store.queue.queue import Leases, Queue, Ticket
from plateau_sse.store.redis import sentinel
from plateau_sse.store.redis.connections import connect, connect_blocking, keep_following
from plateau_sse.store.redis.pools import pooled
from plateau_sse.store.redis.sentinel import Sentinels
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.streams import Streams
from tests.groups import Trio
from tests.store import full, queued, running, texts, until
from tests.test_hub import Bench


@pytest.fixture
def whole(trio: Trio) -> Trio:
    trio.wait_until_whole()
    return trio


def names_at(node: Any) -> list[str]:
    with node.client() as client:
        return [str(one["name"]) for one in client.client_list()]


def test_the_one_that_answers_is_asked_first_from_then_on(whole: Trio) -> None:
    address = address_of(whole.url)
    dead = ("127.0.0.1", 9)
    sentinels = Sentinels(address._replace(hosts=(dead, *address.hosts)))
    assert asyncio.run(sentinels.primary()) == ("127.0.0.1", whole.place())
    assert sentinels._hosts[0] == address.hosts[0]
    assert sentinels.primary_blocking() == ("127.0.0.1", whole.place())


def test_a_service_that_nobody_knows_is_named(whole: Trio) -> None:
    async def scenario() -> None:
        redis = connect(whole.url.replace("/plateau", "/other"), "test")
        with pytest.raises(ConnectionError, match="name no primary of the service other"):
            await redis.ping()
        await redis.aclose()

    asyncio.run(scenario())


def test_a_server_that_is_no_primary_is_not_used(whole: Trio) -> None:
    """As one is that comes back, and was named a moment too early."""

    class Early(Sentinels):
        async def primary(self) -> sentinel.Place:
            return "127.0.0.1", whole.replica().port

    async def scenario() -> None:
        address = address_of(whole.url)
        how: Any = {"connections": 1, "timeout_s": 1, "retries": 0}
        redis = pooled(address.url, "test", sentinels=Early(address), **how)
        with pytest.raises(ConnectionError, match="is no primary yet"):
            await redis.ping()
        await redis.aclose()

    asyncio.run(scenario())


def test_what_is_open_to_the_old_primary_is_left_at_once(whole: Trio) -> None:
    """Also what nobody uses just then: whoever waits there, and a thread's."""

    async def scenario() -> None:
        redis, streams, blocking = opened(whole)
        hub = Hub(whole.url, streams, "test-hub")
        hub.open()
        clients = (redis, blocking)
        following = asyncio.create_task(keep_following(whole.url, clients, hub.reconnect))
        try:
            b = Bench(hub, streams, redis)
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            await asyncio.to_thread(Leases(blocking).renew, "r1", {})
            waiting = asyncio.create_task(Queue(redis).wait(b"$", 60_000))
            await until(partial(_listens, whole), "a Sentinel is listened to")
            before = whole.primary()
            assert sum(name.startswith("test") for name in names_at(before)) >= 3
            await asyncio.to_thread(whole.fail_over)
            await until(partial(_has_left, before), "it is left")
            # Numbered, as runners do it: others begin anew at a server that is another.
            await b.streams.append(run_id, 1, texts("x", "y", "z"), first_seq=2)
            await follower.until(lambda: follower.has(3))
            await asyncio.to_thread(Leases(blocking).renew, "r1", {})
            assert not any(name.startswith("test") for name in names_at(before))
            await tasks.end(waiting)
        finally:
            await tasks.end(following)
            await hub.close()
            await redis.aclose()
            blocking.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def opened(trio: Trio) -> tuple[Any, Streams, Any]:
    redis = connect(trio.url, "test", timeout_s=70)
    streams = Streams(redis, alive_s=60, record_s=600)
    return redis, streams, connect_blocking(trio.url, "test-leases")


async def _listens(trio: Trio) -> bool:
    for one in trio.sentinels:
        with one.client() as client:
            if any(int(it["sub"]) for it in client.client_list() if "sub" in it):
                return True
    return False


async def _has_left(node: Any) -> bool:
    return not any(name.startswith("test") for name in names_at(node))


def test_leases_and_places_survive_a_failover(whole: Trio) -> None:
    async def scenario() -> None:
        redis, streams, blocking = opened(whole)
        queue, leases = Queue(redis), Leases(blocking)
        await queue.take("r1", ("notes",), 0)
        run_id = await queued(streams)
        assert await queue.enqueue(run_id, "notes", "ann", 10) == "ok"
        (ticket,) = (await queue.take("r1", ("notes",), 1)).tickets
        await asyncio.to_thread(whole.fail_over)

        async def renewed() -> bool:
            with suppress(StoreUnavailable):
                return await asyncio.to_thread(leases.renew, "r1", {run_id: "notes"}) == set()
            return False

        await until(renewed, "the lease is renewed")
        await queue.done(Ticket(run_id, "notes", ticket.retaken), "r1")
        assert (await queue.depth()).running == 0
        await redis.aclose()
        blocking.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_new_runs_and_ends_wait_for_replicas(whole: Trio) -> None:
    async def scenario() -> None:
        redis = connect(whole.url, "test")
        streams = Streams(redis, alive_s=60, record_s=600, replicas=1)
        replica = whole.replica()
        run_id = await running(streams)
        replica.pause()
        try:
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
                await queued(streams)
            # A token is given out for one that is there already, too.
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
                await streams.join(run_id, token="t" * 22, fingerprint="")
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
                await Shares(redis, replicas=1).join(run_id, "u" * 22)
            assert await streams.join("f" * 32, token="t" * 22, fingerprint="") == "absent"
            # What is said in between waits for nobody.
            appended = await streams.append(run_id, 1, texts("a"), first_seq=2)
            assert appended.code == "ok"
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
                await streams.end(run_id, 1, _ended())
            # It is decided, seen by nobody, and no more certain for being asked again.
            (status,) = await streams.statuses([run_id])
            assert status == "running"
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
                await streams.end(run_id, 1, _ended())
        finally:
            replica.resume()
        await asyncio.to_thread(whole.wait_until_whole)
        assert (await streams.end(run_id, 1, _ended())).code == "ok"
        (status,) = await streams.statuses([run_id])
        assert status == "failed"
        assert (await streams.record(await queued(streams))) is not None
        await redis.aclose()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_an_end_that_is_asked_for_again_waits_in_a_full_store_as_well(whole: Trio) -> None:
    async def scenario() -> None:
        redis, another = connect(whole.url, "test"), connect(whole.url, "test")
        streams = Streams(redis, alive_s=60, record_s=600, replicas=1)
        # On a connection that has written nothing that WAIT could ask for.
        others = Streams(another, alive_s=60, record_s=600, replicas=1)
        replica = whole.replica()
        run_id = await running(streams)
        replica.pause()
        try:
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
                await streams.end(run_id, 1, _ended())
            with full(f"redis://127.0.0.1:{whole.place()}"):
                with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
                    await others.end(run_id, 1, _ended())
            (status,) = await streams.statuses([run_id])
            assert status == "running"
        finally:
            replica.resume()
        await asyncio.to_thread(whole.wait_until_whole)
        assert (await others.end(run_id, 1, _ended())).code == "ok"
        await redis.aclose()
        await another.aclose()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def _ended() -> Event:
    return events.failed("agent_failed", "It was enough.", retryable=False)
