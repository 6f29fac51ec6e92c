"""What opens a conversation's events to a page, which has no key.

Invariant: a token opens the events of one conversation of one owner and user, whatever else is
asked of it, until the time that it names; no later than the conversation goes, by whatever way.
"""

from __future__ import annotations

import hmac
import re
import time
from hashlib import blake2b
from typing import Any, NamedTuple

from redis.asyncio import Redis

from plateau_sse.store.conversations.conversations import LIFE_S, Conversations, script
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.runs import ids

_TOKEN = re.compile(r"([0-9a-f]{32})-([0-9]{1,12})-([0-9a-f]{32})")


class Opened(NamedTuple):
    """The conversation's name in the store, who has a share of its own for it, and until when
    its events may be told, since the epoch; None for as long as it lives."""

    place: str
    account: str
    until_s: float | None


class Openers:
    """They count as a part of their conversation, and go with it."""

    def __init__(self, redis: Redis, conversations: Conversations) -> None:
        self._redis: Any = redis
        # A full store refuses it: nobody's run depends on it.
        self._open = redis.register_script(script("open"))
        self._conversations = conversations

    async def token(
        self, place: str, conversation_id: str, account: str, until_s: float | None
    ) -> str:
        """The same for the same time. Raises StoreError."""
        made = f"{ids.new_token()} {account} {conversation_id}"
        with store_errors():
            kept, *new = await self._open(
                keys=list(keys.conversation(place)), args=[made, LIFE_S]
            )
        if new:
            taken, at_ms = new
            now_ms = int(time.time() * 1000)
            await self._conversations.make_room(place, int(at_ms or now_ms), taken, account)
        until = 0 if until_s is None else int(until_s)
        secret = kept.decode().partition(" ")[0]
        # The name of the place stands before it: whoever comes with it sends no key.
        return f"{place}-{until}-{_proof(secret, place, until)}"

    async def opened(self, token: str, conversation_id: str) -> Opened | None:
        """None where the token does not open this conversation. Raises StoreError."""
        form = _TOKEN.fullmatch(token)
        if form is None:
            return None
        place, until, proof = form[1], int(form[2]), form[3]
        with store_errors():
            kept: bytes | None = await self._redis.get(keys.conversation(place).opener)
        if kept is None:
            return None
        secret, account, whose = kept.decode().split(" ", 2)
        if whose != conversation_id or not hmac.compare_digest(
            _proof(secret, place, until), proof
        ):
            return None
        return Opened(place, account, until or None)


def _proof(secret: str, place: str, until: int) -> str:
    """Who has the secret has made it: a time cannot be put off by whoever has the token."""
    return blake2b(f"{place} {until}".encode(), key=secret.encode(), digest_size=16).hexdigest()
