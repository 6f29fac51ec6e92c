"""The storm: runs, readers and faults together, until everybody has an end; then what is left.

Invariant: it is bounded: `TAIL_S` after the last fault whoever has no end yet has failed.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
from locustfiles.kit.ledger import TERMINAL
from redis.exceptions import RedisError
from tests.readers import get

from benchmarks.chaos.crowd import Asked, Follower, ask, follow, plan_readers, plan_runs
from benchmarks.chaos.faults import Fault, schedule
from benchmarks.chaos.fleet import STORE, Fleet
from plateau_sse import tasks
from plateau_sse.ops.canary import OWNER as CANARY
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect

TAIL_S = 120.0
SETTLE_S = 20.0
LOOK_EVERY_S = 0.25
AT_ONCE = 50
# Of the fleet's processes: attempts enough for runs whose runner is killed again and again, and
# fewer places than runs, so that some have to wait.
ENV = {
    "MAX_ATTEMPTS": "20",
    "RUNNER_CONCURRENCY": "60",
    "QUEUE_TIMEOUT_S": "120",
    "GRACEFUL_TIMEOUT_S": "5",
}


class Plan(NamedTuple):
    """What `scripts/bench chaos` is asked for."""

    seed: int
    seconds: float = 30.0
    runs: int = 200
    readers: int = 1000


class Happened(NamedTuple):
    """A fault and when it came; `hit` is False where its target was down already."""

    at_s: float
    fault: Fault
    hit: bool


@dataclass
class Outcome:
    """Everything that the checks look at. `left` is what the store holds in the end."""

    plan: Plan
    asked: list[Asked]
    followers: list[Follower]
    happened: list[Happened] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    rejoined: list[int] = field(default_factory=list)
    left: Left | None = None
    took_s: float = 0.0


@dataclass
class Left:
    """The store once everybody has gone."""

    records: set[str]
    queue: int
    pending: int
    channels: int
    immortal: list[str]
    ends: dict[str, int]


async def storm(fleet: Fleet, plan: Plan) -> Outcome:
    """Let it loose, and wait for its end."""
    began = time.monotonic()
    asked = plan_runs(plan.seed, plan.runs, plan.seconds)
    followers = plan_readers(plan.seed, plan.readers, asked, fleet.urls, plan.seconds)
    outcome = Outcome(plan, asked, followers)
    supervising = asyncio.create_task(fleet.supervise())
    watching = asyncio.create_task(_watch_lengths(fleet.streams_url, outcome))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_strike(fleet, outcome))
            group.create_task(_run_all(fleet, outcome))
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            await _in_batches(_look_up(client, fleet.urls, one) for one in asked if one.answer)
        await _in_batches(_rejoin(one, outcome) for one in followers if not one.failure)
        outcome.left = await _settled(fleet.streams_url, asked)
    finally:
        await tasks.end(supervising, watching)
    outcome.starts = {name: member.starts for name, member in fleet.members.items()}
    outcome.logs = fleet.logs()
    outcome.took_s = time.monotonic() - began
    return outcome


async def _strike(fleet: Fleet, outcome: Outcome) -> None:
    plan, loop = outcome.plan, asyncio.get_running_loop()
    faults = schedule(plan.seed, plan.seconds, fleet.webs, fleet.runners, STORE)
    began = loop.time()
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            await asyncio.sleep(began + fault.at_s - loop.time())
            member = fleet.members[fault.target]
            if fault.kind == "pause":
                hit = member.send(signal.SIGSTOP)
                group.create_task(_resume(fleet, fault))
            else:
                number = signal.SIGKILL if fault.kind == "kill" else signal.SIGTERM
                hit = (member.send_to_worker if fault.worker else member.send)(number)
            outcome.happened.append(Happened(loop.time() - began, fault, hit))


async def _resume(fleet: Fleet, fault: Fault) -> None:
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        fleet.members[fault.target].send(signal.SIGCONT)


async def _run_all(fleet: Fleet, outcome: Outcome) -> None:
    loop, plan = asyncio.get_running_loop(), outcome.plan
    deadline = loop.time() + plan.seconds + TAIL_S

    async def one(client: httpx.AsyncClient, asked: Asked) -> None:
        await asyncio.sleep(asked.at_s)
        own = [one for one in outcome.followers if one.asked is asked]
        try:
            async with asyncio.timeout_at(deadline):
                await ask(client, asked, fleet.urls, plan.seed)
        except (TimeoutError, AssertionError) as error:
            for follower in own:
                follower.failure = f"never started: {error} {dict(asked.refusals)}"
            return
        first = next((one.reader for one in own if one.kind != "late"), None)
        for follower in own:
            if first is None:
                follower.delay_s = follower.delay_s or 0.0
        left_s = deadline - loop.time()
        await asyncio.gather(*(follow(one, first or one.reader, left_s) for one in own))

    # A client that gives up on a hanging worker and asks another one.
    async with httpx.AsyncClient(timeout=8, trust_env=False) as client:
        await asyncio.gather(*(one(client, asked) for asked in outcome.asked))


async def _watch_lengths(url: str, outcome: Outcome) -> None:
    """XLEN of every run's stream, again and again."""
    redis: Any = connect(url, "chaos", connections=1, retries=0)
    try:
        while True:
            known = [one.answer["id"] for one in outcome.asked if one.answer]
            with suppress(RedisError, OSError):
                async with redis.pipeline(transaction=False) as pipe:
                    for run_id in known:
                        pipe.xlen(keys.run(run_id).events)
                    outcome.lengths += await pipe.execute()
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        await redis.aclose()


