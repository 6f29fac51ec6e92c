"""pydantic-ai's agent over chat.completions, as its users write it. What it has is written as
JSON."""

import asyncio
import json
import sys

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.messages import TextPart, ThinkingPart, ToolCallPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

asked = json.loads(sys.argv[1])
client = AsyncOpenAI(
    base_url=f"{asked['url']}/v1", api_key=asked["key"], max_retries=0, timeout=30
)
model = OpenAIChatModel(asked["model"], provider=OpenAIProvider(openai_client=client))
agent = Agent(model, model_settings={"extra_body": asked["body"]})
told = {"text": "", "thoughts": "", "calls": [], "finish": "", "usage": None, "error": ""}

if asked["mode"] == "tools":

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather in a city."""
        return f"cold in {city}"


def take(messages):
    for message in messages:
        if message.kind != "response":
            continue
        told["finish"] = message.finish_reason
        for part in message.parts:
            if isinstance(part, TextPart):
                told["text"] += part.content
            elif isinstance(part, ThinkingPart):
                told["thoughts"] += part.content
            elif isinstance(part, ToolCallPart):
                told["calls"].append([part.tool_name, part.args_as_dict()])


async def main():
    try:
        if asked["mode"] == "streamed":
            async with agent.run_stream(asked["text"]) as result:
                async for _ in result.stream_text(delta=True, debounce_by=None):
                    continue
        else:
            result = await agent.run(asked["text"])
        take(result.new_messages())
        usage = result.usage() if callable(result.usage) else result.usage
        told["usage"] = usage.output_tokens
    except Exception as error:
        told["error"] = f"{type(error).__name__}: {error}"


asyncio.run(main())
sys.stdout.write(json.dumps(told))
