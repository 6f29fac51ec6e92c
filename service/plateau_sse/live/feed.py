"""Feeds: the runs that somebody in this worker follows.

Invariant: `head <= newest`; whoever is in `live` has a position of at least `head`, has been
told how far the run is, and gets the next event pushed. The stream is the truth, a message only
saves the read: whenever `newest` is ahead of `head`, a repair is under way.

A *generation* is the time from one confirmation of the subscription to the next. What was read
in an earlier one may lack what was published in between, which nobody here has heard of.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from plateau_sse.live.dialect import Stand
from plateau_sse.live.kept import Kept
from plateau_sse.live.sse import Frame, next_turn
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.reading import Reading

log = logging.getLogger("plateau.hub")


class Follower(Protocol):
    """What a feed pushes to. `position` is where the events end that it was given, `states` the
    count of the last state, `generation` the one in which it began to read last; `stand` is
    where it is in its dialect, None for who is told nothing."""

    position: int
    states: int
    generation: int

    @property
    def stand(self) -> Stand | None: ...

    def push(self, frame: Frame) -> bool:
        """Take the frame, or answer False to leave the live path and catch up alone."""

    def take(self, number: int, data: bytes, tag: bytes) -> bool:
        """Take the next event, of which no frame was made since nobody else is told it. False
        where that needs one: then nothing has been done."""

    def lag(self, *, slow: bool) -> None:
        """Read from the stream, then come back; `slow` where the socket is why."""

    def lose(self) -> None:
        """The run's record is gone: end, and say so."""


class Feed:
    """One followed run. `ready` is done once the subscription is confirmed. `progress` is the
    latest that a message has told of: its attempt and its count, as one number. `opener` is the
    token that was known first; `leading` is there while the first newcomer reads, and done when
    that one is live, or will not be. `recalls`: somebody was live whose dialect does."""

    __slots__ = (
        "followers",
        "generation",
        "head",
        "kept",
        "leading",
        "live",
        "newest",
        "opener",
        "progress",
        "ready",
        "recalls",
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
        self.recalls = False
        self.generation = 0
        self.live: set[Follower] = set()
        self.followers = 0
        self.repairing: asyncio.Task[None] | None = None
        self.kept: Kept | None = None
        self.opener = ""
        self.leading: asyncio.Future[None] | None = None
        self.turn = next_turn()

    def dispatch(self, frame: Frame) -> None:
        """Push the next event in line to all who are live."""
        number = frame.number
        if self.kept is not None:
            self.kept.add(self.head, frame, self.followers)
        self.head = number
        if number > self.newest:
            self.newest = number
        behind = [one for one in self.live if one.position < number]
        self._push(frame, behind)
        if frame.terminal:
            self.live.clear()

    def give(self, begins: int, number: int, data: bytes) -> Follower | None:
        """Let the only one who is live take the next event: most runs have one reader, for whom
        a frame that many could share would be half the work. That one, or None where there is
        to be a frame: `dispatch` then."""
        if begins != self.head or len(self.live) != 1 or self.kept is not None:
            return None
        [one] = self.live
        try:
            if one.position != begins or not one.take(number, data, self.tag):
                return None
        except Exception:
            # As `_push` finds it, too, and says.
            return None
        self.head = number
        if number > self.newest:
            self.newest = number
        return one

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
        rest = iter(followers)
        while True:
            try:
                for follower in rest:
                    if not follower.push(frame):
                        slow.append(follower)
                break
            except Exception:
                # It takes nothing from those behind it: it reads on alone.
                log.exception("a reader could not be given an event")
                slow.append(follower)
        for follower in slow:
            self.live.discard(follower)
            follower.lag(slow=True)

    def attach(self, follower: Follower) -> bool:
        """Take a follower onto the live path, unless something newer is known already, or may
        have been missed since it read."""
        if follower.generation != self.generation:
            return False
        if self.knows_more(follower.position, follower.states):
            return False
        if not self.live:
            self.head = follower.position
            self.release()
        self.newest = follower.position
        if follower.stand is not None and follower.stand.dialect.recalls:
            self.recalls = True
        self.live.add(follower)
        return True

    def shared(self, stand: Stand) -> Stand:
        """The same one, or what somebody who is live has of it already: most are in one place,
        and what a dialect remembers there need not be in memory once for each."""
        other = next(iter(self.live)).stand if self.live else None
        return other if other is not None and other.is_at(stand) else stand

    def owes(self, frame: Frame) -> bool:
        """Whether something has to be read before all who are live can be told this."""
        if not (self.recalls or frame.terminal):
            return False
        # Most stand in one place. All are asked, so that the frame knows of all that is due.
        stands = {one.stand for one in self.live if one.stand is not None}
        return any([frame.told(stand).due is not None for stand in stands])

    def recall(self, position: int) -> Reading | None:
        """What follows the position, where that is known here as well as it is to those who are
        live; None where the store must be asked."""
        kept = self.kept
        is_sure = self.live and self.repairing is None and self.newest == self.head
        if kept is None or kept.states < 0 or not is_sure or kept.end != self.head:
            return None
        if self.knows_more(self.head, kept.states):
            # Nobody is attached with this, and whoever is not reads again.
            return None
        entries = kept.behind(position)
        if entries is None or not self.head:
            return None
        return Reading(
            owner=kept.owner,
            status="running",
            head=self.head,
            reached=self.head,
            entries=entries,
            states=kept.states,
            progress=kept.progress,
        )

    def learn(self, position: int, reading: Reading, token: str = "") -> None:
        """What the store says behind a position, where it was asked with this token."""
        if self.kept is None:
            self.opener = self.opener or token
            return
        self.kept.prove(token, reading.owner)
        if reading.is_whole and not reading.ended and not reading.is_ahead:
            at = self.head if self.live else None
            self.kept.learn(position, reading, at=at, followers=self.followers)

    def release(self) -> None:
        """Nobody need wait for the first to be live."""
        if self.leading is not None:
            self.leading.set_result(None)
            self.leading = None

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
            follower.lag(slow=False)

    def lose(self) -> None:
        everyone, self.live = self.live, set()
        for follower in everyone:
            follower.lose()


def _count_of(head: int, states: int) -> int:
    """So many states of the attempt in which `head` is, as one number with it."""
    return ids.number(ids.split(head)[0], max(0, states))
