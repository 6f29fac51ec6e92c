"""Health over HTTP.

Invariant: `/health/live` touches nothing but this process; `/health/ready` fails as soon as
traffic must go elsewhere; `/health` fails only when the service is down, and tells everything
to whoever has ADMIN_TOKEN, or is at a machine whose service asks nobody for a key; to others
the states of the components.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import jsontext
from plateau_sse.api.admin import is_admin
from plateau_sse.api.state import State, state_of
from plateau_sse.settings import is_loopback

_FRESH = {"Cache-Control": "no-store"}
# One of them is what proxies add.
_PROXIED = ("forwarded", "x-forwarded-for", "x-real-ip", "via", "cf-connecting-ip")


def _answer(content: object, status: int) -> Response:
    return Response(jsontext.encode(content), status, _FRESH, "application/json")


async def whole(request: Request) -> Response:
    state = state_of(request.scope)
    health = state["health"]
    is_open = _is_alone(request, state) or await is_admin(request, state)
    report = await (health.whole() if is_open else health.short())
    return _answer(report, 503 if report["status"] == "down" else 200)


def _is_alone(request: Request, state: State) -> bool:
    """Whether nobody but this machine's own users can ask: by what was set, and by where this
    request came from, since a bare uvicorn listens where it was told to, and a proxy of this
    machine may ask for anybody."""
    settings = state["settings"]
    if not (settings.is_keyless and is_loopback(settings.host)):
        return False
    if any(name in request.headers for name in _PROXIED):
        return False
    return request.client is not None and is_loopback(request.client.host)


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
