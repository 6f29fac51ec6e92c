"""The writer and a network that loses replies, a store that stalls, and one that comes back
without what it had acknowledged last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from plateau_sse.runner.writer import PENDING_CHARS, PENDING_EVENTS, RING, Refused, Writer
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.streams import Streams
from tests.flaky_redis import FlakyRedis
from tests.store import (
    claim,
    decoded,
    done,
    everything,
    on_streams,
    queued,
    running,
    stream_of,
    text_of,
    until,
)


def over_flaky(
    url: str, scenario: Callable[[FlakyRedis, Streams, str, Any], Awaitable[None]]
) -> None:
    """`scenario` with a running run, and a Streams that reaches it through the proxy."""

    async def opened(streams: Streams, redis: Any) -> None:
        async with FlakyRedis(url) as flaky:
            client = connect(flaky.url, "test", timeout_s=5)
            try:
                through = Streams(client, alive_s=120, record_s=600)
                run_id = await running(streams)
                # Its connection is open, and stays the only one.
                assert await through.read(run_id) is not None
                await scenario(flaky, through, run_id, redis)
            finally:
                await client.aclose()

    on_streams(url, opened)


async def assert_whole(redis: Any, run_id: str, text: str) -> None:
    """The run has ended once, with this text, and its numbers have no hole."""
    assert await text_of(redis, run_id) == text
    stream = await stream_of(redis, run_id)
    assert [entry_id for entry_id, _ in stream] == [f"1-{i + 1}" for i in range(len(stream))]
    told = [decoded(data) for _, data in stream]
    assert "".join(one.get("text", "") for one in told) == text
    assert [events.is_terminal(data) for _, data in stream].count(True) == 1
    assert events.is_terminal(stream[-1][1])


@pytest.mark.parametrize("losses", [1, 2, 4])
def test_a_batch_whose_reply_is_lost_is_sent_again_and_recognised(
    streams_url: str, losses: int
) -> None:
    async def scenario(flaky: FlakyRedis, streams: Streams, run_id: str, redis: Any) -> None:
        writer = Writer(streams, run_id, 1, 1)
        await writer.text("warm ")

        async def warm() -> bool:
            return await text_of(redis, run_id) == "warm "

        await until(warm, "the scripts are known")
        flaky.lose_replies(losses)
        for piece in ("a", "b", "c"):
            await writer.text(piece)
            await asyncio.sleep(0)

        async def lost() -> bool:
            return flaky.lost == losses

        await until(lost, "the replies are lost")
        flaky.lose_replies(losses)
        await writer.text("d")
        await writer.finish(done())
        flaky.lose_replies(0)
        await assert_whole(redis, run_id, "warm abcd")

    over_flaky(streams_url, scenario)


@pytest.mark.parametrize("losses", [1, 3])
def test_an_end_whose_reply_is_lost_is_the_only_end(streams_url: str, losses: int) -> None:
    async def scenario(flaky: FlakyRedis, streams: Streams, run_id: str, redis: Any) -> None:
        writer = Writer(streams, run_id, 1, 1)
        flaky.lose_replies(losses)
        await writer.finish(done(), output="o")
        assert flaky.lost == losses
        await assert_whole(redis, run_id, "")
        record = await streams.record(run_id)
        assert record is not None and record.output == "o"

    over_flaky(streams_url, scenario)


def test_a_claim_whose_reply_is_lost_is_one_claim(streams_url: str) -> None:
    async def scenario(flaky: FlakyRedis, streams: Streams, _: str, redis: Any) -> None:
        run_id = await queued(streams)
        flaky.lose_replies(1)
        claimed = await claim(streams, run_id, 1)
        assert flaky.lost == 1 and (claimed.attempt, claimed.seq) == (1, 1)
        assert len(await stream_of(redis, run_id)) == 1

    over_flaky(streams_url, scenario)


def test_a_store_that_is_away_is_waited_for(streams_url: str) -> None:
    async def scenario(flaky: FlakyRedis, streams: Streams, run_id: str, redis: Any) -> None:
        writer = Writer(streams, run_id, 1, 1)
        await writer.text("before ")
        await flaky.go_away()
        await writer.text("meanwhile ")
        ending = asyncio.create_task(writer.finish(done()))

        async def tried() -> bool:
            return flaky.refused >= 5

        await until(tried, "the writer tries again and again")
        assert not ending.done()
        flaky.come_back()
        await ending
        await assert_whole(redis, run_id, "before meanwhile ")

    over_flaky(streams_url, scenario)


async def standstill(reached: Callable[[], int]) -> None:
    """Return once the loop has nothing left to do that would change the figure."""
    before = -1
    while before != reached():
        before = reached()
        for _ in range(100):
            await asyncio.sleep(0)


@pytest.mark.parametrize(("as_text", "most"), [(True, PENDING_CHARS), (False, PENDING_EVENTS)])
def test_a_producer_that_is_faster_than_the_store_waits(
    streams_url: str, as_text: bool, most: int
) -> None:
    async def scenario(flaky: FlakyRedis, streams: Streams, run_id: str, redis: Any) -> None:
        writer, taken, piece = Writer(streams, run_id, 1, 1), 0, "x" * 999 + "\n"
        count = 200 if as_text else 5 * PENDING_EVENTS

        async def produce() -> None:
            nonlocal taken
            for i in range(count):
                if as_text:
                    await writer.text(piece)
                else:
                    await writer.event(events.progress(i, count, "", "", 0.0))
                taken += len(piece) if as_text else 1
                await asyncio.sleep(0)

        flaky.hold_replies()
        producing = asyncio.create_task(produce())

        async def bounded() -> bool:
            return taken >= most

        await until(bounded, "as much waits as may")
        await standstill(lambda: taken)
        # One batch on its way, one that waits, and the piece that was too much of each.
        assert not producing.done() and taken <= 2 * (most + 1000)
        assert as_text or taken <= 2 * (most + 1)
        flaky.go_on()
        await producing
        await writer.finish(done())
        if as_text:
            await assert_whole(redis, run_id, piece * count)
        assert await redis.hget(keys.run(run_id).record, "state") == b"completed"

    over_flaky(streams_url, scenario)


def test_what_a_burst_leaves_behind_needs_nothing_more_to_be_sent(streams_url: str) -> None:
    """The agent may say nothing for a minute after it."""

    async def scenario(flaky: FlakyRedis, streams: Streams, run_id: str, redis: Any) -> None:
        writer = Writer(streams, run_id, 1, 1)
        flaky.hold_replies()
        await writer.text("a")

        async def on_its_way() -> bool:
            return await text_of(redis, run_id) == "a"

        await until(on_its_way, "the first piece is in the stream, its reply is not here")
        burst = asyncio.create_task(writer.text("b" * (PENDING_CHARS + 1)))
        await asyncio.sleep(0)
        flaky.go_on()
        await burst

        async def there() -> bool:
            return len(await text_of(redis, run_id)) == PENDING_CHARS + 2

        await until(there, "the burst is in the stream")
        await writer.finish(done())

    over_flaky(streams_url, scenario)


def test_a_producer_cancelled_while_it_waits_loses_nothing(streams_url: str) -> None:
    """Its batch is in the stream, its reply is not here: what comes next is no repeat of it."""

    async def scenario(flaky: FlakyRedis, streams: Streams, run_id: str, redis: Any) -> None:
        writer = Writer(streams, run_id, 1, 1)
        first, second = "x" * PENDING_CHARS, "y" * (PENDING_CHARS + 1)
        flaky.hold_replies()

        async def produce() -> None:
            await writer.text(first)
            await writer.text(second)

        producing = asyncio.create_task(produce())

        async def on_its_way() -> bool:
            return await text_of(redis, run_id) == first

        await until(on_its_way, "the batch is in the stream")
        assert not producing.done()
        producing.cancel()
        await asyncio.gather(producing, return_exceptions=True)
        flaky.go_on()
        await writer.finish(events.cancelled("asked"))
        await assert_whole(redis, run_id, first + second)
        record = await streams.record(run_id)
        assert record is not None and record.status == "cancelled"

    over_flaky(streams_url, scenario)


async def rewind(redis: Any, run_id: str, seq: int) -> None:
    """Let the store forget everything after event `seq` of the first attempt."""
    key = keys.run(run_id)
    text = await text_of(redis, run_id)
    stream = await stream_of(redis, run_id)
    lost = [data for entry_id, data in stream if ids.parse(entry_id) > ids.number(1, seq)]
    for data in reversed(lost):
        text = text.removesuffix(decoded(data).get("text", ""))
    await redis.delete(key.events)
    for entry_id, data in stream[: -len(lost)]:
        await redis.xadd(key.events, {"e": data}, id=entry_id)
    await redis.expire(key.events, 60)
    await redis.hset(key.record, "seq", seq)
    await redis.set(key.text, text, keepttl=True)


async def write_alone(writer: Writer, redis: Any, run_id: str, count: int) -> None:
    """`count` events, none of them coalesced."""
    for i in range(count):
        await writer.text(f"{i} ")
        await writer.event(events.progress(i, count, "", "", 0.0))

    async def there() -> bool:
        seq = await redis.hget(keys.run(run_id).record, "seq")
        return int(seq) == 1 + 2 * count

    await until(there, f"{2 * count} events are in the stream")


@pytest.mark.parametrize("lost", [1, 2, 39])
def test_a_store_that_lost_its_last_appends_gets_them_again(
    streams_url: str, lost: int
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = Writer(streams, run_id, 1, 1)
        await write_alone(writer, redis, run_id, 20)
        before = await everything(redis, run_id)
        await rewind(redis, run_id, 41 - lost)
        await writer.text("end")
        await writer.finish(done())
        await assert_whole(redis, run_id, "".join(f"{i} " for i in range(20)) + "end")
        assert (await everything(redis, run_id))[2][:41] == before[2]

    on_streams(streams_url, scenario)


def test_it_may_lose_them_twice_and_the_end_too(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = Writer(streams, run_id, 1, 1)
        await write_alone(writer, redis, run_id, 10)
        await rewind(redis, run_id, 5)
        await writer.text("more ")

        async def there() -> bool:
            return (await text_of(redis, run_id)).endswith("more ")

        await until(there, "what was lost is back")
        await rewind(redis, run_id, 3)
        await writer.finish(done())
        text = "".join(f"{i} " for i in range(10)) + "more "
        await assert_whole(redis, run_id, text)

    on_streams(streams_url, scenario)


def test_what_is_gone_from_the_ring_cannot_be_sent_again(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = Writer(streams, run_id, 1, 1)
        await write_alone(writer, redis, run_id, 70)
        key = keys.run(run_id)
        seq = 141 - RING - 1
        await redis.delete(key.events)
        await redis.hset(key.record, "seq", seq)
        before = await everything(redis, run_id)
        await writer.text("end")
        with pytest.raises(Refused) as caught:
            await writer.finish(done())
        await writer.abandon()
        assert caught.value.code == "gap"
        assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


def test_a_store_from_before_the_attempt_is_left_to_another_one(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = Writer(streams, run_id, 1, 1)
        await writer.text("a")
        await redis.hset(keys.run(run_id).record, mapping={"attempt": 0, "seq": 0})
        with pytest.raises(Refused) as caught:
            await writer.finish(done())
        await writer.abandon()
        assert caught.value.code == "gap"

    on_streams(streams_url, scenario)
