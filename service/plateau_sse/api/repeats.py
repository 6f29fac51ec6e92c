"""Questions that are asked again word for word, with what was said to whoever asked last.

Invariant: what is kept here spares work and decides nothing. Who may ask was looked at before;
which agents there are, and whether the answer still stands in the cache, is asked each time.
All of it is bounded in bytes, and each question goes a minute after it was asked last.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from plateau_sse.api import hits
from plateau_sse.api.access import Caller
from plateau_sse.intake.ask import Ask, Taken
from plateau_sse.intake.intake import Intake
from plateau_sse.live.paced import PacedResponse
from plateau_sse.store.answers import packing
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.announcements import Announced
from plateau_sse.tracing import Tracing

# In a worker: bodies, what was said to them, and what it takes to keep one.
KEPT_BYTES = 256 * 1024
EACH_BYTES = 2 * 1024
BODY_BYTES = 8 * 1024
LIFE_S = 60.0
# Headers that change what is asked.
_ASKING = frozenset((b"cache-control", b"idempotency-key"))

# Where, by whom and for whom it was asked; the body.
_Key = tuple[str, str, str, bytes]


@dataclass(slots=True)
class Repeat:
    """A question whose answer was in the cache: `content` is what was said, `taken`, without
    its text, what the headers are made of. `agents` are those by whose names it was understood,
    None where there was none of the name; `mark` is the answer's under `cache_key`."""

    agents: Sequence[tuple[str, Announced | None]]
    taken: Taken
    cache_key: str
    mark: bytes
    content: bytes
    asked_at: float

    def is_understood(self, known: Mapping[str, Announced]) -> bool:
        return all(known.get(name) == announced for name, announced in self.agents)


class Repeats:
    """One a worker, made in its loop. Where requests are traced nothing is kept: each has a
    trace of its own."""

    def __init__(
        self, intake: Intake, cache: Cache, stats: Stats, tracing: Tracing | None
    ) -> None:
        self._intake = intake
        self._cache = cache
        self._stats = stats
        self._is_on = tracing is None
        self._loop = asyncio.get_running_loop()
        # What was asked last stands last.
        self._kept: OrderedDict[_Key, Repeat] = OrderedDict()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    async def find(
        self, scope: Scope, caller: Caller, where: str, body: bytes
    ) -> Repeat | None:
        """What is to be said once more; None where it has to be found out. `where` is the path,
        or the URL where that is part of what is said. Raises as asking does."""
        if not self._kept or len(body) > BODY_BYTES or _asks_otherwise(scope):
            return None
        key = (where, caller.owner, caller.user, body)
        repeat = self._kept.get(key)
        if repeat is None:
            return None
        found = False
        if repeat.is_understood(await self._intake.agents()):
            found = await self._cache.holds(repeat.cache_key, repeat.mark)
        # Another request may have dropped it meanwhile, or kept another.
        is_there = self._kept.get(key) is repeat
        if not found:
            if is_there:
                self._drop(key)
            return None
        self._stats.count("cache_hits")
        if is_there:
            repeat.asked_at = self._loop.time()
            self._kept.move_to_end(key)
        return repeat

    @property
    def known(self) -> Mapping[str, Announced]:
        """The agents by which what is asked now will be understood."""
        return self._intake.known

    def keep(
        self,
        scope: Scope,
        caller: Caller,
        where: str,
        body: bytes,
        ask: Ask,
        taken: Taken,
        response: Response,
        known: Mapping[str, Announced],
        *names: str,
    ) -> None:
        """What was said to this body, where it would be said again. `known` is what `known` was
        before it was understood; `names` are those in it that agents may have, beside the one
        that was asked."""
        if taken.answer is None or not self._may_keep(ask, body) or _asks_otherwise(scope):
            return
        if isinstance(response, PacedResponse):
            # Too large.
            return
        agent = known.get(ask.agent)
        if known is not self.known or agent is None:
            # Whether it was understood by these or by others nobody knows any more.
            return
        if not agent.about.cache or agent.about.memory:
            return
        content = bytes(response.body)
        key = (where, caller.owner, caller.user, body)
        self._drop(key)
        bare = msgspec.structs.replace(
            taken.answer, text=b"", points=(), output=None, usage=None, model=None
        )
        self._kept[key] = Repeat(
            agents=[(name, known.get(name)) for name in dict.fromkeys((*names, ask.agent))],
            taken=taken._replace(answer=bare),
            cache_key=hits.key_of(taken.run_id),
            mark=packing.mark_of(taken.answer),
            content=content,
            asked_at=self._loop.time(),
        )
        self._bytes += _size(key, content)
        while self._bytes > KEPT_BYTES:
            self._drop(next(iter(self._kept)))
        if self._timer is None:
            self._timer = self._loop.call_later(LIFE_S, self._forget)

    def _may_keep(self, ask: Ask, body: bytes) -> bool:
        is_alone = ask.mode == "use" and not (ask.conversation_id or ask.thread)
        return self._is_on and is_alone and len(body) <= BODY_BYTES

    def _drop(self, key: _Key) -> None:
        repeat = self._kept.pop(key, None)
        if repeat is not None:
            self._bytes -= _size(key, repeat.content)

    def _forget(self) -> None:
        """What has not been asked for so long."""
        self._timer = None
        while self._kept:
            key, oldest = next(iter(self._kept.items()))
            due_at = oldest.asked_at + LIFE_S
            if self._loop.time() < due_at:
                self._timer = self._loop.call_at(due_at, self._forget)
                return
            self._drop(key)


def _size(key: _Key, content: bytes) -> int:
    return EACH_BYTES + sum(map(len, key)) + len(content)


def _asks_otherwise(scope: Scope) -> bool:
    return any(name in _ASKING for name, _ in scope["headers"])
