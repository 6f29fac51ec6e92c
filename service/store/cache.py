"""The answer cache: finished, successful answers, compressed, in a bounded Redis.

Invariant: a cache that is down, full or damaged is a miss, never an error; what comes out is
byte for byte what went in.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from service.errors import StoreError
from service.store import ids, keys
from service.store.connections import store_errors

log = logging.getLogger("plateau.cache")

# Part of every key: what an older layout wrote is never read again, it ages out.
LAYOUT = 1
# One answer may take a twentieth of the cache, so that no single one empties it.
LARGEST_SHARE = 20


class Answer(msgspec.Struct, array_like=True, omit_defaults=True):
    """What is kept of a run. Short on purpose: the 10 MB hold as many as this allows."""

    text: str
    stored_s: int
    token: str
    duration_ms: int
    usage: dict[str, int] | None = None
    output: str | None = None
    tools: list[msgspec.Raw] = []
    agent: str = ""
    owner: str = ""

    @property
    def final(self) -> str:
        return self.text if self.output is None else self.output


class Question(NamedTuple):
    """Everything that the answer depends on; equal questions have equal keys."""

    agent: str
    version: str
    owner: str
    user: str
    messages: list[dict[str, str]]
    options: dict[str, Any]


def key_of(question: Question) -> str:
    """128 bits over canonical JSON: members sorted at every depth, no white space."""
    canonical = msgspec.json.encode([LAYOUT, *question], order="sorted")
    return blake2b(canonical, digest_size=16).hexdigest()


class Cache:
    """`redis` is None where there is no cache: then every lookup is a miss."""

    def __init__(
        self,
        redis: Redis | None,
        *,
        ttl_s: int,
        max_bytes: int,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._redis: Any = redis
        self._count = count
        self._ttl_s = ttl_s
        self._largest = max_bytes // LARGEST_SHARE
        self._down = False

    @property
    def enabled(self) -> bool:
        return self._redis is not None

    async def get(self, key: str) -> Answer | None:
        """The answer, or None: absent, evicted, unreadable or out of reach."""
        if self._redis is None:
            return None
        try:
            with store_errors():
                packed: bytes | None = await self._redis.get(keys.cache(key))
        except StoreError as error:
            self._note(error)
            return None
        self._note(None)
        return None if packed is None else unpack(packed)

    async def put(self, key: str, answer: Answer, ttl_s: int | None = None) -> bool:
        """Whether it was stored: not over a twentieth of the cache, and the cache took it."""
        if self._redis is None:
            return False
        packed = pack(answer)
        if len(packed) > self._largest:
            self._count("cache_refused")
            log.info("an answer of %d bytes is too large to cache", len(packed))
            return False
        try:
            with store_errors():
                await self._redis.set(keys.cache(key), packed, ex=ttl_s or self._ttl_s)
        except StoreError as error:
            self._note(error)
            return False
        self._note(None)
        return True

    def _note(self, error: StoreError | None) -> None:
        """Say once that the cache went away, and once that it is back."""
        if error is not None:
            self._count("cache_errors")
        if error is not None and not self._down:
            log.warning("the cache does not answer, every lookup is a miss: %s", error)
        elif error is None and self._down:
            log.info("the cache is back")
        self._down = error is not None


def answer_of(
    *,
    agent: str,
    owner: str,
    text: str,
    output: str | None,
    usage: dict[str, int] | None,
    tools: list[bytes],
    duration_ms: int,
) -> Answer:
    return Answer(
        text=text,
        stored_s=int(time.time()),
        token=ids.new_token(),
        duration_ms=duration_ms,
        usage=usage,
        output=output,
        tools=[msgspec.Raw(tool) for tool in tools],
        agent=agent,
        owner=owner,
    )


def pack(answer: Answer) -> bytes:
    """Raw deflate over JSON: no zlib header, since the layout is in the key."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(msgspec.json.encode(answer)) + deflate.flush()


def unpack(packed: bytes) -> Answer | None:
    try:
        return msgspec.json.decode(zlib.decompress(packed, -15), type=Answer)
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.warning("a cached answer cannot be read, taken as a miss: %s", error)
        return None
