"""The canary: it finds out a connection that answers pings and hears nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from plateau_sse import tasks
from plateau_sse.errors import StoreError
from plateau_sse.live import hub as hub_module
from plateau_sse.live import subscription
from plateau_sse.live.hub import Hub
from plateau_sse.ops import canary as canary_module
from plateau_sse.ops.canary import Canary
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect, servers_of
from plateau_sse.store.runs import events
from plateau_sse.store.runs.streams import Streams
from tests.flaky_redis import FlakyRedis
from tests.processes import free_ports
from tests.proxy import dropping_messages
from tests.store import admin_url, counters, exchange_server, run_of, until


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary_module, "SING_S", 0.05)
    monkeypatch.setattr(canary_module, "AGAIN_S", 0.05)
    monkeypatch.setattr(canary_module, "DEAF_S", 0.2)
    monkeypatch.setattr(canary_module, "RECONNECT_S", 0.3)
    monkeypatch.setattr(hub_module, "CONNECT_S", 0.05)
    monkeypatch.setattr(subscription, "LONGEST_WAIT_S", 0.1)


@dataclass
class Cage:
    """`redis` looks past the network between."""

    canary: Canary
    hub: Hub
    stats: Stats
    redis: Any
    singing: asyncio.Task[None]

    async def count(self, name: str) -> int:
        return (await counters(self.stats)).get(name, 0)

    async def pushed(self) -> int:
        """Events that it has been given, by a message or a repair."""
        totals = await counters(self.stats)
        return sum(totals.get(f"event_lag_{cell}", 0) for cell in range(11))

    async def heard(self, more: int = 3) -> None:
        """Until so many more events have been."""
        before: list[int] = []

        async def hears() -> bool:
            with suppress(StoreError):
                before.append(await self.pushed())
            return not self.canary.deaf and bool(before) and before[-1] >= before[0] + more

        await until(hears, "it hears")

    async def is_deaf(self) -> bool:
        return self.canary.deaf

    async def run_keys(self) -> list[str]:
        servers: Sequence[Any] = await servers_of(self.redis)
        return sorted([key.decode() for one in servers for key in await one.keys("run:*}")])


@asynccontextmanager
async def singing(url: str, store_url: str, *, subscribe_url: str = "") -> AsyncIterator[Cage]:
    """A canary over `url`; the hub subscribes there, too, unless told otherwise."""
    redis = connect(url, "test")
    looking: Any = connect(admin_url(store_url), "looking", connections=2)
    streams = Streams(redis, alive_s=60, record_s=600)
    stats = Stats(redis)
    hub = Hub(subscribe_url or url, streams, "test-hub", stats.count)
    canary = Canary(hub, streams, stats)
    hub.open()
    cage = Cage(canary, hub, stats, looking, asyncio.create_task(canary.keep_singing()))
    try:
        yield cage
    finally:
        await tasks.end(cage.singing)
        await hub.close()
        await redis.aclose()
        await looking.aclose()


def test_it_hears_what_it_sings(streams_url: str) -> None:
    async def scenario() -> None:
        async with singing(streams_url, streams_url) as cage:
            await cage.heard(5)
            assert cage.canary.lag_ms is not None and 0 < cage.canary.lag_ms < 5000
            # No reader had any of it, and nothing had to be repaired.
            assert await cage.count("events_delivered_native") == 0
            assert await cage.count("feeds_repaired") == 0
            assert len(await cage.run_keys()) == 1

    asyncio.run(scenario())


def test_what_a_repair_reads_was_not_heard(streams_url: str) -> None:
    async def scenario(url: str, dropper: Any) -> None:
        async with singing(url, streams_url) as cage:
            await until(cage.is_deaf, "it is deaf")
            # It subscribes anew, and each time reads what it has missed: still deaf.
            for _ in range(3):
                already = await cage.count("feeds_resubscribed")

                async def again(already: int = already) -> bool:
                    assert cage.canary.deaf
                    return await cage.count("feeds_resubscribed") > already

                await until(again, "it has subscribed anew")
                pushed = await cage.pushed()

                async def read(pushed: int = pushed) -> bool:
                    assert cage.canary.deaf
                    return await cage.pushed() > pushed

                await until(read, "it has read what it missed")
            assert dropper.dropped
            dropper.dropping = False
            await cage.heard()
            already = await cage.count("feeds_resubscribed")
            await cage.heard(20)
            # A connection that hears is left alone.
            assert await cage.count("feeds_resubscribed") == already

    with dropping_messages(streams_url) as dropper:
        asyncio.run(scenario(dropper.url, dropper))


def test_without_a_subscribing_connection_it_is_deaf(streams_url: str) -> None:
    """Commands pass, and nothing else."""

    async def scenario() -> None:
        nowhere = f"redis://127.0.0.1:{free_ports(1)}/0"
        async with singing(streams_url, streams_url, subscribe_url=nowhere) as cage:
            await until(cage.is_deaf, "it is deaf")
            # One run, however often it could not be followed.
            assert len(await cage.run_keys()) == 1

    asyncio.run(scenario())


def test_a_run_that_is_lost_is_followed_by_another(streams_url: str) -> None:
    async def scenario() -> None:
        async with singing(streams_url, streams_url) as cage:
            await cage.heard()
            (first,) = await cage.run_keys()
            await cage.redis.delete(*keys.run(run_of(first.encode())))

            async def another() -> bool:
                assert not cage.canary.deaf
                return await cage.run_keys() not in ([], [first])

            await until(another, "another run")
            await cage.heard()
            assert cage.hub.followed == 1

    asyncio.run(scenario())


def test_a_store_that_was_restarted_is_followed_by_another_run(
    streams_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is left of its run becomes another attempt, which it has not sung: a repair that
    tells it of that is no song."""

    async def scenario() -> None:
        async with singing(streams_url, streams_url) as cage:
            await cage.heard()
            # Its own next song would end it, too.
            monkeypatch.setattr(canary_module, "SING_S", 60)
            await cage.heard(1)
            (key,) = await cage.run_keys()
            run_id = run_of(key.encode())
            await exchange_server(cage.redis, run_id)
            streams = Streams(cage.redis, alive_s=60, record_s=600)
            state = events.progress(0, 0, "", "0", 0)
            assert (await streams.append(run_id, 1, [state])).attempt == 3
            cage.hub.reconnect()

            async def given_up() -> bool:
                return cage.hub.followed == 0

            await until(given_up, "it has given that run up")
            assert await cage.count("events_delivered_native") == 0
        assert not [one for one in caplog.records if one.levelname == "ERROR"]

    asyncio.run(scenario())


