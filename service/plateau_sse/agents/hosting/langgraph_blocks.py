"""What stands in LangChain's messages, in Plateau's terms.

Invariant: nothing is remembered from one message to the next; what has no counterpart is left
out.
"""

from __future__ import annotations

import operator
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

from plateau_sse.agents import Data, File, ToolCall, Yielded
from plateau_sse.agents.hosting.telling import file_of, jsonable


def file_in(block: Mapping[str, Any]) -> Yielded:
    media_type = str(block.get("mime_type") or f"{block['type']}/*")
    if url := str(block.get("url") or ""):
        return File(media_type, url)
    return file_of(media_type, b64decode(block.get("base64") or ""))


def blocks_of(message: Any) -> list[dict[str, Any]]:
    content = message.content
    if isinstance(content, str):
        # Most pieces: nothing to be translated.
        chunks = [{"type": "tool_call_chunk", **it} for it in _chunks(message)]
        thought = message.additional_kwargs.get("reasoning_content")
        thoughts = [{"type": "reasoning", "reasoning": thought}] if thought else []
        return [*thoughts, {"type": "text", "text": content}, *chunks]
    blocks: list[dict[str, Any]] = message.content_blocks
    if not any(block.get("type") == "tool_call_chunk" for block in blocks):
        blocks = [*blocks, *({"type": "tool_call_chunk", **it} for it in _chunks(message))]
    return blocks


def text_of(message: Any) -> str:
    blocks = blocks_of(message)
    return "".join(str(it.get("text") or "") for it in blocks if it.get("type") == "text")


def _chunks(message: Any) -> list[dict[str, Any]]:
    return getattr(message, "tool_call_chunks", None) or []


def calls_of(pieces: Sequence[Any]) -> Iterator[ToolCall]:
    """As they will be executed."""
    if not pieces:
        return
    whole = reduce(operator.add, pieces) if len(pieces) > 1 else pieces[0]
    for call in whole.tool_calls:
        yield ToolCall(str(call["id"] or ""), call["name"], jsonable(call["args"]))
    for broken in whole.invalid_tool_calls:
        yield ToolCall(str(broken["id"] or ""), broken["name"] or "", broken["args"] or "")


def custom(value: Any) -> Yielded:
    """What a node has written to the stream `custom`: one of Plateau's own, or data."""
    if isinstance(value, Mapping) and isinstance(value.get("name"), str) and "value" in value:
        data_id = value.get("id")
        return Data(
            value["name"],
            jsonable(value["value"]),
            None if data_id is None else str(data_id),
            transient=bool(value.get("transient")),
        )
    return Data("custom", jsonable(value))
