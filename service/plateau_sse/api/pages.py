"""The pages and the client module, read once and served from memory; what is large and seldom
looked at is sent from disk.

Invariant: the pages load nothing from elsewhere, and have no inline code nor styles; the policy
says so. Their links are relative: whatever path they are served under stays.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# Swagger UI's style sheet holds its icons.
DOCS_POLICY = POLICY.replace("img-src 'self'", "img-src 'self' data:")
# As released, so that its files need not be read to be told apart.
SWAGGER_UI = "5.35.0"

Serve = Callable[[Request], Awaitable[Response]]


class Page(NamedTuple):
    file: str
    media_type: str
    summary: str


PAGES = {
    "/": Page("index.html", "text/html", "A page to try it on"),
    "/page.css": Page("page.css", "text/css", "Its style"),
    "/page.js": Page("page.js", "text/javascript", "Its script"),
    "/talk.js": Page("talk.js", "text/javascript", "A conversation on it"),
    "/turn.js": Page("turn.js", "text/javascript", "A question and its answer"),
    "/answer.js": Page("answer.js", "text/javascript", "An answer on it"),
    "/markdown.js": Page("markdown.js", "text/javascript", "Its Markdown"),
    "/requests.js": Page("requests.js", "text/javascript", "What an agent asks of a person"),
    "/history.js": Page("history.js", "text/javascript", "What was asked before"),
    "/snippets.js": Page("snippets.js", "text/javascript", "The same from your code"),
    "/asking.js": Page("asking.js", "text/javascript", "How it asks"),
    "/log.js": Page("log.js", "text/javascript", "Its log of events"),
    "/smd.js": Page(
        "vendor/streaming-markdown/smd.min.js", "text/javascript", "A parser of Markdown"
    ),
    "/client.js": Page("client.js", "text/javascript", "`follow` and `fold`"),
    "/conversation.js": Page("conversation.js", "text/javascript", "A conversation upon it"),
    "/ops": Page("ops.html", "text/html", "A live page for operators"),
    "/ops.css": Page("ops.css", "text/css", "Its style"),
    "/ops.js": Page("ops.js", "text/javascript", "Its script"),
    "/figures.js": Page("figures.js", "text/javascript", "Its figures"),
    "/live.js": Page("live.js", "text/javascript", "Its runs that are on"),
    "/chart.js": Page("chart.js", "text/javascript", "Its charts"),
    "/docs": Page("docs.html", "text/html", "This document, to be read and tried"),
    "/docs.css": Page("docs.css", "text/css", "Its style"),
    "/docs.js": Page("docs.js", "text/javascript", "Its script"),
    "/icon.svg": Page("icon.svg", "image/svg+xml", "The icon"),
}
FROM_DISK = {
    f"/docs/{file}": Page(file, media_type, summary)
    for file, media_type, summary in (
        ("swagger-ui.css", "text/css", "The style of Swagger UI"),
        ("swagger-ui-bundle.js", "text/javascript", "Swagger UI"),
    )
}
VENDORED = Path(str(files("plateau_sse.web").joinpath("vendor/swagger-ui")))


def _headers(tag: str, policy: str = POLICY) -> dict[str, str]:
    return {
        "Cache-Control": "no-cache",
        "ETag": tag,
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": policy,
    }


def _has(request: Request, tag: str) -> bool:
    """Whether the client has it: a proxy that compresses makes tags weak, and there may be more
    of them (RFC 9110, 13.1.2)."""
    known = request.headers.get("if-none-match", "").split(",")
    return any(one.strip().removeprefix("W/") in (tag, "*") for one in known)


def _from_memory(page: Page) -> Serve:
    content = files("plateau_sse.web").joinpath(page.file).read_bytes()
    tag = f'"{blake2b(content, digest_size=8).hexdigest()}"'
    headers = _headers(tag, DOCS_POLICY if page.file == "docs.html" else POLICY)
    if page.file == "client.js":
        # Pages of other origins import it; it holds no secret.
        headers["Access-Control-Allow-Origin"] = "*"
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"

    async def serve(request: Request) -> Response:
        if _has(request, tag):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=page.media_type)

    return serve


class _WholeFile(FileResponse):
    """Without ranges: nobody needs a part of a script."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [pair for pair in scope["headers"] if pair[0] != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)


def _from_disk(page: Page) -> Serve:
    path = VENDORED / page.file
    tag = f'"swagger-ui-{SWAGGER_UI}"'
    headers = _headers(tag) | {"Accept-Ranges": "none"}

    async def serve(request: Request) -> Response:
        if _has(request, tag):
            return Response(status_code=304, headers=headers)
        # A megabyte and a half, a piece at a time: no worker keeps it.
        return _WholeFile(path, headers=headers, media_type=page.media_type)

    return serve


routes = [
    *(Route(path, _from_memory(page), methods=["GET"]) for path, page in PAGES.items()),
    *(Route(path, _from_disk(page), methods=["GET"]) for path, page in FROM_DISK.items()),
]
