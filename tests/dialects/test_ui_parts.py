"""What stood in a message that goes on, told again to a page that has lost it."""

from __future__ import annotations

from typing import Any

import msgspec

from plateau_sse.dialects.ui_messages import PLAIN, going_on
from plateau_sse.dialects.ui_parts import replayed
from plateau_sse.store.conversations import chats
from plateau_sse.store.runs import events
from tests.dialects.machines import blocks, tape_of, told
from tests.dialects.test_dialects import Client

CALL = {"type": "tool-f", "toolCallId": "c1", "input": {"x": 1}}
APPROVAL = {"id": "a1", "approved": True, "reason": "fine"}


def chunks(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    content = replayed(parts)
    return [msgspec.json.decode(it) for it in blocks(content)] if content else []


def types(*parts: dict[str, Any]) -> list[str]:
    return [it["type"] for it in chunks(*parts)]


def test_parts_are_told_as_their_chunks() -> None:
    assert types(
        {"type": "step-start"},
        {"type": "reasoning", "text": "x"},
        {"type": "text", "text": "", "state": "done"},
        {"type": "file", "url": "data:,", "mediaType": "image/png"},
        {"type": "step-start"},
        {"type": "source-url", "sourceId": "s", "url": "u"},
        {"type": "source-document", "sourceId": "s", "mediaType": "m", "title": "t"},
        {"type": "data-x", "id": "d", "data": None},
        {"type": "of another release"},
        {"type": None},
    ) == [
        *("start-step", "reasoning-start", "reasoning-delta", "reasoning-end"),
        *("text-start", "text-end", "file", "finish-step", "start-step"),
        *("source-url", "source-document", "data-x", "finish-step"),
    ]
    assert chunks({"type": "data-x", "data": None}) == [{"type": "data-x", "data": None}]
    assert chunks() == []


def test_a_call_that_was_answered_is_not_handed_to_the_page() -> None:
    answered = {**CALL, "state": "output-available", "output": None}
    begun, written, given = chunks(answered)
    assert begun["type"] == "tool-input-start" and begun["toolName"] == "f"
    assert written["inputTextDelta"] == '{"x":1}'
    assert given == {"type": "tool-output-available", "toolCallId": "c1", "output": None}
    start = ["tool-input-start", "tool-input-delta"]
    failed = {**CALL, "state": "output-error", "errorText": "no"}
    assert types(failed) == [*start, "tool-output-error"]
    denied = {**CALL, "state": "output-denied", "approval": {"id": "a1", "approved": False}}
    approval = ["tool-approval-request", "tool-approval-response"]
    assert types(denied) == [*start, *approval, "tool-output-denied"]
    assert types({**CALL, "state": "approval-responded", "approval": APPROVAL}) == [
        *start,
        *approval,
    ]
    asked = {**CALL, "state": "approval-requested", "approval": {"id": "a1"}}
    assert types(asked) == [*start, "tool-approval-request"]
    dynamic = {**CALL, "type": "dynamic-tool", "toolName": "g", "state": "output-available"}
    assert chunks(dynamic)[0]["dynamic"] is True
    # Nobody has answered it.
    assert types({**CALL, "state": "input-available"}) == ["tool-input-available"]
    assert chunks({"type": "tool-f"}, {"type": "dynamic-tool", "toolCallId": "c"}) == []


def test_it_stands_before_the_step_of_the_run() -> None:
    """Whose tool is approved, and gives its result now."""
    parts: list[dict[str, Any]] = [
        {"type": "step-start"},
        {"type": "text", "text": "May I?"},
        {**CALL, "state": "approval-responded", "approval": APPROVAL},
    ]
    state = going_on("m1", ["c1"], replayed(parts))
    tape = tape_of([events.tool_result("c1", "done"), events.delta("So.")])
    found = [
        msgspec.json.decode(it) for it in blocks(told(PLAIN, state, tape.entries()).content)
    ]
    client = Client()
    for chunk in found:
        client.take(chunk)
    assert [it["type"] for it in found[-5:]] == [
        *("finish-step", "start-step", "tool-output-available", "text-start", "text-delta"),
    ]
    assert found[0] == {"type": "start", "messageId": "m1"}
    behind = told(PLAIN, state, tape.entries()[:1]).state
    assert behind == told(PLAIN, going_on("m2", ["c1"]), tape.entries()[:1]).state


def test_what_is_too_large_is_not_kept() -> None:
    parts: list[Any] = [{"type": "text", "text": "x" * 10_000}]
    assert chats.unpack(chats.pack(parts)) == parts
    many = [{"type": "text", "text": f"{n * 7919 % 1_000_003:x}"} for n in range(20_000)]
    assert chats.pack(many) == b""
