"""What a web worker sees of everything, and remembers of the last minute.

Invariant: what is remembered is bounded, and whoever asks within `FRESH_S` of another, or while
one looks, is given the same: how many look costs nothing. What could not be seen was not 0: it
is compared with nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from redis.asyncio import Redis

from plateau_sse import tasks
from plateau_sse.errors import StoreError
from plateau_sse.ops.canary import Canary
from plateau_sse.store.figures.stats import Stats, summed
from plateau_sse.store.figures.tally import DIALECTS
from plateau_sse.store.figures.workers import REPORT_S, Figures, Workers
from plateau_sse.store.queue.line import parts_of
from plateau_sse.store.queue.queue import Depth, Queue
from plateau_sse.store.redis import servers

log = logging.getLogger("plateau.ops")

FRESH_S = 1.0
# For a runner, at most.
SETTLES_S = 60.0
# In a rolling deploy the one that comes and the one that leaves are there side by side.
OVERLAP_S = 10.0
WINDOW_S = 60.0
# A server that takes longer is as good as down for whoever looks.
CHECK_S = 2.0


ByHost = dict[str, dict[str, int]]
# Of agents, of each version its runners.
Apart = dict[str, dict[str, list[str]]]
# What the streams server says beside its own figures: the queue, the counters by host, the
# processes, lines by runner, failures with codes of agents' own.
_Rest = tuple[Depth | None, ByHost, list[Figures], dict[str, list[str]], dict[str, int]]


class Readers(Protocol):
    """What is asked of the hub."""

    @property
    def connected(self) -> bool: ...
    @property
    def followed(self) -> int: ...
    @property
    def readers(self) -> int: ...
    @property
    def readers_by_dialect(self) -> Counter[str]: ...
    @property
    def oldest_s(self) -> float: ...
    @property
    def draining(self) -> bool: ...


class Heavy(Protocol):
    """Of a worker's memory: its bound, and whether it is beyond that."""

    @property
    def most(self) -> int: ...
    @property
    def is_too_much(self) -> bool: ...


class Room(Protocol):
    """What is asked of the guard: connections that are open, and that may be."""

    @property
    def open(self) -> int: ...
    @property
    def most(self) -> int: ...
    @property
    def weight(self) -> Heavy: ...


class Sample(NamedTuple):
    """What only grows, at one time (of the monotonic clock): the counters of all hosts, and the
    servers' own of those that answered."""

    at: float
    counts: Counter[str]
    servers: dict[str, int]


