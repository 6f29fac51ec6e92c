"""The agents of a chaos run.

Invariant: what they say is a function of input and options, so that every attempt says it.
"""

from __future__ import annotations

import asyncio
import ctypes
import random
from collections.abc import AsyncIterator

from plateau_sse.agents import (
    Progress,
    Reasoning,
    Run,
    Source,
    Step,
    ToolCall,
    ToolError,
    ToolResult,
    Usage,
    Yielded,
)

WORDS = "stream plateau memory event reader naïve 雪 🌊 resume worker".split()
STORY, HOLDER, OTHER = "story", "holder", "other"
# Longer than anybody waits.
HOLDS_S = 600
PROGRESS_EVERY, TOOL_EVERY, THOUGHT_EVERY, STEP_EVERY = 20, 25, 9, 40


def pieces_of(text: str, count: int, width: int) -> list[str]:
    """The pieces of the answer to `text`, of about `width` characters, a word at least."""
    chosen = random.Random(text)
    pieces = []
    for index in range(count):
        word = f"{chosen.choice(WORDS)}{index} "
        pieces.append(word * max(1, width // len(word)))
    return pieces


async def story(run: Run) -> AsyncIterator[Yielded]:
    """`count` pieces of `width` characters, `pause_ms` apart, with progress, tools, thoughts
    and sources between."""
    count = int(run.options["count"])
    for index, piece in enumerate(pieces_of(run.input, count, int(run.options["width"]))):
        if index % PROGRESS_EVERY == 0:
            steps = -(-count // PROGRESS_EVERY)
            yield Progress(index // PROGRESS_EVERY + 1, steps, f"from piece {index}")
        if index % TOOL_EVERY == 0:
            yield ToolCall(f"call-{index}", "look", {"at": index})
            yield ToolResult(f"call-{index}", f"found {index}")
            yield Source(f"source-{index}", url=f"https://a.example/{index}")
        if index % THOUGHT_EVERY == 0:
            yield Reasoning(f"On {index}: ")
            yield Reasoning(piece)
        if index % STEP_EVERY == STEP_EVERY - 1:
            yield ToolError(f"call-{index}", "broke")
            yield Step(f"from piece {index}")
        yield piece
        await asyncio.sleep(int(run.options["pause_ms"]) / 1000)
    yield Usage(1, count)


async def holder(run: Run) -> AsyncIterator[Yielded]:
    """What `story` says; its first attempt holds its process up instead, for good."""
    if run.attempt == 1:
        # Called without letting go of the lock.
        ctypes.PyDLL(None).sleep(HOLDS_S)
    async for item in story(run):
        yield item