def test_a_store_that_was_emptied_is_no_deafness(streams_url: str) -> None:
    async def scenario() -> None:
        async with singing(streams_url, streams_url) as cage:
            for _ in range(3):
                await cage.heard()
                await cage.redis.flushall()
            await cage.heard()
            assert cage.hub.followed == 1

    asyncio.run(scenario())


def test_a_store_that_is_away_is_no_deafness(streams_url: str) -> None:
    async def scenario() -> None:
        async with FlakyRedis(streams_url) as flaky, singing(flaky.url, streams_url) as cage:
            await cage.heard()
            await flaky.go_away()
            refused = flaky.refused

            async def tried() -> bool:
                assert not cage.canary.deaf
                return flaky.refused > refused + 20

            await until(tried, "it has tried for a while")
            flaky.come_back()
            await cage.heard()
            assert not cage.singing.done()

    asyncio.run(scenario())


def test_its_run_ends_with_it(streams_url: str) -> None:
    async def scenario() -> None:
        async with singing(streams_url, streams_url) as cage:
            await cage.heard()
            (key,) = await cage.run_keys()
            await tasks.end(cage.singing)
            assert await cage.redis.hget(key, "state") == b"completed"
            assert cage.hub.followed == 0
            assert await cage.count("events_delivered_native") == 0

    asyncio.run(scenario())
