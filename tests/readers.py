"""A reader that behaves like a browser's EventSource, and keeps the books.

Invariant: it never deduplicates: an id that comes twice or out of line is an error, so that
what it accepts was delivered exactly once or was declared in a `missed`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from service.eventsource import EventReader
from service.store import ids

TERMINAL = ("run.completed", "run.failed", "run.cancelled")


class Dropped(Exception):
    """The test's own decision to break the connection off."""


@dataclass
class Reader:
    """Follows `path` on `urls` in turn. `drop()` is asked after each event whether to break the
    connection off there; `text` and the rest are what it has been told."""

    urls: list[str]
    path: str
    drop: Callable[[], bool] = lambda: False
    text: str = ""
    end: dict[str, Any] | None = None
    last: int = 0
    delivered: list[int] = field(default_factory=list)
    missed: int = 0
    attempt: int = 0
    connections: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    snapshots: int = 0
    statuses: list[int] = field(default_factory=list)

    async def follow(self, *, timeout_s: float = 60) -> None:
        """Until the terminal event has come; it reconnects at once, not after `retry:`."""
        async with asyncio.timeout(timeout_s):
            while self.end is None:
                with suppress(Dropped, ConnectionError, asyncio.IncompleteReadError):
                    await self._connect_once()

    async def _connect_once(self) -> None:
        url = self.urls[self.connections % len(self.urls)]
        self.connections += 1
        headers = {"Accept": "text/event-stream"}
        if self.last:
            headers["Last-Event-ID"] = ids.show(self.last)
        events = EventReader()
        async for status, chunk in get(url + self.path, headers):
            if status is not None:
                self.statuses.append(status)
                assert status == 200, (status, chunk)
                continue
            for message in events.feed(chunk):
                self._take(message.id, json.loads(message.data))
                if self.end is not None:
                    return
                if self.drop():
                    raise Dropped

    def _take(self, event_id: str | None, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "run.snapshot":
            self.snapshots += 1
            self.text = event["text"]
            self.missed += event["missed"]
            if event_id is not None:
                self.last = ids.parse(event_id)
            return
        assert event_id is not None, event
        number = ids.parse(event_id)
        assert self.last == 0 or ids.follows(number, self.last), (
            f"after {ids.show(self.last)} came {event_id}"
        )
        self.last = number
        self.delivered.append(number)
        self.started.set()
        if kind == "message.delta":
            self.text += event["text"]
        elif kind == "run.restarted":
            self.text, self.missed, self.delivered = "", 0, [number]
        elif kind in TERMINAL:
            self.end = event

    def check_whole(self, output: str) -> None:
        """Everything was delivered once or counted, and it adds up to the record's output."""
        assert self.end is not None
        assert self.text == output, (self.text[-80:], output[-80:], len(self.text), len(output))
        assert len(set(self.delivered)) == len(self.delivered)
        attempt, seq = ids.split(self.last)
        own = [number for number in self.delivered if ids.split(number)[0] == attempt]
        assert len(own) + self.missed == seq, (len(own), self.missed, seq)


async def get(url: str, headers: dict[str, str]) -> AsyncIterator[tuple[int | None, bytes]]:
    """A GET over a socket of its own: first (status, b""), then (None, bytes) as they come."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
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
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield None, (await reader.readexactly(size + 2))[:-2]
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
