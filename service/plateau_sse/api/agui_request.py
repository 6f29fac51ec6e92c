"""What AG-UI's clients send, as the messages and options of chat.completions.

Invariant: a call of a tool goes with its result or not at all, as endpoints want it; what only
the client understands (activities, thoughts that led to no call) is not sent to an agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plateau_sse import jsontext
from plateau_sse.api.bodies import DEPTH_MOST, invalid, too_deep
from plateau_sse.api.responses_request import add_said, add_thought, content_of, matched
from plateau_sse.api.resuming import message_of, texts_of
from plateau_sse.intake.ask import INSTRUCTIONS
from plateau_sse.jsontext import is_deeper

Message = dict[str, Any]

_FORMS = (
    "What can be sent: text; image, audio, video and document with a `source` of data, url or "
    "file, that has a `value`."
)
_CONTEXT = "The application's context:"
_ROLES = ("system", "developer", "user", "assistant", "tool")


def messages_of(given: Any, resume: Sequence[Mapping[str, Any]]) -> list[Message]:
    """From the messages, and what a person has answered to the last; Problem
    `invalid_request` where they are none."""
    if not isinstance(given, list):
        raise invalid("messages", "A list of messages.")
    messages: list[Message] = []
    for index, message in enumerate(given):
        at = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise invalid(at, "Not an object.")
        if is_deeper(dict(message), DEPTH_MOST):
            raise too_deep(at)
        if message.get("role") in _ROLES:
            _add(messages, _message(message, at))
        elif message.get("role") == "reasoning" and isinstance(message.get("content"), str):
            add_thought(messages, message["content"])
    if resume and messages and messages[-1]["role"] not in ("user", "tool"):
        messages += _answers(messages, resume)
    return matched(messages, "messages", "assistant's messages with their `toolCalls`")


def _add(messages: list[Message], message: Message) -> None:
    """Clients keep each call of a turn as a message of its own; to a model what was said and
    called in one round is one message, whose results all follow."""
    last: Message = messages[-1] if messages else {"role": ""}
    is_one = last["role"] == message["role"] == "assistant"
    if is_one and (last.get("tool_calls") or message.get("tool_calls")):
        last["tool_calls"] = [*last.get("tool_calls", ()), *message.get("tool_calls", ())]
        last["content"] = _joined(last["content"], message["content"])
    else:
        add_said(messages, message)


def _joined(one: Any, other: Any) -> Any:
    """Of texts, lists of parts, and nothing."""
    if not one or not other:
        return one or other
    if isinstance(one, str) and isinstance(other, str):
        return one + other
    return [*_parts(one), *_parts(other)]


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _message(message: Mapping[str, Any], at: str) -> Message:
    role = message["role"]
    found: Message = {"role": role, "content": _content(message, at)}
    if role == "assistant":
        calls = message.get("toolCalls") or []
        if not isinstance(calls, list):
            raise invalid(f"{at}.toolCalls", "A list of calls.")
        found["tool_calls"] = [call for call in map(_call, calls) if call is not None]
    elif role == "tool":
        if not isinstance(message.get("toolCallId"), str):
            raise invalid(f"{at}.toolCallId", "The id of the call that it answers.")
        found["tool_call_id"] = message["toolCallId"]
        if isinstance(message.get("error"), str) and message["error"]:
            found["content"] = f"Error: {message['error']}"
    if found["content"] is None and role != "assistant":
        raise invalid(f"{at}.content", "A text, or a list of parts.")
    return found


def _content(message: Mapping[str, Any], at: str) -> str | list[dict[str, Any]] | None:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"{at}.content", "A text, or a list of parts.")
    needed = "" if message["role"] == "assistant" else _FORMS
    return content_of(content, _part, f"{at}.content", needed)


def _part(part: Any) -> dict[str, Any] | None:
    if not isinstance(part, Mapping):
        return None
    kind, source = part.get("type"), part.get("source")
    if kind == "text":
        text = part.get("text")
        return {"type": "text", "text": text if isinstance(text, str) else ""}
    if kind == "binary":
        kind, source = _of_binary(part)
    if not isinstance(source, Mapping) or not isinstance(source.get("value"), str):
        return None
    if kind not in ("image", "audio", "video", "document"):
        return None
    value, media_type = source["value"], str(source.get("mimeType") or "")
    if source.get("type") == "file":
        # An id is no address.
        return {"type": "file", "file": {"file_id": value}}
    is_data = source.get("type") == "data"
    url = f"data:{media_type};base64,{value}" if is_data else value
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    if kind == "audio" and is_data:
        form = media_type.partition("/")[2].removeprefix("x-")
        data = {"data": value, "format": "mp3" if form == "mpeg" else form}
        return {"type": "input_audio", "input_audio": data}
    file = {"file_data": url}
    if isinstance(part.get("filename"), str):
        file["filename"] = part["filename"]
    return {"type": "file", "file": file}


def _of_binary(part: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The kind and the source that it has today: clients before 1.0 have one type for all."""
    media_type = str(part.get("mimeType") or "")
    kind = media_type.partition("/")[0]
    for name, what in (("data", "data"), ("url", "url"), ("id", "file")):
        if isinstance(part.get(name), str) and part[name]:
            source = {"type": what, "value": part[name], "mimeType": media_type}
            return kind if kind in ("image", "audio", "video") else "document", source
    return kind, {}


