"""Threads in which plain generators run: one a generator, from its first step to its closing.

Invariant: all of a generator runs in one thread and in one context, its run's own, so that what
is bound to either (a context variable, a connection of sqlite) holds from step to step and goes
to nobody else. A thread cannot be ended: one whose step never ends is left behind, takes no
other's place, and is counted.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from plateau_sse.runner.marks import Mark

DONE = object()
# Who has not ended its step by then, once nobody waits for it, hangs.
HANGS_S = 5.0


class Steps:
    """One generator, a step at a time. It begins in the caller's context."""

    def __init__(self, items: Iterator[Any], mark: Mark) -> None:
        self._items = items
        self._mark = mark
        self._loop = asyncio.get_running_loop()
        self._asked: SimpleQueue[asyncio.Future[Any] | None] = SimpleQueue()
        context = contextvars.copy_context()
        # A daemon: nobody waits for it when the process ends.
        self._thread = threading.Thread(
            target=context.run, args=(self._work,), name="agent", daemon=True
        )
        self._thread.start()
        self.left_at = float("inf")

    async def next(self) -> Any:
        """What it yields next; `DONE` at its end."""
        step = self._loop.create_future()
        self._asked.put(step)
        try:
            return await step
        finally:
            # What it raises remembers this frame, and would be kept by it.
            del step

    def leave(self) -> None:
        """Nothing more is asked of it: it is closed, once it has ended its step."""
        self.left_at = time.monotonic()
        self._asked.put(None)

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (step := self._asked.get()) is not None:
            item, error = DONE, None
            try:
                item = self._mark.call(next, self._items, DONE)
            except BaseException as raised:
                error = raised
            # Where the loop is closed the process is about to end.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_answer, step, item, error)
            # Kept while the next is waited for, they would be kept for long.
            del step, item, error
        close = getattr(self._items, "close", None)
        if close is not None:
            # What it raises last is nobody's business.
            with suppress(BaseException):
                self._mark.call(close)


def _answer(step: asyncio.Future[Any], item: Any, error: BaseException | None) -> None:
    if step.done():
        return
    if error is None:
        step.set_result(item)
    else:
        step.set_exception(error)


class Threads:
    """Those of one runner."""

    def __init__(self) -> None:
        self._left: set[Steps] = set()

    def begin(self, items: Iterator[Any], mark: Mark) -> Steps:
        return Steps(items, mark)

    def leave(self, steps: Steps) -> None:
        steps.leave()
        self._left.add(steps)

    @property
    def hanging(self) -> int:
        """How many have been left in a step that does not end."""
        self._left = {steps for steps in self._left if not steps.has_ended}
        now = time.monotonic()
        return sum(now - steps.left_at >= HANGS_S for steps in self._left)
