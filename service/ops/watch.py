"""What a web worker sees of everything, and remembers of the last minute.

Invariant: what is remembered is bounded, and whoever asks within `FRESH_S` of another is given
the same: how many look costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import Counter, deque
from typing import Any, NamedTuple, Protocol

from redis.asyncio import Redis

from service.errors import StoreError
from service.ops.canary import Canary
from service.store import servers
from service.store.queue import Depth, Queue
from service.store.stats import Stats, summed
from service.store.workers import REPORT_S, Figures, Workers

log = logging.getLogger("plateau.ops")

FRESH_S = 1.0
WINDOW_S = 60.0
# A server that takes longer is as good as down for whoever looks.
CHECK_S = 2.0


class Readers(Protocol):
    """What is asked of the hub."""

    @property
    def connected(self) -> bool: ...
    @property
    def followed(self) -> int: ...
    @property
    def readers(self) -> int: ...
    @property
    def oldest_s(self) -> float: ...


class Sample(NamedTuple):
    """What only grows, at one time (of the monotonic clock)."""

    at: float
    counts: Counter[str]


class Seen(NamedTuple):
    """Everything as it is now. A server that does not answer is the reason why, in words."""

    streams: dict[str, Any] | str
    cache: dict[str, Any] | str | None
    depth: Depth | None
    by_host: dict[str, dict[str, int]]
    workers: list[Figures]
    # What was counted in the last minute, and in how many seconds.
    lately: Counter[str]
    lately_s: float


class Watch:
    """One a web worker. `cache` is None where the service runs without one."""

    def __init__(
        self,
        streams: Redis,
        cache: Redis | None,
        queue: Queue,
        workers: Workers,
        stats: Stats,
        hub: Readers,
        canary: Canary,
    ) -> None:
        self._streams = streams
        self._cache = cache
        self._queue = queue
        self._workers = workers
        self._stats = stats
        self._hub = hub
        self._canary = canary
        self._samples: deque[Sample] = deque(maxlen=int(WINDOW_S / REPORT_S) + 1)
        self._looking: asyncio.Task[Seen] | None = None
        self._looked_at = float("-inf")
        self._host = socket.gethostname()
        self._said_at = float("-inf")
        # Pictures that are sent anew every few seconds.
        self.feeds = 0

    async def keep_watching(self) -> None:
        """Remember, for ever."""
        while True:
            try:
                seen = await self.look()
                self._samples.append(Sample(time.monotonic(), _growing(seen)))
                self._say(seen)
            except Exception:
                log.exception("the last minute cannot be remembered")
            await asyncio.sleep(REPORT_S)

    def _say(self, seen: Seen) -> None:
        """Evictions, once a minute and by one worker of the service."""
        web = [(str(one["host"]), one["pid"]) for one in seen.workers if one["role"] == "web"]
        n = seen.lately["cache_evicted_keys"]
        now = time.monotonic()
        if (
            n
            and now - self._said_at >= WINDOW_S
            and web
            and min(web) == (self._host, os.getpid())
        ):
            self._said_at = now
            log.info("%d answers were evicted from the cache in %d s", n, seen.lately_s)

    async def look(self, within_s: float = FRESH_S) -> Seen:
        """Now, or as it was less than `within_s` ago; who comes meanwhile waits along."""
        if self._looking is None or (
            self._looking.done() and time.monotonic() - self._looked_at > within_s
        ):
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> Seen:
        streams, cache, rest = await asyncio.gather(
            _checked(self._streams),
            _checked(self._cache) if self._cache is not None else _nothing(),
            self._rest(),
        )
        self._looked_at = time.monotonic()
        depth, by_host, workers = rest
        seen = Seen(streams, cache, depth, by_host, workers, Counter(), 0.0)
        if not self._samples:
            return seen
        first, now = self._samples[0], _growing(seen)
        # What began anew meanwhile has nothing to be compared with.
        lately = Counter({name: max(0, n - first.counts[name]) for name, n in now.items()})
        return seen._replace(lately=lately, lately_s=self._looked_at - first.at)

    async def _rest(self) -> tuple[Depth | None, dict[str, dict[str, int]], list[Figures]]:
        try:
            async with asyncio.timeout(CHECK_S):
                return (
                    await self._queue.depth(),
                    await self._stats.by_host(),
                    await self._workers.all(),
                )
        except (StoreError, TimeoutError):
            return None, {}, []

    def figures(self) -> Figures:
        """What only a web worker knows."""
        canary = self._canary
        return {
            "open": self._hub.readers,
            "followed": self._hub.followed,
            "oldest_s": round(self._hub.oldest_s),
            "connected": int(self._hub.connected),
            "deaf": int(canary.deaf),
            "lag_ms": -1 if canary.lag_ms is None else round(canary.lag_ms, 2),
        }


def _growing(seen: Seen) -> Counter[str]:
    counts = summed(seen.by_host)
    for name, server in (("streams", seen.streams), ("cache", seen.cache)):
        if isinstance(server, dict):
            for counter in ("evicted_keys", "evicted_clients"):
                counts[f"{name}_{counter}"] = int(server[counter] or 0)
    # Once a tree, though each of its workers says it.
    trees = {(worker["host"], worker.get("master")): worker for worker in seen.workers}
    for worker in trees.values():
        for name, value in worker.items():
            if name.endswith(("_died", "_timed_out", "_recycled")):
                counts[name] += int(value)
    return counts


async def _checked(redis: Redis) -> dict[str, Any] | str:
    try:
        async with asyncio.timeout(CHECK_S):
            return await servers.look(redis)
    except TimeoutError:
        return f"no answer within {CHECK_S:g} s"
    except StoreError as error:
        return str(error)


async def _nothing() -> None:
    return None
