"""What is asked of these tests' agents.

Their options: `gate` is a path; what comes last is said when that file exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from plateau_sse.agents import (
    AgentError,
    Data,
    File,
    Finish,
    InputRequest,
    Output,
    Progress,
    Reasoning,
    Run,
    Source,
    Step,
    ToolCall,
    ToolDelta,
    ToolError,
    ToolResult,
    Usage,
    Yielded,
)

THOUGHT = "Größe? \u2028 🌊"
WORDS = ("Snow ", "雪 and\n\n", "data: [DONE]\n\n", "👩‍👩‍👧 ", '"quoted" \\ ', "end.")
TEXT = "".join(WORDS)
LONG = "雪 and text. " * 5000
PIXEL = "data:image/png;base64,iVBORw0KGgo="


async def opened(run: Run) -> None:
    gate = run.options.get("gate")
    # A file is what a test in another process can make.
    while gate and not Path(gate).exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.01)


async def told(run: Run) -> AsyncIterator[Yielded]:
    """Everything that there is to tell."""
    yield Progress(1, 2, "thinking")
    yield Reasoning(THOUGHT)
    yield ToolDelta("c1", "search", '{"query"')
    yield ToolCall("c1", "search", {"query": "snow"})
    yield ToolResult("c1", ["found"], preliminary=True)
    yield ToolResult("c1", ["found", {"more": 1}])
    yield ToolCall("c2", "fetch", '{"url": "x"}')
    yield ToolError("c2", "no such page")
    yield Source("s1", url="https://x.test/", title="X")
    yield Source("s2", media_type="application/pdf", title="Y", filename="y.pdf")
    yield Step("answer")
    yield WORDS[0]
    await opened(run)
    for word in WORDS[1:]:
        yield word
    yield File("image/png", PIXEL)
    yield Data("weather", {"at": 1}, id="w")
    yield Usage(7, 3)


async def takes_turns(run: Run) -> AsyncIterator[Yielded]:
    """More entries than a stream keeps: each opening is one of its own."""
    for turn in range(90):
        yield Reasoning(f"thought {turn}. ")
        yield f"word {turn}, "
    await opened(run)
    yield "the end."


async def calls(run: Run) -> AsyncIterator[Yielded]:
    """Asks whoever asked to execute a tool, and then says what came of it."""
    results = [message for message in run.messages if message.role == "tool"]
    if results:
        yield f"It is {results[-1].text}"
        await opened(run)
        yield "."
        return
    yield "Let me see. "
    yield ToolDelta("call-1", "weather", '{"city":')
    yield ToolCall("call-1", "weather", '{"city": "Oslo"}', client=True)
    yield ToolCall("call-2", "weather", {"city": "Rome"}, client=True)
    yield Finish("tool_calls")


async def fails(run: Run) -> AsyncIterator[Yielded]:
    if run.options.get("before"):
        yield "Half an "
        yield ToolCall("c1", "search", {})
    await opened(run)
    code = str(run.options.get("code", "upstream_error"))
    raise AgentError(code, "It broke.", retryable=bool(run.options.get("retryable")))


async def stumbles(run: Run) -> AsyncIterator[Yielded]:
    """Its runner dies with the first attempt."""
    yield f"attempt {run.attempt} "
    if run.attempt == 1:
        await opened(run)
    yield "is over."


async def concludes(run: Run) -> AsyncIterator[Yielded]:
    """Its answer is none of its text."""
    yield Output("What was meant.")


async def narrates(run: Run) -> AsyncIterator[Yielded]:
    """Says what it does, and then what it was asked for: as `output` alone, or as its text."""
    yield "Let me look. "
    yield Step("answer")
    await opened(run)
    if not run.options.get("apart"):
        yield "It is 5."
    yield Output('{"it": 5}' if run.options.get("apart") else "It is 5.")


async def goes_on(run: Run) -> AsyncIterator[Yielded]:
    """More than is pushed at once."""
    yield Reasoning("Long. " * 5000)
    yield LONG[:2]
    await opened(run)
    yield LONG[2:]


async def cut_off(run: Run) -> AsyncIterator[Yielded]:
    yield "As much as "
    yield Finish("length")


async def asks(run: Run) -> AsyncIterator[Yielded]:
    """Needs a person's word, and goes on with it in the next run."""
    if run.resume:
        yield f"So be it: {run.resume[0]['payload']}"
        return
    yield "May I? "
    yield InputRequest("q1", "Book it", "approval")


async def options(run: Run) -> AsyncIterator[Yielded]:
    answered = {"resume": list(run.resume)} if run.resume else {}
    yield repr(sorted({**run.options, **answered}.items()))
    yield repr([message.as_sent() for message in run.messages])
