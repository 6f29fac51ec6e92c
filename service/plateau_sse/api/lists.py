"""`GET /v1/runs` and `GET /v1/conversations`: what an owner has asked for lately, in pages.

Invariant: the latest first; a page is as long as was asked for unless it is the last, and
`next` is the URL of the one behind it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import jsontext
from plateau_sse.api.bodies import invalid
from plateau_sse.api.prefix import url_of
from plateau_sse.api.requests import (
    check_conversation_id,
    place_for,
    user_of,
)
from plateau_sse.api.state import State, state_of
from plateau_sse.owners import account_of
from plateau_sse.store.conversations.listed import ListedRun
from plateau_sse.store.runs.records import Status

PAGE, PAGE_MOST = 20, 100
STATUSES = get_args(Status)
# Asked for at once, of which some may be of another status.
_CHUNK = 100
_MS = re.compile(r"[0-9]{1,15}")


async def runs(request: Request) -> Response:
    state, query = state_of(request.scope), request.query_params
    caller = await state["access"].caller(request, "runs:read")
    status, agent = query.get("status", ""), query.get("agent", "")
    if status and status not in STATUSES:
        raise invalid("status", f"One of {', '.join(STATUSES)}.")
    place, conversation_id = "", query.get("conversation_id", "")
    if conversation_id:
        check_conversation_id(conversation_id)
        place = place_for(request, caller, conversation_id)
    limit = _limit(request)
    found = await state["listed"].runs(caller.owner)
    found = found[_next_at(request, [(run.run_id, run.asked_ms) for run in found]) :]
    wanted = [run for run in found if agent in ("", run.agent) and place in ("", run.place)]
    rows = await _of_status(state, wanted, status, limit + 1)
    content: dict[str, Any] = {"runs": rows[:limit], "next": None}
    if len(rows) > limit:
        last = rows[limit - 1]
        content["next"] = _next(request, "/v1/runs", last["id"], last["asked_at"])
    return _json(content)


async def conversations(request: Request) -> Response:
    state = state_of(request.scope)
    caller = await state["access"].caller(request, "conversations")
    account, user = account_of(caller.owner), user_of(request, caller)
    limit = _limit(request)
    found = await state["listed"].conversations(account, user)
    rest = found[_next_at(request, [(one.id, one.asked_ms) for one in found]) :]
    page = rest[:limit]
    questions = await state["listed"].questions(account, user, [one.id for one in page])
    content: dict[str, Any] = {
        "conversations": [
            {"id": one.id, "asked_at": one.asked_ms / 1000, "question": question}
            for one, question in zip(page, questions, strict=True)
        ],
        "next": None,
    }
    if len(rest) > limit:
        last = page[-1]
        content["next"] = _next(request, "/v1/conversations", last.id, last.asked_ms / 1000)
    return _json(content)


def _next_at(request: Request, found: Sequence[tuple[str, int]]) -> int:
    """Where the page begins, in ids with the ms of their asking. The last of the page before
    may have gone since, or have been asked in again and stand before what was shown: then its
    time counts."""
    before = request.query_params.get("before", "")
    if not before:
        return 0
    given = request.query_params.get("asked_before", "")
    asked_ms = int(given) if _MS.fullmatch(given) else None
    for at, (name, ms) in enumerate(found):
        if name == before and asked_ms in (None, ms):
            return at + 1
    older = (at for at, (_, ms) in enumerate(found) if asked_ms is not None and ms < asked_ms)
    return next(older, len(found))


async def _of_status(
    state: State, runs: Sequence[ListedRun], status: str, most: int
) -> list[dict[str, Any]]:
    """Of what is there still; who shares a run in two conversations has it twice in the list,
    and once here."""
    rows: dict[str, dict[str, Any]] = {}
    for start in range(0, len(runs), _CHUNK):
        some = runs[start : start + _CHUNK]
        statuses = await state["streams"].statuses([run.run_id for run in some])
        for run, found in zip(some, statuses, strict=True):
            if found is None or status not in ("", found) or run.run_id in rows:
                continue
            rows[run.run_id] = {
                "id": run.run_id,
                "status": found,
                "agent": run.agent,
                "conversation_id": run.conversation_id or None,
                "asked_at": run.asked_ms / 1000,
            }
            if len(rows) == most:
                return list(rows.values())
    return list(rows.values())


def _limit(request: Request) -> int:
    given = request.query_params.get("limit", str(PAGE))
    is_number = given.isascii() and given.isdigit() and len(given) <= len(str(PAGE_MOST))
    if not (is_number and 1 <= int(given) <= PAGE_MOST):
        raise invalid("limit", f"Between 1 and {PAGE_MOST}.")
    return int(given)


def _next(request: Request, path: str, before: str, asked_at: float) -> str:
    asked_ms = round(asked_at * 1000)
    asked = {**request.query_params, "before": before, "asked_before": asked_ms}
    return f"{url_of(request.scope, path)}?{urlencode(asked)}"


def _json(content: Any) -> Response:
    body = jsontext.encode(content)
    return Response(body, 200, {"Cache-Control": "no-store"}, "application/json")


routes = [
    # A POST is dispatched ahead of the routes.
    Route("/v1/runs", runs, methods=["GET", "POST"]),
    Route("/v1/conversations", conversations, methods=["GET"]),
]
