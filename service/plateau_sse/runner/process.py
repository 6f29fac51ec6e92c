"""The runner's process: its parts put together, from settings to an exit code.

Invariant: this is for a runner what `app.py` is for a web worker: nothing is opened elsewhere,
and what was opened is closed however it ends.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress

import uvloop

from plateau_sse import tasks
from plateau_sse.agents.registry import load_agents, open_agents
from plateau_sse.errors import SettingsError, StoreError
from plateau_sse.heap import give_back_large_blocks
from plateau_sse.ops.fitness import Fitness
from plateau_sse.runner.beat import STACKS, Alarm, Beat, Before
from plateau_sse.runner.keeper import Keeper
from plateau_sse.runner.lease import LeaseKeeper
from plateau_sse.runner.runner import Runner
from plateau_sse.runner.webhook import Webhook
from plateau_sse.settings import Settings
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.conversations.conversations import Conversations, limits_of
from plateau_sse.store.conversations.lines import Lines
from plateau_sse.store.conversations.memories import Memories
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.figures.tally import Board
from plateau_sse.store.figures.workers import Workers
from plateau_sse.store.queue.announcements import Announcements
from plateau_sse.store.queue.due import Due
from plateau_sse.store.queue.queue import Leases, Queue, Ticket
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import (
    COMMAND_CONNECTIONS,
    connect,
    connect_blocking,
    keep_following,
)
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.redis.patience import PATIENCE_S
from plateau_sse.store.runs.appending import BlockingStreams
from plateau_sse.store.runs.inflight import Inflight
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.streams import Streams
from plateau_sse.tracing import tracing_of

log = logging.getLogger("plateau.runner")


async def _serve(
    settings: Settings,
    name: str,
    board: Board | None = None,
    beat: Beat | None = None,
    before: Before | None = None,
) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        # A run sends a batch each 30 ms, which takes one of them: four runs share a connection.
        # One more is for the command that blocks, another for the rest of the runner.
        connections = min(-(-settings.runner_concurrency // 4), COMMAND_CONNECTIONS) + 2
        redis = connect(settings.redis_url, "plateau-runner", connections=connections)
        stack.push_async_callback(redis.aclose)
        queue = Queue(redis)
        blocking = connect_blocking(settings.redis_url, "plateau-leases")
        stack.callback(blocking.close)
        leases = Leases(blocking)
        left: list[Ticket] = []
        if before is not None:
            with suppress(StoreError):
                left = await queue.inherit(name, before.name)
        with _held(leases, name, left):
            agents = await open_agents(load_agents(settings), stack)
        cache_redis = None
        if settings.cache_redis_url:
            url = settings.cache_redis_url
            cache_redis = connect(url, "plateau-runner", connections=2, timeout_s=PATIENCE_S)
            stack.push_async_callback(cache_redis.aclose)
            following = asyncio.create_task(keep_following(url, (cache_redis,)))
            stack.push_async_callback(tasks.end, following)
        fullness = Fullness(redis, settings.stream_max_memory)
        streams = Streams(
            redis,
            alive_s=settings.silence_s,
            record_s=settings.stream_ttl_s,
            share=fullness.share,
            replicas=settings.wait_replicas,
        )
        stats = Stats(redis, board)
        answers = Cache(
            cache_redis,
            ttl_s=settings.cache_ttl_s,
            max_bytes=settings.cache_max_memory,
            count=stats.count,
        )
        opening = asyncio.create_task(answers.open())
        stack.push_async_callback(tasks.end, opening)
        conversations = Conversations(
            redis, limits_of(settings), fullness.bound, stats.count, fullness.share
        )
        keeper = Keeper(
            answers,
            conversations,
            Memories(redis, conversations, streams.statuses),
            Inflight(redis, life_s=settings.run_life_s),
            Shares(redis),
        )
        due = Due(redis) if settings.webhook_url else None
        if due is not None:
            webhook = Webhook(settings.webhook_url, settings.webhook_secret, due, streams)
            posting = asyncio.create_task(webhook.keep_posting())
            stack.push_async_callback(tasks.end, posting)
        tracing = tracing_of(settings, "runner")
        if tracing is not None:
            stack.push_async_callback(tracing.close)
        runner = Runner(
            name,
            settings,
            agents,
            streams,
            queue,
            Announcements(redis),
            keeper,
            Lines(redis, streams.statuses, life_s=settings.run_life_s),
            leases,
            stats,
            Workers(redis, "runner"),
            BlockingStreams(blocking, record_s=settings.stream_ttl_s),
            board,
            beat or Alarm(settings.runner_concurrency),
            before,
            due,
            tracing,
        )
        following = asyncio.create_task(keep_following(settings.redis_url, (redis, blocking)))
        stack.push_async_callback(tasks.end, following)
        looking = asyncio.create_task(Fitness(redis, settings.redis_url).keep_looking())
        stack.push_async_callback(tasks.end, looking)
        log.info("runner %s has %s", name, ", ".join(sorted(agents)))
        return await runner.serve(stopping)


@contextmanager
def _held(leases: Leases, name: str, tickets: Sequence[Ticket]) -> Iterator[None]:
    """Importing agents may take longer than a lease, and keeps the loop from anything else."""
    keeper = LeaseKeeper(leases, name, lambda _: None)
    for ticket in tickets:
        keeper.hold(ticket)
    keeper.start()
    try:
        yield
    finally:
        keeper.stop()


def run(
    settings: Settings,
    name: str,
    board: Board | None = None,
    beat: Beat | None = None,
    before: Before | None = None,
) -> int:
    """Run until SIGTERM or SIGINT; the exit code. `STACKS` has the stack of each thread written
    to the log, whatever the interpreter is at."""
    faulthandler.register(STACKS, all_threads=True)
    keys.begin_with(settings.key_prefix)
    give_back_large_blocks()
    # Not closed: that would wait for agents and threads that do not stop, and the process is
    # about to end.
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_serve(settings, name, board, beat, before))
    except SettingsError as error:
        log.error("%s", error)
        return 2
