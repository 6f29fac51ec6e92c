"""Whatever an agent yields becomes something within its bounds, or an AgentError."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plateau_sse.agents import (
    AgentError,
    Data,
    File,
    Finish,
    InputRequest,
    Output,
    Progress,
    Reasoning,
    Source,
    Step,
    ToolCall,
    ToolDelta,
    ToolError,
    ToolResult,
    Usage,
)
from plateau_sse.runner.yields import Call, Draft, Piece, Yields
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import FINISH_REASONS, MARK_BYTES, TAPE_BYTES, Event
from tests.store import decoded

KINDS: tuple[type[Any], ...] = (
    *(Data, File, Finish, Output, Progress, Reasoning, Source),
    *(Step, ToolCall, ToolDelta, ToolError, ToolResult, Usage),
)


class Mute:
    """Has no text, no number and no equal."""

    def __str__(self) -> str:
        raise LookupError("no text")

    def __bool__(self) -> bool:
        raise TypeError("neither true nor false")

    def __eq__(self, other: object) -> bool:
        raise KeyError("no equal")

    __hash__ = None  # type: ignore[assignment]


def deep(levels: int) -> Any:
    found: Any = []
    for _ in range(levels):
        found = [found]
    return found


ODD: list[Any] = [
    *(None, True, 0, -1, 3, 2**64, 10**400, 10**5000, -(10**5000), 1.5, 1e308),
    *(float("nan"), float("inf"), 1j, b"", b"bytes", "", " ", "text", "7", "\ud83d", "\udfff!"),
    *("stop", "tool_calls", "https://x.test/", "x" * MARK_BYTES, "雪" * TAPE_BYTES),
    *([], ["\ud800"], {}, {"\ud800": 1}, {1j: 2}, {"a": object()}, (1, 2), {1, 2}, deep(200)),
    *(deep(10**5), object(), Mute(), Reasoning, Reasoning("inner"), Mute, lambda: None),
]
values = st.sampled_from(ODD) | st.text(st.characters(), max_size=20) | st.floats()


@st.composite
def items(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(KINDS))
    return kind(**{field.name: draw(values) for field in fields(kind)})


def check_taken(yields: Yields, item: Any) -> None:
    match yields.take(item):
        case None:
            pass
        case Piece(kind, text):
            assert kind in events.DELTAS and 0 < len(text.encode()) <= TAPE_BYTES
        case Draft() as draft:
            assert msgspec.json.decode(draft.event().data)["type"] == "tool.delta"
        case Call(event=event) | (Event() as event):
            assert len(event.data) <= MARK_BYTES and b"\n" not in event.data
            assert isinstance(msgspec.json.decode(event.data)["type"], str)


def check_end(yields: Yields) -> None:
    assert yields.finish_reason in FINISH_REASONS and isinstance(yields.is_whole, bool)
    (yields.output or "").encode()
    if yields.usage is not None:
        assert {"input_tokens", "output_tokens"} <= set(yields.usage)
        assert all(0 <= count < 2**53 for count in yields.usage.values())
    end = events.completed(yields.usage, cached=False, duration_ms=0, model=yields.model)
    assert msgspec.json.decode(end.data)["type"] == "run.completed"


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.large_base_example]
)
@given(st.lists(items() | values, max_size=4))
def test_anything_is_told_or_an_error_of_the_agents(yielded: list[Any]) -> None:
    yields = Yields("notes")
    for item in yielded:
        try:
            check_taken(yields, item)
        except AgentError as error:
            assert error.code in ("agent_invalid_output", "output_too_large")
            error.message.encode("utf-8", "surrogatepass")
    check_end(yields)


WRONG: list[tuple[Any, str]] = [
    (ToolResult("a", 10**5000), "ToolResult(id: str, output: int, preliminary: bool)"),
    (Reasoning(5), "Reasoning(text: int)"),  # type: ignore[arg-type]
    (Reasoning(Mute()), "Reasoning(text: Mute)"),  # type: ignore[arg-type]
    (Output(None), "Output(text: NoneType)"),  # type: ignore[arg-type]
    (Progress(None, 3), "Progress(step: NoneType, total_steps: int"),  # type: ignore[arg-type]
    (Progress(10**400, 1), "Progress(step: int"),
    (Usage([], {1}), "Usage(input_tokens: list"),  # type: ignore[arg-type]
    (Step(10**5000), "Step(name: int)"),  # type: ignore[arg-type]
    (Finish(Mute()), "Finish(reason: Mute)"),  # type: ignore[arg-type]
    (Mute(), "Mute"),
]


@pytest.mark.parametrize(("item", "named"), WRONG, ids=[named for _, named in WRONG])
def test_what_cannot_be_told_is_named(item: Any, named: str) -> None:
    with pytest.raises(AgentError) as caught:
        Yields("notes").take(item)
    assert caught.value.code == "agent_invalid_output"
    assert f"Agent 'notes' yielded {named}" in caught.value.message


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(None, 5), (0, 5)),  # type: ignore[arg-type]
        (Usage(None, None), (0, 0)),  # type: ignore[arg-type]
        (Usage(None, None, model="m"), None),  # type: ignore[arg-type]
        (Usage(0, 0, 0, None, "m"), None),
    ],
)
def test_both_counts_are_there_or_none(usage: Usage, expected: tuple[int, int] | None) -> None:
    yields = Yields("notes")
    yields.take(usage)
    counts = expected and {"input_tokens": expected[0], "output_tokens": expected[1]}
    assert yields.usage == counts and yields.model == usage.model


@pytest.mark.parametrize(
    ("yielded", "text", "thoughts"),
    [
        (["a\ud83d", "\ude00b"], "a😀b", ""),
        (["\ud83d", "\ude00"], "😀", ""),
        (["a\ud83d", "", "\ude00b"], "a😀b", ""),
        # Between two of the one kind something of the other is said.
        (["a\ud83d", Reasoning("x\ud83d"), "\ude00b", Reasoning("\ude00y")], "a😀b", "x😀y"),
        # What ends a part ends it.
        (["a\ud83d", Step("s"), "\ude00b"], "a\ufffd\ufffdb", ""),
        (["a\ud83d", Progress(1, 2), "\ude00b"], "a😀b", ""),
        (["a\ud83d", "b"], "a\ufffdb", ""),
        (["a\ud83d", "\ud83d\ude00"], "a\ufffd😀", ""),
        (["a", "\ude00b\ud83d"], "a\ufffdb\ufffd", ""),
        (["a\ud83d", Reasoning("\ud83d")], "a\ufffd", "\ufffd"),
    ],
)
def test_halves_of_a_character_that_come_apart_are_one(
    yielded: list[Any], text: str, thoughts: str
) -> None:
    """Those who cut by UTF-16 units, as endpoints in JavaScript and Java do."""
    yields = Yields("notes", 0)
    pieces: list[Any] = []
    for item in yielded:
        pieces += [*yields.before(item), yields.take(item)]
    pieces = [it for it in [*pieces, *yields.rest()] if isinstance(it, Piece)]
    assert "".join(it.text for it in pieces if it.kind == "t") == text
    assert "".join(it.text for it in pieces if it.kind == "r") == thoughts
    assert yields.rest() == []


def test_what_a_person_is_asked() -> None:
    yields = Yields("a")
    request = InputRequest("i1", "May it?", "approval", "call_1", {"type": "boolean"})
    event = yields.take(request)
    assert isinstance(event, Event)
    assert decoded(event.data) == {
        "type": "input.request",
        "id": "i1",
        "kind": "approval",
        "tool_call_id": "call_1",
        "message": "May it?",
        "schema": {"type": "boolean"},
    }
    # It ends so, and is no answer that is worth keeping.
    assert (yields.finish_reason, yields.is_whole) == ("input_required", False)
    yields.take(Finish("length"))
    assert yields.finish_reason == "length"


@pytest.mark.parametrize(
    "request_",
    [
        InputRequest("i" * 600, "?"),
        InputRequest("i", "?", "wish"),  # type: ignore[arg-type]
        InputRequest("i", "?", schema=object()),
    ],
)
def test_what_cannot_be_asked_is_refused(request_: InputRequest) -> None:
    with pytest.raises(AgentError) as caught:
        Yields("a").take(request_)
    assert caught.value.code == "agent_invalid_output"


class Text(str):
    """As LangChain's texts are."""

    def __str__(self) -> str:
        return "another"


