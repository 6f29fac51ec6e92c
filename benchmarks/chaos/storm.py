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
from functools import partial
from typing import Any, NamedTuple

import httpx
from locustfiles.kit.ledger import TERMINAL
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tests.groups import Trio
from tests.processes import free_ports
from tests.readers import get

from benchmarks.chaos.crowd import Asked, Follower, ask, follow, plan_readers, plan_runs
from benchmarks.chaos.faults import OF_GROUP, Fault, schedule
from benchmarks.chaos.faults import STORE as OF_SERVER
from benchmarks.chaos.fleet import ALONE, CACHE, STORE, Fleet
from benchmarks.chaos.story import HOLDER
from benchmarks.failover import ask as move
from benchmarks.failover import kill
from plateau_sse import tasks
from plateau_sse.ops.canary import OWNER as CANARY
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.cluster import Cluster
from plateau_sse.store.redis.connections import connect, servers_of
from plateau_sse.store.redis.topology import slot_of

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
    seconds: float = 60.0
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
    # Runs that each hold the interpreter of a runner.
    holders: list[Asked] = field(default_factory=list)
    # Since the epoch.
    faults_over_at: float = 0.0
    # Ids of runs that were there before.
    earlier: frozenset[str] = frozenset()

    @property
    def made(self) -> frozenset[str]:
        return frozenset(one.answer["id"] for one in self.asked if one.answer)


@dataclass
class Left:
    """The store once everybody has gone."""

    records: set[str]
    queue: int
    pending: int
    channels: int
    immortal: list[str]
    ends: dict[str, int]


async def storm(fleet: Fleet, plan: Plan, earlier: frozenset[str] = frozenset()) -> Outcome:
    """Let it loose, and wait for its end. The store still has `earlier` runs."""
    began = time.monotonic()
    asked = plan_runs(plan.seed, plan.runs, plan.seconds)
    followers = plan_readers(plan.seed, plan.readers, asked, fleet.urls, plan.seconds)
    outcome = Outcome(plan, asked, followers, earlier=earlier)
    supervising = asyncio.create_task(fleet.supervise())
    watching = asyncio.create_task(_watch_lengths(fleet.streams_url, outcome))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_strike(fleet, outcome))
            group.create_task(_run_all(fleet, outcome))
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            asked = outcome.asked = [*asked, *outcome.holders]
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
    kinds = OF_SERVER if fleet.group is None else OF_GROUP
    faults = schedule(
        plan.seed, plan.seconds, fleet.webs, fleet.runners, STORE, CACHE, kinds, alone=ALONE
    )
    began = loop.time()
    failing_over = asyncio.Lock()
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            await asyncio.sleep(began + fault.at_s - loop.time())
            hit = True
            match fault.kind:
                case "pause":
                    hit = fleet.members[fault.target].send(signal.SIGSTOP)
                    group.create_task(_resume(fleet, fault))
                case "demote" | "lonely":
                    group.create_task(_refuse(fleet.streams_url, fault))
                case "hold":
                    group.create_task(_hold(fleet, outcome))
                case "fail" | "move":
                    group.create_task(_fail_over(fleet, outcome, fault, failing_over))
                case _:
                    member = fleet.members[fault.target]
                    number = signal.SIGKILL if fault.kind == "kill" else signal.SIGTERM
                    hit = (member.send_to_worker if fault.worker else member.send)(number)
            outcome.happened.append(Happened(loop.time() - began, fault, hit))
    outcome.faults_over_at = time.time()


async def _resume(fleet: Fleet, fault: Fault) -> None:
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        fleet.members[fault.target].send(signal.SIGCONT)


async def _refuse(url: str, fault: Fault) -> None:
    """Writes, for a while."""
    # A replica of nobody who is there, or it would take over what that one has.
    demoted = f"REPLICAOF 127.0.0.1 {free_ports(1)}", "REPLICAOF NO ONE"
    lonely = "CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"
    begin, end = demoted if fault.kind == "demote" else lonely
    redis: Any = connect(url, "chaos", connections=1)
    try:
        await _tell(redis, begin)
        await asyncio.sleep(fault.for_s)
        await _tell(redis, end)
    finally:
        await redis.aclose()


async def _tell(redis: Any, command: str) -> None:
    """Another fault may have its server down: it is told when it is back."""
    async with asyncio.timeout(TAIL_S):
        while True:
            try:
                await redis.execute_command(*command.split())
                return
            except (RedisConnectionError, RedisTimeoutError):
                await asyncio.sleep(LOOK_EVERY_S)


async def _fail_over(
    fleet: Fleet, outcome: Outcome, fault: Fault, one_at_a_time: asyncio.Lock
) -> None:
    """Of the primary of a run."""
    group = fleet.group
    assert group is not None
    async with one_at_a_time:
        known = [one.answer["id"] for one in outcome.asked if one.answer]
        slot = slot_of(keys.run(known[-1] if known else "").record)
        mend = await asyncio.to_thread(kill if fault.kind == "fail" else move, group, slot)
        if isinstance(group, Trio):
            mend = partial(group.as_replica, mend)
        await asyncio.to_thread(mend)
        await asyncio.to_thread(group.wait_until_whole)


async def _hold(fleet: Fleet, outcome: Outcome) -> None:
    """A run as the others, whose record is all that is read of it."""
    seed, index = outcome.plan.seed, len(outcome.holders)
    options = {"count": 2, "pause_ms": 20, "width": 0}
    asked = Asked(f"holder {seed} h{index}", options, 0.0, agent=HOLDER)
    outcome.holders.append(asked)
    async with httpx.AsyncClient(timeout=8, trust_env=False) as client:
        with suppress(TimeoutError):
            async with asyncio.timeout(TAIL_S):
                await ask(client, asked, fleet.urls, seed)
                while asked.record.get("ended_at") is None:
                    await _look_up(client, fleet.urls, asked)
                    await asyncio.sleep(LOOK_EVERY_S)


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

    # A client that gives up on a hanging worker and asks another one. Each request has its own
    # connection: a pool of them may lose places to requests that are given up.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=8, limits=limits, trust_env=False) as client:
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
    found: list[str] = []
    lives: list[int] = []
    followed = set[str]()
    canaries = set[str]()
    if isinstance(redis, Cluster):
        # Nobody follows it in this process: another may have become a primary since.
        await redis.topology.learn()
    for server in await servers_of(redis):
        asked_of: Any = server
        here = [key.decode() async for key in asked_of.scan_iter(count=1000)]
        async with asked_of.pipeline(transaction=False) as pipe:
            for key in here:
                pipe.ttl(key)
            lives += await pipe.execute()
        found += here
        channels = await asked_of.execute_command("PUBSUB", "SHARDCHANNELS")
        followed |= {name.decode() for name in channels}
    records = {key for key in found if key.startswith("run:") and key.endswith("}")}
    # Each web worker's own: nobody asked for them, and they end with it. Those of workers that
    # were killed expire now and then, also between the look at the keys and this one.
    for key in list(records):
        if await redis.hget(key, "owner") in (CANARY.encode(), None):
            records.discard(key)
            canaries.add(key)
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
        queue=await redis.zcard(keys.QUEUE.since),
        pending=await redis.zcard(keys.QUEUE.held),
        channels=len(followed - canaries),
        immortal=[
            key
            for key, life_s in zip(found, lives, strict=True)
            if life_s == -1 and key not in keys.QUEUE
        ],
        ends=ends,
    )


def _is_end(data: str) -> bool:
    return any(data.startswith(f'{{"type":"{kind}"') for kind in TERMINAL)
