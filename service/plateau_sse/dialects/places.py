"""Places: the numbers of frames, in dialects whose clients come back with one.

Invariant: a place is 16 times the position where the frame ends, and `j`: what a mark or an
opening becomes has j = 0 to 14, in its order, a delta has 15. So places grow whatever the cuts,
and from a place alone it is known what its reader has: all up to the position, where j is 15;
else all before the mark or the opening there, and the first j + 1 frames of that.
"""

from __future__ import annotations

from typing import Protocol

from plateau_sse.live.dialect import Dialect, State
from plateau_sse.store.runs import ids

_BITS, _DELTA = 4, 15


class Numbered(Dialect, Protocol):
    """Whose clients come back with the place of a frame."""

    def going_on(self, state: State, place: int, *, gone: bool = False) -> State:
        """Of who has been told all up to this place, and stands, as the state says, at the
        position before it; `gone`: in an attempt that cannot be looked at any more."""


def of_delta(position: int) -> int:
    """Of a delta that ends there."""
    return position << _BITS | _DELTA


def of_mark(position: int) -> int:
    """Of the first frame of the mark, or the opening, that ends there."""
    return position << _BITS


def of(position: int, j: int) -> int:
    return position << _BITS | j


def split(place: int) -> tuple[int, int]:
    """The position, and j."""
    return place >> _BITS, place & _DELTA


def is_of_nothing(place: int) -> bool:
    """Whether it is that of no event, but of an error: that a later attempt has begun."""
    attempt, at = ids.split(split(place)[0])
    return at == 0 and attempt > 1


def position_before(place: int) -> int:
    """From where to read on, for who has what is there; 0 for from the start."""
    position, j = split(place)
    attempt, at = ids.split(position)
    at -= j != _DELTA
    return ids.number(attempt, at) if at > 0 else 0
