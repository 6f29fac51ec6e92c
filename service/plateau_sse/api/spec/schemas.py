"""What the bodies of requests and answers look like, for `GET /openapi.json`.

Invariant: a member that an answer may have is described here; what a request may hold is
described by what it is decoded with, and by the limits beside that.
"""

from __future__ import annotations

from typing import Any

import msgspec

from plateau_sse.api.messages import ROLES
from plateau_sse.api.requests import RunRequest
from plateau_sse.api.spec import event_schemas
from plateau_sse.api.spec.event_schemas import COUNT, Schema, or_null, ref
from plateau_sse.errors import PROBLEMS
from plateau_sse.store.runs.streams import EXTERNAL

_TEXT: Schema = {"type": "string"}
_WHEN: Schema = {"type": "number", "description": "Seconds since the epoch."}
_STATUS: Schema = {
    "type": "string",
    "enum": ["queued", "running", "completed", "failed", "cancelled"],
}
_LINK: Schema = _TEXT | {
    "format": "uri-reference",
    "description": "With the run's token. Resolve it against the URL that you asked at.",
}


def object_of(members: Schema, *optional: str, **more: Any) -> Schema:
    """All of its members are there but for the `optional` ones."""
    required = [name for name in members if name not in optional]
    return {"type": "object", **more, "required": required, "properties": members}


