"""The subscribing connection: one a worker, whatever the number of readers.

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

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from service.live.feed import Feed
from service.store import keys
from service.store.connections import subscriber_connection

log = logging.getLogger("plateau.hub")

PING_S = 5
CONNECT_S = 5.0
# Between attempts to connect: at once after a steady connection, then ever longer.
FIRST_WAIT_S, LONGEST_WAIT_S, STEADY_S = 0.05, 2.0, 10.0


class Subscription:
    """Keeps `feeds` (by channel, owned by the hub) subscribed. `on_message` gets a feed and a
    payload, `on_confirmed` a feed whose messages are heard from then on."""

    def __init__(
        self,
        url: str,
        name: str,
        feeds: dict[bytes, Feed],
        on_message: Callable[[Feed, bytes], None],
        on_confirmed: Callable[[Feed], None],
    ) -> None:
        self._url = url
        self._name = name
        self._feeds = feeds
        self._on_message = on_message
        self._on_confirmed = on_confirmed
        self._asked: deque[Feed] = deque()
        self._connection: AbstractConnection | None = None
        self._heard = True
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        return self._connection is not None

    async def subscribe(self, feeds: Iterable[Feed]) -> None:
        """Without a connection this waits for nothing: the next one subscribes to them all."""
        for feed in feeds:
            if self._connection is None:
                return
            self._asked.append(feed)
            await self._send("SSUBSCRIBE", keys.channel(feed.run_id))

    def unsubscribe(self, channel: bytes) -> None:
        if self._connection is not None:
            leaving = asyncio.ensure_future(self._unsubscribe(channel))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def _unsubscribe(self, channel: bytes) -> None:
        # Somebody may have joined anew before this task ran: then the subscription stays.
        if channel not in self._feeds:
            await self._send("SUNSUBSCRIBE", channel)

    async def _send(self, *command: str | bytes) -> None:
        connection = self._connection
        if connection is not None:
            try:
                await connection.send_command(*command)
            except (RedisError, OSError):
                await connection.disconnect()

    async def listen(self) -> None:
        """Keep one connection open; back off while it breaks soon after it was made."""
        wait_s = FIRST_WAIT_S
        while True:
            connection = subscriber_connection(self._url, self._name)
            made_at = asyncio.get_running_loop().time()
            try:
                # A server that takes a connection and says nothing is no server.
                async with asyncio.timeout(CONNECT_S):
                    await connection.connect()  # type: ignore[no-untyped-call]
                await self._read_from(connection)
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("the subscribing connection broke, trying again: %s", error)
            except Exception:
                log.exception("the subscribing connection met something unexpected")
            finally:
                self._connection = None
                self._asked.clear()
                with suppress(Exception):
                    await connection.disconnect()
            if asyncio.get_running_loop().time() - made_at > STEADY_S:
                wait_s = FIRST_WAIT_S
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(LONGEST_WAIT_S, wait_s * 2)

    async def _read_from(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._heard = True
        resubscribing = asyncio.create_task(self.subscribe(list(self._feeds.values())))
        pinging = asyncio.create_task(self._keep_alive(connection))
        try:
            while True:
                reply = await connection.read_response()
                self._heard = True
                if reply[0] == b"smessage":
                    feed = self._feeds.get(reply[1])
                    if feed is not None:
                        self._on_message(feed, reply[2])
                elif reply[0] == b"ssubscribe":
                    self._on_confirmed(self._asked.popleft())
        finally:
            resubscribing.cancel()
            pinging.cancel()

    async def _keep_alive(self, connection: AbstractConnection) -> None:
        """A connection that is silent for two pings is dead, whatever TCP thinks of it."""
        while True:
            await asyncio.sleep(PING_S)
            if not self._heard:
                log.warning("the subscribing connection fell silent")
                await connection.disconnect()
                return
            self._heard = False
            await self._send("PING")
