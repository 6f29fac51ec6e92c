"""Subscribers over a real hub and a real Redis; in place of the socket one that notes what it
is given, and takes only as much as the test lets it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from locustfiles.kit.ledger import Ledger, Place

from plateau_sse.dialects.native import NAMED, PLAIN
from plateau_sse.dialects.responses import RESPONSES, start_of
from plateau_sse.dialects.ui_messages import PLAIN as UI
from plateau_sse.live import subscriber as subscriber_module
from plateau_sse.live.dialect import Stand, beginning
from plateau_sse.live.hub import Hub
from plateau_sse.live.subscriber import Subscriber
from plateau_sse.live.telling import PIECE_BYTES
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.streams import Streams
from tests.integration.api_client import Event as Told
from tests.integration.api_client import messages
from tests.store import (
    claim,
    decoded,
    done,
    exchange_server,
    finished,
    kept,
    put_back,
    queued,
    running,
    texts,
    until,
)


class Socket:
    """As far as a subscriber knows uvicorn's: it is connection, flow and transport."""

    chunked_encoding = None
    disconnected = False

    def __init__(self) -> None:
        self.flow = self.transport = self
        self.written: list[bytes] = []
        self.ended = self.aborted = False
        # What it takes before it is full; None for all.
        self.room: int | None = None
        # What it was given and has not taken, while it is not full.
        self.waits = 0
        # The next write is an error.
        self.breaks = False
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def write_paused(self) -> bool:
        return not self._writable.is_set()

    async def drain(self) -> None:
        await self._writable.wait()

    def take(self, room: int | None) -> None:
        self.room = room
        if room != 0:
            self._writable.set()

    def abort(self) -> None:
        self.aborted = self.disconnected = True
        self._writable.set()

    def get_extra_info(self, _: str) -> None:
        return

    def get_write_buffer_size(self) -> int:
        return self.waits

    async def send(self, message: Any) -> None:
        assert not self.ended and not self.aborted
        if self.breaks:
            self.breaks = False
            raise RuntimeError("it could not be written")
        if self.disconnected:
            return
        if message["body"]:
            self.written.append(message["body"])
        self.ended = not message["more_body"]
        if self.room is not None:
            self.room = max(0, self.room - len(message["body"]))
            if self.room == 0:
                self._writable.clear()

    @property
    def told(self) -> list[Told]:
        text = b"".join(self.written).decode()
        return list(messages(text.split("\n")))

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.told]


class Reader:
    """One response: `position` is what its client has seen, `other` of another run."""

    def __init__(
        self,
        bench: Bench,
        run_id: str,
        position: int,
        *,
        other: bool,
        named: bool = False,
        stand: Stand | None = None,
        own: bytes = b"",
    ) -> None:
        self.socket = Socket()
        self.stand, self.own = stand, own
        self.run_id, self.bench = run_id, bench
        self.position, self.other, self.named = position, other, named
        self.subscriber: Any = None
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def come(self) -> None:
        hub, streams = self.bench.hub, self.bench.streams
        feed = await hub.join(self.run_id)
        reading = await streams.read(self.run_id, 0 if self.other else self.position)
        assert reading is not None
        if self.other:
            reading = reading.begun_anew()
        self.subscriber = Subscriber(
            hub,
            streams,
            feed,
            reading,
            self.socket.send,
            position=0 if self.other else self.position,
            generation=feed.generation,
            stand=self.stand or beginning(NAMED if self.named else PLAIN),
            own=self.own,
        )
        self._task = asyncio.create_task(self.subscriber.run(self._receive))

    async def _receive(self) -> Any:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def go(self) -> None:
        self._gone.set()
        assert self._task is not None
        await self._task

    async def has(self, condition: Callable[[Socket], object], what: str) -> None:
        async def met() -> object:
            return condition(self.socket)

        await until(met, what)

    async def has_types(self, *types: str) -> None:
        await self.has(lambda socket: socket.types[-len(types) :] == list(types), f"{types}")

    def checked(self, ledger: Ledger | None = None) -> Ledger:
        """What its client has, each event having been in line."""
        ledger = ledger or Ledger()
        for event in self.socket.told:
            assert ledger.take(event.id, event.data), (ledger.faults, ledger.at, event)
        return ledger


