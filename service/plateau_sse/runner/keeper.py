"""The keeper, which keeps what outlives a run: its answer, in its conversation and the cache.

Invariant: the order at a run's end is memory, conversation, cache, terminal event, hint,
pointer: who has seen the end finds the answer, who finds no hint finds it in the cache or runs
anew, and a pointer leads to what its run has ended with. Only a whole answer is cached: what
was cut off or is empty is told to those who wait for it, and to nobody who asks later. A
conversation keeps whatever was said, and how it ended.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from plateau_sse.agents import AgentError, Memory
from plateau_sse.errors import StoreError, StoreFull
from plateau_sse.runner.writer import insist
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.cache import Cache, key_at
from plateau_sse.store.answers.packing import FORMAT
from plateau_sse.store.conversations.conversations import Conversations, answered, asked
from plateau_sse.store.conversations.memories import Changed, Memories
from plateau_sse.store.queue.job import Job
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.inflight import Inflight
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.tape import Tape

log = logging.getLogger("plateau.runner")


class Keeper:
    """One a runner."""

    def __init__(
        self,
        cache: Cache,
        conversations: Conversations,
        memories: Memories,
        inflight: Inflight,
        shares: Shares,
    ) -> None:
        self._cache = cache
        self._conversations = conversations
        self._memories = memories
        self._inflight = inflight
        self._shares = shares

    async def recall(self, job: Job, agent: str, run_id: str) -> Memory | None:
        """What the agent remembers of the run's conversation, None where that is nothing."""
        if not job.memory:
            return None
        read = partial(self._memories.read, job.memory, agent, run_id)
        # A question and an answer each.
        replaced = len(job.instead_of) // 2
        return Memory(*await insist(read), thread=job.memory, replaced=replaced)

    async def keep_memory(self, job: Job, agent: str, run_id: str, memory: Memory) -> None:
        """What it is to remember, of a run that completes. Raises AgentError, which that run
        ends with then."""
        if not memory.is_new:
            return
        keep = partial(
            self._memories.keep,
            revision=memory.revision,
            asked_ms=job.asked_ms,
            owner=job.account,
        )
        try:
            await insist(partial(keep, job.memory, agent, run_id, memory.value))
        except Changed:
            message = "Another run has changed what this conversation's agent remembers."
            raise AgentError("memory_conflict", message, retryable=True) from None
        except StoreFull:
            message = "The store has no room for what the agent is to remember."
            raise AgentError("store_full", message, retryable=True) from None

    async def settle_memory(self, job: Job, agent: str, run_id: str, *, stays: bool) -> None:
        """Once the run has ended; where it did not complete what was there before comes back.
        Until that is done whoever reads it has what was written."""
        try:
            await self._memories.settle(job.memory, agent, run_id, stays=stays)
        except StoreError as error:
            log.warning("run %s: its memory is not settled: %s", run_id, error)

    async def remember(
        self,
        job: Job,
        run_id: str,
        tape: Tape,
        *,
        output: str | None,
        attempt: int,
        **about: Any,
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
            said.append(answered(run_id, text, parts, attempt=attempt, **about))
        add = self._conversations.add
        try:
            kept = partial(
                add, owner=job.account, asked_ms=job.asked_ms, instead_of=job.instead_of
            )
            await insist(partial(kept, job.place, said))
        except StoreFull as error:
            log.warning("run %s: its conversation cannot keep it: %s", run_id, error)

    async def cache(self, job: Job, run_id: str, answer: Answer, *, version: str) -> str:
        """A whole answer, where it was asked to be kept: its key, '' where it is not there.
        `version` is the one that has answered, and the key its own, whichever was asked."""
        # A web worker of another release has another dictionary: it could not tell that what
        # it unpacks is not what was said.
        if not job.cache_key or job.format != FORMAT:
            return ""
        key = job.cache_key
        if version != job.version:
            # Without the digest all questions would have this key.
            if not job.question:
                return ""
            key = key_at(answer.agent, version, job.question)
        answer.token = ids.token_of(key)
        try:
            return key if await self._cache.put(key, answer, job.ttl_s) else ""
        except Exception:
            # Whatever the cache has against it, the answer is good.
            log.exception("run %s: its answer cannot be cached", run_id)
            return ""

    async def point(self, job: Job, run_id: str, answer: Answer, key: str) -> None:
        """Once the run has ended with this answer, and `cache` has put it there: who had a
        share of the run finds it under the run's id as well."""
        try:
            tokens = await self._shares.tokens(run_id)
            await self._cache.point(key, answer, tokens, run_id, job.ttl_s, job.reader)
        except Exception as error:
            log.info("run %s: its answer will not be found by its id: %r", run_id, error)

    async def free(self, job: Job, run_id: str) -> None:
        """Once the end is announced: the question is nobody's any more."""
        if not job.flight:
            return
        try:
            await self._inflight.drop(job.flight, run_id)
        except StoreError as error:
            # Whoever follows the hint finds that the run has ended.
            log.info("run %s: its hint stays behind: %s", run_id, error)
