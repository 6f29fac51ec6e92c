"""A store that comes back without the last that was written: no number of an attempt, and no
position, ever stands for two texts; whoever has seen what is lost is told to begin anew."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from locustfiles.kit.ledger import Ledger

from plateau_sse.runner.claiming import Claims
from plateau_sse.store.queue.queue import Ticket
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.appending import Appended
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.streams import Claimed, Streams
from tests.conftest import Server, end_server, start_server
from tests.store import (
    TOKEN,
    began,
    claim,
    decoded,
    done,
    everything,
    exchange_server,
    ids_of,
    kept,
    on_streams,
    put_back,
    queued,
    running,
    stream_of,
    text_of,
    texts,
    without_age,
)
from tests.tapes import tell


async def read_on(streams: Streams, run_id: str, ledger: Ledger) -> Reading:
    """As a response does: all that the reader has not seen, each thing once and in line."""
    tag = ids.tag_of(run_id)
    while True:
        position = ids.number(ledger.at.attempt, ledger.at.at)
        reading = await streams.read(run_id, position)
        assert reading is not None
        if reading.restarts:
            attempt, _ = ids.split(reading.head)
            again = events.restarted(attempt, reading.restarts)
            assert ledger.take(f"{tag}-{attempt}-0", decoded(again)), ledger.faults
        tell(ledger, reading.entries, tag)
        if reading.is_whole or reading.is_ahead:
            return reading


def first_of(run_id: str, attempt: int) -> Event:
    return events.started(run_id, "notes", attempt)


def test_a_claim_at_another_server_leaves_out_a_number(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        for run_id, base in ((await queued(streams), 0), (await running(streams), 1)):
            await exchange_server(redis, run_id)
            before = await everything(redis, run_id)
            refused = await streams.claim(run_id, base + 1, "r2", first_of(run_id, base + 1))
            assert isinstance(refused, Appended) and refused.code == "skip"
            assert await everything(redis, run_id) == before
            assert (await claim(streams, run_id, base + 2, "r2")).attempt == base + 2
            # From there on it is this server's.
            assert (await claim(streams, run_id, base + 3, "r3")).attempt == base + 3

    on_streams(streams_url, scenario)


def claims_of(
    name: str, streams: Streams, *, max_attempts: int = 100, life_s: float = 3600
) -> Claims:
    counted: Any = SimpleNamespace(count=lambda _: None, count_end=lambda *_: None)
    return Claims(name, None, streams, counted, max_attempts, life_s)


@pytest.mark.parametrize(
    ("delivered", "claims", "exchanged", "expected"),
    [
        # As it mostly is.
        (False, [], False, 1),
        (True, [1], False, 2),
        # Delivered before, and nobody is known to have claimed it: it may have been lost.
        (True, [], False, 2),
        (False, [], True, 2),
        (True, [1], True, 3),
        (True, [2], True, 4),
    ],
)
def test_which_number_a_runner_claims(
    streams_url: str, delivered: bool, claims: list[int], exchanged: bool, expected: int
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        for number in claims:
            await claim(streams, run_id, number, "r1")
        await without_age(redis, run_id)
        if exchanged:
            await exchange_server(redis, run_id)
        ticket = Ticket(run_id, "notes", delivered)
        claimed = await claims_of("r2", streams).claim(ticket)
        assert isinstance(claimed, Claimed) and claimed.attempt == expected

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("how", ["claimed", "appended", "ended"])
def test_two_losses_from_one_copy_never_share_a_number(streams_url: str, how: str) -> None:
    """Whatever was begun after the first of them is lost with the second."""

    async def begin(streams: Streams, run_id: str) -> int:
        if how == "claimed":
            ticket = Ticket(run_id, "notes", True)
            claimed = await claims_of("r2", streams).claim(ticket)
            assert isinstance(claimed, Claimed)
            return claimed.attempt
        if how == "appended":
            return (await streams.append_external(run_id, 1, texts("x"))).attempt
        return (await streams.end(run_id, 1, done())).attempt

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        copy, numbers = await kept(redis, run_id), []
        for age_s in (1, 2, 2.5, 60, 3600):
            await put_back(redis, run_id, copy)
            created_ms = int((time.time() - age_s) * 1000)
            await redis.hset(keys.run(run_id).record, "created_ms", created_ms)
            numbers.append(await begin(streams, run_id))
            await streams.append(run_id, numbers[-1], texts("y"))
        assert numbers == sorted(set(numbers)) and numbers[0] > 2, numbers
        # As ids of events may have it.
        assert ids.parse(f"{numbers[-1]}-0") and numbers[-1] < 2**25

    on_streams(streams_url, scenario)


def test_a_number_that_is_skipped_is_no_attempt_that_died(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        ticket = Ticket(run_id, "notes", True)
        claims = claims_of("r2", streams, max_attempts=2)
        for number in (1, 2):
            await exchange_server(redis, run_id)
            claimed = await claims.claim(ticket)
            assert isinstance(claimed, Claimed) and claimed.attempt == 2 * number
        assert await claims.claim(ticket) is None
        record = await streams.record(run_id)
        assert record is not None and record.status == "failed"
        assert record.error is not None
        assert record.error["message"] == "Its runner died, 2 times."

    on_streams(streams_url, scenario)


LOST: list[Event] = [
    *texts("what is lost é🏔"),
    events.delta("a thought", "r"),
    events.step("again"),
    *texts("more"),
]
OTHER: list[Event] = [
    events.step("another"),
    *texts("something else"),
    events.delta("quite", "r"),
    *texts("other"),
    *texts("x" * 60),
]


def test_a_lost_execution_is_never_continued_with_other_text(streams_url: str) -> None:
    """Readers who dropped at each event of it: whatever they saw is cleared."""

    async def scenario(streams: Streams, redis: Any) -> None:
        for was_claimed in (False, True):
            run_id = await queued(streams)
            if was_claimed:
                await claim(streams, run_id, 1, "r1")
            copy = await kept(redis, run_id)
            await claim(streams, run_id, 1 + was_claimed, "r2")
            readers = [Ledger()]
            for event in LOST:
                await streams.append(run_id, 1 + was_claimed, [event])
                readers.append(Ledger())
                await read_on(streams, run_id, readers[-1])
            await put_back(redis, run_id, copy)
            ticket = Ticket(run_id, "notes", True)
            claimed = await claims_of("r3", streams).claim(ticket)
            assert claimed is not None
            for event in OTHER:
                await streams.append(run_id, claimed.attempt, [event])
            await streams.finish(run_id, claimed.attempt, [done()], first_seq=0)
            record = await streams.record(run_id)
            assert record is not None
            for reader in readers:
                had = reader.events
                reading = await read_on(streams, run_id, reader)
                assert reading.ended and reader.close() == {}
                assert reader.parts == record.parts and reader.restarts == (had > 0)

    on_streams(streams_url, scenario)


def test_a_ring_fills_what_was_lost_with_the_same(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("kept "), first_seq=2)
        copy = await kept(redis, run_id)
        await streams.append(run_id, 1, LOST, first_seq=3)
        whole = await everything(redis, run_id)
        reader = Ledger()
        await read_on(streams, run_id, reader)
        await put_back(redis, run_id, copy)
        reading = await read_on(streams, run_id, reader)
        assert reading.is_ahead and reading.reached == ids.number(1, reader.at.at)
        gap = await streams.append(run_id, 1, texts("new"), first_seq=8)
        assert gap == ("gap", 1, 2, 1)
        # Its count goes on, so no new attempt is begun for it.
        again = await streams.append(run_id, 1, [*LOST, *texts("new")], first_seq=3)
        assert again.code == "ok" and again.attempt == 1
        assert (await everything(redis, run_id))[2][: len(whole[2])] == whole[2]
        reading = await read_on(streams, run_id, reader)
        assert reader.restarts == 0 and reader.close() == {} and reader.text.endswith("new")

    on_streams(streams_url, scenario)


def test_who_counts_nothing_begins_a_new_attempt_with_what_is_left(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        left = [*texts("left é"), events.delta("over", "r"), events.step("x"), *texts("!")]
        await streams.append_external(run_id, 1, left)
        copy = await kept(redis, run_id)
        marks = await redis.xrange(keys.run(run_id).marks)
        await streams.append_external(run_id, 1, LOST)
        readers = []
        for at in (0, 1, 3, 6, 10, 14, 15, 16, 17, 20, 30, 35):
            readers.append(Ledger())
            tell_until(readers[-1], run_id, at, (await streams.read(run_id)))
        await put_back(redis, run_id, copy)
        text = await text_of(redis, run_id)
        assert await streams.append_external(run_id, 1, OTHER) == ("ok", 3, 5, 6)
        # The same at the same places, under another attempt.
        found = await redis.xrange(keys.run(run_id).marks)
        assert [at for at, _ in found[: len(marks)]] == [
            at.replace(b"1-", b"3-", 1) for at, _ in marks
        ]
        assert [fields for _, fields in found[1 : len(marks)]] == [
            fields for _, fields in marks[1:]
        ]
        assert found[0][1][b"m"] == first_of(run_id, 3).data
        assert (await text_of(redis, run_id)).startswith(text)
        assert all(at.startswith("3-") for at in await ids_of(redis, run_id))
        for name in keys.run(run_id):
            assert await redis.ttl(name) > 0, name
        # It is known now, and stays.
        assert (await streams.append_external(run_id, 3, texts("y"))).attempt == 3
        ended = await streams.append_external(run_id, 3, [done()])
        assert ended == ("ok", 3, 7, 6)
        record = await streams.record(run_id)
        assert record is not None and record.attempt == 3
        for reader in readers:
            had = reader.at.at
            await read_on(streams, run_id, reader)
            assert reader.close() == {} and reader.parts == record.parts
            assert reader.restarts == (had > 0)

    on_streams(streams_url, scenario)


def tell_until(ledger: Ledger, run_id: str, at: int, reading: Reading | None) -> None:
    """As if the reader had dropped as soon as it had so much."""
    assert reading is not None
    for entry in reading.entries:
        if ledger.at.at >= at:
            return
        tell(ledger, [entry], ids.tag_of(run_id))


def test_an_append_of_a_new_attempt_that_is_sent_twice_is_one(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await exchange_server(redis, run_id)
        fields = ("batch", "0123456789abcdef")
        assert await streams.append(run_id, 1, texts("a"), fields=fields) == ("ok", 3, 1, 1)
        before = await everything(redis, run_id)
        assert await streams.append(run_id, 1, texts("a"), fields=fields) == ("dup", 3, 1, 1)
        # Another that was on its way to the attempt before learns of the new one.
        other = await streams.append(run_id, 1, texts("b"), fields=("batch", "b"))
        assert other == ("fenced", 3, 1, 1)
        assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


def test_an_empty_append_begins_nothing(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await exchange_server(redis, run_id)
        assert await streams.append_external(run_id, 1, []) == ("ok", 1, 1, 0)
        assert (await streams.append_external(run_id, 1, texts("a"))).attempt == 3

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("was_claimed", [True, False])
def test_an_end_by_another_stands_where_no_reader_had_anything(
    streams_url: str, was_claimed: bool
) -> None:
    """Each reader is told of it, also who has seen a text of just that length."""

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        if was_claimed:
            await claim(streams, run_id, 1)
            await streams.append(run_id, 1, texts("left"), first_seq=2)
        copy = await kept(redis, run_id)
        if not was_claimed:
            await claim(streams, run_id, 1)
        readers = [Ledger()]
        for letter in "abcdef":
            await streams.append(run_id, 1, texts(letter))
            readers.append(Ledger())
            await read_on(streams, run_id, readers[-1])
        await put_back(redis, run_id, copy)
        last = events.failed("runner_lost", "it died", retryable=True)
        ended = await streams.end(run_id, 1 if was_claimed else 0, last)
        assert (ended.code, ended.attempt) == ("ok", 3)
        record = await streams.record(run_id)
        assert record is not None and record.status == "failed"
        for reader in readers:
            await read_on(streams, run_id, reader)
            assert reader.end == decoded(last.data) and reader.close() == {}
            assert reader.parts == record.parts

    on_streams(streams_url, scenario)


class Exchanged:
    """A streams server of the test's own, which can come back from a copy of what it had."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._copy = folder / "streams", folder / "copy"
        self.server = self._start()

    def _start(self) -> Server:
        return start_server("streams", self._folder)

    def copy(self) -> None:
        """What is on disk now, all that was answered so far being there."""
        with self.server.client() as client:
            client.config_set("appendfsync", "always")
            client.set("now", "on disk", ex=600)
        shutil.copytree(self._folder, self._copy)

    def exchange(self) -> None:
        self.server.process.kill()
        self.server.process.wait(10)
        shutil.rmtree(self._folder)
        self._copy.rename(self._folder)
        self.server = self._start()


