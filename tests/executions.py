"""Executing one small agent against a real Redis, for tests of what becomes of its run.

told = execute(streams_url, agent)
assert told.types == ["run.started", "message.delta", "run.completed"]
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from plateau_sse.agents.registry import RegisteredAgent
from plateau_sse.runner.beat import Beat
from plateau_sse.runner.execution import Execution
from plateau_sse.runner.keeper import Keeper
from plateau_sse.runner.threads import Threads
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.answers.packing import FORMAT
from plateau_sse.store.conversations.conversations import Conversations, Limits
from plateau_sse.store.conversations.memories import Memories
from plateau_sse.store.queue.job import Job
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.runs.appending import Appended
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.inflight import Inflight
from plateau_sse.store.runs.records import Record
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.streams import Streams
from tests.store import claim, decoded, on_streams, queued, stream_of

VERSION = "v1"
NO_CACHE = Cache(None, ttl_s=60, max_bytes=1024**2)
# A port that nobody listens on.
NO_REDIS = connect("redis://127.0.0.1:1/0", "test")
LIMITS = Limits(messages=10, bodies=5, length=200)


@dataclass
class Told:
    """What a reader is told of a run, and what its record says in the end; `states` are the
    events that do not stay, where they were listened to."""

    record: Record
    events: list[dict[str, Any]]
    states: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.record.tape.said()

    @property
    def thoughts(self) -> str:
        return self.record.tape.said("r")

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]

    def only(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events + self.states if event["type"] == kind]


class Listening(Streams):
    """The same store, with the states that go there."""

    def __init__(self, streams: Streams) -> None:
        self.__dict__ = streams.__dict__
        self.heard: list[dict[str, Any]] = []

    async def append(self, *args: Any, **more: Any) -> Appended:
        batch: list[Event] = args[2]
        self.heard += [decoded(event.data) for event in batch if event.op in ("s", "p")]
        return await super().append(*args, **more)


def memories_of(redis: Any, conversations: Conversations) -> Memories:
    async def statuses(run_ids: Sequence[str]) -> list[str | None]:
        return await Streams(redis, alive_s=60, record_s=60).statuses(run_ids)

    return Memories(redis, conversations, statuses)


def keeper_of(redis: Any, answers: Cache = NO_CACHE) -> Keeper:
    fullness = Fullness(redis, 64 * 1024**2)
    conversations = Conversations(redis, LIMITS, fullness.bound)
    memories = memories_of(redis, conversations)
    return Keeper(answers, conversations, memories, Inflight(redis, life_s=300), Shares(redis))


@asynccontextmanager
async def execution_of(
    streams: Streams,
    agent: Callable[..., Any] | None,
    *,
    timeout_s: float = 20,
    answers: Cache = NO_CACHE,
    redis: Any = NO_REDIS,
    attempt: int = 1,
    age_s: float = 0.0,
    life_s: float = 3600,
    threads: Threads | None = None,
    **job: Any,
) -> AsyncIterator[Execution]:
    """An execution of a claimed run, not yet begun; without `agent` none is registered. Its
    conversations and hints are in `redis`."""
    asked = Job(messages=[{"role": "user", "content": "Why?"}], format=FORMAT)
    for name, value in job.items():
        setattr(asked, name, value)
    run_id = await queued(streams, asked.encode())
    agents = {"notes": RegisteredAgent("notes", VERSION, agent, False)} if agent else {}
    for before in range(1, attempt):
        await claim(streams, run_id, before)
    yield Execution(
        (await claim(streams, run_id, attempt))._replace(age_s=age_s),
        run_id,
        agents=agents,
        streams=streams,
        keeper=keeper_of(redis, answers),
        threads=threads or Threads(),
        beat=Beat(1),
        timeout_s=timeout_s,
        life_s=life_s,
    )


async def told_of(streams: Streams, redis: Any, run_id: str) -> Told:
    record = await streams.record(run_id)
    assert record is not None
    return Told(record, [decoded(data) for _, data in await stream_of(redis, run_id)])


def execute(url: str, agent: Callable[..., Any] | None, **how: Any) -> Told:
    """Execute the agent from its claim to the end of its run."""

    async def scenario(streams: Streams, redis: Any) -> Told:
        listening = Listening(streams)
        async with execution_of(listening, agent, **how) as execution:
            async with asyncio.timeout(30):
                await execution.run()
            told = await told_of(streams, redis, execution.run_id)
            told.states = listening.heard
            return told

    return on_streams(url, scenario)


def execute_with_cache(streams_url: str, cache_url: str, agent: Any, **job: Any) -> Told:
    """As `execute`, with the cache at `cache_url`."""

    async def scenario(streams: Streams, redis: Any) -> Told:
        client: Any = connect(cache_url, "test")
        try:
            answers = Cache(client, ttl_s=60, max_bytes=10 * 1024**2)
            listening = Listening(streams)
            async with execution_of(listening, agent, answers=answers, **job) as execution:
                await execution.run()
                told = await told_of(streams, redis, execution.run_id)
                told.states = listening.heard
                return told
        finally:
            await client.aclose()

    return on_streams(streams_url, scenario)
