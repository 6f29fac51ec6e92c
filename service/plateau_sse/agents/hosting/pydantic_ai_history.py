"""Messages of chat.completions as pydantic-ai's history.

Invariant: nothing of an exchange is lost on the way in; a part that pydantic-ai has no form for
is an error that names it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plateau_sse.agents import AgentError, Message
from plateau_sse.agents.hosting.exchange import file_url_of
from plateau_sse.content import Content


def prompt_of(messages: Sequence[Message], *, whole: bool = False) -> Any:
    """What the user said last, where that is the last message; else None. The `whole` is also
    all that the user said before."""
    if not messages or messages[-1].role != "user":
        return None
    said = [_content(it.content) for it in messages if it.role == "user"]
    if not whole or len(said) == 1:
        return said[-1]
    return [part for it in said for part in (it if isinstance(it, list) else [it])]


def history_of(messages: Sequence[Message]) -> list[Any]:
    """As `ModelRequest` and `ModelResponse`; calls that were never answered are closed."""
    from pydantic_ai.messages import ModelRequest, ModelResponse, repair_messages

    history: list[Any] = []
    names: dict[str, str] = {}
    for message in messages:
        if message.role == "assistant":
            history.append(ModelResponse(parts=list(_said(message, names))))
            continue
        part = _asked(message, names)
        if history and isinstance(history[-1], ModelRequest):
            history[-1].parts = [*history[-1].parts, part]
        else:
            history.append(ModelRequest(parts=[part]))
    return list(repair_messages(history))


def _said(message: Message, names: dict[str, str]) -> Iterator[Any]:
    from pydantic_ai.messages import TextPart, ToolCallPart

    if message.text:
        yield TextPart(message.text)
    for call in message.tool_calls or []:
        function = call.get("function") or {}
        name, call_id = str(function.get("name") or ""), str(call.get("id") or "")
        names[call_id] = name
        yield ToolCallPart(name, function.get("arguments"), call_id)


def _asked(message: Message, names: Mapping[str, str]) -> Any:
    from pydantic_ai.messages import SystemPromptPart, ToolReturnPart, UserPromptPart

    if message.role in ("system", "developer"):
        return SystemPromptPart(message.text)
    if message.role == "tool":
        call_id = message.tool_call_id or ""
        name = message.name or names.get(call_id) or "tool"
        return ToolReturnPart(name, message.text, call_id)
    return UserPromptPart(_content(message.content))


def _content(content: Content) -> Any:
    if not isinstance(content, list):
        return content or ""
    return [_part(part) for part in content]


def _part(part: Mapping[str, Any]) -> Any:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image_url", "image_url": {"url": str(url)} as image}:
            return _at(url, "image", image.get("detail"))
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(form)}}:
            return _binary(data, f"audio/{'mpeg' if form == 'mp3' else form}")
        case {"type": "file", "file": dict(file)} if url := file_url_of(file):
            return _at(url, "file", None)
        case {"type": "file", "file": {"file_data": str(url)}}:
            return _at(url, "file", None)
    kind = str(part.get("type"))[:40]
    raise AgentError(
        "invalid_options",
        f"A part of type {kind!r} cannot be told to this agent: send text, image_url, "
        "input_audio with data and format, or file with file_data or file_url.",
    )


def _at(url: str, what: str, detail: Any) -> Any:
    from pydantic_ai.messages import BinaryContent, DocumentUrl, ImageUrl

    told = {"detail": detail} if detail else None
    if not url.startswith("data:"):
        return ImageUrl(url, vendor_metadata=told) if what == "image" else DocumentUrl(url)
    try:
        found = BinaryContent.from_data_uri(url)
    except (ValueError, binascii.Error):
        raise AgentError(
            "invalid_options", f"The data: URL of an {what} cannot be read."
        ) from None
    found.vendor_metadata = told
    return found


def _binary(data: str, media_type: str) -> Any:
    from pydantic_ai.messages import BinaryContent

    try:
        return BinaryContent(base64.b64decode(data, validate=True), media_type=media_type)
    except (ValueError, binascii.Error):
        raise AgentError(
            "invalid_options", "The data of an input_audio is no base64."
        ) from None
