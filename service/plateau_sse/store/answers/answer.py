"""An answer as the cache keeps it: the tape of the attempt that gave it, and what it was.

Invariant: a position on the tape of the run that gave it is the same position on the tape of
every hit: `run.started` and the end, which name the run that is asked about, are marks whatever
is in them.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.events import FinishReason
from plateau_sse.store.runs.tape import Point, Tape

# Who everyone is where there are no keys: not worth its letters.
USUAL_OWNER = "anonymous"
# One text, behind the mark that each attempt begins with.
USUAL_POINTS: tuple[Point, ...] = (Point(2, b"", "t", 0),)


class Answer(msgspec.Struct):
    """What is kept of a run. `text` is what all its parts say, thoughts too; `points` are those
    between `run.started` and the end; `tag` is that of its events; `token` is one of
    `ids.new_token`. It ended with `stop` or `tool_calls`: nothing else is kept."""

    text: bytes
    stored_s: int
    token: str
    tag: str
    duration_ms: int
    attempt: int = 1
    points: tuple[Point, ...] = USUAL_POINTS
    usage: dict[str, int] | None = None
    output: str | None = None
    model: str | None = None
    agent: str = ""
    owner: str = USUAL_OWNER
    finish_reason: FinishReason = "stop"

    @property
    def final(self) -> str:
        if self.output is not None:
            return self.output
        if self.points == USUAL_POINTS:
            return self.text.decode()
        return Tape(self.attempt, self.text, self._points("")).said()

    @property
    def parts(self) -> list[dict[str, Any]]:
        """As records show them."""
        if self.points == USUAL_POINTS:
            return [{"type": "text", "part": 0, "text": self.text.decode()}]
        return Tape(self.attempt, self.text, self._points("")).shown()

    def tape(self, run_id: str) -> Tape:
        """As that of a run of this id which did at once what the one that gave it did."""
        end = events.completed(
            self.usage,
            cached=True,
            duration_ms=self.duration_ms,
            finish_reason=self.finish_reason,
            model=self.model,
        ).data
        if self.output is not None:
            end = events.with_output(end, self.output.encode())
        points = self._points(run_id)
        points.append(Point(len(self.text) + len(points) + 1, end))
        return Tape(self.attempt, self.text, points)

    def _points(self, run_id: str) -> list[Point]:
        started = events.started(run_id, self.agent, self.attempt)
        return [Point(1, started.data), *self.points]


def answer_of(
    *,
    tape: Tape,
    run_id: str,
    agent: str,
    owner: str,
    output: str | None,
    usage: dict[str, int] | None,
    duration_ms: int,
    model: str | None = None,
    finish_reason: FinishReason = "stop",
) -> Answer:
    """Of the run's tape, from its `run.started` on; whether its end is on it yet does not
    matter."""
    points = tape.points[1:]
    if points and events.is_terminal(points[-1].data):
        points.pop()
    return Answer(
        text=bytes(tape.text),
        stored_s=int(time.time()),
        token=ids.new_token(),
        tag=ids.tag_of(run_id),
        duration_ms=duration_ms,
        attempt=tape.attempt,
        points=tuple(points),
        usage=usage,
        output=output,
        model=model,
        agent=agent,
        owner=owner,
        finish_reason=finish_reason,
    )
