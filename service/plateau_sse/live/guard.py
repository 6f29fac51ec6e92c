"""The guard: what a worker bears of connections whose requests do not come, or whose answers
are not taken.

Invariant: whoever does not ask within its time is closed on, who takes nothing of what it was
sent is cut (`live/stuck.py`), and there are never more
connections than files that this process may open: where there is no room for a newcomer, the
one goes that has said nothing for longest, and where all have, the one whose body has been
on its way for longest. Newcomers do not cut each other. Some room is kept for what is no
stream, since streams stay, and half of that for what does not wait for a run's end; and one
whose memory is beyond its bound takes no more streams, and keeps those that it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

from plateau_sse.files import FILES_MOST, connections_most, streams_most, waits_most
from plateau_sse.live.delivery import Count, nowhere
from plateau_sse.live.stuck import STUCK_S, Stuck
from plateau_sse.live.weight import Weight

log = logging.getLogger("plateau.guard")

# From the first byte, or from connecting, to the end of a head; from there to that of a body.
HEAD_S, BODY_S = 10.0, 30.0
LOOK_S = 1.0
# Who looks so much later was away himself.
AWAY_S = 2.0
# What a request may take from connecting until it is read, on a worker that has much to do.
MOMENT_S = 1.0
# Of bodies that have not come to their ends: what of each always finds room, and what the rest
# of all may take together. `BODIES_LEAST` of the largest do in any case.
BODY_FREE_BYTES = 16 * 1024
BODIES_BYTES = 16 * 1024 * 1024
BODIES_LEAST = 4

Owed = Literal["head", "body"]


class Connection(Protocol):
    """What is asked of one."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is being answered."""

    def give_up(self, owed: Owed) -> bool:
        """Close it, since that does not come; False where it is not its peer who keeps us
        waiting."""

    def taken(self) -> int | None:
        """As `Stuck` asks it."""

    def cut(self) -> None:
        """End it at once."""

    def reset(self) -> None:
        """End it at once, so that its peer knows."""


