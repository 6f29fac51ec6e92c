"""Agents that tell what they were given, and count how often they were asked.

Invariant: each bounds itself: a gate that never opens is passed after `GATE_S`. The option
`note` is a path to which each execution adds a line; `gate` one whose file lets it go on.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

from plateau_sse.agents import AgentError, Finish, Run, ToolCall, Yielded

GATE_S = 30


def _note(run: Run) -> None:
    with Path(run.options["note"]).open("a") as note:
        note.write(f"{run.id}\n")


def _may_pass(run: Run, until: float) -> bool:
    gate = Path(run.options.get("gate", run.options["note"]))
    return gate.exists() or time.monotonic() > until


async def counted(run: Run) -> AsyncIterator[Yielded]:
    """Its answer names the execution that gave it; `fail` for a failure instead."""
    _note(run)
    yield "An answer "
    until = time.monotonic() + GATE_S
    while not _may_pass(run, until):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    if run.options.get("fail"):
        raise AgentError("agent_error", "as it was asked to")
    yield f"of {run.id}."


async def context(run: Run) -> AsyncIterator[Yielded]:
    """What it was given, as JSON."""
    yield json.dumps(
        {
            "conversation": run.conversation,
            "messages": [[message.role, message.content] for message in run.messages],
        },
        ensure_ascii=False,
    )


async def ends(run: Run) -> AsyncIterator[Yielded]:
    """For the `reason` that it is given."""
    yield "So far."
    if run.options["reason"] == "tool_calls":
        yield ToolCall("call-1", "weather", {}, client=True)
    yield Finish(run.options["reason"])


async def asked(run: Run) -> AsyncIterator[Yielded]:
    """What it was asked, as JSON."""
    messages = [message.as_sent() for message in run.messages]
    yield json.dumps({"input": run.input, "messages": messages})


async def silent(run: Run) -> AsyncIterator[Yielded]:
    """It fails before it has said anything."""
    for piece in run.options.get("pieces", ()):
        yield piece
    raise AgentError("agent_error", "as it was asked to")


async def parrot(run: Run) -> AsyncIterator[Yielded]:
    """What was said."""
    yield run.input
