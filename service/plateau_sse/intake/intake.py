"""The intake, which takes on requests: the cache first, then a run that answers the same, then
one of its own.

Invariant: equal questions are answered by one run while it is on: a caller gets the cached
answer, a share in the live run, or leads one that the next can join. An answer is stored before
its run ends, and a hint goes after that: who finds neither finds the question free.

Who leads puts a record, then the hint, then the place in the queue. Whoever is about to
enqueue (to lead, or to see to a run that has no place yet) has seen the hint and looks at the
cache once more, since the run before may have ended between the two looks.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from plateau_sse.errors import Problem, StoreError
from plateau_sse.intake.ask import Ask, Taken
from plateau_sse.intake.placement import Placement
from plateau_sse.intake.versions import Versions
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.cache import Cache, Question, key_of
from plateau_sse.store.answers.packing import FORMAT
from plateau_sse.store.conversations.conversations import (
    Conversations,
    Message,
    answered,
    asked,
)
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.job import Job
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.inflight import Inflight

log = logging.getLogger("plateau.intake")

# Each means that another was faster. After these the run is executed without a hint.
TRIES = 5


class Asked(NamedTuple):
    """An ask with what its run would be given."""

    ask: Ask
    job: Job


class Intake:
    """One a worker. An idempotency key is good for `window_s` at least."""

    def __init__(
        self,
        placement: Placement,
        versions: Versions,
        cache: Cache,
        inflight: Inflight,
        conversations: Conversations,
        stats: Stats,
        *,
        window_s: int,
    ) -> None:
        self._placement = placement
        self._versions = versions
        self._cache = cache
        self._inflight = inflight
        self._conversations = conversations
        self._stats = stats
        self._window_s = window_s

    async def take(self, ask: Ask) -> Taken:
        """Answer from the cache, join, or enqueue. Raises Problem and StoreError."""
        run_ids: list[str] = []
        if ask.idempotency_key:
            run_ids = list(ids.derived_run_ids(ask.owner, ask.idempotency_key, self._window_s))
            earlier = await self._placement.join_keyed(ask, run_ids)
            if earlier is not None:
                return earlier
        if ask.is_external:
            run_id = _first_or_new(run_ids)
            recorded = await self._placement.record(ask, Job([]), run_id)
            return await self._placement.place(ask, recorded)
        asked_for = await self._asked_for(ask)
        answer = None
        # Under a key a repeat must find the run: what it says in a conversation changes the
        # question, and a hit leaves no run behind.
        if ask.mode == "use" and not (ask.idempotency_key and ask.conversation_id):
            answer = await self._cache.get(asked_for.job.cache_key)
            self._stats.count("cache_misses" if answer is None else "cache_hits")
        if answer is None:
            taken = await self._take_run(asked_for, _first_or_new(run_ids))
        else:
            # A twin under the same key may have run between the two looks.
            earlier = None
            if ask.idempotency_key:
                earlier = await self._placement.join_keyed(ask, run_ids)
            taken = earlier or _hit(asked_for.job, answer)
        if asked_for.job.place:
            await self._converse(asked_for, taken, _first_or_new(run_ids))
        return taken

    async def _asked_for(self, ask: Ask) -> Asked:
        """The question as the agent will get it."""
        # Before its conversation is read: what is deleted after that was asked before.
        asked_ms = int(time.time() * 1000)
        version = await self._versions.of(ask.agent)
        place, context = ask.place, list[Message]()
        if place:
            context = await self._conversations.read(place)
        messages = ask.with_context(context)
        question = Question(
            agent=ask.agent,
            version=version,
            owner=ask.owner,
            user=ask.user,
            # An agent sees which conversation it is in, and may know more of it than we do.
            # Before anything has been said there is no more to know.
            conversation=place if context else "",
            messages=messages,
            options=ask.options,
        )
        cache_key = flight = ""
        if ask.mode != "off":
            cache_key = flight = key_of(question)
            if place and not context:
                # What is said in one conversation must not be told in another only.
                flight = key_of(question._replace(conversation=place))
        job = Job(
            messages,
            ask.options,
            ask.user,
            version,
            cache_key,
            ask.ttl_s,
            flight=flight,
            conversation=ask.conversation_id,
            place=place,
            asked_ms=asked_ms,
            format=FORMAT,
            request_id=ask.request_id,
        )
        return Asked(ask, job)

    async def _take_run(self, asked_for: Asked, run_id: str) -> Taken:
        ask, flight = asked_for.ask, asked_for.job.flight
        if not ask.joins:
            return await self._execute(asked_for, run_id)
        for _ in range(TRIES):
            holder = await self._inflight.holder(flight)
            joined = await self._placement.join(holder) if holder else None
            if joined is not None:
                return await self._share(asked_for, joined)
            led = await self._lead(asked_for, ids.new_run_id(), instead_of=holder)
            if led is not None:
                return led
        return await self._execute(asked_for, ids.new_run_id())

    async def _share(self, asked_for: Asked, joined: Taken) -> Taken:
        """The live run; or the answer, where its leader is about to find that it is there."""
        answer = None
        if joined.status in ("queued", "unplaced"):
            answer = await self._cache.get(asked_for.job.cache_key)
        if answer is not None:
            await self._placement.withdraw(joined)
            return _hit(asked_for.job, answer)
        self._stats.count("runs_joined")
        return await self._placement.place(asked_for.ask, joined)

    async def _lead(self, asked_for: Asked, run_id: str, *, instead_of: str) -> Taken | None:
        """A run of its own that others can join; None where another has begun to lead."""
        ask, job = asked_for.ask, asked_for.job
        recorded = await self._placement.record(ask, job, run_id)
        try:
            holder = await self._inflight.take(job.flight, run_id, instead_of=instead_of)
            if holder != run_id:
                await self._placement.withdraw(recorded)
                return None
            answer = await self._cache.get(job.cache_key)
            if answer is None:
                return await self._placement.place(ask, recorded)
            await self._inflight.drop(job.flight, run_id)
            await self._placement.withdraw(recorded)
        except (StoreError, Problem):
            with suppress(StoreError):
                await self._inflight.drop(job.flight, run_id)
                await self._placement.withdraw(recorded)
            raise
        return _hit(job, answer)

    async def _execute(self, asked_for: Asked, run_id: str) -> Taken:
        """A run whoever else is answering; those who come later may join it if they find no
        other."""
        ask, flight = asked_for.ask, asked_for.job.flight
        recorded = await self._placement.record(ask, asked_for.job, run_id)
        taken = await self._placement.place(ask, recorded)
        if flight and taken.status in ("queued", "running"):
            with suppress(StoreError):
                await self._inflight.take(flight, run_id)
        return taken

    async def _converse(self, asked_for: Asked, taken: Taken, message_id: str) -> None:
        """What the user has said, and where the answer is there already that as well; else the
        runner adds it, and what we could not."""
        asked_of, job = asked_for.ask.messages, asked_for.job
        add = partial(self._conversations.add, job.place, asked_ms=job.asked_ms)
        if taken.answer is not None:
            final, parts = taken.answer.final, taken.answer.parts
            said = [asked(message_id, asked_of, "")]
            if final or parts:
                said.append(answered(message_id, final, parts))
            await add(said)
            return
        try:
            # By who joins as well: should the conversation have been deleted since the run was
            # asked for, it is asked again.
            await add([asked(taken.run_id, asked_of, taken.token)])
        except StoreError as error:
            log.warning(
                "run %s: its message has to wait for its answer: %s", taken.run_id, error
            )


def _first_or_new(run_ids: list[str]) -> str:
    """Made only where it is needed: a hit needs none."""
    return run_ids[0] if run_ids else ids.new_run_id()


def _hit(job: Job, answer: Answer) -> Taken:
    return Taken(f"hit-{job.cache_key}", answer.token, answer, "completed", "hit")
