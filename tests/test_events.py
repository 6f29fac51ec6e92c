"""Events: one JSON object on one line, its type first, and what each is to the tape."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plateau_sse.errors import RUN_FAILURES
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import Event

AWKWARD = 'a "quote" \\ \n\r\t\x00 \u2028\u2029\u0085 naïve 雪 🏔 </script> {} data: x'

USAGE = {"input_tokens": 1, "output_tokens": 2, "reasoning_tokens": 1}

EXPECTED: list[tuple[Event, str, dict[str, Any]]] = [
    (
        events.started("r", AWKWARD, 2),
        "m",
        {"type": "run.started", "run": "r", "agent": AWKWARD, "attempt": 2},
    ),
    (
        events.progress(1, 3, AWKWARD, "m", 33.3),
        "p",
        {
            "type": "run.progress",
            "step": 1,
            "total_steps": 3,
            "current_agent": AWKWARD,
            "message": "m",
            "percentage": 33.3,
        },
    ),
    (
        events.tool_call("1", AWKWARD, {"q": [AWKWARD, None, 1.5]}),
        "m",
        {
            "type": "tool.call",
            "id": "1",
            "name": AWKWARD,
            "arguments": {"q": [AWKWARD, None, 1.5]},
        },
    ),
    (
        events.tool_call("1", "n", "{}", client=True),
        "m",
        {"type": "tool.call", "id": "1", "name": "n", "arguments": "{}", "client": True},
    ),
    (
        events.tool_delta("1", "n", AWKWARD),
        "s",
        {"type": "tool.delta", "id": "1", "name": "n", "arguments": AWKWARD},
    ),
    (
        events.tool_result("1", AWKWARD),
        "m",
        {"type": "tool.result", "id": "1", "output": AWKWARD},
    ),
    # It may be that there is none.
    (events.tool_result("1", None), "m", {"type": "tool.result", "id": "1", "output": None}),
    (
        events.tool_result("1", [1], preliminary=True),
        "s",
        {"type": "tool.result", "id": "1", "output": [1], "preliminary": True},
    ),
    (
        events.tool_error("1", AWKWARD),
        "m",
        {"type": "tool.result", "id": "1", "error": AWKWARD},
    ),
    (
        events.source("s", url="https://a.example/", title=AWKWARD),
        "m",
        {"type": "source", "id": "s", "url": "https://a.example/", "title": AWKWARD},
    ),
    (
        events.source("s", media_type="application/pdf", title=AWKWARD, filename="a.pdf"),
        "m",
        {
            "type": "source",
            "id": "s",
            "media_type": "application/pdf",
            "title": AWKWARD,
            "filename": "a.pdf",
        },
    ),
    (
        events.file("image/png", "data:,x"),
        "m",
        {"type": "file", "media_type": "image/png", "url": "data:,x"},
    ),
    (events.data("table", None), "m", {"type": "data", "name": "table", "value": None}),
    (
        events.data("table", [AWKWARD], "d"),
        "m",
        {"type": "data", "name": "table", "id": "d", "value": [AWKWARD]},
    ),
    (
        events.data("table", 1, "", transient=True),
        "s",
        {"type": "data", "name": "table", "id": "", "value": 1, "transient": True},
    ),
    (events.step(AWKWARD), "m", {"type": "step", "name": AWKWARD}),
    (
        events.input_request("i", "question", AWKWARD),
        "m",
        {"type": "input.request", "id": "i", "kind": "question", "message": AWKWARD},
    ),
    (
        events.input_request("i", "approval", "?", tool_call_id="t", schema={"a": 1}),
        "m",
        {
            "type": "input.request",
            "id": "i",
            "kind": "approval",
            "tool_call_id": "t",
            "message": "?",
            "schema": {"a": 1},
        },
    ),
    (
        events.completed(USAGE, cached=True, duration_ms=3, model=AWKWARD),
        "e",
        {
            "type": "run.completed",
            "finish_reason": "stop",
            "usage": USAGE,
            "model": AWKWARD,
            "cached": True,
            "duration_ms": 3,
        },
    ),
    (
        events.completed(None, cached=False, duration_ms=0, finish_reason="input_required"),
        "e",
        {
            "type": "run.completed",
            "finish_reason": "input_required",
            "usage": None,
            "model": None,
            "cached": False,
            "duration_ms": 0,
        },
    ),
    (
        events.failed("timeout", AWKWARD, retryable=True),
        "e",
        {"type": "run.failed", "code": "timeout", "message": AWKWARD, "retryable": True},
    ),
    (events.cancelled(AWKWARD), "e", {"type": "run.cancelled", "reason": AWKWARD}),
]


def assert_one_line(data: bytes, content: dict[str, Any]) -> None:
    assert msgspec.json.decode(data) == content
    assert data.startswith(b'{"type":"' + content["type"].encode() + b'"')
    # No byte of it ends a line, for a reader of lines of any kind.
    assert len(data.decode().splitlines()) == 1 and b"\x00" not in data
    # In the order of the contract, which is also that of the tables in the docs.
    assert list(msgspec.json.decode(data)) == list(content)


@pytest.mark.parametrize(("event", "op", "content"), EXPECTED)
def test_an_event_is_one_line_of_json_with_its_type_first(
    event: Event, op: str, content: dict[str, Any]
) -> None:
    assert_one_line(event.data, content)
    assert (event.op, event.part) == (op, "")
    assert len(event.data) <= events.MARK_BYTES


@pytest.mark.parametrize(
    ("kind", "part", "more"), [("t", "", {}), ("r", "4", {}), ("t", "4 2", {"continues": 2})]
)
@pytest.mark.parametrize("text", ["", AWKWARD])
def test_a_delta_s_json_is_head_and_tail(
    kind: events.Kind, part: str, more: dict[str, int], text: str
) -> None:
    """The script knows the number, and writes what stands before it."""
    event = events.delta(text, kind, part)
    assert (event.op, event.arg, event.part) == (kind, text, part)
    type_ = {"t": "message.delta", "r": "reasoning.delta"}[kind]
    whole = events.delta_head(kind, 4) + event.data
    assert_one_line(whole, {"type": type_, "part": 4, "text": text, **more})


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (events.queued(), {"type": "run.queued"}),
        (
            events.restarted(3, "rewound"),
            {"type": "run.restarted", "attempt": 3, "reason": "rewound"},
        ),
    ],
)
def test_what_is_never_on_a_tape(data: bytes, content: dict[str, Any]) -> None:
    assert_one_line(data, content)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 40))
def test_pieces_are_the_text_and_fit(text: str, times: int) -> None:
    whole = text * times * 20
    pieces = list(events.pieces(whole))
    assert "".join(pieces) == whole and pieces
    assert all(pieces) or not whole
    assert all(len(events.delta(piece).data) <= 8 * 1024 - 200 for piece in pieces)
    assert len(pieces) <= 1 + 4 * 6 * len(whole.encode()) // events.TEXT_BYTES


def test_an_answer_of_its_own_is_added_to_the_end() -> None:
    end = events.completed(None, cached=False, duration_ms=1).data
    for output in ("", AWKWARD):
        whole = events.with_output(end, output.encode())
        assert_one_line(whole, msgspec.json.decode(end) | {"output": output})
        assert events.is_terminal(whole)


ENDS = ("run.completed", "run.failed", "run.cancelled")


def test_the_status_of_an_end_needs_no_parsing() -> None:
    ends = [
        events.completed(None, cached=False, duration_ms=0),
        events.failed("timeout", "", retryable=False),
        events.cancelled(""),
    ]
    assert [msgspec.json.decode(end.data)["type"] for end in ends] == list(ENDS)
    assert [f"run.{end.arg}" for end in ends] == list(ENDS)


@pytest.mark.parametrize(("event", "op", "content"), EXPECTED)
def test_terminal_events_are_known_by_their_bytes(
    event: Event, op: str, content: dict[str, Any]
) -> None:
    assert events.is_terminal(event.data) == (op == "e")
    assert (content["type"] in ENDS) == (op == "e")


def test_text_that_looks_like_an_end_is_none() -> None:
    delta = events.delta_head("t", 0) + events.delta('{"type":"run.completed"').data
    assert not events.is_terminal(delta)
    assert not events.is_terminal(b'{"type":"run.completed.not"}')
    assert not events.is_terminal(b"")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_as_it_was(text: str) -> None:
    event = events.delta(text)
    whole = events.delta_head("t", 0) + event.data
    assert msgspec.json.decode(whole)["text"].encode() == text.encode()
    assert event.arg.encode() == text.encode()
    assert len(whole.decode().splitlines()) == 1


def test_every_failure_code_is_in_the_table_and_says_what_it_means() -> None:
    for code, meaning in RUN_FAILURES.items():
        event = msgspec.json.decode(events.failed(code, meaning, retryable=False).data)
        assert event["code"] == code and code.islower() and meaning
