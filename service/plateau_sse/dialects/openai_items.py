"""A response as a whole and the items of its output, as OpenAI's Responses have them.

Invariant: an item is the same, and has the same id, in a stream and in a document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from plateau_sse.content import untold
from plateau_sse.store.conversations.calls import arguments_of

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
_STATUSES: dict[str, Status] = {
    "queued": "queued",
    "running": "in_progress",
    "failed": "failed",
    "cancelled": "cancelled",
}


def status_of(run_status: str, finish_reason: str | None) -> Status:
    """Of a run that has this status, and has completed for this reason."""
    if run_status == "completed":
        return "incomplete" if finish_reason in ("length", "content_filter") else "completed"
    return _STATUSES[run_status]


def item(run: bytes, kind: str, part: bytes, text: str, status: str) -> dict[str, Any]:
    """Of a part of text or of thoughts."""
    if kind == "reasoning":
        return {
            "id": f"rs_{run.decode()}_{part.decode()}",
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": text}],
            "status": status,
        }
    said = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": f"msg_{run.decode()}_{part.decode()}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [said],
    }


def call_item(run: bytes, number: int, call: Mapping[str, Any]) -> dict[str, Any]:
    """Of a tool that whoever asked is to execute, the first of which is number 0."""
    return {
        "id": f"fc_{run.decode()}_{number}",
        "type": "function_call",
        "call_id": call["id"],
        "name": call["name"],
        "arguments": arguments_of(call),
        "status": "completed",
    }


def output_of(
    run_id: str, parts: Sequence[Mapping[str, Any]], status: Status, output: str | None
) -> list[dict[str, Any]]:
    """Of a run's parts, as records show them; `output` is the answer, which is an item of
    its own where they have not told it."""
    run, found, calls = run_id.encode(), list[dict[str, Any]](), 0
    for index, part in enumerate(parts):
        if part["type"] in ("text", "reasoning"):
            done = status == "completed" or index + 1 < len(parts)
            number = b"%d" % part["part"]
            how = "completed" if done else "incomplete"
            found.append(item(run, part["type"], number, part["text"], how))
        elif part["type"] == "tool.call" and part.get("client"):
            found.append(call_item(run, calls, part))
            calls += 1
    if rest := untold(parts, output):
        found.append(item(run, "text", b"output", rest, "completed"))
    return found


def usage_of(usage: Mapping[str, int] | None) -> dict[str, Any] | None:
    if not usage:
        return None
    given, made = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    return {
        "input_tokens": given,
        "input_tokens_details": {
            "cached_tokens": usage.get("cached_input_tokens", 0),
            "cache_write_tokens": 0,
        },
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": usage.get("reasoning_tokens", 0)},
        "total_tokens": given + made,
    }


def document(
    run: Mapping[str, Any], own: Mapping[str, Any], created: int | None = None
) -> dict[str, Any]:
    """The response that a run is, as `GET /v1/runs/{id}` shows it; `own` is what its reader
    asked."""
    status = status_of(run["status"], run["finish_reason"])
    opened = {
        "id": f"resp_{run['id']}",
        "object": "response",
        "created_at": int(run["created_at"]) if created is None else created,
        **own,
    }
    end = {**(run["error"] or {}), "finish_reason": run["finish_reason"], "usage": run["usage"]}
    output = output_of(run["id"], run["parts"] or [], status, run["output"])
    return opened | closing(status, end, output)


def closing(status: Status, end: Mapping[str, Any], output: Any) -> dict[str, Any]:
    """What a response object ends with."""
    error = why = None
    if status in ("failed", "cancelled"):
        message = end.get("message") or end.get("reason") or end.get("code")
        error = {"code": end.get("code") or "cancelled", "message": message}
    if status == "incomplete":
        cut = end["finish_reason"] == "length"
        why = {"reason": "max_output_tokens" if cut else "content_filter"}
    return {
        "status": status,
        "error": error,
        "incomplete_details": why,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage_of(end.get("usage")),
    }
