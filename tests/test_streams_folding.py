"""append.lua: what an append leaves: entries, points, messages, and the lives of keys."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

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
    everything,
    finished,
    head_of,
    ids_of,
    on_streams,
    queued,
    run_of,
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
            appended = await streams.append(run_id, 1, texts(*"x" * size), first_seq=seq + 1)
            seq += size
            assert appended == ("ok", 1, seq, 1)
            assert await redis.xlen(stream) == min(100, seq)
        # Behind run.started and the opening of the part, each ends one further.
        ends = [*([1] if seq <= 100 else []), *range(max(3, seq + 1 - 99), seq + 2)]
        assert await ids_of(redis, run_id) == [f"1-{at}" for at in ends]
        assert await text_of(redis, run_id) == "x" * (seq - 1)

    on_streams(streams_url, scenario)


ENTRY = events.data("table", "x" * 30_000)


@pytest.mark.parametrize(
    "batch",
    [
        [ENTRY],
        [ENTRY] * 7,
        [events.data("table", "x" * 32_000), *texts("y" * 8_000)],
        # Six bytes of JSON to a byte of text.
        [events.delta("\x01" * 1_300)],
        [events.delta("\x01" * 1_300)] * 150,
    ],
)
def test_a_stream_never_holds_more_than_256_kib(streams_url: str, batch: list[Event]) -> None:
    """However large its entries are, up to the bounds of a tape; and the latest is there."""

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        most = 0
        while (await streams.append(run_id, 1, batch)).code == "ok":
            entries = await stream_of(redis, run_id)
            most = max(most, sum(len(data) for _, data in entries))
            assert most <= 256 * 1024 and len(entries) <= 100
            assert entries[-1][0] == ids.show(await head_of(streams, run_id))
            kept = await redis.memory_usage(keys.run(run_id).events, samples=0)
            # Redis keeps nodes of up to 4 KiB, or one large entry each.
            assert kept <= 320 * 1024
        assert most > 120 * 1024

    on_streams(streams_url, scenario)


def test_what_is_in_the_store_for_one_run_at_most(streams_url: str) -> None:
    """Text, marks and openings up to each of their bounds; ended, and while it is on."""

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        for batch in (
            [events.data("table", "\u2028" * 5_000)],
            [events.data("table", "x" * 200)],
            [events.delta("\x01" * 1_300)],
            [events.delta("é" * 100)],
            [events.delta("", "r"), events.delta("")],
        ):
            while (await streams.append(run_id, 1, batch)).code == "ok":
                continue

        async def takes() -> int:
            found = [
                await redis.memory_usage(name, samples=0) or 0 for name in keys.run(run_id)
            ]
            return sum(found)

        bound = events.TAPE_BYTES + events.MARKS_BYTES + 256 * 1024
        assert bound / 2 < await takes() <= 1.3 * bound
        # What is not its text counts with it; its end alone always fits.
        output = "x" * events.TAPE_BYTES
        ended = await streams.finish(run_id, 1, [done()], first_seq=0, output=output)
        assert ended.code == "full"
        assert (await streams.finish(run_id, 1, [done()], first_seq=0)).code == "ok"
        assert await takes() <= 1.25 * bound
        await redis.delete(keys.run(run_id).events)
        assert await takes() <= 1.25 * (bound - 256 * 1024)

    on_streams(streams_url, scenario)


@pytest.mark.parametrize(
    ("piece", "fits"),
    [
        # All that fits, and no byte more.
        (events.delta("x" * 8_000), 256 * 1024 // 8_000),
        (events.delta("雪" * 2_000, "r"), 256 * 1024 // 6_000),
        (ENTRY, (256 * 1024 - 97) // len(ENTRY.data)),
        (events.step("again"), 999),
        # An opening and a mark each.
        ([events.delta("x"), events.step("again")], 499),
    ],
)
def test_a_tape_has_bounds(streams_url: str, piece: Event | list[Event], fits: int) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        batch = [piece] if isinstance(piece, Event) else piece
        for _ in range(fits):
            assert (await streams.append(run_id, 1, batch)).code == "ok"
        before = await everything(redis, run_id)
        assert (await streams.append(run_id, 1, batch)).code == "full"
        assert await everything(redis, run_id) == before
        # State takes no room, and the end always has it.
        state = events.progress(1, 1, "", "", 0.0)
        assert (await streams.append(run_id, 1, [state])).code == "ok"
        assert (await streams.finish(run_id, 1, [done()], first_seq=0)).code == "ok"

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
        # The first opens the part; another that says nothing is no event.
        assert deltas == ["", *filter(None, pieces * 2)]

    on_streams(streams_url, scenario)


def test_of_progress_the_latest_is_kept(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        steps = [events.progress(i, 3, "", f"step {i}", 33.3 * i) for i in (1, 2, 3)]
        await streams.append(run_id, 1, steps[:2])
        await streams.append(run_id, 1, [steps[2], *texts("a")])
        assert await redis.hget(keys.run(run_id).record, "progress") == steps[2].data

    on_streams(streams_url, scenario)


def test_state_is_told_and_not_kept(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("a"))
        before = await everything(redis, run_id)
        states = [
            events.tool_delta("1", "find", '{"q"'),
            events.tool_result("1", "half", preliminary=True),
            events.data("draft", 1, transient=True),
        ]
        assert await streams.append(run_id, 1, states) == ("ok", 1, 5, 1)
        after = await everything(redis, run_id)
        assert after[1:] == before[1:]
        changed = {name for name in after[0] if after[0][name] != before[0].get(name)}
        assert changed == {b"seq", b"tape"}

    on_streams(streams_url, scenario)


def test_marks_and_openings_are_kept_with_their_places(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        tools = [events.tool_call("1", "find", {"q": "雪"}), events.tool_error("1", "broke")]
        batch = [*texts("é", "e"), *tools, events.delta("x", "r", " 0"), done()]
        await streams.finish(run_id, 1, batch, first_seq=2)
        marks = await redis.xrange(keys.run(run_id).marks)
        assert [(at.decode(), *fields.items()) for at, fields in marks] == [
            ("1-1", (b"n", b"1"), (b"m", events.started(run_id, "notes", 1).data)),
            ("1-2", (b"n", b"2"), (b"o", b"0 t")),
            ("1-6", (b"n", b"3"), (b"m", tools[0].data)),
            ("1-7", (b"n", b"4"), (b"m", tools[1].data)),
            ("1-8", (b"n", b"5"), (b"o", b"1 r 0")),
            ("1-10", (b"n", b"6"), (b"m", done().data)),
        ]

    on_streams(streams_url, scenario)


def test_the_end_and_its_record_are_one_step(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams, b"a long request")
        usage = {"input_tokens": 1, "output_tokens": 2}
        last = events.completed(usage, cached=False, duration_ms=12)
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
                output = decoded(reading.entries[-1].data).get("output")
                assert output == ("final" if reading.ended else None)
                status = record.status
                looked.set()

        looking = asyncio.create_task(look())
        await looked.wait()
        await streams.finish(run_id, 1, batch, first_seq=2, output="final")
        await looking
        assert await ids_of(redis, run_id) == ["1-1", "1-10", "1-11"]
        # What was asked is no longer needed; it may be as large as the answer.
        assert await redis.hget(keys.run(run_id).record, "request") is None

    on_streams(streams_url, scenario)


def test_an_empty_output_is_not_the_streamed_text(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.finish(run_id, 1, [*texts("draft"), done()], first_seq=2, output="")
        record = await streams.record(run_id)
        assert record is not None and record.output == ""
        # Whoever reads is told so, from the tape and from the stream.
        for reading in (await streams.read(run_id), await streams.read_log(run_id, 0)):
            assert reading is not None and decoded(reading.entries[-1].data)["output"] == ""

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
        assert_about(found, record=alive, tokens=alive, text=-2, events=alive, marks=alive)
        await streams.append(run_id, 1, texts("a"))
        everywhere = dict.fromkeys(("record", "tokens", "text", "events", "marks"), alive)
        assert_about(await lives(redis, run_id), **everywhere)
        # Any append renews all of them, an empty one too.
        for batch in (texts("b"), []):
            for name in keys.run(run_id):
                await redis.expire(name, 3)
            await streams.append(run_id, 1, batch)
            assert_about(await lives(redis, run_id), **everywhere)
        await streams.finish(run_id, 1, [done()], first_seq=4)
        ended = dict.fromkeys(("record", "tokens", "text", "marks"), RECORD_S)
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
            step = events.progress(1, 1, "", "x", 1.0)
            batch: list[Event] = [*texts("雪 a b", ""), step, *texts("c")]
            await streams.append(run_id, 1, batch, first_seq=2)
            await streams.append(run_id, 1, batch, first_seq=2)
            await streams.append(run_id, 1, texts("gap"), first_seq=19)
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
                assert run_of(channel) == run_id
                payloads.append(payload)
            # Nothing else came after it.
            await connection.send_command("PING")
            assert (await connection.read_response())[0] == b"pong"
        finally:
            await connection.disconnect()
        stream = dict(await stream_of(redis, run_id))
        whole = {"1-0-1": "1-1", "1-1-9": "1-9", "1-9-10": "1-10"}
        whole |= {"2-0-1": "2-1", "2-1-3": "2-3", "2-3-4": "2-4"}
        assert list(stream) == list(whole.values())
        told = [tuple(payload.split(b" ", 1)) for payload in payloads]
        assert told == [
            *((where.encode(), stream[at]) for where, at in list(whole.items())[:2]),
            (b"1-s-1", step.data),
            *((where.encode(), stream[at]) for where, at in list(whole.items())[2:]),
        ]

    on_streams(streams_url, scenario)


def test_an_end_with_an_answer_of_its_own_is_published_without_it(streams_url: str) -> None:
    """No message is larger than what a connection may have to hold."""

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        connection: Any = single_connection(streams_url, "test-subscriber")
        await connection.connect()
        try:
            await connection.send_command("SSUBSCRIBE", keys.channel(run_id))
            await connection.read_response()
            output = "x" * events.TAPE_BYTES
            await streams.finish(run_id, 1, [done()], first_seq=2, output=output)
            assert (await connection.read_response())[2] == b"1-1-2 "
        finally:
            await connection.disconnect()
        assert len((await stream_of(redis, run_id))[-1][1]) < 1000
        record = await streams.record(run_id)
        assert record is not None and record.output == output

    on_streams(streams_url, scenario)


def test_an_expired_stream_does_not_take_the_answer_with_it(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await finished(streams, "the ", "answer")
        await redis.delete(keys.run(run_id).events)
        record = await streams.record(run_id)
        assert record is not None and record.output == "the answer"

    on_streams(streams_url, scenario)
