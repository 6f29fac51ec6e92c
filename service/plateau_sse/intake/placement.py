"""Placement, which finds a run its place in the queue: a record first, then the queue.

Invariant: a run whose id somebody was told is in the queue or with a producer outside, and one
that could not be enqueued leaves nothing behind: whoever dies between the two steps leaves a
record that expires, never an entry without one. Of those who share a run that has no place yet
one sees to that; the others wait until it has one. Where that one is refused or has died, the
next does. Enqueuing twice is harmless, since only one can claim a run.

Runs of producers outside wait for nobody. They are counted before their record is written, so
that one that is refused leaves nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

from plateau_sse.errors import Problem, StoreError, StoreUnavailable
from plateau_sse.intake import refusals
from plateau_sse.intake.admission import Admission
from plateau_sse.intake.ask import Ask, Taken
from plateau_sse.store.conversations.conversations import Conversations
from plateau_sse.store.conversations.lines import MOST, Lines
from plateau_sse.store.conversations.listed import Listed
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.due import Due
from plateau_sse.store.queue.job import Job
from plateau_sse.store.queue.line import line_of
from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.redis.together import Call
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.looks import Conflict
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.streams import EXTERNAL, Claimed, Crowded, Streams

# How often those ask who wait for a run's place; apart, so that they do not come all at once.
ASK_AGAIN_S = (0.02, 0.05)
# As who gives up its share over HTTP has it cancelled.
GIVEN_UP = "requested"

# By then most runs have ended, whose runner has said so.
LOOK_S = 30.0

log = logging.getLogger("plateau.intake")


class Placement:
    """One a worker. Each run ends within `run_life_s`; of what is asked `job_bytes` are kept at
    most."""

    def __init__(
        self,
        streams: Streams,
        shares: Shares,
        queue: Queue,
        admission: Admission,
        external: External,
        conversations: Conversations,
        listed: Listed,
        lines: Lines,
        stats: Stats,
        *,
        run_life_s: int,
        job_bytes: int,
        is_closing: Callable[[], bool] = lambda: False,
        due: Due | None = None,
    ) -> None:
        self._due = due
        self._is_closing = is_closing
        self._streams = streams
        self._shares = shares
        self._queue = queue
        self._admission = admission
        self._external = external
        self._conversations = conversations
        self._listed = listed
        self._lines = lines
        self._stats = stats
        self._run_life_s = run_life_s
        self._job_bytes = job_bytes

    async def time_s(self) -> float:
        """By the store's clock, which those share who may take on the same."""
        return await self._streams.time_s()

    async def record(
        self, ask: Ask, job: Job, run_id: str, behind: Sequence[Call] = ()
    ) -> Taken:
        """Write the record of a run that has no place yet: status `created`. Under a key it may
        be there: its status then, `queued` where it may have no place yet either. What is
        `behind` is done once the record is there, in the same round trip."""
        if self._is_closing():
            raise refusals.closing()
        request = job.encode()
        if len(request) > self._job_bytes:
            # Numbers may be shorter as they came: 1e9 is kept as 1000000000.0.
            raise refusals.too_large(self._job_bytes)
        is_counted = await self._admission.check(ask, run_id, len(request))
        if ask.is_external:
            try:
                await self._admission.admit_external(run_id)
            except Problem:
                await self._admission.give_back(ask)
                raise
        token, counting = ids.new_token(), self._admission.counting(ask, run_id)
        if counting is not None:
            behind = (*behind, counting)
        try:
            with _refused():
                status = await self._streams.create(
                    run_id,
                    agent=ask.agent,
                    owner=ask.owner,
                    token=token,
                    request=request,
                    fingerprint=ask.fingerprint(),
                    behind=behind,
                )
        except StoreError as error:
            # Under a key the run may be there, and somebody has to look after it.
            with suppress(StoreError):
                if ask.is_external and not ask.idempotency_key:
                    await self._external.forget(run_id)
                elif not (ask.idempotency_key or isinstance(error, StoreUnavailable)):
                    # What was refused may be only what was to be done behind it.
                    await self._shares.withdraw(run_id, token, GIVEN_UP)
            raise
        if is_counted and ask.idempotency_key and status != "created":
            # A twin under the same key came first: it counts once.
            await self._admission.give_back(ask)
        version = job.version if status == "created" else None
        is_admitted = counting is not None and bool(counting.reply)
        return Taken(run_id, token, status=status, version=version, is_admitted=is_admitted)

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
        except (StoreError, Problem) as error:
            if ask.idempotency_key:
                with suppress(StoreError):
                    await self._shares.step_back(taken.run_id, taken.token)
                raise
            with suppress(StoreError):
                # Somebody who shares it may have found it a place meanwhile.
                again = await self._ask_again(taken)
                if again.status not in ("queued", "unplaced"):
                    return _told(again)
            await self.withdraw(taken, ask.agent)
            if ask.is_external:
                with suppress(StoreError):
                    await self._external.forget(taken.run_id)
            # Those who have joined it were never counted.
            if taken.how == "miss" and isinstance(error, Problem):
                await self._admission.uncount(ask, taken.run_id)
            raise

    async def traceparent_of(self, run_id: str) -> str:
        """Of who asked first; '' where that was not traced, or is not known any more."""
        request = await self._streams.request(run_id)
        return Job.decode(request).traceparent if request else ""

    async def withdraw_new(self, ask: Ask, taken: Taken) -> None:
        """One that was recorded, and is not begun, since another answers it: it counts as
        none."""
        await self.withdraw(taken, ask.agent)
        await self._admission.uncount(ask, taken.run_id)

    async def withdraw(self, taken: Taken, agent: str) -> None:
        left = await self._shares.withdraw(taken.run_id, taken.token, GIVEN_UP)
        if left == "given_up":
            # One that never had a place was never counted as created.
            counts = await self._queue.waits(taken.run_id)
            # They still read, and nobody else ends what has no place in the queue.
            await self._streams.ask_to_cancel(
                taken.run_id,
                GIVEN_UP,
                on_end=self._counting_end(agent) if counts else lambda: None,
            )

    async def is_on(self, run_id: str) -> bool:
        """Whether it waits or runs. Raises StoreError."""
        (status,) = await self._streams.statuses([run_id])
        return status in ("queued", "running")

    async def live(self, most: int) -> list[str]:
        """Runs that are on or wait, `most` of each; external ones, too."""
        queued, external = await asyncio.gather(
            self._queue.live(most), self._external.live(most)
        )
        return [*queued, *external]

    async def cancel(self, run_id: str, agent: str, owner: str, reason: str) -> str:
        """The status that follows, as `Streams.ask_to_cancel` says it. Whoever's step ends the
        run counts it, however many ask at once."""
        status = await self._streams.ask_to_cancel(
            run_id,
            reason,
            external=agent == EXTERNAL,
            waits=self._queue.waits,
            on_end=self._counting_end(agent),
        )
        if status == "cancelled":
            await self._leave(run_id, agent, owner)
            await self._see_to_end(run_id, 0)
        return status

    def _counting_end(self, agent: str) -> Callable[[], None]:
        return partial(self._stats.count_end, agent, "cancelled")

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
                async with self._shared(run_id, token):
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
        async with self._shared(run_id, token):
            status = await self._shares.join(run_id, token)
        if status == "over":
            return None
        return Taken(run_id, token, status=status, how="joined")

    @asynccontextmanager
    async def _shared(self, run_id: str, token: str) -> AsyncIterator[None]:
        """Who is refused a share is not told of it, though it may have been written: held by
        nobody, it would keep the others from ending the run early."""
        try:
            yield
        except StoreError:
            with suppress(StoreError):
                await self._shares.give_up(run_id, token, GIVEN_UP)
            raise

    async def _hand_over(self, ask: Ask, taken: Taken) -> str:
        """To the queue, or to a producer outside; the run's status then."""
        run_id = taken.run_id
        if ask.is_external:
            # Again: whoever counted it may have died long ago, and it been forgotten since.
            await self._admission.admit_external(run_id)
            await self._admission.admit(ask, taken)
            claimed, *_ = await asyncio.gather(
                self._streams.begin(run_id, 1, EXTERNAL, ask.agent),
                self._list(ask, run_id),
                self._see_to_end(run_id, LOOK_S),
            )
            if isinstance(claimed, Claimed):
                self._stats.count("runs_created")
                return "running"
            # Somebody with the same key was here before; it may have ended since.
            (status,) = await self._streams.statuses([run_id])
            if status is None:
                raise StoreError(f"the store has lost run {run_id}")
            return status
        await self._admission.admit(ask, taken)
        if ask.memory:
            most = MOST if ask.waits else 1
            if await self._lines.ahead(ask.memory, run_id, most) is None:
                raise refusals.conversation_busy(ask.waits)
        if ask.place:
            # A deletion must hold for it from now on. What was asked is no sign of it: that is
            # added once the run has its place, by a worker that may die before.
            life_s = self._run_life_s
            await self._conversations.announce(ask.place, taken.token, life_s=life_s)
        line = line_of(ask.agent, await self._version_of(taken))
        # At once: nobody waits for a list.
        code, *_ = await asyncio.gather(
            self._queue.enqueue(run_id, line, ask.account, self._admission.limit),
            self._list(ask, run_id),
            self._see_to_end(run_id, LOOK_S),
        )
        if code == "ok":
            self._stats.count("runs_created")
            if ask.may_be_shared:
                await self._streams.mark_enqueued(run_id)
            return "queued"
        if ask.place:
            with suppress(StoreError):
                await self._conversations.retract(ask.place, taken.token)
        self._admission.look_again()
        raise self._admission.queue_full() if code == "full" else refusals.no_runner()

    async def _list(self, ask: Ask, run_id: str) -> None:
        await self._listed.add_run(ask.owner, run_id, ask.agent, ask.place, ask.conversation_id)

    async def _see_to_end(self, run_id: str, in_s: float) -> None:
        """Where ends are posted, and somebody else than a runner may end it."""
        if self._due is None:
            return
        try:
            if not await self._due.note(run_id, in_s):
                log.error(
                    "run %s: too many ends wait to be posted, its own will not be", run_id
                )
        except StoreError as error:
            log.warning("run %s: its end may not be posted: %s", run_id, error)

    async def _version_of(self, taken: Taken) -> str:
        """The one that its first caller has asked, whoever finds it its place: those who join
        a run may have heard of another since."""
        if taken.version is not None:
            return taken.version
        request = await self._streams.request(taken.run_id)
        if request is None:
            raise StoreError(f"the store has lost run {taken.run_id}")
        return Job.decode(request).version

    async def _leave(self, run_id: str, agent: str, owner: str) -> None:
        """A run that has ended while it waited needs its place no more. Should this fail: it
        goes once somebody looks at it."""
        with suppress(StoreError):
            if agent == EXTERNAL:
                await self._external.forget(run_id)
            else:
                await self._queue.drop(run_id)
                self._admission.look_again()
            await self._admission.forget(owner, run_id)


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
