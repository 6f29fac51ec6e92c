"""Agents that misbehave, or that tell how they were treated.

Invariant: each bounds itself: none outlives its test by more than a step. The option `note` is
a path; an agent that is given one writes there how it was left, and when.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import Context
from pathlib import Path

from plateau_sse.agents import Run, Yielded


def _note(run: Run, word: str) -> None:
    if "note" in run.options:
        path = Path(run.options["note"])
        # Whole or not at all, for whoever looks.
        path.with_suffix(".part").write_text(f"{word} {time.time()}")
        path.with_suffix(".part").rename(path)


async def ticking(run: Run) -> AsyncIterator[Yielded]:
    """A tick every `pause_ms`, `count` of them; notes how it was left."""
    left = "cancelled"
    try:
        for number in range(int(run.options.get("count", 100))):
            yield f"{number} "
            await asyncio.sleep(float(run.options.get("pause_ms", 50)) / 1000)
        left = "finished"
    finally:
        _note(run, left)


def ticking_in_a_thread(run: Run) -> Iterator[Yielded]:
    """The same as a plain generator."""
    left = "closed"
    try:
        for number in range(int(run.options.get("count", 100))):
            yield f"{number} "
            time.sleep(float(run.options.get("pause_ms", 50)) / 1000)
        left = "finished"
    finally:
        _note(run, left)


def sleepy(run: Run) -> Iterator[Yielded]:
    """Plain, and `sleep_s` between its two words."""
    yield "before "
    time.sleep(float(run.options.get("sleep_s", 15)))
    yield "after"


async def blocking_beside(run: Run) -> AsyncIterator[Yielded]:
    """The same in a task and a context of its own: nobody knows whose it is."""
    yield "before "

    async def hold() -> None:
        await asyncio.sleep(0.2)
        time.sleep(float(run.options.get("sleep_s", 10)))  # noqa: ASYNC251

    await asyncio.create_task(hold(), context=Context())
    yield "after"


async def blocking(run: Run) -> AsyncIterator[Yielded]:
    """Asynchronous, and holds the loop for `sleep_s`, as no agent should."""
    yield "before "
    await asyncio.sleep(0.2)
    time.sleep(float(run.options.get("sleep_s", 10)))  # noqa: ASYNC251
    yield "after"
