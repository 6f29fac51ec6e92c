"""The keeper, which keeps what outlives a run: its answer, in its conversation and the cache.

Invariant: the order at a run's end is conversation, cache, terminal event, hint: who has seen
the end finds the answer, and who finds no hint finds it in the cache or runs anew. Only a whole
answer is cached: what was cut off or is empty is told to those who wait for it, and to nobody
who asks later.
"""

from __future__ import annotations

import logging
from functools import partial

from plateau_sse.errors import StoreError
from plateau_sse.runner.writer import insist
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.answers.packing import FORMAT
from plateau_sse.store.conversations.conversations import Conversations, answered, asked
from plateau_sse.store.queue.job import Job
from plateau_sse.store.runs.inflight import Inflight

log = logging.getLogger("plateau.runner")


class Keeper:
    """One a runner."""

    def __init__(self, cache: Cache, conversations: Conversations, inflight: Inflight) -> None:
        self._cache = cache
        self._conversations = conversations
        self._inflight = inflight

    async def keep(
        self,
        job: Job,
        run_id: str,
        answer: Answer,
        *,
        version: str,
        attempt: int,
        is_whole: bool,
    ) -> None:
        """Before the end is announced; `version` is that of the agent which gave the answer.
        The attempt before may have come as far as this."""
        if job.place:
            text = job.messages[-1]["content"]
            # The question again: its worker may have died before it could add it.
            said = [asked(run_id, text, "")]
            # Endpoints refuse a message of nothing, and with it all that is asked later.
            if answer.final:
                said.append(answered(run_id, answer.final, attempt))
            add = self._conversations.add
            await insist(partial(add, job.place, said, asked_ms=job.asked_ms))
        # A web worker of another release has another dictionary: it could not tell that what
        # it unpacks is not what was said.
        is_asked = job.cache_key and job.version == version and job.format == FORMAT
        if is_asked and is_whole:
            await self._cache.put(job.cache_key, answer, job.ttl_s)

    async def free(self, job: Job, run_id: str) -> None:
        """Once the end is announced: the question is nobody's any more."""
        if not job.flight:
            return
        try:
            await self._inflight.drop(job.flight, run_id)
        except StoreError as error:
            # Whoever follows the hint finds that the run has ended.
            log.info("run %s: its hint stays behind: %s", run_id, error)
