"""pydantic-ai's agents that the tests host: `chat_…` and `responses_…` of each.

MODEL_URL is where their model is, a server of tests/hosting/endpoint.py.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, CustomEvent, DeferredToolRequests, RunContext
from pydantic_ai.exceptions import CallDeferred
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets.external import ExternalToolset

from plateau_sse.agents import hosted
from plateau_sse.agents.memory import History

URL = os.environ.get("MODEL_URL", "http://127.0.0.1:9/v1")
WHOSE: ContextVar[str] = ContextVar("whose", default="")


@dataclass
class Deps:
    city: str


class City(BaseModel):
    name: str
    population: int


@dataclass(kw_only=True)
class Measured(CustomEvent):
    degrees: int


def _models() -> tuple[Any, Any]:
    client = AsyncOpenAI(base_url=URL, api_key="sk-very-secret", max_retries=0, timeout=30)
    provider = OpenAIProvider(openai_client=client)
    return OpenAIChatModel("m1", provider=provider), OpenAIResponsesModel(
        "m1", provider=provider
    )


CHAT, RESPONSES = _models()


def helper(model: Any) -> Any:
    """Everything that can be said, by tools whose names say what they do."""
    agent = Agent(
        model,
        name="helper",
        deps_type=Deps,
        output_type=[str, DeferredToolRequests],
        system_prompt="You are a helper.",
        instructions="Be brief.",
        toolsets=[ExternalToolset([ToolDefinition(name="locate")])],
    )
    expert = Agent(model, name="expert")

    @agent.tool
    async def weather(ctx: RunContext[Deps], city: str) -> dict[str, Any]:
        await asyncio.sleep(0)
        await ctx.emit(Measured(degrees=3))
        return {"city": city, "for": ctx.deps.city}

    @agent.tool_plain
    def breaks(city: str) -> str:
        raise ValueError(f"no {city} in sk-very-secret")

    @agent.tool_plain
    async def whose(name: str) -> str:
        WHOSE.set(name)
        await asyncio.sleep(0.01)
        return WHOSE.get()

    @agent.tool_plain
    async def wait(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "waited"

    @agent.tool_plain
    def block(seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    @agent.tool_plain
    async def ask_expert(question: str) -> str:
        return (await expert.run(question)).output

    @agent.tool_plain(requires_approval=True)
    def delete(path: str) -> str:
        return f"deleted {path}"

    @agent.tool_plain
    def ask_user(question: str) -> str:
        raise CallDeferred(kind="question")

    return agent


def _hosted(agent: Any) -> Any:
    return hosted(agent, deps=lambda run: Deps(city=str(run.options.get("city", "Bonn"))))


chat_helper, responses_helper = _hosted(helper(CHAT)), _hosted(helper(RESPONSES))
chat_keeper = hosted(helper(CHAT), deps=Deps("Bonn"), input=History)
responses_keeper = hosted(helper(RESPONSES), deps=Deps("Bonn"), input=History)
chat_city = Agent(CHAT, name="city", output_type=City)
responses_city = Agent(RESPONSES, name="city", output_type=City)


strict = Agent(CHAT)


@strict.tool_plain(requires_approval=True)
def delete(path: str) -> str:
    return f"deleted {path}"


@asynccontextmanager
async def pooled() -> Any:
    """A factory: its client is closed with the runner."""
    async with AsyncOpenAI(base_url=URL, api_key="-", max_retries=0) as client:
        model = OpenAIChatModel("m1", provider=OpenAIProvider(openai_client=client))
        yield Agent(model, name="pooled")
