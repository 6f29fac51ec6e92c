"""Appending to a run from outside: `POST /v1/runs/{id}/events`, for producers in any language.

Invariant: an array is appended whole or not at all; the script numbers the events, whatever
worker takes them, and recognises a repeat by its `first_seq`.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import jsontext
from plateau_sse.api.bodies import invalid, read_body
from plateau_sse.api.posted import (
    Cancelled,
    Completed,
    ExternalEvent,
    Failed,
    batch_of,
    made_of,
)
from plateau_sse.api.requests import run_id_of
from plateau_sse.api.runs import absent, other_release, own_outline
from plateau_sse.api.state import State, state_of
from plateau_sse.errors import Problem, StoreError
from plateau_sse.intake import refusals
from plateau_sse.owners import account_of
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.appending import Appended
from plateau_sse.store.runs.streams import EXTERNAL


async def append(request: Request) -> Response:
    run_id = run_id_of(request)
    state = state_of(request.scope)
    # A run's token reads; to write one must be its owner.
    owner = (await state["access"].caller(request, "runs:create")).owner
    first_seq = _first_seq(request.query_params.get("first_seq"))
    batch = batch_of(await read_body(request))
    if ids.HIT_ID.fullmatch(run_id):
        raise Problem("run_finished", "The answer came from the cache: it takes no events.")
    # Without what was said: that would be read anew with each token.
    run = await own_outline(state, run_id, token="", owner=owner)
    if run.agent != EXTERNAL:
        raise Problem("not_external", "Only runs of the agent `external` take events.")
    if run.attempt == 0 and run.ended_ms is None:
        # Whoever was told its id was told that it is on: the store has lost that it began.
        await state["streams"].begin(run_id, 1, EXTERNAL, EXTERNAL, in_doubt=True)
        run = await own_outline(state, run_id, token="", owner=owner)
    made = made_of(batch, run.now_ms - (run.started_ms or run.now_ms))
    if any(len(event.data) > events.MARK_BYTES for event in made):
        raise Problem("too_large", f"An event may have {events.MARK_BYTES} bytes.")
    last = batch[-1] if batch else None
    output = last.output if isinstance(last, Completed) else None
    if output is not None and len(output.encode()) > events.TAPE_BYTES:
        raise _too_large()
    # An end is the end of what it takes.
    if made and not isinstance(last, Completed | Cancelled | Failed):
        await _check_share(state, owner, sum(len(event.data) for event in made))
    send = partial(
        state["streams"].append_external,
        run_id,
        batch=made,
        first_seq=first_seq,
        output=output,
        # All there is of it: that it began, and its end.
        briefly=run.at <= 1 and len(made) == 1 and output is None,
    )
    appended = await send(attempt=run.attempt)
    if appended.code == "fenced":
        # Somebody else's append has begun another since it was looked at.
        appended = await send(attempt=appended.attempt)
    if appended.code == "ok":
        _count_end(state, last)
        if isinstance(last, Completed | Cancelled | Failed):
            await _make_room(state, run_id)
    return _answer(appended, run_id, len(batch), first_seq, state)


async def _check_share(state: State, owner: str, size: int) -> None:
    """Raises Problem where the owner's answers take more than they may."""
    spoken = state["spoken"]
    if spoken is not None and not await spoken.has_room(account_of(owner), size):
        raise refusals.owner_answers()


async def _make_room(state: State, run_id: str) -> None:
    """For another external run. Should it fail: at the limit it is found to have ended."""
    with suppress(StoreError):
        await state["external"].forget(run_id)


def _count_end(state: State, last: ExternalEvent | None) -> None:
    if isinstance(last, Completed):
        state["stats"].count_end(
            EXTERNAL, "completed", None if last.usage is None else last.usage.known()
        )
    elif isinstance(last, Cancelled):
        state["stats"].count_end(EXTERNAL, "cancelled")
    elif isinstance(last, Failed):
        state["stats"].count_end(EXTERNAL, last.code)


def _first_seq(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 9 and int(text) > 1):
        raise invalid(
            "first_seq",
            "The number of the first event: 2 for the first that you send, since "
            "`run.started` is 1; then `next_seq`.",
        )
    return int(text)


def _answer(
    appended: Appended, run_id: str, count: int, first_seq: int, state: State
) -> Response:
    code, attempt, seq, parts = appended
    if code in ("ok", "dup"):
        first = first_seq or seq - count + 1
        content = {
            "id": run_id,
            "attempt": attempt,
            "first_seq": first,
            "last_seq": first + count - 1,
            "next_seq": seq + 1,
            "duplicate": code == "dup",
        }
        return Response(jsontext.encode(content), media_type="application/json")
    if code == "gap":
        raise Problem(
            "sequence_gap",
            f"The next event is number {seq + 1}: send again from there.",
            extra={"expected_seq": seq + 1},
        )
    if code == "full":
        raise _too_large()
    if code == "part":
        raise invalid(
            "part",
            f"The next part is number {parts}; only the open one goes on, and `continues` is "
            "the number of an earlier one.",
        )
    if code == "version":
        raise other_release()
    if code == "gone":
        raise absent(run_id, state)
    raise Problem("run_finished", f"The run has ended with event {seq}.")


def _too_large() -> Problem:
    return Problem(
        "output_too_large",
        "An answer may have 256 KiB of text and thoughts, as much of other events, and "
        f"{events.POINTS_MOST} of these and of parts together.",
    )


# GET is dispatched ahead of it: it is here for what other methods are told.
routes = [Route("/v1/runs/{run_id}/events", append, methods=["GET", "POST"])]
