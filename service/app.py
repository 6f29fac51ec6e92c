"""The only place where the parts of a web worker are put together.

Invariant: nothing is opened before the lifespan starts: `create_app` runs in the master, before
the fork, and a loop, a client or a thread from there would be shared by every worker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from service.api import health, openapi, pages, problems, runs
from service.api.access import Access
from service.api.cors import Cors
from service.api.events import EventStreams, wants
from service.api.state import State
from service.errors import PlateauError
from service.live.hub import Hub
from service.ops.health import Health
from service.runs.queue import Intake
from service.settings import Settings
from service.store.cache import Cache
from service.store.connections import connect
from service.store.queue import Queue
from service.store.streams import Streams


class Plateau:
    """The ASGI application: event streams first, everything else through Starlette."""

    def __init__(self, settings: Settings) -> None:
        self._starlette = Starlette(
            routes=[*runs.routes, *health.routes, *pages.routes, *openapi.routes],
            exception_handlers={
                PlateauError: problems.handle,
                HTTPException: problems.handle,
                Exception: problems.handle,
            },
            lifespan=_lifespan(settings),
        )
        self._web = Cors(self._starlette, settings)
        self._events = EventStreams(self._web)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._starlette(scope, receive, send)
        elif scope["type"] == "http" and wants(scope):
            await self._events(scope, receive, send)
        else:
            await self._web(scope, receive, send)


def create_app(settings: Settings | None = None) -> Plateau:
    """The application; settings come from the environment where none are given."""
    return Plateau(settings or Settings.from_env())


def _lifespan(settings: Settings):  # type: ignore[no-untyped-def]
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[State]:
        async with AsyncExitStack() as stack:
            redis = connect(settings.redis_url, "plateau-web")
            stack.push_async_callback(redis.aclose)
            cache_redis = None
            if settings.cache_redis_url:
                # A cache that is slow is worse than a miss.
                cache_redis = connect(settings.cache_redis_url, "plateau-web", timeout_s=0.5)
                stack.push_async_callback(cache_redis.aclose)
            streams = Streams(
                redis, alive_s=settings.run_timeout_s, record_s=settings.stream_ttl_s
            )
            cache = Cache(
                cache_redis, ttl_s=settings.cache_ttl_s, max_bytes=settings.cache_max_memory
            )
            queue = Queue(redis)
            hub = Hub(settings.redis_url, streams, "plateau-hub")
            hub.open()
            stack.push_async_callback(hub.close)
            yield State(
                settings=settings,
                access=Access(settings.api_keys),
                streams=streams,
                cache=cache,
                hub=hub,
                intake=Intake(streams, queue, cache, limit=settings.queue_limit),
                health=Health(redis, cache_redis, queue, hub),
            )

    return lifespan
