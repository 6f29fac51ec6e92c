"""An agent that is at it for some ten seconds, in pieces that are numbered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from plateau_sse.agents import Reasoning, Run, ToolCall, ToolResult, Yielded

PIECES, PAUSE_S = 200, 0.05
THOUGHTS = tuple(f"thought {n}; " for n in range(10))
TEXT = "".join(f"piece {n} 🌊, " for n in range(PIECES))


async def paced(run: Run) -> AsyncIterator[Yielded]:
    for thought in THOUGHTS:
        yield Reasoning(thought)
    yield ToolCall("c1", "look", {"at": 1})
    yield ToolResult("c1", "seen")
    for number in range(PIECES):
        await asyncio.sleep(PAUSE_S)
        yield f"piece {number} 🌊, "
