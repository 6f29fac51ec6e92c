"""`plateau ask --local`: an agent runs right here, and its events are those of a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plateau_sse.cli import main

Out = pytest.CaptureFixture[str]

AGENTS = """
import asyncio

from plateau_sse.agents import (
    AgentError, Data, File, Finish, Output, Progress, Reasoning, Source, Step,
    ToolCall, ToolDelta, ToolError, ToolResult, Usage,
)

async def rich(run):
    yield Reasoning("Hm")
    yield Reasoning(".")
    yield "a"
    yield "b"
    yield ToolDelta("t", "look", "{")
    yield "c" * 10_000
    yield ToolCall("t", "look", {"at": 1j}, client=True)
    yield ToolResult("t", 1, preliminary=True)
    yield "d\\ud800"
    yield ToolError("t", "no")
    yield Source("s", url="https://a.example")
    yield File("text/plain", "data:,a")
    yield Data("n", [1], "i")
    yield Step("next")
    yield "e"
    yield Usage(1, 2, reasoning_tokens=3, model="m")

async def notes(run):
    yield Progress(1, 2, "reading\\x1b[2J", "reader")
    yield run.input.upper()
    yield ToolCall("t", "look", {"a": 1})
    yield ToolResult("t", [1])
    yield Usage(1, 2)
    yield Output(run.options["tone"])
    yield Finish(run.options.get("end", "stop"))

def plain(run):
    yield "a"
    yield "b\\n"

def refuses(run):
    yield "a"
    raise AgentError("invalid_options", "not like this")

def breaks(run):
    yield "a"
    raise ValueError("oh")

def leaves(run):
    yield "a"
    exit(3)

async def leaves_late(run):
    yield "a"
    exit(3)

async def lets_go(run):
    yield "a"
    raise asyncio.CancelledError

class Speechless(Exception):
    def __str__(self):
        return self.why

def breaks_twice(run):
    raise Speechless
    yield

def nonsense(run):
    yield 3

def mends(run):
    yield Progress(1, 1, "p\\ud83d")
    yield Source("s", "https://a.example", title="a\\ud83d")
    yield Step("s\\ud83d")
    yield "a" * (2 * 10**5)

def nowhere(run):
    yield Source("s")

def takes_turns(run):
    for at in range(3000):
        yield "t"
        yield Reasoning("r")

def too_many(run):
    for at in range(1001):
        yield Step("s")

def too_much(run):
    yield "half"
    yield "x" * 2**18

def too_large(run):
    yield Data("chart", "x" * 2**15)

def nothing(run):
    return None
"""


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    (tmp_path / "agents_for_ask.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield lambda name, *args: main(["ask", "text", "--local", f"agents_for_ask:{name}", *args])
    sys.modules.pop("agents_for_ask", None)


def test_an_agent_runs_right_here(local: Callable[..., int], capsys: Out) -> None:
    assert local("notes", "--option", "tone=dry") == 0
    shown = capsys.readouterr()
    assert shown.out == "TEXT\n\ndry\n"
    assert shown.err == '[1/2] reader: reading [2J\nlook({"a": 1})\nlook: [1]\n'
    assert local("plain") == 0
    assert capsys.readouterr().out == "ab\n"


def test_its_events_are_those_of_a_run(local: Callable[..., int], capsys: Out) -> None:
    assert local("notes", "--option", "tone=dry", "--option", "end=soon", "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["type"] for event in events] == [
        "run.started",
        "run.progress",
        "message.delta",
        "tool.call",
        "tool.result",
        "run.completed",
    ]
    assert events[1]["percentage"] == 50
    assert events[-1]["usage"] == {"input_tokens": 1, "output_tokens": 2}
    assert (events[-1]["output"], events[-1]["finish_reason"]) == ("dry", "other")


def test_all_that_may_be_yielded_is_an_event(local: Callable[..., int], capsys: Out) -> None:
    assert local("rich", "--json") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    spoken = [
        (event["type"].partition(".")[0], event["part"], event["text"])
        for event in told
        if event["type"].endswith(".delta") and "part" in event
    ]
    assert spoken[:4] == [
        ("reasoning", 0, "Hm"),
        ("reasoning", 0, "."),
        ("message", 1, "a"),
        ("message", 1, "b"),
    ]
    # No event is longer than a delta on the wire may be; a mark ends a part.
    assert {part for _, part, text in spoken if "c" in text} == {1}
    assert max(len(text) for _, _, text in spoken) < 8 * 1024
    assert spoken[-3:] == [
        ("message", 2, "d"),
        ("message", 2, "\ufffd"),
        ("message", 3, "e"),
    ]
    others = [event for event in told if "part" not in event]
    assert others[:5] == [
        {"type": "run.started", "run": "local", "agent": "rich", "attempt": 1},
        {"type": "tool.delta", "id": "t", "name": "look", "arguments": "{"},
        {"type": "tool.call", "id": "t", "name": "look", "arguments": "{'at': 1j}"}
        | {"client": True},
        {"type": "tool.result", "id": "t", "output": 1, "preliminary": True},
        {"type": "tool.result", "id": "t", "error": "no"},
    ]
    assert [event["type"] for event in others[5:]] == [
        "source",
        "file",
        "data",
        "step",
        "run.completed",
    ]
    usage = {"input_tokens": 1, "output_tokens": 2, "reasoning_tokens": 3}
    assert (others[-1]["usage"], others[-1]["model"]) == (usage, "m")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("refuses", "failed: not like this (invalid_options)"),
        ("breaks", "failed: ValueError: oh (agent_error)"),
        ("leaves", "failed: SystemExit: 3 (agent_error)"),
        ("leaves_late", "failed: SystemExit: 3 (agent_error)"),
        ("lets_go", "failed: CancelledError (agent_error)"),
        ("breaks_twice", "failed: Speechless (agent_error)"),
        ("nonsense", "yielded int"),
        ("nothing", "gave a NoneType"),
        ("nowhere", "neither url nor media_type. (agent_invalid_output)"),
        ("too_many", "1,000 parts, calls"),
        ("too_much", "256 KiB of text and thoughts"),
        ("too_large", "32,768 are the most"),
    ],
)
def test_how_it_failed_is_told(
    local: Callable[..., int], capsys: Out, name: str, said: str
) -> None:
    assert local(name) == 1
    assert said in capsys.readouterr().err


def test_what_a_runner_mends_is_mended_here(local: Callable[..., int], capsys: Out) -> None:
    assert local("mends", "--json") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[1]["message"] == "p\ufffd" and told[2]["title"] == "a\ufffd"
    assert told[3] == {"type": "step", "name": "s\ufffd"}


def test_parts_that_take_turns_for_long_have_room(
    local: Callable[..., int], capsys: Out
) -> None:
    assert local("takes_turns", "--json") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for kind, letter in (("message", "t"), ("reasoning", "r")):
        texts = [event["text"] for event in told if event["type"] == f"{kind}.delta"]
        assert "".join(texts) == letter * 3000
