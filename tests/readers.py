"""A reader that behaves like a browser's EventSource, and keeps the books.

Invariant: it never deduplicates: an id that comes twice or out of line is an error, so that
what it accepts was delivered exactly once or was declared in a `missed`. It reads on to the end
of the response: an event after the terminal one is an error, too.
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

from plateau_sse.eventsource import EventReader
from plateau_sse.store.runs import ids

TERMINAL = ("run.completed", "run.failed", "run.cancelled")
# The kernel doubles it: so little that a response is soon stuck where its reader is slow.
SMALL_BUFFER = 2048


class Dropped(Exception):
    """The test's own decision to break the connection off."""


class OutOfLine(AssertionError):
    """An event that does not follow the last one; `lost` is how many are missing before it, 0
    for one that came again."""

    def __init__(self, last: int, number: int) -> None:
        super().__init__(f"after {ids.show(last)} came {ids.show(number)}")
        (attempt, seq), (its_attempt, its_seq) = ids.split(last), ids.split(number)
        before = seq if attempt == its_attempt else 0
        self.lost = its_seq - before - 1 if number > last else 0


@dataclass
class Visit:
    """One connection: what came over it, in order, and how it ended."""

    url: str
    position: int
    seen: list[str] = field(default_factory=list)
    ended: str = ""

    def __str__(self) -> str:
        port = self.url.rpartition(":")[2]
        return f":{port} from {ids.show(self.position)}: {' '.join(self.seen)} | {self.ended}"


@dataclass
class Reader:
    """Follows `path` on `urls` in turn. `drop()` is asked after each event whether to break the
    connection off there, `wait_s()` how long to stay away after it broke; `text` and the rest
    are what it has been told. `ledger` is what stood under each id, shared by the readers of
    one run. With a `bite` it reads so many bytes at a time, `pace_s()` apart."""

    urls: list[str]
    path: str
    drop: Callable[[], bool] = lambda: False
    wait_s: Callable[[], float] = lambda: 0.0
    bite: int = 0
    pace_s: Callable[[], float] = lambda: 0.0
    reset: bool = False
    ledger: dict[int, int] = field(default_factory=dict)
    text: str = ""
    end: dict[str, Any] | None = None
    last: int = 0
    delivered: list[int] = field(default_factory=list)
    missed: int = 0
    restarts: int = 0
    connections: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    snapshots: int = 0
    statuses: list[int] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    heard_at: float = 0.0
    silence_s: float = 0.0
    heard: int = 0

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
        self.visits.append(Visit(url, self.last))
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
        return get(url, self.headers(), bite=self.bite, reset=self.reset)

    def headers(self) -> dict[str, str]:
        """Those of its next request."""
        headers = {"Accept": "text/event-stream"}
        if self.last:
            headers["Last-Event-ID"] = ids.show(self.last)
        return headers

    def _hear(self, event_id: str | None, event: dict[str, Any]) -> None:
        now = asyncio.get_running_loop().time()
        self.silence_s = max(self.silence_s, now - self.heard_at)
        self.heard_at = now
        self.heard += 1
        kind = event["type"]
        self.visits[-1].seen.append(f"{event_id}{_mark(kind)}")
        assert self.end is None, f"{kind} {event_id} after the end"
        if kind == "run.snapshot":
            self._take_snapshot(event_id, event)
        else:
            assert event_id is not None, event
            self._take(ids.parse(event_id), event)

    def _take_snapshot(self, event_id: str | None, event: dict[str, Any]) -> None:
        self.snapshots += 1
        if event_id is None:
            # Of a run that nobody has claimed: it stands at no place in a stream.
            assert (event["text"], event["missed"]) == ("", 0), event
            return
        number = ids.parse(event_id)
        if number <= self.last:
            raise OutOfLine(self.last, number)
        (attempt, seen), (its_attempt, seq) = ids.split(self.last), ids.split(number)
        if attempt != its_attempt:
            self.restarts += attempt > 0
            self.missed, self.delivered, seen = 0, [], 0
        else:
            assert event["text"].startswith(self.text), "a snapshot contradicts its events"
        assert event["missed"] == seq - seen, (event["missed"], ids.show(self.last), event_id)
        self.missed += event["missed"]
        self.text = event["text"]
        self.last = number

    def _take(self, number: int, event: dict[str, Any]) -> None:
        if self.last and not ids.follows(number, self.last):
            raise OutOfLine(self.last, number)
        content = hash(json.dumps(event))
        assert self.ledger.setdefault(number, content) == content, (
            f"two events under the id {ids.show(number)}"
        )
        self.last = number
        self.delivered.append(number)
        self.started.set()
        kind = event["type"]
        if kind == "message.delta":
            self.text += event["text"]
        elif kind == "run.restarted":
            self.restarts += 1
            self.text, self.missed, self.delivered = "", 0, [number]
        elif kind in TERMINAL:
            self.end = event

    def check_whole(self, output: str) -> None:
        """Everything was delivered once or counted, and it adds up to the record's output."""
        assert self.end is not None
        assert self.text == output, (self.text[-80:], output[-80:], len(self.text), len(output))
        self.check_ids()

    def check_ids(self) -> None:
        """In the run's last attempt each id was delivered once, or counted in a `missed`."""
        assert len(set(self.delivered)) == len(self.delivered)
        attempt, seq = ids.split(self.last)
        own = [number for number in self.delivered if ids.split(number)[0] == attempt]
        assert len(own) + self.missed == seq, (len(own), self.missed, seq)


def _mark(kind: str) -> str:
    """What a history shows of an event besides its id."""
    marks = {"run.snapshot": "S", "run.restarted": "R", "message.delta": ""}
    return marks.get(kind, "E" if kind in TERMINAL else "")


async def get(
    url: str, headers: dict[str, str], *, bite: int = 0, reset: bool = False
) -> AsyncGenerator[tuple[int | None, bytes], None]:
    """A GET over a socket of its own: first (status, b""), then (None, bytes) as they come.

    With a `bite` what is not asked for stays with the sender but for a few KiB; with `reset`
    the connection is not closed but reset."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    reader, writer = await _open(parts.hostname, parts.port, small=bool(bite))
    try:
        if reset:
            linger = struct.pack("ii", 1, 0)
            opened: socket.socket = writer.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
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
