"""Agents of the Agents SDK that the tests host: `chat_…` and `responses_…` of each.

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

from agents import (
    Agent,
    GuardrailFunctionOutput,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunContextWrapper,
    function_tool,
    input_guardrail,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

from plateau_sse.agents import hosted
from plateau_sse.agents.memory import Session

set_tracing_disabled(True)

URL = os.environ.get("MODEL_URL", "http://127.0.0.1:9/v1")
WHOSE: ContextVar[str] = ContextVar("whose", default="")


@dataclass
class Deps:
    city: str


class City(BaseModel):
    name: str
    population: int


CLIENT = AsyncOpenAI(base_url=URL, api_key="sk-very-secret", max_retries=0, timeout=30)
CHAT = OpenAIChatCompletionsModel("m1", CLIENT)
RESPONSES = OpenAIResponsesModel("m1", CLIENT)


@function_tool
async def weather(context: RunContextWrapper[Deps], city: str) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"city": city, "for": context.context.city}


@function_tool
def breaks(city: str) -> str:
    raise ValueError(f"no {city} in sk-very-secret")


@function_tool
async def whose(name: str) -> str:
    WHOSE.set(name)
    await asyncio.sleep(0.01)
    return WHOSE.get()


@function_tool
async def wait(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "waited"


@function_tool
def block(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


@function_tool(needs_approval=True)
def delete(path: str) -> str:
    return f"deleted {path}"


@input_guardrail
async def decent(_: Any, __: Any, given: Any) -> GuardrailFunctionOutput:
    said = given if isinstance(given, str) else given[-1]["content"]
    return GuardrailFunctionOutput(None, "indecent" in said)


def helper(model: Any) -> Any:
    """Everything that can be said, by tools whose names say what they do."""
    expert = Agent("expert", instructions="An expert.", model=model)
    spaniard = Agent("spaniard", instructions="Answer in Spanish.", model=model)
    asked = expert.as_tool("ask_expert", "Knows more.")
    tools = [weather, breaks, whose, wait, block, delete, asked]
    return Agent(
        "helper",
        instructions="You are a helper.",
        model=model,
        tools=tools,
        handoffs=[spaniard],
        input_guardrails=[decent],
    )


def _hosted(agent: Any) -> Any:
    return hosted(agent, deps=lambda run: Deps(city=str(run.options.get("city", "Bonn"))))


chat_helper, responses_helper = _hosted(helper(CHAT)), _hosted(helper(RESPONSES))
chat_keeper = hosted(helper(CHAT), deps=Deps("Bonn"), input=Session)
responses_keeper = hosted(helper(RESPONSES), deps=Deps("Bonn"), input=Session)
chat_city = Agent("city", model=CHAT, output_type=City)
responses_city = Agent("city", model=RESPONSES, output_type=City)


strict = Agent("strict", model=CHAT, tools=[delete])


@asynccontextmanager
async def pooled() -> Any:
    """A factory: its client is closed with the runner."""
    async with AsyncOpenAI(base_url=URL, api_key="-", max_retries=0) as client:
        yield Agent("pooled", model=OpenAIChatCompletionsModel("m1", client))
