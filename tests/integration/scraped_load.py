"""Load that keeps the books: what its clients were given is what the service must have counted.

Invariant: only what a client knows is in the books. A request that got no byte of an answer was
not taken on, and is sent again; a response that held nothing but one `retry:` was no stream.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from plateau_sse.eventsource import EventReader
from tests.integration.api_client import TERMINAL, unique
from tests.watched import until

# Progress and words before the gate, and after it.
STEPS = 15
HITS = 3
ALONE = httpx.Limits(max_keepalive_connections=0)


class Follower:
    """Follows one run as `EventSource` does: it comes back with the id of its last event."""

    def __init__(self, url: str, path: str, books: Counter[str]) -> None:
        self._address = urlsplit(url)
        self._path = path
        self._books = books
        self._last = ""
        self._writer: asyncio.StreamWriter | None = None
        self.visits = 0
        self.text = ""
        self.end = ""

    async def follow(self) -> None:
        while not self.end:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._visit()

    async def leave(self) -> None:
        """Until the worker has seen it go and it has come back: what is written from then on is
        written to nobody else."""
        assert self._writer is not None
        visits = self.visits
        self._writer.write_eof()
        await until(lambda: self.visits > visits, "it has come back")

    async def _visit(self) -> None:
        host, port = self._address.hostname, self._address.port
        reader, writer = await asyncio.open_connection(host, port)
        said: Counter[str] = Counter()
        resumed = bool(self._last)
        try:
            lines = [f"GET {self._path} HTTP/1.1", f"Host: {self._address.netloc}"]
            if self._last:
                lines.append(f"Last-Event-ID: {self._last}")
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head.splitlines()[0], head
            await self._read(reader, writer, said)
            said["clean"] = 1
        finally:
            writer.close()
            if said["events"] or said["retry"] > said["clean"]:
                self._books["opened"] += 1
                self._books["resumed"] += resumed
                self._books["delivered"] += said["events"]

    async def _read(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: Counter[str]
    ) -> None:
        events = EventReader()
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body = (await reader.readexactly(size + 2))[:-2]
            if not said["retry"]:
                self._writer = writer
                self.visits += 1
            said["retry"] += body.count(b"retry:")
            for message in events.feed(body):
                said["events"] += 1
                self._hear(message.id, json.loads(message.data))

    def _hear(self, event_id: str | None, event: dict[str, Any]) -> None:
        self._last = event_id or self._last
        kind = event["type"]
        if kind == "message.delta":
            self.text += event["text"]
        elif kind in TERMINAL:
            self.end = kind


class Load:
    """Each of `users` asks, reads half, leaves and comes back, reads the rest, asks again."""

    def __init__(self, url: str, folder: Path, users: int) -> None:
        self.books: Counter[str] = Counter()
        self.followers: set[Follower] = set()
        self._url = url
        self._folder = folder
        self._users = users
        self._over = False
        self._going = asyncio.Event()
        self._going.set()
        self._held = 0
        self._answered: list[dict[str, Any]] = []
        self._client = httpx.AsyncClient(
            base_url=url, limits=ALONE, timeout=30, trust_env=False
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._use()) for _ in range(self._users)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    async def hold(self) -> None:
        """Until each has all that was said so far, and has just asked what is cached."""
        self._going.clear()
        await self.until(lambda: self._held == self._users, "each has arrived at its gate")

    def go_on(self) -> None:
        self._going.set()

    async def finish(self) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def until(self, condition: Any, what: str, *, timeout_s: float = 30) -> None:
        """While there is load: a user who has failed is not waited for, and says why."""
        waiting = asyncio.create_task(until(condition, what, timeout_s=timeout_s))
        done, _ = await asyncio.wait(
            [waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED
        )
        waiting.cancel()
        for task in done:
            task.result()

    async def _use(self) -> None:
        while not self._over:
            text = unique()
            gate = self._folder / f"gate-{text}"
            body = {
                "agent": "big",
                "input": text,
                "options": {"gate": str(gate), "steps": STEPS},
            }
            run = await self._ask(body, "miss")
            follower = Follower(self._url, run["events_url"], self.books)
            await self._follow(follower, gate)
            assert follower.end == "run.completed"
            self.books["completed"] += 1
            self._answered.append(body)
            for _ in range(HITS):
                assert (await self._ask(body, "hit"))["output"] == follower.text

    async def _follow(self, follower: Follower, gate: Path) -> None:
        half = "".join(f"word{step + 1} " for step in range(STEPS))
        self.followers.add(follower)
        following = asyncio.create_task(follower.follow())
        try:
            await until(lambda: follower.text == half, "half of it has come")
            await follower.leave()
            await self._wait_at_gate()
            gate.touch()  # noqa: ASYNC240
            await following
        finally:
            following.cancel()
            self.followers.discard(follower)

    async def _wait_at_gate(self) -> None:
        if self._going.is_set():
            return
        for body in self._answered[-HITS:]:
            await self._ask(body, "hit")
        self._held += 1
        await self._going.wait()
        self._held -= 1

    async def _ask(self, body: dict[str, Any], expected: str) -> dict[str, Any]:
        while True:
            try:
                response = await self._client.post("/v1/runs", json=body)
            except httpx.TransportError:
                self.books["unanswered"] += 1
                continue
            assert response.status_code in (200, 202), response.text
            assert response.headers["x-cache"] == expected, (response.headers, response.text)
            self.books["misses" if expected == "miss" else "hits"] += 1
            run: dict[str, Any] = response.json()
            return run
