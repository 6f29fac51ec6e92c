"""Which run answers in a chat whose history its client keeps.

Invariant: a chat names its latest run, for as long as that may be on and a little longer; what
has become of the run, its own record says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import zstandard
from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.redis.fullness import TIGHT
from plateau_sse.store.redis.patience import PATIENCE_S, Rest, within

# What has ended is given for so long to a page that was reloaded in its last second.
LATE_S = 60
# Of a message that goes on: one that was said in a chat, packed.
BEFORE_BYTES = 32 * 1024

_DROP = "return redis.call('GET',KEYS[1])==ARGV[1] and redis.call('DEL',KEYS[1]) or 0"


class Chat(msgspec.Struct, array_like=True):
    """The run, or the cached answer, with the token of who asked for it; `message_id` is that
    of the message that it goes on with, '' for one of its own; when it was asked, in
    milliseconds since the epoch by the clock of the web worker; `before` is what stood in that
    message, as `pack` has it, b'' where that is too much."""

    run_id: str
    token: str
    message_id: str
    asked_ms: int
    before: bytes = b""


def pack(parts: Sequence[Any]) -> bytes:
    data = zstandard.ZstdCompressor(level=3).compress(msgspec.json.encode(parts))
    return data if len(data) <= BEFORE_BYTES else b""


def unpack(packed: bytes) -> list[Any]:
    data = zstandard.ZstdDecompressor().decompress(packed)
    found: list[Any] = msgspec.json.decode(data)
    return found


class Chats:
    """`life_s`: by when a run has ended; `share`: how full the store is."""

    def __init__(
        self, redis: Redis, *, life_s: int, share: Callable[[], Awaitable[float]]
    ) -> None:
        self._redis: Any = redis
        self._life_s = life_s + LATE_S
        self._share = share
        self._rest = Rest()
        self._drop = redis.register_script(_DROP)

    async def put(self, place: str, chat: Chat) -> None:
        """Of a run that is on."""
        await self._put(place, chat, self._life_s)

    async def put_whole(self, place: str, chat: Chat) -> None:
        """Of an answer that is there already: it needs no note, so nobody waits for one, and a
        store that is tight keeps none."""
        self._rest.check()
        with self._rest.after_silence():
            await within(PATIENCE_S, self._put_where_there_is_room(place, chat))

    async def _put_where_there_is_room(self, place: str, chat: Chat) -> None:
        if await self._share() < TIGHT:
            await self._put(place, chat, LATE_S)
            return
        with store_errors():
            # Of an answer before this.
            await self._redis.delete(keys.chat(place))

    async def _put(self, place: str, chat: Chat, life_s: int) -> None:
        with store_errors():
            await self._redis.set(keys.chat(place), msgspec.json.encode(chat), ex=life_s)

    async def find(self, place: str) -> Chat | None:
        with store_errors():
            found: bytes | None = await self._redis.get(keys.chat(place))
        return None if found is None else msgspec.json.decode(found, type=Chat)

    async def drop(self, place: str, chat: Chat) -> None:
        """Unless the chat has another by now."""
        with store_errors():
            await self._drop(keys=[keys.chat(place)], args=[msgspec.json.encode(chat)])
