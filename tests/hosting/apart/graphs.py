"""LangGraph's graphs, as their users write them."""

import asyncio
import contextvars
import operator
import os
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, TypedDict

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from pydantic import BaseModel

from plateau_sse.agents import Progress, hosted
from plateau_sse.agents.hosting.current import run_of
from plateau_sse.agents.memory import Checkpointer

HERE = contextvars.ContextVar("here", default="nobody")


def model(name, **how):
    return ChatOpenAI(
        base_url=os.environ["MODEL_URL"],
        api_key="sk-secret",
        model=name,
        max_retries=0,
        timeout=60,
        stream_usage=True,
        **how,
    )


@tool
async def weather(city: str) -> str:
    """The weather in a city."""
    return f"cold in {city}"


@tool
def clock(zone: str) -> str:
    """The time in a zone."""
    return f"noon in {zone}"


@tool
async def fail(why: str) -> str:
    """It fails."""
    raise ValueError(f"it failed for {why}")


@tool
async def delete(path: str) -> str:
    """Deletes a file."""
    return f"deleted {path}"


@tool("delete")
async def delete_asking(path: str) -> str:
    """Deletes a file, once it may."""
    return f"deleted {path}" if interrupt(f"May {path} go?") == "yes" else "kept"


@tool
async def wait(seconds: float) -> str:
    """Takes its time."""
    await asyncio.sleep(seconds)
    return "waited"


@tool
def block(seconds: float) -> str:
    """Takes its time, and a thread."""
    time.sleep(seconds)
    return "done"


@tool
async def ask_expert(question: str) -> str:
    """Knows more."""
    found = await silent.ainvoke({"messages": [("human", question)]})
    return found["messages"][-1].content


class Weather(BaseModel):
    city: str
    degrees: int


RESPONSES = {"use_responses_api": True}
plain = create_agent(model("plain"))
thoughts = create_agent(model("thoughts", reasoning={"summary": "auto"}, **RESPONSES))
cites = create_agent(model("cites", **RESPONSES))
tools_chat = create_agent(model("tools"), [weather, clock])
tools_responses = create_agent(model("tools", **RESPONSES), [weather, clock])
fails = create_agent(model("fails"), [fail])
loop = create_agent(model("loop"), [weather])
slow_loop = create_agent(model("slow_loop"), [weather])
structured = create_agent(model("structured"), response_format=ProviderStrategy(Weather))
structured_by_tool = create_agent(
    model("structured_by_tool"), response_format=ToolStrategy(Weather)
)
slow = create_agent(model("slow"))
silent = create_agent(model("silent"))
waits = create_agent(model("waits"), [wait])
asks_expert = create_agent(model("asks"), [ask_expert])
length = create_agent(model("length"))
broken = create_agent(model("cut"))
limited = create_agent(model("429"))
down = create_agent(model("500"))
approve = create_agent(
    model("approve"),
    [delete],
    middleware=[HumanInTheLoopMiddleware(interrupt_on={"delete": True})],
)
chat_helper = create_agent(model("block"), [block])
careful = create_agent(
    model("careful"),
    [weather, delete],
    middleware=[HumanInTheLoopMiddleware(interrupt_on={"delete": True})],
    checkpointer=Checkpointer(),
)
careful_tool = create_agent(
    model("careful"), [weather, delete_asking], checkpointer=Checkpointer()
)
careful_elsewhere = create_agent(
    model("careful"), [weather, delete_asking], checkpointer=InMemorySaver()
)
chat_keeper = create_agent(model("m1"), checkpointer=Checkpointer())
structured_keeper = create_agent(
    model("structured_by_tool"),
    response_format=ToolStrategy(Weather),
    checkpointer=Checkpointer(),
)
keeper_elsewhere = create_agent(model("m1"), checkpointer=InMemorySaver())
kept_in_cache = hosted(create_agent(model("plain")), cache=True, version="1")


def speaks(name):
    async def node(state):
        return {"messages": [await model(name).ainvoke(state["messages"])]}

    return node


def side_by_side():
    graph = StateGraph(MessagesState)
    for name in ("a", "b"):
        graph.add_node(name, speaks(f"slow-{name}"))
        graph.add_edge(START, name)
        graph.add_edge(name, END)
    return graph.compile()


def _chain(*nodes):
    graph = StateGraph(MessagesState)
    graph.add_sequence([(str(number), node) for number, node in enumerate(nodes)])
    graph.add_edge(START, "0")
    return graph.compile()


