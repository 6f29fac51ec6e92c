"""What is dispatched ahead of all middleware: event streams and documents that may be large,
since nothing may wrap their `send`, and the asking for a run: routing and wrapping would be a
quarter of a hit.

Invariant: on `/events` only what is permanent is a status; a passing fault is 200, `retry:` and
the end of the response, since `EventSource` never comes back from anything else.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from plateau_sse.api import conversations, hits, problems
from plateau_sse.api.accepting import wants_events
from plateau_sse.api.cors import Cors
from plateau_sse.api.requests import check_run_id, request_id_of, seen_of
from plateau_sse.api.runs import (
    create,
    late,
    links_of,
    look_up,
    other_release,
    run_url_of,
    take,
    taken_headers,
)
from plateau_sse.api.state import State, state_of
from plateau_sse.errors import Problem, StoreError
from plateau_sse.live import sse
from plateau_sse.live.paced import PacedResponse, paced
from plateau_sse.live.response import (
    LiveResponse,
    WholeResponse,
    come_back_later,
    send_at_once,
)
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.shares import Denied
from plateau_sse.store.runs.streams import OtherRelease

log = logging.getLogger("plateau.api")

# No run's: whatever was seen under it is another answer.
_NO_TAG = "-"
_PREFIX, _SUFFIX = "/v1/runs/", "/events"
# By where they are: what a route calls the rest of the path, and what answers.
_DOCUMENTS = {
    _PREFIX: ("run_id", look_up),
    "/v1/conversations/": ("conversation_id", conversations.show),
}


def wants(scope: Scope) -> bool:
    """Whether a request is one of these; a preflight never is."""
    path: str = scope["path"]
    method: str = scope["method"]
    if path.startswith(_PREFIX) and path.endswith(_SUFFIX):
        # To append to a run is no stream, and has a route.
        return method not in ("OPTIONS", "POST")
    if method in ("GET", "HEAD"):
        return _document_at(path) is not None
    return method == "POST" and path == "/v1/runs"


def _document_at(path: str) -> str | None:
    """The entry of `_DOCUMENTS` that this is the path of one of."""
    for prefix in _DOCUMENTS:
        if path.startswith(prefix):
            rest = path[len(prefix) :]
            return prefix if rest and "/" not in rest else None
    return None


class Manner(NamedTuple):
    """How the client that asked is told a run: with `event:` lines or without, and under which
    headers."""

    named: bool
    headers: dict[str, str]


class Direct:
    """The ASGI application of these routes."""

    def __init__(self, cors: Cors) -> None:
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        response = await self._respond(scope, receive)
        if isinstance(response, LiveResponse | PacedResponse) and scope["method"] != "HEAD":
            # This frame stays for as long as the reader does; the response need not.
            driven = await response.begin(send)
            if isinstance(response, LiveResponse):
                # Nor what it was made of: a browser's headers are a kilobyte, in a list of
                # uvicorn's and one of Starlette's.
                for used in (headers, scope["headers"], scope["state"]):
                    used.clear()
            del response
            await driven.run(receive)
        elif isinstance(response, problems.LingeringResponse):
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
            if not scope["path"].endswith(_SUFFIX):
                return await _document(request, headers)
            if scope["method"] not in ("GET", "HEAD"):
                raise Problem(
                    "method_not_allowed",
                    "Follow it with GET, append to it with POST.",
                    headers={"Allow": "GET, HEAD, POST"},
                )
            return await _resume(request, state, headers)
        except Exception as error:
            response = _failed(error, scope)
            response.headers.update(headers)
            return response


def _failed(error: Exception, scope: Scope) -> Response:
    logged = {"request": request_id_of(scope)}
    problem = problems.of(error)
    if isinstance(error, StoreError):
        log.warning("a request met a store that failed: %s", error, extra=logged)
    elif problem.status == 500:
        log.exception("a request failed", extra=logged)
    if problem.status >= 500 and scope["path"].endswith(_SUFFIX):
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
    taken, ask = await take(request, state)
    run_url = run_url_of(request.scope, taken.run_id)
    headers |= taken_headers(taken, ask, run_url)
    # With the token that this stream is rejoined with: clients follow the one or the other.
    headers["Location"] = links_of(run_url, taken.token)["events_url"]
    headers["Content-Location"] = headers["Location"]
    manner = Manner(_named(request), headers)
    if taken.answer is not None:
        key = hits.key_of(taken.run_id)
        return _replay(state, taken.run_id, key, taken.answer, seen, manner)
    if seen.number and not (seen.tag or taken.is_repeat or taken.how == "joined"):
        # Without a tag it would be taken as this run's, which nobody has seen yet.
        seen = seen._replace(tag=_NO_TAG)
    try:
        return await _open(state, taken.run_id, seen, taken.token, "", manner)
    except Problem:
        raise
    except Exception as error:
        # The run is on its way: who is told so comes back to it, and does not ask again.
        if isinstance(error, StoreError):
            log.warning("a stream met a store that failed: %s", error)
        else:
            log.exception("a stream could not be opened", extra={"request": ask.request_id})
        return come_back_later(headers)


async def _resume(request: Request, state: State, headers: dict[str, str]) -> Response:
    run_id = request.scope["path"][len(_PREFIX) : -len(_SUFFIX)]
    check_run_id(run_id)
    token = request.query_params.get("token", "")
    owner = state["access"].reader(request.headers, token)
    query = request.query_params
    seen = seen_of(
        request.headers.get("last-event-id"),
        query.get("last_event_id"),
        # What polyfills call it, which cannot set headers.
        query.get("lastEventId"),
    )
    manner = Manner(_named(request), headers)
    if ids.HIT_ID.fullmatch(run_id):
        answer = await hits.find(state["cache"], run_id, token=token, owner=owner)
        return _replay(state, run_id, hits.key_of(run_id), answer, seen, manner)
    return await _open(state, run_id, seen, "" if owner else token, owner, manner)


def _named(request: Request) -> bool:
    return request.query_params.get("event_names") == "1"


def _replay(
    state: State, run_id: str, key: str, answer: Answer, seen: ids.Seen, manner: Manner
) -> Response:
    named, retry = manner.named, sse.retry()

    def say(found: Answer) -> bytes:
        return retry + hits.frames(run_id, found, seen, named=named)

    content = say(answer)
    if len(content) == len(retry):
        return Response(status_code=204, headers=manner.headers)
    make = hits.again(state["cache"], key, answer, say)
    return paced(WholeResponse(content, manner.headers), make, state["pacer"])


async def _open(
    state: State, run_id: str, seen: ids.Seen, token: str, owner: str, manner: Manner
) -> Response:
    """Subscribe, then read: what the reading lacks will come as messages."""
    hub, streams = state["hub"], state["streams"]
    if hub.draining:
        return come_back_later(manner.headers)
    is_other = seen.tag not in ("", ids.tag_of(run_id))
    position = 0 if is_other else seen.number
    feed = await hub.join(run_id)
    try:
        try:
            reading = await streams.read(run_id, position, token)
        except Denied:
            raise Problem("invalid_token", "The token is not this run's.") from None
        except OtherRelease:
            raise other_release() from None
        if reading is not None and owner and reading.owner != owner:
            raise Problem("run_not_found", "There is no such run.")
    except BaseException:
        hub.part(feed)
        raise
    if reading is None:
        hub.part(feed)
        key, answer = await late(state, run_id, token=token, owner=owner)
        return _replay(state, run_id, key, answer, seen, manner)
    if is_other:
        reading = reading.begun_anew()
    elif reading.ended and reading.is_whole and not reading.entries and not reading.restarts:
        hub.part(feed)
        return Response(status_code=204, headers=manner.headers)
    return LiveResponse(
        hub,
        streams,
        feed,
        reading,
        position=position,
        named=manner.named,
        headers=manner.headers,
    )
