"""append.lua: what an append leaves behind: entries, state, messages, and the lives of keys."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from plateau_sse.errors import StoreFull
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import single_connection
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.streams import Streams
from tests.store import (
    ALIVE_S,
    RECORD_S,
    TOKEN,
    claim,
    decoded,
    done,
    finished,
    on_streams,
    own_bound,
    queued,
    running,
    stream_of,
    text_of,
    texts,
)

ALIVE_WITH_SLACK_S = ALIVE_S + 60
ENDED_EVENTS_LIFE_S = 60


@pytest.mark.parametrize("size", [1, 7, 99, 100, 101, 250])
def test_a_stream_never_holds_more_than_100_entries(streams_url: str, size: int) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        stream, seq, rounds = keys.run(run_id).events, 1, max(3, 500 // size)
        for _ in range(rounds):
            pieces = [f"{seq + i} " for i in range(size)]
            appended = await streams.append(run_id, 1, texts(*pieces), first_seq=seq + 1)
            seq += size
            assert appended == ("ok", 1, seq)
            assert await redis.xlen(stream) == min(100, seq)
        kept = [entry_id for entry_id, _ in await stream_of(redis, run_id)]
        assert kept == [f"1-{i}" for i in range(max(1, seq - 99), seq + 1)]
        assert await text_of(redis, run_id) == "".join(f"{i} " for i in range(1, seq))

    on_streams(streams_url, scenario)


def test_the_text_is_folded_byte_for_byte(streams_url: str) -> None:
    pieces = ["", "naïve ", "雪", "🏔", "", "\u2028\n", '"\\', "e\u0301", "\x00", "end"]

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        for piece in pieces:
            await streams.append(run_id, 1, texts(piece))
        assert await text_of(redis, run_id) == "".join(pieces)
        await streams.append(run_id, 1, texts(*pieces))
        assert await text_of(redis, run_id) == "".join(pieces) * 2
        deltas = [decoded(data)["text"] for _, data in (await stream_of(redis, run_id))[1:]]
        assert deltas == pieces * 2

    on_streams(streams_url, scenario)


def test_of_progress_the_latest_is_kept(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        steps = [events.progress(i, 3, "", f"step {i}", 33.3 * i) for i in (1, 2, 3)]
        await streams.append(run_id, 1, steps[:2])
        await streams.append(run_id, 1, [steps[2], *texts("a")])
        assert await redis.hget(keys.run(run_id).record, "progress") == steps[2].data

    on_streams(streams_url, scenario)


def test_tools_are_kept_in_order_up_to_a_bound(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        record = keys.run(run_id).record
        small = [
            events.tool_call("1", "find", {"q": "雪"}),
            events.tool_result("1", ["a", None]),
        ]
        await streams.append(run_id, 1, small)
        assert await redis.hget(record, "tools") == b",".join(tool.data for tool in small)
        large = events.tool_result("2", "x" * 20_000)
        for _ in range(20):
            await streams.append(run_id, 1, [large])
            assert await redis.hstrlen(record, "tools") <= 32 * 1024
        kept = msgspec.json.decode(b"[" + await redis.hget(record, "tools") + b"]")
        assert [tool["id"] for tool in kept] == ["1", "1", "2"]
        # What no snapshot keeps is in the stream all the same.
        assert len(await stream_of(redis, run_id)) == 23

    on_streams(streams_url, scenario)


def test_the_end_and_its_record_are_one_step(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams, b"a long request")
        usage = {"input_tokens": 1, "output_tokens": 2}
        last = events.completed(usage, cached=False, duration_ms=12, output="final")
        batch = [*texts("streamed"), last]
        looked, status = asyncio.Event(), ""

        async def look() -> None:
            nonlocal status
            while status != "completed":
                record, reading = await streams.record(run_id), await streams.read(run_id)
                assert record is not None and reading is not None
                if record.status == "completed":
                    assert (record.output, record.usage) == ("final", usage)
                    assert record.ended_ms is not None
                assert reading.ended == events.is_terminal(reading.entries[-1].data)
                status = record.status
                looked.set()

        looking = asyncio.create_task(look())
        await looked.wait()
        await streams.finish(run_id, 1, batch, first_seq=2, usage=usage, output="final")
        await looking
        assert [i for i, _ in await stream_of(redis, run_id)] == ["1-1", "1-2", "1-3"]
        # What was asked is no longer needed; it may be as large as the answer.
        assert await redis.hget(keys.run(run_id).record, "request") is None

    on_streams(streams_url, scenario)


def test_an_empty_output_is_not_the_streamed_text(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.finish(run_id, 1, [*texts("draft"), done()], first_seq=2, output="")
        record = await streams.record(run_id)
        assert record is not None and record.output == ""

    on_streams(streams_url, scenario)


async def lives(redis: Any, run_id: str) -> dict[str, int]:
    """Seconds that each key of the run has left; -2 where there is none."""
    key = keys.run(run_id)
    return {name: await redis.ttl(value) for name, value in key._asdict().items()}


def assert_about(found: dict[str, int], **expected: int) -> None:
    for name, life_s in expected.items():
        assert life_s - 5 <= found[name] <= life_s, (name, found)


def test_every_key_has_the_life_of_its_stage(streams_url: str) -> None:
    alive = ALIVE_WITH_SLACK_S

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        assert_about(await lives(redis, run_id), record=alive, tokens=alive, text=-2, events=-2)
        await claim(streams, run_id, 1)
        found = await lives(redis, run_id)
        assert_about(found, record=alive, tokens=alive, text=-2, events=alive)
        await streams.append(run_id, 1, texts("a"))
        everywhere = {"record": alive, "tokens": alive, "text": alive, "events": alive}
        assert_about(await lives(redis, run_id), **everywhere)
        # Any append renews all of them, an empty one too.
        for batch in (texts("b"), []):
            for name in keys.run(run_id):
                await redis.expire(name, 3)
            await streams.append(run_id, 1, batch)
            assert_about(await lives(redis, run_id), **everywhere)
        await streams.finish(run_id, 1, [done()], first_seq=4)
        ended = {"record": RECORD_S, "tokens": RECORD_S, "text": RECORD_S}
        found = await lives(redis, run_id)
        assert_about(found, **ended, events=ENDED_EVENTS_LIFE_S)
        # What is refused renews nothing.
        await redis.expire(keys.run(run_id).record, 3)
        await streams.append(run_id, 1, texts("late"))
        assert (await lives(redis, run_id))["record"] <= 3

    on_streams(streams_url, scenario)


def test_a_run_that_ends_in_the_queue_has_the_lives_of_an_ended_one(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        await streams.ask_to_cancel(run_id, "asked")
        found = await lives(redis, run_id)
        assert_about(
            found, record=RECORD_S, tokens=RECORD_S, text=-2, events=ENDED_EVENTS_LIFE_S
        )
        withdrawn = await queued(streams)
        assert await Shares(redis).withdraw(withdrawn, TOKEN, "asked") == "gone"
        assert set((await lives(redis, withdrawn)).values()) == {-2}

    on_streams(streams_url, scenario)


async def fill(streams: Streams, redis: Any) -> None:
    """Lower the bound to just above what is used, create runs until one is refused, and see to
    it that nothing which is freed afterwards makes room again."""
    memory = await redis.info("memory")
    await redis.config_set("maxmemory", memory["used_memory"] + 256 * 1024)
    refused = ""
    with pytest.raises(StoreFull):
        for _ in range(1000):
            refused = ids.new_run_id()
            await streams.create(refused, agent="a", owner="", token="t", request=b"x" * 4000)
    assert not await redis.exists(*keys.run(refused))
    await redis.config_set("maxmemory", memory["used_memory"] // 2)


def test_a_full_store_refuses_new_runs_and_finishes_those_it_has(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        first, second, third = [await queued(streams) for _ in range(3)]
        await fill(streams, redis)
        await claim(streams, first, 1)
        assert (await streams.append(first, 1, texts("a" * 1000, "b"))).code == "ok"
        assert await streams.ask_to_cancel(first, "asked") == "running"
        assert await streams.ask_to_cancel(second, "asked") == "cancelled"
        for i in range(200):
            assert (await streams.append(first, 1, texts(f"{i} " * 20))).code == "ok"
        assert (await streams.finish(first, 1, [done()], first_seq=204)).code == "ok"
        reading = await streams.read(first, ids.number(1, 203))
        assert reading is not None and shown_types(reading.entries) == ["run.completed"]
        record = await streams.record(first)
        assert record is not None and record.status == "completed"
        last = events.failed("queue_timeout", "nobody came", retryable=True)
        assert (await streams.end(third, 0, last)).code == "ok"
        with pytest.raises(StoreFull):
            await queued(streams)

    with own_bound(streams_url):
        on_streams(streams_url, scenario)


def shown_types(entries: list[Any]) -> list[str]:
    return [decoded(entry.data)["type"] for entry in entries]


def test_every_event_is_published_once_with_its_id(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id, other = await queued(streams), await running(streams)
        connection: Any = single_connection(streams_url, "test-subscriber")
        await connection.connect()
        try:
            await connection.send_command("SSUBSCRIBE", keys.channel(run_id))
            confirmation = await connection.read_response()
            assert confirmation[0] == b"ssubscribe"
            await claim(streams, run_id, 1)
            await claim(streams, run_id, 1)
            batch: list[Event] = [*texts("雪 a b", ""), events.progress(1, 1, "", "x", 1.0)]
            await streams.append(run_id, 1, batch, first_seq=2)
            await streams.append(run_id, 1, batch, first_seq=2)
            await streams.append(run_id, 1, texts("gap"), first_seq=9)
            await streams.append(other, 1, texts("another run's"))
            await streams.append(run_id, 1, [])
            await claim(streams, run_id, 2, "r2")
            await streams.append(run_id, 1, texts("fenced"))
            await streams.finish(run_id, 2, [*texts("c"), done()], first_seq=2)
            await streams.append(run_id, 2, texts("ended"))

            payloads: list[bytes] = []
            while not (payloads and events.is_terminal(payloads[-1].partition(b" ")[2])):
                kind, channel, payload = await connection.read_response()
                assert (kind, channel) == (b"smessage", keys.channel(run_id).encode())
                assert keys.run_of(channel) == run_id
                payloads.append(payload)
            # Nothing else came after it.
            await connection.send_command("PING")
            assert (await connection.read_response())[0] == b"pong"
        finally:
            await connection.disconnect()
        stream = await stream_of(redis, run_id)
        assert payloads == [entry_id.encode() + b" " + data for entry_id, data in stream]
        assert [entry_id for entry_id, _ in stream] == [
            *("1-1", "1-2", "1-3", "1-4"),
            *("2-1", "2-2", "2-3"),
        ]

    on_streams(streams_url, scenario)


def test_an_expired_stream_does_not_take_the_answer_with_it(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await finished(streams, "the ", "answer")
        await redis.delete(keys.run(run_id).events)
        record = await streams.record(run_id)
        assert record is not None and record.output == "the answer"

    on_streams(streams_url, scenario)
