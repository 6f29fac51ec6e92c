"""What becomes of what an agent yields, and of one that fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from plateau_sse.agents import (
    AgentError,
    Output,
    Progress,
    Run,
    ToolCall,
    ToolResult,
    Usage,
    Yielded,
)
from plateau_sse.errors import RUN_FAILURES
from plateau_sse.runner.yields import MESSAGE_CHARS, OUTPUT_BYTES, TOOL_BYTES
from plateau_sse.store.runs.streams import Streams
from tests.executions import Told, execute, execution_of, told_of
from tests.store import on_streams, text_of, until


def yielding(*items: Any) -> Callable[[Run], AsyncIterator[Any]]:
    async def agent(run: Run) -> AsyncIterator[Any]:
        for item in items:
            yield item

    return agent


def assert_failed(told: Told, code: str, *, retryable: bool = False) -> None:
    assert told.record.status == "failed" and told.record.output is None
    assert told.last["type"] == "run.failed" and told.types.count("run.failed") == 1
    assert (told.last["code"], told.last["retryable"]) == (code, retryable)
    assert told.record.error == {
        "code": code,
        "message": told.last["message"],
        "retryable": retryable,
    }
    assert code in RUN_FAILURES and len(told.last["message"]) <= MESSAGE_CHARS


def test_an_agent_is_told_what_was_asked_and_heard_to_the_end(streams_url: str) -> None:
    asked: list[Run] = []

    async def agent(run: Run) -> AsyncIterator[Yielded]:
        asked.append(run)
        yield Progress(1, 3, "reading", "reader")
        yield "né"
        yield ""
        yield "e"
        yield ToolCall("c1", "find", {"q": "雪"})
        yield ToolResult("c1", ["found", None])
        yield Usage(1, 1)
        yield Usage(3, 4)
        yield Progress(3, 3, percentage=99.99)

    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
    ]
    told = execute(streams_url, agent, messages=messages, options={"n": 1})
    (run,) = asked
    assert (run.agent, run.input, run.attempt) == ("notes", "Why?", 1)
    assert run.options == {"n": 1} and [m.role for m in run.messages] == [
        *("system", "user", "assistant")
    ]
    assert told.types == [
        "run.started",
        "run.progress",
        "message.delta",
        "tool.call",
        "tool.result",
        "run.progress",
        "run.completed",
    ]
    assert told.text == "née" == told.record.output
    first, last = told.only("run.progress")
    assert (first["percentage"], first["message"]) == (33.3, "reading")
    assert first["current_agent"] == "reader" and last["percentage"] == 100.0
    assert told.only("tool.call")[0]["arguments"] == {"q": "雪"}
    assert told.only("tool.result")[0]["output"] == ["found", None]
    usage = {"input_tokens": 3, "output_tokens": 4}
    assert told.last["usage"] == usage == told.record.usage
    assert told.last["cached"] is False and told.last["duration_ms"] >= 0
    assert "output" not in told.last


def test_an_agent_that_says_nothing_has_an_empty_answer(streams_url: str) -> None:
    told = execute(streams_url, yielding())
    assert told.types == ["run.started", "run.completed"]
    assert told.record.output == "" and told.record.usage is None


@pytest.mark.parametrize("output", ["final", ""])
def test_an_output_of_its_own_stands_for_the_streamed_text(
    streams_url: str, output: str
) -> None:
    told = execute(streams_url, yielding("draft", Output("not yet"), Output(output)))
    assert told.text == "draft" and told.last["output"] == output
    assert told.record.output == output


def test_a_plain_generator_runs_in_a_thread_and_holds_up_nobody(streams_url: str) -> None:
    go_on, threads = threading.Event(), []

    def agent(run: Run) -> Iterator[Yielded]:
        threads.append(threading.current_thread())
        yield "a"
        assert go_on.wait(10)
        yield "b"

    async def scenario(streams: Streams, redis: Any) -> Told:
        async with execution_of(streams, agent) as execution:
            running = asyncio.create_task(execution.run())

            async def first_is_there() -> bool:
                return await text_of(redis, execution.run_id) == "a"

            # While the agent blocks, its first piece goes out.
            await until(first_is_there, "the first piece is in the stream")
            go_on.set()
            await running
            return await told_of(streams, redis, execution.run_id)

    told = on_streams(streams_url, scenario)
    assert told.record.output == "ab"
    assert threads[0] is not threading.main_thread() and threads[0].name.startswith("agent")


class Countdown:
    """An iterator of either kind, and nothing more."""

    def __init__(self, run: Run) -> None:
        self.left = 3

    def next_piece(self) -> str | None:
        self.left -= 1
        return str(self.left) if self.left >= 0 else None


class PlainCountdown(Countdown):
    def __iter__(self) -> PlainCountdown:
        return self

    def __next__(self) -> str:
        piece = self.next_piece()
        if piece is None:
            raise StopIteration
        return piece


class AsyncCountdown(Countdown):
    def __aiter__(self) -> AsyncCountdown:
        return self

    async def __anext__(self) -> str:
        piece = self.next_piece()
        if piece is None:
            raise StopAsyncIteration
        return piece


@pytest.mark.parametrize("agent", [PlainCountdown, AsyncCountdown])
def test_any_iterator_will_do(streams_url: str, agent: Callable[[Run], Any]) -> None:
    assert execute(streams_url, agent).record.output == "210"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a secret"),
        # What asyncio says with these of itself, an agent may say, too.
        TimeoutError("a secret"),
        asyncio.CancelledError("a secret"),
        KeyError("a secret"),
        StopAsyncIteration("a secret"),
    ],
)
@pytest.mark.parametrize("in_a_thread", [True, False])
def test_an_agent_that_breaks_fails_its_run_and_keeps_its_secrets(
    streams_url: str,
    error: BaseException,
    in_a_thread: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def plain(run: Run) -> Iterator[Yielded]:
        yield "half"
        raise error

    async def asynchronous(run: Run) -> AsyncIterator[Yielded]:
        yield "half"
        raise error

    told = execute(streams_url, plain if in_a_thread else asynchronous)
    assert_failed(told, "agent_error")
    assert told.text == "half" and "secret" not in told.last["message"]
    # Whoever runs it finds it in the log.
    assert "a secret" in caplog.text


def test_an_agent_may_break_before_it_begins(streams_url: str) -> None:
    def agent(run: Run) -> AsyncIterator[Yielded]:
        raise RuntimeError("at once")

    assert_failed(execute(streams_url, agent), "agent_error")


def test_an_agent_fails_with_a_code_of_its_own(streams_url: str) -> None:
    async def agent(run: Run) -> AsyncIterator[Yielded]:
        yield "half"
        raise AgentError("upstream_error", "m\ud800" + "x" * 1000, retryable=True)

    told = execute(streams_url, agent)
    assert_failed(told, "upstream_error", retryable=True)
    assert told.last["message"] == "m?" + "x" * (MESSAGE_CHARS - 2)


@pytest.mark.parametrize("item", [None, 42, b"bytes", ["text"], {"type": "run.completed"}])
def test_what_is_no_event_fails_the_run(streams_url: str, item: object) -> None:
    told = execute(streams_url, yielding("half", item, "more"))
    assert_failed(told, "agent_invalid_output")
    assert told.text == "half" and type(item).__name__ in told.last["message"]


async def returns(run: Run) -> str:
    return "text"


@pytest.mark.parametrize("agent", [returns, lambda run: "text", lambda run: None])
def test_an_agent_that_is_no_generator_fails_the_run(
    streams_url: str, agent: Callable[[Run], Any]
) -> None:
    assert_failed(execute(streams_url, agent), "agent_invalid_output")


def test_an_agent_that_nobody_has_fails_the_run(streams_url: str) -> None:
    assert_failed(execute(streams_url, None), "agent_unknown")


def test_an_answer_has_a_bound(streams_url: str) -> None:
    piece = "雪" * 341 + "\n"
    assert len(piece.encode()) == 1024
    told = execute(streams_url, yielding(*[piece] * (OUTPUT_BYTES // 1024)))
    assert told.record.status == "completed" and told.text == piece * (OUTPUT_BYTES // 1024)
    told = execute(streams_url, yielding(*[piece] * (OUTPUT_BYTES // 1024), "x", "y"))
    assert_failed(told, "output_too_large")
    assert told.text == piece * (OUTPUT_BYTES // 1024)
    told = execute(streams_url, yielding(Output("x" * (OUTPUT_BYTES + 1))))
    assert_failed(told, "output_too_large")


class Opaque:
    def __str__(self) -> str:
        return "opaque"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        ({"a": [1, "雪", None]}, {"a": [1, "雪", None]}),
        ("text", "text"),
        ("lone \ud800", "lone ?"),
        ({"lone": "\ud800"}, "{'lone': '\\ud800'}"),
        (Opaque(), "opaque"),
        ({1, 2}, [1, 2]),
        (float("nan"), None),
        ("x" * TOOL_BYTES, "x" * TOOL_BYTES),
        ("x" * (TOOL_BYTES + 1), "x" * TOOL_BYTES + " …"),
        ("雪" * TOOL_BYTES, "雪" * (TOOL_BYTES // 3) + " …"),
        (["x" * TOOL_BYTES], '["' + "x" * (TOOL_BYTES - 2) + " …"),
    ],
)
def test_what_tools_carry_is_json_and_bounded(
    streams_url: str, value: object, shown: object
) -> None:
    told = execute(streams_url, yielding(ToolCall("1", "find", value), ToolResult("1", value)))
    assert told.record.status == "completed"
    assert told.only("tool.call")[0]["arguments"] == shown
    assert told.only("tool.result")[0]["output"] == shown


def test_names_and_figures_are_bounded(streams_url: str) -> None:
    long = "\ud800" + "n" * 10_000
    agent: Any = yielding(
        ToolCall(long, long, ""),
        Progress(2**70, -1, long, long, float("nan")),
        Progress(1, 2, "m", "a", 1e300),
        Usage(2**70, -5),
    )
    told = execute(streams_url, agent)
    assert told.record.status == "completed"
    (call,), (first, second) = told.only("tool.call"), told.only("run.progress")
    short = "?" + "n" * (MESSAGE_CHARS - 1)
    assert call["id"] == call["name"] == first["message"] == first["current_agent"] == short
    assert (first["step"], first["total_steps"], first["percentage"]) == (2**53 - 1, 0, 0.0)
    assert second["percentage"] == 100.0
    assert told.record.usage == {"input_tokens": 2**53 - 1, "output_tokens": 0}


@pytest.mark.parametrize("item", [Usage("many", 1), Progress("one", 2)])  # type: ignore[arg-type]
def test_a_figure_that_is_none_fails_the_run(streams_url: str, item: object) -> None:
    assert_failed(execute(streams_url, yielding("half", item)), "agent_error")


def test_lone_surrogates_become_question_marks(streams_url: str) -> None:
    told = execute(streams_url, yielding("a\ud83d", "\ude00b", Output("\udfff!")))
    assert told.text == "a??b"
    assert told.last["output"] == "?!" == told.record.output