class Whole(int):
    def __int__(self) -> int:
        return 0


class Share(float):
    pass


class Members(dict[Any, Any]):
    pass


class Shade(Enum):
    RED = Text("red")
    FULL = Share(0.5)


OF_SUBCLASSES: list[tuple[Any, Any]] = [
    (Text("x"), "x"),
    (Whole(7), 7),
    (Share(1.5), 1.5),
    (Members({Text("a"): [Text("b"), (Whole(1),)]}), {"a": ["b", [1]]}),
    ({"a": Shade.RED, Shade.FULL: Shade.FULL}, {"a": "red", "0.5": 0.5}),
    ([Text("\ud83d\ude00"), {Text("\ud800")}, True], ["😀", ["�"], True]),
]


@pytest.mark.parametrize(("value", "expected"), OF_SUBCLASSES)
def test_what_is_nearly_plain_is_told_as_that(value: Any, expected: Any) -> None:
    """msgspec knows no subclasses, which frameworks have many of."""
    yields = Yields("notes")
    call = yields.take(ToolCall("c", "f", value, client=True))
    result, data = yields.take(ToolResult("c", value)), yields.take(Data("d", value))
    assert isinstance(call, Call) and isinstance(result, Event) and isinstance(data, Event)
    assert msgspec.json.decode(call.event.data)["arguments"] == expected
    assert msgspec.json.decode(result.data)["output"] == expected
    assert msgspec.json.decode(data.data)["value"] == expected
    # As what is too long to be shown whole.
    long = yields.take(ToolResult("c", [value, "x" * MARK_BYTES]))
    assert isinstance(long, Event)
    begun = msgspec.json.encode([expected]).decode()[:-1]
    assert msgspec.json.decode(long.data)["output"].startswith(begun)


def test_a_text_of_a_subclass_is_an_answer() -> None:
    yields = Yields("notes")
    assert yields.take(Output(Text("x"))) is None
    assert (type(yields.output), yields.output) == (str, "x")
    assert yields.take(Text("y")) == Piece("t", "y")


def test_what_has_no_end_is_no_json() -> None:
    value = Members()
    value["itself"] = [Text("x"), value]
    with pytest.raises(AgentError, match="is no JSON"):
        Yields("notes").take(Data("d", value))
