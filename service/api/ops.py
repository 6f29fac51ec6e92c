"""Metrics over HTTP: JSON and a live feed for operators, the exposition for Prometheus.

Invariant: without ADMIN_TOKEN the JSON and the feed are closed; what `/metrics` tells holds no
name of a run, an owner or a key. However many look, the servers are asked once a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.admin import check_admin
from service.api.state import State, state_of
from service.errors import Problem
from service.ops import prometheus
from service.ops.overview import overview

FEED_S = 2.0
# Each is a task and a picture every two seconds.
FEEDS_MOST = 20

_FRESH = {"Cache-Control": "no-store"}


async def _picture(state: State) -> dict[str, Any]:
    return overview(await state["watch"].look(), state["settings"], state["host"])


async def admin_metrics(request: Request) -> Response:
    """Everything, as JSON; with `Accept: text/event-stream` anew every two seconds."""
    state = state_of(request.scope)
    check_admin(request, state)
    if "text/event-stream" in request.headers.get("accept", ""):
        return _feed(state)
    content = msgspec.json.format(msgspec.json.encode(await _picture(state)))
    return Response(content, 200, _FRESH, "application/json")


def _feed(state: State) -> Response:
    watch, hub = state["watch"], state["hub"]
    if watch.feeds >= FEEDS_MOST:
        raise Problem("too_many_feeds", f"{FEEDS_MOST} are open already; close one.")

    async def pictures() -> AsyncIterator[ServerSentEvent]:
        watch.feeds += 1
        try:
            while not hub.draining:
                picture = msgspec.json.encode(await _picture(state)).decode()
                yield ServerSentEvent(picture, retry=2000, sep="\n")
                await asyncio.sleep(FEED_S)
        finally:
            watch.feeds -= 1

    return EventSourceResponse(pictures(), headers=_FRESH, sep="\n", ping=15)


async def metrics(request: Request) -> Response:
    """For Prometheus."""
    state = state_of(request.scope)
    seen = await state["watch"].look()
    memory = overview(seen, state["settings"], state["host"])["memory"]
    content = prometheus.exposition(seen, memory)
    return Response(content, 200, {**_FRESH, "Content-Type": prometheus.CONTENT_TYPE})


routes = [
    Route("/api/admin/metrics", admin_metrics, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
