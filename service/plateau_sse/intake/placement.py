"""Placement, which finds a run its place in the queue: a record first, then the queue.

Invariant: a run whose id somebody was told is in the queue or with a producer outside, and one
that could not be enqueued leaves nothing behind: whoever dies between the two steps leaves a
record that expires, never an entry without one. Of those who share a run that has no place yet
one sees to that; the others wait until it has one. Where that one is refused or has died, the
next does. Enqueuing twice is harmless, since only one can claim a run.

Runs of producers outside wait for nobody: as many may be on as may wait in the queue, counted
apart, so that neither kind takes the other's places. They are counted before their record is
written, so that one that is refused leaves nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from plateau_sse.errors import Problem, StoreError
from plateau_sse.intake import refusals
from plateau_sse.intake.ask import Ask, Taken
from plateau_sse.store.conversations.conversations import Conversations
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.job import Job
from plateau_sse.store.queue.owners import Owners
from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.redis.fullness import CLOSED, Fullness
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.streams import Conflict, Crowded, Streams

# How often those ask who wait for a run's place; apart, so that they do not come all at once.
ASK_AGAIN_S = (0.02, 0.05)
# As who gives up its share over HTTP has it cancelled.
GIVEN_UP = "requested"

log = logging.getLogger("plateau.intake")


class Placement:
    """One a worker. `limit` is the number of runs that may wait; each ends within
    `run_life_s`. Of what is asked `job_bytes` are kept at most."""

    def __init__(
        self,
        streams: Streams,
        shares: Shares,
        queue: Queue,
        external: External,
        conversations: Conversations,
        fullness: Fullness,
        owners: Owners | None,
        stats: Stats,
        *,
        limit: int,
        run_life_s: int,
        job_bytes: int,
    ) -> None:
        self._streams = streams
        self._shares = shares
        self._queue = queue
        self._external = external
        self._conversations = conversations
        self._fullness = fullness
        self._owners = owners
        self._stats = stats
        self._limit = limit
        self._run_life_s = run_life_s
        self._job_bytes = job_bytes

    async def record(self, ask: Ask, job: Job, run_id: str) -> Taken:
        """Write the record of a run that has no place yet: status `created`. Under a key it may
        be there: its status then, `queued` where it may have no place yet either."""
        if await self._fullness.share() >= CLOSED:
            self._stats.count("runs_refused_store_full")
            log.warning("a run was refused: the store is nearly full")
            raise refusals.store_full()
        request = job.encode()
        if len(request) > self._job_bytes:
            # Numbers may be shorter as they came: 1e9 is kept as 1000000000.0.
            raise refusals.too_large(self._job_bytes)
        if ask.is_external:
            if self._owners is not None and not await self._owners.has_room(ask.owner, run_id):
                raise self._owner_limit()
            await self._admit_external(run_id)
        token = ids.new_token()
        try:
            with _refused():
                status = await self._streams.create(
                    run_id,
                    agent=ask.agent,
                    owner=ask.owner,
                    token=token,
                    request=request,
                    fingerprint=ask.fingerprint(),
                )
        except StoreError:
            # Under a key the run may be there, and somebody has to look after it.
            if ask.is_external and not ask.idempotency_key:
                with suppress(StoreError):
                    await self._external.forget(run_id)
            raise
        return Taken(run_id, token, status=status)

    async def place(self, ask: Ask, taken: Taken) -> Taken:
        """Hand a run over, or wait until another has; where it is refused, the Problem that
        says why. Our share is then taken back, and the record where it was the only one; under
        a key it is left to the next who comes with it, and perhaps has come already."""
        try:
            while taken.status == "queued":
                # Another is seeing to it; or it is ours: a call that was sent again, since its
                # first answer was lost, found what the first had made.
                await asyncio.sleep(random.uniform(*ASK_AGAIN_S))
                taken = await self._ask_again(taken)
            if taken.status not in ("created", "unplaced"):
                return _told(taken)
            return taken._replace(status=await self._hand_over(ask, taken))
        except (StoreError, Problem):
            if ask.idempotency_key:
                with suppress(StoreError):
                    await self._shares.step_back(taken.run_id, taken.token)
                raise
            with suppress(StoreError):
                # Somebody who shares it may have found it a place meanwhile.
                again = await self._ask_again(taken)
                if again.status not in ("queued", "unplaced"):
                    return _told(again)
            await self.withdraw(taken)
            if ask.is_external:
                with suppress(StoreError):
                    await self._external.forget(taken.run_id)
            raise

    async def withdraw(self, taken: Taken) -> None:
        left = await self._shares.withdraw(taken.run_id, taken.token, GIVEN_UP)
        if left == "given_up":
            # They still read, and nobody else ends what has no place in the queue.
            await self._streams.ask_to_cancel(taken.run_id, GIVEN_UP)

    async def _ask_again(self, taken: Taken) -> Taken:
        status = await self._shares.share(taken.run_id, taken.token)
        if status == "over":
            # Whoever has a share is told what became of the run, while there is a record.
            raise StoreError(f"the store has lost run {taken.run_id}")
        return taken._replace(status=status)

    async def join_keyed(self, ask: Ask, run_ids: Sequence[str]) -> Taken | None:
        """The run that the same key stands for already. Its first caller may have died before
        it enqueued: that is done again."""
        token = ids.new_token()
        with _refused():
            for run_id in run_ids:
                status = await self._streams.join(
                    run_id, token=token, fingerprint=ask.fingerprint()
                )
                if status != "absent":
                    repeat = Taken(run_id, token, status=status, is_repeat=True)
                    return await self.place(ask, repeat)
        return None

    async def join(self, run_id: str) -> Taken | None:
        """A share in a run that is answering the same question; None where it is over. One
        that is `queued` or `unplaced` may have no place yet: `place` sees to it."""
        token = ids.new_token()
        status = await self._shares.share(run_id, token)
        if status == "over":
            return None
        return Taken(run_id, token, status=status, how="joined")

    async def _hand_over(self, ask: Ask, taken: Taken) -> str:
        """To the queue, or to a producer outside; the run's status then."""
        run_id = taken.run_id
        if ask.is_external:
            # Again: whoever counted it may have died long ago, and it been forgotten since.
            await self._admit_external(run_id)
            await self._admit_owner(ask, run_id)
            first = events.started(run_id, ask.agent, 1)
            await self._streams.claim(run_id, 1, "external", first)
            self._stats.count("runs_created")
            return "running"
        await self._admit_owner(ask, run_id)
        if ask.place:
            # A deletion must hold for it from now on. What was asked is no sign of it: that is
            # added once the run has its place, by a worker that may die before.
            life_s = self._run_life_s
            await self._conversations.announce(ask.place, taken.token, life_s=life_s)
        code = await self._queue.enqueue(run_id, ask.agent, self._limit)
        if code == "ok":
            self._stats.count("runs_created")
            if ask.may_be_shared:
                await self._streams.mark_enqueued(run_id)
            return "queued"
        if ask.place:
            with suppress(StoreError):
                await self._conversations.retract(ask.place, taken.token)
        if code == "full":
            self._stats.count("runs_refused_queue_full")
            log.warning("a run was refused: %d wait already (QUEUE_LIMIT)", self._limit)
            raise refusals.queue_full(self._limit)
        self._stats.count("runs_refused_no_runner")
        log.warning("a run was refused: no runner is alive")
        raise refusals.no_runner()

    async def _admit_external(self, run_id: str) -> None:
        if not await self._external.admit(run_id, self._limit):
            self._stats.count("runs_refused_queue_full")
            log.warning("a run was refused: %d external ones are on", self._limit)
            raise refusals.external_full(self._limit)

    async def _admit_owner(self, ask: Ask, run_id: str) -> None:
        owners = self._owners
        if owners and not await owners.admit(ask.owner, run_id, lasts=ask.is_external):
            raise self._owner_limit()

    def _owner_limit(self) -> Problem:
        self._stats.count("runs_refused_owner_limit")
        log.info("a run was refused: its owner has half of the queue already")
        return refusals.owner_limit()


def _told(taken: Taken) -> Taken:
    """With the status that callers know."""
    return taken._replace(status="queued") if taken.status == "enqueued" else taken


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except Conflict:
        raise refusals.conflict() from None
    except Crowded:
        raise refusals.crowded() from None
