"""What each event looks like, for `GET /openapi.json`.

Invariant: every type that `store/runs/events.py` makes is described here, with the members that
it always has as `required`; a test compares. So is the one that is no run's, the heartbeat. A
reader must pass over members that it does not know: events are only ever added to. What is
posted is described by what it is decoded with.
"""

from __future__ import annotations

from typing import Any

import msgspec

from plateau_sse.api.posted import ExternalEvent
from plateau_sse.errors import RUN_FAILURES
from plateau_sse.store.runs.events import FINISH_REASONS, MARK_BYTES, TAPE_BYTES

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
    "properties": {
        "input_tokens": COUNT,
        "output_tokens": COUNT,
        "cached_input_tokens": COUNT | {"description": "Of the input, read from a cache."},
        "reasoning_tokens": COUNT | {"description": "Of the output, thoughts."},
    },
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
_JSON: Schema = {"description": "Any JSON value."}
_PART: Schema = COUNT | {"description": "Parts are numbered in the order of their opening."}
_CONTINUES: Schema = COUNT | {"description": "The part that this one goes on with."}

EVENTS: dict[str, Schema] = dict(
    [
        _event("run.queued", "It waits for a runner. No place on the tape.", {}),
        _event(
            "run.started",
            "An attempt begins: the first mark of its tape.",
            {"run": ref("RunId"), "agent": _TEXT, "attempt": ATTEMPT},
        ),
        _event(
            "run.progress",
            "How far the agent is; the latest counts. No place on the tape.",
            {
                "step": COUNT,
                "total_steps": COUNT,
                "current_agent": _TEXT,
                "message": _TEXT,
                "percentage": {"type": "number", "minimum": 0, "maximum": 100},
            },
        ),
        _event(
            "message.delta",
            "More of the text: append it to its part.",
            {"part": _PART, "text": _TEXT},
            {"continues": _CONTINUES},
        ),
        _event(
            "reasoning.delta",
            "More of what the model thinks: append it to its part.",
            {"part": _PART, "text": _TEXT},
            {"continues": _CONTINUES},
        ),
        _event(
            "tool.call",
            "The agent calls a tool.",
            {"id": _TEXT, "name": _TEXT, "arguments": _JSON},
            {"client": {"const": True, "description": "Whoever asked is to execute it."}},
        ),
        _event(
            "tool.delta",
            "A call that is still being written: all of its arguments so far. No place on the "
            "tape; the call follows.",
            {"id": _TEXT, "name": _TEXT, "arguments": _TEXT},
        ),
        _event(
            "tool.result",
            "What the tool of that call has given, or the error that it met. A preliminary one "
            "has no place on the tape: the result follows.",
            {"id": _TEXT},
            {"output": _JSON, "error": _TEXT, "preliminary": {"const": True}},
        ),
        _event(
            "source",
            "What the answer stands on: a page by its `url`, or a document.",
            {"id": _TEXT},
            {"url": _TEXT, "media_type": _TEXT, "title": _TEXT, "filename": _TEXT},
        ),
        _event(
            "file",
            "A file that the agent made; the URL may be a `data:` one.",
            {"media_type": _TEXT, "url": _TEXT},
        ),
        _event(
            "data",
            "The application's own. With an `id` it replaces what had the same name and id. "
            "What is transient has no place on the tape.",
            {"name": _TEXT, "value": _JSON},
            {"id": _TEXT, "transient": {"const": True}},
        ),
        _event(
            "step", "A new round of the agent: what follows is a new message.", {"name": _TEXT}
        ),
        _event(
            "input.request",
            "The agent needs an answer: the next run of the conversation brings it.",
            {
                "id": _TEXT,
                "kind": {"type": "string", "enum": ["approval", "question"]},
                "message": _TEXT,
            },
            {"tool_call_id": _TEXT, "schema": _JSON},
        ),
        _event(
            "run.restarted",
            "Forget what came before: another attempt begins (`attempt`), it is another run "
            "(`other`), or the store has lost what you had (`rewound`). Its tape follows.",
            {
                "attempt": ATTEMPT,
                "reason": {"type": "string", "enum": ["attempt", "other", "rewound"]},
            },
        ),
        _event(
            "run.completed",
            "The end, of an answer that is whole.",
            {
                "finish_reason": ref("FinishReason"),
                "usage": or_null(ref("Usage")),
                "model": or_null(_TEXT),
                "cached": {"type": "boolean"},
                "duration_ms": {"type": "integer"},
            },
            {"output": _TEXT | {"description": "Where it is not the text."}},
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
        _event(
            "heartbeat",
            "No event of the run, and without an id: to whoever asks with `heartbeat=1`, where "
            "nothing else was said for 15 s.",
            {},
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
        for member, schema_of_it in schema["properties"].items():
            # A text may have the whole of a tape; another event is bounded, so its texts are.
            most = TAPE_BYTES if member in ("text", "output") else MARK_BYTES
            for form in (schema_of_it, *schema_of_it.get("anyOf", ())):
                if form.get("type") == "string" and "pattern" not in form:
                    form.setdefault("maxLength", most)
    # What one member alone cannot say.
    schemas["PostedToolResult"]["oneOf"] = [{"required": ["output"]}, {"required": ["error"]}]
    schemas["PostedSource"]["anyOf"] = [
        {"required": [name], "properties": {name: _TEXT}} for name in ("url", "media_type")
    ]
    # What msgspec decodes by its tag is one of them and no other.
    return {
        "PostedEvent": {"oneOf": union["anyOf"], "discriminator": union["discriminator"]}
    } | (schemas)
