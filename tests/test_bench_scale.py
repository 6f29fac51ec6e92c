"""The benchmark of limits, in short forms: that each part sees what it is to see, and that its
readers know what they have not been told."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop
from benchmarks.scale import load
from benchmarks.scale.__main__ import ENV, main, of_runs
from benchmarks.scale.full import full_streams
from benchmarks.scale.herd import Herd, Reader
from benchmarks.scale.readers import many_readers
from benchmarks.stages import plateau
from locustfiles.agent import piece

from tests.far import skip_unless_asked
from tests.watched import until

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
RETRY_S = 0.05
TEXTS = [piece(number, 1_700_000_000.0, 60) for number in range(6)]
PLACES = [1, *(2 + 60 * (number + 1) for number in range(len(TEXTS)))]


@pytest.fixture(autouse=True, scope="module")
def asked() -> None:
    skip_unless_asked("a benchmark's short form")


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "LOOK_S", 3.0)


def test_readers_of_a_killed_worker_come_back_and_all_is_measured() -> None:
    with plateau(ENV) as stage:
        cut = uvloop.run(many_readers(stage, 60, 6))
    # Of the worker that had more of them; one may be on its way when it is killed.
    assert 25 <= cut.cut <= 60 and len(cut.back_s) == cut.cut
    # Nobody is back before its `retry:`.
    assert min(cut.back_s) >= 1
    ended = cut.ended
    assert (ended.whole, ended.lost, ended.repeated, ended.errors) == (60, 0, 0, {})
    assert {"web worker", "runner", "streams server", "master"} <= cut.before.memory.keys()
    assert cut.before.lag_p95_ms and cut.after.lag_p95_ms
    rows = {row.what: row for row in cut.rows()}
    assert not any(row.missed for row in rows.values())
    assert "connections of a worker" in cut.before.shares and "%" in cut.before.nearest()
    # What is lost would be missed.
    less = cut._replace(ended=ended._replace(whole=59, lost=1))
    assert [row.what.split(": ")[1] for row in less.rows() if row.missed] == [
        "readers with all of it",
        "events lost",
    ]


def test_runs_of_two_runners_are_on_at_once() -> None:
    rows = {row.what: row for row in of_runs(40)}
    assert rows["40 runs at once: under way"].measured == 40
    assert not any(row.missed for row in rows.values()), rows
    assert 0 < (rows["40 runs at once: until the last has said something"].measured or 0) < 60


@pytest.mark.timeout(300)
def test_streams_that_are_full_are_seen_to_be() -> None:
    with plateau(ENV | {"STREAM_MAX_MEMORY": "8mb"}) as stage:
        found = uvloop.run(full_streams(stage, 40, 4, 60))
    assert found.share > 0.99 and found.refused["503 store_full"] == found.refused.total()
    assert found.ended.whole == 40 and not found.ended.errors
    assert not any(row.missed for row in found.rows()), found.rows()


# ---- readers of a server that lies


def block(number: int, text: str | None = None) -> bytes:
    """Of the run's start (0), of a piece, or of its end."""
    place = PLACES[number] if number < len(PLACES) else PLACES[-1] + 1
    if number == 0:
        event: dict[str, object] = {"type": "run.started", "agent": "load", "attempt": 1}
    elif number < len(PLACES):
        said = TEXTS[number - 1] if text is None else text
        event = {"type": "message.delta", "part": 0, "text": said}
    else:
        event = {"type": "run.completed", "finish_reason": "stop"}
    return f"id: abcdef-1-{place}\ndata: {json.dumps(event)}\n\n".encode()


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


ALL = [block(number) for number in range(len(PLACES) + 1)]
Visits = list[list[bytes]]


