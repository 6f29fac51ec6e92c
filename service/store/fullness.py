"""How full the streams instance is.

Invariant: its bound is the smaller of STREAM_MAX_MEMORY and the server's own `maxmemory`; new
runs stop before it, so that those that are running end well.
"""

from __future__ import annotations

import time
from typing import Any

from redis.asyncio import Redis

from service.store.connections import store_errors

# Records then live a tenth as long: room comes back within a minute.
TIGHT = 0.5
# New runs are refused from here on.
CLOSED = 0.85
FRESH_S = 1.0


class Fullness:
    """One a process; asks the server at most once a second."""

    def __init__(self, redis: Redis, bound: int) -> None:
        self._redis: Any = redis
        self._bound = bound
        self._share = 0.0
        self._asked_at = float("-inf")

    async def share(self) -> float:
        """Used memory over the bound: 0 is empty, 1 is full."""
        if time.monotonic() - self._asked_at > FRESH_S:
            self._asked_at = time.monotonic()
            with store_errors():
                info = await self._redis.info("memory")
            own = int(info.get("maxmemory") or 0)
            bound = min(self._bound, own) if own else self._bound
            self._share = int(info["used_memory"]) / bound
        return self._share
