"""What a dialect has beside its frames: its routes, and how it tells an error.

Invariant: whatever goes wrong on a dialect's routes is told in its own shape, by whoever finds
it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from plateau_sse.api import problems
from plateau_sse.api.requests import request_id_of
from plateau_sse.api.state import State
from plateau_sse.errors import Problem

# In a request's scope: the error that its client was told of.
TOLD = "plateau.told"

# Answers with the headers that CORS asks for. Raises as routes do.
Handler = Callable[[Request, State, dict[str, str]], Awaitable[Response]]


class Surface(NamedTuple):
    """`prefixes` are where its paths begin. `handler` finds who answers a request ahead of all
    middleware, as streams must be; `routes` are all that there are, those included."""

    prefixes: tuple[str, ...]
    handler: Callable[[str, str], Handler | None]
    refuse: Callable[[Problem, str], Response]
    routes: Sequence[Route]


class Surfaces:
    """All dialects but the native one, as the composition root lists them."""

    def __init__(self, surfaces: Sequence[Surface]) -> None:
        self._surfaces = tuple(surfaces)

    @property
    def routes(self) -> list[Route]:
        return [route for surface in self._surfaces for route in surface.routes]

    def handler(self, method: str, path: str) -> Handler | None:
        surface = self._at(path)
        return None if surface is None else surface.handler(method, path)

    def refuse(self, problem: Problem, scope: Scope) -> Response:
        """The problem as whoever asked here understands it."""
        surface = self._at(scope["path"])
        refuse = problems.respond if surface is None else surface.refuse
        return refuse(problem, request_id_of(scope))

    def is_at(self, path: str) -> bool:
        return self._at(path) is not None

    def _at(self, path: str) -> Surface | None:
        for surface in self._surfaces:
            if path.startswith(surface.prefixes):
                return surface
        return None

    async def handle(self, request: Request, error: Exception) -> Response:
        """Starlette's exception handler. It raises what ends in a 500 once more, for a server
        that would log it; here that is done, with the request's id."""
        problem = problems.of(error)
        problems.note(request.scope, error, problem)
        request.scope[TOLD] = error
        return self.refuse(problem, request.scope)


async def elsewhere(_: Request) -> Response:
    raise AssertionError("dispatched ahead of the routes")