class Seen(NamedTuple):
    """Everything as it is at one time (of the monotonic clock). A server that does not answer
    is the reason why, in words; where the streams do not, depth is None and the rest empty."""

    at: float
    streams: dict[str, Any] | str
    cache: dict[str, Any] | str | None
    depth: Depth | None
    by_host: ByHost
    workers: list[Figures]
    # What was counted in the last minute, and in how many seconds.
    lately: Counter[str]
    lately_s: float
    # Agents of which living runners have had different versions for `OVERLAP_S`.
    apart: Apart
    # How often runs failed with codes that are agents' own.
    own_failures: Mapping[str, int] = MappingProxyType({})


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
        room: Room | None = None,
    ) -> None:
        self._streams = streams
        self._cache = cache
        self._queue = queue
        self._workers = workers
        self._stats = stats
        self._hub = hub
        self._canary = canary
        self._room = room
        self._samples: deque[Sample] = deque(maxlen=int(WINDOW_S / REPORT_S) + 1)
        self._looking: asyncio.Task[Seen] | None = None
        self._host = socket.gethostname()
        self._said_at = float("-inf")
        self._began_at = float("-inf")
        # Until then those who begin together with this process may still be on their way:
        # nobody is given a look that was taken without them.
        self._settled_by = self._since = float("-inf")
        # Since when runners have disagreed about which agent.
        self._apart_since: dict[str, float] = {}
        # Those who are sent a picture every few seconds.
        self.feeds: set[object] = set()

    async def keep_watching(self, remember: Callable[[Seen], None]) -> None:
        """Remember the last minute, for ever; `remember` is given each look, for longer."""
        self._since = time.monotonic()
        self._settled_by = self._since + SETTLES_S
        while True:
            try:
                seen = await self.look()
                remember(seen)
                if seen.depth is not None:
                    self._samples.append(_sample(seen))
                    self._say(seen)
            except Exception:
                log.exception("what is seen cannot be remembered")
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
        """As it was less than `within_s` ago, else as it is now; who comes while one looks
        waits for that one, where it has not begun too early."""
        asked_at = time.monotonic()
        if asked_at < self._settled_by:
            within_s = 0.0
        while self._looking is None or self._began_at < asked_at - within_s:
            if self._looking is not None and not self._looking.done():
                await asyncio.wait({self._looking})
            else:
                self._began_at = time.monotonic()
                self._looking = asyncio.create_task(self._look())
        return await tasks.shared(self._looking)

    async def _look(self) -> Seen:
        at = self._began_at
        streams, cache, (depth, by_host, workers, serving, own) = await asyncio.gather(
            _checked(self._streams),
            _checked(self._cache) if self._cache is not None else _nothing(),
            self._rest(),
        )
        apart = self._apart(serving, at)
        seen = Seen(at, streams, cache, depth, by_host, workers, Counter(), 0.0, apart, own)
        if depth is not None and depth.runners and at - self._since >= FRESH_S:
            self._settled_by = at
        # While the store is away nothing is remembered: what is left may be older.
        known = (sample for sample in self._samples if at - sample.at < WINDOW_S + REPORT_S)
        first = next(known, None)
        if depth is None or first is None:
            return seen
        return seen._replace(lately=_grown(first, _sample(seen)), lately_s=at - first.at)

    def _apart(self, serving: Mapping[str, list[str]], at: float) -> Apart:
        found = versions_apart(serving)
        self._apart_since = {agent: self._apart_since.get(agent, at) for agent in found}
        return {
            agent: versions
            for agent, versions in found.items()
            if at - self._apart_since[agent] >= OVERLAP_S
        }

    async def _rest(self) -> _Rest:
        try:
            async with asyncio.timeout(CHECK_S):
                return (
                    await self._queue.depth(),
                    await self._stats.by_host(),
                    await self._workers.all(),
                    await self._queue.serving(),
                    await self._stats.own_failures(),
                )
        except (StoreError, TimeoutError):
            return None, {}, [], {}, {}

    def figures(self) -> Figures:
        """What only a web worker knows."""
        canary, room, readers = self._canary, self._room, self._hub.readers_by_dialect
        return {
            "open": self._hub.readers,
            **{f"open_{dialect}": readers[dialect] for dialect in DIALECTS},
            "followed": self._hub.followed,
            "oldest_s": round(self._hub.oldest_s),
            "connections": room.open if room else 0,
            "connections_most": room.most if room else 0,
            "heavy": int(room.weight.is_too_much) if room else 0,
            "memory_most": room.weight.most if room else 0,
            "connected": int(self._hub.connected),
            "leaving": int(self._hub.draining),
            "deaf": int(canary.deaf),
            "lag_ms": -1 if canary.lag_ms is None else round(canary.lag_ms, 2),
        }

    def urgent(self) -> tuple[bool, bool, bool]:
        """What others are to learn at once."""
        return self._hub.connected, self._canary.deaf, self._hub.draining


def versions_apart(serving: Mapping[str, list[str]]) -> Apart:
    """Of each agent that has several; runners by their names, with their lines."""
    found: Apart = {}
    for runner in sorted(serving):
        for agent, version in map(parts_of, serving[runner]):
            found.setdefault(agent, {}).setdefault(version, []).append(runner)
    return {agent: versions for agent, versions in found.items() if len(versions) > 1}


def _sample(seen: Seen) -> Sample:
    servers = {
        f"{role}_{name}": int(server[name] or 0)
        for role, server in (("streams", seen.streams), ("cache", seen.cache))
        if isinstance(server, dict)
        for name in ("evicted_keys", "evicted_clients")
    }
    return Sample(seen.at, summed(seen.by_host), servers)


def _grown(first: Sample, now: Sample) -> Counter[str]:
    """What began anew meanwhile has nothing to be compared with."""
    grown = Counter({name: n - first.counts[name] for name, n in now.counts.items()})
    grown.update(
        {
            name: n - first.servers[name]
            for name, n in now.servers.items()
            if name in first.servers
        }
    )
    return +grown


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
