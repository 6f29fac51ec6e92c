"""What each event looks like, for `GET /openapi.json`.

Invariant: every type that `store/runs/events.py` makes is described here, with the members that
it always has as `required`; a test compares. A reader must pass over members that it does not
know: events are only ever added to. What is posted is described by what it is decoded with.
"""

from __future__ import annotations

from typing import Any

import msgspec

from plateau_sse.api.external import EVENT_BYTES, ExternalEvent
from plateau_sse.errors import RUN_FAILURES
from plateau_sse.store.runs.events import FINISH_REASONS, TERMINAL_STATUS

Schema = dict[str, Any]

COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
ATTEMPT: Schema = {"type": "integer", "minimum": 1, "description": "Counted from 1."}
RUN_ID: Schema = {"type": "string", "pattern": "^([0-9a-f]{32}|hit-[0-9A-Za-z_-]{24})$"}
FINISH_REASON: Schema = {
    "type": "string",
    "enum": list(FINISH_REASONS),
    "description": "Why it had no more to say; `length`, `content_filter`: it is cut off.",
}
USAGE: Schema = {
    "type": "object",
    "description": "What the agent says that it has used.",
    "required": ["input_tokens", "output_tokens"],
    "properties": {"input_tokens": COUNT, "output_tokens": COUNT},
    "examples": [{"input_tokens": 812, "output_tokens": 164}],
}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _event(
    kind: str, description: str, members: Schema, maybe: Schema | None = None
) -> tuple[str, Schema]:
    """Its name, and its schema; `maybe` are the members that not every one has."""
    name = "".join(part.capitalize() for part in kind.split("."))
    schema = {
        "type": "object",
        "description": description,
        "required": ["type", *members],
        "properties": {
            "type": {"type": "string", "const": kind},
            **members,
            **(maybe or {}),
        },
    }
    return name, schema


_TEXT: Schema = {"type": "string"}
_STATUS: Schema = {
    "type": "string",
    "enum": ["queued", "running", *TERMINAL_STATUS.values()],
}

EVENTS: dict[str, Schema] = dict(
    [
        _event(
            "run.started",
            "An attempt begins.",
            {"run": ref("RunId"), "agent": _TEXT, "attempt": ATTEMPT},
        ),
        _event(
            "run.progress",
            "How far the agent is; the latest counts.",
            {
                "step": COUNT,
                "total_steps": COUNT,
                "current_agent": _TEXT,
                "message": _TEXT,
                "percentage": {"type": "number", "minimum": 0, "maximum": 100},
            },
        ),
        _event("message.delta", "More of the text: append it.", {"text": _TEXT}),
        _event(
            "tool.call",
            "The agent calls a tool. Arguments of more than 16 KiB are cut, as text.",
            {"id": _TEXT, "name": _TEXT, "arguments": {"description": "Any JSON value."}},
        ),
        _event(
            "tool.result",
            "What the tool of that call has given. More than 16 KiB are cut, as text.",
            {"id": _TEXT, "output": {"description": "Any JSON value."}},
        ),
        _event(
            "run.restarted",
            "Another attempt begins, or another run (`other`): forget what came before.",
            {"attempt": ATTEMPT, "reason": _TEXT},
        ),
        _event(
            "run.snapshot",
            "The run's state so far, in place of what you know of it. A status that is an end "
            "still has its terminal event to come.",
            {
                "status": _STATUS,
                "text": _TEXT,
                "progress": or_null(ref("RunProgress")),
                "tools": {
                    "type": "array",
                    "items": {"oneOf": [ref("ToolCall"), ref("ToolResult")]},
                },
                "missed": COUNT | {"description": "Events of this attempt that it stands for."},
            },
        ),
        _event(
            "run.completed",
            "The end, of an answer that is whole.",
            {
                "usage": or_null(ref("Usage")),
                "cached": {"type": "boolean"},
                "duration_ms": {"type": "integer"},
            },
            {
                "output": _TEXT | {"description": "Where it is not the streamed text."},
                "finish_reason": ref("FinishReason"),
            },
        ),
        _event(
            "run.failed",
            "The end, of a run that went wrong.",
            {
                "code": _TEXT
                | {
                    "description": "Stable; an agent may have codes of its own.",
                    "examples": list(RUN_FAILURES),
                },
                "message": _TEXT,
                "retryable": {
                    "type": "boolean",
                    "description": "Whether the same request may succeed later.",
                },
            },
        ),
        _event(
            "run.cancelled",
            "The end, of a run that somebody did not want any more.",
            {"reason": _TEXT},
        ),
    ]
)


def _kind(schema: Schema) -> str:
    return str(schema["properties"]["type"]["const"])


# Of a text/event-stream: OpenAPI 3.1 describes a stream by its items.
EVENT: Schema = {
    "description": "What the `data:` of each event holds.",
    "oneOf": [ref(name) for name in EVENTS],
    "discriminator": {
        "propertyName": "type",
        "mapping": {_kind(schema): ref(name)["$ref"] for name, schema in EVENTS.items()},
    },
}


def posted() -> dict[str, Schema]:
    """What may be appended to an external run: `PostedEvent` and what it is one of."""
    prefix = "Posted"
    (union,), parts = msgspec.json.schema_components(
        [ExternalEvent], ref_template=f"#/components/schemas/{prefix}{{name}}"
    )
    schemas = {prefix + name: schema for name, schema in parts.items()}
    for name, schema in schemas.items():
        schema["title"] = name
        for member in schema["properties"].values():
            for form in (member, *member.get("anyOf", ())):
                if form.get("type") == "string" and "pattern" not in form:
                    # An event is bounded as a whole, so each of its texts is.
                    form["maxLength"] = EVENT_BYTES
    # What msgspec decodes by its tag is one of them and no other.
    return {
        "PostedEvent": {"oneOf": union["anyOf"], "discriminator": union["discriminator"]}
    } | (schemas)
