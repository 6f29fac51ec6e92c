"""The subscribing connection: one a worker and server, whatever the number of readers.

Invariant: confirmations come in the order of the commands, so each is paired with the feed that
asked; after every reconnect each followed feed is subscribed and confirmed anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from plateau_sse.live.feed import Feed
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.wire import Wire

log = logging.getLogger("plateau.hub")

PING_S = 5
CONNECT_S = 5.0
# Between attempts to connect: at once after a steady connection, then ever longer.
FIRST_WAIT_S, LONGEST_WAIT_S, STEADY_S = 0.05, 2.0, 10.0


class Subscription:
    """Keeps `feeds` (by channel, owned by the hub) subscribed, over connections that `dial`
    makes. `on_message` gets a feed and a payload, `on_confirmed` a feed whose messages are
    heard from then on."""

    def __init__(
        self,
        dial: Callable[[], AbstractConnection],
        feeds: dict[bytes, Feed],
        on_message: Callable[[Feed, bytes], None],
        on_confirmed: Callable[[Feed], None],
    ) -> None:
        self._dial = dial
        self._feeds = feeds
        self._on_message = on_message
        self._on_confirmed = on_confirmed
        self._asked: deque[Feed] = deque()
        self._wire: Wire | None = None
        self._heard = True

    @property
    def connected(self) -> bool:
        return self._wire is not None and self._wire.is_open

    def _heard_here(self) -> Iterable[Feed]:
        """What a connection is for that has just been made."""
        return self._feeds.values()

    def subscribe(self, feed: Feed) -> None:
        """Without a connection this does nothing: the next one subscribes to all feeds."""
        if self._wire is not None and self._wire.is_open:
            self._asked.append(feed)
            self._wire.send("SSUBSCRIBE", keys.channel(feed.run_id))

    def unsubscribe(self, channel: bytes) -> None:
        if self._wire is not None:
            # Not now: somebody who joins anew in this turn of the loop keeps the subscription.
            asyncio.get_running_loop().call_soon(self._unsubscribe, channel)

    def _unsubscribe(self, channel: bytes) -> None:
        if self._wire is not None and channel not in self._feeds:
            self._wire.send("SUNSUBSCRIBE", channel)

    def reconnect(self) -> None:
        if self._wire is not None:
            self._wire.close()

    async def listen(self) -> None:
        """Keep one connection open; back off while it breaks soon after it was made."""
        wait_s = FIRST_WAIT_S
        while True:
            made_at = asyncio.get_running_loop().time()
            try:
                await self._listen_once()
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("the subscribing connection broke, trying again: %s", error)
            except Exception:
                log.exception("the subscribing connection met something unexpected")
            if asyncio.get_running_loop().time() - made_at > STEADY_S:
                wait_s = FIRST_WAIT_S
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(LONGEST_WAIT_S, wait_s * 2)

    async def _listen_once(self) -> None:
        connection = self._dial()
        wire: Wire | None = None
        try:
            # A server that takes a connection and says nothing is no server.
            async with asyncio.timeout(CONNECT_S):
                await connection.connect()  # type: ignore[no-untyped-call]
            self._wire = wire = Wire(connection, self._reply)
            for feed in list(self._heard_here()):
                self.subscribe(feed)
            await self._keep_alive(wire)
        finally:
            self._wire = None
            self._asked.clear()
            if wire is not None:
                wire.close()
            with suppress(Exception):
                await connection.disconnect(nowait=True)

    def _reply(self, reply: Any) -> None:
        self._heard = True
        if isinstance(reply, Exception):
            raise reply
        if reply[0] == b"smessage":
            feed = self._feeds.get(reply[1])
            if feed is not None:
                self._on_message(feed, reply[2])
        elif reply[0] == b"ssubscribe":
            self._on_confirmed(self._asked.popleft())

    async def _keep_alive(self, wire: Wire) -> None:
        """Until it is closed. One that is silent for two pings is dead, whatever TCP thinks."""
        self._heard = True
        while True:
            await asyncio.wait({wire.closed}, timeout=PING_S)
            if wire.closed.done():
                wire.closed.result()
                raise ConnectionError("Redis closed it")
            if not self._heard:
                raise ConnectionError("it fell silent")
            self._heard = False
            wire.send("PING")
