"""The only reader of a run, whose socket takes chunks: it is told by the short way what others
are told by frames."""

from __future__ import annotations

import pytest

from plateau_sse.dialects.native import NAMED, PLAIN
from plateau_sse.dialects.ui_messages import PLAIN as UI
from plateau_sse.live.dialect import Dialect, beginning
from plateau_sse.live.subscriber import Subscriber
from plateau_sse.store.runs import events
from tests.store import claim, done, running, texts
from tests.test_subscriber import Bench, Reader, Socket, on_bench


class ChunkedSocket(Socket):
    """As uvicorn's by HTTP/1.1: chunks come past its `send`."""

    chunked_encoding = True  # type: ignore[assignment]

    def write(self, chunk: bytes) -> None:
        size, _, rest = chunk.partition(b"\r\n")
        assert rest[int(size, 16) :] == b"\r\n" and int(size, 16)
        # As far as a send is done without its loop.
        step = self.send({"body": rest[:-2], "more_body": True})
        with pytest.raises(StopIteration):
            step.send(None)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The events that went by the short way."""
    numbers: list[int] = []
    take = Subscriber.take

    def noted(self: Subscriber, number: int, data: bytes, tag: bytes) -> bool:
        took = take(self, number, data, tag)
        if took:
            numbers.append(number)
        return took

    monkeypatch.setattr(Subscriber, "take", noted)
    return numbers


async def came(b: Bench, run_id: str, dialect: Dialect) -> Reader:
    reader = Reader(b, run_id, 0, other=False, stand=beginning(dialect), own=b"mine")
    reader.socket = ChunkedSocket()
    await reader.come()
    b._readers.append(reader)
    await reader.has(lambda _: reader.subscriber in reader.subscriber._feed.live, "it is live")
    return reader


@pytest.mark.parametrize("dialect", [PLAIN, NAMED, UI])
def test_who_is_alone_is_told_what_the_tape_says(
    streams_url: str, dialect: Dialect, taken: list[int]
) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        alone = await came(b, run_id, dialect)
        for batch in (texts("é🏔", "x"), [events.delta("a thought", "r"), events.step("y")]):
            await b.streams.append(run_id, 1, batch)
        await b.streams.append(run_id, 1, texts("x" * 200))
        await b.streams.finish(run_id, 1, [done()], first_seq=0)
        await alone.has(lambda socket: socket.ended, "its end")
        assert len(taken) == len(set(taken)) >= 4
        if dialect is not UI:
            # Of that one frames are not events, one to one.
            told = len(alone.socket.told)
            assert b.counted["events_delivered_native"] == told == 7
            alone.checked()
        # A reader who comes later is told the same, cut in other places.
        said = b"".join(alone.socket.written)
        for words in ("é🏔", "a thought", "x" * 200):
            assert said.count(words.encode()) == 1

    on_bench(streams_url, scenario)


def test_who_comes_shares_from_then_on(streams_url: str, taken: list[int]) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        one = await came(b, run_id, PLAIN)
        await b.streams.append(run_id, 1, texts("x"))
        await one.has_types("run.started", "message.delta")
        other = await came(b, run_id, PLAIN)
        await b.streams.append(run_id, 1, texts("y"))
        for reader in (one, other):
            await reader.has_types("message.delta", "message.delta")
        assert len(taken) == 1
        await other.go()
        await b.streams.append(run_id, 1, texts("z"))
        await one.has(lambda socket: socket.types.count("message.delta") == 3, "the last")
        assert len(taken) == 2
        for reader in (one, other):
            reader.checked()

    on_bench(streams_url, scenario)


def test_another_attempt_is_told_with_a_restart(streams_url: str) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        alone = await came(b, run_id, PLAIN)
        await b.streams.append(run_id, 1, texts("x"))
        await claim(b.streams, run_id, 2)
        await b.streams.append(run_id, 2, texts("y"))
        await alone.has_types("message.delta", "run.restarted", "run.started", "message.delta")
        alone.checked()

    on_bench(streams_url, scenario)


@pytest.mark.parametrize("breaks", [True, False])
def test_a_socket_that_cannot_be_written_loses_nothing(streams_url: str, breaks: bool) -> None:
    """An error of its own, and one that is full."""

    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        alone = await came(b, run_id, PLAIN)
        if breaks:
            alone.socket.breaks = True
        else:
            alone.socket.take(1)
        # The first of them is refused, or leaves no room for the second.
        for text in "xyz":
            await b.streams.append(run_id, 1, texts(text))
        alone.socket.take(None)

        def said(socket: Socket) -> str:
            # Who catches up may be given several of them as one.
            return "".join(event.data.get("text", "") for event in socket.told)

        await alone.has(lambda socket: said(socket) == "xyz", "all of it")
        alone.checked()
        assert b.hub.connected

    on_bench(streams_url, scenario)