_ERROR = object_of(
    {"code": _TEXT, "message": _TEXT, "retryable": {"type": "boolean"}}, "retryable"
)
_LATER = (
    *("attempt", "output", "parts", "error", "usage", "model", "finish_reason"),
    *("created_at", "started_at"),
)
_PARTS: Schema = {
    "type": "array",
    "description": "What has been said, in its order: parts of text and thoughts, and the "
    "events between them.",
    "items": {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": _TEXT | {"description": "`text`, `reasoning`, or that of an event."},
            "part": {"type": "integer", "minimum": 0},
            "text": _TEXT,
            "continues": {"type": "integer", "minimum": 0},
        },
    },
}
RUN = object_of(
    {
        "id": ref("RunId"),
        "status": _STATUS,
        "agent": _TEXT,
        "cached": {"type": "boolean"},
        "attempt": {"type": "integer", "minimum": 0},
        "output": or_null(_TEXT | {"description": "The whole answer, once it has completed."}),
        "parts": or_null(_PARTS),
        "error": or_null(_ERROR),
        "usage": or_null(ref("Usage")),
        "model": or_null(_TEXT | {"description": "That gave the answer, where it is known."}),
        "finish_reason": or_null(ref("FinishReason")),
        "created_at": _WHEN,
        "started_at": or_null(_WHEN),
        "ended_at": or_null(_WHEN),
        "duration_ms": or_null({"type": "integer"}),
        "events_url": _LINK,
        "cancel_url": _LINK,
        "conversation_events_url": _LINK
        | {"description": "Of a run in a conversation: whatever runs in that is told there."},
        "next_seq": COUNT
        | {"description": "Of an external run that begins: the number of what is sent first."},
    },
    *_LATER,
    *("ended_at", "duration_ms", "events_url", "cancel_url"),
    *("conversation_events_url", "next_seq"),
    description="A run's record; of one that has just been taken on only what is known then.",
)
PROBLEM = object_of(
    {
        "type": _TEXT | {"format": "uri-reference"},
        "title": _TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "code": {
            "type": "string",
            "enum": list(PROBLEMS),
            "description": "Stable; the rest is for people, and may be reworded.",
        },
        "detail": _TEXT | {"description": "What is wrong, and what to do."},
        "field": _TEXT | {"description": "Of a 422: where, such as `messages[0].role`."},
        "expected_seq": {
            "type": "integer",
            "description": "Of `sequence_gap`: send from here.",
        },
    },
    *("field", "expected_seq"),
    description="RFC 9457.",
)
_MESSAGE = object_of(
    {
        "id": _TEXT | {"description": "Of an answer: its run's."},
        "role": {
            "type": "string",
            "enum": ["user", "assistant", "tool"],
            "description": "`tool`: results that were sent instead of a question.",
        },
        "status": or_null(
            {
                "type": "string",
                "enum": ["completed", "failed", "cancelled"],
                "description": "Of an answer: how its run ended.",
            }
        ),
        "content": or_null(
            _TEXT | {"description": "Its text; null where a release before kept none."}
        ),
        "parts": {
            "type": "array",
            "items": {"type": "object", "required": ["type"]},
            "description": "Of a question as they were sent, of an answer as its record shows "
            "them.",
        },
        "length": {"type": "integer", "description": "Characters of the whole text."},
        "truncated": {
            "type": "boolean",
            "description": "It takes more room than it may: remarks stand for what was too "
            "large, or this is what fits of its text.",
        },
        "reply_to": or_null(_TEXT),
        "created_at": _WHEN,
    }
)
CONVERSATION = object_of(
    {
        "id": _TEXT,
        "messages": {
            "type": "array",
            "description": "In the order of arrival, the oldest first.",
            "items": _MESSAGE,
        },
        "active_run": or_null(
            object_of(
                {
                    "id": ref("RunId"),
                    "status": {"type": "string", "enum": ["queued", "running"]},
                    "events_url": _LINK,
                    "cancel_url": _LINK,
                },
                description="The latest run that is still on.",
            )
        ),
        "events_url": or_null(
            _LINK | {"description": "Whatever runs in it is told there, without a key."}
        ),
    }
)
_NEXT = or_null(_LINK | {"description": "Of the page behind this one."})
RUN_LIST = object_of(
    {
        "runs": {
            "type": "array",
            "description": "The latest first.",
            "items": object_of(
                {
                    "id": ref("RunId"),
                    "status": _STATUS,
                    "agent": _TEXT,
                    "conversation_id": or_null(_TEXT),
                    "asked_at": _WHEN,
                }
            ),
        },
        "next": _NEXT,
    }
)
CONVERSATION_LIST = object_of(
    {
        "conversations": {
            "type": "array",
            "description": "The one in which something was asked last comes first.",
            "items": object_of(
                {
                    "id": _TEXT,
                    "asked_at": _WHEN,
                    "question": or_null(_TEXT)
                    | {"description": "How what was asked last begins."},
                }
            ),
        },
        "next": _NEXT,
    }
)
_NUMBER: Schema = {"type": "integer", "minimum": 0}
APPENDED = object_of(
    {
        "id": ref("RunId"),
        "attempt": _NUMBER,
        "first_seq": _NUMBER,
        "last_seq": _NUMBER,
        "next_seq": _NUMBER | {"description": "The number of the event to send next."},
        "duplicate": {"type": "boolean", "description": "These were there already."},
    }
)
LIVE_RUNS = object_of(
    {
        "runs": {
            "type": "array",
            "items": object_of(
                {
                    "id": ref("RunId"),
                    "agent": _TEXT,
                    "owner": _TEXT | {"description": "A digest of the key, never the key."},
                    "status": _STATUS,
                    "attempt": _NUMBER,
                    "running_s": or_null({"type": "number", "minimum": 0}),
                }
            ),
        },
        "more": _NUMBER,
    }
)
CANCELLATION = object_of({"id": ref("RunId"), "status": _STATUS})
AGENTS = object_of(
    {
        "agents": {
            "type": "array",
            "items": object_of(
                {
                    "name": _TEXT,
                    "version": _TEXT,
                    "kind": _TEXT | {"description": "`generator`, or whose agent it is."},
                    "cache": {"type": "boolean"},
                    "cache_scope": {"type": "string", "enum": ["user", "owner"]},
                    "memory": {
                        "type": "boolean",
                        "description": "Whether it remembers conversations: its runs in one "
                        "are executed one after the other.",
                    },
                    "max_steps": or_null({"type": "integer"}),
                    "attempts": or_null({"type": "integer"}),
                    "timeout_s": or_null(_NUMBER),
                    "input_bytes": or_null({"type": "integer"}),
                },
                description="A bound that is null is the service's.",
            ),
        }
    }
)
CLEARED = object_of({"deleted": _NUMBER, "agent": or_null(_TEXT)})
PROBE = object_of(
    {"status": {"type": "string", "enum": ["up", "down"]}, "cause": _TEXT}, "cause"
)
HEALTH = object_of(
    {
        "status": {"type": "string", "enum": ["up", "degraded", "down"]},
        "components": {
            "type": "object",
            "additionalProperties": object_of({"status": _TEXT, "cause": _TEXT}, "cause"),
        },
        "hosts": {
            "type": "object",
            "additionalProperties": object_of({"status": _TEXT, "cause": _TEXT}, "cause"),
        },
    },
    "hosts",
    description="Each component and its state; for operators also its figures, the cause where "
    "it is not up, and each host with its state: up, leaving, degraded or down.",
)
METRICS = object_of(
    {
        name: {"type": "array" if name in ("hosts", "advice") else "object"}
        for name in "memory cache sse runs redis workers lately hosts advice".split()
    },
    description="What the service uses, and what to change about it.",
)


