"""Growth as a law: what an event and a reader cost does not depend on how many there are, were,
or have gone.

Counted, not timed: the lines that the whole server runs (a web worker as it is shipped, in a
thread of its own), the commands and bytes of its Redis, the blocks that the interpreter holds.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from statistics import median
from types import FrameType
from typing import Any

import pytest
import uvicorn
import uvloop
from redis import Redis

from plateau_sse.app import create_app
from plateau_sse.live.cycles import LeanEvent
from plateau_sse.serve.worker import PlateauWorker
from plateau_sse.settings import Settings
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.streams import Streams
from tests.processes import wait_until

TOKEN = "token"
EVENTS = 20
PIECE = "a few words "
# A timer of the server may fall into a count, so the least of these is taken.
COUNTS = 3
# What may differ where nothing grows: an id or a length with one more digit.
ALIKE = 1.05


class Worker:
    """A web worker in a thread; `redis` and `streams` look past it at its store."""

    def __init__(self, url: str) -> None:
        # First: where the store is a group this skips, and nothing else is open.
        self.redis: Any = Redis.from_url(url, protocol=2)
        options = {**PlateauWorker.CONFIG_KWARGS, "loop": "none"}
        app = create_app(Settings(redis_url=url, cache_redis_url=""))
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, **options))
        self._loop = uvloop.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._thread = threading.Thread(target=self._serve)
        self.port = self._listener.getsockname()[1]
        self.url = url

    def __enter__(self) -> Worker:
        self._thread.start()
        wait_until(lambda: self._server.started, "the worker serves")
        # The canary's own.
        self.wait_for_followed(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._loop.close()
        self.redis.close()

    def wait_for_followed(self, runs: int) -> None:
        def follows() -> bool:
            return len(self.redis.pubsub_shardchannels()) == 1 + runs

        wait_until(follows, f"{runs} runs are followed", timeout_s=30)

    @property
    def connections(self) -> list[Any]:
        return list(self._server.server_state.connections)

    def wait_for_open(self, responses: int) -> None:
        """Until so many are open, none is closing, and the last has let go of its request."""
        state = self._server.server_state

        def are_open() -> bool:
            return len(state.connections) == len(state.tasks) == responses

        wait_until(are_open, f"{responses} responses are open", timeout_s=30)
        self._do(lambda: None)

    def _serve(self) -> None:
        self._loop.run_until_complete(self._server.serve([self._listener]))

    @contextmanager
    def counting(self) -> Iterator[list[int]]:
        """The lines of Python that the server runs during the block, as the only item."""
        lines = [0]

        def count(_: FrameType, event: str, __: Any) -> Any:
            lines[0] += event == "line"
            return count

        self._do(lambda: sys.settrace(count))
        try:
            yield lines
        finally:
            self._do(lambda: sys.settrace(None))

    def _do(self, act: Callable[[], None]) -> None:
        done = threading.Event()

        def acted() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(acted)
        assert done.wait(10)

    # What a runner does

    def publish(self, run_id: str, count: int, *, after: Callable[[], None]) -> None:
        """Events one by one; `after` each the reader is waited for, so none share a read."""

        async def publishing() -> None:
            redis = connect(self.url, "publisher", connections=1)
            streams = Streams(redis, alive_s=60, record_s=600)
            for _ in range(count):
                await streams.append(run_id, 1, [events.delta(PIECE)])
                after()
            await redis.aclose()

        asyncio.run(publishing())

    def start(self) -> str:
        async def starting() -> str:
            redis = connect(self.url, "publisher", connections=1)
            streams = Streams(redis, alive_s=60, record_s=600)
            run_id = ids.new_run_id()
            await streams.create(run_id, agent="a", owner="o", token=TOKEN, request=b"{}")
            await streams.claim(run_id, 1, "runner", events.started(run_id, "a", 1))
            await redis.aclose()
            return run_id

        return asyncio.run(starting())


class Reader:
    """A client that reads frames; opened by the first of them."""

    def __init__(
        self, worker: Worker, run_id: str = "", position: str = "", request: str = ""
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", worker.port), timeout=20)
        head = f"GET /v1/runs/{run_id}/events?token={TOKEN} HTTP/1.1\r\nHost: plateau\r\n"
        if position:
            head += f"Last-Event-ID: {position}\r\n"
        self._socket.sendall((request or f"{head}\r\n").encode())
        self._read = b""
        self.wait_for(b"retry:", b"\n")
        if not position:
            self.next()

    def next(self) -> None:
        self.wait_for(b"id: ")

    def wait_for(self, what: bytes, end: bytes = b"\n\n") -> None:
        """Read on to the `end` of the frame, or of the line, in which `what` stands."""
        while True:
            _, found, after = self._read.partition(what)
            if found and end in after:
                self._read = after.partition(end)[2]
                return
            more = self._socket.recv(65536)
            assert more, "the response ended"
            self._read += more

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def worker(streams_url: str) -> Iterator[Worker]:
    with Worker(streams_url) as running:
        yield running


@contextmanager
def reading(worker: Worker, *run_ids: str) -> Iterator[list[Reader]]:
    with ExitStack() as stack:
        readers = []
        for run_id in run_ids:
            readers.append(Reader(worker, run_id))
            stack.callback(readers[-1].close)
        yield readers


def lines_an_event(worker: Worker, run_id: str, readers: list[Reader]) -> float:
    def delivered() -> None:
        for reader in readers:
            reader.next()

    counted = []
    for _ in range(COUNTS):
        with worker.counting() as lines:
            worker.publish(run_id, EVENTS, after=delivered)
        counted.append(lines[0])
    assert min(counted) >= EVENTS * len(readers)
    return min(counted) / EVENTS


def redis_an_event(worker: Worker, run_id: str, reader: Reader) -> tuple[float, float]:
    """Commands, those within scripts among them, and bytes that Redis sends."""

    def totals() -> tuple[int, int]:
        stats: Any = worker.redis.info("commandstats")
        writing = ("evalsha", "xadd", "xtrim", "xrange", "hset", "hmget", "append", "spublish")
        calls = sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in writing)
        return calls, int(worker.redis.info("stats")["total_net_output_bytes"])

    counted = []
    for _ in range(COUNTS):
        before = totals()
        worker.publish(run_id, EVENTS, after=reader.next)
        after = totals()
        counted.append((after[0] - before[0], after[1] - before[1]))
    calls, sent = (min(column) for column in zip(*counted, strict=True))
    return calls / EVENTS, sent / EVENTS


def test_an_event_costs_the_same_however_many_streams_are_open(worker: Worker) -> None:
    run_id = worker.start()
    with reading(worker, run_id) as alone:
        lines = lines_an_event(worker, run_id, alone)
        commands, sent = redis_an_event(worker, run_id, alone[0])
        with reading(worker, *(worker.start() for _ in range(200))):
            assert lines_an_event(worker, run_id, alone) <= lines * ALIKE
            more_commands, more_sent = redis_an_event(worker, run_id, alone[0])
            assert more_commands <= commands and more_sent <= sent * ALIKE


def test_an_event_costs_the_same_however_many_were_sent(worker: Worker) -> None:
    run_id = worker.start()
    with reading(worker, run_id) as readers:
        # Past the first hundred: from there on the stream is trimmed.
        worker.publish(run_id, 120, after=readers[0].next)
        lines = lines_an_event(worker, run_id, readers)
        commands, sent = redis_an_event(worker, run_id, readers[0])
        worker.publish(run_id, 4000, after=readers[0].next)
        assert lines_an_event(worker, run_id, readers) <= lines * ALIKE
        more_commands, more_sent = redis_an_event(worker, run_id, readers[0])
        assert more_commands <= commands and more_sent <= sent * ALIKE


def test_an_event_costs_the_same_however_many_readers_have_gone(worker: Worker) -> None:
    run_id = worker.start()
    with reading(worker, run_id) as readers:
        lines = lines_an_event(worker, run_id, readers)
        for _ in range(5):
            with reading(worker, *([run_id] * 50), *(worker.start() for _ in range(50))):
                pass
        worker.wait_for_open(1)
        worker.wait_for_followed(1)
        assert lines_an_event(worker, run_id, readers) <= lines * ALIKE


def test_a_reader_more_costs_an_event_the_same_as_the_one_before(worker: Worker) -> None:
    """And Redis nothing: a run has one subscription a worker, and one encoding."""
    run_id = worker.start()
    with reading(worker, *[run_id] * 10) as ten:
        of_ten = lines_an_event(worker, run_id, ten)
        with reading(worker, *[run_id] * 90) as ninety:
            both = [*ten, *ninety]
            of_hundred = lines_an_event(worker, run_id, both)

            def delivered() -> None:
                for reader in both:
                    reader.next()

            before = worker.redis.info("stats")["total_net_output_bytes"]
            worker.publish(run_id, EVENTS, after=delivered)
            sent = worker.redis.info("stats")["total_net_output_bytes"] - before
    each = (of_hundred - of_ten) / 90
    # A look at its position and its socket, and a write; and what the timer does meanwhile.
    assert each < 12.5
    assert sent / EVENTS < 1000


def test_joining_at_the_end_costs_the_same_however_much_was_said(worker: Worker) -> None:
    run_id = worker.start()

    def joining(position: str) -> tuple[int, int]:
        found = []
        for _ in range(COUNTS):
            before = worker.redis.info("stats")["total_net_output_bytes"]
            with worker.counting() as lines:
                reader = Reader(worker, run_id, position)
                worker.wait_for_followed(1)
            sent = worker.redis.info("stats")["total_net_output_bytes"] - before
            reader.close()
            worker.wait_for_followed(0)
            found.append((lines[0], int(sent)))
        return min(lines for lines, _ in found), min(sent for _, sent in found)

    def nobody() -> None:
        """Nobody is waited for."""

    def end_of(count: int) -> str:
        """The position behind so many deltas, which are one part, and the start of the run."""
        return f"1-{2 + count * len(PIECE)}"

    worker.publish(run_id, 149, after=nobody)
    lines, sent = joining(end_of(149))
    worker.publish(run_id, 4000, after=nobody)
    later_lines, later_sent = joining(end_of(4149))
    assert later_lines <= lines * ALIKE and later_sent <= sent * ALIKE


def test_readers_who_have_gone_leave_nothing(worker: Worker) -> None:
    """Counted in blocks of the interpreter, the test's own half of each socket included."""

    run_ids = [worker.start() for _ in range(30)]

    def come_and_go() -> int:
        with reading(worker, *run_ids, *run_ids, *run_ids):
            pass
        worker.wait_for_open(0)
        worker.wait_for_followed(0)
        gc.collect()
        return sys.getallocatedblocks()

    for _ in range(5):
        # Tables and pools grow to what so many take.
        come_and_go()
    found = []
    for _ in range(3):
        held = [come_and_go() for _ in range(10)]
        found.append(held)
        # What a reader leaves is left in every round, 90 times. Tables that grow and what the
        # service does meanwhile come and go by hundreds, so both ends are the middle of three;
        # and what comes then does not come each time.
        if (median(held[-3:]) - median(held[:3])) / 7 < 45:
            return
    pytest.fail(f"each round leaves more: {found}")


