"""The hub: what a web worker has one of. From one subscribing connection to all its readers.

Invariant: every event of a followed run reaches each of its followers in order, once, whatever
messages are lost: a hole is repaired from the stream at once, a silent loss within `TURNS` s.
Subscribe, await the confirmation, then read: nothing falls between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from plateau_sse import tasks
from plateau_sse.errors import StoreError, StoreUnavailable
from plateau_sse.live.feed import Feed, Follower
from plateau_sse.live.sse import TURNS, Frame
from plateau_sse.live.subscriber import Subscriber
from plateau_sse.live.subscription import Subscription
from plateau_sse.store.redis import keys
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.streams import Streams

log = logging.getLogger("plateau.hub")

CONFIRM_S = 5.0
# Without a connection: long enough for a worker that has just come up.
CONNECT_S = 1.0
# After a reconnect: enough to be quick, few enough not to starve the pool.
REPAIRS_AT_ONCE = 50
# An event beyond this is not pushed, since it is not held for a socket that takes no more.
LONG_BYTES = 16 * 1024
# How a state begins of which the latest is kept.
_PROGRESS = b'{"type":"run.progress"'
# What a response may take to end when the worker goes.
DRAIN_S = 1.5


class Count(Protocol):
    """Adds to a counter."""

    def __call__(self, name: str, by: int = 1) -> None: ...


def _nowhere(name: str, by: int = 1) -> None:
    return


class Hub:
    """Opened by the lifespan, told to drain by the worker before its sockets close. `count` is
    told what readers got and met, and of repairs and reconnects."""

    def __init__(
        self,
        redis_url: str,
        streams: Streams,
        name: str,
        count: Count = _nowhere,
    ) -> None:
        self.count = count
        self._streams = streams
        self._feeds: dict[bytes, Feed] = {}
        self._subscription = Subscription(
            redis_url, name, self._feeds, self._message, self._confirmed
        )
        self._repairs = asyncio.Semaphore(REPAIRS_AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []
        self._emptied = asyncio.Event()
        self.subscribers: set[Subscriber] = set()
        # Of those who wait for an end without a stream: set when this worker goes.
        self.waiting: set[asyncio.Event] = set()
        self.draining = False
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
        try:
            if feed.followers == 1:
                self._subscription.subscribe(feed)
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
        if feed.followers > 0:
            return
        channel = keys.channel(feed.run_id).encode()
        if self._feeds.get(channel) is feed:
            del self._feeds[channel]
            self._subscription.unsubscribe(channel)
        if feed.repairing is not None:
            feed.repairing.cancel()

    def attach(self, feed: Feed, follower: Follower) -> bool:
        """Onto the live path; False where the follower must read once more first."""
        if not feed.attach(follower):
            return False
        if feed.newest > feed.head:
            self._repair(feed)
        return True

    def _confirmed(self, feed: Feed) -> None:
        if not feed.ready.done():
            feed.ready.set_result(None)
        else:
            # Subscribed anew: whatever was published meanwhile is in the stream.
            self.count("feeds_resubscribed")
            self._repair(feed)

    def _message(self, feed: Feed, payload: bytes) -> None:
        """What append.lua publishes: `<attempt>-<before>-<at>` and an event, or
        `<attempt>-s-<count>` and a state."""
        where, _, data = payload.partition(b" ")
        try:
            attempt, before, at = where.split(b"-")
            if before == b"s":
                self._state(feed, int(attempt), int(at), data)
                return
            number = ids.number(int(attempt), int(at))
            next_in_line = ids.follows(ids.number(int(attempt), int(before)), feed.head)
        except ValueError:
            log.warning("run %s: a message that is not an event was published", feed.run_id)
            return
        if number <= feed.head:
            return
        carried = 0 < len(data) <= LONG_BYTES
        if feed.live and feed.repairing is None and next_in_line and carried:
            self._deliver(feed, Frame(number, data, feed.tag))
            return
        if number > feed.newest:
            feed.newest = number
        if feed.live:
            self._repair(feed)

    def _state(self, feed: Feed, attempt: int, count: int, data: bytes) -> None:
        if data.startswith(_PROGRESS):
            # Whoever has read before it was said, and is not live yet, reads once more.
            feed.progress = max(feed.progress, ids.number(attempt, count))
        # Of another attempt: it would be cleared, or be cleared too late.
        if feed.live and attempt == ids.split(feed.head)[0]:
            self._tell(feed, data, count)

    def _tell(self, feed: Feed, data: bytes, count: int) -> None:
        self.count("events_delivered", len(feed.live))
        feed.tell(Frame(0, data, feed.tag), count)

    def _deliver(self, feed: Feed, frame: Frame) -> None:
        attempt, _ = ids.split(frame.number)
        if 0 < ids.split(feed.head)[0] < attempt:
            again = events.restarted(attempt, "attempt")
            feed.dispatch(Frame(ids.number(attempt, 0), again, feed.tag))
            for follower in feed.live:
                # What was told is void, and the store may have lost the count as well.
                follower.states = -1
        followers = len(feed.live)
        self.count("events_delivered", followers)
        feed.dispatch(frame)
        if len(feed.live) < followers and not frame.terminal:
            # The slow ones get it later.
            self.count("events_delivered", len(feed.live) - followers)

    # Repair

    def _repair(self, feed: Feed) -> None:
        if feed.repairing is None and feed.live:
            self.count("feeds_repaired")
            feed.repairing = asyncio.create_task(self._repair_from_stream(feed))

    async def _repair_from_stream(self, feed: Feed) -> None:
        """Read what is missing and dispatch it, until nothing newer is known."""
        try:
            async with self._repairs:
                while feed.live:
                    expected, progress = feed.newest, feed.progress
                    reading = await self._streams.read_log(feed.run_id, feed.head)
                    if reading is None:
                        feed.lose()
                        continue
                    feed.believe(reading.head, reading.states, progress)
                    if reading.is_ahead or reading.head < expected:
                        feed.rewind(reading.head)
                    elif self._dispatch(feed, reading):
                        if not feed.knows_more(feed.head, reading.states):
                            return
        except StoreError as error:
            # The next message or sweep tries again.
            log.warning("a repair has to wait: %s", error)
        except Exception:
            log.exception("a repair failed")
        finally:
            feed.repairing = None

    def _dispatch(self, feed: Feed, reading: Reading) -> bool:
        """Whether it leads from the feed's head to where the tape ends now."""
        feed.newest = max(feed.newest, reading.head)
        for entry in reading.entries:
            if len(entry.data) > LONG_BYTES:
                # More than is held for a socket that takes no more: each reads it in pieces.
                feed.scatter()
                return True
            self._deliver(feed, Frame(entry.number, entry.data, feed.tag))
        if reading.is_whole:
            if reading.progress and not reading.ended:
                self._tell(feed, reading.progress, reading.states)
            return True
        if not reading.entries:
            # Nothing leads on from there: what each of them has seen is looked at anew.
            feed.scatter()
        return False

    # One timer for all

    async def _beat(self) -> None:
        """Each second a fifteenth of the readers gets its ping and of the runs its sweep. The
        pings do not wait for the store: a sweep that takes long is a task of its own."""
        turn = 0
        sweeping: asyncio.Task[None] | None = None
        while True:
            await asyncio.sleep(1)
            self.second += 1
            turn = (turn + 1) % TURNS
            for subscriber in list(self.subscribers):
                if subscriber.turn == turn:
                    subscriber.beat()
            if sweeping is None or sweeping.done():
                feeds = [feed for feed in self._feeds.values() if feed.turn == turn]
                sweeping = asyncio.create_task(self._sweep_safely(feeds))

    async def _sweep_safely(self, feeds: Sequence[Feed]) -> None:
        try:
            await self._sweep(feeds)
        except StoreError as error:
            log.warning("a sweep has to wait: %s", error)
        except Exception:
            log.exception("a sweep failed")

    async def _sweep(self, feeds: Sequence[Feed]) -> None:
        """Compare each followed run with its record: the last message may have been lost."""
        for start in range(0, len(feeds), REPAIRS_AT_ONCE):
            some = feeds[start : start + REPAIRS_AT_ONCE]
            heads = [feed.head for feed in some]
            numbers = await self._streams.last_numbers([feed.run_id for feed in some])
            for feed, head, number in zip(some, heads, numbers, strict=True):
                if number is None:
                    feed.lose()
                elif number > feed.head:
                    feed.newest = max(feed.newest, number)
                    self._repair(feed)
                elif number < head:
                    feed.rewind(number)
