"""The hub: what a web worker has one of. From one subscribing connection to all its readers.

Invariant: every event of a followed run reaches each of its followers in order, once, whatever
messages are lost: a hole is repaired from the stream at once, a silent loss within `TURNS` s.
Subscribe, await the confirmation, then read: nothing falls between.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from plateau_sse import tasks
from plateau_sse.errors import StoreError, StoreUnavailable
from plateau_sse.live.feed import Feed, Follower
from plateau_sse.live.kept import Kept
from plateau_sse.live.sse import TURNS, Frame
from plateau_sse.live.subscriber import Subscriber
from plateau_sse.live.subscriptions import subscribing
from plateau_sse.store.figures.tally import DIALECTS
from plateau_sse.store.redis import keys
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.streams import Streams

log = logging.getLogger("plateau.hub")

CONFIRM_S = 5.0
# Without a connection: long enough for a worker that has just come up.
CONNECT_S = 1.0
# Between attempts at a repair, ever longer.
AGAIN_S, AGAIN_MOST_S = 0.1, 1.0
# For the first newcomer of a feed to be live, which takes milliseconds.
LEAD_S = 0.2
# After a reconnect: enough to be quick, few enough not to starve the pool.
REPAIRS_AT_ONCE = 50
# An event beyond this is not pushed, since it is not held for a socket that takes no more.
LONG_BYTES = 16 * 1024
# How a state begins of which the latest is kept.
_PROGRESS = b'{"type":"run.progress"'
# Made once, and not an event.
_DELIVERED = {dialect: f"events_delivered_{dialect}" for dialect in DIALECTS}
# What a response may take to end when the worker goes.
DRAIN_S = 1.5


class Count(Protocol):
    """Adds to a counter."""

    def __call__(self, name: str, by: int = 1) -> None: ...


def nowhere(name: str, by: int = 1) -> None:
    return


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
        self._repairs_streams = repairs or streams
        self._feeds: dict[bytes, Feed] = {}
        self._subscription = subscribing(
            redis_url, name, self._feeds, self._message, self._confirmed
        )
        self._repairs = asyncio.Semaphore(REPAIRS_AT_ONCE)
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
            self._repair(feed)
        return True

    def _confirmed(self, feed: Feed) -> None:
        if not feed.ready.done():
            feed.ready.set_result(None)
        else:
            # Subscribed anew: whatever was published meanwhile is in the stream.
            self.count("feeds_resubscribed")
            feed.generation += 1
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
                self.count(_DELIVERED[alone.stand.dialect.name])
                return
            frame = Frame(number, data, feed.tag)
            if not feed.owes(frame):
                self._deliver(feed, frame)
                return
        if number > feed.newest:
            feed.newest = number
        if feed.live:
            self._repair(feed, hole=not in_order)

    def _state(self, feed: Feed, attempt: int, count: int, data: bytes) -> None:
        if data.startswith(_PROGRESS):
            # Whoever has read before it was said, and is not live yet, reads once more.
            feed.progress = max(feed.progress, ids.number(attempt, count))
        # Of another attempt: it would be cleared, or be cleared too late.
        if feed.live and attempt == ids.split(feed.head)[0]:
            self._tell(feed, data, count)

    def _tell(self, feed: Feed, data: bytes, count: int) -> None:
        if feed.kept is not None:
            feed.kept.state(count, data if data.startswith(_PROGRESS) else b"")
        frame = Frame(0, data, feed.tag)
        feed.tell(frame, count)
        self._count(frame)

    def _deliver(self, feed: Feed, frame: Frame) -> None:
        if feed.head and not ids.of_one_attempt(feed.head, frame.number):
            attempt, _ = ids.split(frame.number)
            again = events.restarted(attempt, "attempt")
            self._give(feed, Frame(ids.number(attempt, 0), again, feed.tag))
            for follower in feed.live:
                # What was told is void, and the store may have lost the count as well.
                follower.states = -1
        self._give(feed, frame)

    def _give(self, feed: Feed, frame: Frame) -> None:
        feed.dispatch(frame)
        self._count(frame)

    def _count(self, frame: Frame) -> None:
        told = frame.tellings
        while told is not None:
            self.count(_DELIVERED[told.before.dialect.name], told.taken)
            told = told.earlier

    # Repair

    def _repair(self, feed: Feed, *, hole: bool = True) -> None:
        """Where there is no `hole`, something is to be read before what is next can be told."""
        if feed.repairing is None and feed.live:
            if hole:
                self.count("feeds_repaired")
            feed.repairing = asyncio.create_task(self._repair_from_stream(feed))

    async def _repair_from_stream(self, feed: Feed) -> None:
        """Read what is missing and dispatch it, until nothing newer is known. Nobody else does:
        the message that would show the hole again may never come."""
        wait_s = AGAIN_S
        try:
            while feed.live:
                try:
                    async with self._repairs:
                        while feed.live and not await self._repair_once(feed):
                            continue
                    return
                except StoreError as error:
                    log.warning("a repair has to wait: %s", error)
                except Exception:
                    log.exception("a repair failed")
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
                wait_s = min(AGAIN_MOST_S, 2 * wait_s)
        finally:
            feed.repairing = None

    async def _repair_once(self, feed: Feed) -> bool:
        """Whether nothing newer is known afterwards."""
        expected, progress, generation = feed.newest, feed.progress, feed.generation
        reading = await self._repairs_streams.read_log(feed.run_id, feed.head)
        if reading is None:
            feed.lose()
            return True
        feed.believe(reading.head, reading.states, progress)
        if reading.is_ahead or reading.head < expected:
            feed.rewind(reading.head)
            return True
        if not await self._dispatch(feed, reading):
            return False
        # Where it was subscribed anew meanwhile, the reading may be from before the gap.
        return generation == feed.generation and not feed.knows_more(feed.head, reading.states)

    async def _dispatch(self, feed: Feed, reading: Reading) -> bool:
        """Whether it leads from the feed's head to where the tape ends now."""
        feed.newest = max(feed.newest, reading.head)
        for entry in reading.entries:
            if len(entry.data) > LONG_BYTES:
                # More than is held for a socket that takes no more: each reads it in pieces.
                feed.scatter()
                return True
            frame = Frame(entry.number, entry.data, feed.tag)
            if feed.owes(frame):
                head = feed.head
                await self._fill(feed.run_id, frame)
                if feed.head != head:
                    # Somebody has found meanwhile that the tape was rewound.
                    return False
            self._deliver(feed, frame)
        if reading.is_whole:
            if reading.progress and not reading.ended:
                self._tell(feed, reading.progress, reading.states)
            return True
        if not reading.entries:
            # Nothing leads on from there: what each of them has seen is looked at anew.
            feed.scatter()
        return False

    async def _fill(self, run_id: str, frame: Frame) -> None:
        """Read what is due before the frame can be told, once for all who are told the same.
        Where that is more than is pushed, or gone, each of them reads it when it is told."""
        attempt, _ = ids.split(frame.number)
        for told in frame.owing():
            due = told.due
            if due is None or due.end - due.start > LONG_BYTES:
                continue
            found = await self._repairs_streams.recall(
                run_id, attempt, due.start, due.end, points=due.points
            )
            if found is not None and len(content := due.make(*found)) <= LONG_BYTES:
                told.fill(content)

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
            await self._sweep([feed for feed in self._feeds.values() if feed.turn in swept])
            return
        except StoreError as error:
            log.warning("a sweep has to wait: %s", error)
        except Exception:
            log.exception("a sweep failed")
        due.update(swept)

    async def _sweep(self, feeds: Sequence[Feed]) -> None:
        """Compare each followed run with its record: the last message may have been lost."""
        for start in range(0, len(feeds), REPAIRS_AT_ONCE):
            some = feeds[start : start + REPAIRS_AT_ONCE]
            heads = [feed.head for feed in some]
            numbers = await self._repairs_streams.last_numbers([feed.run_id for feed in some])
            for feed, head, number in zip(some, heads, numbers, strict=True):
                if number is None:
                    feed.lose()
                elif number > feed.head:
                    feed.newest = max(feed.newest, number)
                    self._repair(feed)
                elif number < head:
                    feed.rewind(number)
