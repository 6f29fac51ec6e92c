"""LangChain's `ChatOpenAI`, as its users write it. What it has is written as JSON."""

import json
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

asked = json.loads(sys.argv[1])
model = ChatOpenAI(
    base_url=f"{asked['url']}/v1",
    api_key=asked["key"],
    model=asked["model"],
    max_retries=0,
    timeout=30,
    extra_body=asked["body"],
    stream_usage=True,
)
told = {"text": "", "calls": [], "finish": "", "usage": None, "error": ""}


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"cold in {city}"


def take(answer):
    told["text"] += answer.text
    told["calls"] += [[call["name"], call["args"]] for call in answer.tool_calls]
    told["finish"] = answer.response_metadata.get("finish_reason", told["finish"])
    if answer.usage_metadata:
        told["usage"] = answer.usage_metadata["output_tokens"]


try:
    if asked["mode"] == "streamed":
        whole = None
        for chunk in model.stream(asked["text"]):
            whole = chunk if whole is None else whole + chunk
        take(whole)
    elif asked["mode"] == "tools":
        messages = [HumanMessage(asked["text"])]
        able = model.bind_tools([weather])
        messages.append(able.invoke(messages))
        take(messages[-1])
        for call in messages[-1].tool_calls:
            messages.append(ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]))
        take(able.invoke(messages))
    else:
        take(model.invoke(asked["text"]))
except Exception as error:
    told["error"] = f"{type(error).__name__}: {error}"
sys.stdout.write(json.dumps(told))
