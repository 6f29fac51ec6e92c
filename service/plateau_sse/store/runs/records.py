"""A run's record, as `GET /v1/runs/{id}` shows it.

Invariant: what is shown was read in one moment: status, text and end agree.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

FIELDS = (
    "owner",
    "status",
    "agent",
    "attempt",
    "seq",
    "created_ms",
    "started_ms",
    "ended_ms",
    "usage",
    "output",
    "end",
)


class Record(NamedTuple):
    """A run as `GET /v1/runs/{id}` shows it; times in milliseconds since the epoch.
    `finish_reason` is that of a run that completed; releases before 0.2 did not say it."""

    owner: str
    status: str
    agent: str
    attempt: int
    created_ms: int
    started_ms: int | None
    ended_ms: int | None
    usage: dict[str, int] | None
    output: str | None
    error: dict[str, Any] | None
    finish_reason: str | None


def record_of(row: dict[str, bytes | None], text: bytes | None) -> Record:
    """From the values of `FIELDS` and the run's text."""

    def whole(name: str) -> int | None:
        value = row[name]
        return None if value is None else int(value)

    status = (row["status"] or b"").decode()
    end = msgspec.json.decode(row["end"]) if row["end"] else {}
    output = row["output"] if row["output"] is not None else text or b""
    return Record(
        owner=(row["owner"] or b"").decode(),
        status=status,
        agent=(row["agent"] or b"").decode(),
        attempt=whole("attempt") or 0,
        created_ms=whole("created_ms") or 0,
        started_ms=whole("started_ms"),
        ended_ms=whole("ended_ms"),
        usage=msgspec.json.decode(row["usage"]) if row["usage"] else None,
        output=output.decode() if status == "completed" else None,
        error=_error(status, end),
        finish_reason=end.get("finish_reason") if status == "completed" else None,
    )


def _error(status: str, end: dict[str, Any]) -> dict[str, Any] | None:
    if status == "failed":
        return {key: end.get(key) for key in ("code", "message", "retryable")}
    if status == "cancelled":
        return {"code": "cancelled", "message": end.get("reason", ""), "retryable": False}
    return None
