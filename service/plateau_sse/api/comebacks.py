"""Clients that come back with the place of a frame: where they stand, and in which state.

Invariant: a state is found again from the marks and openings before it, read a few at a time;
where those are gone, what its client was told cannot be gone on with, and it is told so.
"""

from __future__ import annotations

from typing import Any

from plateau_sse.dialects import places
from plateau_sse.dialects.places import Numbered
from plateau_sse.live import telling
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.ids import Seen
from plateau_sse.store.runs.looks import POINTS_AT_ONCE
from plateau_sse.store.runs.streams import Streams


async def in_run(
    streams: Streams, run_id: str, dialect: Numbered, start: Any, place: int
) -> tuple[Seen, Any]:
    """From where to read on, and the state there; `start` is that before everything. Raises
    StoreError."""
    position = places.position_before(place)
    attempt, at = ids.split(position)
    if places.is_of_nothing(place):
        return Seen(position), dialect.going_on(start, place, gone=True)
    state, passed, tag = start, 0, ids.tag_of(run_id).encode()
    while passed < at:
        points = await streams.points(run_id, attempt, passed, at)
        if points is None:
            return Seen(position), dialect.going_on(start, place, gone=True)
        state = telling.behind(dialect, state, attempt, points, tag)
        passed = points[-1].at if len(points) == POINTS_AT_ONCE else at
    return Seen(position), dialect.going_on(state, place)


def in_answer(
    answer: Answer, run_id: str, dialect: Numbered, start: Any, place: int
) -> tuple[Seen, Any]:
    """The same of a cached answer, told as the run of this id."""
    position = places.position_before(place)
    attempt, at = ids.split(position)
    tape = answer.tape(run_id)
    if places.is_of_nothing(place) or (at and attempt != tape.attempt):
        return Seen(position), dialect.going_on(start, place, gone=True)
    points = [point for point in tape.points if point.at <= at]
    state = telling.behind(dialect, start, tape.attempt, points, answer.tag.encode())
    return Seen(position), dialect.going_on(state, place)
