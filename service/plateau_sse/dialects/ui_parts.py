"""The chunks that make parts of a message again which its client has had, and lost.

Invariant: the message that comes of them has the same parts, as far as chunks can tell them,
and nothing is done again because of them: a call that was answered is not handed to the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plateau_sse import jsontext

Part = Mapping[str, Any]

_TOOL = "tool-"
_COPIED = {
    "file": ("url", "mediaType", "providerMetadata"),
    "source-url": ("sourceId", "url", "title", "providerMetadata"),
    "source-document": ("sourceId", "mediaType", "title", "filename", "providerMetadata"),
}


def chunk(type_: str, **members: Any) -> bytes:
    """Without the members that are None."""
    given = {name: value for name, value in members.items() if value is not None}
    return b"data: %b\n\n" % jsontext.encode({"type": type_, **given})


def replayed(parts: Sequence[Part]) -> bytes:
    """To stand between the start of the message and the next step."""
    content, steps = b"", 0
    for index, part in enumerate(parts):
        kind = part.get("type")
        if kind == "step-start":
            content += (chunk("finish-step") if steps else b"") + chunk("start-step")
            steps += 1
        elif kind in ("text", "reasoning"):
            content += _text(str(kind), f"before-{index}", part)
        elif kind in _COPIED:
            content += chunk(str(kind), **{name: part.get(name) for name in _COPIED[str(kind)]})
        elif isinstance(kind, str) and kind.startswith("data-"):
            content += _chunk({"type": kind, "data": part.get("data")}, id=part.get("id"))
        elif kind == "dynamic-tool" or (isinstance(kind, str) and kind.startswith(_TOOL)):
            content += _tool(part)
    return content + (chunk("finish-step") if steps else b"")


def _chunk(told: dict[str, Any], **members: Any) -> bytes:
    told |= {name: value for name, value in members.items() if value is not None}
    return b"data: %b\n\n" % jsontext.encode(told)


def _text(kind: str, part_id: str, part: Part) -> bytes:
    text = part.get("text")
    content = chunk(f"{kind}-start", id=part_id, providerMetadata=part.get("providerMetadata"))
    if isinstance(text, str) and text:
        content += chunk(f"{kind}-delta", id=part_id, delta=text)
    return content + chunk(f"{kind}-end", id=part_id)


def _tool(part: Part) -> bytes:
    call, state = part.get("toolCallId"), part.get("state")
    dynamic = part.get("type") == "dynamic-tool"
    name = part.get("toolName") if dynamic else str(part["type"])[len(_TOOL) :]
    if not isinstance(call, str) or not isinstance(name, str):
        return b""
    called = {
        "toolCallId": call,
        "toolName": name,
        "dynamic": True if dynamic else None,
        "title": part.get("title"),
        "providerExecuted": part.get("providerExecuted"),
        "providerMetadata": part.get("callProviderMetadata"),
    }
    if state == "input-available":
        # Nobody has answered it: the page is to, or has been asked to.
        return _chunk({"type": "tool-input-available", "input": part.get("input")}, **called)
    content = _chunk({"type": "tool-input-start"}, **called)
    if "input" in part:
        told = jsontext.encode(part["input"]).decode()
        content += chunk("tool-input-delta", toolCallId=call, inputTextDelta=told)
    approval = part.get("approval")
    if isinstance(approval, Mapping) and isinstance(approval.get("id"), str):
        content += chunk("tool-approval-request", approvalId=approval["id"], toolCallId=call)
        if state != "approval-requested" and isinstance(approval.get("approved"), bool):
            content += chunk(
                "tool-approval-response",
                approvalId=approval["id"],
                approved=approval["approved"],
                reason=approval.get("reason"),
            )
    return content + (_ENDS[str(state)](call, part) if str(state) in _ENDS else b"")


def _output(call: str, part: Part) -> bytes:
    told = {"type": "tool-output-available", "toolCallId": call, "output": part.get("output")}
    return _chunk(told, providerMetadata=part.get("resultProviderMetadata"))


def _error(call: str, part: Part) -> bytes:
    return chunk("tool-output-error", toolCallId=call, errorText=str(part.get("errorText")))


def _denied(call: str, _: Part) -> bytes:
    return chunk("tool-output-denied", toolCallId=call)


_ENDS: dict[str, Callable[[str, Part], bytes]] = {
    "output-available": _output,
    "output-error": _error,
    "output-denied": _denied,
}
