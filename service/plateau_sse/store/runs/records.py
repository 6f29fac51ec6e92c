"""A run's record, as `GET /v1/runs/{id}` shows it.

Invariant: what is shown of a run that has ended is whole: status, tape and end agree. Of one
that is on the tape may be later than the status.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from plateau_sse.store.runs.reading import point_of
from plateau_sse.store.runs.tape import Point, Tape

Status = Literal["queued", "running", "completed", "failed", "cancelled"]

# `state` is what is shown as the status: releases before 0.2 look for that name, and find no
# run.
FIELDS = (
    "owner",
    "state",
    "agent",
    "attempt",
    "tape",
    "created_ms",
    "started_ms",
    "ended_ms",
    "output",
)


OUTLINE = ("owner", "state", "agent", "attempt", "tape", "started_ms", "ended_ms")


class Outline(NamedTuple):
    """As far as whoever writes to a run has to know it: what was said is not read. Times are
    the store's, in milliseconds; `at` is how long its tape is."""

    owner: str
    status: str
    agent: str
    attempt: int
    at: int
    started_ms: int | None
    ended_ms: int | None
    now_ms: int


class Record(NamedTuple):
    """A run as `GET /v1/runs/{id}` shows it; times in milliseconds since the epoch. `tape` is
    what has been said so far."""

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

    @property
    def parts(self) -> list[dict[str, Any]]:
        return self.tape.shown()


def outline_of(row: dict[str, bytes | None], now_ms: int) -> Outline:
    """From the values of `OUTLINE`."""
    started, ended = row["started_ms"], row["ended_ms"]
    return Outline(
        owner=(row["owner"] or b"").decode(),
        status=(row["state"] or b"").decode(),
        agent=(row["agent"] or b"").decode(),
        attempt=int(row["attempt"] or 0),
        at=int((row["tape"] or b"0").split(b" ", 1)[0]),
        started_ms=None if started is None else int(started),
        ended_ms=None if ended is None else int(ended),
        now_ms=now_ms,
    )


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
    )


def tape_of(attempt: int, text: bytes, points: list[tuple[bytes, dict[bytes, bytes]]]) -> Tape:
    return Tape(attempt, text, [row_point(*row) for row in points])


def row_point(point_id: bytes, fields: dict[bytes, bytes]) -> Point:
    """From an entry of the run's points."""
    what = b"o" if b"o" in fields else b"m"
    return point_of(int(point_id.partition(b"-")[2]), what, fields[what])


def _error(status: str, end: dict[str, Any]) -> dict[str, Any] | None:
    if status == "failed":
        return {key: end.get(key) for key in ("code", "message", "retryable")}
    if status == "cancelled":
        return {"code": "cancelled", "message": end.get("reason", ""), "retryable": False}
    return None
