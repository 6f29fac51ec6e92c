"""Admission: whether there is room for a run, and who is told that there is none.

Invariant: that the queue is full, or the store, or that an owner has its share of either, is
known before a record is written; of a run that is refused after all nothing stays counted.

Runs of producers outside wait for nobody: as many may be on as may wait in the queue, counted
apart, so that neither kind takes the other's places.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from plateau_sse import tasks
from plateau_sse.errors import Problem, StoreError
from plateau_sse.intake import refusals
from plateau_sse.intake.ask import Ask, Taken
from plateau_sse.intake.door import Door
from plateau_sse.owners import account_of
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.asked import Asked
from plateau_sse.store.queue.owners import Owners, Room
from plateau_sse.store.redis.fullness import Fullness, closed_at
from plateau_sse.store.redis.patience import retrieved
from plateau_sse.store.redis.together import Call
from plateau_sse.store.runs.external import External

log = logging.getLogger("plateau.intake")


class Admission:
    """One a worker. Without `owners` and `asked` nobody has a share of anything."""

    def __init__(
        self,
        door: Door,
        fullness: Fullness,
        external: External,
        stats: Stats,
        owners: Owners | None = None,
        asked: Asked | None = None,
    ) -> None:
        self.limit = door.limit
        self._door = door
        self._fullness = fullness
        self._external = external
        self._stats = stats
        self._owners = owners
        self._asked = asked
        # One for all who come meanwhile.
        self._looking: asyncio.Task[None] | None = None

    def look_ahead(self) -> None:
        """Ask already what `check` will have to know, while something else is waited for."""
        if self._looking is None and not (self._door.knows and self._fullness.knows):
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(retrieved)

    async def _look(self) -> None:
        try:
            await asyncio.gather(self._fullness.share(), self._door.look())
        finally:
            self._looking = None

    async def _looked(self) -> None:
        self.look_ahead()
        if self._looking is not None:
            await tasks.shared(self._looking)

    async def close(self) -> None:
        if self._looking is not None:
            await tasks.end(self._looking)

    async def check(self, ask: Ask, run_id: str, size: int) -> bool:
        """Before its record, which keeps `size` bytes of what is asked: whether it is one of
        the minute's now. Raises the Problem for which it is refused, and StoreError."""
        # At once: who is let in is not to wait for one after the other.
        room, _ = await asyncio.gather(self._room_of(ask, run_id), self._looked())
        share, depth = await self._fullness.share(), await self._door.look()
        if room.wait_ms:
            raise self._too_fast(room.wait_ms)
        try:
            if share >= closed_at(size):
                self._stats.count("runs_refused_store_full")
                log.warning("a run was refused: the store is nearly full")
                raise refusals.store_full()
            if room.is_full:
                raise self._owner_limit()
            if not (ask.is_external or depth.runners):
                raise refusals.no_runner()
            if depth.new >= self.limit and not ask.is_external:
                raise self.queue_full()
            # The last: of one that is refused for something else nothing is counted.
            if self._asked is not None:
                bound = await self._fullness.bound()
                if not await self._asked.admit(ask.account, run_id, size, bound):
                    raise self._owner_bytes()
        except Problem:
            if room.is_counted:
                await self.give_back(ask)
            raise
        return room.is_counted

    async def _room_of(self, ask: Ask, run_id: str) -> Room:
        owners = self._owners
        # Who was never refused is hardly refused now: it is counted with its record.
        if owners is None or not (
            owners.per_minute or ask.is_external or owners.was_full(ask.account)
        ):
            return Room()
        return await owners.room(ask.account, run_id)

    def counting(self, ask: Ask, run_id: str) -> Call | None:
        """What counts it among its owner's, to be sent with its record; None where `admit` or
        nobody does."""
        if self._owners is None or ask.is_external:
            return None
        return self._owners.admitting(ask.account, run_id)

    async def admit(self, ask: Ask, taken: Taken) -> None:
        """Among its owner's, behind its record. Raises Problem and StoreError."""
        if self._owners is None or taken.is_admitted:
            return
        if not await self._owners.admit(ask.account, taken.run_id, lasts=ask.is_external):
            raise self._owner_limit()

    async def admit_external(self, run_id: str) -> None:
        """Among those of producers outside. Raises Problem and StoreError."""
        if not await self._external.admit(run_id, self.limit):
            self._stats.count("runs_refused_queue_full")
            log.warning("a run was refused: %d external ones are on", self.limit)
            raise refusals.external_full(self.limit)

    async def give_back(self, ask: Ask) -> None:
        """It is not begun, and is none of the minute's."""
        if self._owners is not None:
            with suppress(StoreError):
                await self._owners.give_back(ask.account)

    async def uncount(self, ask: Ask, run_id: str) -> None:
        """It was refused behind its record."""
        await self.give_back(ask)
        if self._owners is not None:
            with suppress(StoreError):
                await self._owners.uncount(ask.account, run_id)

    def look_again(self) -> None:
        """The queue may be otherwise by now."""
        self._door.forget()

    async def forget(self, owner: str, run_id: str) -> None:
        """It has ended while it waited. Raises StoreError."""
        if self._owners is not None:
            await self._owners.forget(account_of(owner), run_id)

    def queue_full(self) -> Problem:
        self._stats.count("runs_refused_queue_full")
        log.warning("a run was refused: %d wait already (QUEUE_LIMIT)", self.limit)
        return refusals.queue_full(self.limit)

    def _too_fast(self, wait_ms: int) -> Problem:
        self._stats.count("runs_refused_rate_limited")
        per_minute = 0 if self._owners is None else self._owners.per_minute
        return refusals.rate_limited(per_minute, wait_ms)

    def _owner_limit(self) -> Problem:
        self._stats.count("runs_refused_owner_limit")
        log.info("a run was refused: its owner has half of the queue already")
        return refusals.owner_limit()

    def _owner_bytes(self) -> Problem:
        self._stats.count("runs_refused_owner_limit")
        log.info("a run was refused: its owner's questions take their share of the store")
        return refusals.owner_bytes()
