"""Our protocol over real sockets, on the loop of a worker, before an application of a line."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import struct
import time
import tracemalloc
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from plateau_sse.live import guard, protocol
from plateau_sse.live.protocol import LiveProtocol
from tests.watched import until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Application = Callable[[Any, Any, Any], Awaitable[None]]


class Host:
    """What a server has of one worker: `connections` are all that it has taken, ever."""

    def __init__(self, app: Application, **options: Any) -> None:
        self.state = ServerState()
        self.guard = guard.Guard()
        self.connections: list[weakref.ref[LiveProtocol]] = []
        self.port = 0
        self._config = uvicorn.Config(
            app, http=LiveProtocol, lifespan="off", log_config=None, **options
        )
        self._config.load()

    def make(self) -> LiveProtocol:
        made = LiveProtocol(
            config=self._config, server_state=self.state, app_state={"guard": self.guard}
        )
        self.connections.append(weakref.ref(made))
        return made

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


@asynccontextmanager
async def hosting(app: Application, **options: Any) -> AsyncIterator[Host]:
    host = Host(app, **options)
    server = await asyncio.get_running_loop().create_server(host.make, "127.0.0.1", 0)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()
        for connection in list(host.state.connections):
            connection.transport.abort()
        await server.wait_closed()


def run(app: Application, scenario: Callable[[Host], Awaitable[None]], **options: Any) -> None:
    """`options` are uvicorn's."""

    async def hosted() -> None:
        async with asyncio.timeout(30), hosting(app, **options) as host:
            await scenario(host)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(hosted())


async def answer(send: Any, body: bytes) -> None:
    length = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body})


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def test_a_connection_that_is_cut_before_its_answer_is_sent_leaves_nothing() -> None:
    """Its answer is complete, and waits for the socket: so does the timer for the next."""

    async def large(_: Any, __: Any, send: Any) -> None:
        await answer(send, b"x" * 1_000_000)

    async def scenario(host: Host) -> None:
        peer = host.connect()
        peer.sendall(GET)
        await until(lambda: host.state.total_requests == 1, "it is answered")
        assert host.state.connections
        reset(peer)
        await until(lambda: not host.state.connections, "it is cut")
        await until(lambda: host.connections[0]() is None, "it is forgotten", timeout_s=5)

    run(large, scenario, timeout_keep_alive=75)


# What has not been asked yet


def served(read: bytes) -> int:
    return read.count(b"HTTP/1.1 200 OK")


async def read_of(host: Host, data: bytes) -> bytes:
    """All that comes back, from an application whose last answer closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
    writer.write(data)
    read = await reader.read()
    writer.close()
    return read


class Gate:
    """Answers when it is open, with what it was sent."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.bodies: list[bytes] = []
        self.broken = 0

    async def __call__(self, _: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.broken += 1
                return
            body, more = body + message["body"], message["more_body"]
        self.bodies.append(body)
        await self.opened.wait()
        await answer(send, body)


LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def post(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def chunked(*pieces: bytes) -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))
    return b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks


def only(host: Host) -> LiveProtocol:
    (connection,) = host.state.connections
    assert isinstance(connection, LiveProtocol)
    return connection


def test_few_requests_wait_and_what_comes_behind_them_is_answered_too() -> None:
    gate = Gate()
    bodies = [b"", b"a", b"\r\n\r\n" * 300, b"GET / HTTP/1.1\r\n\r\n" * 90, b"x" * 200_000]
    asked = [post(body) + chunked(*[body] * bool(body), b"end") for body in bodies * 3]

    async def scenario(host: Host) -> None:
        reading = asyncio.create_task(read_of(host, b"".join([*asked, GET * 3000, LAST])))
        await until(lambda: gate.bodies, "the first has come")
        await until(lambda: len(only(host).pipeline) == protocol.WAITING_MOST, "some wait")
        await asyncio.sleep(0.1)
        assert len(only(host).pipeline) == protocol.WAITING_MOST and len(gate.bodies) == 1
        gate.opened.set()
        assert served(await reading) == 2 * len(bodies) * 3 + 3001
        both = [sent for body in bodies * 3 for sent in (body, body + b"end")]
        assert gate.bodies == [*both, *[b""] * 3001]

    run(gate, scenario)


