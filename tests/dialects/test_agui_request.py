"""What AG-UI's clients send back of a turn becomes what a model takes."""

from __future__ import annotations

from typing import Any

from plateau_sse.api.agui_request import messages_of


def call(call_id: str, **more: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": call_id, "type": "function", "function": function}]
    return {"id": call_id, "role": "assistant", "toolCalls": calls, **more}


def result(call_id: str) -> dict[str, Any]:
    return {"id": f"r{call_id}", "role": "tool", "toolCallId": call_id, "content": call_id}


USER = {"id": "u", "role": "user", "content": "go"}


def test_calls_of_one_turn_are_one_message_and_their_results_follow() -> None:
    """The client keeps each as a message, and what the page has found behind all of them."""
    said = {"id": "t", "role": "assistant", "content": "Let me see. "}
    given = [
        USER,
        said,
        call("c1"),
        call("c2", content="And this."),
        result("c1"),
        result("c2"),
    ]
    user, asked, *results = messages_of(given, ())
    assert user["content"] == "go"
    assert asked["role"] == "assistant" and asked["content"] == "Let me see. And this."
    assert [it["id"] for it in asked["tool_calls"]] == ["c1", "c2"]
    assert [it["tool_call_id"] for it in results] == ["c1", "c2"]


def test_what_was_said_twice_stays_two_messages() -> None:
    given = [USER, *({"id": it, "role": "assistant", "content": it} for it in "ab"), USER]
    assert [it["content"] for it in messages_of(given, ())] == ["go", "a", "b", "go"]


def test_parts_and_texts_are_joined() -> None:
    parts = [{"type": "text", "text": "one"}]
    given = [
        USER,
        {"id": "p", "role": "assistant", "content": parts},
        call("c1", content="two"),
    ]
    _, asked, *_ = messages_of([*given, result("c1")], ())
    content = asked["content"]
    told = content if isinstance(content, str) else "".join(it["text"] for it in content)
    assert told == "onetwo"