async def _in_batches(work: Iterable[Any]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(awaitable: Any) -> None:
        async with gate:
            await awaitable

    await asyncio.gather(*(one(awaitable) for awaitable in work))


async def _look_up(client: httpx.AsyncClient, urls: list[str], asked: Asked) -> None:
    """The record, from whichever worker answers; none where nobody does any more."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            for url in itertools.cycle(urls):
                with suppress(httpx.TransportError):
                    path = f"/v1/runs/{asked.answer['id']}?{asked.query}"
                    answer = await client.get(url + path)
                    asked.record = {"http_status": answer.status_code, **answer.json()}
                    return
                await asyncio.sleep(LOOK_EVERY_S)


async def _rejoin(follower: Follower, outcome: Outcome) -> None:
    """Come back once more after the end, as EventSource does; 0 where nobody answers."""
    reader, seen = follower.reader, 0
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            for url in itertools.cycle(reader.urls):
                with suppress(OSError, asyncio.IncompleteReadError):
                    async for status, _ in get(url + reader.path, reader.headers()):
                        seen = seen or status or 0
                    break
                await asyncio.sleep(LOOK_EVERY_S)
    outcome.rejoined.append(seen)


async def _settled(url: str, asked: list[Asked]) -> Left:
    """What is left, as soon as nothing of it is on its way any more."""
    redis: Any = connect(url, "chaos", connections=2)
    deadline = time.monotonic() + SETTLE_S
    try:
        while True:
            left = await _left(redis, asked)
            quiet = not (left.queue or left.pending or left.channels)
            if quiet or time.monotonic() > deadline:
                return left
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        await redis.aclose()


async def _left(redis: Any, asked: list[Asked]) -> Left:
    found = [key.decode() async for key in redis.scan_iter(count=1000)]
    canaries = set[str]()
    async with redis.pipeline(transaction=False) as pipe:
        for key in found:
            pipe.ttl(key)
        lives = await pipe.execute()
    records = {key for key in found if key.startswith("run:") and key.endswith("}")}
    # Each web worker's own: nobody asked for them, and they end with it.
    for key in list(records):
        if await redis.hget(key, "owner") == CANARY.encode():
            records.discard(key)
            canaries.add(key)
    followed = {
        name.decode() for name in await redis.execute_command("PUBSUB", "SHARDCHANNELS")
    }
    ends = {}
    for one in asked:
        if one.answer:
            entries = await redis.xrange(keys.run(one.answer["id"]).events)
            if entries:
                # The others have expired, a minute after their end.
                datas = [fields[b"e"].decode() for _, fields in entries]
                ends[one.answer["id"]] = sum(_is_end(data) for data in datas)
    return Left(
        records=records,
        queue=await redis.xlen(keys.QUEUE),
        pending=(await redis.xpending(keys.QUEUE, keys.GROUP))["pending"],
        channels=len(followed - canaries),
        immortal=[
            key
            for key, life_s in zip(found, lives, strict=True)
            if life_s == -1 and key != keys.QUEUE
        ],
        ends=ends,
    )


def _is_end(data: str) -> bool:
    return any(data.startswith(f'{{"type":"{kind}"') for kind in TERMINAL)
