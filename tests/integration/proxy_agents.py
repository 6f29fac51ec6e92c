"""An agent that waits for its reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from service.agents import Run, Yielded


async def steps(run: Run) -> AsyncIterator[Yielded]:
    """`count` words, each when the reader has made a file in `folder` named like the one
    before: what is held back on the way is held back for ever."""
    folder = Path(run.options["folder"])
    for number in range(int(run.options["count"])):
        # A file is what a test in another process can make.
        while number and not (folder / str(number - 1)).exists():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        yield f"{number} "