@pytest.mark.parametrize("size", [1, 3, 70, 1000])
def test_they_are_answered_however_the_bytes_arrive(size: int) -> None:
    gate = Gate()
    gate.opened.set()
    data = b"".join([post(b"a\r\n\r\nb"), *[GET] * 9, chunked(b"c\r\n\r\n", b"d"), GET, LAST])

    async def scenario(host: Host) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), size):
            writer.write(data[at : at + size])
            await asyncio.sleep(0)
        assert served(await reader.read()) == 13
        assert gate.bodies == [b"a\r\n\r\nb", *[b""] * 9, b"c\r\n\r\nd", b"", b""]
        writer.close()

    run(gate, scenario)


TINY = b"GET / HTTP/1.1\r\n\r\n"
SENT = {
    "requests of no header": TINY * 14_000,
    "headers of a letter": b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 16_000,
    "one long header": b"GET / HTTP/1.1\r\na: " + b"x" * 60_000,
    "empty lines": b"\r\n" * 30_000,
    "a body that stalls": post(b"x" * 100_000)[:-1],
    "a body of chunks": chunked(*[b"x"] * 5000)[:-5],
    "requests behind a body": post(b"x" * 50_000) + TINY * 5000,
}


@pytest.mark.parametrize("what", SENT)
def test_what_was_sent_costs_no_more_than_twice_its_bytes(what: str) -> None:
    """Nor does it hold up the loop."""
    gate, data, peers = Gate(), SENT[what], 8

    async def scenario(host: Host) -> None:
        async def send() -> asyncio.StreamWriter:
            _, writer = await asyncio.open_connection("127.0.0.1", host.port)
            writer.write(data)
            return writer

        async def settled() -> None:
            """Until nothing more is taken."""
            before, quiet = 0, 0
            while quiet < 5:
                now = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0
                quiet = quiet + 1 if abs(now - before) < 10_000 else 0
                before = now
                await asyncio.sleep(0.02)

        (await send()).close()
        await settled()
        tracemalloc.start()
        writers = [await send() for _ in range(peers)]
        await settled()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        for writer in writers:
            writer.transport.abort()
        assert held < 2 * peers * len(data) + peers * 16 * 1024

    run(gate, scenario)


def test_a_request_may_have_so_many_headers() -> None:
    async def scenario(host: Host) -> None:
        line = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        for more, status in ((98, b"200"), (99, b"431")):
            read = await read_of(host, line + b"a: b\r\n" * more + b"\r\n")
            assert read.startswith(b"HTTP/1.1 " + status), read
        # Behind one that can be answered it is the end of the connection.
        read = await read_of(host, GET + line + b"a: b\r\n" * 200 + b"\r\n")
        assert read.count(b"HTTP/1.1") == served(read) == 1

    gate = Gate()
    gate.opened.set()
    run(gate, scenario)


def test_what_cannot_be_read_behind_many_requests_takes_no_answer_from_them() -> None:
    gate = Gate()

    async def scenario(host: Host) -> None:
        reading = asyncio.create_task(read_of(host, GET * 20 + b"no HTTP\r\n\r\n" + GET))
        await until(lambda: len(gate.bodies) == 1, "the first has come")
        gate.opened.set()
        read = await reading
        assert served(read) == 20 and read.count(b"HTTP/1.1") in (20, 21)

    run(gate, scenario)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(guard, "HEAD_S", 0.4)
    monkeypatch.setattr(guard, "BODY_S", 0.4)
    monkeypatch.setattr(guard, "LOOK_S", 0.05)
    return 0.4


