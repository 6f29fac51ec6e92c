"""The writer and a network that loses replies, a store that stalls, and one that comes back
without what it had acknowledged last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from plateau_sse.errors import StoreFull, StoreUnavailable
from plateau_sse.runner.writer import PENDING_CHARS, PENDING_EVENTS, RING, Refused, Writer
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.streams import Streams
from tests.flaky_redis import FlakyRedis
from tests.store import (
    claim,
    decoded,
    done,
    everything,
    full,
    on_streams,
    queued,
    running,
    stream_of,
    text_of,
    until,
)
from tests.writers import Recorder, assert_same_tape, say, tape_of, writer_of

ENDS = ("completed", "failed", "cancelled")


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


async def assert_whole(
    streams: Streams, redis: Any, writer: Writer, run_id: str, text: str
) -> None:
    """The run has ended once, with this text, and its positions have no hole."""
    assert await text_of(redis, run_id) == text
    await assert_same_tape(streams, run_id, writer)
    at = 0
    for entry_id, fields in await redis.xrange(keys.run(run_id).events):
        assert int(fields[b"b"]) == at
        at = int(entry_id.partition(b"-")[2])
    told = [decoded(data) for _, data in await stream_of(redis, run_id)]
    assert "".join(one.get("text", "") for one in told) == text
    ends = [one["type"] for one in told if one["type"].removeprefix("run.") in ENDS]
    assert len(ends) == 1 and told[-1]["type"] == ends[0]


@pytest.mark.parametrize("losses", [1, 2, 4])
def test_a_batch_whose_reply_is_lost_is_sent_again_and_recognised(
    streams_url: str, losses: int
) -> None:
    async def scenario(flaky: FlakyRedis, streams: Streams, run_id: str, redis: Any) -> None:
        writer = writer_of(streams, run_id)
        await say(writer, "warm ")

        async def warm() -> bool:
            return await text_of(redis, run_id) == "warm "

        await until(warm, "the scripts are known")
        flaky.lose_replies(losses)
        for piece in ("a", "b", "c"):
            await say(writer, piece)
            await asyncio.sleep(0)

        async def lost() -> bool:
            return flaky.lost == losses

        await until(lost, "the replies are lost")
        flaky.lose_replies(losses)
        await say(writer, "d")
        await writer.finish(done())
        flaky.lose_replies(0)
        await assert_whole(streams, redis, writer, run_id, "warm abcd")

    over_flaky(streams_url, scenario)


@pytest.mark.parametrize("losses", [1, 3])
def test_an_end_whose_reply_is_lost_is_the_only_end(streams_url: str, losses: int) -> None:
    async def scenario(flaky: FlakyRedis, streams: Streams, run_id: str, redis: Any) -> None:
        writer = writer_of(streams, run_id)
        flaky.lose_replies(losses)
        await writer.finish(done(), output="o")
        assert flaky.lost == losses
        await assert_whole(streams, redis, writer, run_id, "")
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
        writer = writer_of(streams, run_id)
        await say(writer, "before ")
        await flaky.go_away()
        await say(writer, "meanwhile ")
        ending = asyncio.create_task(writer.finish(done()))

        async def tried() -> bool:
            return flaky.refused >= 5

        await until(tried, "the writer tries again and again")
        assert not ending.done()
        flaky.come_back()
        await ending
        await assert_whole(streams, redis, writer, run_id, "before meanwhile ")

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
        writer, taken, piece = writer_of(streams, run_id), 0, "x" * 999 + "\n"
        count = 200 if as_text else 5 * PENDING_EVENTS

        async def produce() -> None:
            nonlocal taken
            for i in range(count):
                if as_text:
                    await say(writer, piece)
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
            await assert_whole(streams, redis, writer, run_id, piece * count)
        assert await redis.hget(keys.run(run_id).record, "state") == b"completed"

    over_flaky(streams_url, scenario)


def test_what_a_burst_leaves_behind_needs_nothing_more_to_be_sent(streams_url: str) -> None:
    """The agent may say nothing for a minute after it."""

    async def scenario(flaky: FlakyRedis, streams: Streams, run_id: str, redis: Any) -> None:
        writer = writer_of(streams, run_id)
        flaky.hold_replies()
        await say(writer, "a")

        async def on_its_way() -> bool:
            return await text_of(redis, run_id) == "a"

        await until(on_its_way, "the first piece is in the stream, its reply is not here")
        burst = asyncio.create_task(say(writer, "b" * (PENDING_CHARS + 1)))
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
        writer = writer_of(streams, run_id)
        first, second = "x" * PENDING_CHARS, "y" * (PENDING_CHARS + 1)
        flaky.hold_replies()

        async def produce() -> None:
            await say(writer, first)
            await say(writer, second)

        producing = asyncio.create_task(produce())

        async def on_its_way() -> bool:
            return await text_of(redis, run_id) == first

        await until(on_its_way, "the batch is in the stream")
        assert not producing.done()
        producing.cancel()
        await asyncio.gather(producing, return_exceptions=True)
        flaky.go_on()
        await writer.finish(events.cancelled("asked"))
        await assert_whole(streams, redis, writer, run_id, first + second)
        record = await streams.record(run_id)
        assert record is not None and record.status == "cancelled"

    over_flaky(streams_url, scenario)


async def saved(redis: Any, run_id: str) -> list[tuple[str, bytes]]:
    """The run as the store has it, to be brought back by `rewind`."""
    names = list(keys.run(run_id))
    return [(name, dump) for name in names if (dump := await redis.dump(name)) is not None]


async def rewind(redis: Any, run_id: str, kept: list[tuple[str, bytes]]) -> None:
    """Let the store forget everything that has happened since."""
    await redis.delete(*keys.run(run_id))
    for name, dump in kept:
        await redis.restore(name, 60_000, dump)


async def seq_of(redis: Any, run_id: str) -> int:
    return int(await redis.hget(keys.run(run_id).record, "seq"))


async def write_alone(writer: Writer, redis: Any, run_id: str, count: int) -> None:
    """`count` events, none of them coalesced, and all of them in the stream."""
    before = await seq_of(redis, run_id)
    for i in range(count):
        if i % 2:
            await writer.event(events.step(f"{i}"))
        else:
            await say(writer, f"{i} ")

    async def there() -> bool:
        return await seq_of(redis, run_id) == before + count

    await until(there, f"{count} events are in the stream")


def written(*counts: int) -> str:
    """The text of `write_alone`, once for each."""
    return "".join(f"{i} " for count in counts for i in range(0, count, 2))


@pytest.mark.parametrize("lost", [1, 2, 39])
def test_a_store_that_lost_its_last_appends_gets_them_again(
    streams_url: str, lost: int
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer, kept = writer_of(streams, run_id), 20
        await write_alone(writer, redis, run_id, kept)
        before = await saved(redis, run_id)
        await write_alone(writer, redis, run_id, lost)
        told = await stream_of(redis, run_id)
        await rewind(redis, run_id, before)
        await say(writer, "end")
        await writer.finish(done())
        text = written(kept, lost) + "end"
        await assert_whole(streams, redis, writer, run_id, text)
        assert (await stream_of(redis, run_id))[: len(told)] == told

    on_streams(streams_url, scenario)


def test_it_may_lose_them_twice_and_the_end_too(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        await write_alone(writer, redis, run_id, 4)
        first = await saved(redis, run_id)
        await write_alone(writer, redis, run_id, 4)
        await rewind(redis, run_id, first)
        await say(writer, "more ")

        async def there() -> bool:
            return (await text_of(redis, run_id)).endswith("more ")

        await until(there, "what was lost is back")
        await rewind(redis, run_id, first)
        await writer.finish(done())
        text = written(4, 4) + "more "
        await assert_whole(streams, redis, writer, run_id, text)

    on_streams(streams_url, scenario)


def test_what_is_gone_from_the_ring_cannot_be_sent_again(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        kept = await saved(redis, run_id)
        await write_alone(writer, redis, run_id, RING + 1)
        await rewind(redis, run_id, kept)
        before = await everything(redis, run_id)
        await say(writer, "end")
        with pytest.raises(Refused) as caught:
            await writer.finish(done())
        await writer.abandon()
        assert caught.value.code == "gap"
        assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


def test_a_store_from_before_the_attempt_is_left_to_another_one(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        kept = await saved(redis, run_id)
        await claim(streams, run_id, 1)
        writer = writer_of(streams, run_id)
        await say(writer, "a")
        await rewind(redis, run_id, kept)
        with pytest.raises(Refused) as caught:
            await writer.finish(done())
        await writer.abandon()
        assert caught.value.code == "gap"

    on_streams(streams_url, scenario)


FULL = StoreFull("no room")


def test_a_full_store_is_waited_for_as_long_as_the_attempt_lasts() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        recorder.faults = [FULL, FULL, StoreUnavailable("away"), FULL]
        writer = Writer(recorder, "r", 1, tape_of("r"))  # type: ignore[arg-type]
        # One batch on its way, and one that waits for it.
        await say(writer, "x" * (PENDING_CHARS + 1))
        await say(writer, "x" * (PENDING_CHARS + 1))
        assert not recorder.faults and recorder.events
        assert await writer.finish(done()) == done()
        assert recorder.ends == []

    asyncio.run(scenario())


@pytest.mark.parametrize("waits", ["text", "nothing"])
@pytest.mark.parametrize(
    ("last", "ended"),
    [
        (done(), "failed"),
        (events.failed("agent_error", "", retryable=False), "failed"),
        (events.cancelled("asked"), "cancelled"),
    ],
)
def test_a_store_that_stays_full_gets_an_end_alone(
    monkeypatch: pytest.MonkeyPatch, waits: str, last: Event, ended: str
) -> None:
    monkeypatch.setattr("plateau_sse.runner.writer.FULL_S", 0.2)

    async def scenario() -> None:
        recorder = Recorder()
        recorder.faults = [FULL] * 1000
        writer = Writer(recorder, "r", 1, tape_of("r"))  # type: ignore[arg-type]
        if waits == "text":
            await say(writer, "a")
        given = await writer.finish(last)
        assert recorder.ends == [given] and recorder.events == []
        assert given.arg == ended
        if ended == "failed":
            told = decoded(given.data)
            assert (told["code"], told["retryable"]) == ("store_full", True)
        assert len(given.data) < 256

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("last", "ended"), [(done(), "failed"), (events.cancelled("asked"), "cancelled")]
)
def test_who_is_stopped_while_it_waits_for_room_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch, last: Event, ended: str
) -> None:
    """At once where it is cancelled: nobody waits for what it had still to say."""
    monkeypatch.setattr("plateau_sse.runner.writer.FULL_S", 0.2 if ended == "failed" else 60)

    async def scenario() -> None:
        recorder = Recorder()
        recorder.faults = [FULL] * 1000
        writer = Writer(recorder, "r", 1, tape_of("r"))  # type: ignore[arg-type]

        async def speak() -> None:
            while True:
                await say(writer, "x" * (PENDING_CHARS // 4))

        speaking = asyncio.create_task(speak())
        await asyncio.wait({speaking}, timeout=0.1)
        assert not speaking.done()
        speaking.cancel()
        await asyncio.wait({speaking})
        with pytest.raises(StoreFull):
            await writer.close(last)
        given = await writer.finish(last)
        assert recorder.ends == [given] and given.arg == ended

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_run_ends_in_a_store_that_is_really_full(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A little of it is still taken, then nothing but the end."""
    monkeypatch.setattr("plateau_sse.runner.writer.FULL_S", 0.3)

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        with full(streams_url):
            await say(writer, "a little")

            async def there() -> bool:
                return await text_of(redis, run_id) == "a little"

            await until(there, "a little is taken")
            await say(writer, "x" * 30_000)
            last = await writer.finish(done())
        assert last.arg == "failed"
        record = await streams.record(run_id)
        assert record is not None and record.error is not None
        assert (record.status, record.error["code"]) == ("failed", "store_full")
        assert record.tape.said() == "a little"

    on_streams(streams_url, scenario)
