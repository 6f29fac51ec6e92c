"""The prefix that a proxy serves us under: `/ai` where its `/ai/v1/runs` is our `/v1/runs`.

Invariant: every URL that is handed out is made by `url_of`, so that it leads back through the
proxy. A prefix is what the operator says (ROOT_PATH), or a hop that the operator trusts
(FORWARDED_ALLOW_IPS), never what a client says; and what a path means depends on ROOT_PATH
alone, on no header.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from plateau_sse.api.hops import is_trusted
from plateau_sse.api.state import state_of
from plateau_sse.settings import Settings
from plateau_sse.values import path_prefix

_HEADER = b"x-forwarded-prefix"


def url_of(scope: Scope, path: str) -> str:
    """`path`, which begins with a slash, as whoever sent this request reaches it."""
    settings = state_of(scope)["settings"]
    told = None
    for name, value in scope["headers"]:
        if name == _HEADER:
            told = value
    if told is None:
        return settings.root_path + path
    return _prefix_of(scope, told, settings) + path


def _prefix_of(scope: Scope, told: bytes, settings: Settings) -> str:
    # The nearest hop alone is known, and what it adds comes last: the rest may be a client's.
    text = told.rpartition(b",")[2].decode("latin-1").strip(" \t")
    if text and is_trusted(scope, settings):
        try:
            return path_prefix(text)
        except ValueError:
            pass
    return settings.root_path


class Entrance:
    """Takes ROOT_PATH off the paths that a proxy has left it on."""

    def __init__(self, root_path: str, routes: Sequence[Route]) -> None:
        self._root = root_path
        self._under = f"{root_path}/"
        # Under a root such as /api, a path may be one of ours as it stands.
        first = self._under.split("/")[1]
        self._is_clear = all(route.path.split("/")[1] != first for route in routes)
        self._routes = routes

    def take_off(self, scope: Scope) -> Response | None:
        """Makes the path ours; what is returned is the answer already: to the root without its
        slash, where the pages' relative links would lead beside it."""
        path: str = scope["path"]
        if path == self._root:
            if self._is_clear or not self._leads(scope, path):
                query = scope["query_string"].decode("latin-1")
                location = url_of(scope, "/") + (f"?{query}" if query else "")
                return Response(status_code=308, headers={"Location": location})
        elif path.startswith(self._under):
            rest = path[len(self._root) :]
            if self._is_clear or self._leads(scope, rest):
                scope["path"] = rest
        return None

    def _leads(self, scope: Scope, path: str) -> bool:
        """Whether something is there, by whatever method."""
        there = {**scope, "path": path}
        return any(route.matches(there)[0] is not Match.NONE for route in self._routes)
