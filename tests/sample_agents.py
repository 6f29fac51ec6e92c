"""Agents that tests run for real: what they say is a function of what they are asked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

from plateau_sse.agents import (
    Progress,
    Reasoning,
    Run,
    Source,
    ToolCall,
    ToolDelta,
    ToolError,
    ToolResult,
    Usage,
    Yielded,
)

WORDS = "stream plateau memory event reader naïve 雪 🌊 resume worker".split()


def words_of(seed: str, count: int) -> list[str]:
    chosen = random.Random(seed)
    return [f"{chosen.choice(WORDS)}{i} " for i in range(count)]


async def words(run: Run) -> AsyncIterator[Yielded]:
    """`count` words, `pause_ms` apart, the same for the same input; before word `hold_at` it
    waits until the file `gate` is there."""
    count = int(run.options.get("count", 60))
    gate = Path(run.options.get("gate", "/"))
    pause_s = float(run.options.get("pause_ms", 30)) / 1000
    for i, word in enumerate(words_of(run.input, count)):
        if i % 20 == 0:
            yield Progress(i // 20 + 1, -(-count // 20), f"from word {i}")
        while i == run.options.get("hold_at") and not gate.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.02)
        yield word
        await asyncio.sleep(pause_s)
    yield Usage(1, count)


TABLE = """## Where to moor

Both basins take **visiting boats**; see the [harbour's page](https://harbour.example/berths).

| basin | depth | berths |
|---|---|---|
| North | 4.2 m | 36 |
| South | 2.8 m | 112 |

- Call ahead.
"""


async def harbour(run: Run) -> AsyncIterator[Yielded]:
    """Thinks, uses two tools of which one fails, names a source, and answers with a table; it
    takes `pause_ms` a word."""
    pause_s = float(run.options.get("pause_ms", 80)) / 1000
    yield Progress(1, 2, "looking")
    for word in "They ask where to moor : the **berths** first , then the weather .".split():
        yield Reasoning(f"{word} ")
        await asyncio.sleep(pause_s)
    yield ToolDelta("c1", "find_berths", '{"place": "har')
    yield ToolCall("c1", "find_berths", {"place": "harbour"})
    yield ToolCall("c2", "weather", '{"place":"harbour"}')
    yield ToolResult("c1", [{"basin": "North", "berths": 36}])
    yield ToolError("c2", "the station is silent")
    yield Source("s1", url="https://harbour.example/berths", title="Berths and fees")
    yield Progress(2, 2, "answering")
    for at in range(0, len(TABLE), 5):
        yield TABLE[at : at + 5]
        await asyncio.sleep(pause_s)
    yield Usage(12, 34, model="harbour-1")
