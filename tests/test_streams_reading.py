"""read.lua: from any position a reader gets all that it lacks, once, in pieces of a few KiB."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from locustfiles.kit.ledger import Ledger

from plateau_sse.store.redis import keys
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.looks import READ_BYTES
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.shares import Denied
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
    queued,
    running,
    shown,
    texts,
)
from tests.tapes import tell


def position_of(last: str) -> int:
    return ids.parse(last).number if last else 0


async def read(streams: Streams, run_id: str, last: str = "") -> Reading:
    reading = await streams.read(run_id, position_of(last))
    assert reading is not None
    return reading


async def read_log(streams: Streams, run_id: str, last: str = "") -> Reading:
    reading = await streams.read_log(run_id, position_of(last))
    assert reading is not None
    return reading


def told(reading: Reading) -> list[tuple[str, str]]:
    """Where each ends, and its text; its type where it has none."""
    found = []
    for entry in reading.entries:
        event = decoded(entry.data)
        found.append((ids.show(entry.number), event.get("text", event["type"])))
    return found


def test_from_the_start_and_from_every_position(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        mark = events.step("x")
        await streams.append(run_id, 1, [*texts("a", "é", "c"), mark, events.delta("d", "r")])
        reading = await read(streams, run_id)
        assert (reading.owner, reading.status) == ("ann", "running")
        assert reading.head == reading.reached == ids.number(1, 9)
        assert reading.is_whole and not reading.ended and not reading.restarts
        # What was three events is one, since it is cut anew.
        whole = [("1-1", "run.started"), ("1-6", "aéc"), ("1-7", "step"), ("1-9", "d")]
        assert told(reading) == whole
        for last, rest in (
            ("1-1", whole[1:]),
            # The part is open and has said nothing yet.
            ("1-2", whole[1:]),
            ("1-3", [("1-6", "éc"), *whole[2:]]),
            ("1-5", [("1-6", "c"), *whole[2:]]),
            ("1-6", whole[2:]),
            ("1-7", whole[3:]),
            ("1-8", whole[3:]),
            ("1-9", []),
        ):
            reading = await read(streams, run_id, last)
            assert told(reading) == rest and reading.is_whole and not reading.restarts
        # As the stream has it.
        log = await read_log(streams, run_id, "1-3")
        assert told(log) == [("1-5", "é"), ("1-6", "c"), *whole[2:]]

    on_streams(streams_url, scenario)


def test_a_position_within_a_character_is_none(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("a🏔", "é"))
        for last in ("1-4", "1-5", "1-6", "1-8"):
            for reading in (
                await read(streams, run_id, last),
                await read_log(streams, run_id, last),
            ):
                assert reading.restarts == "rewound" and reading.entries == []
                assert reading.reached == ids.number(1, 0) and not reading.is_whole
        # And from there all of it.
        assert (await read(streams, run_id, "1-0")).is_whole

    on_streams(streams_url, scenario)


def test_after_the_terminal_event_there_is_nothing(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await finished(streams, "a")
        for stream_is_there in (True, False):
            reading = await read(streams, run_id, "1-4")
            assert reading.ended and reading.is_whole
            assert reading.entries == [] and not reading.restarts
            reading = await read(streams, run_id, "1-3")
            assert shown(reading.entries) == ["1-4"]
            assert events.is_terminal(reading.entries[0].data)
            if stream_is_there:
                await redis.delete(keys.run(run_id).events)

    on_streams(streams_url, scenario)


def test_a_queued_run_has_no_tape(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        reading = await read(streams, run_id)
        assert reading.status == "queued" and not reading.ended
        assert reading.head == 0 and reading.entries == [] and reading.is_whole
        # Whoever has seen something has seen what the store has lost.
        assert (await read(streams, run_id, "1-1")).is_ahead
        assert (await read(streams, run_id, "7-7")).is_ahead

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("last", ["1-7", "1-500", "2-0", "2-1", "9-999999999"])
def test_a_position_ahead_of_the_tape_is_said_to_be(streams_url: str, last: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("a", "b", "c", "d"))
        for reading in (
            await read(streams, run_id, last),
            await read_log(streams, run_id, last),
        ):
            assert reading.is_ahead and reading.entries == [] and not reading.restarts
            assert reading.head == ids.number(1, 6)
            assert reading.reached == position_of(last)

    on_streams(streams_url, scenario)


def test_a_late_reader_is_sent_what_it_lacks_and_no_more(streams_url: str) -> None:
    """200 KB, trimmed and then expired: who has all but the last 1 KB gets that."""

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        for _ in range(400):
            await streams.append(run_id, 1, texts("x" * 500))
        await streams.finish(run_id, 1, [done()], first_seq=402)
        for stream_is_there in (True, False):
            reading = await read(streams, run_id, f"1-{2 + 200_000 - 1_000}")
            assert reading.is_whole and len(reading.entries) == 2
            assert sum(len(entry.data) for entry in reading.entries) < 1_300
            if stream_is_there:
                await redis.delete(keys.run(run_id).events)

    on_streams(streams_url, scenario)


LARGE = events.data("table", "x" * 30_000)


@pytest.mark.parametrize(
    "batch",
    [
        texts("é🏔" * 1_200),
        # Six bytes of JSON to each.
        texts("\x01" * 1_300),
        [*texts("x" * 5_000), LARGE],
        [LARGE, LARGE],
        [*texts("x"), events.delta("", "r")],
        [events.step("again"), *texts("é" * 400), events.step("")],
    ],
)
def test_readings_are_pieces_that_lead_on(streams_url: str, batch: list[Event]) -> None:
    """Whatever the tape is made of: none holds much, and together they are all of it."""

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        for _ in range(100):
            if (await streams.append(run_id, 1, batch)).code != "ok":
                break
        await streams.finish(run_id, 1, [done()], first_seq=0)
        await redis.delete(keys.run(run_id).events)
        reader, position, readings = Ledger(), 0, 0
        while True:
            reading = await streams.read(run_id, position)
            assert reading is not None and not reading.restarts
            held = sum(len(entry.data) for entry in reading.entries)
            # One thing alone may be larger; a byte of text may have six in JSON.
            assert held <= READ_BYTES + max(5 * READ_BYTES, len(LARGE.data)) + 24 * 200
            for entry in reading.entries:
                assert len(entry.data) <= 8 * 1024 - 60 or b'"type":"data"' in entry.data
            tell(reader, reading.entries, ids.tag_of(run_id))
            position, readings = reading.reached, readings + 1
            if reading.is_whole:
                break
            assert reading.entries
        record = await streams.record(run_id)
        assert record is not None and reader.close() == {}
        assert reader.parts == record.parts and reader.end == decoded(done().data)
        assert readings > 1

    on_streams(streams_url, scenario)


def test_what_the_stream_has_is_read_in_pieces_too(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, [*texts("x" * 5_000) * 10, LARGE, *texts("y")])
        position, sizes = 0, []
        while position != (await read(streams, run_id, "9-9")).head:
            reading = await streams.read_log(run_id, position)
            assert reading is not None
            sizes.append([len(entry.data) for entry in reading.entries])
            position = reading.reached
        assert sum(map(len, sizes)) == 13
        assert all(len(some) == 1 or sum(some) <= READ_BYTES for some in sizes)

    on_streams(streams_url, scenario)


def test_a_hole_that_the_stream_cannot_fill_is_read_off_the_tape(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts(*"x" * 250))
        # Run.started, the opening, 250 bytes: the stream has the last 100 of them.
        log = await read_log(streams, run_id, "1-152")
        assert shown(log.entries) == [f"1-{at}" for at in range(153, 253)]
        for last, text in (("1-151", 101), ("1-1", 250), ("1-2", 250)):
            log = await read_log(streams, run_id, last)
            assert told(log) == [("1-252", "x" * text)] and log.is_whole
        await redis.delete(keys.run(run_id).events)
        assert told(await read_log(streams, run_id, "1-152")) == [("1-252", "x" * 100)]

    on_streams(streams_url, scenario)


def test_a_run_that_ended_in_the_queue_has_only_its_end(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        await streams.ask_to_cancel(run_id, "asked")
        for stream_is_there in (True, False):
            reading = await read(streams, run_id)
            assert told(reading) == [("1-1", "run.cancelled")] and not reading.restarts
            # Who comes from ahead holds text that is no part of the run any more.
            reading = await read(streams, run_id, "3-4")
            assert reading.is_ahead and reading.ended
            if stream_is_there:
                await redis.delete(keys.run(run_id).events)

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("count", [1, 98, 300])
def test_from_an_older_attempt_to_the_newer_one(streams_url: str, count: int) -> None:
    """All that was seen of it is void, so what it still had to say is left out."""

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("a", "b", "c"))
        await claim(streams, run_id, 3, "r2")
        await streams.append(run_id, 3, texts(*"x" * count))
        newer = [("3-1", "run.started"), (f"3-{count + 2}", "x" * count)]
        # Beyond the end of the older one, too: its last events are lost.
        for last in ("1-1", "1-2", "1-5", "1-77", "2-0", "2-5"):
            reading = await read(streams, run_id, last)
            assert told(reading) == newer and reading.restarts == "attempt"
        for last in ("", "3-0"):
            reading = await read(streams, run_id, last)
            assert told(reading) == newer and not reading.restarts
        # Who repairs a hole is told of all that the stream has.
        if count == 1:
            log = await read_log(streams, run_id, "1-3")
            assert shown(log.entries) == ["1-4", "1-5", "3-1", "3-3"] and not log.restarts

    on_streams(streams_url, scenario)


def test_the_latest_progress_is_told_with_its_count(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        assert (await read(streams, run_id))[-2:] == (0, b"")
        steps = [events.progress(i, 3, "", "", 0.0) for i in (1, 2, 3)]
        await streams.append(run_id, 1, [*steps, events.tool_delta("1", "f", "{")])
        for reading in (await read(streams, run_id), await read_log(streams, run_id, "1-1")):
            assert (reading.states, reading.progress) == (4, steps[2].data)
        await streams.finish(run_id, 1, [done()], first_seq=6)
        assert (await read(streams, run_id)).progress == b""

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("size", [0, 5, events.TAPE_BYTES - 6])
def test_the_end_is_told_with_an_answer_that_is_not_the_text(
    streams_url: str, size: int
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id, output = await running(streams), "é" * (size // 2)
        await streams.finish(run_id, 1, [*texts("draft"), done()], first_seq=2, output=output)
        for reading in (
            await read(streams, run_id),
            await read(streams, run_id, "1-7"),
            await read_log(streams, run_id, "1-3"),
            await read_log(streams, run_id, "1-7"),
        ):
            assert reading.is_whole
            last = decoded(reading.entries[-1].data)
            assert last == decoded(done().data) | {"output": output}
        # And not before.
        assert "output" not in decoded((await read(streams, run_id)).entries[1].data)

    on_streams(streams_url, scenario)


def test_a_token_opens_its_own_run_only(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        other = ids.new_run_id()
        await streams.create(other, agent="a", owner="bob", token="bobs", request=b"{}")
        for token in ("", TOKEN):
            assert await streams.read(run_id, 0, token) is not None
            assert await streams.record(run_id, token) is not None
        for token in ("bobs", "x", TOKEN + " ", TOKEN.upper()):
            with pytest.raises(Denied):
                await streams.read(run_id, 0, token)
            with pytest.raises(Denied):
                await streams.record(run_id, token)
        # No token tells an absent run from a present one.
        assert await streams.read(ids.new_run_id(), 0, "x") is None
        assert await streams.record(ids.new_run_id(), "x") is None
        # It lives as long as the record.
        await streams.finish(run_id, 1, [done()], first_seq=2)
        assert await streams.read(run_id, 0, TOKEN) is not None

    on_streams(streams_url, scenario)


def test_the_record_in_each_state(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        record = await streams.record(run_id)
        assert record is not None and record.created_ms
        assert (record.owner, record.status, record.agent) == ("ann", "queued", "notes")
        assert (record.attempt, record.parts, record.output) == (0, [], None)
        assert record.started_ms is None and record.ended_ms is None and record.error is None
        await claim(streams, run_id, 1)
        await streams.append(run_id, 1, texts("not yet the output"))
        record = await streams.record(run_id)
        assert record is not None and (record.status, record.attempt) == ("running", 1)
        assert record.output is None and record.error is None and record.ended_ms is None
        assert record.parts == [{"type": "text", "part": 0, "text": "not yet the output"}]
        await claim(streams, run_id, 2, "r2")
        tool = events.tool_call("1", "find", {})
        said = [events.delta("hm", "r"), *texts("né"), tool, events.delta("e", "t", " 1")]
        usage = {"input_tokens": 1, "output_tokens": 2}
        last = events.completed(
            usage, cached=False, duration_ms=1, finish_reason="length", model="m"
        )
        await streams.finish(run_id, 2, [*said, last], first_seq=2)
        record = await streams.record(run_id)
        assert record is not None and (record.status, record.attempt) == ("completed", 2)
        assert record.output == "née" and record.error is None
        assert (record.usage, record.finish_reason, record.model) == (usage, "length", "m")
        assert record.parts == [
            {"type": "reasoning", "part": 0, "text": "hm"},
            {"type": "text", "part": 1, "text": "né"},
            decoded(tool.data),
            {"type": "text", "part": 2, "text": "e", "continues": 1},
        ]
        assert record.ended_ms is not None and record.started_ms is not None
        assert record.created_ms <= record.started_ms <= record.ended_ms

        failed = await running(streams)
        last = events.failed("upstream_error", "5xx", retryable=True)
        await streams.finish(failed, 1, [*texts("half"), last], first_seq=2)
        record = await streams.record(failed)
        assert record is not None and record.status == "failed" and record.output is None
        assert record.error == {"code": "upstream_error", "message": "5xx", "retryable": True}
        assert record.parts == [{"type": "text", "part": 0, "text": "half"}]

        numbers = await streams.last_numbers([failed, "0" * 32, run_id])
        assert numbers == [ids.number(1, 7), None, ids.number(2, 12)]

    on_streams(streams_url, scenario)


class Interleaved:
    """A client whose pipeline is a command at a time, with something between the second and
    the third: servers promise no more."""

    def __init__(self, redis: Any, between: Callable[[], Awaitable[object]]) -> None:
        self._redis, self._between = redis, between
        self._commands: list[Awaitable[Any]] = []

    def pipeline(self, transaction: bool) -> Interleaved:
        assert not transaction
        return self

    async def __aenter__(self) -> Interleaved:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._commands = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self._commands.append(getattr(self._redis, name)(*args))

    async def execute(self) -> list[Any]:
        found = [await command for command in self._commands[:2]]
        await self._between()
        return found + [await command for command in self._commands[2:]]


def test_a_record_is_of_one_attempt_whatever_is_written_meanwhile(streams_url: str) -> None:
    """Text of one and points of another would not even be characters."""

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("éééé"))
        claims = iter((2, 3))

        async def between() -> None:
            if attempt := next(claims, 0):
                await claim(streams, run_id, attempt)
                await streams.append(run_id, attempt, [*texts("🏔"), events.step("x")])

        looking = Streams(redis, alive_s=ALIVE_S, record_s=RECORD_S)
        looking._redis = Interleaved(redis, between)
        record = await looking.record(run_id)
        assert record is not None and record.attempt == 3
        assert record.parts[0]["text"] == "🏔" and len(record.parts) == 2

    on_streams(streams_url, scenario)
