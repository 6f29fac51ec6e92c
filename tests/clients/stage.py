"""A service, and all stock clients side by side at what it says.

Invariant: what a client must have read is the tape as it stands in the run's stream, not what
another client has read.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from plateau_sse.eventsource import EventReader
from plateau_sse.store.redis import keys
from plateau_sse.store.runs import ids
from tests.clients.reading import Client, Events, Reading, start
from tests.clients.wire import Wires
from tests.processes import Serving, wait_until

# A run for each client at once, and no more: one beyond that waits in the queue.
CONCURRENCY = 8
# Twice the time between pings.
PATIENCE_S = 30
ENV = {
    "AGENTS": "said=tests.clients.said:said",
    "RUNNER_CONCURRENCY": str(CONCURRENCY),
    "WEB_CONCURRENCY": "1",
    # Longer than all clients may take to hear of one that waits.
    "QUEUE_TIMEOUT_S": "300",
}

STARTED = re.compile(r'\{"type":"run.started","run":"([^"]+)"')

Body = dict[str, Any]


def body_of(gate: Path | None = None, text: str = "") -> Body:
    """A question that no cache has seen; its answer waits in the middle for `gate`."""
    options = {} if gate is None else {"gate": str(gate)}
    return {"agent": "said", "input": text or uuid.uuid4().hex, "options": options}


@dataclass
class Stage:
    """`readings` are kept by scenario and client: each scenario is played once, for all."""

    plateau: Serving
    wires: Wires
    folder: Path
    clients: Sequence[Client]
    readings: dict[tuple[str, str], Reading] = field(default_factory=dict)
    played: set[Callable[[Stage], None]] = field(default_factory=set)

    @contextmanager
    def gate(self) -> Iterator[Path]:
        """A file that is not there, and is when the block ends: no run stays for ever."""
        path = self.folder / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.touch()

    def ask(self, body: Body, **headers: str) -> dict[str, Any]:
        response = httpx.post(
            f"{self.plateau.url}/v1/runs", json=body, headers=headers, timeout=30
        )
        assert response.status_code in (200, 202), response.text
        answer: dict[str, Any] = response.json()
        return answer

    def finish(self, body: Body) -> dict[str, Any]:
        answer = self.ask(body, Prefer="wait=20")
        assert answer["status"] == "completed", answer
        return answer

    @contextmanager
    def reads(
        self,
        scenario: str,
        mode: str,
        asking: Callable[[Client], Sequence[str]],
        *,
        who: Iterable[Client] | None = None,
        cutting: bool = False,
    ) -> Iterator[list[Reading]]:
        """The clients at once, each with what `asking` gives for it: a path and more. At the
        end of the block they are given time to end by themselves."""
        readings: list[Reading] = []
        try:
            for client in self.clients if who is None else who:
                wire = self.wires.open(cut_after=client.cut_after if cutting else b"")
                reading = start(client, wire, self.folder, mode, *asking(client))
                readings.append(reading)
                self.readings[scenario, client.name] = reading
            yield readings
            await_all(readings, lambda reading: reading.is_over)
        finally:
            for reading in readings:
                reading.end()

    def posters(self) -> list[Client]:
        return [client for client in self.clients if client.posts]

    def recorded(self, run_id: str) -> Events:
        """The tape, as it stands in a run's stream once it has ended."""

        def entries() -> Events:
            with Redis.from_url(self.plateau.streams_url, protocol=2) as redis:
                found = redis.xrange(keys.run(run_id).events)
            tag = ids.tag_of(run_id)
            return [(f"{tag}-{at.decode()}", json.loads(entry[b"e"])) for at, entry in found]

        wait_until(lambda: entries()[-1:] and _is_end(entries()[-1][1]), "the run has ended")
        return entries()

    def answered(self, path: str) -> Events:
        """What a hit is answered, from its bytes: it is in no stream."""
        events = EventReader()
        content = httpx.get(self.plateau.url + path).content
        messages = [*events.feed(content), *events.finish()]
        return [(message.id or "", json.loads(message.data)) for message in messages]


def _is_end(event: dict[str, Any]) -> bool:
    return event["type"] in ("run.completed", "run.failed", "run.cancelled")


def run_of(reading: Reading) -> str:
    """The run that it was told of; empty where it was told of none. What else it was told may
    be no JSON: that is its own cell's fault."""
    for told in reading.told:
        if found := STARTED.match(told["data"]):
            return found[1]
    return ""


def await_all(readings: Iterable[Reading], condition: Callable[[Reading], bool]) -> None:
    """Wait until it is so for each that still runs. Who is left behind is not waited for any
    more, and fails alone."""
    try:
        wait_until(
            lambda: all(reading.is_over or condition(reading) for reading in readings),
            "all clients have come so far",
            timeout_s=PATIENCE_S,
        )
    except AssertionError:
        for reading in readings:
            if not reading.is_over and not condition(reading):
                reading.process.kill()
                reading.process.wait(10)
