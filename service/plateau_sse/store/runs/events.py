"""Events: what each looks like on the wire, and how it folds into a run's state.

Invariant: an event is one JSON object on one line with its `type` first; `op` tells append.lua
how to fold it, so no script ever parses JSON.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import msgspec

from plateau_sse.jsontext import encode as _encode

# Why a run that completed ended; `other` is whatever else an agent says.
FinishReason = Literal[
    "stop", "length", "content_filter", "tool_calls", "input_required", "other"
]
FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)

TERMINAL_STATUS = {
    "run.completed": "completed",
    "run.failed": "failed",
    "run.cancelled": "cancelled",
}
_TERMINAL_PREFIX = (
    b'{"type":"run.completed"',
    b'{"type":"run.failed"',
    b'{"type":"run.cancelled"',
)


class Event(NamedTuple):
    """`data` is the JSON; `op` and `arg` are what append.lua folds."""

    data: bytes
    op: str = "-"
    arg: str = ""


def started(run_id: str, agent: str, attempt: int) -> Event:
    return Event(
        _encode({"type": "run.started", "run": run_id, "agent": agent, "attempt": attempt})
    )


def restarted(attempt: int, reason: str) -> Event:
    return Event(_encode({"type": "run.restarted", "attempt": attempt, "reason": reason}))


def delta(text: str) -> Event:
    return Event(_encode({"type": "message.delta", "text": text}), "t", text)


def progress(
    step: int, total_steps: int, current_agent: str, message: str, percentage: float
) -> Event:
    return Event(
        _encode(
            {
                "type": "run.progress",
                "step": step,
                "total_steps": total_steps,
                "current_agent": current_agent,
                "message": message,
                "percentage": percentage,
            }
        ),
        "p",
    )


def tool_call(call_id: str, name: str, arguments: Any) -> Event:
    event = {"type": "tool.call", "id": call_id, "name": name, "arguments": arguments}
    return Event(_encode(event), "k")


def tool_result(call_id: str, output: Any) -> Event:
    return Event(_encode({"type": "tool.result", "id": call_id, "output": output}), "k")


def completed(
    usage: dict[str, int] | None,
    *,
    cached: bool,
    duration_ms: int,
    finish_reason: FinishReason = "stop",
    output: str | None = None,
) -> Event:
    event: dict[str, Any] = {
        "type": "run.completed",
        "finish_reason": finish_reason,
        "usage": usage,
        "cached": cached,
        "duration_ms": duration_ms,
    }
    if output is not None:
        event["output"] = output
    return Event(_encode(event), "e", "completed")


def failed(code: str, message: str, *, retryable: bool) -> Event:
    event = {"type": "run.failed", "code": code, "message": message, "retryable": retryable}
    return Event(_encode(event), "e", "failed")


def cancelled(reason: str) -> Event:
    return Event(_encode({"type": "run.cancelled", "reason": reason}), "e", "cancelled")


def snapshot(status: str, text: str, progress: bytes, tools: bytes, *, missed: int) -> bytes:
    """A run's state so far. `progress` is an event or empty, `tools` events with commas
    between, as append.lua keeps them."""
    return _encode(
        {
            "type": "run.snapshot",
            "status": status,
            "text": text,
            "progress": msgspec.Raw(progress) if progress else None,
            "tools": msgspec.Raw(b"[" + tools + b"]"),
            "missed": missed,
        }
    )


def is_terminal(data: bytes) -> bool:
    return data.startswith(_TERMINAL_PREFIX)
