"""Agents that do the same at every call, for tests that look at what is made of them.

Tests copy this file to where the service runs and name its functions in AGENTS. The option
`gate` is a path: an agent that is given one goes on only when that file exists, so a test
decides how long a run is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from plateau_sse.agents import (
    AgentError,
    Output,
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


def _may_pass(run: Run) -> bool:
    return "gate" not in run.options or Path(run.options["gate"]).exists()


def _note(run: Run, left: str) -> None:
    if "left" in run.options:
        Path(run.options["left"]).write_text(left)


async def _gate(run: Run) -> None:
    # A file is what a test in another process can open.
    while not _may_pass(run):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def echo(run: Run) -> AsyncIterator[Yielded]:
    yield "You said: "
    yield run.input
    yield Usage(len(run.messages), 2)


async def slow(run: Run) -> AsyncIterator[Yielded]:
    """Half, then the gate, then the rest; `left` names a file that tells how it was left."""
    left = "cancelled"
    try:
        yield Progress(1, 2, "half", "slow")
        yield f"before {run.input}"
        await _gate(run)
        yield " after"
        left = "finished"
    finally:
        _note(run, left)


async def failing(run: Run) -> AsyncIterator[Yielded]:
    yield "so far"
    raise ValueError(f"secret detail of {run.input}")


async def refusing(run: Run) -> AsyncIterator[Yielded]:
    yield "no"
    raise AgentError("invalid_options", "Not like this.", retryable=True)


def sync(run: Run) -> Iterator[Yielded]:
    yield "from "
    yield f"a thread: {run.input}"


async def rich(run: Run) -> AsyncIterator[Yielded]:
    """Thoughts and text in turns, with what happened between."""
    yield Reasoning("Hm. ")
    yield ToolCall("c1", "search", {"query": run.input})
    yield ToolError("c1", "nothing there")
    yield Reasoning("Then from memory: é雪🏔")
    yield f"It is {run.input}. "
    yield Source("s1", url="https://x.test/", title="X")
    yield Step("second")
    yield "né雪🏔 and that is all."
    yield Usage(7, 3, 2, 1, model="m-1")


async def tools(run: Run) -> AsyncIterator[Yielded]:
    yield ToolCall("c1", "search", {"query": run.input})
    yield ToolResult("c1", ["found"])
    yield "It is there."
    yield Usage(7, 3)


async def output(run: Run) -> AsyncIterator[Yielded]:
    yield "thinking"
    yield Output(f"The answer to {run.input}.")


async def big(run: Run) -> AsyncIterator[Yielded]:
    """`steps` progress events, each with a word, then the gate, then as many again."""
    steps = int(run.options.get("steps", 90))
    for step in range(2 * steps):
        if step == steps:
            await _gate(run)
        yield Progress(step + 1, 2 * steps, f"step {step + 1}")
        yield f"word{step + 1} "


async def large(run: Run) -> AsyncIterator[Yielded]:
    """More than an answer may have."""
    for _ in range(300):
        yield "x" * 1024
