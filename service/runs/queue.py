"""Taking on a run: the cache first, then a record, then a place in the queue.

Invariant: a run that was answered with its id is in the queue; one that could not be enqueued
leaves nothing behind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from service.errors import Problem, StoreError
from service.runs.job import Job
from service.store import events, ids
from service.store.cache import Answer, Cache, Question, key_of
from service.store.external import External
from service.store.fullness import CLOSED, Fullness
from service.store.owners import Owners
from service.store.queue import Queue
from service.store.stats import Stats
from service.store.streams import Conflict, Streams

# A new version of an agent is noticed within this time; a hit stays one GET.
VERSIONS_FRESH_S = 2.0


class Ask(NamedTuple):
    """One request for a run, validated; `mode` is use, refresh or off. `idempotency_key` is
    empty where the client gave none."""

    agent: str
    owner: str
    user: str
    messages: list[dict[str, str]]
    options: dict[str, Any]
    mode: str = "use"
    ttl_s: int | None = None
    idempotency_key: str = ""

    def fingerprint(self) -> str:
        """Tells one body from another under the same idempotency key."""
        text = msgspec.json.encode(self._replace(idempotency_key=""), order="sorted")
        return blake2b(text, digest_size=16).hexdigest()


class Taken(NamedTuple):
    """A run that will be executed, or an answer that was there already."""

    run_id: str
    token: str
    answer: Answer | None = None
    status: str = "queued"


class Intake:
    """One a worker. `limit` is the number of runs that may wait, `window_s` the time for which
    an idempotency key is good at least."""

    def __init__(
        self,
        streams: Streams,
        queue: Queue,
        cache: Cache,
        external: External,
        fullness: Fullness,
        stats: Stats,
        owners: Owners | None,
        *,
        limit: int,
        window_s: int,
    ) -> None:
        self._streams = streams
        self._queue = queue
        self._cache = cache
        self._external = external
        self._fullness = fullness
        self._stats = stats
        self._owners = owners
        self._limit = limit
        self._window_s = window_s
        self._versions: dict[str, str] = {}
        self._versions_at = float("-inf")

    async def take(self, ask: Ask) -> Taken:
        """Answer from the cache or enqueue. Raises Problem and StoreError."""
        run_ids = [ids.new_run_id()]
        if ask.idempotency_key:
            key, window_s = ask.idempotency_key, self._window_s
            run_ids = list(ids.derived_run_ids(ask.owner, key, window_s))
            earlier = await self._earlier(ask, run_ids)
            if earlier is not None:
                return earlier
        if ask.agent == "external":
            return await self._create(ask, Job([]), run_ids[0])
        version = await self._version(ask.agent)
        question = Question(ask.agent, version, ask.owner, ask.user, ask.messages, ask.options)
        cache_key = key_of(question) if self._cache.enabled and ask.mode != "off" else ""
        if cache_key and ask.mode == "use":
            answer = await self._cache.get(cache_key)
            if answer is not None:
                self._stats.count("cache_hits")
                # A twin under the same key may have run between the two looks.
                earlier = await self._earlier(ask, run_ids) if ask.idempotency_key else None
                return earlier or Taken(f"hit-{cache_key}", answer.token, answer)
            self._stats.count("cache_misses")
        job = Job(ask.messages, ask.options, ask.user, version, cache_key, ask.ttl_s)
        return await self._create(ask, job, run_ids[0])

    async def _earlier(self, ask: Ask, run_ids: Sequence[str]) -> Taken | None:
        """The run that the same key stands for already, with a token of its own for this
        caller. Its first caller may have died before it enqueued: that is done again, and is
        harmless, since only one can claim a run."""
        token = ids.new_token()
        with _conflicts():
            for run_id in run_ids:
                status = await self._streams.join(
                    run_id, token=token, fingerprint=ask.fingerprint()
                )
                if status == "queued":
                    await self._hand_over(run_id, ask)
                elif status == "enqueued":
                    status = "queued"
                if status != "absent":
                    return Taken(run_id, token, status=status)
        return None

    async def _create(self, ask: Ask, job: Job, run_id: str) -> Taken:
        """A record first, then a place in the queue: whoever dies between the two leaves a
        record that expires, never an entry without one. Under a key it is left to the next
        who comes with it, and perhaps has come already."""
        if await self._fullness.share() >= CLOSED:
            self._stats.count("runs_refused_store_full")
            raise _full()
        if self._owners is not None and not await self._owners.admit(ask.owner, run_id):
            self._stats.count("runs_refused_owner_limit")
            raise _owner_limit()
        token = ids.new_token()
        with _conflicts():
            status = await self._streams.create(
                run_id,
                agent=ask.agent,
                owner=ask.owner,
                token=token,
                request=job.encode(),
                fingerprint=ask.fingerprint(),
            )
        if status == "enqueued":
            return Taken(run_id, token)
        if status not in ("created", "queued"):
            return Taken(run_id, token, status=status)
        # `queued`: the same key in the same instant, or our own call, sent again since its
        # first answer was lost. Whoever comes second hands it over once more, to no harm.
        try:
            return Taken(run_id, token, status=await self._hand_over(run_id, ask))
        except (StoreError, Problem):
            if not ask.idempotency_key:
                await self._streams.discard(run_id)
            raise

    async def _hand_over(self, run_id: str, ask: Ask) -> str:
        """To the queue, or to a producer outside; the run's status then."""
        if ask.agent == "external":
            await self._external.watch(run_id)
            first = events.started(run_id, ask.agent, 1)
            await self._streams.claim(run_id, 1, "external", first)
            return "running"
        code = await self._queue.enqueue(run_id, ask.agent, self._limit)
        if code == "ok":
            if ask.idempotency_key:
                await self._streams.mark_enqueued(run_id)
            return "queued"
        self._stats.count(f"runs_refused_{code}")
        if code == "full":
            raise Problem(
                "queue_full",
                f"{self._limit} runs wait already; try again in a few seconds.",
                headers={"Retry-After": "5"},
            )
        raise _no_runner()

    async def _ask_for_versions(self, *, known: bool) -> None:
        try:
            self._versions = await self._queue.agent_versions()
        except StoreError:
            # Cached answers are served while the streams instance is away.
            if not known:
                raise
        self._versions_at = time.monotonic()

    async def _version(self, agent: str) -> str:
        cached = agent in self._versions
        if not cached or time.monotonic() - self._versions_at > VERSIONS_FRESH_S:
            await self._ask_for_versions(known=cached)
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


@contextmanager
def _conflicts() -> Iterator[None]:
    try:
        yield
    except Conflict:
        raise Problem(
            "idempotency_conflict",
            "This Idempotency-Key came with another request before.",
            extra={"field": "Idempotency-Key"},
        ) from None


def _owner_limit() -> Problem:
    return Problem(
        "owner_limit",
        "Half of the queue is yours already; try again when some of your runs have ended.",
        headers={"Retry-After": "5"},
    )


def _full() -> Problem:
    return Problem(
        "store_full",
        "The store has no room for new runs; it has again when records have expired.",
        headers={"Retry-After": "30"},
    )


def _no_runner() -> Problem:
    return Problem(
        "no_runner",
        "No runner is alive to execute new runs; cached answers are still served.",
        headers={"Retry-After": "5"},
    )
