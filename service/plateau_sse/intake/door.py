"""The door, which knows how full the queue is without asking each time.

Invariant: who is refused costs the store nothing. What is known is at most `FRESH_S` old; the
script that puts a run into the queue has the last word on those who are let through. What room
this worker makes is known at once.
"""

from __future__ import annotations

import asyncio
import time

from plateau_sse import tasks
from plateau_sse.store.queue.queue import Depth, Queue
from plateau_sse.store.redis.patience import retrieved

FRESH_S = 0.5


class Door:
    """One a worker; `limit` is the number of runs that may wait for the first time."""

    def __init__(self, queue: Queue, limit: int) -> None:
        self.limit = limit
        self._queue = queue
        self._depth = Depth(0, 0, 0)
        self._known_until = float("-inf")
        # One for all who come meanwhile, also where it fails.
        self._asking: asyncio.Task[None] | None = None

    @property
    def knows(self) -> bool:
        """Without asking."""
        return time.monotonic() < self._known_until

    async def look(self) -> Depth:
        """Raises StoreError."""
        if not self.knows:
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask())
                self._asking.add_done_callback(retrieved)
            await tasks.shared(self._asking)
        return self._depth

    async def _ask(self) -> None:
        try:
            self._depth = await self._queue.depth()
            self._known_until = time.monotonic() + FRESH_S
        finally:
            self._asking = None

    async def close(self) -> None:
        if self._asking is not None:
            await tasks.end(self._asking)

    def forget(self) -> None:
        """It may be otherwise by now."""
        self._known_until = float("-inf")
