"""Feeds: the runs that somebody in this worker follows.

Invariant: `head <= newest`; whoever is in `live` has a position of at least `head`, has been
told how far the run is, and gets the next event pushed. The stream is the truth, a message only
saves the read: whenever `newest` is ahead of `head`, a repair is under way.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from plateau_sse.live.sse import Frame, next_turn
from plateau_sse.store.runs import ids

log = logging.getLogger("plateau.hub")


class Follower(Protocol):
    """What a feed pushes to. `position` is where the events end that it was given, `states` the
    count of the last state."""

    position: int
    states: int

    def push(self, frame: Frame) -> bool:
        """Take the frame, or answer False to leave the live path and catch up alone."""

    def lag(self) -> None:
        """Read from the stream, then come back."""

    def lose(self) -> None:
        """The run's record is gone: end, and say so."""


class Feed:
    """One followed run. `ready` is done once the subscription is confirmed. `progress` is the
    latest that a message has told of: its attempt and its count, as one number."""

    __slots__ = (
        "followers",
        "head",
        "live",
        "newest",
        "progress",
        "ready",
        "repairing",
        "run_id",
        "tag",
        "turn",
    )

    def __init__(self, run_id: str, ready: asyncio.Future[None]) -> None:
        self.run_id = run_id
        self.tag = ids.tag_of(run_id).encode()
        self.ready = ready
        self.head = 0
        self.newest = 0
        self.progress = 0
        self.live: set[Follower] = set()
        self.followers = 0
        self.repairing: asyncio.Task[None] | None = None
        self.turn = next_turn()

    def dispatch(self, frame: Frame) -> None:
        """Push the next event in line to all who are live."""
        number = frame.number
        self.head = number
        if number > self.newest:
            self.newest = number
        behind = [one for one in self.live if one.position < number]
        self._push(frame, behind)
        if frame.terminal:
            self.live.clear()

    def tell(self, frame: Frame, count: int) -> None:
        """Push a state to those who have not been told a later one."""
        behind = [one for one in self.live if one.states < count]
        self._push(frame, behind)
        for follower in behind:
            # Who could not take it reads what is the latest then.
            if follower in self.live:
                follower.states = count

    def _push(self, frame: Frame, followers: list[Follower]) -> None:
        slow: list[Follower] = []
        for follower in followers:
            try:
                if follower.push(frame):
                    continue
            except Exception:
                # It takes nothing from those behind it: it reads on alone.
                log.exception("a reader could not be given an event")
            slow.append(follower)
        for follower in slow:
            self.live.discard(follower)
            follower.lag()

    def attach(self, follower: Follower) -> bool:
        """Take a follower onto the live path, unless something newer is known already."""
        if self.knows_more(follower.position, follower.states):
            return False
        if not self.live:
            self.head = follower.position
        self.newest = follower.position
        self.live.add(follower)
        return True

    def knows_more(self, head: int, states: int) -> bool:
        """Whether a message has told of a later event, or of later progress."""
        return self.newest > head or self.progress > _count_of(head, states)

    def believe(self, head: int, states: int, progress: int) -> None:
        """What a reading says, from before which `progress` was known: where it has less, a
        failover has lost the rest, and nobody waits for it."""
        if _count_of(head, states) < progress:
            self.progress = _count_of(head, states)

    def rewind(self, number: int) -> None:
        """The tape ends before what was seen: a failover lost the rest."""
        self.head = self.newest = number
        self.scatter()

    def scatter(self) -> None:
        """Each reads on alone."""
        everyone, self.live = self.live, set()
        for follower in everyone:
            follower.lag()

    def lose(self) -> None:
        everyone, self.live = self.live, set()
        for follower in everyone:
            follower.lose()


def _count_of(head: int, states: int) -> int:
    """So many states of the attempt in which `head` is, as one number with it."""
    return ids.number(ids.split(head)[0], max(0, states))
