"""Messages of chat.completions as the Agents SDK's input.

Invariant: nothing of an exchange is lost on the way in; a part that the SDK has no form for is
an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plateau_sse.agents import AgentError, Message
from plateau_sse.agents.hosting.exchange import file_url_of
from plateau_sse.content import Content


def items_of(messages: Sequence[Message]) -> list[Any]:
    return [item for message in messages for item in _items(message)]


def _items(message: Message) -> Iterator[Any]:
    match message.role:
        case "tool":
            call_id = message.tool_call_id or ""
            yield {
                "type": "function_call_output",
                "call_id": call_id,
                "output": message.text,
            }
        case "assistant":
            if message.text:
                yield {"role": "assistant", "content": message.text}
            for call in message.tool_calls or []:
                function = call.get("function") or {}
                yield {
                    "type": "function_call",
                    "call_id": str(call.get("id") or ""),
                    "name": str(function.get("name") or ""),
                    "arguments": str(function.get("arguments") or "{}"),
                }
        case role:
            yield {"role": role, "content": _content(message.content)}


def _content(content: Content) -> Any:
    return [_part(part) for part in content] if isinstance(content, list) else content or ""


def _part(part: Mapping[str, Any]) -> Any:
    match part:
        case {"type": "text", "text": str(text)}:
            return {"type": "input_text", "text": text}
        case {"type": "image_url", "image_url": {"url": str(url)} as image}:
            detail = image.get("detail") or "auto"
            return {"type": "input_image", "image_url": url, "detail": detail}
        case {"type": "input_audio", "input_audio": dict(audio)}:
            return {"type": "input_audio", "input_audio": audio}
        case {"type": "file", "file": dict(file)} if url := file_url_of(file):
            return {"type": "input_file", "file_url": url}
        case {"type": "file", "file": {"file_data": str(data)} as file}:
            name = file.get("filename") or "file"
            return {"type": "input_file", "file_data": data, "filename": name}
        case {"type": "file", "file": {"file_id": str(file_id)}}:
            return {"type": "input_file", "file_id": file_id}
    kind = str(part.get("type"))[:40]
    raise AgentError(
        "invalid_options",
        f"A part of type {kind!r} cannot be told to this agent: send text, image_url, "
        "input_audio, or file with file_data, file_url or file_id.",
    )
