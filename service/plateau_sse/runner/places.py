"""Places in which runs are executed: so many at once, and of a conversation that its agent
remembers one after the other.

Invariant: a run that waits for a place is kept alive by empty appends, and keeps nobody else's
place; one that is to be cancelled, or has no time left, needs none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial

from plateau_sse.errors import StoreError
from plateau_sse.runner.execution import Execution
from plateau_sse.runner.writer import Refused, insist
from plateau_sse.store.conversations.lines import Lines
from plateau_sse.store.runs.streams import Claimed, Streams

log = logging.getLogger("plateau.runner")

# How soon a run that waits for a place notices that it is to be cancelled.
KEEP_ALIVE_S = 1.0
# How soon one notices that the run before it in its conversation has ended.
LOOK_AGAIN_S = 0.2


class Places:
    """Those of one runner, `most` of them."""

    def __init__(self, most: int, streams: Streams, lines: Lines) -> None:
        self._free = asyncio.Semaphore(most)
        self._streams = streams
        self._lines = lines
        # Those that wait for the run before them in their conversation.
        self.waiting: set[str] = set()

    @asynccontextmanager
    async def one(self, execution: Execution, claimed: Claimed) -> AsyncGenerator[None]:
        """Wait for one. Raises Refused, and StoreError."""
        is_placed = await self._wait(execution, claimed)
        try:
            yield
        finally:
            if is_placed:
                self._free.release()
            if execution.memory_place and execution.last is not None:
                # Should this fail: those behind it see that it has ended.
                with suppress(StoreError):
                    await self._lines.leave(execution.memory_place, execution.run_id)

    async def _wait(self, execution: Execution, claimed: Claimed) -> bool:
        kept_at = time.monotonic()
        while not execution.is_decided:
            if await self._is_next(execution):
                with suppress(TimeoutError):
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        return await self._free.acquire()
            else:
                self.waiting.add(execution.run_id)
                try:
                    await asyncio.sleep(LOOK_AGAIN_S)
                finally:
                    self.waiting.discard(execution.run_id)
            if time.monotonic() - kept_at >= KEEP_ALIVE_S:
                await self._keep_alive(execution.run_id, claimed.attempt)
                kept_at = time.monotonic()
        return False

    async def _is_next(self, execution: Execution) -> bool:
        if not execution.memory_place:
            return True
        ahead = partial(self._lines.ahead, execution.memory_place, execution.run_id)
        return await insist(ahead) == 0

    async def _keep_alive(self, run_id: str, attempt: int) -> None:
        code = (await insist(partial(self._streams.append, run_id, attempt, []))).code
        if code != "ok":
            raise Refused(code)
