"""What OpenAI's Responses are asked with, as the messages and options of chat.completions.

Invariant: a call of a tool goes with its result or not at all, as endpoints want it; items that
only OpenAI's own servers understand (references to theirs, thoughts, calls of their tools) are
left out, never refused. A part of what is asked is told, or refused by its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plateau_sse import jsontext
from plateau_sse.api.bodies import DEPTH_MOST, invalid, too_deep
from plateau_sse.api.openai_asked import NOTES
from plateau_sse.jsontext import is_deeper

Message = dict[str, Any]

# What says how the answer is to be told or kept, and has no part in it; or bounds what only
# OpenAI's own servers do, and is refused by endpoints of chat.completions.
_TOLD = (
    *("model", "input", "instructions", "stream", "stream_options", "background", "store"),
    *("previous_response_id", "conversation", "user", "include", "truncation"),
    *("background_options", "context_management", "max_tool_calls", "top_logprobs"),
    *NOTES,
)
# Of `reasoning`, what has no other name there.
_REASONING = ("effort", "summary", "generate_summary", "context", "mode")
_ROLES = ("system", "developer", "user", "assistant")
_TEXTS = ("input_text", "output_text", "text")
_FORMS = (
    "What can be sent: input_text, input_image with an image_url (or a data: URL), input_file "
    "with file_data, file_url or file_id, input_audio."
)
Form = Callable[[Any], dict[str, Any] | None]


def options_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Everything else, where chat.completions have it by another name under that."""
    given = {name: body[name] for name in body.keys() - _TOLD if body[name] is not None}
    if is_deeper(given, DEPTH_MOST):
        raise too_deep("")
    if "max_output_tokens" in given:
        given.setdefault("max_completion_tokens", given.pop("max_output_tokens"))
    if isinstance(body.get("prompt"), dict):
        # OpenAI's servers alone know what it says.
        raise invalid("prompt", "It is kept elsewhere: send `instructions` that say it.")
    if isinstance(given.get("reasoning"), dict):
        given = _reasoning_options(given.pop("reasoning")) | given
    if isinstance(text := given.get("text"), dict):
        del given["text"]
        given |= _text_options(text)
    if isinstance(tools := given.get("tools"), list):
        given["tools"] = [_tool(it) for it in tools]
        if not tools:
            # Endpoints refuse an empty list, and a choice among none.
            for name in ("tools", "tool_choice", "parallel_tool_calls"):
                given.pop(name, None)
    if isinstance(choice := given.get("tool_choice"), dict):
        given["tool_choice"] = _tool(choice)
    return given


def _reasoning_options(reasoning: Mapping[str, Any]) -> dict[str, Any]:
    """The effort; and what some endpoints know beside it, under the name that it came by."""
    found: dict[str, Any] = {}
    if isinstance(reasoning.get("effort"), str):
        found["reasoning_effort"] = reasoning["effort"]
    if rest := {name: it for name, it in reasoning.items() if name not in _REASONING}:
        found["reasoning"] = rest
    return found


