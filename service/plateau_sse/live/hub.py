"""The hub: what a web worker has one of. From one subscribing connection to all its readers.

Invariant: every event of a followed run reaches each of its followers in order, once, whatever
messages are lost: a hole is repaired from the stream at once, a silent loss within `TURNS` s.
Subscribe, await the confirmation, then read: nothing falls between.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress

from plateau_sse import tasks
from plateau_sse.errors import StoreError, StoreUnavailable
from plateau_sse.live.delivery import DELIVERED, PROGRESS, Count, Delivery, nowhere
from plateau_sse.live.feed import Feed, Follower
from plateau_sse.live.kept import Kept
from plateau_sse.live.repairs import LONG_BYTES, Repairs
from plateau_sse.live.sse import TURNS, Frame
from plateau_sse.live.subscriber import Subscriber
from plateau_sse.live.subscriptions import subscribing
from plateau_sse.store.redis import keys
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.streams import Streams

log = logging.getLogger("plateau.hub")

CONFIRM_S = 5.0
# Without a connection: long enough for a worker that has just come up.
CONNECT_S = 1.0
# For the first newcomer of a feed to be live, which takes milliseconds.
LEAD_S = 0.2
# What a response may take to end when the worker goes.
DRAIN_S = 1.5


class Hub:
    """Opened by the lifespan, told to drain by the worker before its sockets close. `count` is
    told what readers got and met, and of repairs and reconnects; `repairs` is the store over
    connections that no reader waits for."""

    def __init__(
        self,
        redis_url: str,
        streams: Streams,
        name: str,
        count: Count = nowhere,
        repairs: Streams | None = None,
    ) -> None:
        self.count = count
        self._streams = streams
        delivery = Delivery(count)
        self._deliver, self._tell = delivery.deliver, delivery.tell
        self._repairs = Repairs(repairs or streams, delivery, count)
        self._feeds: dict[bytes, Feed] = {}
        self._subscription = subscribing(
            redis_url, name, self._feeds, self._message, self._confirmed
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._emptied = asyncio.Event()
        self.subscribers: set[Subscriber] = set()
        # Of those who wait for an end without a stream: set when this worker goes.
        self.waiting: set[asyncio.Event] = set()
        self.draining = False
        # Who has joined a feed and not parted.
        self.following = 0
        # Since this hub began. One object a second: each reader keeps the one it came with.
        self.second = 0

    @property
    def followed(self) -> int:
        """Runs with at least one follower here."""
        return len(self._feeds)

    @property
    def readers(self) -> int:
        """Live responses."""
        return len(self.subscribers)

    @property
    def readers_by_dialect(self) -> Counter[str]:
        return Counter(one.dialect for one in self.subscribers)

    @property
    def oldest_s(self) -> float:
        """Age of the oldest of them."""
        opened_at = min((one.opened_at for one in self.subscribers), default=self.second)
        return self.second - opened_at

    @property
    def connected(self) -> bool:
        return self._subscription.connected

    def reconnect(self) -> None:
        """Subscribe anew, on another connection."""
        self._subscription.reconnect()

    def open(self) -> None:
        self._tasks = [
            asyncio.create_task(self._subscription.listen()),
            asyncio.create_task(self._beat()),
        ]

    async def close(self) -> None:
        await tasks.end(*self._tasks)

    async def drain(self) -> None:
        """End every response cleanly with a `retry:`; cut the ones that do not read."""
        self.draining = True
        for woken in self.waiting:
            woken.set()
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
        if self.draining:
            subscriber.leave()

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
        self.following += 1
        try:
            if feed.followers == 1:
                self._subscription.subscribe(feed)
            elif feed.kept is None:
                feed.kept = Kept(feed.opener)
            if feed.ready.done():
                return feed
            async with asyncio.timeout(CONFIRM_S if self.connected else CONNECT_S):
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
        self.following -= 1
        if feed.followers == 1:
            # One alone pays for nothing that is kept for others.
            feed.kept = None
        if feed.followers > 0:
            return
        channel = keys.channel(feed.run_id).encode()
        if self._feeds.get(channel) is feed:
            del self._feeds[channel]
            self._subscription.unsubscribe(channel)
        if feed.repairing is not None:
            feed.repairing.cancel()

    async def read_first(
        self, feed: Feed, position: int, token: str, owner: str
    ) -> Reading | None:
        """What a newcomer has not seen, who has the token or is the `owner`; whether the run is
        that one's is for the caller to see. Raises as `Streams.read`."""
        if feed.leading is not None and position:
            # A herd comes back from one place: what the first of it reads serves all.
            await asyncio.wait({feed.leading}, timeout=LEAD_S)
            feed.release()
        if feed.kept is not None and feed.kept.opens_to(token, owner):
            known = feed.recall(position)
            if known is not None:
                return known
        if feed.leading is None and (feed.kept is not None or not feed.live):
            feed.leading = asyncio.get_running_loop().create_future()
        try:
            reading = await self._streams.read(feed.run_id, position, token)
        except BaseException:
            feed.release()
            raise
        if reading is not None:
            feed.learn(position, reading, token)
        if reading is None or reading.ended or not reading.is_whole or feed.live:
            feed.release()
        return reading

    async def read(self, feed: Feed, follower: Follower) -> Reading | None:
        """What stands behind a follower's position; where that is less than messages have told
        of, the feed learns it."""
        expected, progress = feed.newest, feed.progress
        follower.generation = feed.generation
        known = feed.recall(follower.position)
        if known is not None:
            return known
        position = follower.position
        reading = await self._streams.read(feed.run_id, position)
        if reading is not None:
            feed.learn(position, reading)
            feed.believe(reading.head, reading.states, progress)
            if reading.head < expected <= feed.newest:
                feed.rewind(reading.head)
        return reading

    def attach(self, feed: Feed, follower: Follower) -> bool:
        """Onto the live path; False where the follower must read once more first."""
        if not feed.attach(follower):
            return False
        if feed.newest > feed.head:
            self._repairs.repair(feed)
        return True

    def _confirmed(self, feed: Feed) -> None:
        if not feed.ready.done():
            feed.ready.set_result(None)
        else:
            # Subscribed anew: whatever was published meanwhile is in the stream.
            self.count("feeds_resubscribed")
            feed.generation += 1
            self._repairs.repair(feed)

    def _message(self, feed: Feed, payload: bytes) -> None:
        """What append.lua publishes: `<attempt>-<before>-<at>` and an event, or
        `<attempt>-s-<count>` and a state."""
        where, _, data = payload.partition(b" ")
        try:
            attempt, before, at = where.split(b"-")
            if before == b"s":
                self._state(feed, int(attempt), int(at), data)
                return
            start = ids.number(int(attempt), 0)
            number, begins = start + int(at), start + int(before)
        except ValueError:
            log.warning("run %s: a message that is not an event was published", feed.run_id)
            return
        if number <= feed.head:
            return
        carried = 0 < len(data) <= LONG_BYTES
        in_order = (
            bool(feed.live)
            and feed.repairing is None
            and ids.follows(begins, feed.head)
            and carried
        )
        if in_order:
            alone = feed.give(begins, number, data)
            if alone is not None and alone.stand is not None:
                self.count(DELIVERED[alone.stand.dialect.name])
                return
            frame = Frame(number, data, feed.tag)
            if not feed.owes(frame):
                self._deliver(feed, frame)
                return
        if number > feed.newest:
            feed.newest = number
        if feed.live:
            self._repairs.repair(feed, hole=not in_order)

    def _state(self, feed: Feed, attempt: int, count: int, data: bytes) -> None:
        if data.startswith(PROGRESS):
            # Whoever has read before it was said, and is not live yet, reads once more.
            feed.progress = max(feed.progress, ids.number(attempt, count))
        # Of another attempt: it would be cleared, or be cleared too late.
        if feed.live and attempt == ids.split(feed.head)[0]:
            self._tell(feed, data, count)

    # One timer for all

    async def _beat(self) -> None:
        """Each second a fifteenth of the readers gets its ping and of the runs its sweep. The
        pings do not wait for the store: a sweep that takes long is a task of its own, and has
        the fifteenths to do next that have come due meanwhile."""
        turn = 0
        due: set[int] = set()
        sweeping: asyncio.Task[None] | None = None
        while True:
            await asyncio.sleep(1)
            self.second += 1
            turn = (turn + 1) % TURNS
            for subscriber in list(self.subscribers):
                if subscriber.turn == turn:
                    subscriber.beat()
            due.add(turn)
            if sweeping is None or sweeping.done():
                sweeping = asyncio.create_task(self._sweep_safely(due))

    async def _sweep_safely(self, due: set[int]) -> None:
        """The fifteenths that are due, which are then due no more: those of a sweep that failed
        stay so."""
        swept = set(due)
        due.clear()
        try:
            await self._repairs.sweep(
                [feed for feed in self._feeds.values() if feed.turn in swept]
            )
            return
        except StoreError as error:
            log.warning("a sweep has to wait: %s", error)
        except Exception:
            log.exception("a sweep failed")
        due.update(swept)
