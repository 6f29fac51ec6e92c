"""Taking runs: what is new, what others have lost or handed back, what the one before held.

Invariant: it looks at the queue once a second at least, however full its runner is: that is how
others see that it lives. Only runs whose agents it has are taken, of another version only what
waits for one that nobody has any more; what others have lost is left for a while to whoever has
a place for it. The queue is told who has its places, and leaves some to others.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from plateau_sse import tasks as ending
from plateau_sse.agents.registry import RegisteredAgent
from plateau_sse.errors import StoreError, StoreFull
from plateau_sse.runner.beat import Before
from plateau_sse.store.queue.announcements import ANNOUNCE_S, About, Announcements
from plateau_sse.store.queue.line import line_of
from plateau_sse.store.queue.queue import WITHOUT_AFTER_S, Queue, Ticket

log = logging.getLogger("plateau.runner")

BLOCK_MS = 1000
ANNOUNCE_RETRY_S = 5


class Start(Protocol):
    def __call__(self, tickets: list[Ticket]) -> None: ...


def about_of(agent: RegisteredAgent) -> About:
    """What web workers have to know of it."""
    hosted = agent.hosted
    if hosted is None:
        return About(agent.kind, input_bytes=agent.input_bytes)
    return About(
        agent.kind,
        hosted.cache,
        True,
        hosted.max_steps,
        hosted.attempts,
        hosted.timeout_s,
        agent.input_bytes,
    )


class Taking:
    """For the runner `name`, which may execute `most` at once: `start` begins them, and those
    that are on are in `tasks`. After `queue_timeout_s` in the queue runs are ended."""

    def __init__(
        self,
        name: str,
        agents: Mapping[str, RegisteredAgent],
        queue: Queue,
        announcements: Announcements,
        before: Before | None,
        start: Start,
        tasks: Mapping[str, asyncio.Task[None]],
        most: int,
        queue_timeout_s: int,
        waiting: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._name = name
        self._agents = agents
        self.lines = [line_of(name, agent.version) for name, agent in agents.items()]
        self._queue = queue
        self._announcements = announcements
        self._before = before
        self._start = start
        self._tasks = tasks
        self._most = most
        # Of the tasks those that wait for another run to end: they take nobody's place.
        self._waiting = waiting
        # Whose they are.
        self._owners: dict[str, str] = {}
        # Waits for the bell, also while there is something else to do.
        self._ringing: asyncio.Task[None] | None = None
        self._without_after_s = min(WITHOUT_AFTER_S, queue_timeout_s / 2)
        self._announce_at = float("-inf")

    async def keep_taking(self) -> None:
        try:
            await self._keep_taking()
        finally:
            if self._ringing is not None:
                await ending.end(self._ringing)

    async def _keep_taking(self) -> None:
        wait_s = 0.1
        inherited = False
        while True:
            try:
                await self._announce()
                if self._before is not None and not inherited:
                    # Most of it has been ours since this process began.
                    for name in (self._name, self._before.name):
                        await self._inherit(name)
                    inherited = True
                await self._take_some()
                wait_s = 0.1
            except StoreError as error:
                log.warning("the streams instance does not answer, trying again: %s", error)
                await asyncio.sleep(wait_s * random.uniform(0.5, 1))
                wait_s = min(2.0, wait_s * 2)
                self._announce_at = float("-inf")
            except Exception:
                # Whatever it was: a late runner is better than one that takes nothing more.
                log.exception("runs could not be taken, trying again")
                await asyncio.sleep(1)

    async def _announce(self) -> None:
        """Make the agents known, also to a store that was emptied."""
        if time.monotonic() < self._announce_at:
            return
        versions = {name: agent.version for name, agent in self._agents.items()}
        about = {name: about_of(agent) for name, agent in self._agents.items()}
        again_s = float(ANNOUNCE_S)
        try:
            await self._announcements.say(self._name, versions, about)
        except StoreFull as error:
            # What is in the queue can be executed all the same, and that makes room.
            log.warning("the agents could not be announced, trying again: %s", error)
            again_s = ANNOUNCE_RETRY_S
        self._announce_at = time.monotonic() + again_s

    async def _inherit(self, name: str) -> None:
        left = await self._queue.inherit(self._name, name)
        self._begin([one for one in left if one.line in self.lines])
        # Of another version than ours, too: others may have it.
        if foreign := {one.line for one in left}.difference(self.lines):
            await self._queue.hand_back(self._name, foreign, lost=True)

    def _begin(self, tickets: list[Ticket]) -> None:
        self._owners |= {ticket.run_id: ticket.owner for ticket in tickets}
        self._start(tickets)

    async def _take_some(self) -> None:
        waiting = self._waiting()
        at_work = len(self._tasks) - min(len(waiting), self._most)
        free = max(0, self._most - at_work)
        self._owners = {run: who for run, who in self._owners.items() if run in self._tasks}
        places = Counter(who for run, who in self._owners.items() if run not in waiting)
        taken = await self._queue.take(
            self._name, self.lines, free, self._without_after_s, places
        )
        self._begin(taken.tickets)
        if free > len(taken.tickets):
            # Those that begin go first: what they have to say is waited for.
            await asyncio.sleep(0)
            if self._queue.has_passed_over or self._ringing is not None:
                await self._ring_or_end(taken.rung)
            else:
                await self._queue.wait(taken.rung, BLOCK_MS)
        else:
            await asyncio.wait(
                self._tasks.values(), timeout=1, return_when=asyncio.FIRST_COMPLETED
            )

    async def _ring_or_end(self, rung: bytes) -> None:
        """Where runs were passed over the end of one makes room for them, as the bell does for
        others. It goes on waiting for the bell where it does already: had that rung since, it
        would know."""
        if self._ringing is None:
            self._ringing = asyncio.create_task(self._queue.wait(rung, BLOCK_MS))
        await asyncio.wait(
            [self._ringing, *self._tasks.values()], return_when=asyncio.FIRST_COMPLETED
        )
        if self._ringing.done():
            ringing, self._ringing = self._ringing, None
            ringing.result()
