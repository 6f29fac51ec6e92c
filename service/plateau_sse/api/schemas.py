"""What the bodies of answers look like, for `GET /openapi.json`.

Invariant: a member that an answer may have is described here.
"""

from __future__ import annotations

from typing import Any

from plateau_sse.errors import PROBLEMS
from plateau_sse.store.runs.events import FINISH_REASONS

RUN: dict[str, Any] = {
    "type": "object",
    "required": ["id", "status", "agent", "cached"],
    "properties": {
        "id": {"type": "string"},
        "status": {"enum": ["queued", "running", "completed", "failed", "cancelled"]},
        "agent": {"type": "string"},
        "cached": {"type": "boolean"},
        "attempt": {"type": "integer"},
        "output": {"type": ["string", "null"]},
        "error": {
            "type": ["object", "null"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "retryable": {"type": "boolean"},
            },
        },
        "finish_reason": {
            "enum": [*FINISH_REASONS, None],
            "description": "Of a completed run; `length` and `content_filter`: cut off.",
        },
        "usage": {
            "type": ["object", "null"],
            "properties": {
                "input_tokens": {"type": "integer"},
                "output_tokens": {"type": "integer"},
            },
        },
        "created_at": {"type": "number", "description": "Seconds since the epoch."},
        "started_at": {"type": ["number", "null"]},
        "ended_at": {"type": ["number", "null"]},
        "duration_ms": {"type": ["integer", "null"]},
        "events_url": {"type": "string", "description": "Resolve against the URL posted to."},
        "cancel_url": {"type": "string"},
    },
}
PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"enum": list(PROBLEMS)},
        "detail": {"type": "string"},
        "field": {"type": "string"},
    },
}
CONVERSATION: dict[str, Any] = {
    "type": "object",
    "required": ["id", "messages", "active_run"],
    "properties": {
        "id": {"type": "string"},
        "messages": {
            "type": "array",
            "description": "In the order of arrival, the oldest first.",
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "string", "description": "Of an answer: its run's."},
                    "role": {"enum": ["user", "assistant"]},
                    "content": {
                        "type": ["string", "null"],
                        "description": "As an agent gets it; null: only the index is left.",
                    },
                    "length": {"type": "integer", "description": "Characters of the whole."},
                    "truncated": {"type": "boolean"},
                    "reply_to": {"type": ["string", "null"]},
                    "created_at": {"type": "number"},
                },
            },
        },
        "active_run": {
            "type": ["object", "null"],
            "description": "The latest run that is still on.",
            "properties": {
                name: RUN["properties"][name]
                for name in ("id", "status", "events_url", "cancel_url")
            },
        },
    },
}