def copies():
    """Nodes that return what a model has said, or an agent, as a message of their own; and
    others that say the same by themselves."""
    told = model("plain")

    async def as_a_dict(state):
        found = await told.ainvoke(state["messages"])
        return {"messages": [{"role": "assistant", "content": found.content}]}

    async def as_a_message(state):
        found = await told.ainvoke(state["messages"])
        return {"messages": [AIMessage(found.content)]}

    async def of_an_agent(state):
        found = await plain.ainvoke({"messages": state["messages"]})
        await model("thoughts").ainvoke(state["messages"])
        return {"messages": [AIMessage(found["messages"][-1].content)]}

    async def by_itself(state):
        return {"messages": [AIMessage(state["messages"][-1].content)]}

    async def in_words(state):
        return {"messages": [("ai", state["messages"][-1].content)]}

    return _chain(as_a_dict, as_a_message, by_itself, in_words, of_an_agent)


def copies_calls():
    """The same, with calls that are executed next."""
    told = model("tools").bind_tools([weather, clock])

    async def calls(state):
        found = await told.ainvoke(state["messages"])
        return {"messages": [AIMessage(found.content, tool_calls=found.tool_calls)]}

    return _chain(calls, ToolNode([weather, clock]), calls)


def with_sub_agent():
    graph = StateGraph(MessagesState)
    graph.add_node(
        "researcher", create_agent(model("tools"), [weather, clock], name="researcher")
    )
    graph.add_node("writer", speaks("plain"))
    graph.add_edge(START, "researcher")
    graph.add_edge("researcher", "writer")
    graph.add_edge("writer", END)
    return graph.compile()


class Topic(TypedDict):
    topic: str
    times: int
    text: str


def of_a_topic():
    async def node(state):
        writer = get_stream_writer()
        writer(Progress(1, 2, "thinking"))
        writer({"name": "draft", "id": "1", "value": {"topic": state["topic"]}})
        writer("anything")
        return {"text": state["topic"] * state["times"]}

    graph = StateGraph(Topic)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph.compile()


def asks():
    def node(state):
        city = interrupt({"message": "Which city?", "known": ["Rome"]})
        return {"messages": [("ai", f"It is {city}.")]}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph.compile()


def remembers():
    async def node(state):
        said = [m.content for m in state["messages"] if m.type == "human"]
        return {"messages": [("ai", ", ".join(said))]}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph.compile(checkpointer=Checkpointer())


class Added(TypedDict):
    messages: Annotated[list, operator.add]


def adds():
    """Its messages are added up, whatever their ids; it fails with what a call gave."""

    async def node(state):
        last = state["messages"][-1]
        if last.type == "tool":
            raise ValueError("no use of it")
        if last.content == "call":
            return {"messages": [AIMessage("", tool_calls=[call])]}
        kinds = " ".join(it.type for it in state["messages"])
        return {"messages": [AIMessage(kinds)]}

    async def tools(state):
        return {"messages": [ToolMessage("given", tool_call_id="c1")]}

    def after(state):
        return "tools" if state["messages"][-1].tool_calls else END

    call = {"id": "c1", "name": "f", "args": {}}
    graph = StateGraph(Added)
    graph.add_node("node", node)
    graph.add_node("tools", tools)
    graph.add_edge(START, "node")
    graph.add_conditional_edges("node", after, ["tools", END])
    graph.add_edge("tools", "node")
    return graph.compile(checkpointer=InMemorySaver())


def context():
    async def node(state):
        HERE.set(run_of().id)
        await asyncio.sleep(0.05)
        same = HERE.get() == await asyncio.to_thread(lambda: run_of().id)
        return {"messages": [("ai", "its own" if same else "another's")]}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph.compile()


class Caller(TypedDict):
    name: str


async def caller(run):
    return {"name": run.options["name"]}


async def greeting(run):
    return {"messages": [("human", f"Greet {run.input}")]}


def _greeter():
    async def node(state, runtime: Runtime[Caller]):
        said = state["messages"][-1].content
        return {"messages": [("ai", f"{said} for {runtime.context['name']}")]}

    graph = StateGraph(MessagesState, context_schema=Caller)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph.compile()


greets = hosted(_greeter(), deps=caller, input=greeting)


@asynccontextmanager
async def opened():
    """With a file that says that it is open."""
    Path("opened").touch()  # noqa: ASYNC240
    yield plain
    Path("opened").rename("closed")  # noqa: ASYNC240
