"""A reader that also watches how each of its responses ended, and may be slow.

Invariant: a response counts as clean only where its final chunk came, behind whole events, and
nothing after it; whatever else became of it is kept in `ends`, never swallowed.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from locustfiles.kit.ledger import TERMINAL

from plateau_sse.eventsource import EventReader
from tests.readers import Reader, Visit

# Between two attempts while nobody listens: a browser waits for `retry:`.
AGAIN_S = 0.1


class Unanswered(Exception):
    """The connection ended before a byte of an answer: as good as refused."""


class End(NamedTuple):
    """How one response ended. `clean`: with its final chunk, behind whole events. `farewell`:
    the last it said was a `retry:`. `at` is a monotonic time."""

    clean: bool
    farewell: bool
    status: int
    at: float


class Pace(NamedTuple):
    """How a reader reads: at most `size` bytes at a time, then `pause_s()` seconds nothing.
    `buffer` bounds what the kernel takes meanwhile; 0 is its own choice."""

    size: int = 65_536
    pause_s: Callable[[], float] | None = None
    buffer: int = 0


class Chunks:
    """Chunked transfer coding, decoded as it comes; `done` once the final chunk has come."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._left = 0
        self.done = False
        self.tail = b""

    def feed(self, data: bytes) -> bytes:
        assert not self.done, f"after the final chunk came {data!r}"
        self._pending += data
        body = bytearray()
        while not self.done and self._step(body):
            pass
        if body:
            self.tail = (self.tail + bytes(body))[-80:]
        return bytes(body)

    def _step(self, body: bytearray) -> bool:
        if self._left:
            piece = self._pending[: self._left]
            del self._pending[: self._left]
            # The line end behind a chunk is no content.
            body += piece[: max(0, self._left - 2)]
            self._left -= len(piece)
            return bool(self._pending)
        line_end = self._pending.find(b"\r\n")
        if line_end < 0:
            return False
        size = int(self._pending[:line_end], 16)
        if size == 0:
            if len(self._pending) < line_end + 4:
                return False
            self.done = True
            assert self._pending == b"0\r\n\r\n", bytes(self._pending)
            return False
        del self._pending[: line_end + 2]
        self._left = size + 2
        return True


@dataclass
class Watched(Reader):
    """A Reader that reconnects as a browser does and keeps the books of its responses."""

    pace: Pace = Pace()
    ends: list[End] = field(default_factory=list)
    refused: int = 0
    arrivals: list[float] = field(default_factory=list)

    async def follow(self, *, timeout_s: float = 60) -> None:
        """Until the terminal event; a response that breaks is noted and resumed. `refused`
        counts connections that were not made, or ended without a byte of an answer."""
        self.heard_at = asyncio.get_running_loop().time()
        async with asyncio.timeout(timeout_s):
            while self.end is None:
                url = self.urls[self.connections % len(self.urls)]
                try:
                    connection = await connect(url, self.pace.buffer)
                except ConnectionError:
                    self.refused += 1
                    await asyncio.sleep(AGAIN_S)
                    continue
                self.visits.append(Visit(url, self.books.last_id))
                try:
                    await self._follow_one(connection, url)
                finally:
                    connection.close()

    async def _follow_one(self, connection: socket.socket, url: str) -> None:
        last_id = self.books.last_id
        last = {"Last-Event-ID": last_id} if last_id else {}
        chunks, events = Chunks(), EventReader()
        reading = self._read(connection)
        try:
            await send_get(connection, url + self.path, last)
            status, rest = await head_of(reading)
        except Unanswered:
            self.refused += 1
            return
        self.connections += 1
        with suppress(ConnectionError):
            self.statuses.append(status)
            assert status == 200, (status, rest)
            self._understand(events, chunks.feed(rest))
            while not chunks.done and (data := await anext(reading, b"")):
                self._understand(events, chunks.feed(data))
        tail = chunks.tail
        # Behind the last frame there is a `retry:` at most, which is a line and no block.
        farewell = tail[:-1].rpartition(b"\n")[2].startswith(b"retry:")
        clean = chunks.done and tail.endswith(b"\n" if farewell else b"\n\n")
        self.ends.append(End(clean, farewell, status, time.monotonic()))

    def _understand(self, events: EventReader, body: bytes) -> None:
        for message in events.feed(body):
            self.arrivals.append(time.monotonic())
            event = json.loads(message.data)
            if message.id is None and event["type"] in TERMINAL:
                # The end of a run that the store has lost stands at no place on its tape.
                assert event["code"] == "record_lost", event
            self._hear(message.id, event)

    async def _read(self, connection: socket.socket) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(connection, self.pace.size):
            yield data
            if self.pace.pause_s is not None:
                await asyncio.sleep(self.pace.pause_s())

    def check_clean(self, *, responses: int = 1) -> None:
        """Every response ended in good order, and there were so many of them."""
        assert all(end.clean for end in self.ends), self.ends
        assert all(end.farewell for end in self.ends[:-1]), self.ends
        assert len(self.ends) == self.connections == responses, self.ends


async def connect(url: str, buffer: int = 0) -> socket.socket:
    """A connection of its own. A receive buffer that is not set before has been offered."""
    parts = urlsplit(url)
    connection = socket.socket()
    try:
        connection.setblocking(False)
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        address = (parts.hostname, parts.port)
        await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection


async def send_get(connection: socket.socket, url: str, headers: dict[str, str]) -> None:
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}", "Accept: text/event-stream"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    # Where that fails, so does reading.
    with suppress(ConnectionError):
        await asyncio.get_running_loop().sock_sendall(connection, request)


async def head_of(reading: AsyncIterator[bytes]) -> tuple[int, bytes]:
    """The status, and what of the body has come with the head."""
    head = b""
    with suppress(ConnectionError):
        async for data in reading:
            head += data
            before, found, rest = head.partition(b"\r\n\r\n")
            if found:
                return int(before.split(b" ", 2)[1]), rest
    assert not head, f"the response ended within its head: {head!r}"
    raise Unanswered


async def until(condition: Callable[[], object], what: str, *, timeout_s: float = 30) -> None:
    """As `processes.wait_until`, for a test whose readers live in the same loop."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)
