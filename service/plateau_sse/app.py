"""The only place where the parts of a web worker are put together.

Invariant: nothing is opened before the lifespan starts: `create_app` runs in the master, before
the fork, and a loop, a client or a thread from there would be shared by every worker.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from plateau_sse import tasks
from plateau_sse.api import admin, heads, health, openapi, ops, pages, problems, runs
from plateau_sse.api import conversations as conversations_api
from plateau_sse.api import external as external_api
from plateau_sse.api.access import Access
from plateau_sse.api.cors import Cors
from plateau_sse.api.events import Direct, wants
from plateau_sse.api.prefix import Entrance
from plateau_sse.api.requests import request_id_of
from plateau_sse.api.state import State
from plateau_sse.errors import PlateauError, StoreError
from plateau_sse.intake.intake import Intake
from plateau_sse.intake.janitor import Janitor
from plateau_sse.intake.placement import Placement
from plateau_sse.intake.reaper import Reaper
from plateau_sse.intake.versions import Versions
from plateau_sse.live.hub import Hub
from plateau_sse.live.paced import Pacer
from plateau_sse.ops.canary import Canary
from plateau_sse.ops.health import Health
from plateau_sse.ops.reporting import Reporter
from plateau_sse.ops.watch import Watch
from plateau_sse.settings import Settings
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.answers.lookups import Lookups
from plateau_sse.store.conversations.conversations import Conversations, limits_of
from plateau_sse.store.figures.leftovers import Leftovers
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.figures.tally import Board
from plateau_sse.store.figures.workers import Workers
from plateau_sse.store.queue.owners import Owners
from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.inflight import Inflight
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.streams import Streams

# A cache that is slow is worse than a miss.
CACHE_TIMEOUT_S = 0.5


class Plateau:
    """The ASGI application: the busiest routes first, everything else through Starlette."""

    def __init__(self, settings: Settings, board: Board | None) -> None:
        routes = [
            *runs.routes,
            *external_api.routes,
            *conversations_api.routes,
            *admin.routes,
            *ops.routes,
            *health.routes,
            *pages.routes,
            *openapi.routes,
        ]
        self._starlette = Starlette(
            routes=routes,
            exception_handlers={
                PlateauError: problems.handle,
                HTTPException: problems.handle,
                Exception: problems.handle,
            },
            lifespan=self._lifespan,
        )
        # A redirect would name the host as the client did, not as a proxy would.
        self._starlette.router.redirect_slashes = False
        self._settings = settings
        self._entrance = Entrance(settings.root_path, routes) if settings.root_path else None
        self._board = board
        self._web = Cors(self._starlette, settings)
        self._direct = Direct(self._web)

    def _lifespan(self, _: Starlette) -> AbstractAsyncContextManager[State]:
        return _opened(self._settings, self._web, self._board)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._starlette(scope, receive, send)
        elif (fault := heads.fault_of(scope)) is not None:
            response = problems.respond(fault, request_id_of(scope))
            response.headers.update(self._web.headers_for(scope))
            await response(scope, receive, send)
        elif self._entrance and (answer := self._entrance.take_off(scope)) is not None:
            await answer(scope, receive, send)
        elif wants(scope):
            await self._direct(scope, receive, send)
        else:
            await self._web(scope, receive, send)


def create_app(settings: Settings | None = None, board: Board | None = None) -> Plateau:
    """The application; settings come from the environment where none are given. Its processes
    count on `board` where there is one."""
    return Plateau(settings or Settings.from_env(), board)


@asynccontextmanager
async def _opened(settings: Settings, cors: Cors, board: Board | None) -> AsyncIterator[State]:
    async with AsyncExitStack() as stack:
        redis = connect(settings.redis_url, "plateau-web")
        stack.push_async_callback(redis.aclose)
        cache_redis = lookups = None
        if settings.cache_redis_url:
            url = settings.cache_redis_url
            cache_redis = connect(url, "plateau-web", connections=2, timeout_s=CACHE_TIMEOUT_S)
            stack.push_async_callback(cache_redis.aclose)
            lookups = Lookups(url, "plateau-web", timeout_s=CACHE_TIMEOUT_S)
            stack.push_async_callback(lookups.close)
        fullness = Fullness(redis, settings.stream_max_memory)
        streams = Streams(
            redis,
            alive_s=settings.silence_s,
            record_s=settings.stream_ttl_s,
            share=fullness.share,
        )
        stats = Stats(redis, board)
        cache = Cache(
            cache_redis,
            lookups,
            ttl_s=settings.cache_ttl_s,
            max_bytes=settings.cache_max_memory,
            count=stats.count,
        )
        queue = Queue(redis)
        external = External(redis, idle_s=settings.external_idle_s)
        reaper = Reaper(
            streams,
            queue,
            external,
            stats,
            queue_timeout_s=settings.queue_timeout_s,
            external_idle_s=settings.external_idle_s,
        )
        hub = Hub(settings.redis_url, streams, "plateau-hub", stats.count)
        janitor = Janitor(Leftovers(redis), stats)
        hub.open()
        stack.push_async_callback(hub.close)
        workers = Workers(redis, "web")
        canary = Canary(hub, streams, stats)
        watch = Watch(redis, cache_redis, queue, workers, stats, hub, canary)
        reporter = Reporter(workers, watch.figures, urgent=watch.hearing, board=board)
        host = socket.gethostname()
        stack.push_async_callback(_add_up, stats)
        for keeps_on in (
            reaper.keep_looking,
            janitor.keep_sweeping,
            stats.keep_flushing,
            canary.keep_singing,
            watch.keep_watching,
            reporter.keep_reporting,
        ):
            stack.push_async_callback(tasks.end, asyncio.create_task(keeps_on()))
        inflight = Inflight(redis, life_s=settings.run_life_s)
        conversations = Conversations(
            redis, limits_of(settings), fullness.bound, stats.count, fullness.share
        )
        shares = Shares(redis)
        placement = Placement(
            streams,
            shares,
            queue,
            external,
            conversations,
            fullness,
            _owners(settings, redis),
            stats,
            limit=settings.queue_limit,
            run_life_s=settings.run_life_s,
            job_bytes=settings.job_bytes,
        )
        intake = Intake(
            placement,
            Versions(queue),
            cache,
            inflight,
            conversations,
            stats,
            window_s=settings.stream_ttl_s,
        )
        yield State(
            settings=settings,
            access=_access(settings, cors),
            streams=streams,
            shares=shares,
            cache=cache,
            conversations=conversations,
            external=external,
            hub=hub,
            pacer=Pacer(),
            intake=intake,
            health=Health(redis, hub, canary, watch, settings, host),
            watch=watch,
            stats=stats,
            host=host,
        )


async def _add_up(stats: Stats) -> None:
    with suppress(StoreError):
        await stats.flush()


def _owners(settings: Settings, redis: Redis) -> Owners | None:
    """Where everyone is one owner there is nobody to protect from it."""
    if not settings.api_keys:
        return None
    return Owners(redis, most=max(1, settings.queue_limit // 2), life_s=settings.run_life_s)


def _access(settings: Settings, cors: Cors) -> Access:
    return Access(
        settings.api_keys, None if settings.allow_anonymous else cors.is_allowed_origin
    )
