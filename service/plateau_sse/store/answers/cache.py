"""The answer cache: finished, successful answers, compressed, in a bounded Redis.

Invariant: to whoever asks a question, a cache that is down, full or damaged is a miss, never an
error; what comes out is byte for byte what went in. A cache that hangs holds up the end of a
run for `PATIENCE_S`, however many end at once.
"""

from __future__ import annotations

import logging
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from plateau_sse.errors import StoreError
from plateau_sse.owners import sees
from plateau_sse.store.answers import packing, pointers
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.lookups import Lookups
from plateau_sse.store.answers.packing import pack, unpack
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import servers_of, store_errors
from plateau_sse.store.redis.patience import PATIENCE_S, Rest, within

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


def digest_of(question: Question) -> str:
    """Of all but the version: 128 bits over canonical JSON, members sorted at every depth, no
    white space."""
    rest = question._replace(version="")
    canonical = msgspec.json.encode([packing.FORMAT, *rest], order="sorted")
    return _base64(blake2b(canonical, digest_size=16).digest())


def key_of(question: Question) -> str:
    return key_at(question.agent, question.version, digest_of(question))


def key_at(agent: str, version: str, digest: str) -> str:
    """Of the question with that digest: the agent's tag, then 128 bits. In base64url: 24
    characters, with which Redis fills 32 bytes."""
    whole = f"{digest} {version}".encode()
    return agent_tag(agent) + _base64(blake2b(whole, digest_size=16).digest())


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
        self._rest = Rest()

    async def open(self) -> None:
        """Connect already: whoever stores the first answer has no patience for that."""
        if self._redis is not None:
            with suppress(StoreError), store_errors():
                await self._redis.get(keys.cache(""))

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

    async def holds(self, key: str, mark: bytes) -> bool:
        """Whether the answer there is the one with this mark; False also out of reach."""
        try:
            packed = await self._look_up(keys.cache(key))
        except StoreError:
            return False
        return packed is not None and packing.is_of(packed, mark)

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
        # By the run's rule: what is kept for all users was one's run, whom the pointer names.
        is_seen = not owner or sees(answer.owner, owner) or pointer.is_of(owner)
        return (pointer.key, answer) if is_seen else None

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

    async def put(self, key: str, answer: Answer, ttl_s: int | None = None) -> bool:
        """Whether it was stored: not over a twentieth of the cache, and the cache took it."""
        if self._redis is None:
            return False
        packed = pack(answer)
        if len(packed) > self._largest:
            self._count("cache_refused")
            log.info("an answer of %d bytes is too large to cache", len(packed))
            return False
        return await self._set(keys.cache(key), packed, ttl_s)

    async def point(
        self,
        key: str,
        answer: Answer,
        tokens: Sequence[str],
        run_id: str,
        ttl_s: int | None = None,
        user: str = "",
    ) -> bool:
        """Whether what was put there is found by the id of the run that left it, for who holds
        one of these tokens, and for this user."""
        if self._redis is None or not tokens:
            return False
        packed = pointers.pack(key, answer, tokens, user)
        return await self._set(keys.left_by(run_id), packed, ttl_s)

    async def note(self, name: str, asked: bytes) -> bool:
        """Whether it was kept what was asked under this name, for as long as there is room."""
        if self._redis is None or len(asked) > self._largest:
            return False
        return await self._set(keys.asked(name), asked, None)

    async def noted(self, name: str) -> bytes | None:
        """None where that is gone. Raises StoreError."""
        return await self._look_up(keys.asked(name))

    async def forget(self, key: str, run_id: str, name: str) -> None:
        """An answer, the pointer of the run that left it, and what was asked; '' for none of
        them. Raises StoreError."""
        if self._redis is None:
            return
        with store_errors():
            for found in (
                keys.cache(key) if key else "",
                keys.left_by(run_id) if run_id else "",
                keys.asked(name) if name else "",
            ):
                if found:
                    await self._redis.unlink(found)

    async def _set(self, name: str, packed: bytes, ttl_s: int | None) -> bool:
        try:
            self._rest.check()
            setting = self._redis.set(name, packed, ex=ttl_s or self._ttl_s)
            with self._rest.after_silence(), store_errors():
                await within(PATIENCE_S, setting)
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
        with store_errors():
            cleared = [
                await self._clear(server, pattern) for server in await servers_of(self._redis)
            ]
        return sum(cleared)

    async def _clear(self, server: Any, pattern: str) -> int:
        cleared, cursor = 0, 0
        while True:
            cursor, found = await server.scan(cursor, pattern, CLEARED_AT_ONCE)
            if found:
                # One by one: in a cluster they are in different slots.
                async with self._redis.pipeline(transaction=False) as pipe:
                    for name in found:
                        pipe.unlink(name)
                    cleared += sum(await pipe.execute())
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
