"""Ending tasks for certain, and waiting for one that others wait for, too.

Invariant: when `end` returns the task is done, whatever swallowed its cancellation: on Python
3.11 `asyncio.wait_for` does where its inner future is done already, and redis-py sends with it.
Who waits for a task that another ended is not taken for one that was ended itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar

from plateau_sse.errors import StoreUnavailable

T = TypeVar("T")

AGAIN_S = 0.2
# Who has much to do without waiting for anything lets others have their turn after so long.
TURN_S = 0.02


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel until done; what they raised is for whoever awaits them."""
    pending: Iterable[asyncio.Task[Any]] = [task for task in tasks if not task.done()]
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            # Retrieved, so that it is not reported as lost.
            task.exception()


async def shared(task: asyncio.Task[T]) -> T:
    """What a task gives that goes on where one of those who wait for it goes. Raises what it
    raises, and StoreUnavailable where it was cancelled: by whoever closes what it asks."""
    await asyncio.wait({task})
    if task.cancelled():
        raise StoreUnavailable("this process closes its connections")
    return task.result()
