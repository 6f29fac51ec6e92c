"""The usual way: sse-starlette, and a blocking XREAD for each open response."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

# A connection each, since each blocks.
CONNECTIONS = 20_000


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    redis: Any = Redis.from_url(
        os.environ["REDIS_URL"], max_connections=CONNECTIONS, socket_timeout=None
    )
    app.state.redis = redis
    yield
    await redis.aclose()


async def follow(request: Request) -> EventSourceResponse:
    redis, name = request.app.state.redis, request.path_params["name"]

    async def events() -> AsyncIterator[dict[str, str]]:
        last = request.headers.get("last-event-id", "0")
        while True:
            found = await redis.xread({name: last}, block=10_000)
            for _, entries in found or []:
                for entry_id, fields in entries:
                    last = entry_id.decode()
                    yield {"id": last, "data": fields[b"e"].decode()}

    return EventSourceResponse(events())


app = Starlette(routes=[Route("/sub/{name}", follow)], lifespan=lifespan)
