"""Taking on a run: the cache first, then a record, then a place in the queue.

Invariant: a run that was answered with its id is in the queue; one that could not be enqueued
leaves nothing behind.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from service.errors import Problem, StoreError
from service.runs.job import Job
from service.store import ids
from service.store.cache import Answer, Cache, Question, key_of
from service.store.queue import Queue
from service.store.streams import Streams

# A new version of an agent is noticed within this time; a hit stays one GET.
VERSIONS_FRESH_S = 2.0


class Ask(NamedTuple):
    """One request for a run, validated; `mode` is use, refresh or off."""

    agent: str
    owner: str
    user: str
    messages: list[dict[str, str]]
    options: dict[str, Any]
    mode: str = "use"
    ttl_s: int | None = None


class Taken(NamedTuple):
    """A run that will be executed, or an answer that was there already."""

    run_id: str
    token: str
    answer: Answer | None = None


class Intake:
    """One a worker. `limit` is the number of runs that may wait."""

    def __init__(self, streams: Streams, queue: Queue, cache: Cache, *, limit: int) -> None:
        self._streams = streams
        self._queue = queue
        self._cache = cache
        self._limit = limit
        self._versions: dict[str, str] = {}
        self._versions_at = float("-inf")

    async def take(self, ask: Ask) -> Taken:
        """Answer from the cache or enqueue. Raises Problem and StoreError."""
        version = await self._version(ask.agent)
        question = Question(ask.agent, version, ask.owner, ask.user, ask.messages, ask.options)
        key = key_of(question) if self._cache.enabled and ask.mode != "off" else ""
        if key and ask.mode == "use":
            answer = await self._cache.get(key)
            if answer is not None:
                return Taken(f"hit-{key}", answer.token, answer)
        return await self._enqueue(ask, version, key)

    async def _enqueue(self, ask: Ask, version: str, key: str) -> Taken:
        run_id, token = ids.new_run_id(), ids.new_token()
        job = Job(ask.messages, ask.options, ask.user, version, key, ask.ttl_s)
        await self._streams.create(
            run_id, agent=ask.agent, owner=ask.owner, token=token, request=job.encode()
        )
        try:
            code = await self._queue.enqueue(run_id, ask.agent, self._limit)
        except StoreError:
            await self._streams.discard(run_id)
            raise
        if code == "ok":
            return Taken(run_id, token)
        await self._streams.discard(run_id)
        if code == "full":
            raise Problem(
                "queue_full",
                f"{self._limit} runs wait already; try again in a few seconds.",
                headers={"Retry-After": "5"},
            )
        raise _no_runner()

    async def _version(self, agent: str) -> str:
        now = time.monotonic()
        if now - self._versions_at > VERSIONS_FRESH_S or agent not in self._versions:
            self._versions = await self._queue.agent_versions()
            self._versions_at = now
        version = self._versions.get(agent)
        if version is not None:
            return version
        if not self._versions:
            raise _no_runner()
        known = ", ".join(sorted(self._versions))
        raise Problem(
            "unknown_agent",
            f"There is no agent {agent[:80]!r}; there are: {known}.",
            extra={"field": "agent"},
        )


def _no_runner() -> Problem:
    return Problem(
        "no_runner",
        "No runner is alive to execute new runs; cached answers are still served.",
        headers={"Retry-After": "5"},
    )
