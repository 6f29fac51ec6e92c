"""What OpenAI's routes have in common: a document that is waited for, and refusals.

Invariant: whatever goes wrong is told as the packages read it, with a status and a header that
say whether to ask again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from plateau_sse import jsontext
from plateau_sse.api import problems
from plateau_sse.api.patience import PatientResponse
from plateau_sse.api.runs import other_release, shown
from plateau_sse.api.state import State
from plateau_sse.dialects import openai_errors
from plateau_sse.dialects.chat_completions import refusal_of
from plateau_sse.errors import Problem, StoreError
from plateau_sse.intake.ask import Taken
from plateau_sse.live.waiting import until_ended
from plateau_sse.store.runs.looks import OtherRelease

_LOST = {"code": "record_lost", "message": "The store lost this answer.", "retryable": True}

# The document of a run that has completed, from what `GET /v1/runs/{id}` shows of it.
Say = Callable[[Mapping[str, Any]], dict[str, Any]]


def document_of(
    request: Request,
    state: State,
    taken: Taken,
    say: Say,
    on_left: Callable[[], Awaitable[None]] | None,
    headers: dict[str, str],
) -> Response:
    """Once the run has ended; a refusal where it has not completed."""

    async def wait(timeout_s: float) -> None:
        await until_ended(state["hub"], taken.run_id, timeout_s=timeout_s)

    async def find() -> Response | None:
        try:
            record = await state["streams"].record(taken.run_id)
        except OtherRelease:
            return refused(_of(other_release()), headers)
        except StoreError:
            return None
        if record is None:
            return refused(refusal_of(_LOST), headers)
        if record.ended_ms is None:
            return None
        run = shown(taken.run_id, record)
        if run["error"] is not None:
            return refused(refusal_of(run["error"]), headers)
        return Response(jsontext.encode(say(run)), 200, headers, "application/json")

    return PatientResponse(
        wait,
        find,
        partial(leaving, headers),
        lambda: state["hub"].draining,
        on_left,
        state["pacer"],
        headers,
    )


def leaving(headers: dict[str, str]) -> Response:
    """Whoever asks again goes on with the run that there is."""
    return busy(headers, ": ask again, and the same answer goes on.")


def busy(headers: dict[str, str], what: str = ": ask again.") -> Response:
    refusal = openai_errors.of_problem("busy", 503, f"No room here for now{what}", "")
    return refused(refusal, headers | {"Retry-After": "1"})


def refused(refusal: openai_errors.Refusal, headers: dict[str, str]) -> Response:
    content = jsontext.encode({"error": refusal.error})
    own = dict(refusal.headers)
    if refusal.may_retry and "Retry-After" not in headers:
        own["Retry-After"] = str(_again_s(refusal))
    return Response(content, refusal.status, headers | own, "application/json")


def _again_s(refusal: openai_errors.Refusal) -> int:
    """In how many seconds another try may do better."""
    if refusal.status == 429:
        return 5
    return 30 if refusal.error["code"] == "store_full" else 2


def _of(problem: Problem) -> openai_errors.Refusal:
    field = problem.extra.get("field", "")
    return openai_errors.of_problem(problem.code, problem.status, problem.detail, field)


def refuse(problem: Problem, request_id: str) -> Response:
    """A problem, in the shape that these packages read."""
    refusal = _of(problem)
    content = jsontext.encode({"error": refusal.error})
    return problems.shaped(
        problem,
        request_id,
        refusal.status,
        content,
        "application/json",
        refusal.headers,
    )
