"""What is dispatched ahead of all middleware: event streams and documents that may be large,
since nothing may wrap their `send`, and the asking for a run: routing and wrapping would be a
quarter of a hit.

Invariant: on `/events` only what is permanent is a status; a passing fault is 200, `retry:` and
the end of the response, since `EventSource` never comes back from anything else.
"""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from plateau_sse.api import conversation_events, conversations, hits, problems
from plateau_sse.api.accepting import wants_events
from plateau_sse.api.bodies import read_body
from plateau_sse.api.cors import Cors
from plateau_sse.api.opening import Manner, NoRoom, check_seats, follow, replay
from plateau_sse.api.patience import PatientResponse
from plateau_sse.api.requests import check_run_id, request_id_of, seen_of
from plateau_sse.api.runs import (
    create,
    links_of,
    look_up,
    run_url_of,
    take,
    taken_headers,
)
from plateau_sse.api.state import State, state_of
from plateau_sse.api.surfaces import Surfaces
from plateau_sse.dialects.native import wanted
from plateau_sse.errors import Problem, StoreError
from plateau_sse.live.paced import PacedResponse
from plateau_sse.live.response import LiveResponse, come_back_later, send_at_once
from plateau_sse.store.runs import ids

log = logging.getLogger("plateau.api")

# No run's: whatever was seen under it is another answer.
_NO_TAG = "-"
_PREFIX, _SUFFIX = "/v1/runs/", "/events"
# Driven from here, for as long as their readers stay.
_DRIVEN = LiveResponse | PacedResponse | conversation_events.Conversed
# By where they are: what a route calls the rest of the path, and what answers.
_DOCUMENTS = {
    _PREFIX: ("run_id", look_up),
    "/v1/conversations/": ("conversation_id", conversations.show),
}


def _wants(method: str, path: str) -> bool:
    """Whether a request is one of these; a preflight never is."""
    if conversation_events.is_at(path):
        return method != "OPTIONS"
    if _is_stream(path):
        # To append to a run is no stream, and has a route.
        return method not in ("OPTIONS", "POST")
    if method in ("GET", "HEAD"):
        return _document_at(path) is not None
    return method == "POST" and path == "/v1/runs"


def _is_stream(path: str) -> bool:
    """A conversation may be called `events`."""
    of_a_run = path.startswith(_PREFIX) and path.endswith(_SUFFIX)
    return of_a_run or conversation_events.is_at(path)


def _document_at(path: str) -> str | None:
    """The entry of `_DOCUMENTS` that this is the path of one of."""
    for prefix in _DOCUMENTS:
        if path.startswith(prefix):
            rest = path[len(prefix) :]
            return prefix if rest and "/" not in rest else None
    return None


