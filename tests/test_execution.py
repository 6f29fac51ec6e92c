"""What becomes of what an agent yields, and of one that fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from plateau_sse.agents import (
    AgentError,
    Data,
    File,
    Finish,
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
from plateau_sse.errors import RUN_FAILURES
from plateau_sse.jsontext import encode
from plateau_sse.runner.fitting import MESSAGE_CHARS
from plateau_sse.store.runs.events import MARK_BYTES, MARKS_BYTES, POINTS_MOST, TAPE_BYTES
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
        "message.delta",
        "tool.call",
        "tool.result",
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
    assert told.text == "draft" and told.record.output == output


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
    assert told.last["message"] == "m\ufffd" + "x" * (MESSAGE_CHARS - 2)


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


def test_everything_that_an_agent_may_yield_is_told_in_its_order(streams_url: str) -> None:
    agent = yielding(
        Step("look"),
        Reasoning("Look it "),
        Reasoning("up."),
        ToolDelta("c1", "find", '{"q": '),
        ToolCall("c1", "find", {"q": "雪"}),
        ToolResult("c1", "half", preliminary=True),
        ToolResult("c1", {"found": 1}),
        ToolCall("c2", "weather", "{}", client=True),
        ToolError("c2", "no connection"),
        Source("s1", "https://x.test/7", "Page 7"),
        Source("s2", media_type="application/pdf", title="A", filename="a.pdf"),
        File("image/png", "data:image/png;base64,AAAA"),
        Data("chart", {"x": [1, None]}, "k"),
        Data("chart", "passing", transient=True),
        "Es läuft aus.",
        Usage(812, 64, 512, 40, "m-1"),
        Finish("length"),
    )
    told = execute(streams_url, agent)
    assert told.events[1:-1] == [
        {"type": "step", "name": "look"},
        {"type": "reasoning.delta", "part": 0, "text": "Look it up."},
        {"type": "tool.call", "id": "c1", "name": "find", "arguments": {"q": "雪"}},
        {"type": "tool.result", "id": "c1", "output": {"found": 1}},
        {
            "type": "tool.call",
            "id": "c2",
            "name": "weather",
            "arguments": "{}",
            "client": True,
        },
        {"type": "tool.result", "id": "c2", "error": "no connection"},
        {"type": "source", "id": "s1", "url": "https://x.test/7", "title": "Page 7"},
        {
            "type": "source",
            "id": "s2",
            "media_type": "application/pdf",
            "title": "A",
            "filename": "a.pdf",
        },
        {"type": "file", "media_type": "image/png", "url": "data:image/png;base64,AAAA"},
        {"type": "data", "name": "chart", "id": "k", "value": {"x": [1, None]}},
        {"type": "message.delta", "part": 1, "text": "Es läuft aus."},
    ]
    assert told.only("data")[1]["transient"] is True
    assert told.only("tool.result")[-1]["preliminary"] is True
    usage = {
        "input_tokens": 812,
        "output_tokens": 64,
        "cached_input_tokens": 512,
        "reasoning_tokens": 40,
    }
    assert told.last["usage"] == usage == told.record.usage
    assert told.last["model"] == "m-1" == told.record.model
    assert told.last["finish_reason"] == "length" == told.record.finish_reason
    assert told.record.output == "Es läuft aus." and "output" not in told.last
    shown = [it["type"] for it in told.record.parts]
    assert shown[1] == "reasoning" and shown[-1] == "text"


def test_the_last_usage_counts_and_a_model_may_come_alone(streams_url: str) -> None:
    told = execute(streams_url, yielding(Usage(9, 9, 1, model="a"), Usage(1, 2)))
    assert told.last["usage"] == {"input_tokens": 1, "output_tokens": 2}
    assert told.last["model"] == "a"
    told = execute(streams_url, yielding("x", Usage(0, 0, model="m")))
    assert (told.last["usage"], told.last["model"]) == (None, "m")


def test_an_answer_has_a_bound(streams_url: str) -> None:
    piece = "雪" * 341 + "\n"
    assert len(piece.encode()) == 1024
    whole = [piece] * (TAPE_BYTES // 1024)
    told = execute(streams_url, yielding(*whole))
    assert told.record.status == "completed" and told.text == "".join(whole)
    told = execute(streams_url, yielding(*whole, Reasoning("x"), "y"))
    assert_failed(told, "output_too_large")
    assert told.text == "".join(whole) and "256 KiB of text" in told.last["message"]
    # Thoughts are on the tape as well, and the output is kept beside it.
    told = execute(streams_url, yielding(*map(Reasoning, whole), "x"))
    assert_failed(told, "output_too_large")
    told = execute(streams_url, yielding(Output("x" * (TAPE_BYTES + 1))))
    assert_failed(told, "output_too_large")
    told = execute(streams_url, yielding(*whole[1:], Output("x" * 1024)))
    assert told.record.status == "completed"
    told = execute(streams_url, yielding("x", *whole[1:], Output("x" * 1024)))
    assert_failed(told, "output_too_large")


def test_of_outputs_the_last_one_counts_towards_the_bound(streams_url: str) -> None:
    large = Output("x" * (TAPE_BYTES - 10))
    told = execute(streams_url, yielding("text", large, large, Output("short"), "and more"))
    assert told.record.status == "completed" and told.record.output == "short"


def test_an_output_that_is_the_text_is_not_told_again(streams_url: str) -> None:
    told = execute(streams_url, yielding("an", "swer", Output("answer")))
    assert told.record.output == "answer" and "output" not in told.last


def test_200_kb_at_once_are_cut_up(streams_url: str) -> None:
    text = "é雪\n" * 40_000
    told = execute(streams_url, yielding(text))
    assert told.text == text and len(told.only("message.delta")) > 25
    assert all(len(it["text"].encode()) <= 8192 for it in told.only("message.delta"))


def test_marks_have_a_bound_of_their_bytes(streams_url: str) -> None:
    large = Data("d", "x" * 30_000)
    told = execute(streams_url, yielding(*[large] * 8))
    assert told.record.status == "completed"
    told = execute(streams_url, yielding("said", *[large] * 9))
    assert_failed(told, "output_too_large")
    assert told.text == "said" and len(told.only("data")) == MARKS_BYTES // 30_100
    # What is shown and not kept is no part of it.
    passing = Data("d", "x" * 30_000, transient=True)
    assert execute(streams_url, yielding(*[passing] * 20)).record.status == "completed"


def test_marks_have_a_bound_of_their_number(streams_url: str) -> None:
    steps = [Step("s")] * (POINTS_MOST - 1)
    told = execute(streams_url, yielding(*steps))
    assert told.record.status == "completed"
    told = execute(streams_url, yielding(*steps, "x"))
    assert_failed(told, "output_too_large")
    assert "1,000" in told.last["message"]


BYTES = MARK_BYTES
TOO_MUCH: list[tuple[Any, str]] = [
    (ToolCall("c1", "find", "x" * BYTES), "the call 'c1'"),
    (ToolCall("c1", "find", {"q": ["雪" * BYTES]}), "the call 'c1'"),
    (Data("chart", "x" * BYTES), "the data 'chart'"),
    (Data("chart", "x" * BYTES, transient=True), "the data 'chart'"),
    (File("image/png", "data:image/png;base64," + "A" * BYTES), "the file"),
    (Source("s", "https://x.test/" + "x" * BYTES), "the source"),
]


@pytest.mark.parametrize(("item", "what"), TOO_MUCH, ids=[what for _, what in TOO_MUCH])
def test_what_a_program_takes_up_is_whole_or_refused(
    streams_url: str, item: object, what: str
) -> None:
    told = execute(streams_url, yielding("half", item, "more"))
    assert_failed(told, "agent_invalid_output")
    assert what in told.last["message"] and "32,768" in told.last["message"]
    assert told.text == "half" and len(told.events) == 3 and not told.states


def deep(levels: int) -> Any:
    found: Any = []
    for _ in range(levels):
        found = [found]
    return found


class Opaque:
    def __str__(self) -> str:
        return "opaque"


@pytest.mark.parametrize(
    "value", [Opaque(), {"a": Opaque()}, {1j: 2}, deep(200), deep(10**5)], ids=type
)
def test_data_that_is_no_json_is_refused(streams_url: str, value: object) -> None:
    told = execute(streams_url, yielding("half", Data("chart", value)))
    assert_failed(told, "agent_invalid_output")
    assert "'chart'" in told.last["message"] and "JSON" in told.last["message"]


def test_a_source_is_a_page_or_a_document(streams_url: str) -> None:
    told = execute(streams_url, yielding(Source("s", title="A")))
    assert_failed(told, "agent_invalid_output")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        ({"a": [1, "雪", None]}, {"a": [1, "雪", None]}),
        ("text", "text"),
        ("lone \ud800", "lone \ufffd"),
        ({"lone\ud800": ["\ud83d\ude00", ("\udfff",)]}, {"lone\ufffd": ["😀", ["\ufffd"]]}),
        (Opaque(), "opaque"),
        (2**70, 2**70),
        (deep(90), deep(90)),
        (deep(200), str(deep(200))),
        ({1, 2}, [1, 2]),
        (float("nan"), None),
    ],
)
def test_what_tools_carry_is_json(streams_url: str, value: object, shown: object) -> None:
    agent = yielding(ToolCall("1", "find", value), ToolResult("1", value), ToolError("1", "é"))
    told = execute(streams_url, agent)
    assert told.record.status == "completed"
    assert told.only("tool.call")[0]["arguments"] == shown
    result, error = told.only("tool.result")
    assert (result["output"], error["error"]) == (shown, "é")


@pytest.mark.parametrize("preliminary", [False, True])
@pytest.mark.parametrize(
    ("value", "begins", "had"),
    [
        ("x" * 40_000, "xxx", 40_000),
        ("雪" * 20_000, "雪雪", 60_000),
        ("\x01" * 10_000, "\x01", 10_000),
        ('"' * 30_000, '""', 30_000),
        (["x" * 40_000], '["xx', 40_004),
        ({"lone": "\ud800" + "x" * 40_000}, '{"lone":"\ufffdx', 40_000 + 14),
    ],
)
def test_a_tools_output_is_cut_and_says_so(
    streams_url: str, value: object, begins: str, had: int, preliminary: bool
) -> None:
    told = execute(streams_url, yielding(ToolResult("1", value, preliminary=preliminary)))
    assert told.record.status == "completed"
    (result,) = told.only("tool.result")
    assert result["output"].startswith(begins)
    assert result["output"].endswith(f" … [cut: it had {had:,} bytes]")
    # As much of it as there is room for.
    assert MARK_BYTES - 8 <= len(encode(result)) <= MARK_BYTES


def test_a_tools_error_is_cut_and_says_so(streams_url: str) -> None:
    told = execute(streams_url, yielding(ToolError("1", "x" * 40_000), ToolResult("2", "ok")))
    error, result = told.only("tool.result")
    assert error["error"].endswith("[cut: it had 40,000 bytes]") and result["output"] == "ok"


def test_what_fits_exactly_is_not_cut(streams_url: str) -> None:
    room = MARK_BYTES - len(encode({"type": "tool.result", "id": "1", "output": ""}))
    told = execute(streams_url, yielding(ToolResult("1", "x" * room)))
    assert told.only("tool.result")[0]["output"] == "x" * room
    told = execute(streams_url, yielding(ToolResult("1", "x" * (room + 1))))
    assert "[cut: " in told.only("tool.result")[0]["output"]


def test_names_and_figures_are_bounded(streams_url: str) -> None:
    long = "\ud800" + "n" * 10_000
    agent: Any = yielding(
        ToolDelta(long, long, long),
        ToolCall(long, long, ""),
        Step(long),
        Source(long, "u", long, long, long),
        Progress(2**70, -1, long, long, float("nan")),
        Progress(1, 2, "m", "a", 1e300),
        Usage(2**70, -5),
    )
    told = execute(streams_url, agent)
    assert told.record.status == "completed"
    (call,), (first, second) = told.only("tool.call"), told.only("run.progress")
    short = "\ufffd" + "n" * (MESSAGE_CHARS - 1)
    (source,), (step,) = told.only("source"), told.only("step")
    assert step["name"] == source["id"] == source["title"] == source["filename"] == short
    assert call["id"] == call["name"] == first["message"] == first["current_agent"] == short
    assert (first["step"], first["total_steps"], first["percentage"]) == (2**53 - 1, 0, 0.0)
    assert second["percentage"] == 100.0
    assert told.record.usage == {"input_tokens": 2**53 - 1, "output_tokens": 0}


@pytest.mark.parametrize("item", [Usage("many", 1), Progress("one", 2)])  # type: ignore[arg-type]
def test_a_figure_that_is_none_fails_the_run(streams_url: str, item: object) -> None:
    told = execute(streams_url, yielding("half", item))
    assert_failed(told, "agent_invalid_output")
    assert f"{type(item).__name__}(" in told.last["message"] and ": str" in told.last["message"]


def test_calls_that_are_numbered_anew_in_each_step_are_told_as_they_are_written(
    streams_url: str,
) -> None:
    async def agent(run: Run) -> AsyncIterator[Yielded]:
        for step in ("first", "second"):
            yield Step(step)
            yield ToolDelta("0", "find", step)
            await asyncio.sleep(0.3)
            yield ToolCall("0", "find", step)
            yield ToolDelta("0", "find", "too late")

    told = execute(streams_url, agent)
    assert [it["arguments"] for it in told.only("tool.delta")] == ["first", "second"]


def test_half_a_character_that_is_too_much_ends_the_run(streams_url: str) -> None:
    """It becomes three bytes where two are left, once all has been yielded."""
    told = execute(streams_url, yielding("x" * (TAPE_BYTES - 2), "\ud83d"))
    assert told.record.error is not None
    assert told.record.error["code"] == "output_too_large"


def test_lone_surrogates_become_replacement_characters(streams_url: str) -> None:
    told = execute(
        streams_url,
        yielding(
            "a\ud83d", "!\ude00b", Reasoning("\ud800!"), "\ud83d\ude00", Output("\udfff!")
        ),
    )
    assert (told.text, told.thoughts) == ("a\ufffd!\ufffdb😀", "\ufffd!")
    assert told.record.output == "\ufffd!"
