"""A run's record, as `GET /v1/runs/{id}` shows it.

Invariant: what is shown was read in one moment: status, tape and end agree.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from plateau_sse.store.runs.reading import point_of
from plateau_sse.store.runs.tape import Tape

# `state` is what is shown as the status: releases before 0.2 look for that name, and find no
# run.
FIELDS = (
    "owner",
    "state",
    "agent",
    "attempt",
    "tape",
    "seq",
    "created_ms",
    "started_ms",
    "ended_ms",
    "output",
)


class Record(NamedTuple):
    """A run as `GET /v1/runs/{id}` shows it; times in milliseconds since the epoch. `tape` is
    what has been said so far; `seq` and `parts` count what its producer has sent and opened."""

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
    model: str | None
    tape: Tape
    seq: int = 0

    @property
    def parts(self) -> list[dict[str, Any]]:
        return self.tape.shown()


def record_of(
    row: dict[str, bytes | None],
    text: bytes | None,
    points: list[tuple[bytes, dict[bytes, bytes]]],
) -> Record:
    """From the values of `FIELDS`, the run's text and its points."""

    def whole(name: str) -> int | None:
        value = row[name]
        return None if value is None else int(value)

    status = (row["state"] or b"").decode()
    attempt = whole("attempt") or 0
    tape = tape_of(attempt, text or b"", points)
    end: dict[str, Any] = {}
    if status not in ("queued", "running") and tape.points:
        end = msgspec.json.decode(tape.points[-1].data)
    output = None
    if status == "completed":
        output = tape.said() if row["output"] is None else row["output"].decode()
    return Record(
        owner=(row["owner"] or b"").decode(),
        status=status,
        agent=(row["agent"] or b"").decode(),
        attempt=attempt,
        created_ms=whole("created_ms") or 0,
        started_ms=whole("started_ms"),
        ended_ms=whole("ended_ms"),
        usage=end.get("usage"),
        output=output,
        error=_error(status, end),
        finish_reason=end.get("finish_reason"),
        model=end.get("model"),
        tape=tape,
        seq=whole("seq") or 0,
    )


def tape_of(attempt: int, text: bytes, points: list[tuple[bytes, dict[bytes, bytes]]]) -> Tape:
    found = []
    for point_id, fields in points:
        what = b"o" if b"o" in fields else b"m"
        found.append(point_of(int(point_id.partition(b"-")[2]), what, fields[what]))
    return Tape(attempt, text, found)


def _error(status: str, end: dict[str, Any]) -> dict[str, Any] | None:
    if status == "failed":
        return {key: end.get(key) for key in ("code", "message", "retryable")}
    if status == "cancelled":
        return {"code": "cancelled", "message": end.get("reason", ""), "retryable": False}
    return None
