"""Runs of one agent `openai`, one after the other, against a model in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, cast

import uvloop

from plateau_sse.agents import AgentError, Message, Run, Yielded
from plateau_sse.agents.openai import make_openai
from plateau_sse.settings import Settings
from tests.raw_model import RawModel, sized, stream_of

FIRST = stream_of("first")
POISON = sized(stream_of("poison"))
WITHIN_S = 20

# The loop of the runner, and that of `plateau ask --local`.
LOOPS = [uvloop.new_event_loop, asyncio.new_event_loop]


def agent_of(url: str, *, retries: int = 0, **settings: Any) -> Any:
    """The agent of an endpoint that is asked once, if nothing else is said, and is not waited
    for for long."""
    values = {"openai_model": "m", "openai_silence_s": 5, "run_timeout_s": 10, **settings}
    return make_openai(Settings(openai_base_url=url, **values), retries=retries)


async def ask(agent: Any, messages: Sequence[Message] = (Message("user", "Hi"),)) -> str:
    """What it says, or the code that it fails with."""
    run = Run("r1", "openai", "Hi", messages, {})
    parts = cast("AsyncGenerator[Yielded, None]", agent(run))
    try:
        return "".join([part async for part in parts if isinstance(part, str)])
    except AgentError as error:
        return error.code


def in_turn(model: RawModel, loop: Callable[[], Any]) -> list[str]:
    """What two runs of one agent are told; between them the script goes on."""
    agent = agent_of(model.base_url)

    async def main() -> list[str]:
        async with asyncio.timeout(WITHIN_S):
            first = await ask(agent)
            model.go.set()
            await asyncio.to_thread(model.said.wait, WITHIN_S)
            return [first, await ask(agent)]

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main())
