"""What the requests of all dialects have in common.

Invariant: whatever the dialect, a run is asked for, named and given up in the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from plateau_sse.api.access import Caller
from plateau_sse.api.opening import Manner, NoRoom, Room, follow
from plateau_sse.api.requests import cache_mode_of, idempotency_key_of, request_id_of
from plateau_sse.api.runs import ask_to_end, links_of, run_url_of, taken_headers
from plateau_sse.api.state import State, state_of, traceparent_of
from plateau_sse.errors import Problem, StoreError
from plateau_sse.intake.ask import Ask, Mode, Taken
from plateau_sse.live.protocol import ON_DISCONNECT
from plateau_sse.live.response import LiveResponse
from plateau_sse.store.runs.ids import NOTHING_SEEN

log = logging.getLogger("plateau.api")

_LEFT = "its client has left"
_NO_ROOM = "its client found no room"


def ask_of(
    request: Request,
    agent: str,
    caller: Caller,
    messages: list[dict[str, Any]],
    options: dict[str, Any],
    *,
    user: str = "",
    mode: Mode = "use",
    conversation_id: str = "",
    again: bool = False,
    thread: str = "",
) -> Ask:
    """With what the headers say of it."""
    return Ask(
        agent=agent,
        owner=caller.owner,
        user=caller.speaks_for(user),
        messages=messages,
        options=options,
        mode=cache_mode_of(mode, request.headers.getlist("cache-control")),
        idempotency_key=idempotency_key_of(request.headers.get("idempotency-key")),
        conversation_id=conversation_id,
        again=again,
        request_id=request_id_of(request.scope),
        thread=thread,
        traceparent=traceparent_of(request, state_of(request.scope)),
    )


def run_headers(scope: Scope, taken: Taken, mode: Mode) -> dict[str, str]:
    """Which run it is, where it is found, and where its answer comes from."""
    run_url = run_url_of(scope, taken.run_id)
    headers = taken_headers(scope, taken, mode, run_url)
    # The answer is none of that place's: it is there in another form.
    del headers["Location"]
    links = links_of(run_url, taken.token)
    headers["X-Plateau-Run"] = taken.run_id
    headers["Link"] = (
        f'<{links["events_url"]}>; rel="events", <{links["cancel_url"]}>; rel="cancel"'
    )
    return headers


def cancels_when_left(
    request: Request, state: State, taken: Taken
) -> Callable[[], Awaitable[None]] | None:
    """What is to be done when its client leaves: `X-Plateau-On-Disconnect: cancel` gives its
    share of the run up. As shipped the answer is finished, and kept for the next who asks."""
    said = request.headers.get(ON_DISCONNECT.decode(), "")
    if said.strip().lower() != "cancel":
        return None
    # What a stream was asked with is cleared when it has begun.
    return partial(_give_up, state.copy(), taken.run_id, taken.token, _LEFT)


async def follow_taken(
    request: Request, state: State, taken: Taken, ask: Ask, manner: Manner, room: Room
) -> Response:
    """The stream of a run that was just asked for; raises as `follow`. Whom it has no room for
    after all is refused: the run goes on only if somebody else wants it. Whoever has given it a
    key asks for that run again, and is not to be told that it was cancelled."""
    try:
        response = await follow(
            state, taken.run_id, NOTHING_SEEN, taken.token, "", manner, room
        )
    except (NoRoom, Problem):
        if not ask.idempotency_key:
            await _give_up(state, taken.run_id, taken.token, _NO_ROOM)
        raise
    if isinstance(response, LiveResponse):
        response.on_left = cancels_when_left(request, state, taken)
    return response


async def _give_up(state: State, run_id: str, token: str, reason: str) -> None:
    try:
        await ask_to_end(state, run_id, token=token, owner="", reason=reason)
    except (StoreError, Problem) as error:
        log.info("run %s goes on, though %s: %s", run_id, reason, error)
