"""Giving what has happened to a run to those who are live on it.

Invariant: a frame of a later attempt comes behind the word that what was told before is void;
what several are given is counted by dialect.
"""

from __future__ import annotations

from typing import Protocol

from plateau_sse.live.feed import Feed
from plateau_sse.live.sse import Frame
from plateau_sse.store.figures.tally import DIALECTS
from plateau_sse.store.runs import events, ids

# How a state begins of which the latest is kept.
PROGRESS = b'{"type":"run.progress"'
# Made once, and not an event.
DELIVERED = {dialect: f"events_delivered_{dialect}" for dialect in DIALECTS}


class Count(Protocol):
    """Adds to a counter."""

    def __call__(self, name: str, by: int = 1) -> None: ...


def nowhere(name: str, by: int = 1) -> None:
    return


class Delivery:
    """One a worker."""

    def __init__(self, count: Count) -> None:
        self._told = count

    def deliver(self, feed: Feed, frame: Frame) -> None:
        """An event of the tape, the next behind the feed's head."""
        if feed.head and not ids.of_one_attempt(feed.head, frame.number):
            attempt, _ = ids.split(frame.number)
            again = events.restarted(attempt, "attempt")
            self._give(feed, Frame(ids.number(attempt, 0), again, feed.tag))
            for follower in feed.live:
                # What was told is void, and the store may have lost the count as well.
                follower.states = -1
        self._give(feed, frame)

    def tell(self, feed: Feed, data: bytes, count: int) -> None:
        """A state, the `count`-th."""
        if feed.kept is not None:
            feed.kept.state(count, data if data.startswith(PROGRESS) else b"")
        frame = Frame(0, data, feed.tag)
        feed.tell(frame, count)
        self._count(frame)

    def _give(self, feed: Feed, frame: Frame) -> None:
        feed.dispatch(frame)
        self._count(frame)

    def _count(self, frame: Frame) -> None:
        told = frame.tellings
        while told is not None:
            self._told(DELIVERED[told.before.dialect.name], told.taken)
            told = told.earlier
