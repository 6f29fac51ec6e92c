"""The messages of a request, in the shape of chat.completions.

Invariant: what is passed on is as it was sent. Looked at is only what an agent may rely on: who
speaks, that there is something said, what stands in parts and calls that are known by name.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from plateau_sse.api.bodies import DEPTH_MOST, invalid, too_deep
from plateau_sse.content import is_blank
from plateau_sse.intake.ask import INSTRUCTIONS
from plateau_sse.jsontext import is_deeper

MESSAGES_MOST = 1000
_SPEAKERS = (*INSTRUCTIONS, "user", "assistant")
ROLES = (*_SPEAKERS, "tool")
# What each part of a known type must have, with the JSON type of it.
_PARTS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "text": ("text", str),
    # Endpoints take both.
    "image_url": ("image_url", (dict, str)),
    "input_audio": ("input_audio", dict),
    "file": ("file", dict),
}


def told(**limits: Any) -> msgspec.Meta:
    """What /openapi.json says of a member; whoever reads it checks it, and says it better."""
    return msgspec.Meta(extra_json_schema=limits)


InputPart = Annotated[
    dict[str, Any], told(required=["type"], properties={"type": {"type": "string"}})
]
InputCall = Annotated[
    dict[str, Any], told(required=["id"], properties={"id": {"type": "string"}})
]


class InputMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A message in the shape of chat.completions; its parts and calls are passed on as they
    are. `content` may be null beside `tool_calls`; `reasoning_content` counts there alone."""

    role: Annotated[str, told(enum=ROLES)]
    content: str | list[InputPart] | None = None
    tool_calls: list[InputCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None

    @property
    def is_said_in_words(self) -> bool:
        """Whether it is a text that has nothing to do with tools, as most are."""
        return (
            isinstance(self.content, str)
            and self.role in _SPEAKERS
            and self.tool_calls is None
            and self.tool_call_id is None
        )

    def said(self) -> dict[str, Any]:
        """Without what was not said."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
            # Models want what they thought before a call; before a text some refuse it.
            if self.reasoning_content:
                message["reasoning_content"] = self.reasoning_content
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        if self.name:
            message["name"] = self.name
        return message


def check_messages(messages: list[InputMessage] | None) -> None:
    if messages is None:
        return
    if not messages or len(messages) > MESSAGES_MOST:
        raise invalid("messages", f"Between 1 and {MESSAGES_MOST} messages.")
    for index, message in enumerate(messages):
        if not message.is_said_in_words:
            _check_message(f"messages[{index}]", message)
    last = messages[-1]
    # A tool may have nothing to say.
    if last.role != "tool" and (last.role != "user" or is_blank(last.content)):
        detail = "The last message must be the user's or a tool's, and not empty."
        raise invalid("messages", detail)


def _check_message(at: str, message: InputMessage) -> None:
    if message.role not in ROLES:
        raise invalid(f"{at}.role", f"One of {', '.join(ROLES)}.")
    if not message.content and not isinstance(message.content, str) and not message.tool_calls:
        raise invalid(f"{at}.content", "A text or parts; beside `tool_calls` it may be null.")
    if isinstance(message.content, list):
        _check_parts(f"{at}.content", message.content)
    if message.tool_calls:
        _check_calls(f"{at}.tool_calls", message)
    if bool(message.tool_call_id) != (message.role == "tool"):
        detail = "The id of the call that a message of a `tool` answers; others have none."
        raise invalid(f"{at}.tool_call_id", detail)


def _check_parts(at: str, parts: list[dict[str, Any]]) -> None:
    for index, part in enumerate(parts):
        kind = part.get("type")
        if not isinstance(kind, str):
            raise invalid(f"{at}[{index}].type", "A string that says what the part is.")
        member, form = _PARTS.get(kind, ("type", str))
        if not isinstance(part.get(member), form):
            raise invalid(f"{at}[{index}].{member}", f"Missing in this part, or no {member}.")
    if is_deeper(parts, DEPTH_MOST):
        raise too_deep(at)


def _check_calls(at: str, message: InputMessage) -> None:
    if message.role != "assistant":
        raise invalid(at, "Only an `assistant` calls tools.")
    calls = message.tool_calls or []
    for index, call in enumerate(calls):
        if not isinstance(call.get("id"), str):
            raise invalid(f"{at}[{index}].id", "A string: what the tool's message refers to.")
        function = call.get("function", {"name": ""})
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise invalid(f"{at}[{index}].function", "An object with `name` and `arguments`.")
    if is_deeper(calls, DEPTH_MOST):
        raise too_deep(at)
