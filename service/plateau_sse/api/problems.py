"""Errors as RFC 9457 problem documents.

Invariant: nothing that a client sends ends in a 500, and whatever ends in one says nothing of
what is inside.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from plateau_sse import jsontext
from plateau_sse.api.requests import request_id_of
from plateau_sse.api.state import state_of
from plateau_sse.errors import Problem, StoreError, StoreFull

log = logging.getLogger("plateau.api")

# What a client may take to send what is not read.
LINGER_S = 5.0

# What Starlette itself raises.
_BY_STATUS = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


class LingeringResponse(Response):
    """For a request that is not read to its end: whole at once, and its connection closed when
    the client has sent the rest, or after a while. Closed with bytes unread, the kernel would
    reset it, and what was answered may never be seen (RFC 9112, 9.6)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                # Nothing of it is kept.
                while (await receive()).get("more_body"):
                    continue
        await send({"type": "http.response.body", "body": b""})


def respond(problem: Problem, request_id: str) -> Response:
    content = jsontext.encode(problem.document())
    return shaped(problem, request_id, problem.status, content, "application/problem+json")


def shaped(
    problem: Problem,
    request_id: str,
    status: int,
    content: bytes,
    media_type: str,
    more: Mapping[str, str] | None = None,
) -> Response:
    """The problem in the shape of a dialect, under the headers that any has, and `more`."""
    # RFC 9110 lets caches keep what is not found, or gone.
    own = {"Cache-Control": "no-store", "X-Request-ID": request_id}
    headers = {**problem.headers, **(more or {}), **own}
    if status == 401:
        # RFC 9110, 15.5.2 asks for it.
        headers = {"WWW-Authenticate": "Bearer", **headers}
    kind = Response if problem.headers.get("Connection") != "close" else LingeringResponse
    return kind(content, status, headers, media_type)


def of(error: Exception) -> Problem:
    """The problem that an error is to a client."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, StoreFull):
        return Problem(
            "store_full", "Try again when runs have expired.", headers={"Retry-After": "30"}
        )
    if isinstance(error, StoreError):
        return Problem(
            "store_unavailable", "Try again in a moment.", headers={"Retry-After": "2"}
        )
    if isinstance(error, HTTPException) and error.status_code in _BY_STATUS:
        return Problem(
            _BY_STATUS[error.status_code],
            str(error.detail),
            headers=dict(error.headers or {}),
        )
    return Problem("internal_error", "It has been logged; try again.")


def note(scope: Scope, error: Exception, problem: Problem) -> None:
    """Count what a client is told, and log what nobody has thought of, and a store that
    failed."""
    state_of(scope)["stats"].count(f"problems_{problem.code}")
    logged = {"request": request_id_of(scope)}
    if problem.status == 500:
        log.error("a request failed", exc_info=error, extra=logged)
    elif isinstance(error, StoreError):
        log.warning("a request met a store that failed: %s", error, extra=logged)
