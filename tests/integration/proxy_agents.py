"""Agents that wait for their readers: a file is what a test in another process can make."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from plateau_sse.agents import Run, Yielded


async def steps(run: Run) -> AsyncIterator[Yielded]:
    """`count` words, each when the reader has made a file in `folder` named like the one
    before: what is held back on the way is held back for ever."""
    folder = Path(run.options["folder"])
    for number in range(int(run.options["count"])):
        while number and not (folder / str(number - 1)).exists():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        yield f"{number} "


async def until(run: Run) -> AsyncIterator[Yielded]:
    """A word each 50 ms until there is a file named `gate`."""
    number, gate = 0, Path(run.options["gate"])
    while not gate.exists():  # noqa: ASYNC240
        yield f"{number} "
        number += 1
        await asyncio.sleep(0.05)
