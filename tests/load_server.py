"""A stand-in for the service that a load goes to, and that lies on demand.

Invariant: with no fault it keeps as much of the contract as the smoke load asks for: the
control of every test of a test. A fault belongs to an event, not to a connection: whoever
resumes meets it again.

    with load_server("repeat") as url:
        …
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from locustfiles.agent import STAMP, piece

PAUSE_S = 0.01
EARLY_S = 0.001
WAIT_S = 10.0
# Of a thousand events, each of the five hundredth is the faulty one.
ONE_IN, FAULTY = 1000, 500
LATE_S = 1.0
# Of its clock.
AHEAD_S = 5.0

Entry = tuple[str, dict[str, Any]]
Sequence = list[Entry]


def dropped(entries: Sequence, at: int) -> Sequence:
    return entries[:at] + entries[at + 1 :]


def repeated(entries: Sequence, at: int) -> Sequence:
    return entries[: at + 1] + entries[at:]


def swapped(entries: Sequence, at: int) -> Sequence:
    return [*entries[:at], entries[at + 1], entries[at], *entries[at + 2 :]]


def renumbered(entries: Sequence, at: int) -> Sequence:
    """An event is gone, and the ids do not show it."""
    return placed([event for _, event in dropped(entries, at)])


def placed(events: list[dict[str, Any]]) -> Sequence:
    """Each with its place on a tape whose text is one part."""
    at, opens, entries = 0, 1, []
    for event in events:
        text = event.get("text")
        if text is None:
            at += 1
        else:
            at, opens = at + opens + len(text.encode()), 0
        entries.append((f"abcdef-1-{at}", event))
    return entries


def ended_twice(entries: Sequence, at: int) -> Sequence:
    return [*entries, ("abcdef-1-99999", entries[-1][1])]


def without_end(entries: Sequence, at: int) -> Sequence:
    return entries[:-1]


# What becomes of the entries of the run that has the faulty event.
FAULTS: dict[str, Callable[[Sequence, int], Sequence]] = {
    "drop": dropped,
    "repeat": repeated,
    "swap": swapped,
    "renumber": renumbered,
    "end-twice": ended_twice,
    "no-end": without_end,
}


@dataclass
class Told:
    """A run: its pieces are said at fixed times, so whoever reads when is told the same."""

    entries: Sequence
    output: str
    ahead_s: float


@dataclass
class LoadServer:
    fault: str
    runs: dict[str, Told] = field(default_factory=dict)
    events: int = 0
    url: str = ""

    def create(self, count: int) -> str:
        run_id = f"run{len(self.runs)}"
        began_s = time.time()
        ahead_s = AHEAD_S if self.fault == "ahead" else 0.0
        texts = [piece(i, began_s + i * PAUSE_S + ahead_s, 0) for i in range(count)]
        events: list[dict[str, Any]] = [{"type": "run.started", "run": run_id, "attempt": 1}]
        events += [{"type": "message.delta", "part": 0, "text": text} for text in texts]
        events.append({"type": "run.completed", "usage": None, "cached": False})
        entries = placed(events)
        # Among the deltas only, neither the first nor the last.
        faulty = range(self.events + 2, self.events + len(entries) - 2)
        at = next((n - self.events for n in faulty if n % ONE_IN == FAULTY), None)
        self.events += len(entries)
        if at is not None and self.fault in FAULTS:
            entries = FAULTS[self.fault](entries, at)
        self.runs[run_id] = Told(entries, "".join(texts), ahead_s)
        return run_id

    async def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> AsyncIterator[bytes]:
        """Pieces of one HTTP response."""
        if method == "POST" and self.fault == "nothing":
            yield b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            return
        if path == "/api/admin/metrics":
            here = {"role": "web", "host": socket.gethostname(), "pid": os.getpid()}
            yield _document(200, {"memory": {"processes": [{**here, "pss_bytes": 0}]}})
            return
        run_id = path.removeprefix("/v1/runs/").removesuffix("/events")
        if method == "POST":
            run_id = self.create(int(json.loads(body)["options"]["count"]))
        told = self.runs[run_id]
        if not path.endswith("/events") and method == "GET":
            parts = [{"type": "text", "part": 0, "text": told.output}]
            record = {"status": "completed", "output": told.output, "parts": parts}
            yield _document(200, record)
            return
        yield (
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Cache: miss\r\n"
            f"Content-Location: /v1/runs/{run_id}/events\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        ).encode()
        yield _chunk(b"retry: 100\n")
        if self.fault != "no-events":
            async for frame in self._frames(told, headers.get("last-event-id", "")):
                yield _chunk(frame)
        yield b"0\r\n\r\n"

    async def _frames(self, told: Told, last_id: str) -> AsyncIterator[bytes]:
        ids = [event_id for event_id, _ in told.entries]
        start = ids.index(last_id) + 1 if last_id in ids else 0
        late_s = LATE_S if self.fault == "late" else 0.0
        for number in range(start, len(told.entries)):
            event_id, event = told.entries[number]
            stamp = STAMP.match(event.get("text", ""))
            said_s = int(stamp[2]) / 1e6 - told.ahead_s if stamp else 0.0
            # A loop sleeps by another clock than the one that stamps.
            await asyncio.sleep(max(0.0, said_s + EARLY_S + late_s - time.time()))
            frame = f"id: {event_id}\ndata: {json.dumps(event)}\n\n".encode()
            yield frame.replace(b"\n", b"\r\n") if self.fault == "crlf" else frame


def _document(status: int, content: dict[str, Any]) -> bytes:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nX-Cache: miss\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _connected(
    server: LoadServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            method, target, _ = first.split(" ")
            pairs = (line.partition(":") for line in lines)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            path = urlsplit(target).path
            async for data in server.answer(method, path, headers, body):
                writer.write(data)
                await writer.drain()
    writer.close()


@contextmanager
def load_server(fault: str = "") -> Iterator[LoadServer]:
    """In a thread with a loop of its own; stopped on leaving."""
    server = LoadServer(fault)
    listening = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = loop.create_task(_connected(server, reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        listener = await asyncio.start_server(connected, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        listening.set()
        await stop.wait()
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    assert listening.wait(WAIT_S), "the server did not start"
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(WAIT_S)
        loop.close()
