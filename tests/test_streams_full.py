"""A full store: what is on may write a little more, and end; what that takes is bounded."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from plateau_sse.errors import StoreFull
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.streams import Streams
from tests.conftest import end_server, start_server
from tests.store import (
    claim,
    decoded,
    done,
    everything,
    full,
    on_streams,
    own_bound,
    queued,
    running,
    text_of,
    texts,
)

MIB = 1024 * 1024
TIGHT_BYTES = 8 * 1024


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
        for i in range(100):
            assert (await streams.append(first, 1, texts(f"{i} " * 20))).code == "ok"
        assert (await streams.finish(first, 1, [done()], first_seq=104)).code == "ok"
        reading = await streams.read(first, 0)
        assert reading is not None and reading.is_whole
        assert [decoded(entry.data)["type"] for entry in reading.entries] == [
            *("run.started", "message.delta", "run.completed"),
        ]
        record = await streams.record(first)
        assert record is not None and record.status == "completed"
        last = events.failed("queue_timeout", "nobody came", retryable=True)
        assert (await streams.end(third, 0, last)).code == "ok"
        with pytest.raises(StoreFull):
            await queued(streams)

    with own_bound(streams_url):
        on_streams(streams_url, scenario)


MARK = events.data("table", "x" * 500)


@pytest.mark.parametrize(
    "batch",
    [
        texts("x" * 100),
        # More JSON than text: what counts is what is kept.
        texts("\x01" * 500),
        texts("x" * 7_000),
        [MARK],
        [events.delta(""), events.delta("", "r")],
        [MARK, *texts("x"), events.step("")],
    ],
)
def test_while_memory_is_full_a_run_writes_8_kib_and_its_end(
    streams_url: str, batch: list[Event]
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id, other = await running(streams), await running(streams)
        with full(streams_url):
            key, seq = keys.run(run_id), 1
            with pytest.raises(StoreFull):
                while seq < 1000:
                    appended = await streams.append(run_id, 1, batch, first_seq=seq + 1)
                    assert appended.code == "ok"
                    seq = appended.seq
            assert 1 < seq
            told = await redis.strlen(key.text)
            for _, fields in (await redis.xrange(key.marks))[1:]:
                told += len(fields.get(b"m", b""))
            assert told <= TIGHT_BYTES
            # Few entries: whoever comes late reads the tape.
            assert await redis.xlen(key.events) <= 8
            before = await everything(redis, run_id)
            for refused in (batch, [*batch, done()]):
                with pytest.raises(StoreFull):
                    await streams.append(run_id, 1, refused, first_seq=seq + 1)
            with pytest.raises(StoreFull):
                output = "x" * TIGHT_BYTES
                await streams.finish(run_id, 1, [done()], first_seq=seq + 1, output=output)
            assert await everything(redis, run_id) == before
            # What it writes then does not take from another's.
            assert (await streams.append(other, 1, texts("a"))).code == "ok"
            # A repeat of what is there, progress, a wish, and its end.
            assert (await streams.append(run_id, 1, batch, first_seq=2)).code == "dup"
            state = events.progress(1, 2, "", "", 50.0)
            assert (await streams.append(run_id, 1, [state])).code == "ok"
            assert await streams.ask_to_cancel(run_id, "asked") == "running"
            ended = await streams.finish(run_id, 1, [done()], first_seq=seq + 2)
            assert ended.code == "ok"

    on_streams(streams_url, scenario)


def test_when_there_is_room_again_it_goes_on(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        with full(streams_url):
            with pytest.raises(StoreFull):
                for _ in range(20):
                    await streams.append(run_id, 1, texts("x" * 1000))
        there = len(await text_of(redis, run_id))
        assert TIGHT_BYTES - 1000 < there <= TIGHT_BYTES
        assert (await streams.append(run_id, 1, texts("y" * 8000))).code == "ok"
        assert len(await text_of(redis, run_id)) == there + 8000

    on_streams(streams_url, scenario)


BOUND = 64 * MIB
RUNS = 60


async def writes_all_it_can(streams: Streams, run_id: str, batches: list[list[Event]]) -> None:
    """As a producer that heeds no answer but the last one."""
    for batch in batches:
        for _ in range(2_000):
            try:
                appended = await streams.append_external(run_id, 1, batch)
            except StoreFull:
                break
            if appended.code != "ok":
                assert appended.code == "full"
                break


async def ends(streams: Streams, run_id: str, output: str) -> None:
    for said in (output, None):
        try:
            ended = await streams.append_external(run_id, 1, [done()], output=said)
        except StoreFull:
            continue
        if ended.code == "ok":
            return
        assert ended.code == "full"
    raise AssertionError("its end was refused")


def test_what_runs_write_leaves_the_store_within_a_quarter_of_its_bound(
    tmp_path: Path,
) -> None:
    """Sixty that write all they can, of the kind that costs most, and the server then comes
    back with what it has on disk."""
    folder = tmp_path / "streams"
    batches = [
        [events.data("table", "x" * 30_000)],
        [events.delta("\x01" * 1_300)] * 8,
        [events.data("table", "x" * 500)],
        [events.delta("é" * 50)],
        [events.delta("", "r"), events.delta("")],
    ]

    async def write(url: str) -> list[str]:
        redis: Any = connect(url, "test")
        try:
            await redis.config_set("maxmemory", BOUND)
            streams = Streams(redis, alive_s=600, record_s=600)
            run_ids = [await running(streams) for _ in range(RUNS)]
            filler = 0
            while (await redis.info("memory"))["used_memory"] < 0.8 * BOUND:
                await redis.set(f"filler:{filler}", "x" * 256 * 1024, ex=600)
                filler += 1
            for run_id in run_ids:
                await writes_all_it_can(streams, run_id, batches)
            memory = await redis.info("memory")
            assert BOUND <= memory["used_memory"] <= 1.25 * BOUND, memory["used_memory"]
            for run_id in run_ids:
                await ends(streams, run_id, "x" * events.TAPE_BYTES)
            memory = await redis.info("memory")
            assert memory["used_memory"] <= 1.25 * BOUND, memory["used_memory"]
            return run_ids
        finally:
            await redis.aclose()

    async def look(url: str, run_ids: list[str]) -> None:
        redis: Any = connect(url, "test")
        try:
            memory = await redis.info("memory")
            assert memory["used_memory"] <= 1.25 * BOUND, memory["used_memory"]
            assert memory["used_memory_rss"] <= 1.35 * BOUND, memory["used_memory_rss"]
            streams = Streams(redis, alive_s=600, record_s=600)
            for run_id in run_ids:
                record = await streams.record(run_id)
                assert record is not None and record.status == "completed"
        finally:
            await redis.aclose()

    server = start_server("streams", folder)
    try:
        run_ids = asyncio.run(write(server.url))
    finally:
        end_server(server)
    server = start_server("streams", folder)
    try:
        asyncio.run(look(server.url, run_ids))
    finally:
        end_server(server)
        shutil.rmtree(folder)