LATE = {
    "nothing": (b"", b""),
    "half a head": (GET[:-2], b"408"),
    "half a head behind an answer": (GET + GET[:-2], b"200 408"),
    "an empty line behind an answer": (GET + b"\r\n", b"200"),
    "half a body": (post(b"abc")[:-1], b"408"),
    "a chunk without end": (chunked(b"abc").replace(b"\r\n3\r\n", b"\r\nffffffff\r\n"), b"408"),
}


@pytest.mark.parametrize("what", LATE)
def test_what_does_not_come_in_its_time_is_no_longer_waited_for(
    quick: float, what: str
) -> None:
    gate = Gate()
    gate.opened.set()
    sent, told = LATE[what]

    async def scenario(host: Host) -> None:
        began = time.monotonic()
        read = await asyncio.wait_for(read_of(host, sent), 10)
        assert b" ".join(re.findall(rb"HTTP/1\.1 (\d+)", read)) == told
        assert time.monotonic() - began >= quick

    run(gate, scenario)
    assert gate.broken == (told == b"408" and b"POST" in sent)


@pytest.mark.parametrize("sent", [GET, post(b"abc")], ids=["a head", "a body"])
def test_who_was_frozen_takes_nobody_for_late(
    quick: float, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """What came meanwhile is not read yet when its timers run."""
    monkeypatch.setattr(guard, "AWAY_S", quick / 2)

    async def scenario(host: Host) -> None:
        peer = host.connect()
        peer.sendall(sent[:-1])
        await until(lambda: bool(host.guard._heads or host.guard._bodies), "it is expected")
        peer.sendall(sent[-1:])
        # The whole process.
        time.sleep(3 * quick)  # noqa: ASYNC251
        peer.setblocking(False)
        read = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 4096), 10)
        assert read.startswith(b"HTTP/1.1 200 "), read
        peer.close()

    gate = Gate()
    gate.opened.set()
    run(gate, scenario)


def test_a_head_that_drips_is_late_all_the_same(quick: float) -> None:
    async def scenario(host: Host) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)

        async def drip() -> None:
            writer.write(GET[:-2] + b"a: ")
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()
        writer.close()

    run(Gate(), scenario)


