"""How full the streams instance is.

Invariant: its bound is the smaller of STREAM_MAX_MEMORY and the server's own `maxmemory`; new
runs stop before it, so that those that are running end well. A server that may not be asked is
taken for one that has room: what it refuses is still told as full. A cluster is as full as the
fullest of its primaries, each of which has that bound.
"""

from __future__ import annotations

import logging
import time
from operator import truediv
from typing import Any

from redis.asyncio import Redis

from plateau_sse.errors import StoreError, StoreUnavailable
from plateau_sse.store.redis.connections import servers_of, store_errors

# Records then live a tenth as long: room comes back within a minute.
TIGHT = 0.5
# New runs are refused from here on.
CLOSED = 0.85
# Of a question of a megabyte from here on: a few of them would take what small ones live on.
CLOSED_TO_LARGE = 0.5
LARGE_BYTES = 1024**2
FRESH_S = 1.0
# Where it may not be asked.
CLOSED_S = 60.0

log = logging.getLogger("plateau.store")


def closed_at(size: int) -> float:
    """The share of the bound from which on a question of so many bytes is refused."""
    return CLOSED - (CLOSED - CLOSED_TO_LARGE) * min(1.0, size / LARGE_BYTES)


class Fullness:
    """One a process; asks the server at most once a second."""

    def __init__(self, redis: Redis, bound: int) -> None:
        self._redis: Any = redis
        self._ours = self._bound = bound
        self._share = 0.0
        self._ask_at = float("-inf")
        self._is_closed = False

    @property
    def knows(self) -> bool:
        """Without asking."""
        return time.monotonic() < self._ask_at

    def forget(self) -> None:
        """It may be otherwise by now."""
        self._ask_at = float("-inf")

    async def share(self) -> float:
        """Used memory over the bound: 0 is empty, 1 is full."""
        await self._ask()
        return self._share

    async def bound(self) -> int:
        """Bytes that the instance may take, in a cluster all of its primaries together."""
        await self._ask()
        return self._bound

    async def _ask(self) -> None:
        if self.knows:
            return
        self._ask_at = time.monotonic() + FRESH_S
        try:
            with store_errors():
                servers = await servers_of(self._redis)
                infos = [await server.info("memory") for server in servers]
        except StoreUnavailable:
            raise
        except StoreError as error:
            self._ask_at = time.monotonic() + CLOSED_S
            if not self._is_closed:
                log.warning("how full the streams instance is cannot be known: %s", error)
            self._is_closed = True
            return
        self._is_closed = False
        used = [int(info["used_memory"]) for info in infos]
        owns = [int(info.get("maxmemory") or 0) for info in infos]
        bounds = [min(self._ours, own) if own else self._ours for own in owns]
        self._share = max(map(truediv, used, bounds))
        self._bound = sum(bounds)
