"""The dialects of others, as their clients have them: what is asked, and what is heard.

Invariant: what is heard becomes events of our own, as far as a dialect tells them, and an
answer has ended only where its dialect says so. One row a dialect, under its `name`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

Event = dict[str, Any]
# Takes the data of one frame. Raises ValueError for what is no frame of its dialect.
Ear = Callable[[str], Iterator[Event]]

# What these dialects call the reasons for an end.
_REASONS = {"content-filter": "content_filter", "tool-calls": "tool_calls"}
# An answer that was cut off, and is there for who asks again.
INTERRUPTED = ("interrupted", "restarted")


class Question(NamedTuple):
    """`chat` names the conversation; with `remembered` what was said in it stands before."""

    agent: str
    text: str
    options: Mapping[str, Any]
    chat: str
    remembered: bool = False


class Spoken(NamedTuple):
    """Where a streamed answer is asked for, `{agent}` being who is asked; with which body, and
    what is heard of one."""

    path: str
    body: Callable[[Question], dict[str, Any]]
    ear: Callable[[], Ear]
    # Whether it can name a conversation and leave its history to the server.
    remembers: bool = False

    def path_to(self, agent: str) -> str:
        return self.path.replace("{agent}", quote(agent, safe=""))


def _chat_body(asked: Question) -> dict[str, Any]:
    message = {"role": "user", "content": asked.text}
    usage = {"include_usage": True}
    told = {"model": asked.agent, "messages": [message], "stream": True}
    return {**asked.options, **told, "stream_options": usage}


def _chat_ear() -> Ear:
    end: Event = {"type": "run.completed"}

    def hear(data: str) -> Iterator[Event]:
        if data == "[DONE]":
            if "finish_reason" in end:
                yield end
            return
        chunk = _object(data)
        if "error" in chunk:
            error = chunk["error"]
            yield _failed(error.get("code"), error.get("message"))
        if chunk.get("usage"):
            end["usage"] = chunk["usage"]
        for choice in chunk.get("choices", ()):
            delta = choice["delta"]
            yield from _said("reasoning.delta", delta.get("reasoning_content"))
            yield from _said("message.delta", delta.get("content"))
            for call in delta.get("tool_calls") or ():
                function = call["function"]
                told = {"id": call["id"], "name": function["name"], "client": True}
                yield {"type": "tool.call", **told, "arguments": function["arguments"]}
            if choice.get("finish_reason"):
                end["finish_reason"] = choice["finish_reason"]

    return hear


def _ui_body(asked: Question) -> dict[str, Any]:
    parts = [{"type": "text", "text": asked.text}]
    message = {"id": "question", "role": "user", "parts": parts}
    sent = {"message": message} if asked.remembered else {"messages": [message]}
    told = {"id": asked.chat, "agent": asked.agent, "trigger": "submit-message"}
    return {**asked.options, **told, **sent}


def _ui_ear() -> Ear:
    end: Event = {}

    def hear(data: str) -> Iterator[Event]:
        if data == "[DONE]":
            if end:
                yield end
            return
        chunk = _object(data)
        kind = chunk["type"]
        if kind == "finish":
            reason = chunk.get("finishReason", "other")
            end.update(type="run.completed", finish_reason=_REASONS.get(reason, reason))
        elif kind == "error":
            end.update(_failed("error", chunk["errorText"]))
        elif kind == "abort":
            end.update(type="run.cancelled", reason=chunk.get("reason"))
        elif kind == "reset-step":
            yield {"type": "run.restarted", "reason": "reset-step"}
        elif kind.startswith("data-"):
            yield {"type": "data", "name": kind[5:], "value": chunk["data"]}
        elif make := _UI_PARTS.get(kind):
            yield make(chunk)

    return hear


def _ui_result(chunk: Mapping[str, Any]) -> Event:
    told = {"type": "tool.result", "id": chunk["toolCallId"]}
    if "errorText" in chunk:
        return {**told, "error": chunk["errorText"]}
    return {**told, "output": chunk["output"], "preliminary": chunk.get("preliminary", False)}


_UI_PARTS: dict[str, Callable[[Mapping[str, Any]], Event]] = {
    "text-delta": lambda it: {"type": "message.delta", "text": it["delta"]},
    "reasoning-delta": lambda it: {"type": "reasoning.delta", "text": it["delta"]},
    "tool-input-available": lambda it: {
        "type": "tool.call",
        "id": it["toolCallId"],
        "name": it["toolName"],
        "arguments": it["input"],
        "client": not it.get("providerExecuted"),
    },
    "tool-output-available": _ui_result,
    "tool-output-error": _ui_result,
    "tool-approval-request": lambda it: {
        "type": "input.request",
        "id": it["approvalId"],
        "kind": "approval",
        "message": it["toolCallId"],
    },
    "source-url": lambda it: {**it, "type": "source", "id": it["sourceId"]},
    "source-document": lambda it: {
        **it,
        "type": "source",
        "id": it["sourceId"],
        "media_type": it["mediaType"],
    },
    "file": lambda it: {"type": "file", "url": it["url"], "media_type": it["mediaType"]},
}


def _responses_body(asked: Question) -> dict[str, Any]:
    named = {"conversation": asked.chat} if asked.remembered else {}
    return {**asked.options, "model": asked.agent, "input": asked.text, "stream": True, **named}


def _responses_ear() -> Ear:
    calls = 0

    def hear(data: str) -> Iterator[Event]:
        nonlocal calls
        event = _object(data)
        kind = event["type"]
        if kind == "response.output_text.delta":
            yield from _said("message.delta", event["delta"])
        elif kind == "response.reasoning_text.delta":
            yield from _said("reasoning.delta", event["delta"])
        elif kind == "response.output_item.done" and event["item"]["type"] == "function_call":
            calls += 1
            item = event["item"]
            told = {"id": item["call_id"], "name": item["name"], "client": True}
            yield {"type": "tool.call", **told, "arguments": item["arguments"]}
        elif kind == "error":
            yield _failed(event["code"], event["message"])
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            yield _responses_end(event["response"], "tool_calls" if calls else "stop")

    return hear


def _responses_end(response: Mapping[str, Any], reason: str) -> Event:
    error, status = response["error"] or {}, response["status"]
    if status == "cancelled":
        return {"type": "run.cancelled", "reason": error.get("message")}
    if status == "failed":
        return _failed(error.get("code"), error.get("message"))
    if status == "incomplete":
        why = response["incomplete_details"]["reason"]
        reason = "length" if why == "max_output_tokens" else why
    return {"type": "run.completed", "finish_reason": reason, "usage": response["usage"]}


def _agui_body(asked: Question) -> dict[str, Any]:
    message = {"id": "question", "role": "user", "content": asked.text}
    told = {"threadId": asked.chat, "runId": uuid.uuid4().hex, "messages": [message]}
    nothing: dict[str, Any] = {"tools": [], "context": [], "state": {}}
    return {**told, **nothing, "forwardedProps": dict(asked.options)}


def _agui_ear() -> Ear:
    calls: dict[str, Event] = {}

    def hear(data: str) -> Iterator[Event]:
        event = _object(data)
        kind = event["type"]
        if kind == "TOOL_CALL_START":
            told = {"id": event["toolCallId"], "name": event["toolCallName"]}
            calls[told["id"]] = {"type": "tool.call", **told, "arguments": ""}
        elif kind == "TOOL_CALL_ARGS":
            calls[event["toolCallId"]]["arguments"] += event["delta"]
        elif kind == "TOOL_CALL_END":
            yield calls.pop(event["toolCallId"])
        elif kind == "RUN_FINISHED":
            yield from _agui_end(event)
        elif make := _AGUI_EVENTS.get(kind):
            yield make(event)

    return hear


def _agui_custom(name: str, value: Any) -> Event:
    ours = {"source": "source", "file": "file", "progress": "run.progress"}
    if name in ours and isinstance(value, dict):
        return {**value, "type": ours[name]}
    return {"type": "data", "name": name, "value": value}


def _agui_end(event: Mapping[str, Any]) -> Iterator[Event]:
    outcome = event.get("outcome") or {"type": "success"}
    if outcome["type"] == "cancelled":
        yield {"type": "run.cancelled", "reason": None}
        return
    for asked in outcome.get("interrupts", ()):
        told = {"id": asked["id"], "kind": asked["reason"], "message": asked.get("message")}
        yield {"type": "input.request", **told}
    reason = (event.get("metadata") or {}).get("finishReason")
    yield {"type": "run.completed", "finish_reason": reason}


_AGUI_EVENTS: dict[str, Callable[[Mapping[str, Any]], Event]] = {
    "TEXT_MESSAGE_CONTENT": lambda it: {"type": "message.delta", "text": it["delta"]},
    "REASONING_MESSAGE_CONTENT": lambda it: {"type": "reasoning.delta", "text": it["delta"]},
    "TOOL_CALL_RESULT": lambda it: {
        "type": "tool.result",
        "id": it["toolCallId"],
        "output": it["content"],
    },
    "STEP_STARTED": lambda it: {"type": "step", "name": it["stepName"]},
    "CUSTOM": lambda it: _agui_custom(it["name"], it["value"]),
    "RUN_ERROR": lambda it: _failed(it.get("code"), it["message"]),
}


def _object(data: str) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _said(kind: str, text: str | None) -> Iterator[Event]:
    if text:
        yield {"type": kind, "text": text}


def _failed(code: Any, message: Any) -> Event:
    return {"type": "run.failed", "code": code or "error", "message": message}


SPOKEN: dict[str, Spoken] = {
    "chat": Spoken("/v1/chat/completions", _chat_body, _chat_ear),
    "responses": Spoken("/v1/responses", _responses_body, _responses_ear, remembers=True),
    "ui": Spoken("/api/chat", _ui_body, _ui_ear, remembers=True),
    "agui": Spoken("/agui?agent={agent}", _agui_body, _agui_ear),
}
