"""The hub over a real Redis, its sockets replaced by nothing: followers of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from plateau_sse.errors import StoreUnavailable
from plateau_sse.live import hub as hub_module
from plateau_sse.live.dialect import Stand
from plateau_sse.live.feed import Feed
from plateau_sse.live.hub import Hub
from plateau_sse.live.sse import Frame
from plateau_sse.live.waiting import until_ended
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import appending, events, ids
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.streams import Streams
from tests.store import admin_url, decoded, exchange_server, kept, put_back, shown, until


@dataclass(eq=False)
class Follower:
    """Takes what it is given; `slow` makes it refuse, as a full socket does. `got` has where
    the events end that it was given, `told` the states."""

    position: int = 0
    states: int = 0
    generation: int = 0
    got: list[int] = field(default_factory=list)
    told: list[bytes] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    slow: bool = False
    lagged: int = 0
    lost: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    stand: Stand | None = None

    def push(self, frame: Frame) -> bool:
        if self.slow:
            return False
        self.frames.append(frame.data)
        if frame.number:
            self.position = frame.number
            self.got.append(frame.number)
        else:
            self.told.append(frame.data)
        self.changed.set()
        return True

    def take(self, number: int, data: bytes, tag: bytes) -> bool:
        return False

    def lag(self, *, slow: bool) -> None:
        self.lagged += 1
        self.changed.set()

    def lose(self) -> None:
        self.lost = True
        self.changed.set()

    def has(self, count: int) -> bool:
        return len(self.got) == count

    def has_lagged(self, count: int) -> bool:
        return self.lagged == count

    def is_at(self, position: int) -> bool:
        return self.position == position

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


LETTER = events.delta("x")


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

    async def append_unheard(self, run_id: str, count: int = 1, event: Event = LETTER) -> None:
        """Written, but the messages are lost: the script that says nothing."""
        silent = Streams(self.redis, alive_s=60, record_s=600)
        said = "redis.pcall('SPUBLISH', record, "
        script = appending.SCRIPT.replace(said, "tostring(")
        assert script.count("SPUBLISH") == 0
        silent._writing._append = self.redis.register_script(script)
        # In one step, of which no sweep can find a half.
        assert (await silent.append(run_id, 1, [event] * count)).code == "ok"

    async def follow(self, run_id: str) -> tuple[Feed, Follower]:
        feed = await self.hub.join(run_id)
        reading = await self.streams.read(run_id)
        assert reading is not None
        follower = Follower(reading.head, reading.states)
        assert self.hub.attach(feed, follower)
        return feed, follower


@asynccontextmanager
async def bench(url: str) -> AsyncIterator[Bench]:
    redis, looking = connect(url, "test"), connect(admin_url(url), "looking", connections=2)
    streams = Streams(redis, alive_s=60, record_s=600)
    hub = Hub(url, streams, "test-hub")
    hub.open()
    try:
        yield Bench(hub, streams, looking)
    finally:
        await hub.close()
        await looking.aclose()
        await redis.aclose()


def letters(first: int, last: int) -> list[int]:
    """Where these end, of the letters that are all that the run has said: the first opens a
    part, behind `run.started`."""
    return [ids.number(1, 2 + letter) for letter in range(first, last + 1)]


def test_events_are_pushed_in_order(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            await b.append(run_id, 50)
            await follower.until(lambda: len(follower.got) == 50)
            assert follower.got == letters(1, 50)
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
                assert follower.got == letters(1, 8)

    asyncio.run(scenario())


def test_a_lost_last_message_is_found_by_the_sweep(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            await b.append_unheard(run_id, 3)
            await follower.until(lambda: len(follower.got) == 3)
            assert follower.got == letters(1, 3)

    asyncio.run(scenario())


def test_a_hole_that_the_stream_cannot_fill_is_repaired_from_the_tape(
    streams_url: str,
) -> None:
    """150 entries are missing, of which the stream has the last 99: one event has all."""

    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed, follower = await b.follow(run_id)
            await b.append_unheard(run_id, 150)
            await b.append(run_id)
            await follower.until(partial(follower.has, 1))
            assert follower.got == letters(151, 151) and follower.lagged == 0
            assert decoded(follower.frames[0])["text"] == "x" * 151
            await b.append(run_id)
            await follower.until(partial(follower.has, 2))
            assert follower in feed.live

    asyncio.run(scenario())


def test_a_hole_larger_than_one_reading_is_repaired_in_several(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            await b.append_unheard(run_id, 20, events.delta("é" * 2_000))
            await b.redis.xtrim(keys.run(run_id).events, maxlen=0, approximate=False)
            await b.append(run_id)
            end = ids.number(1, 2 + 80_000 + 1)
            await follower.until(lambda: follower.position == end)
            said = [decoded(data)["text"] for data in follower.frames]
            assert "".join(said) == "é" * 40_000 + "x"
            assert all(len(data) <= 8 * 1024 for data in follower.frames)

    asyncio.run(scenario())


def test_an_event_too_large_to_hold_is_read_by_each_alone(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed, follower = await b.follow(run_id)
            for count, large in enumerate(("x" * 20_000, "é" * 15_000), 1):
                await b.streams.append(run_id, 1, [events.data("table", large)])
                await follower.until(partial(follower.has_lagged, count))
                assert not feed.live and follower.got == []
                reading = await b.streams.read(run_id, follower.position)
                assert reading is not None
                follower.position = reading.head
                assert b.hub.attach(feed, follower)

    asyncio.run(scenario())


def test_an_end_with_an_answer_of_its_own_is_read(streams_url: str) -> None:
    """The message of it carries nothing; a short one goes to all who are live."""

    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            end = events.completed(None, cached=False, duration_ms=1)
            await b.streams.finish(run_id, 1, [end], first_seq=2, output="final")
            await follower.until(partial(follower.has, 1))
            assert decoded(follower.frames[0]) == decoded(end.data) | {"output": "final"}
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            await b.streams.finish(run_id, 1, [end], first_seq=2, output="x" * 200_000)
            await follower.until(lambda: follower.lagged == 1)

    asyncio.run(scenario())


def step(n: int) -> Event:
    return events.progress(n, 9, "", "", 0.0)


def test_states_are_told_without_a_place(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            tool = events.tool_delta("1", "find", "{")
            batch = [step(1), events.delta("a"), tool, events.delta("b")]
            await b.streams.append(run_id, 1, batch)
            await follower.until(lambda: len(follower.frames) == 4)
            assert follower.told == [step(1).data, tool.data]
            assert follower.got == letters(1, 2)
            # In the order in which they were said.
            assert follower.frames[0::2] == follower.told
            assert follower.states == 2

    asyncio.run(scenario())


def test_an_older_state_is_never_told_after_a_newer_one(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed, follower = await b.follow(run_id)
            # It has read more than the feed knows.
            ahead = Follower(follower.position, states=2)
            assert b.hub.attach(feed, ahead)
            for n in (1, 2, 3):
                await b.streams.append(run_id, 1, [step(n)])
            await follower.until(lambda: len(follower.told) == 3)
            assert ahead.told == [step(3).data]
            # A message that came late, and one of an attempt that is over.
            for late in ("1-s-2", "2-s-9", "0-s-9"):
                payload = f"{late} ".encode() + step(8).data
                await b.redis.execute_command("SPUBLISH", keys.channel(run_id), payload)  # type: ignore[no-untyped-call]
            await b.append(run_id)
            await follower.until(partial(follower.has, 1))
            assert len(follower.told) == 3 and len(ahead.told) == 1

    asyncio.run(scenario())


def test_a_lost_state_is_told_with_the_next_repair(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            await b.append_unheard(run_id, 1, step(1))
            await b.append_unheard(run_id, 1, step(2))
            await b.append_unheard(run_id)
            await b.append(run_id)
            await follower.until(lambda: len(follower.frames) == 3)
            assert follower.got == letters(1, 2)
            # Behind what the tape has, once.
            assert follower.frames[-1] == step(2).data and follower.told == [step(2).data]
            await b.append_unheard(run_id)
            await b.append(run_id)
            await follower.until(partial(follower.has, 4))
            assert len(follower.told) == 1

    asyncio.run(scenario())


def test_another_attempt_is_told_with_a_restart(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            for heard in (True, False):
                run_id = await b.start()
                feed, follower = await b.follow(run_id)
                await b.append(run_id, 2)
                await follower.until(partial(follower.has, 2))
                if not heard:
                    # What shows the new attempt is in its middle.
                    await b.redis.xtrim(keys.run(run_id).events, maxlen=0, approximate=False)
                    feed.head = feed.newest = follower.position = ids.number(1, 3)
                first = events.started(run_id, "a", 3)
                await b.streams.claim(run_id, 3, "other", first)
                await b.streams.append(run_id, 3, [events.delta("new")])
                end = ids.number(3, 5)
                await follower.until(partial(follower.is_at, end))
                again = events.restarted(3, "attempt")
                assert follower.frames[-3] == again
                assert follower.got[-3:] == [ids.number(3, 0), ids.number(3, 1), end]

    asyncio.run(scenario())


def test_states_of_a_new_attempt_are_told_whatever_the_store_has_lost(
    streams_url: str,
) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            copy = await kept(b.redis, run_id)
            await b.streams.append(run_id, 1, [step(n) for n in range(1, 6)])
            await follower.until(lambda: len(follower.told) == 5)
            await put_back(b.redis, run_id, copy)
            await b.streams.claim(run_id, 3, "other", events.started(run_id, "a", 3))
            await b.streams.append(run_id, 3, [step(7)])
            await follower.until(lambda: len(follower.told) == 6)
            assert follower.told[-1] == step(7).data

    asyncio.run(scenario())


def test_a_new_attempt_of_what_was_left_begins_with_it(streams_url: str) -> None:
    """A producer without a count, and a server that was exchanged."""

    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            await b.append(run_id, 5)
            await follower.until(partial(follower.has, 5))
            await exchange_server(b.redis, run_id)
            await b.append(run_id)
            await follower.until(lambda: follower.position == ids.number(3, 8))
            seen = [decoded(data) for data in follower.frames[5:]]
            assert [event["type"] for event in seen] == [
                *("run.restarted", "run.started", "message.delta"),
            ]
            assert seen[1]["attempt"] == 3 and seen[2]["text"] == "xxxxxx"

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


def test_nobody_is_attached_who_has_not_been_told_how_far_the_run_is(
    streams_url: str,
) -> None:
    """Between reading and attaching progress comes, which is told to who is live: the reader
    must read once more. But nobody waits for what a failover has lost."""

    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed, follower = await b.follow(run_id)
            late, silent = Follower(follower.position), Follower(follower.position)
            tool = events.tool_delta("1", "find", "{")
            await b.streams.append(run_id, 1, [tool])
            await follower.until(lambda: len(follower.told) == 1)
            # That is no progress, of which the latest is told to whoever comes.
            assert b.hub.attach(feed, silent)
            await b.streams.append(run_id, 1, [step(1)])
            await follower.until(lambda: len(follower.told) == 2)
            assert not b.hub.attach(feed, late)
            feed.believe(late.position, 2, feed.progress)
            assert not b.hub.attach(feed, late)
            late.states = 2
            assert b.hub.attach(feed, late)
            another = Follower(follower.position, states=1)
            assert not b.hub.attach(feed, another)
            feed.believe(another.position, 1, feed.progress)
            assert b.hub.attach(feed, another)

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
            assert follower.got == letters(1, 3)
            await b.append(run_id)
            await follower.until(lambda: len(follower.got) == 4)

    asyncio.run(scenario())


def test_what_is_known_here_is_what_the_store_says(streams_url: str) -> None:
    """For who comes back to wherever it was, while there is a follower who is live."""

    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            await b.streams.append(run_id, 1, [events.delta("said before"), step(1)])
            feed, follower = await b.follow(run_id)
            await b.hub.join(run_id)
            assert await b.hub.read_first(feed, 0, "t", "") is not None
            known = 0

            async def compare() -> None:
                nonlocal known
                for position in [0, *follower.got]:
                    here, there = feed.recall(position), await b.streams.read(run_id, position)
                    assert there is not None
                    if here is None:
                        continue
                    known += 1
                    assert here._replace(entries=[]) == there._replace(entries=[])
                    assert b"".join(said(here)) == b"".join(said(there))

            for attempt in (1, 3):
                if attempt > 1:
                    await b.streams.claim(
                        run_id, attempt, "other", events.started(run_id, "a", attempt)
                    )
                for n in range(6):
                    batch = [
                        *(events.delta(f"text {n}"), events.delta(f"thought {n}", "r")),
                        *(events.step(f"{n}"), step(n + 2)),
                        events.tool_delta("1", "find", "{"),
                    ]
                    assert (await b.streams.append(run_id, attempt, batch)).code == "ok"
                    end = (await b.streams.last_numbers([run_id]))[0]
                    await follower.until(partial(follower.is_at, end or 0))
                    await until_told(follower, n, attempt)
                    await compare()
            assert known > 60

    def said(reading: Reading) -> list[bytes]:
        return [
            text.encode() if (text := decoded(entry.data).get("text")) else entry.data
            for entry in reading.entries
        ]

    async def until_told(follower: Follower, n: int, attempt: int) -> None:
        expected = 2 * (n + 1) + (12 if attempt > 1 else 0)
        await follower.until(lambda: len(follower.told) == expected)

    asyncio.run(scenario())


def test_what_was_said_while_a_reading_was_under_way_is_not_forgotten(
    streams_url: str,
) -> None:
    """Who is not attached with what is known here would read that again, and again."""

    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed, follower = await b.follow(run_id)
            await b.hub.join(run_id)
            await b.append(run_id)
            await follower.until(partial(follower.has, 1))
            really = b.streams.read

            async def meanwhile(*args: Any) -> Any:
                reading = await really(*args)
                await b.streams.append(run_id, 1, [step(1)])
                await follower.until(lambda: len(follower.told) == 1)
                return reading

            b.streams.read = meanwhile  # type: ignore[method-assign, assignment]
            reading = await b.hub.read_first(feed, follower.position, "t", "")
            b.streams.read = really  # type: ignore[method-assign]
            assert reading is not None and reading.progress == b""
            late = Follower(reading.reached, reading.states)
            assert not b.hub.attach(feed, late)
            again = await b.hub.read(feed, late)
            assert again is not None and again.progress == step(1).data
            late.states = again.states
            assert b.hub.attach(feed, late)

    asyncio.run(scenario())


async def resubscribed(b: Bench, feed: Feed, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """The subscription is lost and confirmed anew; `meanwhile` nobody listens."""
    confirmed = asyncio.Event()
    really = b.hub._subscription._on_confirmed

    def confirming(one: Feed) -> None:
        really(one)
        if one is feed:
            confirmed.set()

    b.hub._subscription._on_confirmed = confirming
    await b.redis.client_kill_filter(_type="pubsub")
    await meanwhile()
    async with asyncio.timeout(10):
        await confirmed.wait()
    b.hub._subscription._on_confirmed = really


def test_who_read_before_a_new_subscription_reads_once_more(streams_url: str) -> None:
    """Nobody is live here, so nothing was repaired, and no message tells of what was said
    before the confirmation: it was the last event."""

    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed = await b.hub.join(run_id)
            reading = await b.streams.read(run_id)
            assert reading is not None
            follower = Follower(reading.head, reading.states)
            await resubscribed(b, feed, partial(b.append_unheard, run_id))
            assert not b.hub.attach(feed, follower)
            again = await b.hub.read(feed, follower)
            assert again is not None and shown(again.entries) == ["1-3"]
            follower.position = again.head
            assert b.hub.attach(feed, follower)

    asyncio.run(scenario())


def test_a_repair_from_before_a_new_subscription_is_made_once_more(streams_url: str) -> None:
    """Its reading was under way when the connection was lost."""

    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed, follower = await b.follow(run_id)
            really, arrived, goes_on = b.streams.read_log, asyncio.Event(), asyncio.Event()

            async def slowly(*args: Any) -> Any:
                reading = await really(*args)
                arrived.set()
                await goes_on.wait()
                return reading

            b.streams.read_log = slowly  # type: ignore[method-assign, assignment]
            b.hub._repairs.repair(feed)
            await arrived.wait()
            await resubscribed(b, feed, partial(b.append_unheard, run_id))
            goes_on.set()
            async with asyncio.timeout(5):
                await follower.until(partial(follower.has, 1))

    asyncio.run(scenario())


def test_a_repair_from_before_another_place_is_given_to_nobody(streams_url: str) -> None:
    """While it was read whoever was live has gone, and another has come further on. What is
    kept for those who come back would have told them the same twice."""

    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            feed, follower = await b.follow(run_id)
            await b.hub.join(run_id)
            start = follower.position
            really, arrived, goes_on = b.streams.read_log, asyncio.Event(), asyncio.Event()

            async def slowly(*args: Any) -> Any:
                reading = await really(*args)
                arrived.set()
                await goes_on.wait()
                return reading

            b.streams.read_log = slowly  # type: ignore[method-assign, assignment]
            await b.append_unheard(run_id, 2)
            b.hub._repairs.repair(feed)
            await arrived.wait()
            feed.live.discard(follower)
            reading = await b.hub.read(feed, other := Follower(start, follower.states))
            assert reading is not None and len(reading.entries) == 1
            other.position = reading.head
            assert b.hub.attach(feed, other) and feed.head == reading.head
            goes_on.set()
            if feed.repairing is not None:
                await asyncio.wait({feed.repairing}, timeout=5)
            assert feed.repairing is None
            assert feed.head == reading.head and not other.got
            known = feed.recall(start)
            assert known is not None
            assert [it.number for it in known.entries] == [reading.head]

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [StoreUnavailable("it loads"), RuntimeError("a bug")])
def test_a_repair_that_failed_is_tried_again_within_a_second(
    streams_url: str, error: Exception
) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            really, tries = b.streams.read_log, 0

            async def at_last(*args: Any) -> Any:
                nonlocal tries
                tries += 1
                if tries <= 3:
                    raise error
                return await really(*args)

            b.streams.read_log = at_last  # type: ignore[method-assign, assignment]
            await b.append_unheard(run_id, 2)
            await b.append(run_id)
            async with asyncio.timeout(4):
                await follower.until(partial(follower.has, 3))
            assert follower.got == letters(1, 3) and tries == 4

    asyncio.run(scenario())


def test_a_sweep_is_put_off_and_never_left_out(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes long keeps the next from beginning, and so does one that fails."""
    monkeypatch.setattr(hub_module, "TURNS", 4)

    async def scenario() -> None:
        async with bench(streams_url) as b:
            for turn in range(4):
                feed, _ = await b.follow(await b.start())
                feed.turn = turn
            really, looked = b.streams.last_numbers, list[tuple[str, int]]()

            async def badly(run_ids: list[str]) -> Any:
                now = b.hub.second
                first = not looked
                looked.extend((run_id, now) for run_id in run_ids)
                while first and b.hub.second < now + 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                if first:
                    raise StoreUnavailable("it did not answer")
                return await really(run_ids)

            b.streams.last_numbers = badly  # type: ignore[method-assign, assignment]

            async def are_all() -> bool:
                # The first of them twice.
                return len(looked) >= 5

            await until(are_all, "each is looked at")
            assert len({run_id for run_id, _ in looked}) == 4
            assert looked[4][1] - looked[0][1] <= 4

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
            await b.append(run_id, 2)
            copy = await kept(b.redis, run_id)
            await b.append(run_id, 3)
            await follower.until(lambda: len(follower.got) == 5)
            await put_back(b.redis, run_id, copy)
            await follower.until(lambda: follower.lagged == 1)
            assert feed.head == feed.newest == ids.number(1, 4)

    asyncio.run(scenario())


