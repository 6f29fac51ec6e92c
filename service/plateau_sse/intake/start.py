"""The first moments of a start, in which the runner is still on its way.

Invariant: who asks then waits for it and is not refused; later nobody waits for a runner. What
the store is asked meanwhile does not grow with those who wait.
"""

from __future__ import annotations

import asyncio
import time

from plateau_sse import tasks
from plateau_sse.intake.door import Door
from plateau_sse.store.queue.announcements import Announcements
from plateau_sse.store.redis.patience import retrieved

# From a web worker's own beginning: its runner imports the agents meanwhile.
STARTS_WITHIN_S = 10.0
LOOK_AGAIN_S = 0.1


class Start:
    """One a worker."""

    def __init__(
        self, door: Door, announcements: Announcements, within_s: float = STARTS_WITHIN_S
    ) -> None:
        self._door = door
        self._announcements = announcements
        self._until = time.monotonic() + within_s
        # One for all who wait, also where it fails.
        self._looking: asyncio.Task[bool] | None = None

    async def runner_has_come(self) -> bool:
        """True once there is one that says what it has, False where the time is over. Raises
        StoreError."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(retrieved)
        return await tasks.shared(self._looking)

    async def _look(self) -> bool:
        try:
            while time.monotonic() < self._until:
                self._door.forget()
                if (await self._door.look()).runners and await self._announcements.versions():
                    return True
                await asyncio.sleep(LOOK_AGAIN_S)
            return False
        finally:
            self._looking = None

    async def close(self) -> None:
        if self._looking is not None:
            await tasks.end(self._looking)