def test_nobody_is_cut_whom_we_keep_waiting(quick: float) -> None:
    """A reader of a stream that sent half of a next request; a request whose body is not read
    since others are answered first; a connection between two requests."""
    gate, streaming = Gate(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/stream":
            await gate(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await streaming.wait()
        await send({"type": "http.response.body", "body": b"the end"})

    async def scenario(host: Host) -> None:
        stream = GET.replace(b"/ ", b"/stream ")
        asked = (stream + GET[:-2], GET + post(b"x" * 300_000) + LAST, b"")
        opened = [await asyncio.open_connection("127.0.0.1", host.port) for _ in asked]
        for (_, writer), data in zip(opened, asked, strict=True):
            writer.write(data)
        between = opened[2][1]
        gate.opened.set()
        between.write(GET)
        assert served(await opened[2][0].readuntil(b"\r\n\r\n"))
        gate.opened.clear()
        await asyncio.sleep(4 * quick)
        gate.opened.set()
        streaming.set()
        between.write(LAST)
        assert served(await opened[2][0].read()) == 1
        assert b"the end" in await opened[0][0].readuntil(b"0\r\n\r\n")
        assert served(await opened[1][0].read()) == 3
        for _, writer in opened:
            writer.close()

    run(app, scenario)


def test_what_is_sent_behind_an_early_answer_does_not_keep_a_connection() -> None:
    async def early(_: Any, __: Any, send: Any) -> None:
        await answer(send, b"no")

    async def scenario(host: Host) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        body = post(b"abc")
        writer.write(body[:-2])
        await reader.readuntil(b"no")
        writer.write(body[-2:])
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()

    run(early, scenario, timeout_keep_alive=1)


# Room


def test_who_says_nothing_makes_room_for_who_asks() -> None:
    gate = Gate()
    gate.opened.set()

    async def scenario(host: Host) -> None:
        counts: Counter[str] = Counter()
        host.guard = guard.Guard(lambda name, by=1: counts.update({name: by}), 64 + 20)
        silent = [await asyncio.open_connection("127.0.0.1", host.port) for _ in range(50)]
        assert served(await read_of(host, LAST)) == 1
        await until(lambda: len(host.state.connections) <= 20, "there is room")
        assert await silent[0][0].read() == b"" and not silent[-1][0].at_eof()
        # Those that are kept for a next request make room as well.
        kept = [await asyncio.open_connection("127.0.0.1", host.port) for _ in range(20)]
        for reader, writer in kept:
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
        assert served(await read_of(host, LAST)) == 1
        assert counts["connections_cut_room"] >= 51 and not counts["connections_cut_refused"]
        for _, writer in (*silent, *kept):
            writer.close()

    run(gate, scenario)


def test_where_all_are_in_use_a_newcomer_is_refused_and_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate()

    async def scenario(host: Host) -> None:
        counts: Counter[str] = Counter()
        host.guard = guard.Guard(lambda name, by=1: counts.update({name: by}), 64 + 20)
        asking = [asyncio.create_task(read_of(host, LAST)) for _ in range(20)]
        await until(lambda: len(gate.bodies) == 20, "all are under way")
        with suppress(ConnectionError):
            assert await read_of(host, LAST) == b""
        gate.opened.set()
        assert sum(served(read) for read in await asyncio.gather(*asking)) == 20
        assert counts == {"connections_cut_refused": 1}
        assert "a connection is refused: 21 are open" in caplog.text

    run(gate, scenario)


def test_large_bodies_find_room_beside_others_and_small_ones_always() -> None:
    counts: Counter[str] = Counter()
    full = guard.Guard(lambda name, by=1: counts.update({name: by}), body_bytes=0)
    with ExitStack() as stack:
        held = [stack.enter_context(full.body()) for _ in range(20)]
        taken = [holds(guard.BODY_FREE_BYTES + 1024 * 1024) for holds in held]
        assert taken == [True] * 16 + [False] * 4 and counts == {"bodies_refused": 4}
        assert all(holds(guard.BODY_FREE_BYTES) for holds in held[16:])
        assert not held[0](guard.BODY_FREE_BYTES + 1024 * 1024 + 1)
    with full.body() as holds:
        assert holds(16 * 1024 * 1024)


# The worker goes


@pytest.mark.parametrize("asked_before", [True, False], ids=["kept", "new"])
def test_who_asks_as_the_worker_goes_is_answered(asked_before: bool) -> None:
    """What has arrived and was not read yet would reset the connection that is closed."""

    async def app(_: Any, __: Any, send: Any) -> None:
        await answer(send, b"yes")

    async def scenario(host: Host) -> None:
        loop = asyncio.get_running_loop()
        peer = host.connect()
        peer.settimeout(5)
        await until(lambda: bool(host.state.connections), "it is taken")
        if asked_before:
            peer.sendall(GET)
            assert b"yes" in await loop.run_in_executor(None, peer.recv, 4096)
        (connection,) = host.state.connections
        # The loop comes to neither of these before the other.
        peer.sendall(GET)
        connection.shutdown()
        assert b"yes" in await loop.run_in_executor(None, peer.recv, 4096)
        peer.close()

    run(app, scenario, timeout_keep_alive=75)


def test_who_asks_nothing_as_the_worker_goes_is_closed() -> None:
    async def app(_: Any, __: Any, send: Any) -> None:
        await answer(send, b"yes")

    async def scenario(host: Host) -> None:
        loop = asyncio.get_running_loop()
        peer = host.connect()
        peer.settimeout(5)
        peer.sendall(GET)
        assert b"yes" in await loop.run_in_executor(None, peer.recv, 4096)
        (connection,) = host.state.connections
        connection.shutdown()
        assert await loop.run_in_executor(None, peer.recv, 4096) == b""
        peer.close()

    run(app, scenario, timeout_keep_alive=75)
