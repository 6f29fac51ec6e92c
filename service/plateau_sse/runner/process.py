"""The runner's process: its parts put together, from settings to an exit code.

Invariant: this is for a runner what `app.py` is for a web worker: nothing is opened elsewhere,
and what was opened is closed however it ends.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack

import uvloop

from plateau_sse.agents.registry import load_agents
from plateau_sse.errors import SettingsError
from plateau_sse.runner.keeper import Keeper
from plateau_sse.runner.runner import Runner
from plateau_sse.settings import Settings
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.conversations.conversations import Conversations, limits_of
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.figures.tally import Board
from plateau_sse.store.figures.workers import Workers
from plateau_sse.store.queue.queue import Leases, Queue
from plateau_sse.store.redis.connections import COMMAND_CONNECTIONS, connect, connect_blocking
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.runs.appending import BlockingStreams
from plateau_sse.store.runs.inflight import Inflight
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.streams import Streams

log = logging.getLogger("plateau.runner")


async def _serve(settings: Settings, name: str, board: Board | None = None) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    agents = load_agents(settings)
    async with AsyncExitStack() as stack:
        # A run sends a batch each 30 ms, which takes one of them: four runs share a connection.
        # One more is for the command that blocks, another for the rest of the runner.
        connections = min(-(-settings.runner_concurrency // 4), COMMAND_CONNECTIONS) + 2
        redis = connect(settings.redis_url, "plateau-runner", connections=connections)
        stack.push_async_callback(redis.aclose)
        cache_redis = None
        if settings.cache_redis_url:
            url = settings.cache_redis_url
            cache_redis = connect(url, "plateau-runner", connections=2, timeout_s=2.0)
            stack.push_async_callback(cache_redis.aclose)
        blocking = connect_blocking(settings.redis_url, "plateau-leases")
        stack.callback(blocking.close)
        fullness = Fullness(redis, settings.stream_max_memory)
        streams = Streams(
            redis,
            alive_s=settings.silence_s,
            record_s=settings.stream_ttl_s,
            share=fullness.share,
        )
        stats = Stats(redis, board)
        answers = Cache(
            cache_redis,
            ttl_s=settings.cache_ttl_s,
            max_bytes=settings.cache_max_memory,
            count=stats.count,
        )
        keeper = Keeper(
            answers,
            Conversations(
                redis, limits_of(settings), fullness.bound, stats.count, fullness.share
            ),
            Inflight(redis, life_s=settings.run_life_s),
            Shares(redis),
        )
        runner = Runner(
            name,
            settings,
            agents,
            streams,
            Queue(redis),
            keeper,
            Leases(blocking),
            stats,
            Workers(redis, "runner"),
            BlockingStreams(blocking, record_s=settings.stream_ttl_s),
            board,
        )
        log.info("runner %s has %s", name, ", ".join(sorted(agents)))
        await runner.serve(stopping)


def run(settings: Settings, name: str, board: Board | None = None) -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    try:
        uvloop.run(_serve(settings, name, board))
    except SettingsError as error:
        log.error("%s", error)
        return 2
    return 0