def test_a_message_that_is_no_event_is_ignored(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            _, follower = await b.follow(run_id)
            for payload in ("", "nonsense", "1-x {}", "0-0 {}", "1-s-x {}", "1-1 {}", "-- {}"):
                await b.redis.execute_command("SPUBLISH", keys.channel(run_id), payload)  # type: ignore[no-untyped-call]
            await b.append(run_id)
            await follower.until(lambda: follower.got == letters(1, 1))

    asyncio.run(scenario())


def test_waiting_for_the_end(streams_url: str) -> None:
    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            waiting = asyncio.create_task(until_ended(b.hub, run_id, timeout_s=30))
            await b.append(run_id, 5)
            assert not waiting.done()
            end = events.completed(None, cached=False, duration_ms=1)
            await b.streams.finish(run_id, 1, [end], first_seq=7)
            async with asyncio.timeout(5):
                await waiting
            assert b.hub.followed == 0
            # One that has ended already, one that never was.
            await until_ended(b.hub, run_id, timeout_s=30)
            await until_ended(b.hub, ids.new_run_id(), timeout_s=30)

    asyncio.run(scenario())


@pytest.mark.parametrize("behind", ["progress", "a tape that was lost"])
def test_waiting_for_the_end_asks_once(streams_url: str, behind: str) -> None:
    """Whatever this worker knows of the run already, and however long it goes on."""

    async def scenario() -> None:
        async with bench(streams_url) as b:
            run_id = await b.start()
            copy = await kept(b.redis, run_id)
            _, follower = await b.follow(run_id)
            if behind == "progress":
                await b.streams.append(run_id, 1, [events.progress(1, 2, "", "", 50.0)])
                await follower.until(lambda: len(follower.told) == 1)
            else:
                await b.append(run_id, 3)
                await follower.until(partial(follower.has, 3))
                await put_back(b.redis, run_id, copy)
            reads, really = 0, b.streams.read

            async def counting(*args: Any) -> Any:
                nonlocal reads
                reads += 1
                return await really(*args)

            b.streams.read = counting  # type: ignore[method-assign, assignment]
            waiting = asyncio.create_task(until_ended(b.hub, run_id, timeout_s=30))

            async def asked() -> bool:
                return reads > 0

            await until(asked, "it has asked")
            for _ in range(20):
                await b.redis.ping()
            assert reads <= 2 and not waiting.done()
            end = events.completed(None, cached=False, duration_ms=1)
            assert (await b.streams.finish(run_id, 1, [end], first_seq=0)).code == "ok"
            async with asyncio.timeout(5):
                await waiting

    asyncio.run(scenario())
