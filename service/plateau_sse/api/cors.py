"""CORS, for pages on other origins.

Invariant: one set of rules for all routes, errors included: as middleware for most of them, as
plain headers for the event streams, whose `send` nothing may wrap.
"""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Scope

from plateau_sse.settings import Settings

EXPOSED = (
    "X-Cache",
    "Cache-Status",
    "Location",
    # Of an answer that is the stream itself: where it is rejoined, with its token.
    "Content-Location",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "WWW-Authenticate",
    "Preference-Applied",
    # Of OpenAI's packages: what is read as none would be asked again.
    "X-Should-Retry",
    "Age",
    "X-Request-ID",
    # Of the dialects, whose answers say nothing of the run.
    "X-Plateau-Run",
    "Link",
    "X-Vercel-AI-UI-Message-Stream",
)
LOOPBACK = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


class Cors(CORSMiddleware):
    """Explicit origins; loopback ones, too, where there are no keys."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(
            app,
            allow_origins=settings.allowed_origins,
            allow_origin_regex=LOOPBACK if settings.is_keyless else None,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            # Whatever is asked for: tracing and SDKs add headers of their own, and what a page
            # may do is decided by its origin and its key.
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=EXPOSED,
            max_age=3600,
        )

    def headers_for(self, scope: Scope) -> dict[str, str]:
        """What a response to this request carries; empty where the origin is not allowed."""
        for name, value in scope["headers"]:
            if name == b"origin":
                origin = value.decode("latin-1")
                if not self.is_allowed_origin(origin):
                    return {}
                return {
                    "Access-Control-Allow-Origin": origin,
                    "Access-Control-Expose-Headers": ", ".join(EXPOSED),
                    "Vary": "Origin",
                }
        return {}
