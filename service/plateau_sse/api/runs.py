"""Runs over HTTP: create, look up, cancel. The event streams are in events.py.

Invariant: a run that a client was told of is in the queue or in the cache.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from plateau_sse import jsontext
from plateau_sse.api import hits
from plateau_sse.api.access import Caller
from plateau_sse.api.bodies import read_body
from plateau_sse.api.conversation_links import events_url
from plateau_sse.api.prefix import url_of
from plateau_sse.api.requests import (
    cache_mode_of,
    check_run_id,
    idempotency_key_of,
    parse_run,
    request_id_of,
    run_id_of,
    wait_of,
)
from plateau_sse.api.state import State, state_of, traceparent_of
from plateau_sse.errors import Problem, StoreError
from plateau_sse.intake.ask import Ask, Mode, Taken
from plateau_sse.live.paced import paced
from plateau_sse.live.waiting import until_ended
from plateau_sse.owners import sees
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.looks import OtherRelease
from plateau_sse.store.runs.records import Outline, Record
from plateau_sse.store.runs.shares import Denied

Found = TypeVar("Found", Record, Outline)

CANCEL_REASON = "requested"
_NO_STORE = {"Cache-Control": "no-store"}


async def take(
    request: Request, state: State, caller: Caller, content: bytes
) -> tuple[Taken, Ask]:
    """Validate and take on the run of a `POST /v1/runs` with this body."""
    body = parse_run(content)
    ask = Ask(
        agent=body.agent,
        owner=caller.owner,
        user=caller.speaks_for(body.user),
        messages=body.exchange(),
        options=body.all_options(),
        mode=cache_mode_of(body.cache.mode, request.headers.getlist("cache-control")),
        ttl_s=body.cache.ttl_s,
        idempotency_key=idempotency_key_of(request.headers.get("idempotency-key")),
        conversation_id=body.conversation_id or "",
        request_id=request_id_of(request.scope),
        traceparent=traceparent_of(request, state),
    )
    return await state["intake"].take(ask), ask


def taken_headers(scope: Scope, taken: Taken, mode: Mode, run_url: str) -> dict[str, str]:
    """`X-Cache`, its RFC 9211 sibling, and where the run is."""
    headers = {
        "Location": run_url,
        "Cache-Control": "no-store",
        "X-Cache": taken.how,
        "X-Request-ID": request_id_of(scope),
    }
    if taken.answer is not None:
        headers["Cache-Status"] = "plateau; hit"
        headers["Age"] = str(hits.age_s(taken.answer))
    else:
        forwarded = {"use": "miss", "refresh": "request", "off": "bypass"}[mode]
        collapsed = "; collapsed" if taken.how == "joined" else ""
        headers["Cache-Status"] = f"plateau; fwd={forwarded}{collapsed}"
    return headers


def run_url_of(scope: Scope, run_id: str) -> str:
    """Where a run is, to be resolved against the URL asked at."""
    return url_of(scope, f"/v1/runs/{run_id}")


def links_of(run_url: str, token: str) -> dict[str, str]:
    """The URLs of a run that its token opens."""
    return {
        "events_url": f"{run_url}/events?token={token}",
        "cancel_url": f"{run_url}/cancel?token={token}",
    }


async def create(request: Request, cors_headers: dict[str, str]) -> Response:
    """`POST /v1/runs` whose answer is a document; dispatched ahead of the routes below."""
    state = state_of(request.scope)
    scope = request.scope
    caller = await state["access"].caller(request, "runs:create")
    body = await read_body(request)
    # What is said holds URLs.
    where = url_of(scope, "/v1/runs")
    repeat = await state["repeats"].find(scope, caller, where, body)
    if repeat is not None:
        run_url = run_url_of(scope, repeat.taken.run_id)
        headers = cors_headers | taken_headers(scope, repeat.taken, "use", run_url)
        return _document(repeat.content, 200, headers)
    known = state["repeats"].known
    taken, ask = await take(request, state, caller, body)
    run_url = run_url_of(scope, taken.run_id)
    headers = cors_headers | taken_headers(scope, taken, ask.mode, run_url)
    links: dict[str, Any] = {**links_of(run_url, taken.token)}
    if ask.place:
        url = await events_url(state, scope, caller, ask.place, ask.conversation_id)
        links |= {} if url is None else {"conversation_events_url": url}
    if taken.answer is not None:
        key = hits.key_of(taken.run_id)
        response = _hit(state, taken.run_id, key, taken.answer, links, headers)
        state["repeats"].keep(scope, caller, where, body, ask, taken, response, known)
        return response
    # Whoever waits for the end of the run holds no more than is needed.
    del body
    status = taken.status
    wait_s = wait_of(", ".join(request.headers.getlist("prefer")))
    if wait_s is not None:
        if caller.until_s is not None:
            # Nobody is told anything for a token that has ended meanwhile.
            wait_s = max(0, min(wait_s, int(caller.until_s - time.time())))
        if not state["guard"].takes_wait(state["hub"].following):
            # It is answered all the same, and can be followed once there is room.
            wait_s = 0
        headers["Preference-Applied"] = f"wait={wait_s}"
        # The run is on its way: a store that fails now ends the waiting, not the run.
        with suppress(StoreError):
            if wait_s:
                await until_ended(state["hub"], taken.run_id, timeout_s=wait_s)
            record = await state["streams"].record(taken.run_id)
            if record is not None and record.ended_ms is not None:
                return _ended(state, taken.run_id, record, links, headers)
            status = status if record is None else record.status
    accepted = {"id": taken.run_id, "status": status, "agent": ask.agent, "cached": False}
    if ask.is_external and not taken.is_repeat:
        # What its producer sends comes behind `run.started`.
        links |= {"next_seq": 2}
    return _json(accepted | links, 202, headers)


async def look_up(request: Request) -> Response:
    """`GET /v1/runs/{id}`, dispatched ahead of the routes as well."""
    run_id = run_id_of(request)
    state = state_of(request.scope)
    token = request.query_params.get("token", "")
    owner = (await state["access"].reader(request, token)).owner
    if ids.HIT_ID.fullmatch(run_id):
        answer = await hits.find(state["cache"], run_id, token=token, owner=owner)
        return _hit(state, run_id, hits.key_of(run_id), answer, {}, dict(_NO_STORE))
    record = await own_record(state, run_id, token=token, owner=owner)
    if record is None:
        key, answer = await late(state, run_id, token=token, owner=owner)
        return _hit(state, run_id, key, answer, {}, dict(_NO_STORE))
    if record.ended_ms is None:
        return _json(shown(run_id, record), 200, dict(_NO_STORE))
    return _ended(state, run_id, record, {}, dict(_NO_STORE))


async def cancel(request: Request) -> Response:
    run_id = run_id_of(request)
    state = state_of(request.scope)
    token = request.query_params.get("token", "")
    owner = (await state["access"].reader(request, token, "runs:create")).owner
    if ids.HIT_ID.fullmatch(run_id):
        await hits.find(state["cache"], run_id, token=token, owner=owner)
        raise Problem("run_finished", "The answer came from the cache: nothing to cancel.")
    status = await ask_to_end(state, run_id, token=token, owner=owner)
    if status in ("completed", "failed"):
        raise Problem("run_finished", f"The run has {status} already.")
    code = 200 if status == "cancelled" else 202
    return _json({"id": run_id, "status": status}, code, dict(_NO_STORE))


async def ask_to_end(
    state: State, run_id: str, *, token: str, owner: str, reason: str = CANCEL_REASON
) -> str:
    """Give up the caller's share of a run, or all of it where the owner asks: the status that
    it has then. Raises Problem where it is not the caller's, or gone, and StoreError."""
    run = await own_outline(state, run_id, token=token, owner=owner)
    shared = 0
    if token and not owner and run.ended_ms is None:
        shared = await state["shares"].give_up(run_id, token, reason)
    status = run.status
    if not shared:
        # Otherwise it goes on for those who have not given it up.
        status = await state["placement"].cancel(run_id, run.agent, run.owner, reason)
    if status == "gone":
        raise absent(run_id, state)
    return status


