"""Patience: how long something that can be done without waits for a server.

Invariant: nobody waits longer than that for a command, whatever the library does with its
cancellation, and after silence nobody waits at all for a moment: a server that hangs costs one
patience, not one a caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from plateau_sse.errors import StoreUnavailable

T = TypeVar("T")

PATIENCE_S = 0.5
# After silence nobody asks for so long.
REST_S = 1.0
# A timer that is so late says that the loop was busy, not that the server is silent.
HELD_UP_S = 0.1


async def within(seconds: float, command: Coroutine[Any, Any, T]) -> T:
    """What `command` gives, or StoreUnavailable once it has taken so long. It is cancelled
    then and not waited for: on Python 3.11 redis-py may swallow that, and goes on until its
    own timeout."""
    task, loop = asyncio.create_task(command), asyncio.get_running_loop()
    try:
        for _ in range(2):
            began = loop.time()
            await asyncio.wait({task}, timeout=seconds)
            if task.done() or loop.time() - began < seconds + HELD_UP_S:
                break
            # The loop was held up, and has not heard what was said meanwhile.
    finally:
        if not task.done():
            task.add_done_callback(retrieved)
            task.cancel()
    if not task.done() or task.cancelled():
        raise StoreUnavailable(f"no reply within {seconds:g} s")
    return task.result()


def retrieved(task: asyncio.Task[Any]) -> None:
    """What it raises is nobody's business any more."""
    if not task.cancelled():
        task.exception()


class Rest:
    """Whether a server is left alone just now; one a server and kind of use."""

    def __init__(self) -> None:
        self._until = float("-inf")

    def begin(self) -> None:
        """It was silent."""
        self._until = asyncio.get_running_loop().time() + REST_S

    @contextmanager
    def after_silence(self) -> Iterator[None]:
        """It begins where a command in the block has had no reply."""
        try:
            yield
        except StoreUnavailable:
            self.begin()
            raise

    def check(self) -> None:
        """StoreUnavailable where it was silent a moment ago."""
        if asyncio.get_running_loop().time() < self._until:
            raise StoreUnavailable("it did not answer a moment ago")
