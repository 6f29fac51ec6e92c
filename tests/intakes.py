"""Web workers' intakes over real Redis servers, without their HTTP side.

    async def scenario(desk: Desk) -> None:
        taken = await desk.intake().take(QUESTION)

    at_desk(streams_url, cache_url, scenario)

Invariant: a runner is announced and alive; what it does with the queue is up to the test.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from plateau_sse.intake.admission import Admission
from plateau_sse.intake.ask import Ask
from plateau_sse.intake.door import Door
from plateau_sse.intake.intake import Intake
from plateau_sse.intake.placement import Placement
from plateau_sse.intake.start import Start
from plateau_sse.intake.versions import Versions
from plateau_sse.store.answers.answer import answer_of
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.conversations.conversations import Conversations, place_of
from plateau_sse.store.conversations.lines import Lines
from plateau_sse.store.conversations.listed import Listed
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.announcements import Announcements
from plateau_sse.store.queue.job import Job
from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.redis.connections import connect, servers_of
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.runs import events
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.inflight import Inflight
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.streams import Claimed, Streams
from tests.executions import LIMITS, keeper_of
from tests.queues import sign_of_life, take
from tests.store import admin_url, claim, done, on_streams, tape_of, texts

RUNNER = "r1"
# Of the agent that is announced.
LINE = "notes@1"
RUN_LIFE_S = 300
JOB_BYTES = 64 * 1024
QUESTION = Ask("notes", "ann", "", [{"role": "user", "content": "Why?"}], {})
KEYED = QUESTION._replace(idempotency_key="k")
SAID = QUESTION._replace(conversation_id="c1")
PLACE = place_of("ann", "", "c1")


class Desk:
    """The parts that intakes share through Redis, and a runner's side of them; `redis` looks
    past them."""

    def __init__(
        self, redis: Any, cache_redis: Any, looking: Any = None, limit: int = 1000
    ) -> None:
        self.redis = redis if looking is None else looking
        self._own = redis
        self.streams = Streams(redis, alive_s=120, record_s=600)
        self.queue = Queue(redis)
        self.announcements = Announcements(redis)
        self.cache = Cache(cache_redis, ttl_s=60, max_bytes=10 * 1024**2)
        self.inflight = Inflight(redis, life_s=RUN_LIFE_S)
        self.shares = Shares(redis)
        self.stats = Stats(redis)
        self.fullness = Fullness(redis, 64 * 1024**2)
        self.conversations = Conversations(redis, LIMITS, self.fullness.bound, self.stats.count)
        self.listed = Listed(redis, self.conversations, life_s=600)
        self.keeper = keeper_of(redis, self.cache)
        self._limit = limit

    async def open(self) -> None:
        await self.announcements.say(RUNNER, {"notes": "1"})
        await sign_of_life(self.queue, RUNNER)

    def intake(self, **parts: Any) -> Intake:
        """One a worker; `parts` take the place of what has their name."""
        door = Door(parts.get("queue", self.queue), self._limit)
        admission = self.admission(door=door, **parts)
        announcements = parts.get("announcements", self.announcements)
        return Intake(
            self.placement(admission=admission, **parts),
            admission,
            Versions(announcements),
            Start(door, announcements, parts.get("within_s", 0.0)),
            parts.get("cache", self.cache),
            parts.get("inflight", self.inflight),
            parts.get("conversations", self.conversations),
            self.listed,
            self.stats,
            window_s=600,
        )

    def admission(self, **parts: Any) -> Admission:
        return Admission(
            parts.get("door") or Door(parts.get("queue", self.queue), self._limit),
            self.fullness,
            parts.get("external") or External(self._own, idle_s=60),
            self.stats,
            parts.get("owners"),
            parts.get("asked"),
        )

    def placement(self, **parts: Any) -> Placement:
        return Placement(
            parts.get("streams", self.streams),
            parts.get("shares", self.shares),
            parts.get("queue", self.queue),
            parts.get("admission") or self.admission(**parts),
            parts.get("external") or External(self._own, idle_s=60),
            parts.get("conversations", self.conversations),
            self.listed,
            Lines(self._own, self.streams.statuses, life_s=RUN_LIFE_S),
            self.stats,
            run_life_s=RUN_LIFE_S,
            job_bytes=parts.get("job_bytes", JOB_BYTES),
        )

    async def queued(self) -> list[str]:
        """The runs that are in the queue, now taken."""
        return [ticket.run_id for ticket in await take(self.queue, RUNNER, 1000, [LINE])]

    async def start(self, run_id: str) -> Claimed:
        return await claim(self.streams, run_id, 1, RUNNER)

    async def complete(
        self, run_id: str, text: str = "Because.", *, store: bool = True
    ) -> None:
        """End a run that has been started as its runner does, step by step."""
        job = await self.job(run_id)
        if store:
            tape = tape_of(run_id, *texts(text))
            how: Any = {"output": None, "status": "completed", "attempt": 1}
            await self.keeper.remember(job, run_id, tape, **how)
            answer = answer_of(
                agent="notes",
                owner="ann",
                tape=tape,
                run_id=run_id,
                output=None,
                usage=None,
                duration_ms=1,
            )
            await self.keeper.cache(job, run_id, answer, version="1")
        await self.streams.finish(run_id, 1, [*texts(text), done()], first_seq=2)
        await self.keeper.free(job, run_id)

    async def fail(self, run_id: str) -> None:
        job = await self.job(run_id)
        last = events.failed("agent_error", "", retryable=False)
        await self.streams.finish(run_id, 1, [last], first_seq=2)
        await self.keeper.free(job, run_id)

    async def job(self, run_id: str) -> Job:
        request = await self.redis.hget(f"run:{{{run_id}}}", "request")
        return Job.decode(request)

    async def status(self, run_id: str) -> str | None:
        (status,) = await self.streams.statuses([run_id])
        return status

    async def runs(self) -> set[str]:
        """Every run that has a record."""
        return {name[5:-1] for name in await self._names("run:*}")}

    async def _names(self, pattern: str) -> list[str]:
        """Of keys, wherever they are."""
        return [
            key.decode()
            for server in await servers_of(self.redis)
            async for key in server.scan_iter(pattern, count=1000)
        ]

    async def flight(self, ask: Ask = QUESTION) -> tuple[str, str]:
        """The only hint there is: its key, and the run that it names."""
        (key,) = await self._names("inflight:*")
        holder = await self.redis.get(key)
        return key[10:-1], holder.decode()


def at_desk(
    streams_url: str,
    cache_url: str,
    scenario: Callable[[Desk], Awaitable[None]],
    **how: Any,
) -> None:
    """`cache_url` '' is no cache."""

    async def opened(_: Streams, redis: Any) -> None:
        cache_redis: Any = connect(cache_url, "test") if cache_url else None
        wide: Any = connect(streams_url, "test-wide")
        looking: Any = connect(admin_url(streams_url), "looking")
        try:
            desk = Desk(wide, cache_redis, looking, **how)
            await desk.open()
            await scenario(desk)
        finally:
            await looking.aclose()
            await wide.aclose()
            if cache_redis is not None:
                await cache_redis.aclose()

    on_streams(streams_url, opened)
