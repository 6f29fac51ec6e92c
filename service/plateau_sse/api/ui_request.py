"""What AI SDK's client sends, as the messages of chat.completions.

Invariant: a call of a tool goes with its result or not at all, as endpoints want it; what only
the page understands (data, sources, metadata, thoughts that led to no call) is not sent to an
agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plateau_sse import jsontext
from plateau_sse.api.bodies import DEPTH_MOST, invalid, too_deep
from plateau_sse.jsontext import is_deeper

_TOOL = "tool-"
# Of the last message, so many calls of tools, with ids of such length, are kept in mind.
_CALLS_MOST, _CALL_ID_CHARS = 100, 200
_DATA_URL = "data:"
# What is the page's alone, also where a user's message has it.
_PAGES = ("data-", "source-", "step-start", "reasoning", _TOOL, "dynamic-tool")


def messages_of(given: Any, *, alone: bool = False) -> list[dict[str, Any]]:
    """From UIMessages; Problem `invalid_request` where they are none. `alone`: the last one was
    sent without the others, as `message`."""
    if not isinstance(given, list) or not given:
        raise invalid("messages", "Send the chat's messages.")
    messages: list[dict[str, Any]] = []
    for index, message in enumerate(given):
        messages += _message(message, "message" if alone else f"messages[{index}]")
    return messages


def _message(message: Any, at: str) -> list[dict[str, Any]]:
    if not isinstance(message, Mapping):
        raise invalid(at, "Not an object.")
    parts = message.get("parts")
    if parts is None and isinstance(message.get("content"), str):
        # As releases before 5 sent them, and people by hand.
        parts = [{"type": "text", "text": message["content"]}]
    if not isinstance(parts, list) or not all(isinstance(it, Mapping) for it in parts):
        raise invalid(f"{at}.parts", "A list of the message's parts.")
    for index, part in enumerate(parts):
        # Before anything of it is made a text.
        if is_deeper(part, DEPTH_MOST):
            raise too_deep(f"{at}.parts[{index}]")
    role = message.get("role")
    if role == "assistant":
        return [said for step in _steps(parts) for said in _assistant(step)]
    if role not in ("user", "system"):
        raise invalid(f"{at}.role", "user, assistant or system.")
    content = [
        _content(part, f"{at}.parts[{index}]")
        for index, part in enumerate(parts)
        if not str(part.get("type")).startswith(_PAGES)
    ]
    if all(it["type"] == "text" for it in content):
        text = "".join(it["text"] for it in content)
        return [{"role": role, "content": text}]
    return [{"role": role, "content": content}]


def _content(part: Mapping[str, Any], at: str) -> dict[str, Any]:
    """A part of a user's message; Problem where it has no form here, for nobody is answered as
    if it had not been sent."""
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": _text(part)}
    url = part.get("url")
    if kind != "file" or not isinstance(url, str):
        raise invalid(at, "What can be sent: text, and files with a `url` (data: or https:).")
    media_type = str(part.get("mediaType") or "")
    if media_type.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    if media_type.startswith("audio/") and url.startswith(_DATA_URL):
        form = media_type.partition("/")[2].removeprefix("x-")
        data = {"data": url.partition(",")[2], "format": "mp3" if form == "mpeg" else form}
        return {"type": "input_audio", "input_audio": data}
    file = {"file_data": url}
    if isinstance(part.get("filename"), str):
        file["filename"] = part["filename"]
    return {"type": "file", "file": file}


def _text(part: Mapping[str, Any]) -> str:
    text = part.get("text")
    return text if isinstance(text, str) else ""


def _steps(parts: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    steps: list[list[Mapping[str, Any]]] = [[]]
    for part in parts:
        if part.get("type") == "step-start":
            steps.append([])
        else:
            steps[-1].append(part)
    return steps


def _assistant(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One round of an answer: what was said and called, and what the tools gave."""
    text = "".join(_text(part) for part in parts if part.get("type") == "text")
    calls, results = [], []
    for part in parts:
        name, call_id = _tool(part), part.get("toolCallId")
        result = _result(part)
        if not name or not isinstance(call_id, str) or result is None:
            continue
        arguments = jsontext.encode(part.get("input") or {}).decode()
        function = {"name": name, "arguments": arguments}
        calls.append({"id": call_id, "type": "function", "function": function})
        results.append({"role": "tool", "tool_call_id": call_id, "content": result})
    if calls:
        called = {"role": "assistant", "content": text or None, "tool_calls": calls}
        if thought := "".join(_text(part) for part in parts if part.get("type") == "reasoning"):
            called["reasoning_content"] = thought
        return [called, *results]
    return [{"role": "assistant", "content": text}] if text else []


def _tool(part: Mapping[str, Any]) -> str:
    kind = part.get("type")
    name = part.get("toolName") if kind == "dynamic-tool" else None
    if isinstance(kind, str) and kind.startswith(_TOOL):
        name = kind[len(_TOOL) :]
    return name if isinstance(name, str) else ""


def _result(part: Mapping[str, Any]) -> str | None:
    """What a tool gave, or what a person has said of its call; None where neither is there."""
    state = part.get("state")
    if state == "output-available":
        output = part.get("output")
        return output if isinstance(output, str) else jsontext.encode(output).decode()
    if state == "output-error":
        return f"Error: {part.get('errorText') or 'it failed'}"
    if state == "output-denied":
        return "Denied."
    approval = part.get("approval")
    if state == "approval-responded" and isinstance(approval, Mapping):
        return jsontext.encode({"approved": bool(approval.get("approved"))}).decode()
    return None


def calls_of(message: Mapping[str, Any]) -> list[str]:
    """The tools that were called in it and whose results are still to come. A call that has its
    result is over: where its id comes again, it is another call's."""
    found = [
        part["toolCallId"]
        for part in message.get("parts") or []
        if _tool(part) and isinstance(part.get("toolCallId"), str) and not _is_over(part)
    ]
    return [it for it in found if len(it) <= _CALL_ID_CHARS][-_CALLS_MOST:]


def _is_over(part: Mapping[str, Any]) -> bool:
    is_last = part.get("preliminary") is not True
    return (
        part.get("state") in ("output-available", "output-error", "output-denied") and is_last
    )


def approvals_of(given: Sequence[Any]) -> list[dict[str, Any]]:
    """What a person has answered in the last message, as an agent resumes with it."""
    last = given[-1]
    found: list[dict[str, Any]] = []
    for part in last.get("parts") or []:
        approval = part.get("approval")
        if part.get("state") != "approval-responded" or not isinstance(approval, Mapping):
            continue
        payload = {"approved": bool(approval.get("approved"))}
        if approval.get("reason"):
            payload["reason"] = approval["reason"]
        found.append({"id": approval.get("id"), "status": "resolved", "payload": payload})
    return found