async def own_outline(state: State, run_id: str, *, token: str, owner: str) -> Outline:
    """How far the run is, for who may see it; else a Problem."""
    asked = state["streams"].outline(run_id, "" if owner else token)
    outline = await owned(asked, owner)
    if outline is None:
        raise absent(run_id, state)
    return outline


async def own_record(state: State, run_id: str, *, token: str, owner: str) -> Record | None:
    """The run's record, for who may see it, else a Problem; None where there is none."""
    return await owned(state["streams"].record(run_id, "" if owner else token), owner)


async def run_of(state: State, run_id: str, owner: str) -> dict[str, Any]:
    """A run, or a cached answer, as its owner sees it; else a Problem. Raises StoreError."""
    if ids.HIT_ID.fullmatch(run_id):
        found = await hits.find(state["cache"], run_id, token="", owner=owner)
        return hits.record(run_id, found)
    record = await own_record(state, run_id, token="", owner=owner)
    if record is not None:
        return shown(run_id, record)
    _, answer = await late(state, run_id, token="", owner=owner)
    return hits.record(run_id, answer)


async def owned(asked: Awaitable[Found | None], owner: str) -> Found | None:
    """What was asked for, for who may see it, else a Problem; None where there is none."""
    try:
        found = await asked
    except Denied:
        raise Problem("invalid_token", "The token is not this run's.") from None
    except OtherRelease:
        raise other_release() from None
    if found is not None and owner and not sees(found.owner, owner):
        raise Problem("run_not_found", "There is no such run.")
    return found


