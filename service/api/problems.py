"""Errors as RFC 9457 problem documents.

Invariant: nothing that a client sends ends in a 500, and whatever ends in one says nothing of
what is inside.
"""

from __future__ import annotations

import logging

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.requests import request_id_of
from service.errors import Problem, StoreError, StoreFull

log = logging.getLogger("plateau.api")

# What Starlette itself raises.
_BY_STATUS = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


def respond(problem: Problem, request_id: str) -> Response:
    headers = {**problem.headers, "X-Request-ID": request_id}
    if problem.status == 401:
        # RFC 9110, 15.5.2 asks for it.
        headers = {"WWW-Authenticate": "Bearer", **headers}
    return Response(
        msgspec.json.encode(problem.document()),
        problem.status,
        headers,
        "application/problem+json",
    )


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


async def handle(request: Request, error: Exception) -> Response:
    """Starlette's exception handler."""
    request_id = request_id_of(request.scope)
    if isinstance(error, StoreError):
        logged = {"request": request_id}
        log.warning("a request met a store that failed: %s", error, extra=logged)
    return respond(of(error), request_id)
