"""Health over HTTP.

Invariant: `/health/live` touches nothing but this process; `/health/ready` fails as soon as
traffic must go elsewhere; `/health` tells everything and fails only when the service is down.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import jsontext
from plateau_sse.api.state import state_of

_FRESH = {"Cache-Control": "no-store"}


def _answer(content: object, status: int) -> Response:
    return Response(jsontext.encode(content), status, _FRESH, "application/json")


async def whole(request: Request) -> Response:
    report = await state_of(request.scope)["health"].whole()
    return _answer(report, 503 if report["status"] == "down" else 200)


async def live(_: Request) -> Response:
    return _answer({"status": "up"}, 200)


async def ready(request: Request) -> Response:
    report = await state_of(request.scope)["health"].ready()
    return _answer(report, 200 if report["status"] == "up" else 503)


routes = [
    Route("/health", whole, methods=["GET"]),
    Route("/health/live", live, methods=["GET"]),
    Route("/health/ready", ready, methods=["GET"]),
]