@asynccontextmanager
async def telling(visits: Visits) -> AsyncIterator[int]:
    """The port of a server that says on each visit what is next; the last visit for all who
    come later. A byte at a time, as a network may have it."""
    asked = iter(visits)
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        blocks = next(asked, visits[-1])
        told = HEAD + chunk(b"retry: %d\n" % (RETRY_S * 1000)) + chunk(b": ping\n")
        told += b"".join(map(chunk, blocks))
        for at in range(0, len(told), 7):
            writer.write(told[at : at + 7])
            await writer.drain()
        if blocks and blocks[-1] is not ALL[-1]:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for writer in writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


def told(visits: Visits, check: Callable[[Herd], None]) -> None:
    async def scenario() -> None:
        async with telling(visits) as port:
            herd = Herd(port, ["/run"])
            await herd.open(1)
            await herd.until_ended(5)
            herd.leave()
            check(herd)

    uvloop.run(scenario())


def is_whole(herd: Herd) -> bool:
    return herd.whole(["".join(TEXTS)]) == 1


def test_who_is_told_all_is_whole_however_it_was_cut() -> None:
    def check(herd: Herd) -> None:
        assert (herd.lost, herd.repeated, herd.errors) == (0, 0, {}) and is_whole(herd)

    told([ALL], check)
    told([ALL[:3], [block(4, TEXTS[2] + TEXTS[3]), *ALL[5:]]], check)


def test_what_is_lost_repeated_or_another_is_seen() -> None:
    def lost(herd: Herd) -> None:
        assert (herd.lost, herd.repeated) == (1, 0) and not is_whole(herd)

    def repeated(herd: Herd) -> None:
        assert herd.repeated and not is_whole(herd)

    def another(herd: Herd) -> None:
        assert (herd.lost, herd.repeated) == (0, 0) and not is_whole(herd)

    def without_end(herd: Herd) -> None:
        assert not is_whole(herd)

    told([[*ALL[:3], *ALL[4:]]], lost)
    told([[*ALL[:3], *ALL[2:]]], repeated)
    # Who came back was told from the start.
    told([ALL[:3], ALL], repeated)
    told([[*ALL[:2], block(2, TEXTS[1][::-1]), *ALL[3:]]], another)
    told([ALL[:-1]], without_end)


def test_who_was_refused_or_cut_is_counted() -> None:
    def check(herd: Herd) -> None:
        assert herd.cut == 1 and len(herd.back_s) == 1
        assert RETRY_S <= herd.back_s[0] < 5

    told([ALL[:3], ALL[3:]], check)

    async def nobody() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            herd = Herd(closed.getsockname()[1], ["/run"])
            opening = asyncio.create_task(herd.open(1))
            await until(lambda: herd.errors, "nobody has taken it", timeout_s=5)
            herd.leave()
            opening.cancel()
            assert list(herd.errors) == ["not taken: ConnectionRefusedError"]

    uvloop.run(nobody())


def test_a_server_that_is_gone_is_not_waited_for_without_end() -> None:
    async def gone() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            herd = Herd(closed.getsockname()[1], ["/run"])
            with pytest.raises(RuntimeError, match="2 of 2 readers are not there"):
                await herd.open(2, within_s=0.3)
            herd.leave()

    uvloop.run(asyncio.wait_for(gone(), 20))


def test_an_end_that_is_told_twice_is_one() -> None:
    async def scenario() -> None:
        herd = Herd(1, ["/run"])
        herd.readers += [Reader(herd, 0), Reader(herd, 0)]
        place = PLACES[-1] + 1
        twice = (
            block(len(ALL) - 1),
            block(len(ALL) - 1).replace(b"%d" % place, b"%d" % (place + 1)),
        )
        for told in twice:
            herd.readers[0].data_received(chunk(told))
        assert list(herd.errors) == ["run.completed after run.completed"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await herd.all_ended.wait()

    uvloop.run(scenario())


@pytest.mark.parametrize("count", ["0", "-1", "2001", "many"])
def test_numbers_that_cannot_be_are_told_before_anything_is_started(
    count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["runs", "--runs", count])
    assert "a whole number from 1 to 2,000" in capsys.readouterr().err