async def late(state: State, run_id: str, *, token: str, owner: str) -> tuple[str, Answer]:
    """The answer of a run whose record has gone, and its entry's key, for who could see the
    record; else a Problem. Raises StoreError, as `hits.find` does."""
    check_run_id(run_id)
    found = await state["cache"].of_run(run_id, token=token, owner=owner)
    if found is None:
        raise absent(run_id, state)
    return found


def other_release() -> Problem:
    return Problem(
        "other_release",
        "This run is one of another release of Plateau, which keeps runs in another form: ask "
        "again.",
    )


def absent(run_id: str, state: State) -> Problem:
    """An id as old as a record's life has expired; a younger one was never ours."""
    check_run_id(run_id)
    if ids.age_s(run_id) > state["settings"].stream_ttl_s:
        life_s = state["settings"].stream_ttl_s
        return Problem("run_expired", f"Records are kept for {life_s} s after the end.")
    return Problem("run_not_found", "There is no such run.")


def _hit(
    state: State,
    run_id: str,
    key: str,
    answer: Answer,
    links: dict[str, str],
    headers: dict[str, str],
) -> Response:
    def say(found: Answer) -> bytes:
        return jsontext.encode(hits.record(run_id, found) | links)

    whole = _document(say(answer), 200, headers)
    return paced(whole, hits.again(state["cache"], key, answer, say), state["pacer"])


def _ended(
    state: State, run_id: str, record: Record, links: dict[str, str], headers: dict[str, str]
) -> Response:
    """What has ended stays as it is for as long as it is kept."""
    streams = state["streams"]

    async def make() -> bytes | None:
        found = await streams.record(run_id)
        return None if found is None else jsontext.encode(shown(run_id, found) | links)

    content = jsontext.encode(shown(run_id, record) | links)
    return paced(_document(content, 200, headers), make, state["pacer"])


def shown(run_id: str, record: Record) -> dict[str, Any]:
    """A record as clients see it: times in seconds since the epoch. One that has not ended has
    no parts: who wants them as they come follows its events, a piece at a time."""

    def seconds(at_ms: int | None) -> float | None:
        return None if at_ms is None else at_ms / 1000

    duration_ms = None
    if record.started_ms is not None and record.ended_ms is not None:
        duration_ms = record.ended_ms - record.started_ms
    return {
        "id": run_id,
        "status": record.status,
        "agent": record.agent,
        "attempt": record.attempt,
        "cached": False,
        "output": record.output,
        "error": record.error,
        "parts": None if record.ended_ms is None else record.parts,
        "finish_reason": record.finish_reason,
        "usage": record.usage,
        "model": record.model,
        "created_at": seconds(record.created_ms),
        "started_at": seconds(record.started_ms),
        "ended_at": seconds(record.ended_ms),
        "duration_ms": duration_ms,
    }


def _json(content: Any, status: int, headers: dict[str, str]) -> Response:
    return _document(jsontext.encode(content), status, headers)


def _document(content: bytes, status: int, headers: dict[str, str]) -> Response:
    return Response(content, status, headers, "application/json")


routes = [
    Route("/v1/runs/{run_id}", look_up, methods=["GET"]),
    Route("/v1/runs/{run_id}/cancel", cancel, methods=["POST"]),
]