class Guard:
    """One a worker; `files` are those that its process may open, `body_bytes` what a body may
    have, `count` is told whom it closed on, and why. There may be `most` connections,
    `streams_most` of them streams, `waits_most` with those who wait for a run's end; streams
    come no more while its `weight` is too much."""

    def __init__(
        self,
        count: Count = nowhere,
        files: int = FILES_MOST,
        body_bytes: int = 0,
        weight: Weight | None = None,
    ) -> None:
        self.count = count
        self.weight = weight or Weight()
        self.most = connections_most(files)
        self.streams_most = streams_most(self.most)
        self.waits_most = waits_most(self.most)
        self._bodies_most = max(BODIES_BYTES, BODIES_LEAST * body_bytes)
        self._bodies_bytes = 0
        # Streams that were promised room, and have not begun.
        self.promised = 0
        # Responses that may have left something behind: a worker is replaced after many.
        self.served = 0
        self._connections: Collection[Connection] = ()
        self._stuck = Stuck()
        # Since when, the oldest first.
        self._heads: dict[Connection, float] = {}
        self._bodies: dict[Connection, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at = 0.0

    @property
    def open(self) -> int:
        """Connections."""
        return len(self._connections)

    # Who owes something

    def expect(
        self, connection: Connection, owed: Owed, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Its clock runs from the first call until `settle`, or a body is owed, not a head."""
        if owed == "head":
            self._heads.setdefault(connection, loop.time())
        else:
            self._heads.pop(connection, None)
            self._bodies.setdefault(connection, loop.time())
        if self._timer is None:
            self._looked_at = loop.time()
            self._timer = loop.call_later(LOOK_S, self._look, loop)

    def settle(self, connection: Connection) -> None:
        """A request is whole, or its connection has gone."""
        self._heads.pop(connection, None)
        self._bodies.pop(connection, None)

    def forget(self, connection: Connection) -> None:
        """It has gone."""
        self.settle(connection)
        self._stuck.forget(connection)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all, that runs while there are any; whatever becomes of this look."""
        is_any = self._connections or self._heads or self._bodies
        self._timer = loop.call_later(LOOK_S, self._look, loop) if is_any else None
        now = loop.time()
        self._put_off(now - self._looked_at - LOOK_S)
        self._looked_at = now
        self._close_on(self._heads, "head", now, HEAD_S)
        self._close_on(self._bodies, "body", now, BODY_S)
        for connection in self._stuck.look(self._connections):
            log.info("a connection is reset: its peer has taken nothing for %d s", STUCK_S)
            self.count("connections_cut_stuck")
            connection.reset()

    def _put_off(self, away_s: float) -> None:
        """Nobody is late for what a process that was frozen has not read."""
        if away_s < AWAY_S:
            return
        for since in (self._heads, self._bodies):
            for connection in since:
                since[connection] += away_s

    def _close_on(
        self, since: dict[Connection, float], owed: Owed, now: float, most_s: float
    ) -> None:
        late = []
        for connection, began_at in since.items():
            if now - began_at < most_s:
                break
            late.append(connection)
        for connection in late:
            del since[connection]
            if connection.give_up(owed):
                self.count(f"connections_cut_{owed}")
            else:
                since[connection] = now

    # Bodies

    @contextmanager
    def body(self) -> Iterator[Callable[[int], bool]]:
        """For as long as one is read: what is called with its length so far, and says whether
        there is room for that."""
        held = 0

        def holds(length: int) -> bool:
            nonlocal held
            more = max(0, length - BODY_FREE_BYTES) - held
            if more > 0 and self._bodies_bytes + more > self._bodies_most:
                self.count("bodies_refused")
                log.warning("a body is refused: others take %d bytes", self._bodies_bytes)
                return False
            held += more
            self._bodies_bytes += more
            return True

        try:
            yield holds
        finally:
            self._bodies_bytes -= held

    # Room

    def takes_stream(self, streams: int) -> bool:
        """Whether there may be one more than so many and those that were promised room; they
        stay for as long as they like."""
        taken = streams + self.promised
        if taken >= self.streams_most:
            self.count("streams_put_off")
            log.warning("a stream is put off: %d are open, as many as may be", taken)
            return False
        if self.weight.is_too_much:
            self.count("streams_put_off")
            log.warning(
                "a stream is put off: this worker has %.1f MiB, and may have %.1f",
                self.weight.bytes / 1024**2,
                self.weight.most / 1024**2,
            )
            return False
        return True

    def takes_wait(self, streams: int) -> bool:
        """Whether one more may wait for a run's end; those who do are among the streams."""
        return streams + self.promised < self.waits_most

    def admit(self, newcomer: Connection, connections: Collection[Connection]) -> bool:
        """Whether a newcomer, who is one of the connections already, may stay."""
        self._connections = connections
        open_now = len(connections)
        if open_now <= self.most:
            return True
        cut = self._make_room(newcomer)
        if cut:
            self.count("connections_cut_room", cut)
            log.warning(
                "%d connections are open, as many as may be: %d made room that asked nothing",
                open_now,
                cut,
            )
            return True
        self.count("connections_cut_refused")
        log.warning(
            "a connection is refused: %d are open, as many as may be, and all are in use",
            open_now,
        )
        return False

    def _make_room(self, newcomer: Connection) -> int:
        """How many have been cut. Who has come within a moment has asked, as a rule: that is
        only not read yet. So those go last, and first who has been silent for longer; then
        some that are kept for a next request; then who has been sending a body for longest."""
        now = asyncio.get_running_loop().time()
        return (
            self._cut_silent(newcomer, now - MOMENT_S)
            or self._cut_kept(newcomer)
            or self._give_up_body(now - MOMENT_S)
            or self._cut_silent(newcomer, now)
            or self._give_up_body(now)
        )

    def _cut_silent(self, newcomer: Connection, since: float) -> int:
        for connection, began_at in self._heads.items():
            if began_at > since:
                break
            if connection.is_idle and connection is not newcomer:
                connection.cut()
                return 1
        return 0

    def _cut_kept(self, newcomer: Connection) -> int:
        kept = [
            it
            for it in self._connections
            if it.is_idle and it is not newcomer and it not in self._heads
        ]
        # Not one at a time: each such look is at all of them.
        some = kept[: 1 + self.most // 16]
        for connection in some:
            connection.cut()
        return len(some)

    def _give_up_body(self, since: float) -> int:
        for connection, began_at in self._bodies.items():
            if began_at > since:
                break
            if connection.give_up("body"):
                self._bodies.pop(connection, None)
                return 1
        return 0
