"""Ending runs that have nobody left: done by every web worker, whichever looks first.

Invariant: from the death of a run's last producer to its terminal event it takes `ABANDONED_S`
and one look, whether or not a runner ever comes back. Looking twice is harmless: a run ends
once, and an attempt that somebody has begun meanwhile is left alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

from plateau_sse.errors import StoreError
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.queue import Queue, Ticket
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.streams import Streams

log = logging.getLogger("plateau.reaper")

LOOK_S = 2.0


class Reaper:
    """One a web worker; times in seconds."""

    def __init__(
        self,
        streams: Streams,
        queue: Queue,
        external: External,
        stats: Stats,
        *,
        queue_timeout_s: int,
        external_idle_s: int,
    ) -> None:
        self._streams = streams
        self._queue = queue
        self._external = external
        self._stats = stats
        self._queue_timeout_s = queue_timeout_s
        self._external_idle_s = external_idle_s

    async def keep_looking(self) -> None:
        """Look every `LOOK_S`, for ever; a store that is away is looked at again later."""
        while True:
            await asyncio.sleep(LOOK_S * random.uniform(0.5, 1.0))
            try:
                await self.look()
            except StoreError as error:
                log.warning("nobody can be looked after for now: %s", error)
            except Exception:
                log.exception("looking after lost runs failed")

    async def look(self) -> None:
        await self._end_abandoned(await self._queue.abandoned())
        for ticket in await self._queue.overdue(self._queue_timeout_s):
            await self._end_unclaimed(ticket)
        for run_id, attempt, is_empty in await self._external.silent():
            message = f"Its producer was silent for {self._external_idle_s} s."
            last = events.failed("producer_lost", message, retryable=True)
            await self._end(run_id, attempt, last, "producer_lost", briefly=is_empty)
            await self._external.forget(run_id)

    async def _end_abandoned(self, tickets: Sequence[Ticket]) -> None:
        if not tickets:
            return
        numbers = await self._streams.last_numbers([ticket.run_id for ticket in tickets])
        # Whoever takes a run over renews its lease before it begins an attempt: where that is
        # stale still, the attempt seen is the one whose runner has died.
        stale = {ticket.entry for ticket in await self._queue.abandoned()}
        message = "Its runner died, and no other took it over."
        last = events.failed("runner_lost", message, retryable=True)
        for ticket, number in zip(tickets, numbers, strict=True):
            if ticket.entry not in stale:
                continue
            if number is not None:
                attempt = ids.split(number)[0]
                if await self._end(ticket.run_id, attempt, last, "runner_lost") == "fenced":
                    continue
            await self._queue.done(ticket)

    async def _end_unclaimed(self, ticket: Ticket) -> None:
        held = await self._streams.claimant(ticket.run_id)
        if held is not None and held[0] > 0:
            # Left in the queue, places that no run needs would hide those behind them.
            if not _may_be_claimed_by(ticket, held[1]):
                await self._queue.done(ticket)
            return
        if held is not None:
            message = f"No runner claimed it within {self._queue_timeout_s} s."
            last = events.failed("queue_timeout", message, retryable=True)
            if await self._end(ticket.run_id, 0, last, "queue_timeout") == "fenced":
                return
        await self._queue.done(ticket)

    async def _end(
        self,
        run_id: str,
        attempt: int,
        last: events.Event,
        code: str,
        *,
        briefly: bool = False,
    ) -> str:
        """What the script says: `fenced` where a producer has been there meanwhile."""
        appended = await self._streams.end(run_id, attempt, last, briefly=briefly)
        if appended.code == "ok":
            self._stats.count(f"runs_failed_{code}")
            log.warning("run %s: ended for want of a producer (%s)", run_id, code)
        return appended.code


def _may_be_claimed_by(ticket: Ticket, claimant: str) -> bool:
    """Whether this place in the queue is the one that its run was claimed by. It is not where
    the run has another, or ended before anyone claimed it."""
    _, with_entry, entry = claimant.rpartition(" ")
    return bool(claimant) and (not with_entry or entry == ticket.entry)
