"""How full the streams instance is.

Invariant: its bound is the smaller of STREAM_MAX_MEMORY and the server's own `maxmemory`; new
runs stop before it, so that those that are running end well.
"""

from __future__ import annotations

import time
from typing import Any

from redis.asyncio import Redis

from plateau_sse.store.redis.connections import store_errors

# Records then live a tenth as long: room comes back within a minute.
TIGHT = 0.5
# New runs are refused from here on.
CLOSED = 0.85
FRESH_S = 1.0


class Fullness:
    """One a process; asks the server at most once a second."""

    def __init__(self, redis: Redis, bound: int) -> None:
        self._redis: Any = redis
        self._ours = self._bound = bound
        self._used = 0
        self._asked_at = float("-inf")

    async def share(self) -> float:
        """Used memory over the bound: 0 is empty, 1 is full."""
        await self._ask()
        return self._used / self._bound

    async def bound(self) -> int:
        """Bytes that the instance may take."""
        await self._ask()
        return self._bound

    async def _ask(self) -> None:
        if time.monotonic() - self._asked_at <= FRESH_S:
            return
        self._asked_at = time.monotonic()
        with store_errors():
            info = await self._redis.info("memory")
        self._used = int(info["used_memory"])
        own = int(info.get("maxmemory") or 0)
        self._bound = min(self._ours, own) if own else self._ours
