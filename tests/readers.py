"""A reader that behaves like a browser's EventSource, and keeps the books.

Invariant: it never deduplicates: an event that does not begin where the last one ended, by
its id and its bytes, is an error, so that what it accepts was delivered exactly once. It reads
on to the end of the response: an event after the terminal one is an error, too.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from locustfiles.kit.ledger import DELTAS, NOWHERE, TERMINAL, Ledger, Place

from plateau_sse.eventsource import EventReader
from plateau_sse.store.runs import ids

# The kernel doubles it: so little that a response is soon stuck where its reader is slow.
SMALL_BUFFER = 2048


class Dropped(Exception):
    """The test's own decision to break the connection off."""


class OutOfLine(AssertionError):
    """An event that does not follow the last one; `lost` is how many positions are missing
    before it, 0 for one that came again."""

    def __init__(self, faults: dict[str, int], last: Place, event_id: str, lost: int) -> None:
        super().__init__(f"{faults}: after {last.attempt}-{last.at} came {event_id}")
        self.lost = lost


class Agreed:
    """What stands at each position of a run, as its readers have been told: no position ever
    stands for two texts."""

    # What no text in UTF-8 has, for what is none.
    _UNKNOWN, _OPENING, _MARK = b"\xfd", b"\xfe", b"\xff"

    def __init__(self) -> None:
        self._said: dict[int, bytearray] = {}
        self._points: dict[tuple[int, int], str] = {}

    def check(self, attempt: int, start: int, at: int, event: dict[str, Any]) -> None:
        """`event` leads from `start` to `at`."""
        if event["type"] in DELTAS:
            text = event["text"].encode()
            content = self._OPENING * (at - start - len(text)) + text
            what = f"{event['type']} {event['part']} {event.get('continues')}"
        else:
            content, what = self._MARK, json.dumps(event, sort_keys=True)
        if content[:1] in (self._OPENING, self._MARK):
            known = self._points.setdefault((attempt, start), what)
            assert known == what, f"two events at {attempt}-{start + 1}: {known}, {what}"
        said = self._said.setdefault(attempt, bytearray())
        said += self._UNKNOWN * (at - len(said))
        before = said[start:at]
        if before == content:
            return
        if before.strip(self._UNKNOWN):
            for known_byte, byte in zip(before, content, strict=True):
                assert known_byte in (byte, self._UNKNOWN[0]), f"two texts at {attempt}-{at}"
        said[start:at] = content


@dataclass
class Visit:
    """One connection: what came over it, in order, and how it ended."""

    url: str
    position: str
    seen: list[str] = field(default_factory=list)
    ended: str = ""

    def __str__(self) -> str:
        port = self.url.rpartition(":")[2]
        return f":{port} from {self.position}: {' '.join(self.seen)} | {self.ended}"


