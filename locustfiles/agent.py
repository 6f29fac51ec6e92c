"""The load's own agent: an answer in pieces at a steady pace, each with the time of its saying.

    AGENTS="load=locustfiles.agent:load" plateau serve

Invariant: piece n follows piece n-1 and says so, whatever becomes of the ids around it; it is
stamped as it is handed over, and a piece that is late does not make those after it late.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

from plateau_sse.agents import Run, Usage, Yielded

# `<number>@<microseconds since the epoch>`, by the clock of the machine that the agent is on.
STAMP = re.compile(r"(\d+)@(\d{16}) ")
FILLER = "about what a model says in one breath, "


def piece(index: int, now_s: float, width: int) -> str:
    """Of about `width` characters, the stamp at least."""
    stamp = f"{index}@{int(now_s * 1e6):016d} "
    return stamp + (FILLER * (1 + width // len(FILLER)))[: max(0, width - len(stamp))]


def numbers_of(text: str) -> list[int]:
    """Of the pieces in an answer, as they stand in it."""
    return [int(number) for number, _ in STAMP.findall(text)]


async def load(run: Run) -> AsyncIterator[Yielded]:
    """`count` pieces of `width` characters, `pause_ms` apart."""
    count, width = int(run.options.get("count", 20)), int(run.options.get("width", 0))
    pause_s = float(run.options.get("pause_ms", 100)) / 1000
    loop = asyncio.get_running_loop()
    began = loop.time()
    for index in range(count):
        await asyncio.sleep(max(0.0, began + index * pause_s - loop.time()))
        yield piece(index, time.time(), width)
    yield Usage(len(run.input), count)


# What it says does not follow from who asks: an owner's users share its answers.
load.cache_scope = "owner"  # type: ignore[attr-defined]
