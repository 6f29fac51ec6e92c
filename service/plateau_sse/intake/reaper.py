"""Ending runs that have nobody left: done by every web worker, whichever looks first.

Invariant: from the death of a run's last producer to its terminal event it takes `ABANDONED_S`
and one look where no runner is left that has its agent. One that was handed back waits for such
a runner as a new one does, but neither longer than its life nor once it is to be cancelled.
Looking twice is harmless: a run ends once, and an attempt that somebody has begun meanwhile is
left alone.
"""

from __future__ import annotations

import asyncio
import logging
import random

from plateau_sse.errors import StoreError
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.announcements import Announcements
from plateau_sse.store.queue.queue import ABANDONED_S, Look, Queue, Waiting
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.looks import Standing
from plateau_sse.store.runs.streams import EXTERNAL, Streams

log = logging.getLogger("plateau.reaper")

LOOK_S = 2.0


class Reaper:
    """One a web worker; times in seconds. A run that was begun ends within `life_s`."""

    def __init__(
        self,
        streams: Streams,
        queue: Queue,
        announcements: Announcements,
        external: External,
        stats: Stats,
        *,
        queue_timeout_s: int,
        life_s: int,
        external_idle_s: int,
    ) -> None:
        self._streams = streams
        self._queue = queue
        self._announcements = announcements
        self._external = external
        self._stats = stats
        self._queue_timeout_s = queue_timeout_s
        self._life_s = life_s
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
        await self._end_waiting(await self._queue.look(self._queue_timeout_s))
        for run_id, attempt, is_empty in await self._external.silent():
            message = f"Its producer was silent for {self._external_idle_s} s."
            last = events.failed("producer_lost", message, retryable=True)
            said = await self._end(
                run_id, EXTERNAL, attempt, last, "producer_lost", briefly=is_empty
            )
            if said != "fenced":
                await self._external.forget(run_id)

    async def _end_waiting(self, look: Look) -> None:
        found = list(dict.fromkeys([*look.overdue, *look.back]))
        if not found:
            return
        had = None
        if look.overdue or look.lost:
            had = await self._announcements.of(look.runners)
        standings = await self._streams.standings([one.run_id for one in found])
        # Whoever takes a run does so before it begins an attempt: where it waits still, the
        # attempt seen is the one whose runner has lost it.
        still = await self._queue.still(found)
        for one, standing, waits in zip(found, standings, still, strict=True):
            if not waits:
                continue
            if standing is not None:
                why = self._why(one, standing, look, had)
                if why is None:
                    continue
                last, code = why
                said = await self._end(one.run_id, one.agent, standing.attempt, last, code)
                if said == "fenced":
                    continue
            await self._queue.drop(one.run_id)

    def _why(
        self, one: Waiting, standing: Standing, look: Look, had: set[str] | None
    ) -> tuple[Event, str] | None:
        """None where it is waited for; `had`: agents of the runners that are there, None where
        that is not known."""
        if standing.cancel is not None:
            return events.cancelled(standing.cancel), "cancelled"
        lacking = had is not None and one.agent not in had
        within = f"{self._queue_timeout_s} s."
        if one in look.lost and (lacking or not look.runners):
            message = f"Its runner is gone, and none took it over within {ABANDONED_S:g} s."
            code, retryable = "runner_lost", True
        elif standing.age_s > self._life_s:
            message, code, retryable = events.too_long(self._life_s), "timeout", True
        elif one not in look.overdue:
            return None
        elif lacking:
            message = f"No runner with agent {one.agent!r} was there for {within}"
            code, retryable = "agent_unknown", False
        elif one.is_new:
            message = f"No runner claimed it within {within}"
            code, retryable = "queue_timeout", True
        else:
            message = "Its runner is gone, and no other took it over."
            code, retryable = "runner_lost", True
        return events.failed(code, message, retryable=retryable), code

    async def _end(
        self,
        run_id: str,
        agent: str,
        attempt: int,
        last: Event,
        code: str,
        *,
        briefly: bool = False,
    ) -> str:
        """What the script says: `fenced` where a producer has been there meanwhile."""
        appended = await self._streams.end(run_id, attempt, last, briefly=briefly)
        if appended.code == "ok":
            self._stats.count_end(agent, code)
            log.warning("run %s: ended for want of a producer (%s)", run_id, code)
        return appended.code