class Bench:
    """`counted` is what its hub has counted."""

    def __init__(self, hub: Hub, streams: Streams, redis: Any, counted: Counter[str]) -> None:
        self.hub, self.streams, self.redis, self.counted = hub, streams, redis, counted
        self._readers: list[Reader] = []

    async def reader(
        self, run_id: str, position: int = 0, *, other: bool = False, **how: Any
    ) -> Reader:
        reader = Reader(self, run_id, position, other=other, **how)
        await reader.come()
        self._readers.append(reader)
        return reader

    async def close(self) -> None:
        for reader in self._readers:
            reader.socket.take(None)
            await reader.go()
        assert self.hub.followed == self.hub.readers == 0


@asynccontextmanager
async def bench(url: str) -> AsyncIterator[Bench]:
    redis = connect(url, "test")
    streams = Streams(redis, alive_s=120, record_s=600)
    counted: Counter[str] = Counter()
    hub = Hub(url, streams, "test-hub", lambda name, by=1: counted.update({name: by}))
    hub.open()
    opened = Bench(hub, streams, redis, counted)
    try:
        yield opened
        await opened.close()
    finally:
        await hub.close()
        await redis.aclose()


def on_bench(url: str, scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def opened() -> None:
        async with asyncio.timeout(60), bench(url) as b:
            await scenario(b)

    asyncio.run(opened())


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(subscriber_module, "LEASE_S", 1.0)
    monkeypatch.setattr(subscriber_module, "LOOK_AGAIN_S", 0.01)
    return 1.0


LEFT = texts("what is left")
LOST = [*texts(" and lost é🏔"), events.delta("a thought", "r"), events.step("x"), *texts("y")]


async def rewound(b: Bench) -> tuple[str, Ledger]:
    """A run whose store has lost its last second, and what a reader had of that."""
    run_id = await running(b.streams)
    await b.streams.append(run_id, 1, LEFT, first_seq=2)
    copy = await kept(b.redis, run_id)
    await b.streams.append(run_id, 1, LOST, first_seq=3)
    first = await b.reader(run_id)
    await first.has(lambda socket: socket.types.count("message.delta") == 2, "all of it")
    await first.go()
    await put_back(b.redis, run_id, copy)
    return run_id, first.checked()


def position_of(ledger: Ledger) -> int:
    return ids.number(ledger.at.attempt, ledger.at.at)


def test_who_is_ahead_is_told_nothing_while_the_ring_fills_it(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber_module, "LOOK_AGAIN_S", 0.01)

    async def scenario(b: Bench) -> None:
        run_id, ledger = await rewound(b)
        before = list(ledger.parts)
        reader = await b.reader(run_id, position_of(ledger))
        # Its producer sends again, event by event.
        for seq, event in enumerate(LOST, 3):
            assert (await b.streams.append(run_id, 1, [event], first_seq=seq)).code == "ok"
            reading = await b.streams.read(run_id, reader.position)
            assert reading is not None and reader.socket.told == []
        await b.streams.append(run_id, 1, texts("z"), first_seq=3 + len(LOST))
        await reader.has_types("message.delta")
        assert reader.checked(ledger).close() == {} and ledger.restarts == 0
        assert ledger.parts[-1]["text"] == "yz" and ledger.parts[:-1] == before[:-1]

    on_bench(streams_url, scenario)


def test_what_could_not_be_written_is_read_and_told(streams_url: str) -> None:
    """Its reader reads on alone from where it was, not from behind what it never got."""

    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        reader = await b.reader(run_id)
        await reader.has_types("run.started")
        reader.socket.breaks = True
        for text in ("a", "b", "c"):
            await b.streams.append(run_id, 1, texts(text))
        await reader.has(lambda _: "".join(said(reader)) == "abc", "all of it")
        assert reader.checked().text == "abc"

    def said(reader: Reader) -> list[str]:
        return [str(event.data.get("text", "")) for event in reader.socket.told]

    on_bench(streams_url, scenario)


def test_who_is_ahead_is_restarted_where_nobody_fills_it(
    streams_url: str, short_lease: float
) -> None:
    async def scenario(b: Bench) -> None:
        run_id, ledger = await rewound(b)
        began = time.monotonic()
        reader = await b.reader(run_id, position_of(ledger))
        await reader.has_types("run.restarted", "run.started", "message.delta")
        assert time.monotonic() - began >= short_lease
        tag = ids.tag_of(run_id)
        assert reader.socket.told[0] == Told(
            f"{tag}-1-0", "", {"type": "run.restarted", "attempt": 1, "reason": "rewound"}
        )
        # From there on it is live.
        await b.streams.append(run_id, 1, texts("!"), first_seq=3)
        await reader.has(lambda socket: len(socket.told) == 4, "what follows")
        assert reader.checked(ledger).close() == {}
        assert ledger.text == "what is left!"

    on_bench(streams_url, scenario)


def test_readers_who_are_live_when_the_store_is_rewound(
    streams_url: str, short_lease: float
) -> None:
    """All of them wait; the one who had no more than is left goes on."""

    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        await b.streams.append(run_id, 1, LEFT, first_seq=2)
        copy = await kept(b.redis, run_id)
        readers = [await b.reader(run_id) for _ in range(3)]
        await b.streams.append(run_id, 1, texts(" and lost"), first_seq=3)
        for reader in readers:
            await reader.has(lambda socket: len(socket.told) == 3, "the lost text")
        await put_back(b.redis, run_id, copy)
        await b.streams.append(run_id, 1, [], first_seq=3)
        # Nothing is published by then: the sweep finds it, or whoever comes.
        await b.hub._repairs.sweep(list(b.hub._feeds.values()))
        for reader in readers:
            await reader.has_types("run.restarted", "run.started", "message.delta")
            assert reader.checked().text == "what is left"

    on_bench(streams_url, scenario)


def test_who_is_ahead_of_a_run_that_has_ended_does_not_wait(streams_url: str) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await finished(b.streams, "left")
        ledger = Ledger(at=Place(ids.tag_of(run_id), 1, 500))
        reader = await b.reader(run_id, ids.number(1, 500))
        await reader.has(lambda socket: socket.ended, "the end")
        assert reader.socket.types == [
            *("run.restarted", "run.started", "message.delta", "run.completed"),
        ]
        assert reader.socket.told[0].data["reason"] == "rewound"
        assert reader.checked(ledger).text == "left"

    on_bench(streams_url, scenario)


def test_who_is_ahead_of_a_run_that_waits_again_is_told_so(
    streams_url: str, short_lease: float
) -> None:
    """The store has lost that it was claimed: there is no position to begin from."""

    async def scenario(b: Bench) -> None:
        run_id = await queued(b.streams)
        reader = await b.reader(run_id, ids.number(1, 20))
        await reader.has_types("run.restarted", "run.queued")
        told = reader.socket.told
        assert told[0].data["reason"] == "rewound" and [event.id for event in told] == ["", ""]
        await claim(b.streams, run_id, 2)
        await reader.has_types("run.restarted", "run.queued", "run.started")

    on_bench(streams_url, scenario)


def test_a_position_within_a_character_is_restarted(streams_url: str) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        await b.streams.append(run_id, 1, texts("a🏔"), first_seq=2)
        reader = await b.reader(run_id, ids.number(1, 5))
        await reader.has_types("run.restarted", "run.started", "message.delta")
        told = reader.socket.told
        assert told[0].data["reason"] == "rewound" and told[-1].data["text"] == "a🏔"
        there = Ledger(at=Place(ids.tag_of(run_id), 1, 5))
        assert reader.checked(there).close() == {}

    on_bench(streams_url, scenario)


def test_what_was_seen_of_another_run_is_cleared(streams_url: str) -> None:
    async def scenario(b: Bench) -> None:
        run_id, waiting = await running(b.streams), await queued(b.streams)
        reader = await b.reader(run_id, ids.number(1, 1), other=True)
        await reader.has_types("run.restarted", "run.started")
        assert reader.socket.told[0].id == f"{ids.tag_of(run_id)}-1-0"
        assert reader.socket.told[0].data["reason"] == "other"
        # Before its first attempt there is no position to go on from.
        early = await b.reader(waiting, ids.number(1, 1), other=True)
        await early.has_types("run.restarted", "run.queued")
        assert [event.id for event in early.socket.told] == ["", ""]
        await claim(b.streams, waiting, 1)
        await early.has_types("run.started")
        assert reader.checked().close() == early.checked().close() == {}

    on_bench(streams_url, scenario)


def test_who_waits_for_a_runner_is_told_at_once_and_once(streams_url: str) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await queued(b.streams)
        reader = await b.reader(run_id)
        await reader.has_types("run.queued")
        assert reader.socket.told[0].id == ""
        await claim(b.streams, run_id, 1)
        await b.streams.append(run_id, 1, texts("a"), first_seq=2)
        await b.streams.finish(run_id, 1, [done()], first_seq=3)
        await reader.has(lambda socket: socket.ended, "the end")
        assert reader.socket.types == [
            *("run.queued", "run.started", "message.delta", "run.completed"),
        ]
        assert reader.checked().close() == {}

    on_bench(streams_url, scenario)


def step(n: int) -> Event:
    return events.progress(n, 9, "", "", 0.0)


def test_the_latest_progress_is_told_behind_the_tape(streams_url: str) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        await b.streams.append(run_id, 1, [step(1), *texts("a"), step(2), *texts("b")])
        early = await b.reader(run_id)
        await early.has_types("run.started", "message.delta", "run.progress")
        assert early.socket.told[-1] == Told("", "", decoded(step(2).data))
        # Once: what comes live is what is new.
        await b.streams.append(run_id, 1, [*texts("c"), step(3)])
        await early.has_types("run.progress", "message.delta", "run.progress")
        late = await b.reader(run_id, ids.number(1, 4))
        await late.has_types("message.delta", "run.progress")
        assert late.socket.told[-1].data["step"] == 3
        # To whoever has all of the tape as well.
        behind = await b.reader(run_id, ids.number(1, 5))
        await behind.has_types("run.progress")
        await b.streams.finish(run_id, 1, [done()], first_seq=0)
        for reader in (early, late, behind):
            await reader.has(lambda socket: socket.ended, "the end")
            assert reader.socket.types.count("run.progress") == (2 if reader is early else 1)
        # It says nothing of a run that has ended.
        ended = await b.reader(run_id)
        await ended.has(lambda socket: socket.ended, "the end")
        assert "run.progress" not in ended.socket.types

    on_bench(streams_url, scenario)


def test_a_slow_reader_is_told_the_latest_state_alone(streams_url: str) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        reader = await b.reader(run_id)
        await reader.has_types("run.started")
        reader.socket.take(1)
        await b.streams.append(run_id, 1, texts("a"))
        await reader.has(lambda socket: socket.write_paused, "it is full")
        for n in range(1, 6):
            await b.streams.append(run_id, 1, [*texts("b"), step(n)])
        reader.socket.take(None)
        await reader.has_types("message.delta", "run.progress")
        assert reader.socket.told[-1].data["step"] == 5
        assert reader.socket.types.count("run.progress") == 1
        assert reader.checked().text == "abbbbb"

    on_bench(streams_url, scenario)


def test_a_lost_execution_s_reader_is_restarted_and_told_its_progress(streams_url: str) -> None:
    """The count of states was rewound as well."""

    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        copy = await kept(b.redis, run_id)
        await b.streams.append(run_id, 1, [*texts("lost"), *map(step, range(1, 6))])
        reader = await b.reader(run_id)
        await reader.has_types("run.progress")
        reader.socket.take(1)
        await b.streams.append(run_id, 1, texts("!"))
        await reader.has(lambda socket: socket.write_paused, "it is full")
        await put_back(b.redis, run_id, copy)
        await claim(b.streams, run_id, 3, "r2")
        await b.streams.append(run_id, 3, [*texts("new"), step(7)])
        reader.socket.take(None)
        await reader.has_types("run.restarted", "run.started", "message.delta", "run.progress")
        assert reader.socket.told[-1].data["step"] == 7
        assert reader.socket.told[-4].data["reason"] == "attempt"
        assert reader.checked().text == "new"

    on_bench(streams_url, scenario)


def test_an_external_run_s_new_attempt_reaches_its_readers(streams_url: str) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        await b.streams.append_external(run_id, 1, texts("left"))
        live = await b.reader(run_id)
        await live.has_types("message.delta")
        late = await b.reader(run_id, ids.number(1, 4))
        await late.has_types("message.delta")
        await exchange_server(b.redis, run_id)
        assert (await b.streams.append_external(run_id, 1, texts("!"))).attempt == 3
        for reader in (live, late):
            await reader.has_types("run.restarted", "run.started", "message.delta")
            told = reader.socket.told
            assert told[-1].data["text"] == "left!" and told[-3].data["reason"] == "attempt"
        assert live.checked().close() == {}

    on_bench(streams_url, scenario)


@pytest.mark.parametrize("room", [1, PIECE_BYTES, 3 * PIECE_BYTES])
@pytest.mark.parametrize("is_live", [True, False])
def test_an_answer_of_its_own_goes_in_slices(
    streams_url: str, room: int, is_live: bool
) -> None:
    async def scenario(b: Bench) -> None:
        run_id, output = await running(b.streams), "é" * (events.TAPE_BYTES // 2 - 5)
        if is_live:
            reader = await b.reader(run_id)
            await reader.has_types("run.started")
        await b.streams.finish(run_id, 1, [*texts("draft"), done()], first_seq=2, output=output)
        if not is_live:
            reader = await b.reader(run_id)
            await reader.has(lambda socket: socket.written, "a beginning")
        socket = reader.socket
        while not socket.ended:
            socket.take(room)
            await reader.has(lambda s: s.ended or s.write_paused, "it is full again")
        assert max(map(len, socket.written)) <= 2 * PIECE_BYTES
        assert socket.types == ["run.started", "message.delta", "run.completed"]
        assert socket.told[-1].data == decoded(done().data) | {"output": output}
        assert reader.checked().close() == {}

    on_bench(streams_url, scenario)


def test_a_large_mark_that_is_void_by_now_is_cut_off(streams_url: str) -> None:
    """Nothing else can be said in the middle of an event: its client comes back."""

    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        await b.streams.append(run_id, 1, [events.data("table", "x" * 30_000)])
        slow = Reader(b, run_id, ids.number(1, 1), other=False)
        slow.socket.take(PIECE_BYTES)
        await slow.come()
        b._readers.append(slow)
        await slow.has(lambda socket: socket.write_paused, "it is full")
        await claim(b.streams, run_id, 2, "r2")
        slow.socket.take(None)
        await slow.has(lambda socket: socket.aborted, "the connection is cut")
        assert slow.socket.told == []

    on_bench(streams_url, scenario)


def test_a_run_that_is_lost_within_a_large_mark_is_cut_off(streams_url: str) -> None:
    """Nothing else can be said in the middle of an event: its client comes back."""

    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        await b.streams.append(run_id, 1, [events.data("table", "x" * 30_000)])
        slow = Reader(b, run_id, ids.number(1, 1), other=False)
        slow.socket.take(PIECE_BYTES)
        await slow.come()
        b._readers.append(slow)
        await slow.has(lambda socket: socket.write_paused, "it is full")
        await b.redis.delete(*keys.run(run_id))
        slow.socket.take(None)
        await slow.has(lambda socket: socket.aborted, "the connection is cut")
        assert slow.socket.told == []
        assert b"record_lost" not in b"".join(slow.socket.written)

    on_bench(streams_url, scenario)


@pytest.mark.parametrize("named", [False, True])
def test_who_wants_names_hears_them_of_a_run_that_is_lost(
    streams_url: str, named: bool
) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        reader = Reader(b, run_id, 0, other=False, named=named)
        await reader.come()
        b._readers.append(reader)
        await reader.has_types("run.started")
        await b.redis.delete(*keys.run(run_id))
        await b.hub._repairs.sweep(list(b.hub._feeds.values()))
        await reader.has(lambda socket: socket.ended, "its end")
        assert (b"event: run.failed" in b"".join(reader.socket.written)) == named
        assert reader.socket.told[-1].data["code"] == "record_lost"

    on_bench(streams_url, scenario)


def test_readers_of_a_large_mark_are_not_called_slow(streams_url: str) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        readers = [await b.reader(run_id) for _ in range(3)]
        for reader in readers:
            await reader.has_types("run.started")
        await b.streams.append(run_id, 1, [events.data("table", "x" * 30_000)])
        for reader in readers:
            await reader.has_types("data")
        assert b.counted["readers_slow"] == 0
        readers[0].socket.take(1)
        for letter in "xy":
            await b.streams.append(run_id, 1, texts(letter))
        await readers[1].has_types("message.delta", "message.delta")
        assert b.counted["readers_slow"] == 1

    on_bench(streams_url, scenario)


HALF = events.progress(1, 2, "a", "half", 50)


async def late_message(b: Bench, run_id: str, _: Reader) -> None:
    """Of a state that readers had with their first reading, since the store answers that one
    first: both were asked of it in one turn of its loop."""
    assert await b.redis.spublish(keys.channel(run_id), b"1-s-1 " + HALF.data) == 1


async def hole(b: Bench, run_id: str, _: Reader) -> None:
    """Who comes later is beyond it already, and all have had the latest progress."""
    heard: Any = b.hub._subscription
    hears, missed = heard._on_message, list[bytes]()
    heard._on_message = lambda _feed, payload: missed.append(payload)
    await b.streams.append(run_id, 1, texts("x"))

    async def misses() -> bool:
        return bool(missed)

    await until(misses, "a message is missed")
    heard._on_message = hears
    third = await b.reader(run_id)
    await third.has_types("run.started", "message.delta", "run.progress")


async def full_for_a_state(b: Bench, run_id: str, reader: Reader) -> None:
    await full_for_the_end(b, run_id, reader)
    await b.streams.append(run_id, 1, [HALF])


async def full_for_the_end(b: Bench, run_id: str, reader: Reader) -> None:
    reader.socket.take(1)
    await b.streams.append(run_id, 1, texts("x"))
    await reader.has(lambda socket: socket.write_paused, "it is full")


async def busy_for_a_large_state(b: Bench, run_id: str, reader: Reader) -> None:
    reader.socket.waits = 1
    await b.streams.append(run_id, 1, [events.tool_delta("c", "find", "x" * 10_000)])


async def gone(b: Bench, run_id: str, reader: Reader) -> None:
    """Its response learns of it a few turns of the loop later."""
    reader.socket.disconnected = True
    await b.streams.append(run_id, 1, texts("x"))


async def gone_while_it_reads(b: Bench, run_id: str, reader: Reader) -> None:
    await full_for_a_state(b, run_id, reader)
    await reader.has(lambda _: reader.subscriber._catching_up, "it waits for its socket")
    reads = b.streams.read

    async def read(*asked: Any) -> Any:
        reader.socket.disconnected = True
        return await reads(*asked)

    b.streams.read = read  # type: ignore[method-assign, assignment]
    reader.socket.take(None)
    await reader.has(lambda _: reader.subscriber._catching_up.done(), "it has given up")


async def another_attempt(b: Bench, run_id: str, _: Reader) -> None:
    await claim(b.streams, run_id, 2)


@pytest.mark.parametrize(
    "happens",
    [
        late_message,
        hole,
        full_for_a_state,
        full_for_the_end,
        busy_for_a_large_state,
        gone,
        gone_while_it_reads,
        another_attempt,
    ],
)
def test_what_is_counted_is_what_readers_were_given(
    streams_url: str, happens: Callable[[Bench, str, Reader], Awaitable[None]]
) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        await b.streams.append(run_id, 1, [HALF])
        one, other = await b.reader(run_id), await b.reader(run_id)
        for reader in (one, other):
            await reader.has_types("run.started", "run.progress")
        await happens(b, run_id, one)
        attempt = 1 + (happens is another_attempt)
        await b.streams.finish(run_id, attempt, [done()], first_seq=0)
        await other.has_types("run.completed")
        for reader in b._readers:
            reader.socket.take(None)
            await reader.has(lambda socket: socket.ended or socket.disconnected, "its end")
        given = sum(len(reader.socket.told) for reader in b._readers)
        assert b.counted["events_delivered_native"] == given

    on_bench(streams_url, scenario)


def test_a_large_state_is_for_sockets_that_have_taken_everything(streams_url: str) -> None:
    """A stuck reader would hold it beside what it was given before."""

    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        quick, stuck = await b.reader(run_id), await b.reader(run_id)
        for reader in (quick, stuck):
            await reader.has_types("run.started")
        stuck.socket.waits = 1
        await b.streams.append(run_id, 1, [events.tool_delta("c", "find", "x" * 20_000)])
        await b.streams.append(run_id, 1, [events.tool_delta("d", "find", "y")])
        await b.streams.append(run_id, 1, texts("x"))
        await quick.has_types("tool.delta", "tool.delta", "message.delta")
        await stuck.has_types("tool.delta", "message.delta")
        assert max(map(len, stuck.socket.written)) < 1000
        assert stuck.socket.told[-2].data["id"] == "d"

    on_bench(streams_url, scenario)


@pytest.mark.parametrize("chunked", [True, False])
def test_half_an_answer_is_never_taken_for_all_of_it(streams_url: str, chunked: bool) -> None:
    """Where there are no chunks (HTTP/1.0) a clean end is that of the response."""

    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        feed = await b.hub.join(run_id)
        reading = await b.streams.read(run_id, 0)
        assert reading is not None
        server_side: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

        async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server_side.put_nowait(writer)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        client, own = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer = await server_side.get()
        socket = Socket()
        subscriber = Subscriber(
            b.hub,
            b.streams,
            feed,
            reading,
            socket.send,
            position=0,
            generation=feed.generation,
            stand=beginning(UI),
        )
        socket.transport = writer.transport  # type: ignore[assignment]
        subscriber._shares = chunked
        writer.write(b"half")
        assert await client.readexactly(4) == b"half"
        subscriber._part()
        if chunked:
            assert await client.read() == b""
        else:
            with pytest.raises(ConnectionResetError):
                await client.read()
        own.close()
        server.close()
        b.hub.part(feed)

    on_bench(streams_url, scenario)


def test_a_slow_reader_gets_every_piece_once(streams_url: str) -> None:
    """Text, thoughts and marks of all sizes, while more comes."""

    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        reader = await b.reader(run_id)
        batches = [
            [*texts("é🏔" * 900), events.data("table", "x" * 20_000), events.delta("a", "r")],
            [*texts("b", "\n" * 2_000), step(1)],
            [events.step("again"), *texts("雪" * 1_500)],
        ]
        for count in range(15):
            reader.socket.take(1 + 5_000 * (count % 3))
            assert (await b.streams.append(run_id, 1, batches[count % 3])).code == "ok"
        await b.streams.finish(run_id, 1, [done()], first_seq=0)
        while not reader.socket.ended:
            reader.socket.take(6_000)
            await reader.has(lambda s: s.ended or s.write_paused, "it is full again")
        assert max(map(len, reader.socket.written)) <= 2 * PIECE_BYTES
        record = await b.streams.record(run_id)
        assert record is not None
        ledger = reader.checked()
        assert ledger.close() == {} and ledger.parts == record.parts

    on_bench(streams_url, scenario)


def test_readers_who_are_in_one_place_have_it_once(streams_url: str) -> None:
    """What a dialect remembers there would else be in memory once for each of them."""

    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        await b.streams.append(run_id, 1, texts("a"), first_seq=2)

        def stand(of: str) -> Stand:
            return Stand(RESPONSES, start_of(of, 1_700_000_000))

        async def live(of: str) -> Reader:
            reader = await b.reader(run_id, stand=stand(of))
            await reader.has(
                lambda _: reader.subscriber in reader.subscriber._feed.live, "it is live"
            )
            assert b'"delta":"a"' in b"".join(reader.socket.written)
            return reader

        first, second, other = await live(run_id), await live(run_id), await live("another")
        assert first.subscriber.stand is second.subscriber.stand
        assert other.subscriber.stand is not first.subscriber.stand
        assert other.subscriber.stand.state.run == b"another"

    on_bench(streams_url, scenario)