@dataclass
class Reader:
    """Follows `path` on `urls` in turn. `drop()` is asked after each event whether to break the
    connection off there, `wait_s()` how long to stay away after it broke; `books` has what it
    has been told. `agreed` is what stands at each position, shared by the readers of one run.
    With a `bite` it reads so many bytes at a time, `pace_s()` apart. `delivered` are the events
    of this attempt's tape, by where they end."""

    urls: list[str]
    path: str
    drop: Callable[[], bool] = lambda: False
    wait_s: Callable[[], float] = lambda: 0.0
    bite: int = 0
    pace_s: Callable[[], float] = lambda: 0.0
    reset: bool = False
    agreed: Agreed = field(default_factory=Agreed)
    books: Ledger = field(default_factory=Ledger)
    delivered: list[int] = field(default_factory=list)
    connections: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    statuses: list[int] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    heard_at: float = 0.0
    silence_s: float = 0.0
    heard: int = 0
    # The port of its connection at this end, by which the kernel knows it.
    port: int = 0

    @property
    def text(self) -> str:
        return self.books.text

    @property
    def end(self) -> dict[str, Any] | None:
        return self.books.end

    @property
    def restarts(self) -> int:
        return self.books.restarts

    @property
    def last(self) -> int:
        """The position that it has come to, as a number."""
        return ids.number(self.books.at.attempt, self.books.at.at)

    async def follow(self, *, timeout_s: float = 60) -> None:
        """Until the terminal event has come; it reconnects after `wait_s`, not `retry:`."""
        self.heard_at = asyncio.get_running_loop().time()
        async with asyncio.timeout(timeout_s):
            while self.end is None:
                try:
                    await self._connect_once()
                    self.visits[-1].ended = "end"
                except Dropped:
                    self.visits[-1].ended = "dropped"
                except (OSError, asyncio.IncompleteReadError) as error:
                    self.visits[-1].ended = type(error).__name__
                if self.end is None:
                    await asyncio.sleep(self.wait_s())
        self.finished.set()

    async def _connect_once(self) -> None:
        url = self.urls[self.connections % len(self.urls)]
        self.connections += 1
        self.visits.append(Visit(url, self.books.last_id))
        events = EventReader()
        async with aclosing(self.answer(url + self.path)) as answer:
            async for status, chunk in answer:
                if status is not None:
                    self.statuses.append(status)
                    assert status == 200, (status, chunk)
                    continue
                for message in events.feed(chunk):
                    self._hear(message.id, json.loads(message.data))
                    if self.end is None and self.drop():
                        raise Dropped
                if self.bite:
                    await asyncio.sleep(self.pace_s())

    def answer(self, url: str) -> AsyncGenerator[tuple[int | None, bytes], None]:
        """What it gets there, as `get` gives it."""
        return get(url, self.headers(), bite=self.bite, reset=self.reset, opened=self._opened)

    def _opened(self, connection: socket.socket) -> None:
        self.port = connection.getsockname()[1]

    def headers(self) -> dict[str, str]:
        """Those of its next request."""
        headers = {"Accept": "text/event-stream"}
        if self.books.last_id:
            headers["Last-Event-ID"] = self.books.last_id
        return headers

    def _hear(self, event_id: str | None, event: dict[str, Any]) -> None:
        now = asyncio.get_running_loop().time()
        self.silence_s = max(self.silence_s, now - self.heard_at)
        self.heard_at = now
        self.heard += 1
        kind = event["type"]
        self.visits[-1].seen.append(f"{event_id or ''}{_mark(kind)}")
        assert self.end is None, f"{kind} {event_id} after the end"
        self.take(event_id or "", event)

    def take(self, event_id: str, event: dict[str, Any]) -> None:
        """Raises OutOfLine for what does not follow what came before."""
        books, before = self.books, self.books.at
        in_order = books.take(event_id, event)
        if books.holes or books.faults:
            lost = sum(end - start for start, end in books.holes)
            raise OutOfLine(dict(books.close()), before, event_id, lost)
        if event["type"] == "run.restarted":
            self.delivered = []
        elif in_order and books.at not in (before, NOWHERE):
            at = books.at
            self.agreed.check(at.attempt, before.at, at.at, event)
            self.delivered.append(self.last)
            self.started.set()

    def check_whole(self, output: str) -> None:
        """Everything was delivered once, and it adds up to the record's output."""
        assert self.end is not None
        assert self.text == output, (self.text[-80:], output[-80:], len(self.text), len(output))
        self.check_ids()

    def check_ids(self) -> None:
        """Nothing was left out, nothing came twice; or it would have been an error at once."""
        assert not self.books.close()
        assert self.delivered == sorted(set(self.delivered))

    def check_parts(self, record: dict[str, Any]) -> None:
        """What it has is what the run's record has."""
        assert self.books.parts == record["parts"]
        if record["status"] == "completed":
            self.check_whole(record["output"])


def _mark(kind: str) -> str:
    """What a history shows of an event besides its id."""
    marks = {"run.queued": "Q", "run.restarted": "R"}
    return marks.get(kind, "E" if kind in TERMINAL else "")


async def get(
    url: str,
    headers: dict[str, str],
    *,
    bite: int = 0,
    reset: bool = False,
    opened: Callable[[socket.socket], None] = lambda _: None,
) -> AsyncGenerator[tuple[int | None, bytes], None]:
    """A GET over a socket of its own: first (status, b""), then (None, bytes) as they come.

    With a `bite` what is not asked for stays with the sender but for a few KiB; with `reset`
    the connection is not closed but reset."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    reader, writer = await _open(parts.hostname, parts.port, small=bool(bite))
    try:
        connection: socket.socket = writer.get_extra_info("socket")
        opened(connection)
        if reset:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        if "transfer-encoding: chunked" not in head:
            yield status, await reader.read(65536) if "content-length" in head else b""
            return
        yield status, b""
        while left := int(await reader.readuntil(b"\r\n"), 16):
            while left:
                piece = await reader.read(min(left, bite or left))
                if not piece:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(piece)
                yield None, piece
            await reader.readexactly(2)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _open(
    host: str, port: int, *, small: bool
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if not small:
        return await asyncio.open_connection(host, port)
    opened = socket.socket()
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        await asyncio.get_running_loop().sock_connect(opened, (host, port))
        return await asyncio.open_connection(sock=opened, limit=SMALL_BUFFER)
    except BaseException:
        opened.close()
        raise
