"""Is it well: the components, each with its state and the cause.

Invariant: a check asks the component itself, now; nothing is reported well because it once was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol

import psutil
from redis.asyncio import Redis

from service.errors import StoreError
from service.store.connections import store_errors
from service.store.queue import Queue

# A component that takes longer is as good as down for whoever waits.
CHECK_S = 2.0

Component = dict[str, Any]


class Ears(Protocol):
    """What health asks of the hub."""

    draining: bool

    @property
    def connected(self) -> bool: ...


class Health:
    """Checks for one web worker. `cache` is None where the service runs without one."""

    def __init__(self, streams: Redis, cache: Redis | None, queue: Queue, hub: Ears) -> None:
        self._streams = streams
        self._cache = cache
        self._queue = queue
        self._hub = hub

    async def ready(self) -> Component:
        """May it get traffic: the streams instance answers and its messages are heard. Reads
        need no runner, and a cache that is down is a miss."""
        if self._hub.draining:
            return {"status": "down", "cause": "this worker is being replaced"}
        redis = await _checked(_ping(self._streams))
        if redis["status"] == "up" and not self._hub.connected:
            return {"status": "down", "cause": "the subscribing connection is being made"}
        return redis

    async def whole(self) -> dict[str, Any]:
        """Every component, and the worst of what they say."""
        streams, cache, runner = await asyncio.gather(
            self.ready(), self._check_cache(), _checked(self._check_runner())
        )
        components = {"streams": streams, "cache": cache, "runner": runner, "web": _web()}
        if streams["status"] == "down":
            status = "down"
        elif any(part["status"] != "up" for part in components.values()):
            status = "degraded"
        else:
            status = "up"
        return {"status": status, "components": components}

    async def _check_cache(self) -> Component:
        if self._cache is None:
            return {"status": "up", "cause": "not configured: every lookup is a miss"}
        return await _checked(_ping(self._cache))

    async def _check_runner(self) -> Component:
        depth = await self._queue.depth()
        found = {"alive": depth.runners, "waiting": depth.waiting, "running": depth.running}
        if depth.runners == 0:
            cause = "no runner is alive: new runs are refused, cached answers are served"
            return {"status": "down", "cause": cause, **found}
        return {"status": "up", **found}


async def _ping(redis: Redis) -> Component:
    with store_errors():
        await redis.ping()
    return {"status": "up"}


async def _checked(check: Awaitable[Component]) -> Component:
    try:
        async with asyncio.timeout(CHECK_S):
            return await check
    except TimeoutError:
        return {"status": "down", "cause": f"no answer within {CHECK_S:g} s"}
    except StoreError as error:
        return {"status": "down", "cause": str(error)}


def _web() -> Component:
    process = psutil.Process()
    return {"status": "up", "pid": process.pid, "rss_bytes": process.memory_info().rss}