class Direct:
    """The ASGI application of these routes."""

    def __init__(self, cors: Cors, surfaces: Surfaces) -> None:
        self._cors = cors
        self._surfaces = surfaces

    def wants(self, scope: Scope) -> bool:
        """Whether a request is answered here."""
        method, path = scope["method"], scope["path"]
        return _wants(method, path) or self._surfaces.handler(method, path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        response = await self._respond(scope, receive)
        if response.status_code < 400:
            scope["state"]["guard"].served += 1
        if isinstance(response, _DRIVEN) and scope["method"] != "HEAD":
            # This frame stays for as long as the reader does; the response need not.
            driven = await response.begin(send)
            on_left = None
            if isinstance(response, LiveResponse):
                on_left = response.on_left
                # Nor what it was made of: a browser's headers are a kilobyte, in a list of
                # uvicorn's and one of Starlette's.
                for used in (headers, scope["headers"], scope["state"]):
                    used.clear()
            del response
            if await driven.run(receive) and on_left is not None:
                await on_left()
        elif isinstance(response, problems.LingeringResponse | PatientResponse):
            await response(scope, receive, send)
        else:
            await send_at_once(response, scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        headers = self._cors.headers_for(scope)
        request = Request(scope, receive)
        state = state_of(scope)
        try:
            if scope["path"] == "/v1/runs":
                if wants_events(scope["headers"]):
                    return await _create(request, state, headers)
                return await create(request, headers)
            if handler := self._surfaces.handler(scope["method"], scope["path"]):
                return await handler(request, state, headers)
            if not _is_stream(scope["path"]):
                return await _document(request, headers)
            is_conversation = conversation_events.is_at(scope["path"])
            if scope["method"] not in ("GET", "HEAD"):
                if is_conversation:
                    raise Problem(
                        "method_not_allowed",
                        "Follow it with GET.",
                        headers={"Allow": "GET, HEAD"},
                    )
                raise Problem(
                    "method_not_allowed",
                    "Follow it with GET, append to it with POST.",
                    headers={"Allow": "GET, HEAD, POST"},
                )
            if is_conversation:
                return await _converse(request, state, headers)
            return await _resume(request, state, headers)
        except Exception as error:
            response = self._failed(error, scope)
            response.headers.update(headers)
            return response

    def _failed(self, error: Exception, scope: Scope) -> Response:
        problem = problems.of(error)
        problems.note(scope, error, problem)
        if self._surfaces.is_at(scope["path"]):
            return self._surfaces.refuse(problem, scope)
        return _refused(problem, scope)


def _refused(problem: Problem, scope: Scope) -> Response:
    if problem.status >= 500 and _is_stream(scope["path"]):
        # Whatever it was: a reader that is told 500 never comes back.
        return come_back_later()
    return problems.respond(problem, request_id_of(scope))


async def _document(request: Request, headers: dict[str, str]) -> Response:
    path: str = request.scope["path"]
    prefix = _document_at(path)
    assert prefix is not None
    name, answer = _DOCUMENTS[prefix]
    request.scope["path_params"] = {name: path[len(prefix) :]}
    response = await answer(request)
    response.headers.update(headers)
    return response


async def _create(request: Request, state: State, headers: dict[str, str]) -> Response:
    """`POST /v1/runs` whose answer is the stream itself. Some clients send it again, with the
    id of the last event that they saw, where others would come back with a GET."""
    seen = seen_of(request.headers.get("last-event-id"))
    caller = await state["access"].caller(request, "runs:create")
    check_seats(state, caller.owner)
    taken, ask = await take(request, state, caller, await read_body(request))
    run_url = run_url_of(request.scope, taken.run_id)
    headers |= taken_headers(request.scope, taken, ask.mode, run_url)
    # With the token that this stream is rejoined with: clients follow the one or the other.
    headers["Location"] = links_of(run_url, taken.token)["events_url"]
    headers["Content-Location"] = headers["Location"]
    manner = Manner(wanted(request.query_params), headers, until_s=caller.until_s)
    if seen.number and not (seen.tag or taken.is_repeat or taken.how == "joined"):
        # Without a tag it would be taken as this answer's, which nobody has seen yet.
        seen = seen._replace(tag=_NO_TAG)
    if taken.answer is not None:
        key = hits.key_of(taken.run_id)
        return replay(state, taken.run_id, key, taken.answer, seen, manner)
    try:
        return await follow(state, taken.run_id, seen, taken.token, "", manner)
    except Problem:
        raise
    except NoRoom as error:
        return come_back_later(headers, times=error.times)
    except Exception as error:
        # The run is on its way: who is told so comes back to it, and does not ask again.
        if isinstance(error, StoreError):
            log.warning("a stream met a store that failed: %s", error)
        else:
            log.exception("a stream could not be opened", extra={"request": ask.request_id})
        return come_back_later(headers)


async def _converse(request: Request, state: State, headers: dict[str, str]) -> Response:
    try:
        return await conversation_events.resume(request, state, headers)
    except NoRoom as error:
        return come_back_later(headers, times=error.times)


async def _resume(request: Request, state: State, headers: dict[str, str]) -> Response:
    run_id = request.scope["path"][len(_PREFIX) : -len(_SUFFIX)]
    check_run_id(run_id)
    token = request.query_params.get("token", "")
    caller = await state["access"].reader(request, token)
    owner = caller.owner
    query = request.query_params
    seen = seen_of(
        request.headers.get("last-event-id"),
        query.get("last_event_id"),
        # What polyfills call it, which cannot set headers.
        query.get("lastEventId"),
    )
    manner = Manner(wanted(request.query_params), headers, until_s=caller.until_s)
    if ids.HIT_ID.fullmatch(run_id):
        answer = await hits.find(state["cache"], run_id, token=token, owner=owner)
        return replay(state, run_id, hits.key_of(run_id), answer, seen, manner)
    try:
        return await follow(state, run_id, seen, "" if owner else token, owner, manner)
    except NoRoom as error:
        return come_back_later(headers, times=error.times)
