"""Events: one JSON object on one line, its type first, and what each folds into."""

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

EXPECTED: list[tuple[Event, str, dict[str, Any]]] = [
    (
        events.started("r", AWKWARD, 2),
        "-",
        {"type": "run.started", "run": "r", "agent": AWKWARD, "attempt": 2},
    ),
    (
        events.restarted(2, AWKWARD),
        "-",
        {"type": "run.restarted", "attempt": 2, "reason": AWKWARD},
    ),
    (events.delta(AWKWARD), "t", {"type": "message.delta", "text": AWKWARD}),
    (events.delta(""), "t", {"type": "message.delta", "text": ""}),
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
        "k",
        {
            "type": "tool.call",
            "id": "1",
            "name": AWKWARD,
            "arguments": {"q": [AWKWARD, None, 1.5]},
        },
    ),
    (
        events.tool_result("1", AWKWARD),
        "k",
        {"type": "tool.result", "id": "1", "output": AWKWARD},
    ),
    (
        events.completed({"input_tokens": 1, "output_tokens": 2}, cached=True, duration_ms=3),
        "e",
        {
            "type": "run.completed",
            "finish_reason": "stop",
            "usage": {"input_tokens": 1, "output_tokens": 2},
            "cached": True,
            "duration_ms": 3,
        },
    ),
    (
        events.completed(
            None, cached=False, duration_ms=0, finish_reason="length", output=AWKWARD
        ),
        "e",
        {
            "type": "run.completed",
            "finish_reason": "length",
            "usage": None,
            "cached": False,
            "duration_ms": 0,
            "output": AWKWARD,
        },
    ),
    (
        events.failed("timeout", AWKWARD, retryable=True),
        "e",
        {"type": "run.failed", "code": "timeout", "message": AWKWARD, "retryable": True},
    ),
    (events.cancelled(AWKWARD), "e", {"type": "run.cancelled", "reason": AWKWARD}),
]


@pytest.mark.parametrize(("event", "op", "content"), EXPECTED)
def test_an_event_is_one_line_of_json_with_its_type_first(
    event: Event, op: str, content: dict[str, Any]
) -> None:
    assert msgspec.json.decode(event.data) == content
    assert event.data.startswith(b'{"type":"' + content["type"].encode() + b'"')
    # No byte of it ends a line, for a reader of lines of any kind but the most liberal.
    assert not {b"\n", b"\r", b"\x00"} & {bytes([byte]) for byte in event.data}
    # In the order of the contract, which is also that of the tables in the docs.
    assert list(msgspec.json.decode(event.data)) == list(content)
    assert event.op == op


def test_what_folds_needs_no_parsing() -> None:
    assert events.delta(AWKWARD).arg == AWKWARD
    statuses = {
        events.completed(None, cached=False, duration_ms=0).arg: "run.completed",
        events.failed("timeout", "", retryable=False).arg: "run.failed",
        events.cancelled("").arg: "run.cancelled",
    }
    assert {kind: status for status, kind in statuses.items()} == events.TERMINAL_STATUS


@pytest.mark.parametrize(("event", "op", "content"), EXPECTED)
def test_terminal_events_are_known_by_their_bytes(
    event: Event, op: str, content: dict[str, Any]
) -> None:
    assert events.is_terminal(event.data) == (op == "e")
    assert (content["type"] in events.TERMINAL_STATUS) == (op == "e")


def test_text_that_looks_like_an_end_is_none() -> None:
    assert not events.is_terminal(events.delta('{"type":"run.completed"').data)
    assert not events.is_terminal(b'{"type":"run.completed.not"}')
    assert not events.is_terminal(b"")


def test_a_snapshot_carries_what_was_folded() -> None:
    progress = events.progress(1, 2, "", AWKWARD, 50.0)
    tools = [events.tool_call("1", "find", {"a": AWKWARD}), events.tool_result("1", None)]
    data = events.snapshot(
        "running", AWKWARD, progress.data, b",".join(tool.data for tool in tools), missed=7
    )
    assert b"\n" not in data and data.startswith(b'{"type":"run.snapshot"')
    snapshot = msgspec.json.decode(data)
    assert list(snapshot) == ["type", "status", "text", "progress", "tools", "missed"]
    assert snapshot == {
        "type": "run.snapshot",
        "status": "running",
        "text": AWKWARD,
        "progress": msgspec.json.decode(progress.data),
        "tools": [msgspec.json.decode(tool.data) for tool in tools],
        "missed": 7,
    }
    assert not events.is_terminal(data)


def test_a_snapshot_of_nothing() -> None:
    snapshot = msgspec.json.decode(events.snapshot("queued", "", b"", b"", missed=0))
    assert (snapshot["progress"], snapshot["tools"], snapshot["missed"]) == (None, [], 0)


@given(st.text())
def test_any_text_comes_back_as_it_was(text: str) -> None:
    event = events.delta(text)
    assert msgspec.json.decode(event.data)["text"].encode() == text.encode()
    assert event.arg.encode() == text.encode()
    assert b"\n" not in event.data and b"\r" not in event.data


def test_every_failure_code_is_in_the_table_and_says_what_it_means() -> None:
    for code, meaning in RUN_FAILURES.items():
        event = msgspec.json.decode(events.failed(code, meaning, retryable=False).data)
        assert event["code"] == code and code.islower() and meaning
