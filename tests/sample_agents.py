"""Agents that tests run for real: what they say is a function of what they are asked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from plateau_sse.agents import Progress, Run, Usage, Yielded

WORDS = "stream plateau memory event reader naïve 雪 🌊 resume worker".split()


def words_of(seed: str, count: int) -> list[str]:
    chosen = random.Random(seed)
    return [f"{chosen.choice(WORDS)}{i} " for i in range(count)]


async def words(run: Run) -> AsyncIterator[Yielded]:
    """`count` words, `pause_ms` apart, the same for the same input."""
    count = int(run.options.get("count", 60))
    pause_s = float(run.options.get("pause_ms", 30)) / 1000
    for i, word in enumerate(words_of(run.input, count)):
        if i % 20 == 0:
            yield Progress(i // 20 + 1, -(-count // 20), f"from word {i}")
        yield word
        await asyncio.sleep(pause_s)
    yield Usage(1, count)