def _text_options(text: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if text.get("verbosity") is not None:
        found["verbosity"] = text["verbosity"]
    form = text.get("format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        schema = {name: it for name, it in form.items() if name != "type"}
        found["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif isinstance(form, dict) and form.get("type") != "text":
        found["response_format"] = form
    return found


def _tool(tool: Any) -> Any:
    """A function's name and the rest stand one level deeper there."""
    if not isinstance(tool, dict) or tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {n: it for n, it in tool.items() if n != "type"}}


def messages_of(given: Any) -> list[Message]:
    """Of `input`, in its order; Problem where it is none."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise invalid("input", "A text, or a list of items.")
    messages: list[Message] = []
    for index, item in enumerate(given):
        at = f"input[{index}]"
        if not isinstance(item, Mapping):
            raise invalid(at, "Not an object.")
        if is_deeper(dict(item), DEPTH_MOST):
            raise too_deep(at)
        _add(messages, item, at)
    return messages


def _add(messages: list[Message], item: Mapping[str, Any], at: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        add_said(messages, _message(item, at))
    elif kind == "reasoning":
        # As it was told here: a summary, or what is encrypted, is OpenAI's own.
        content = item.get("content")
        parts = (
            [it for it in content if isinstance(it, Mapping)]
            if isinstance(content, list)
            else []
        )
        add_thought(messages, "".join(str(it.get("text") or "") for it in parts))
    elif kind == "function_call":
        call = _call(item)
        if call is None:
            return
        last = messages[-1] if messages else {}
        if last.get("role") == "assistant":
            # What was said and called in one round is one message.
            last.setdefault("tool_calls", []).append(call)
        else:
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    elif kind == "function_call_output" and isinstance(item.get("call_id"), str):
        content = _result(item.get("output"))
        messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})


def add_said(messages: list[Message], message: Message) -> None:
    """What was thought before it is a part of it."""
    last = messages[-1] if messages else {}
    if message["role"] == "assistant" and last.get("content", "") is None:
        if not last.get("tool_calls"):
            last["content"] = message["content"]
            return
    messages.append(message)


def add_thought(messages: list[Message], text: str) -> None:
    """To what was said and called in the same round; it stays where there is a call."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    last = messages[-1]
    last["reasoning_content"] = last.get("reasoning_content", "") + text


def _message(item: Mapping[str, Any], at: str) -> Message:
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise invalid(f"{at}.role", f"One of {', '.join(_ROLES)}.")
    if isinstance(content, list):
        needed = "" if role == "assistant" else _FORMS
        content = content_of(content, _content, f"{at}.content", needed)
    if not isinstance(content, str | list):
        raise invalid(f"{at}.content", "A text, or a list of parts.")
    return {"role": role, "content": content}


def content_of(
    given: Sequence[Any], form: Form, at: str, needed: str
) -> str | list[dict[str, Any]]:
    """The parts, each in its form here; a text where they are nothing else. What has none is
    left out of what an agent has said itself; of what it is asked it is refused, with what is
    `needed`: nobody is answered as if a picture had not been sent."""
    parts = []
    for index, part in enumerate(given):
        found = form(part)
        if found is not None:
            parts.append(found)
        elif needed:
            raise invalid(f"{at}[{index}]", needed)
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _content(part: Any) -> dict[str, Any] | None:
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type")
    if kind in _TEXTS or kind == "refusal":
        text = part.get("refusal" if kind == "refusal" else "text")
        return {"type": "text", "text": text if isinstance(text, str) else ""}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        image = {"url": part["image_url"]}
        if isinstance(part.get("detail"), str):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_file":
        names = ("file_data", "file_id", "file_url", "filename")
        file = {it: part[it] for it in names if part.get(it)}
        return {"type": "file", "file": file} if file.keys() - {"filename"} else None
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    return None


def _call(item: Mapping[str, Any]) -> dict[str, Any] | None:
    call_id, name, arguments = item.get("call_id"), item.get("name"), item.get("arguments")
    if not isinstance(call_id, str) or not isinstance(name, str):
        return None
    if not isinstance(arguments, str):
        arguments = jsontext.encode(arguments or {}).decode()
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _result(output: Any) -> str:
    if isinstance(output, str):
        return output
    if isinstance(output, list):
        parts = [_content(part) for part in output]
        texts = [part["text"] for part in parts if part and part["type"] == "text"]
        if texts and len(texts) == len(parts):
            return "".join(texts)
    return jsontext.encode(output).decode()


def matched(
    messages: Sequence[Message],
    field: str = "input",
    calls_are: str = "`function_call` items",
    *,
    elsewhere: bool = False,
) -> list[Message]:
    """Without calls that nobody has answered, results that nobody has called for, and thoughts
    that led to no call. Calls that are not here may be `elsewhere`; Problem where they are not,
    and it is their results that are asked with."""
    answered = {it.get("tool_call_id") for it in messages if it["role"] == "tool"}
    called: set[Any] = set()
    found: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            if elsewhere or message["tool_call_id"] in called:
                found.append(message)
            continue
        calls = [it for it in message.get("tool_calls", []) if it["id"] in answered]
        called |= {it["id"] for it in calls}
        thought = message.get("reasoning_content")
        besides = ("tool_calls", "reasoning_content")
        said = {name: it for name, it in message.items() if name not in besides}
        if calls:
            said["tool_calls"] = calls
        if calls and thought:
            said["reasoning_content"] = thought
        if said["content"] is not None or calls:
            found.append(said)
    last = messages[-1] if messages else {"role": ""}
    if last["role"] == "tool" and last not in found[-1:]:
        detail = f"There is no call {last['tool_call_id'][:100]!r}: send the {calls_are}, too."
        raise invalid(field, detail)
    return found


def conversation_of(given: Any) -> str:
    """The id of the conversation that is named, '' for none."""
    if isinstance(given, Mapping):
        given = given.get("id")
    if given is None:
        return ""
    if not isinstance(given, str):
        raise invalid("conversation", "The id of a conversation.")
    return given
