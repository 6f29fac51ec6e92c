"""What the lifespan opens and every request can reach.

Invariant: routes take their parts from here and from nowhere else.
"""

from __future__ import annotations

from typing import TypedDict, cast

from starlette.requests import Request
from starlette.types import Scope

from plateau_sse.api.access import Access
from plateau_sse.api.repeats import Repeats
from plateau_sse.intake.intake import Intake
from plateau_sse.intake.placement import Placement
from plateau_sse.live.guard import Guard
from plateau_sse.live.hub import Hub
from plateau_sse.live.paced import Pacer
from plateau_sse.live.seats import Seats
from plateau_sse.ops.health import Health
from plateau_sse.ops.history import History
from plateau_sse.ops.watch import Watch
from plateau_sse.settings import Settings
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.conversations.chats import Chats
from plateau_sse.store.conversations.conversations import Conversations
from plateau_sse.store.conversations.listed import Listed
from plateau_sse.store.conversations.openers import Openers
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.spoken import Spoken
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.streams import Streams
from plateau_sse.tracing import Tracing


class State(TypedDict):
    settings: Settings
    access: Access
    streams: Streams
    shares: Shares
    cache: Cache
    conversations: Conversations
    openers: Openers
    listed: Listed
    chats: Chats
    external: External
    hub: Hub
    guard: Guard
    seats: Seats | None
    spoken: Spoken | None
    pacer: Pacer
    intake: Intake
    repeats: Repeats
    placement: Placement
    health: Health
    watch: Watch
    history: History
    stats: Stats
    tracing: Tracing | None
    host: str


def traceparent_of(request: Request, state: State) -> str:
    """Of the trace that this request belongs to; '' for none, or where nothing is traced."""
    return request.headers.get("traceparent", "") if state["tracing"] else ""


def state_of(scope: Scope) -> State:
    return cast(State, scope["state"])
