"""The writer: in order, once, coalesced and bounded; and whose run it is no more, it leaves."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from typing import Any

import pytest

from plateau_sse.runner.holding import COALESCE_S
from plateau_sse.runner.writer import PENDING_CHARS, PENDING_EVENTS, Refused, Writer
from plateau_sse.store.redis import keys
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.streams import Streams
from tests.store import (
    claim,
    decoded,
    done,
    everything,
    forget,
    on_streams,
    running,
    stream_of,
    text_of,
    until,
)
from tests.writers import assert_same_tape, say, writer_of


def step(number: int) -> Event:
    return events.step(str(number))


async def fill_until_refused(writer: Writer) -> str:
    """Write until the writer raises; the code it raises with."""
    async with asyncio.timeout(15):
        with pytest.raises(Refused) as caught:
            while True:
                await say(writer, "z")
                await asyncio.sleep(0.001)
    return caught.value.code


def test_everything_arrives_in_the_order_in_which_it_was_put(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id, chance = await running(streams), random.Random(1)
        writer, put = writer_of(streams, run_id), ["S"]
        for number in range(40):
            for _ in range(chance.randrange(4)):
                piece = chance.choice(["a", "é", "雪", "🏔 ", "\n"])
                put.append(piece)
                await say(writer, piece)
            put.append(f"<{number}>")
            await writer.event(step(number))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.choice([0, 0, 0.01]))
        await writer.finish(done())

        told = [decoded(data) for _, data in await stream_of(redis, run_id)]
        assert told[0]["type"] == "run.started" and told[-1]["type"] == "run.completed"
        shown = [one["text"] if "text" in one else f"<{one['name']}>" for one in told[1:-1]]
        assert "".join(["S", *shown]) == "".join(put)
        await assert_same_tape(streams, run_id, writer)

    on_streams(streams_url, scenario)


def test_the_first_piece_goes_out_at_once_and_alone(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        await say(writer, "first")

        async def there() -> bool:
            return await text_of(redis, run_id) == "first"

        # Nothing follows it that would push it out.
        await until(there, "the first piece is in the stream")
        for piece in ("and ", "the ", "rest"):
            await say(writer, piece)
        await writer.finish(done())
        deltas = [decoded(data)["text"] for _, data in (await stream_of(redis, run_id))[1:-1]]
        # Whether the rest comes in one or in two hangs on how long looking took.
        assert deltas[0] == "first" and "".join(deltas[1:]) == "and the rest"

    on_streams(streams_url, scenario)


def test_10000_pieces_without_a_pause_are_few_events(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        pieces = [f"{i}雪 " for i in range(10_000)]
        for piece in pieces:
            await say(writer, piece)
        await writer.finish(done())
        assert await text_of(redis, run_id) == "".join(pieces)
        # As few as their bounds allow, which are half full where they are least.
        most = 6 + len("".join(pieces).encode()) // (events.TEXT_BYTES // 2)
        assert await redis.xlen(keys.run(run_id).events) <= most

    on_streams(streams_url, scenario)


def test_pieces_are_gathered_for_about_30_ms(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer, began = writer_of(streams, run_id), time.monotonic()
        pieces = [f"{i} " for i in range(300)]
        for piece in pieces:
            await say(writer, piece)
            # A model's pace: the loop has turns in between.
            await asyncio.sleep(0.001)
        await writer.finish(done())
        most = (time.monotonic() - began) / COALESCE_S + 2
        deltas = (await stream_of(redis, run_id))[1:-1]
        assert 2 <= len(deltas) <= most
        assert await text_of(redis, run_id) == "".join(pieces)

    on_streams(streams_url, scenario)


def test_a_text_is_closed_by_what_comes_after_it(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        for number in range(150):
            await say(writer, "a")
            await say(writer, "b")
            await writer.event(step(number))
        await writer.finish(done())
        told = [decoded(data) for _, data in await stream_of(redis, run_id)][:-1]
        said = [one.get("text") or one["name"] for one in told[-4:]]
        assert said == ["ab", "148", "ab", "149"]
        assert await text_of(redis, run_id) == "ab" * 150
        # The very first piece waits for nothing.
        assert int(await redis.hget(keys.run(run_id).record, "seq")) == 1 + 301 + 1
        await assert_same_tape(streams, run_id, writer)

    on_streams(streams_url, scenario)


def test_an_end_without_anything_before_it(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await writer_of(streams, run_id).finish(
            events.completed({"input_tokens": 1}, cached=False, duration_ms=1), output="o"
        )
        record = await streams.record(run_id)
        assert record is not None
        assert (record.status, record.output) == ("completed", "o")
        assert record.usage == {"input_tokens": 1}

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("code", ["fenced", "ended", "gone"])
def test_what_the_script_refuses_ends_the_writer(streams_url: str, code: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        await say(writer, "ours")

        async def there() -> bool:
            return await text_of(redis, run_id) == "ours"

        await until(there, "the first piece is in the stream")
        if code == "fenced":
            await claim(streams, run_id, 2, "r2")
        elif code == "ended":
            await streams.end(run_id, 1, events.failed("runner_lost", "", retryable=True))
        else:
            await forget(redis, run_id)
        before = await everything(redis, run_id)
        assert await fill_until_refused(writer) == code
        # It stays so.
        with pytest.raises(Refused):
            await writer.event(step(1))
        with pytest.raises(Refused):
            await writer.finish(done())
        await writer.abandon()
        assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("code", ["fenced", "ended", "gone"])
def test_the_end_can_be_what_is_refused(streams_url: str, code: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        if code == "fenced":
            await claim(streams, run_id, 2, "r2")
        elif code == "ended":
            await streams.end(run_id, 1, events.failed("runner_lost", "", retryable=True))
            # The number of its own event is taken, but not by its own event.
            await streams.append(run_id, 1, [])
        else:
            await forget(redis, run_id)
        before = await everything(redis, run_id)
        await say(writer, "z")
        with pytest.raises(Refused) as caught:
            await writer.finish(done())
        await writer.abandon()
        assert caught.value.code in ({code, "ended"})
        assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


def test_of_what_was_refused_behind_whoever_abandons_nothing_is_logged(
    streams_url: str,
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: told.append(context)
        )
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        await claim(streams, run_id, 2, "r2")
        await say(writer, "z")
        # Nobody settles: it is refused on its own.
        await until(is_refused, "it is refused")
        await writer.abandon()
        del writer
        gc.collect()
        await asyncio.sleep(0)
        assert not told

    async def is_refused() -> bool:
        return not [it for it in asyncio.all_tasks() if "_flush" in repr(it.get_coro())]

    on_streams(streams_url, scenario)


def test_who_abandons_writes_nothing_more(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        await writer.abandon()
        await say(writer, "a")
        await writer.abandon()
        before = await everything(redis, run_id)
        # The connections are whole: nobody gets another command's reply.
        numbers = await streams.last_numbers([run_id] * 3)
        assert len(set(numbers)) == 1 and await streams.record(run_id) is not None
        assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


def test_the_bounds_are_those_of_a_small_box() -> None:
    assert PENDING_EVENTS <= 100 and PENDING_CHARS <= 64 * 1024
