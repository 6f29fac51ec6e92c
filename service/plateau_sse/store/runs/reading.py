"""What a reader has not seen yet, as read.lua tells it.

Invariant: whatever the position, the entries of a reading lead from there, or from the start of
a later attempt, on without a hole; `reached` is where they end.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.tape import Entry, Inside, Point, cut, whole_characters


class Reading(NamedTuple):
    """What a reader has not seen, or the beginning of it. `head` is where the tape ends now, 0
    before anything; `restarts` says why the entries begin anew (at the start of an attempt):
    what was seen before is void then. `is_ahead`: what was seen lies behind all there is.
    `progress` is the latest of a run that is on; `states` counts the states that there were, to
    order them."""

    owner: str
    status: str
    head: int
    reached: int
    entries: list[Entry]
    restarts: Literal["", "attempt", "other", "rewound"] = ""
    is_ahead: bool = False
    states: int = 0
    progress: bytes = b""

    @property
    def ended(self) -> bool:
        return self.status not in ("queued", "running")

    @property
    def is_whole(self) -> bool:
        """Whether nothing was left out behind its entries."""
        return self.reached == self.head

    def begun_anew(self) -> Reading:
        """For a reader who has seen the tape of another run."""
        return self._replace(restarts="other")


def reading_of(reply: list[Any], seen: int) -> Reading:
    """read.lua's answer to a reader at position `seen`, other than a lone word. A position
    within a character is none of ours: its reader begins anew."""
    restarts: Literal["", "attempt", "rewound"] = ""
    how, owner, status, attempt, at, states, progress, output = reply[:8]
    head = ids.number(attempt, at)
    common = {
        "owner": owner.decode(),
        "status": status.decode(),
        "head": head,
        "states": states,
        "progress": progress,
    }
    if how == b"ahead":
        return Reading(reached=seen, entries=[], is_ahead=True, **common)
    if how == b"log":
        entries, start = _logged(reply[8:]), seen
    else:
        start = ids.number(reply[8], reply[9])
        if start != seen and seen:
            restarts = "attempt"
        try:
            entries = _cut(reply[8:])
        except Inside:
            start = ids.number(attempt, 0)
            return Reading(reached=start, entries=[], restarts="rewound", **common)
    if entries and output is not None:
        last = entries[-1]
        entries[-1] = last._replace(data=events.with_output(last.data, output))
    reached = entries[-1].number if entries else start
    return Reading(reached=reached, entries=entries, restarts=restarts, **common)


def _logged(rest: list[Any]) -> list[Entry]:
    return [
        Entry(ids.parse(event_id.decode()).number, data)
        for event_id, data in zip(rest[1::3], rest[2::3], strict=True)
    ]


def _cut(rest: list[Any]) -> list[Entry]:
    attempt, at, opened, text = rest[:4]
    points = [
        point_of(behind, what, data)
        for behind, what, data in zip(rest[4::3], rest[5::3], rest[6::3], strict=True)
    ]
    last = Point.opening(at, opened.decode()) if opened else None
    # Its end may be the end of what was asked for.
    return cut(attempt, at, last, whole_characters(text), points)


def point_of(behind: int, what: bytes, data: bytes) -> Point:
    """A point as the store has it."""
    return Point.opening(behind, data.decode()) if what == b"o" else Point(behind, data)
