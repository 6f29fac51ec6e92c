"""What only operators may do.

Invariant: without ADMIN_TOKEN all of it is closed; the token is compared in constant time and
never logged.
"""

from __future__ import annotations

import hmac

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import jsontext
from plateau_sse.api.bodies import invalid
from plateau_sse.api.requests import AGENT_CHARS
from plateau_sse.api.state import State, state_of
from plateau_sse.errors import Problem


async def check_admin(request: Request, state: State) -> None:
    """A Problem for whoever has not sent ADMIN_TOKEN, as Bearer or as `admin_token`."""
    if not state["settings"].admin_token:
        raise Problem("admin_closed", "Set ADMIN_TOKEN to open it.")
    if not await is_admin(request, state):
        raise Problem("unauthorized", "Send ADMIN_TOKEN as 'Authorization: Bearer <token>'.")


async def is_admin(request: Request, state: State) -> bool:
    """Whether ADMIN_TOKEN came along; False where there is none. A wrong one may be held up."""
    expected = state["settings"].admin_token
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        sent = request.query_params.get("admin_token", "")
    if not expected or not sent.strip():
        return False
    is_right = hmac.compare_digest(sent.strip().encode(), expected.encode())
    if not is_right:
        await state["access"].wrong(request)
    return is_right


async def clear_cache(request: Request) -> Response:
    """Forget all cached answers, or those of `?agent=`."""
    state = state_of(request.scope)
    await check_admin(request, state)
    agent = request.query_params.get("agent")
    if agent is not None and not 0 < len(agent) <= AGENT_CHARS:
        raise invalid("agent", f"Between 1 and {AGENT_CHARS} characters.")
    deleted = await state["cache"].clear(agent)
    content = jsontext.encode({"deleted": deleted, "agent": agent})
    return Response(content, 200, {"Cache-Control": "no-store"}, "application/json")


routes = [Route("/api/admin/cache", clear_cache, methods=["DELETE"])]
