"""read.lua: from any position a reader gets all that it lacks, or learns how much it missed."""

from __future__ import annotations

from typing import Any

import pytest

from plateau_sse.store.redis import keys
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.shares import Denied
from plateau_sse.store.runs.streams import Streams
from tests.store import (
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


async def read(streams: Streams, run_id: str, last: str = "") -> Reading:
    reading = await streams.read(run_id, ids.parse(last) if last else 0)
    assert reading is not None
    return reading


def snapshot_of(reading: Reading) -> dict[str, Any]:
    assert reading.snapshot is not None
    return decoded(reading.snapshot.data)


def test_from_the_start_and_from_every_id(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("a", "b", "c"))
        whole = ["1-1", "1-2", "1-3", "1-4"]
        reading = await read(streams, run_id)
        assert (reading.owner, reading.status) == ("ann", "running")
        assert reading.number == ids.parse("1-4") and not reading.ended
        assert shown(reading.entries) == whole and reading.snapshot is None
        for at, last in enumerate(whole, 1):
            reading = await read(streams, run_id, last)
            assert shown(reading.entries) == whole[at:] and reading.snapshot is None

    on_streams(streams_url, scenario)


def test_after_the_terminal_event_there_is_nothing(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await finished(streams, "a")
        reading = await read(streams, run_id, "1-3")
        assert reading.ended and reading.entries == [] and reading.snapshot is None
        reading = await read(streams, run_id, "1-2")
        assert shown(reading.entries) == ["1-3"] and reading.snapshot is None
        assert events.is_terminal(reading.entries[0].data)

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("last", ["", "1-1", "7-7"])
def test_a_queued_run_says_so(streams_url: str, last: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        reading = await read(streams, run_id, last)
        assert reading.status == "queued" and not reading.ended
        assert reading.number == 0 and reading.entries == []
        assert reading.snapshot is not None and reading.snapshot.number == 0
        assert snapshot_of(reading) == {
            "type": "run.snapshot",
            "status": "queued",
            "text": "",
            "progress": None,
            "tools": [],
            "missed": 0,
        }

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("last", ["1-6", "1-500", "2-1", "9-999999999"])
def test_an_id_ahead_of_the_stream_gets_a_snapshot(streams_url: str, last: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("a", "b", "c", "d"))
        reading = await read(streams, run_id, last)
        assert reading.entries == [] and reading.snapshot is not None
        assert reading.snapshot.number == reading.number == ids.parse("1-5")
        assert snapshot_of(reading)["text"] == "abcd"
        assert snapshot_of(reading)["missed"] == 5
        # From there it goes on like everyone else.
        reading = await read(streams, run_id, ids.show(reading.number))
        assert reading.entries == [] and reading.snapshot is None

    on_streams(streams_url, scenario)


@pytest.mark.parametrize(("seen", "missed"), [(0, 251), (1, 250), (100, 151), (150, 101)])
def test_a_trimmed_position_gets_a_snapshot_that_counts(
    streams_url: str, seen: int, missed: int
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        pieces = [f"{i} " for i in range(250)]
        await streams.append(run_id, 1, texts(*pieces))
        reading = await read(streams, run_id, f"1-{seen}" if seen else "")
        assert reading.entries == [] and reading.snapshot is not None
        assert ids.show(reading.snapshot.number) == "1-251"
        assert snapshot_of(reading)["missed"] == missed
        assert snapshot_of(reading)["text"] == "".join(pieces)
        assert snapshot_of(reading)["status"] == "running"

    on_streams(streams_url, scenario)


def test_the_last_position_that_the_stream_still_covers(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts(*"x" * 250))
        reading = await read(streams, run_id, "1-151")
        assert shown(reading.entries) == [f"1-{i}" for i in range(152, 252)]
        assert reading.snapshot is None

    on_streams(streams_url, scenario)


def test_a_snapshot_of_an_ended_run_leaves_the_end_to_its_event(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        step = events.progress(2, 2, "", "雪", 100.0)
        tools = [events.tool_call("1", "find", {}), events.tool_result("1", "found")]
        last = events.failed("agent_error", "broke", retryable=False)
        await streams.finish(run_id, 1, [step, *tools, *texts("ab", "cd"), last], first_seq=2)
        await redis.delete(keys.run(run_id).events)
        for seen, missed in (("", 6), ("1-1", 5), ("1-5", 1), ("1-9", 6), ("2-3", 6)):
            reading = await read(streams, run_id, seen)
            assert reading.ended and reading.snapshot is not None
            assert ids.show(reading.snapshot.number) == "1-6"
            assert snapshot_of(reading) == {
                "type": "run.snapshot",
                "status": "failed",
                "text": "abcd",
                "progress": decoded(step.data),
                "tools": [decoded(tool.data) for tool in tools],
                "missed": missed,
            }
            assert [(ids.show(e.number), e.data) for e in reading.entries] == [
                ("1-7", last.data)
            ]
        reading = await read(streams, run_id, "1-6")
        assert reading.snapshot is None and shown(reading.entries) == ["1-7"]
        reading = await read(streams, run_id, "1-7")
        assert reading.snapshot is None and reading.entries == []

    on_streams(streams_url, scenario)


def test_a_run_that_ended_in_the_queue_has_only_its_end(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        await streams.ask_to_cancel(run_id, "asked")
        for stream_is_there in (True, False):
            reading = await read(streams, run_id)
            assert shown(reading.entries) == ["1-1"] and reading.snapshot is None
            assert decoded(reading.entries[0].data)["type"] == "run.cancelled"
            # Who comes from ahead holds text that is no part of the run any more.
            reading = await read(streams, run_id, "3-4")
            assert shown(reading.entries) == ["1-1"]
            assert reading.snapshot is not None and reading.snapshot.number == 0
            assert snapshot_of(reading)["text"] == "" and snapshot_of(reading)["missed"] == 0
            if stream_is_there:
                await redis.delete(keys.run(run_id).events)

    on_streams(streams_url, scenario)


def test_from_an_older_attempt_to_the_newer_one(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("a", "b", "c"))
        await claim(streams, run_id, 2, "r2")
        await streams.append(run_id, 2, texts("new"))
        newer = ["2-1", "2-2"]
        for last, rest in (("1-2", ["1-3", "1-4", *newer]), ("1-4", newer), ("2-1", ["2-2"])):
            reading = await read(streams, run_id, last)
            assert shown(reading.entries) == rest and reading.snapshot is None
        # Beyond the end of the older attempt: its last events are lost, and cleared anyway.
        reading = await read(streams, run_id, "1-77")
        assert shown(reading.entries) == newer and reading.snapshot is None

    on_streams(streams_url, scenario)


@pytest.mark.parametrize(
    ("count", "from_entries"), [(50, True), (99, True), (100, False), (300, False)]
)
def test_an_older_attempt_that_has_been_trimmed(
    streams_url: str, count: int, from_entries: bool
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts(*"abcdefghij" * 10))
        await claim(streams, run_id, 2, "r2")
        await streams.append(run_id, 2, texts(*"x" * count))
        reading = await read(streams, run_id, "1-101")
        if from_entries:
            assert shown(reading.entries) == [f"2-{i}" for i in range(1, count + 2)]
            assert reading.snapshot is None
        else:
            # The older attempt is cleared, so only the current one's events count.
            assert snapshot_of(reading)["missed"] == count + 1
            assert snapshot_of(reading)["text"] == "x" * count

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
        assert record is not None
        assert record._replace(created_ms=0) == (
            *("ann", "queued", "notes", 0, 0),
            *(None, None, None, None, None, None),
        )
        await claim(streams, run_id, 1)
        await streams.append(run_id, 1, texts("not yet the output"))
        record = await streams.record(run_id)
        assert record is not None and (record.status, record.attempt) == ("running", 1)
        assert record.output is None and record.error is None and record.ended_ms is None
        await claim(streams, run_id, 2, "r2")
        await streams.finish(run_id, 2, [*texts("né", "e"), done()], first_seq=2)
        record = await streams.record(run_id)
        assert record is not None and (record.status, record.attempt) == ("completed", 2)
        assert record.output == "née" and record.error is None and record.usage is None
        assert record.ended_ms is not None and record.started_ms is not None
        assert record.created_ms <= record.started_ms <= record.ended_ms

        failed = await running(streams)
        last = events.failed("upstream_error", "5xx", retryable=True)
        await streams.finish(failed, 1, [*texts("half"), last], first_seq=2)
        record = await streams.record(failed)
        assert record is not None and record.status == "failed" and record.output is None
        assert record.error == {"code": "upstream_error", "message": "5xx", "retryable": True}

        numbers = await streams.last_numbers([failed, "0" * 32, run_id])
        assert numbers == [ids.parse("1-3"), None, ids.parse("2-4")]

    on_streams(streams_url, scenario)