def _kinds_of_message() -> list[Schema]:
    """What the role says of the other members."""
    content: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1}]}
    no_id: Schema = {"enum": [None, ""]}
    no_calls: Schema = {"anyOf": [{"type": "null"}, {"type": "array", "maxItems": 0}]}
    roles = [role for role in ROLES if role != "tool"]
    said = {"role": {"enum": roles}, "content": content}
    calls = {"type": "array", "minItems": 1}
    gave = {"role": {"const": "tool"}, "content": content, "tool_call_id": {"type": "string"}}
    gave["tool_call_id"] |= {"minLength": 1}
    return [
        {
            "title": "What was said",
            "required": ["content"],
            "properties": {**said, "tool_calls": no_calls, "tool_call_id": no_id},
        },
        {
            "title": "Tools that were called",
            "required": ["tool_calls"],
            "properties": {
                "role": {"const": "assistant"},
                "tool_calls": calls,
                "tool_call_id": no_id,
            },
        },
        {
            "title": "What a tool gave",
            "required": ["content", "tool_call_id"],
            "properties": {**gave, "tool_calls": no_calls},
        },
    ]


def _run_request() -> dict[str, Schema]:
    _, schemas = msgspec.json.schema_components(
        [RunRequest], ref_template="#/components/schemas/{name}"
    )
    null, text = {"type": "null"}, {"type": "string"}
    others = {"not": {"const": EXTERNAL}}
    # What one member alone cannot say.
    schemas["RunRequest"]["anyOf"] = [
        {
            "title": "One text",
            "required": ["input"],
            "properties": {"agent": others, "input": text, "messages": null},
        },
        {
            "title": "A list of messages, the last of them the user's or a tool's",
            "required": ["messages"],
            "properties": {"agent": others, "input": null, "messages": {"type": "array"}},
        },
        {
            "title": "What a person has answered",
            "required": ["resume"],
            "properties": {
                "agent": others,
                "input": null,
                "messages": null,
                "resume": {"type": "array", "minItems": 1},
            },
        },
        {
            "title": "A run whose events you append",
            "properties": {"agent": {"const": EXTERNAL}, "conversation_id": null},
        },
    ]
    schemas["InputMessage"]["anyOf"] = _kinds_of_message()
    return schemas


def schemas() -> dict[str, Schema]:
    """All that is referred to, by name."""
    return {
        **_run_request(),
        "RunId": event_schemas.RUN_ID,
        "Run": RUN,
        "Event": event_schemas.EVENT,
        **event_schemas.EVENTS,
        **event_schemas.posted(),
        "FinishReason": event_schemas.FINISH_REASON,
        "Usage": event_schemas.USAGE,
        "Appended": APPENDED,
        "Cancellation": CANCELLATION,
        "Conversation": CONVERSATION,
        "Agents": AGENTS,
        "ConversationList": CONVERSATION_LIST,
        "RunList": RUN_LIST,
        "Cleared": CLEARED,
        "LiveRuns": LIVE_RUNS,
        "Metrics": METRICS,
        "Health": HEALTH,
        "Probe": PROBE,
        "Problem": PROBLEM,
    }
