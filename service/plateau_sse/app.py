"""The only place where the parts of a web worker are put together.

Invariant: nothing is opened before the lifespan starts: `create_app` runs in the master, before
the fork, and a loop, a client or a thread from there would be shared by every worker.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from functools import partial
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from plateau_sse import tasks
from plateau_sse.api import (
    admin,
    agui,
    chat_completions,
    heads,
    health,
    lists,
    live_runs,
    openapi,
    ops,
    pages,
    problems,
    responses,
    runs,
    ui_chat,
)
from plateau_sse.api import agents as agents_api
from plateau_sse.api import conversations as conversations_api
from plateau_sse.api import external as external_api
from plateau_sse.api.access import Access
from plateau_sse.api.cors import Cors
from plateau_sse.api.events import Direct
from plateau_sse.api.hosts import Hosts
from plateau_sse.api.jwts import Jwts
from plateau_sse.api.keys import ApiKeys
from plateau_sse.api.prefix import Entrance
from plateau_sse.api.repeats import Repeats
from plateau_sse.api.state import State
from plateau_sse.api.surfaces import TOLD, Surfaces
from plateau_sse.errors import PlateauError, StoreError
from plateau_sse.files import files_most
from plateau_sse.intake.admission import Admission
from plateau_sse.intake.door import Door
from plateau_sse.intake.intake import Intake
from plateau_sse.intake.janitor import Janitor
from plateau_sse.intake.placement import Placement
from plateau_sse.intake.reaper import Reaper
from plateau_sse.intake.start import Start
from plateau_sse.intake.versions import Versions
from plateau_sse.live.guard import Guard
from plateau_sse.live.hub import Hub
from plateau_sse.live.leaving import leave_with_server
from plateau_sse.live.paced import Pacer
from plateau_sse.live.seats import Seats
from plateau_sse.live.weight import Weight
from plateau_sse.ops.canary import Canary
from plateau_sse.ops.fitness import Fitness
from plateau_sse.ops.health import Health
from plateau_sse.ops.history import History
from plateau_sse.ops.process import own_memory
from plateau_sse.ops.reporting import Reporter
from plateau_sse.ops.watch import Watch
from plateau_sse.settings import Settings
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.answers.lookups import Lookups
from plateau_sse.store.conversations.chats import Chats
from plateau_sse.store.conversations.conversations import Conversations, limits_of
from plateau_sse.store.conversations.lines import Lines
from plateau_sse.store.conversations.listed import Listed
from plateau_sse.store.conversations.openers import Openers
from plateau_sse.store.figures.leftovers import Leftovers
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.figures.tally import Board
from plateau_sse.store.figures.workers import Workers
from plateau_sse.store.queue.announcements import Announcements
from plateau_sse.store.queue.asked import Asked
from plateau_sse.store.queue.due import Due
from plateau_sse.store.queue.owners import Owners
from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.queue.spoken import Spoken
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect, is_cluster, keep_following
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.redis.patience import PATIENCE_S
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.inflight import Inflight
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.streams import Streams
from plateau_sse.tracing import tracing_of

# Of connections to the streams instance, what readers and new runs wait for, and what is apart
# from them; with the subscribing one as many as hosted servers grant a small service.
ASKING, WATCHING, REPAIRING = 6, 1, 1

# The dialects beside the native one; each has a file under `dialects/` and one here in `api/`.
SURFACES = Surfaces(
    [chat_completions.SURFACE, responses.SURFACE, ui_chat.SURFACE, agui.SURFACE]
)


# What may leave something behind in a worker, beside what is dispatched ahead of the routes.
_SERVED = ("/v1/", "/api/", "/agui")


class Plateau:
    """The ASGI application: the busiest routes first, everything else through Starlette."""

    def __init__(self, settings: Settings, board: Board | None) -> None:
        routes = [
            *lists.routes,
            *runs.routes,
            *external_api.routes,
            *conversations_api.routes,
            *agents_api.routes,
            *admin.routes,
            *live_runs.routes,
            *ops.routes,
            *health.routes,
            *pages.routes,
            *openapi.routes,
            *SURFACES.routes,
        ]
        self._starlette = Starlette(
            routes=routes,
            exception_handlers={
                PlateauError: SURFACES.handle,
                HTTPException: SURFACES.handle,
                Exception: SURFACES.handle,
            },
            lifespan=self._lifespan,
        )
        # A redirect would name the host as the client did, not as a proxy would.
        self._starlette.router.redirect_slashes = False
        self._settings = settings
        self._entrance = Entrance(settings.root_path, routes) if settings.root_path else None
        self._board = board
        self._hosts = Hosts(settings)
        # Here, in the master: what it imports is then there for every worker.
        self._jwts = Jwts(settings) if settings.takes_tokens else None
        self._seats = Seats(settings.readers_limit) if settings.readers_limit else None
        self._web = Cors(self._starlette, settings)
        self._direct = Direct(self._web, SURFACES)

    def _lifespan(self, _: Starlette) -> AbstractAsyncContextManager[State]:
        return _opened(self._settings, self._web, self._jwts, self._seats, self._board)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._starlette(scope, receive, send)
        elif (fault := heads.fault_of(scope) or self._hosts.fault_of(scope)) is not None:
            if self._entrance is not None:
                # Whose client is told is a matter of the path.
                self._entrance.take_off(scope)
            problems.note(scope, fault, fault)
            response = SURFACES.refuse(fault, scope)
            response.headers.update(self._web.headers_for(scope))
            await response(scope, receive, send)
        elif self._entrance and (answer := self._entrance.take_off(scope)) is not None:
            await answer(scope, receive, send)
        elif self._direct.wants(scope):
            await self._direct(scope, receive, send)
        elif scope["path"].startswith(_SERVED):
            counting = partial(_counting, scope["state"]["guard"], send)
            await self._by_routes(scope, receive, counting)
        else:
            await self._by_routes(scope, receive, send)

    async def _by_routes(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._web(scope, receive, send)
        except Exception as error:
            if scope.pop(TOLD, None) is not error:
                raise


async def _counting(guard: Guard, send: Send, message: Message) -> None:
    if message["type"] == "http.response.start" and message["status"] < 400:
        guard.served += 1
    await send(message)


def create_app(settings: Settings | None = None, board: Board | None = None) -> Plateau:
    """The application; settings come from the environment where none are given. Its processes
    count on `board` where there is one."""
    settings = settings or Settings.from_env()
    keys.begin_with(settings.key_prefix)
    return Plateau(settings, board)


@asynccontextmanager
async def _opened(
    settings: Settings,
    cors: Cors,
    jwts: Jwts | None,
    seats: Seats | None,
    board: Board | None,
) -> AsyncIterator[State]:
    async with AsyncExitStack() as stack:
        redis = connect(settings.redis_url, "plateau-web", connections=ASKING)
        stack.push_async_callback(redis.aclose)
        # A herd of readers takes all of those: whether this worker is well, and what its
        # readers lack, must not wait behind it.
        watching = connect(settings.redis_url, "plateau-web", connections=WATCHING)
        stack.push_async_callback(watching.aclose)
        repairing = connect(settings.redis_url, "plateau-web", connections=REPAIRING)
        stack.push_async_callback(repairing.aclose)
        cache_redis = lookups = None
        following: list[Callable[[], Coroutine[Any, Any, None]]] = []
        if settings.cache_redis_url:
            url = settings.cache_redis_url
            cache_redis = connect(url, "plateau-web", connections=2, timeout_s=PATIENCE_S)
            stack.push_async_callback(cache_redis.aclose)
            if is_cluster(url):
                following.append(partial(keep_following, url, (cache_redis,)))
            else:
                lookups = Lookups(url, "plateau-web", timeout_s=PATIENCE_S)
                stack.push_async_callback(lookups.close)
                lookups.open()
                leave = partial(keep_following, url, (cache_redis,), lookups.reconnect)
                following.append(leave)
        fullness = Fullness(redis, settings.stream_max_memory)

        def streams_over(connections: Redis) -> Streams:
            return Streams(
                connections,
                alive_s=settings.silence_s,
                record_s=settings.stream_ttl_s,
                share=fullness.share,
                replicas=settings.wait_replicas,
            )

        streams = streams_over(redis)
        stats = Stats(watching, board)
        cache = Cache(
            cache_redis,
            lookups,
            ttl_s=settings.cache_ttl_s,
            max_bytes=settings.cache_max_memory,
            count=stats.count,
        )
        access = _access(settings, jwts, cors)
        queue = Queue(redis, replicas=settings.wait_replicas, is_shared=access.is_shared)
        announcements = Announcements(redis)
        external = External(redis, idle_s=settings.external_idle_s)
        reaper = Reaper(
            streams,
            queue,
            announcements,
            external,
            stats,
            queue_timeout_s=settings.queue_timeout_s,
            life_s=settings.begun_life_s,
            external_idle_s=settings.external_idle_s,
        )
        weight = Weight(settings.worker_max_memory, own_memory)
        guard = Guard(stats.count, files_most(), settings.max_body_bytes, weight)
        hub = Hub(
            settings.redis_url, streams, "plateau-hub", stats.count, streams_over(repairing)
        )
        clients = (redis, watching, repairing)
        following.append(partial(keep_following, settings.redis_url, clients, hub.reconnect))
        janitor = Janitor(Leftovers(redis), stats)
        hub.open()
        stack.push_async_callback(hub.close)
        workers = Workers(watching, "web")
        canary = Canary(hub, streams_over(watching), stats)
        watch = Watch(
            watching, cache_redis, Queue(watching), workers, stats, hub, canary, guard
        )
        fitness = Fitness(watching, settings.redis_url)
        reporter = Reporter(workers, watch.figures, urgent=watch.urgent, board=board)
        host = socket.gethostname()
        history = History(settings, host)
        stack.push_async_callback(_add_up, stats)
        reporting = asyncio.create_task(reporter.keep_reporting())
        stack.push_async_callback(tasks.end, reporting)
        await reporter.has_begun()
        keeping: list[Callable[[], Coroutine[Any, Any, None]]] = [
            reaper.keep_looking,
            janitor.keep_sweeping,
            stats.keep_flushing,
            canary.keep_singing,
            partial(watch.keep_watching, history.remember),
            fitness.keep_looking,
            partial(leave_with_server, hub),
            *following,
        ]
        for keeps_on in keeping:
            stack.push_async_callback(tasks.end, asyncio.create_task(keeps_on()))
        if seats is not None:
            seats.claim()
        if jwts is not None:
            stack.push_async_callback(jwts.close)
        inflight = Inflight(redis, life_s=settings.run_life_s)
        conversations = Conversations(
            redis, limits_of(settings), fullness.bound, stats.count, fullness.share
        )
        listed = Listed(
            redis, conversations, life_s=settings.stream_ttl_s + settings.run_life_s
        )
        shares = Shares(redis, replicas=settings.wait_replicas)
        door = Door(queue, settings.queue_limit)
        stack.push_async_callback(door.close)
        admission = Admission(
            door,
            fullness,
            external,
            stats,
            _owners(settings, redis),
            None if settings.is_keyless else Asked(redis),
        )
        stack.push_async_callback(admission.close)
        placement = Placement(
            streams,
            shares,
            queue,
            admission,
            external,
            conversations,
            listed,
            Lines(redis, streams.statuses, life_s=settings.run_life_s),
            stats,
            run_life_s=settings.run_life_s,
            job_bytes=settings.job_bytes,
            is_closing=partial(_is_closing, board),
            due=Due(redis) if settings.webhook_url else None,
        )
        versions = Versions(announcements)
        stack.push_async_callback(versions.close)
        stack.push_async_callback(tasks.end, asyncio.create_task(versions.keep_fresh()))
        start = Start(door, announcements)
        stack.push_async_callback(start.close)
        tracing = tracing_of(settings, "web")
        if tracing is not None:
            stack.push_async_callback(tracing.close)
        intake = Intake(
            placement,
            admission,
            versions,
            start,
            cache,
            inflight,
            conversations,
            listed,
            stats,
            window_s=settings.stream_ttl_s,
            tracing=tracing,
        )
        yield State(
            settings=settings,
            access=access,
            streams=streams,
            shares=shares,
            cache=cache,
            conversations=conversations,
            openers=Openers(redis, conversations),
            listed=listed,
            chats=Chats(redis, life_s=settings.run_life_s, share=fullness.share),
            external=external,
            hub=hub,
            guard=guard,
            seats=seats,
            spoken=None if settings.is_keyless else Spoken(redis, fullness),
            pacer=Pacer(),
            intake=intake,
            repeats=Repeats(intake, cache, stats, tracing),
            placement=placement,
            health=Health(
                watching,
                hub,
                canary,
                watch,
                fitness,
                settings,
                host,
                partial(_is_leaving, board),
            ),
            watch=watch,
            history=history,
            stats=stats,
            tracing=tracing,
            host=host,
        )


def _is_leaving(board: Board | None) -> bool:
    return board is not None and board.leaving


def _is_closing(board: Board | None) -> bool:
    return board is not None and board.closing


async def _add_up(stats: Stats) -> None:
    with suppress(StoreError):
        await stats.flush()


def _owners(settings: Settings, redis: Redis) -> Owners | None:
    """Where everyone is one owner there is nobody to protect from it."""
    if settings.is_keyless and not settings.rate_limit:
        return None
    most = settings.queue_limit if settings.is_keyless else max(1, settings.queue_limit // 2)
    return Owners(redis, most=most, life_s=settings.run_life_s, per_minute=settings.rate_limit)


def _access(settings: Settings, jwts: Jwts | None, cors: Cors) -> Access:
    is_allowed_origin = None if settings.allow_anonymous else cors.is_allowed_origin
    keys = None
    if settings.api_keys or settings.api_keys_file:
        path = Path(settings.api_keys_file) if settings.api_keys_file else None
        keys = ApiKeys(settings.api_keys, path)
    return Access(settings, keys, jwts, is_allowed_origin)