async def with_client(url: str, scenario: Any) -> Any:
    redis: Any = connect(url, "test")
    try:
        return await scenario(Streams(redis, alive_s=120, record_s=600), redis)
    finally:
        await redis.aclose()


def test_a_server_killed_and_back_on_an_older_copy(tmp_path: Path) -> None:
    async def before(streams: Streams, redis: Any) -> list[str]:
        waiting, claimed, external = [await queued(streams) for _ in range(3)]
        await claim(streams, claimed, 1)
        await claim(streams, external, 1)
        await streams.append_external(external, 1, texts("left"))
        return [waiting, claimed, external]

    async def lost(streams: Streams, redis: Any) -> list[Ledger]:
        waiting, claimed, _ = run_ids
        await claim(streams, waiting, 1)
        await claim(streams, claimed, 2)
        for run_id, attempt in zip(run_ids, (1, 2, 1), strict=True):
            await streams.append(run_id, attempt, LOST)
        readers = [Ledger() for _ in run_ids]
        for run_id, reader in zip(run_ids, readers, strict=True):
            await read_on(streams, run_id, reader)
        return readers

    async def after(streams: Streams, redis: Any) -> None:
        waiting, claimed, external = run_ids
        for run_id, held in ((waiting, 0), (claimed, 1)):
            assert (await streams.claimant(run_id) or (9,))[0] == held
            refused = await streams.claim(run_id, held + 1, "r2", first_of(run_id, held + 1))
            assert isinstance(refused, Appended) and refused.code == "skip"
            await claim(streams, run_id, refused.seq, "r2")
            await streams.append(run_id, refused.seq, OTHER)
        begun = (await streams.append_external(external, 1, OTHER)).attempt
        assert begun > 2
        for run_id, reader in zip(run_ids, readers, strict=True):
            await read_on(streams, run_id, reader)
            record = await streams.record(run_id, TOKEN)
            assert record is not None and reader.parts == record.parts
            assert reader.restarts == 1 and reader.close() == {}
            assert "lost" not in reader.text and "something else" in reader.text
        assert (await stream_of(redis, external))[-1][0].startswith(f"{begun}-")

    def played(scenario: Any) -> Any:
        return asyncio.run(with_client(store.server.url, scenario))

    store = Exchanged(tmp_path)
    try:
        run_ids: Sequence[str] = played(before)
        store.copy()
        readers: list[Ledger] = played(lost)
        store.exchange()
        played(after)
    finally:
        end_server(store.server)


def test_a_run_whose_life_is_over_is_ended_by_whoever_takes_it(streams_url: str) -> None:
    """However often it was handed back, which is no death: its life began with its first
    attempt."""

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        claims = claims_of("r2", streams, life_s=100)
        await began(redis, run_id, 90)
        ticket = Ticket(run_id, "notes", retaken=True)
        claimed = await claims.claim(ticket)
        assert claimed is not None and 90 <= claimed.age_s < 100
        await streams.hand_back(run_id, claimed)
        await began(redis, run_id, 101)
        assert await claims.claim(ticket) is None
        record = await streams.record(run_id)
        assert record is not None and record.error is not None
        assert (record.attempt, record.error["code"]) == (2, "timeout")
        assert b"begun_ms" not in (await everything(redis, run_id))[0]

    on_streams(streams_url, scenario)
