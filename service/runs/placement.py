"""From a request to a place in the queue: a record first, then the queue.

Invariant: a run whose id somebody was told is in the queue or with a producer outside, and one
that could not be enqueued leaves nothing behind: whoever dies between the two steps leaves a
record that expires, never an entry without one, and whoever joins a run that has no place yet
sees to it. Enqueuing twice is harmless, since only one can claim a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from service.errors import Problem, StoreError
from service.runs import refusals
from service.runs.ask import Ask, Taken
from service.runs.job import Job
from service.store import events, ids
from service.store.external import External
from service.store.fullness import CLOSED, Fullness
from service.store.owners import Owners
from service.store.queue import Queue
from service.store.shares import Shares
from service.store.stats import Stats
from service.store.streams import Conflict, Crowded, Streams


class Placement:
    """One a worker. `limit` is the number of runs that may wait."""

    def __init__(
        self,
        streams: Streams,
        shares: Shares,
        queue: Queue,
        external: External,
        fullness: Fullness,
        owners: Owners | None,
        stats: Stats,
        *,
        limit: int,
    ) -> None:
        self._streams = streams
        self._shares = shares
        self._queue = queue
        self._external = external
        self._fullness = fullness
        self._owners = owners
        self._stats = stats
        self._limit = limit

    async def record(self, ask: Ask, job: Job, run_id: str) -> Taken:
        """Write the record of a run that has no place yet: status `created`. Under a key it may
        be there: its status then, `queued` where it has no place yet either."""
        if await self._fullness.share() >= CLOSED:
            self._stats.count("runs_refused_store_full")
            raise refusals.store_full()
        token = ids.new_token()
        with _refused():
            status = await self._streams.create(
                run_id,
                agent=ask.agent,
                owner=ask.owner,
                token=token,
                request=job.encode(),
                fingerprint=ask.fingerprint(),
            )
        return Taken(run_id, token, status=status)

    async def place(self, ask: Ask, taken: Taken) -> Taken:
        """Hand a recorded run over; where it is refused, the Problem that says why. Its record
        is then taken back, but under a key left to the next who comes with it, and perhaps has
        come already."""
        if taken.status == "enqueued":
            return taken._replace(status="queued")
        if taken.status not in ("created", "queued"):
            return taken
        # `queued`: the same key in the same instant, or our own call, sent again since its
        # first answer was lost.
        try:
            return taken._replace(status=await self._hand_over(taken.run_id, ask))
        except (StoreError, Problem):
            if ask.idempotency_key:
                raise
            # Somebody who shares it may have found it a place meanwhile.
            again = await self._shares.share(taken.run_id, taken.token)
            if again in ("enqueued", "running"):
                return taken._replace(status="running" if again == "running" else "queued")
            await self.withdraw(taken)
            raise

    async def withdraw(self, taken: Taken) -> None:
        await self._shares.withdraw(taken.run_id, taken.token)

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
                    return await self.place(ask, Taken(run_id, token, status=status))
        return None

    async def join(self, run_id: str) -> Taken | None:
        """A share in a run that is answering the same question; None where it is over. One
        that is `queued` has no place yet, as far as can be known: `place` sees to it."""
        token = ids.new_token()
        status = await self._shares.share(run_id, token)
        if status == "over":
            return None
        return Taken(run_id, token, status=status, how="joined")

    async def _hand_over(self, run_id: str, ask: Ask) -> str:
        """To the queue, or to a producer outside; the run's status then."""
        if self._owners is not None and not await self._owners.admit(ask.owner, run_id):
            self._stats.count("runs_refused_owner_limit")
            raise refusals.owner_limit()
        if ask.is_external:
            await self._external.watch(run_id)
            first = events.started(run_id, ask.agent, 1)
            await self._streams.claim(run_id, 1, "external", first)
            return "running"
        code = await self._queue.enqueue(run_id, ask.agent, self._limit)
        if code == "ok":
            if ask.may_be_shared:
                await self._streams.mark_enqueued(run_id)
            return "queued"
        self._stats.count(f"runs_refused_{code}")
        raise refusals.queue_full(self._limit) if code == "full" else refusals.no_runner()


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except Conflict:
        raise refusals.conflict() from None
    except Crowded:
        raise refusals.crowded() from None
