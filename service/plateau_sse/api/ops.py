"""Metrics over HTTP: JSON and a live feed for operators, the exposition for Prometheus.

Invariant: without ADMIN_TOKEN the JSON and the feed are closed; what `/metrics` tells holds no
name of a run, an owner or a key. However many look at the picture, the servers are asked once a
second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from plateau_sse.api.accepting import wants_events
from plateau_sse.api.admin import check_admin
from plateau_sse.api.state import State, state_of
from plateau_sse.errors import Problem
from plateau_sse.jsontext import encode
from plateau_sse.live.response import EventStream
from plateau_sse.ops import prometheus
from plateau_sse.ops.overview import overview

FEED_S = 2.0
# Each is a task and a picture every two seconds.
FEEDS_MOST = 20

_FRESH = {"Cache-Control": "no-store"}


async def _picture(state: State) -> dict[str, Any]:
    return overview(await state["watch"].look(), state["settings"], state["host"])


async def admin_metrics(request: Request) -> Response:
    """Everything, as JSON; with `Accept: text/event-stream` anew every two seconds."""
    state = state_of(request.scope)
    await check_admin(request, state)
    if wants_events(request.scope["headers"]):
        if len(state["watch"].feeds) >= FEEDS_MOST:
            raise Problem("too_many_feeds", f"{FEEDS_MOST} are open already; close one.")
        return _Feed(state)
    content = msgspec.json.format(encode(await _picture(state)))
    return Response(content, 200, _FRESH, "application/json")


class _Feed(EventStream):
    """A picture every two seconds, until the client or the worker goes; the first comes with
    `history`, the last ten minutes as this worker has seen them."""

    def __init__(self, state: State) -> None:
        # Not cut off when the worker goes, but given the time to end.
        super().__init__(self._pictures(), shutdown_grace_period=FEED_S)
        self._state = state
        self._feeds = state["watch"].feeds
        self._feeds.add(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._feeds.discard(self)

    async def _pictures(self) -> AsyncIterator[ServerSentEvent]:
        hub, leaving = self._state["hub"], asyncio.Event()
        more: dict[str, Any] = {"history": self._state["history"].told()}
        hub.waiting.add(leaving)
        try:
            while not hub.draining:
                picture = encode(await _picture(self._state) | more).decode()
                more = {}
                yield ServerSentEvent(picture, retry=2000, sep="\n")
                with suppress(TimeoutError):
                    async with asyncio.timeout(FEED_S):
                        await leaving.wait()
        finally:
            hub.waiting.discard(leaving)


async def metrics(request: Request) -> Response:
    """For Prometheus. As it is now: another worker may have answered a moment ago, and no
    counter may be behind what it said."""
    state = state_of(request.scope)
    seen = await state["watch"].look(within_s=0)
    settings = state["settings"]
    memory = overview(seen, settings, state["host"])["memory"]
    content = prometheus.exposition(seen, memory, settings.stream_max_memory)
    return Response(content, 200, {**_FRESH, "Content-Type": prometheus.CONTENT_TYPE})


routes = [
    Route("/api/admin/metrics", admin_metrics, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
