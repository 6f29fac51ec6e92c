"""`GET /openapi.json`: the spec of what exists.

Invariant: a worker that is never asked for it holds nothing of it; what depends on who asks is
`servers` alone.
"""

from __future__ import annotations

from functools import cache

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import __version__, jsontext
from plateau_sse.api.prefix import url_of

_TAGS = {
    "runs": "Ask, follow, look up, cancel; and append, where the agent is a program of yours.",
    "conversations": "What is remembered under one id.",
    "dialects": "The same for clients that speak another protocol: docs/clients.md.",
    "health": "For whoever restarts the service, or sends it traffic.",
    "operators": "What it uses, and what to change. `ADMIN_TOKEN` opens it.",
    "pages": "The pages that the service shows in a browser, and what they are made of.",
}
_ABOUT = """Agent answers as streams of server-sent events, which a stock `EventSource` leaves \
and rejoins without losing or repeating a character.

Errors are `application/problem+json` with a stable `code`. URLs in answers are to be resolved \
against the one that was asked at. Without `API_KEYS` the service serves its own machine, and \
nobody needs a key."""


@cache
def _document() -> bytes:
    """All of it but `servers`, without its first brace."""
    # Half a megabyte of Python objects, which most workers never need.
    from plateau_sse.api.spec.operation import KEY
    from plateau_sse.api.spec.operations import paths
    from plateau_sse.api.spec.schemas import schemas

    bearer = {"type": "http", "scheme": "bearer"}
    content = {
        "info": {
            "title": "Plateau",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "security": KEY,
        "paths": paths(),
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "key": bearer
                | {"description": "A key, or a user's token (JWT): docs/tokens.md."},
                "run": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "token",
                    "description": "A run's own token, as in its `events_url`.",
                },
                "admin": bearer | {"description": "The service's `ADMIN_TOKEN`."},
            },
        },
    }
    return jsontext.encode(content)[1:]


async def openapi(request: Request) -> Response:
    # Never kept by prefix: a hop may name any number of them.
    server = url_of(request.scope, "").encode() or b"/"
    content = b'{"openapi":"3.1.0","servers":[{"url":"%b"}],%b' % (server, _document())
    return Response(
        content, headers={"Cache-Control": "no-cache"}, media_type="application/json"
    )


routes = [Route("/openapi.json", openapi, methods=["GET"])]
