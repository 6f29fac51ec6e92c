"""Calls of tools that whoever asked is to execute, as chat.completions have them.

Invariant: what a tool gave goes to a model with the call that it answers, also where that was
not sent along, and is to be found in the conversation alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from plateau_sse import jsontext
from plateau_sse.content import with_answer
from plateau_sse.store.conversations.conversations import Conversations, Message

# Answers that are looked at: the latest has called, but for those that failed since.
ANSWERS_MOST = 5


class Called(NamedTuple):
    """The answer with this id as the message that has called the tools; `ids` are the calls."""

    id: str
    message: dict[str, Any]
    ids: frozenset[str]


def arguments_of(call: Mapping[str, Any]) -> str:
    """As JSON text, also of a call without any: whoever reads it, reads JSON."""
    arguments = call["arguments"]
    if not isinstance(arguments, str):
        return jsontext.encode(arguments).decode()
    return arguments if arguments.strip() else "{}"


def message_of(parts: Sequence[Mapping[str, Any]], output: str | None) -> dict[str, Any] | None:
    """An answer, as records show its parts, as a message of the assistant; None for nothing."""
    thought = "".join(part["text"] for part in parts if part["type"] == "reasoning")
    calls = [
        {
            "id": part["id"],
            "type": "function",
            "function": {"name": part["name"], "arguments": arguments_of(part)},
        }
        for part in parts
        if part["type"] == "tool.call" and part.get("client")
    ]
    text = with_answer(parts, output)
    if calls:
        called = {"role": "assistant", "content": text or None, "tool_calls": calls}
        return called | ({"reasoning_content": thought} if thought else {})
    return {"role": "assistant", "content": text} if text else None


def unasked(messages: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The results before which there is no call of theirs."""
    called: set[Any] = set()
    found: set[str] = set()
    for message in messages:
        if message["role"] == "tool" and message["tool_call_id"] not in called:
            found.add(message["tool_call_id"])
        called |= {call["id"] for call in message.get("tool_calls") or ()}
    return frozenset(found)


async def find(
    conversations: Conversations, place: str, context: Sequence[Message], ids: frozenset[str]
) -> Called | None:
    """The latest answer that has made all of these calls, without its others, which would want
    results, too; None where none is kept whole. Raises StoreError."""
    answers = [message.id for message in context if message.role == "assistant"]
    for message_id in answers[: -ANSWERS_MOST - 1 : -1]:
        whole = await conversations.whole(place, message_id)
        if whole is None or whole.truncated:
            continue
        message = message_of(whole.parts, whole.text) or {}
        calls = [call for call in message.get("tool_calls", ()) if call["id"] in ids]
        if {call["id"] for call in calls} == ids:
            return Called(message_id, message | {"tool_calls": calls}, ids)
    return None