def bytes_a_reader(worker: Worker, *requests: str) -> list[int]:
    """What the interpreter holds for each open response to each of the requests, the test's
    socket included: blocks of sizes of which there is one more for each response more. Tables
    of sets and dicts, which are 64 places long or 512 for the same 40 readers, by how many
    came and went before, are not of these; a connection to Redis more is not either."""
    few, many = 8, 40

    def held(request: str, so_many: int) -> Counter[int]:
        """How many blocks there are of each size."""
        with ExitStack() as stack:
            for _ in range(so_many):
                stack.callback(Reader(worker, request=request).close)
            worker.wait_for_open(so_many)
            gc.collect()
            blocks = Counter(trace.size for trace in tracemalloc.take_snapshot().traces)
        # Who is still closing would be held, too, when the next are counted.
        worker.wait_for_open(0)
        worker.wait_for_followed(0)
        return blocks

    def each(request: str) -> int:
        # For a moment, there is more: the canary's run, what `INFO` said. So the least of the
        # rounds is taken, of each size.
        more = least[request, many] - least[request, few]
        return sum(size * round(count / (many - few)) for size, count in more.items())

    least: dict[tuple[str, int], Counter[int]] = {}
    tracemalloc.start()
    try:
        # What grows for the first of them stays.
        held(requests[0], many)
        for _ in range(COUNTS + 2):
            for of in product(requests, (few, many)):
                blocks = held(*of)
                least[of] = least.get(of, blocks) & blocks
    finally:
        tracemalloc.stop()
    return [each(request) for request in requests]


def test_an_open_response_has_nothing_of_asyncio_s_that_waits(worker: Worker) -> None:
    """What uvicorn makes for each is replaced under the names that it goes by."""
    run_id = worker.start()
    with reading(worker, run_id):
        worker.wait_for_open(1)
        (connection,) = worker.connections
        parts = [connection, connection.flow, connection.cycle]
        held = [value for part in parts for value in vars(part).values()]
        assert not [it for it in held if isinstance(it, asyncio.Event | deque)]
        assert [type(it) for it in held].count(LeanEvent) == 2
        assert connection.pipeline == ()


def test_a_reader_holds_little_and_nothing_of_what_it_asked(worker: Worker) -> None:
    run_id = worker.start()
    follow = f"GET /v1/runs/{run_id}/events?token={TOKEN} HTTP/1.1\r\nHost: plateau\r\n"
    cookies = "".join(f"Cookie: {name}={'.' * 400}\r\n" for name in "abcdefghij")
    bare, with_cookies = bytes_a_reader(worker, f"{follow}\r\n", f"{follow}{cookies}\r\n")
    # A quarter more than there is today; three events of asyncio would be over.
    assert bare < 10_000
    assert with_cookies < bare + 400
