"""What the lifespan opens and every request can reach.

Invariant: routes take their parts from here and from nowhere else.
"""

from __future__ import annotations

from typing import TypedDict, cast

from starlette.types import Scope

from service.api.access import Access
from service.live.hub import Hub
from service.ops.health import Health
from service.ops.watch import Watch
from service.runs.queue import Intake
from service.settings import Settings
from service.store.cache import Cache
from service.store.conversations import Conversations
from service.store.shares import Shares
from service.store.stats import Stats
from service.store.streams import Streams


class State(TypedDict):
    settings: Settings
    access: Access
    streams: Streams
    shares: Shares
    cache: Cache
    conversations: Conversations
    hub: Hub
    intake: Intake
    health: Health
    watch: Watch
    stats: Stats
    host: str


def state_of(scope: Scope) -> State:
    return cast(State, scope["state"])
