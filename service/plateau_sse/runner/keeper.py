"""The keeper, which keeps what outlives a run: its answer, in its conversation and the cache.

Invariant: the order at a run's end is conversation, cache, terminal event, hint: who has seen
the end finds the answer, and who finds no hint finds it in the cache or runs anew. Only a whole
answer is cached: what was cut off or is empty is told to those who wait for it, and to nobody
who asks later. A conversation keeps whatever was said, and how it ended.
"""

from __future__ import annotations

import logging
from functools import partial

from plateau_sse.errors import StoreError, StoreFull
from plateau_sse.runner.writer import insist
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.answers.packing import FORMAT
from plateau_sse.store.conversations.conversations import Conversations, answered, asked
from plateau_sse.store.conversations.wholes import Status
from plateau_sse.store.queue.job import Job
from plateau_sse.store.runs.inflight import Inflight
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.tape import Tape

log = logging.getLogger("plateau.runner")


class Keeper:
    """One a runner."""

    def __init__(
        self, cache: Cache, conversations: Conversations, inflight: Inflight, shares: Shares
    ) -> None:
        self._cache = cache
        self._conversations = conversations
        self._inflight = inflight
        self._shares = shares

    async def remember(
        self,
        job: Job,
        run_id: str,
        tape: Tape,
        *,
        output: str | None,
        status: Status,
        attempt: int,
    ) -> None:
        """What was said, at whatever end, before that is announced; `output` is the answer
        where it is not the text. The attempt before may have come as far as this. Of a run that
        has said nothing only the question is kept."""
        if not job.place:
            return
        # The question again: its worker may have died before it could add it.
        said = [asked(run_id, job.messages, "")]
        parts = [part for part in tape.shown() if part.get("text") != ""]
        text = tape.said() if output is None else output
        if text or parts:
            said.append(answered(run_id, text, parts, attempt=attempt, status=status))
        add = self._conversations.add
        try:
            await insist(partial(add, job.place, said, asked_ms=job.asked_ms))
        except StoreFull as error:
            log.warning("run %s: its conversation cannot keep it: %s", run_id, error)

    async def cache(self, job: Job, run_id: str, answer: Answer, *, version: str) -> None:
        """A whole answer, where it was asked to be kept, of the agent of that `version`. Who
        shares the run by now finds it under the run's id as well."""
        # A web worker of another release has another dictionary: it could not tell that what
        # it unpacks is not what was said.
        if not job.cache_key or job.version != version or job.format != FORMAT:
            return
        tokens: list[str] = []
        try:
            tokens = await self._shares.tokens(run_id)
        except StoreError as error:
            log.info("run %s: its answer will not be found by its id: %s", run_id, error)
        put = self._cache.put
        await put(job.cache_key, answer, job.ttl_s, run_id=run_id, tokens=tokens)

    async def free(self, job: Job, run_id: str) -> None:
        """Once the end is announced: the question is nobody's any more."""
        if not job.flight:
            return
        try:
            await self._inflight.drop(job.flight, run_id)
        except StoreError as error:
            # Whoever follows the hint finds that the run has ended.
            log.info("run %s: its hint stays behind: %s", run_id, error)
