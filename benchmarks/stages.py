"""What the live path is measured on: Plateau, and peers that do the same.

Invariant: a stage is what its users would run, with two workers and a Redis behind it, and its
readers get the same events: `publish` gives each of these streams one more.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.processes import Serving, serving

from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.streams import Streams

# About what a model says in 30 ms.
TEXT = "some words of an answer "
AT_ONCE = 50


class Stage(Protocol):
    """Opened in a `with` block, which ends whatever it has started."""

    name: str
    port: int
    # What an open response begins with.
    opened_by: bytes

    def web(self) -> list[int]:
        """The processes that hold the sockets."""

    def redis(self) -> list[int]:
        """The Redis that the events go through."""

    async def start(self, count: int) -> list[str]:
        """So many streams: their names."""

    def target(self, stream: str) -> str:
        """The path at which a stream is followed."""

    async def publish(self, streams: Sequence[str]) -> None: ...

    async def close(self) -> None: ...


class PlateauStage:
    name = "plateau"
    opened_by = b"run.started"
    _token = "benchmark"

    def __init__(self, service: Serving) -> None:
        self.port = service.port
        self.service = service
        self._redis: Any = None

    def web(self) -> list[int]:
        return self.service.pids("gunicorn: worker")

    def redis(self) -> list[int]:
        return self.service.pids("[plateau streams]")

    def all_but_redis(self) -> list[int]:
        servers = {*self.redis(), *self.service.pids("[plateau cache]")}
        return [pid for pid in self.service.tree() if pid not in servers]

    def everything(self) -> list[int]:
        return list(self.service.tree())

    @property
    def _streams(self) -> Streams:
        if self._redis is None:
            self._redis = connect(self.service.streams_url, "bench", connections=AT_ONCE)
        return Streams(self._redis, alive_s=600, record_s=600)

    async def start(self, count: int) -> list[str]:
        run_ids = [ids.new_run_id() for _ in range(count)]
        streams = self._streams
        for run_id in run_ids:
            await streams.create(
                run_id, agent="bench", owner="anonymous", token=self._token, request=b"{}"
            )
            await streams.claim(run_id, 1, "bench", events.started(run_id, "bench", 1))
        return run_ids

    def target(self, stream: str) -> str:
        return f"/v1/runs/{stream}/events?token={self._token}"

    async def publish(self, streams: Sequence[str]) -> None:
        batch = [events.delta(TEXT)]
        store = self._streams
        for start in range(0, len(streams), AT_ONCE):
            some = streams[start : start + AT_ONCE]
            await asyncio.gather(*(store.append(run, 1, batch) for run in some))

    async def finish(self, streams: Sequence[str]) -> None:
        """Each of them completes."""
        last = [events.completed(None, cached=False, duration_ms=0)]
        for run in streams:
            await self._streams.append(run, 1, last)

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()
            self._redis = None


@contextmanager
def plateau(env: Mapping[str, str] | None = None) -> Iterator[PlateauStage]:
    """`plateau serve` as it is shipped, with its own servers."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), env=env) as service:
        yield PlateauStage(service)
