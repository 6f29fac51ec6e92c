"""The answer cache: finished, successful answers, compressed, in a bounded Redis.

Invariant: to whoever asks a question, a cache that is down, full or damaged is a miss, never an
error; what comes out is byte for byte what went in.
"""

from __future__ import annotations

import logging
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from plateau_sse.errors import StoreError
from plateau_sse.store.answers import packing, pointers
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.lookups import Lookups
from plateau_sse.store.answers.packing import pack, unpack
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors

log = logging.getLogger("plateau.cache")

# One answer may take a twentieth of the cache, so that no single one empties it.
LARGEST_SHARE = 20
# Keys looked at in one step while the cache is cleared.
CLEARED_AT_ONCE = 500
# Of a key: what stands for the agent, so that its answers can be found; 12 bits will do.
AGENT_CHARS = 2


class Question(NamedTuple):
    """Everything that the answer depends on; equal questions have equal keys."""

    agent: str
    version: str
    owner: str
    user: str
    conversation: str
    messages: list[dict[str, Any]]
    options: dict[str, Any]


def key_of(question: Question) -> str:
    """The agent's tag, then 128 bits over canonical JSON: members sorted at every depth, no
    white space. In base64url: 24 characters, with which Redis fills 32 bytes."""
    canonical = msgspec.json.encode([packing.FORMAT, *question], order="sorted")
    return agent_tag(question.agent) + _base64(blake2b(canonical, digest_size=16).digest())


@lru_cache(maxsize=64)
def agent_tag(agent: str) -> str:
    return _base64(blake2b(agent.encode(), digest_size=2).digest())[:AGENT_CHARS]


def _base64(digest: bytes) -> str:
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


class Cache:
    """`redis` is None where there is no cache: then every lookup is a miss. `lookups` is a
    quicker way to look up, for a process that does little else."""

    def __init__(
        self,
        redis: Redis | None,
        lookups: Lookups | None = None,
        *,
        ttl_s: int,
        max_bytes: int,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._redis: Any = redis
        self._lookups: Any = lookups or redis
        self._count = count
        self._ttl_s = ttl_s
        self._largest = max_bytes // LARGEST_SHARE
        self._down = False

    async def get(self, key: str) -> Answer | None:
        """The answer, or None: absent, evicted, unreadable or out of reach."""
        try:
            return await self.read(key)
        except StoreError:
            return None

    async def read(self, key: str) -> Answer | None:
        """As `get`, for who must know whether it is gone: raises StoreError out of reach."""
        packed = await self._look_up(keys.cache(key))
        return None if packed is None else unpack(packed)

    async def of_run(self, run_id: str, *, token: str, owner: str) -> tuple[str, Answer] | None:
        """The answer that a run left and its key, for its `owner`, or where that is '' for who
        holds one of the run's tokens. Raises StoreError, as `read`."""
        packed = await self._look_up(keys.left_by(run_id))
        if packed is None:
            return None
        pointer = pointers.unpack(packed)
        if not owner and not pointer.opens(token):
            return None
        answer = await self.read(pointer.key)
        if answer is None or not pointer.is_to(answer, run_id):
            return None
        return None if owner and answer.owner != owner else (pointer.key, answer)

    async def _look_up(self, name: str) -> bytes | None:
        if self._redis is None:
            return None
        try:
            with store_errors():
                found: bytes | None = await self._lookups.get(name)
        except StoreError as error:
            self._note(error)
            raise
        self._note(None)
        return found

    async def put(
        self,
        key: str,
        answer: Answer,
        ttl_s: int | None = None,
        *,
        run_id: str = "",
        tokens: Sequence[str] = (),
    ) -> bool:
        """Whether it was stored: not over a twentieth of the cache, and the cache took it. With
        the tokens of the run that left it, it is found by that run's id, too."""
        if self._redis is None:
            return False
        packed, ttl_s = pack(answer), ttl_s or self._ttl_s
        if len(packed) > self._largest:
            self._count("cache_refused")
            log.info("an answer of %d bytes is too large to cache", len(packed))
            return False
        try:
            with store_errors():
                await self._redis.set(keys.cache(key), packed, ex=ttl_s)
                if tokens:
                    pointer = pointers.pack(key, answer, tokens)
                    await self._redis.set(keys.left_by(run_id), pointer, ex=ttl_s)
        except StoreError as error:
            self._note(error)
            return False
        self._note(None)
        return True

    async def clear(self, agent: str | None = None) -> int:
        """Forget all answers, or those of one agent: how many went. Raises StoreError."""
        if self._redis is None:
            return 0
        pattern = keys.cache(f"{'' if agent is None else agent_tag(agent)}*")
        cleared, cursor = 0, 0
        with store_errors():
            while True:
                cursor, found = await self._redis.scan(cursor, pattern, CLEARED_AT_ONCE)
                if found:
                    cleared += await self._redis.unlink(*found)
                if not cursor:
                    return cleared

    def _note(self, error: StoreError | None) -> None:
        """Say once that the cache went away, and once that it is back."""
        if error is not None:
            self._count("cache_errors")
        if error is not None and not self._down:
            log.warning("the cache does not answer, every lookup is a miss: %s", error)
        elif error is None and self._down:
            log.info("the cache is back")
        self._down = error is not None
