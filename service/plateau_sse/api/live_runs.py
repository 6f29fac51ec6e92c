"""Runs that are on, whoever owns them: operators find them, and end them.

Invariant: what is asked in a run, and what it says, is not told here; of those that are on and
those that wait `LOOKED_AT` each are looked at, the longest first.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import jsontext
from plateau_sse.api.admin import check_admin
from plateau_sse.api.bodies import invalid
from plateau_sse.api.requests import check_run_id
from plateau_sse.api.runs import absent
from plateau_sse.api.state import state_of
from plateau_sse.errors import Problem
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.records import Outline

LOOKED_AT, SHOWN_MOST, FIND_CHARS = 1000, 100, 100
REASON = "operator"
_AT_ONCE = 200


async def live_runs(request: Request) -> Response:
    """With `?find=` those whose id, agent or owner has that in it."""
    state = state_of(request.scope)
    await check_admin(request, state)
    find = request.query_params.get("find", "").strip().lower()
    if len(find) > FIND_CHARS:
        raise invalid("find", f"At most {FIND_CHARS} characters.")
    found = await state["placement"].live(LOOKED_AT)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(found), _AT_ONCE):
        some = found[start : start + _AT_ONCE]
        outlines = await state["streams"].outlines(some)
        for run_id, run in zip(some, outlines, strict=True):
            if run is not None and run.ended_ms is None and _has(find, run_id, run):
                rows.append(_row(run_id, run))
    rows.sort(key=lambda row: -(row["running_s"] or 0.0))
    content = {"runs": rows[:SHOWN_MOST], "more": max(0, len(rows) - SHOWN_MOST)}
    return _json(content, 200)


def _has(find: str, run_id: str, run: Outline) -> bool:
    return any(find in one.lower() for one in (run_id, run.agent, run.owner))


def _row(run_id: str, run: Outline) -> dict[str, Any]:
    since = run.started_ms
    return {
        "id": run_id,
        "agent": run.agent,
        "owner": run.owner,
        "status": run.status,
        "attempt": run.attempt,
        "running_s": None if since is None else max(0.0, (run.now_ms - since) / 1000),
    }


async def cancel(request: Request) -> Response:
    state = state_of(request.scope)
    await check_admin(request, state)
    run_id: str = request.path_params["run_id"]
    check_run_id(run_id)
    if ids.HIT_ID.fullmatch(run_id):
        raise Problem("run_finished", "The answer came from the cache: nothing to cancel.")
    (run,) = await state["streams"].outlines([run_id])
    if run is None:
        raise absent(run_id, state)
    status = await state["placement"].cancel(run_id, run.agent, run.owner, REASON)
    if status == "gone":
        raise absent(run_id, state)
    if status in ("completed", "failed"):
        raise Problem("run_finished", f"The run has {status} already.")
    return _json({"id": run_id, "status": status}, 200 if status == "cancelled" else 202)


def _json(content: Any, code: int) -> Response:
    body = jsontext.encode(content)
    return Response(body, code, {"Cache-Control": "no-store"}, "application/json")


routes = [
    Route("/api/admin/runs", live_runs, methods=["GET"]),
    Route("/api/admin/runs/{run_id}/cancel", cancel, methods=["POST"]),
]
