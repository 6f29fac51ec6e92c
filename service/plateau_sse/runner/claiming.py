"""Claiming a run: which attempt it is to be, or that there is none left.

Invariant: a run has as many attempts as MAX_ATTEMPTS says that end by a death which may have
been its own agent's doing, and all of them end within `life_s` of the first one's beginning.
What was handed back, and what ran beside one that held up all of its runner, has died no death
of its own: the latter once, until it is handed back. Who held its runner up may do so once
more, as who holds the interpreter's lock for a while cannot be told from who never lets go of
it, nor always from who only computes beside him.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from plateau_sse import tasks
from plateau_sse.runner.beat import Before
from plateau_sse.runner.handing_back import WITHIN_S
from plateau_sse.runner.writer import Refused, insist
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.queue import Ticket
from plateau_sse.store.runs import events
from plateau_sse.store.runs.appending import Appended, Claimant
from plateau_sse.store.runs.streams import Claimed, Streams

log = logging.getLogger("plateau.runner")


class Claims:
    """Those of the runner `name`; `before` it was another of its tree. `attempts` has those of
    agents that do not have as many as others, but fewer."""

    def __init__(
        self,
        name: str,
        before: Before | None,
        streams: Streams,
        stats: Stats,
        max_attempts: int,
        life_s: float,
        attempts: Mapping[str, int] | None = None,
    ) -> None:
        self._name = name
        self._before = before
        self._streams = streams
        self._stats = stats
        self._attempts = attempts or {}
        self._max_attempts = max_attempts
        self._life_s = life_s

    async def claim(self, ticket: Ticket) -> Claimed | None:
        """The claimed run, or None where there is nothing (left) to execute. Who is cancelled
        meanwhile waits for the store's answer all the same: a claim that is done behind his
        back would be done after he has handed the run back."""
        claiming = asyncio.create_task(self._claim(ticket))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            try:
                await asyncio.wait({claiming}, timeout=WITHIN_S)
            finally:
                # Also where he is told twice.
                await tasks.end(claiming)
            raise

    async def _claim(self, ticket: Ticket) -> Claimed | None:
        """A number that may have been another attempt's is skipped: the store can lose the last
        second, and its readers would go on with another text."""
        attempt, tries, age_s, is_blamed = 0, None, 0.0, False
        if ticket.retaken:
            held = await self._streams.claimant(ticket.run_id)
            if held is None:
                return None
            attempt, age_s = held.attempt, held.age_s
            before = None
            if self._before is not None and self._before.name == held.runner:
                before = self._before
            most = min(self._attempts.get(ticket.agent, self._max_attempts), self._max_attempts)
            if await self._is_over(ticket, held, before, most):
                return None
            if before is not None:
                is_blamed = before.is_the_culprit(ticket.run_id)
                if _spares(before, ticket.run_id, held):
                    # This attempt stands for the one before.
                    tries = held.tries
        begin = partial(
            self._streams.begin,
            ticket.run_id,
            attempt + 1,
            self._name,
            ticket.agent,
            # It was delivered before: what is not claimed may have been.
            in_doubt=ticket.retaken and attempt == 0,
            spared_at=tries,
            is_blamed=is_blamed,
        )
        # A claim that was given up may be done all the same, and would count as a death.
        claimed = await insist(begin)
        if isinstance(claimed, Appended):
            _check_fence(claimed)
            log.info("run %s: nothing to do (%s)", ticket.run_id, claimed.code)
            return None
        if attempt:
            self._stats.count("runs_restarted")
        return claimed._replace(age_s=age_s)

    async def _is_over(
        self, ticket: Ticket, held: Claimant, before: Before | None, most: int
    ) -> bool:
        """Whether it gets no other attempt; then it is ended."""
        run_id, is_last = ticket.run_id, held.tries >= most
        is_culprit = before is not None and before.is_the_culprit(run_id)
        if before is not None and is_culprit and (held.was_blamed or is_last):
            code, again = "timeout", ", again" if held.was_blamed else ""
            message = (
                f"Its agent {ticket.agent} held up all of its runner for "
                f"{before.silent_s:.0f} s{again}."
            )
        elif before is not None and _spares(before, run_id, held):
            return False
        elif is_last:
            code, message = "runner_lost", f"Its runner died, {held.tries} times."
        elif held.age_s >= self._life_s:
            code, message = "timeout", events.too_long(self._life_s)
        else:
            return False
        last = events.failed(code, message, retryable=True)
        ended = await self._streams.end(run_id, held.attempt, last)
        _check_fence(ended)
        if ended.code == "ok":
            self._stats.count_end(ticket.agent, code)
        return True


def _check_fence(appended: Appended) -> None:
    """Raises Refused where another attempt was begun since this one's runner has looked: by one
    that may have left it meanwhile. The run keeps its place, until the lease has run out."""
    if appended.code == "fenced":
        raise Refused(appended.code)


def _spares(before: Before, run_id: str, held: Claimant) -> bool:
    """Whether that death is no try of this run's. Once: what held up all may have been begun
    where nobody sees it, and would be spared for ever beside others that are not."""
    return not held.was_spared and not before.is_to_blame(run_id)
