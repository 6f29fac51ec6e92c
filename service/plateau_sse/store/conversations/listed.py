"""What an owner, and each of its users, has asked for lately: runs, and conversations.

Invariant: a list has at most `MOST` entries, the latest; what is in it need not be there any
more. No run depends on it: where it cannot be written the run goes on, and is not in it. A list
of runs lives no longer than they do; one of conversations counts as one of them, at a place
that is no conversation's (its id is ''), and makes room as they do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis

from plateau_sse.errors import StoreError
from plateau_sse.owners import account_of
from plateau_sse.store.conversations.conversations import (
    LIFE_S,
    Conversations,
    place_of,
    script,
)
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors

log = logging.getLogger("plateau.conversations")

MOST = 1000
# Of a conversation's messages, among which the latest question is.
LATEST = 4
_NONE = "-"


class ListedRun(NamedTuple):
    """`place` and `conversation_id` are '' where it was asked for in none; `asked_ms` by the
    clock of the web worker."""

    run_id: str
    agent: str
    place: str
    conversation_id: str
    asked_ms: int


class ListedConversation(NamedTuple):
    id: str
    asked_ms: int


class Listed:
    """`life_s`: for how long a run's record is there at most."""

    def __init__(self, redis: Redis, conversations: Conversations, *, life_s: int) -> None:
        self._redis: Any = redis
        self._list = redis.register_script(script("list"))
        self._conversations = conversations
        self._life_s = life_s

    async def add_run(
        self, owner: str, run_id: str, agent: str, place: str, conversation_id: str
    ) -> None:
        """Where `owner` is a user's name it is the owner's as well."""
        # None of them holds a space, but for an agent's name, which is the last.
        entry = " ".join((run_id, place or _NONE, conversation_id or _NONE, agent))
        now_ms = int(time.time() * 1000)
        try:
            with store_errors():
                async with self._redis.pipeline(transaction=False) as pipe:
                    for name in {owner, account_of(owner)}:
                        key = keys.listed_runs(name)
                        pipe.zadd(key, {entry: now_ms})
                        pipe.zremrangebyscore(key, "-inf", now_ms - 1000 * self._life_s)
                        pipe.zremrangebyrank(key, 0, -MOST - 1)
                        pipe.expire(key, self._life_s)
                    await pipe.execute()
        except StoreError as error:
            log.warning("a list lacks what was asked: %s", error)

    async def add_conversation(self, account: str, user: str, conversation_id: str) -> None:
        place, now_ms = place_of(account, user, ""), int(time.time() * 1000)
        try:
            with store_errors():
                taken = int(
                    await self._list(
                        keys=list(keys.conversation(place)),
                        args=[conversation_id, now_ms, LIFE_S, MOST],
                    )
                )
            if taken:
                await self._conversations.make_room(place, now_ms, taken, account)
        except StoreError as error:
            log.warning("a list lacks what was asked: %s", error)

    async def forget_conversation(self, account: str, user: str, conversation_id: str) -> None:
        with store_errors():
            await self._redis.zrem(_list_of(account, user), conversation_id)

    async def runs(self, owner: str) -> list[ListedRun]:
        """The latest first."""
        found = []
        for entry, asked_ms in await self._read(keys.listed_runs(owner), self._life_s):
            run_id, place, conversation_id, agent = entry.split(" ", 3)
            named = (place, conversation_id)
            place, conversation_id = ("" if it == _NONE else it for it in named)
            found.append(ListedRun(run_id, agent, place, conversation_id, asked_ms))
        return found

    async def conversations(self, account: str, user: str) -> list[ListedConversation]:
        """In which something was asked last, the latest first."""
        rows = await self._read(_list_of(account, user), LIFE_S)
        return [ListedConversation(*row) for row in rows]

    async def questions(
        self, account: str, user: str, conversation_ids: Sequence[str]
    ) -> list[str | None]:
        """What was asked last in each, as far as a model is given it; None where that is not
        kept any more. Two round trips."""
        if not conversation_ids:
            return []
        places = [keys.conversation(place_of(account, user, one)) for one in conversation_ids]
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for key in places:
                    pipe.lrange(key.messages, -LATEST, -1)
                indexes: list[list[bytes]] = await pipe.execute()
            async with self._redis.pipeline(transaction=False) as pipe:
                for key, index in zip(places, indexes, strict=True):
                    rows = [entry.split(b" ", 2) for entry in index]
                    asked = [name for name, role, _ in rows if role == b"user"]
                    pipe.hget(key.bodies, asked[-1] if asked else b"")
                bodies: list[bytes | None] = await pipe.execute()
        return [None if body is None else body.decode() for body in bodies]

    async def _read(self, key: str, life_s: int) -> list[tuple[str, int]]:
        since_ms = int(time.time() * 1000) - 1000 * life_s
        with store_errors():
            rows: list[tuple[bytes, float]] = await self._redis.zrange(
                key, 0, -1, withscores=True
            )
        return [(entry.decode(), int(at)) for entry, at in reversed(rows) if at > since_ms]


def _list_of(account: str, user: str) -> str:
    return keys.conversation(place_of(account, user, "")).listed
