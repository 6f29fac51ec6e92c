"""What the lifespan opens and every request can reach.

Invariant: routes take their parts from here and from nowhere else.
"""

from __future__ import annotations

from typing import TypedDict, cast

from starlette.types import Scope

from plateau_sse.api.access import Access
from plateau_sse.intake.intake import Intake
from plateau_sse.live.hub import Hub
from plateau_sse.live.paced import Pacer
from plateau_sse.ops.health import Health
from plateau_sse.ops.watch import Watch
from plateau_sse.settings import Settings
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.conversations.conversations import Conversations
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.streams import Streams


class State(TypedDict):
    settings: Settings
    access: Access
    streams: Streams
    shares: Shares
    cache: Cache
    conversations: Conversations
    external: External
    hub: Hub
    pacer: Pacer
    intake: Intake
    health: Health
    watch: Watch
    stats: Stats
    host: str


def state_of(scope: Scope) -> State:
    return cast(State, scope["state"])
