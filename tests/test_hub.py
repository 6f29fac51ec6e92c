"""The hub over a real Redis, its sockets replaced by nothing: followers of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from redis.asyncio import Redis

from plateau_sse.live.feed import Feed
from plateau_sse.live.hub import Hub
from plateau_sse.live.sse import Frame
from plateau_sse.live.waiting import until_ended
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.streams import Streams


@dataclass(eq=False)
class Follower:
    """Takes what it is given; `slow` makes it refuse, as a full socket does."""

    position: int = 0
    got: list[int] = field(default_factory=list)
    slow: bool = False
    lagged: int = 0
    lost: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self, frame: Frame) -> bool:
        if self.slow:
            return False
        self.position = frame.number
        self.got.append(frame.number)
        self.changed.set()
        return True

    def lag(self) -> None:
        self.lagged += 1
        self.changed.set()

    def lose(self) -> None:
        self.lost = True
        self.changed.set()

    def has(self, count: int) -> bool:
        return len(self.got) == count

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@dataclass
class Bench:
    """A hub, and runs to follow: `append` writes as a runner would."""

    hub: Hub
    streams: Streams
    redis: Redis

    async def start(self) -> str:
        run_id = ids.new_run_id()
        await self.streams.create(run_id, agent="a", owner="o", token="t", request=b"{}")
        await self.streams.claim(run_id, 1, "runner", events.started(run_id, "a", 1))
        return run_id

    async def append(self, run_id: str, count: int = 1) -> None:
        for _ in range(count):
            await self.streams.append(run_id, 1, [events.delta("x")])

    async def append_unheard(self, run_id: str, count: int) -> None:
        """Written, but the messages are lost: nobody is subscribed under that name."""
        key = keys.run(run_id)
        for _ in range(count):
            seq = await self.redis.hincrby(key.record, "seq", 1)
            await self.redis.xadd(
                key.events,
                {"e": events.delta("x").data},
                id=f"1-{seq}",
                maxlen=100,
                approximate=False,
            )

    async def follow(self, run_id: str) -> tuple[Feed, Follower]:
        feed = await self.hub.join(run_id)
        reading = await self.streams.read(run_id)
        assert reading is not None
        follower = Follower(reading.number)
        assert self.hub.attach(feed, follower)
        return feed, follower


@asynccontextmanager
async def bench(url: str) -> AsyncIterator[Bench]:
    redis = connect(url, "test")
    streams = Streams(redis, alive_s=60, record_s=600)
    hub = Hub(url, streams, "test-hub")
    hub.open()
    try:
        yield Bench(hub, streams, redis)
    finally:
        await hub.close()
        await redis.aclose()


def numbers(first: int, last: int) -> list[int]:
    return [ids.number(1, seq) for seq in range(first, last + 1)]


def test_events_are_pushed_in_order(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            await b.append(run_id, 50)
            await follower.until(lambda: len(follower.got) == 50)
            assert follower.got == numbers(2, 51)
            assert follower.lagged == 0

    asyncio.run(scenario())


def test_a_hole_is_repaired_for_all_as_soon_as_a_message_shows_it(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed, first = await b.follow(run_id)
            second = Follower(first.position)
            feed.followers += 1
            assert b.hub.attach(feed, second)
            await b.append_unheard(run_id, 7)
            await b.append(run_id)
            for follower in (first, second):
                await follower.until(partial(follower.has, 8))
                assert follower.got == numbers(2, 9)

    asyncio.run(scenario())


def test_a_lost_last_message_is_found_by_the_sweep(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            await b.append_unheard(run_id, 3)
            await follower.until(lambda: len(follower.got) == 3)
            assert follower.got == numbers(2, 4)

    asyncio.run(scenario())


def test_a_hole_that_the_stream_cannot_fill_sends_each_reader_to_its_snapshot(
    streams_url: str,
) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed, follower = await b.follow(run_id)
            await b.append_unheard(run_id, 150)
            await b.append(run_id)
            await follower.until(lambda: follower.lagged == 1)
            assert follower.got == []
            assert not feed.live
            reading = await b.streams.read(run_id, follower.position)
            assert reading is not None
            assert reading.snapshot is not None

    asyncio.run(scenario())


def test_a_slow_follower_leaves_the_live_path_and_the_others_do_not_notice(
    streams_url: str,
) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed, quick = await b.follow(run_id)
            slow = Follower(quick.position, slow=True)
            assert b.hub.attach(feed, slow)
            await b.append(run_id, 5)
            await quick.until(lambda: len(quick.got) == 5)
            assert (slow.got, slow.lagged) == ([], 1)
            assert slow not in feed.live

    asyncio.run(scenario())


def test_nobody_is_attached_behind_what_is_known(streams_url: str) -> None:
    """Between reading and attaching an event comes: the reader must read once more."""

    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed, follower = await b.follow(run_id)
            late = Follower(follower.position)
            await b.append(run_id)
            await follower.until(lambda: len(follower.got) == 1)
            assert not b.hub.attach(feed, late)
            late.position = follower.position
            assert b.hub.attach(feed, late)

    asyncio.run(scenario())


def test_joining_again_at_once_keeps_the_subscription(streams_url: str) -> None:
    """The last follower leaves and another comes before the unsubscription has gone out."""

    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed, follower = await b.follow(run_id)
            feed.live.discard(follower)
            b.hub.part(feed)
            _, follower = await b.follow(run_id)
            await b.append(run_id)
            await follower.until(lambda: len(follower.got) == 1)
            channel = keys.channel(run_id)
            heard = await b.redis.execute_command("PUBSUB", "SHARDNUMSUB", channel)  # type: ignore[no-untyped-call]
            assert heard == [channel.encode(), 1]

    asyncio.run(scenario())


def test_a_cut_connection_is_made_again_and_what_was_missed_is_read(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            await b.redis.client_kill_filter(_type="pubsub")
            await b.append(run_id, 3)
            await follower.until(lambda: len(follower.got) == 3)
            assert follower.got == numbers(2, 4)
            await b.append(run_id)
            await follower.until(lambda: len(follower.got) == 4)

    asyncio.run(scenario())


def test_a_deleted_run_is_declared_lost(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            await b.redis.delete(*keys.run(run_id))
            await follower.until(lambda: follower.lost)

    asyncio.run(scenario())


def test_a_rewound_stream_sends_its_readers_back_to_it(streams_url: str) -> None:
    """After a failover the stream may end before what readers have seen."""

    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed, follower = await b.follow(run_id)
            await b.append(run_id, 5)
            await follower.until(lambda: len(follower.got) == 5)
            key = keys.run(run_id)
            await b.redis.hset(key.record, "seq", "3")
            await follower.until(lambda: follower.lagged == 1)
            assert feed.head == feed.newest == ids.number(1, 3)

    asyncio.run(scenario())


def test_a_message_that_is_no_event_is_ignored(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            for payload in ("", "nonsense", "1-x {}", "0-0 {}"):
                await b.redis.execute_command("SPUBLISH", keys.channel(run_id), payload)  # type: ignore[no-untyped-call]
            await b.append(run_id)
            await follower.until(lambda: follower.got == numbers(2, 2))

    asyncio.run(scenario())


def test_waiting_for_the_end(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            waiting = asyncio.create_task(until_ended(b.hub, b.streams, run_id, timeout_s=30))
            await b.append(run_id, 5)
            assert not waiting.done()
            end = events.completed(None, cached=False, duration_ms=1)
            await b.streams.finish(run_id, 1, [end], first_seq=7)
            async with asyncio.timeout(5):
                await waiting
            assert b.hub.followed == 0
            # One that has ended already, one that never was.
            await until_ended(b.hub, b.streams, run_id, timeout_s=30)
            await until_ended(b.hub, b.streams, ids.new_run_id(), timeout_s=30)

    asyncio.run(scenario())
