"""The pages and the client module, read once and served from memory.

Invariant: the pages load nothing from elsewhere and run no inline code; the policy says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

_PAGES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/answer.js": ("answer.js", "text/javascript"),
    "/client.js": ("client.js", "text/javascript"),
    "/ops": ("ops.html", "text/html"),
    "/ops.css": ("ops.css", "text/css"),
    "/ops.js": ("ops.js", "text/javascript"),
    "/figures.js": ("figures.js", "text/javascript"),
    "/chart.js": ("chart.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def _page(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = files("plateau_sse.web").joinpath(name).read_bytes()
    tag = f'"{blake2b(content, digest_size=8).hexdigest()}"'
    headers = {
        "Cache-Control": "no-cache",
        "ETag": tag,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": POLICY,
    }
    if name == "client.js":
        # Pages of other origins import it; it holds no secret.
        headers["Access-Control-Allow-Origin"] = "*"
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"

    async def serve(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return serve


routes = [Route(path, _page(*page), methods=["GET"]) for path, page in _PAGES.items()]
