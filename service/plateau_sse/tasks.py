"""Ending tasks for certain.

Invariant: when `end` returns the task is done, whatever swallowed its cancellation: on Python
3.11 `asyncio.wait_for` does where its inner future is done already, and redis-py sends with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_S = 0.2


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
