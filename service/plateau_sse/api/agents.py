"""Agents over HTTP: which can be asked.

Invariant: what a client may know of an agent is what changes how it asks; where the agent's
code is stays with whoever runs it.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import jsontext
from plateau_sse.api.state import state_of
from plateau_sse.owners import scope_of
from plateau_sse.store.queue.announcements import Announced


async def agents(request: Request) -> Response:
    state = state_of(request.scope)
    await state["access"].caller(request, None)
    found = await state["intake"].agents()
    content = {"agents": [_shown(name, found[name]) for name in sorted(found)]}
    headers = {"Cache-Control": "no-store"}
    return Response(jsontext.encode(content), 200, headers, "application/json")


def _shown(name: str, agent: Announced) -> dict[str, Any]:
    about = agent.about
    return {
        "name": name,
        "version": agent.version,
        "kind": about.kind,
        "cache": about.cache,
        "cache_scope": scope_of(agent.version),
        "memory": about.memory,
        "max_steps": about.max_steps,
        "attempts": about.attempts,
        "timeout_s": about.timeout_s,
        "input_bytes": about.input_bytes,
    }


routes = [Route("/v1/agents", agents, methods=["GET"])]
