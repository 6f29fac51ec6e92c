"""The hub: what a web worker has one of. From one subscribing connection to all its readers.

Invariant: every event of a followed run reaches each of its followers in order, once, whatever
messages are lost: a hole is repaired from the stream at once, a silent loss within `TURNS` s.
Subscribe, await the confirmation, then read: nothing falls between.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from service.errors import StoreError, StoreUnavailable
from service.live.feed import Feed, Follower
from service.live.sse import TURNS, Frame
from service.live.subscriber import Subscriber
from service.store import ids, keys
from service.store.connections import subscriber_connection
from service.store.streams import Entry, Streams

log = logging.getLogger("plateau.hub")

PING_CONNECTION_S = 5
CONFIRM_S = 5.0
# After a reconnect: enough to be quick, few enough not to starve the pool.
REPAIRS_AT_ONCE = 50
# What a response may take to end when the worker goes.
DRAIN_S = 1.5


class Hub:
    """Opened by the lifespan, told to drain by the worker before its sockets close."""

    def __init__(self, redis_url: str, streams: Streams, name: str) -> None:
        self._url = redis_url
        self._name = name
        self._streams = streams
        self._feeds: dict[bytes, Feed] = {}
        self._asked: deque[Feed] = deque()
        self._connection: AbstractConnection | None = None
        self._heard = True
        self._repairs = asyncio.Semaphore(REPAIRS_AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []
        self._parting: set[asyncio.Task[None]] = set()
        self._emptied = asyncio.Event()
        self.subscribers: set[Subscriber] = set()
        self.draining = False

    @property
    def followed(self) -> int:
        """Runs with at least one follower here."""
        return len(self._feeds)

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def open(self) -> None:
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._beat())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def drain(self) -> None:
        """End every response cleanly with a `retry:`; cut the ones that do not read."""
        self.draining = True
        if not self.subscribers:
            return
        for subscriber in list(self.subscribers):
            subscriber.leave()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._emptied.wait()
        for subscriber in list(self.subscribers):
            subscriber.abort()

    def enter(self, subscriber: Subscriber) -> None:
        self.subscribers.add(subscriber)

    def exit(self, subscriber: Subscriber) -> None:
        self.subscribers.discard(subscriber)
        if self.draining and not self.subscribers:
            self._emptied.set()

    # Following

    async def join(self, run_id: str) -> Feed:
        """Follow a run: returns once the subscription is confirmed, so that whatever is read
        afterwards together with the messages is complete. Raises StoreUnavailable."""
        channel = keys.channel(run_id).encode()
        feed = self._feeds.get(channel)
        if feed is None:
            feed = Feed(run_id, asyncio.get_running_loop().create_future())
            self._feeds[channel] = feed
        feed.followers += 1
        try:
            if feed.followers == 1:
                await self._subscribe([feed])
            async with asyncio.timeout(CONFIRM_S):
                await asyncio.shield(feed.ready)
        except TimeoutError:
            self.part(feed)
            raise StoreUnavailable("the subscription was not confirmed") from None
        except BaseException:
            self.part(feed)
            raise
        return feed

    def part(self, feed: Feed) -> None:
        """Give up a `join`; the last follower ends the subscription."""
        feed.followers -= 1
        if feed.followers > 0:
            return
        channel = keys.channel(feed.run_id).encode()
        if self._feeds.get(channel) is feed:
            del self._feeds[channel]
            if self._connection is not None:
                parting = asyncio.ensure_future(self._send("SUNSUBSCRIBE", channel))
                self._parting.add(parting)
                parting.add_done_callback(self._parting.discard)
        if feed.repairing is not None:
            feed.repairing.cancel()

    def attach(self, feed: Feed, follower: Follower) -> bool:
        """Onto the live path; False where the follower must read once more first."""
        if not feed.attach(follower):
            return False
        if feed.newest > feed.head:
            self._repair(feed)
        return True

    # The subscribing connection

    async def _send(self, *command: str | bytes) -> None:
        connection = self._connection
        if connection is not None:
            try:
                await connection.send_command(*command)
            except (RedisError, OSError):
                await connection.disconnect()

    async def _subscribe(self, feeds: Iterable[Feed]) -> None:
        """Confirmations come in the order of the commands: `_asked` pairs them."""
        if self._connection is None:
            return
        for feed in feeds:
            self._asked.append(feed)
            await self._send("SSUBSCRIBE", keys.channel(feed.run_id))

    async def _listen(self) -> None:
        wait_s = 0.0
        while True:
            connection = subscriber_connection(self._url, self._name)
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                wait_s = 0.0
                await self._read_from(connection)
            except (RedisError, OSError) as error:
                log.warning("the subscribing connection broke, trying again: %s", error)
            finally:
                self._connection = None
                self._asked.clear()
                with suppress(Exception):
                    await connection.disconnect()
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(5.0, max(0.1, wait_s * 2))

    async def _read_from(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._heard = True
        known = list(self._feeds.values())
        resubscribing = asyncio.create_task(self._subscribe(known))
        pinging = asyncio.create_task(self._keep_alive(connection))
        try:
            while True:
                reply = await connection.read_response()
                self._heard = True
                if reply[0] == b"smessage":
                    feed = self._feeds.get(reply[1])
                    if feed is not None:
                        self._message(feed, reply[2])
                elif reply[0] == b"ssubscribe":
                    self._confirmed(self._asked.popleft())
        finally:
            resubscribing.cancel()
            pinging.cancel()

    def _confirmed(self, feed: Feed) -> None:
        if not feed.ready.done():
            feed.ready.set_result(None)
        else:
            # Subscribed anew: whatever was published meanwhile is in the stream.
            self._repair(feed)

    async def _keep_alive(self, connection: AbstractConnection) -> None:
        """A connection that is silent for two pings is dead, whatever TCP thinks of it."""
        while True:
            await asyncio.sleep(PING_CONNECTION_S)
            if not self._heard:
                log.warning("the subscribing connection fell silent")
                await connection.disconnect()
                return
            self._heard = False
            await self._send("PING")

    def _message(self, feed: Feed, payload: bytes) -> None:
        event_id, _, data = payload.partition(b" ")
        number = ids.parse(event_id.decode())
        if number <= feed.head:
            return
        if feed.live and feed.repairing is None and ids.follows(number, feed.head):
            feed.dispatch(Frame(number, data))
            return
        if number > feed.newest:
            feed.newest = number
        if feed.live:
            self._repair(feed)

    # Repair

    def _repair(self, feed: Feed) -> None:
        if feed.repairing is None and feed.followers:
            feed.repairing = asyncio.create_task(self._repair_from_stream(feed))

    async def _repair_from_stream(self, feed: Feed) -> None:
        """Read what is missing and dispatch it, until nothing newer is known."""
        try:
            async with self._repairs:
                while feed.live:
                    expected = feed.newest
                    reading = await self._streams.read(feed.run_id, feed.head)
                    if reading is None:
                        feed.lose()
                    elif reading.number < expected:
                        feed.rewind(reading.number)
                    else:
                        self._dispatch_all(feed, reading.entries, reading.snapshot)
                        if feed.head >= feed.newest:
                            return
        except StoreError as error:
            # The next message or sweep tries again.
            log.warning("a repair has to wait: %s", error)
        finally:
            feed.repairing = None

    def _dispatch_all(self, feed: Feed, entries: list[Entry], snapshot: Entry | None) -> None:
        if snapshot is not None:
            # `missed` differs from reader to reader: each reads its own snapshot.
            everyone, feed.live = feed.live, set()
            feed.head = feed.newest
            for follower in everyone:
                follower.lag()
            return
        for entry in entries:
            feed.dispatch(Frame(entry.number, entry.data))

    # One timer for all

    async def _beat(self) -> None:
        """Each second a fifteenth of the readers gets its ping and of the runs its sweep."""
        turn = 0
        while True:
            await asyncio.sleep(1)
            turn = (turn + 1) % TURNS
            for subscriber in self.subscribers:
                if subscriber.turn == turn:
                    subscriber.ping()
            try:
                await self._sweep(turn)
            except StoreError as error:
                log.warning("a sweep has to wait: %s", error)
            except Exception:
                log.exception("a sweep failed")

    async def _sweep(self, turn: int) -> None:
        """Compare each followed run with its record: the last message may have been lost."""
        feeds = [feed for feed in self._feeds.values() if feed.turn == turn]
        for start in range(0, len(feeds), REPAIRS_AT_ONCE):
            some = feeds[start : start + REPAIRS_AT_ONCE]
            heads = [feed.head for feed in some]
            numbers = await self._streams.last_numbers([feed.run_id for feed in some])
            for feed, head, number in zip(some, heads, numbers, strict=True):
                if number is None:
                    feed.lose()
                elif number > feed.newest:
                    feed.newest = number
                    self._repair(feed)
                elif number < head:
                    feed.rewind(number)