def _call(call: Any) -> dict[str, Any] | None:
    if not isinstance(call, Mapping) or not isinstance(call.get("id"), str):
        return None
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return None
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = jsontext.encode(arguments or {}).decode()
    told = {"name": function["name"], "arguments": arguments}
    return {"id": call["id"], "type": "function", "function": told}


def _answers(messages: Sequence[Message], resume: Sequence[Mapping[str, Any]]) -> list[Message]:
    """What a person has said, as the results of the calls that wait for it, or in words."""
    texts = texts_of(resume)
    answered = {it.get("tool_call_id") for it in messages}
    calls = messages[-1].get("tool_calls") or []
    waiting = [call["id"] for call in calls if call["id"] not in answered]
    if not waiting:
        return [message_of(resume)]
    last = texts[-1]
    texts += [last] * (len(waiting) - len(texts))
    return [
        {"role": "tool", "tool_call_id": call_id, "content": text}
        for call_id, text in zip(waiting, texts, strict=False)
    ]


def resume_of(given: Any) -> list[dict[str, Any]]:
    """What a person has answered, as an agent resumes with it."""
    if given is None:
        return []
    if not isinstance(given, list):
        raise invalid("resume", "A list of answers.")
    found: list[dict[str, Any]] = []
    for index, entry in enumerate(given):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("interruptId"), str):
            raise invalid(f"resume[{index}]", "An answer, with its `interruptId`.")
        status = "cancelled" if entry.get("status") == "cancelled" else "resolved"
        answer: dict[str, Any] = {"id": entry["interruptId"], "status": status}
        if entry.get("payload") is not None:
            answer["payload"] = entry["payload"]
        found.append(answer)
    return found


def options_of(body: Mapping[str, Any], resume: list[dict[str, Any]]) -> dict[str, Any]:
    """What the application passes on, and what else an agent may want to know."""
    passed = body.get("forwardedProps")
    found = {
        name: value
        for name, value in (passed.items() if isinstance(passed, Mapping) else ())
        if value is not None
    }
    if tools := _tools(body.get("tools")):
        found["tools"] = tools
    for name in ("context", "state"):
        if body.get(name):
            found[name] = body[name]
    if resume:
        found["resume"] = resume
    if is_deeper(found, DEPTH_MOST):
        raise too_deep("")
    return found


def for_model(
    messages: Sequence[Message], options: Mapping[str, Any]
) -> tuple[list[Message], dict[str, Any]]:
    """For an agent that is a model: what the application says of its context is told, and its
    state, of which a model knows nothing, is not."""
    rest = {name: it for name, it in options.items() if name not in ("context", "state")}
    context = options.get("context")
    told = [
        f"{it.get('description') or ''}:\n{_told(it.get('value'))}"
        for it in (context if isinstance(context, list) else ())
        if isinstance(it, Mapping)
    ]
    if not told:
        return list(messages), rest
    first = next((i for i, it in enumerate(messages) if it["role"] not in INSTRUCTIONS), 0)
    said = {"role": "system", "content": "\n\n".join([_CONTEXT, *told])}
    return [*messages[:first], said, *messages[first:]], rest


def _told(value: Any) -> str:
    return value if isinstance(value, str) else jsontext.encode(value).decode()


def _tools(given: Any) -> list[dict[str, Any]]:
    found = []
    for tool in given if isinstance(given, list) else []:
        if isinstance(tool, Mapping) and isinstance(tool.get("name"), str):
            names = ("name", "description", "parameters")
            function = {name: tool[name] for name in names if tool.get(name) is not None}
            found.append({"type": "function", "function": function})
    return found
