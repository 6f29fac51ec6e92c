"""Repairs: reading from the stream what no message has told.

Invariant: where something is missing it is read and given until nothing newer is known,
whatever fails meanwhile: the message that would show the hole again may never come.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

from plateau_sse.errors import StoreError
from plateau_sse.live.delivery import Count, Delivery
from plateau_sse.live.feed import Feed
from plateau_sse.live.sse import Frame
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.looks import Looks
from plateau_sse.store.runs.reading import Reading

log = logging.getLogger("plateau.hub")

# Between attempts at a repair, ever longer.
AGAIN_S, AGAIN_MOST_S = 0.1, 1.0
# After a reconnect: enough to be quick, few enough not to starve the pool.
REPAIRS_AT_ONCE = 50
# An event beyond this is not pushed, since it is not held for a socket that takes no more.
LONG_BYTES = 16 * 1024


class Repairs:
    """One a worker; `streams` is the store over connections that no reader waits for."""

    def __init__(self, streams: Looks, delivery: Delivery, count: Count) -> None:
        self._streams = streams
        self._delivery = delivery
        self._count = count
        self._room = asyncio.Semaphore(REPAIRS_AT_ONCE)

    def repair(self, feed: Feed, *, hole: bool = True) -> None:
        """Where there is no `hole`, something is to be read before what is next can be told."""
        if feed.repairing is None and feed.live:
            if hole:
                self._count("feeds_repaired")
            feed.repairing = asyncio.create_task(self._until_whole(feed))

    async def _until_whole(self, feed: Feed) -> None:
        """Read what is missing and dispatch it, until nothing newer is known."""
        wait_s = AGAIN_S
        try:
            while feed.live:
                try:
                    async with self._room:
                        while feed.live and not await self._once(feed):
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

    async def _once(self, feed: Feed) -> bool:
        """Whether nothing newer is known afterwards."""
        expected, progress, generation = feed.newest, feed.progress, feed.generation
        head = feed.head
        reading = await self._streams.read_log(feed.run_id, head)
        if reading is None:
            feed.lose()
            return True
        if feed.head != head:
            # Who was live has gone, and another has come at another place: from there it does
            # not lead on, and what is kept would have the same twice.
            return False
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
            self._delivery.deliver(feed, frame)
        if reading.is_whole:
            if reading.progress and not reading.ended:
                self._delivery.tell(feed, reading.progress, reading.states)
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
            if due is None:
                continue
            if due.end is not None and due.end - due.start > LONG_BYTES:
                continue
            found = await self._streams.recall(
                run_id, attempt, due.start, due.end, points=due.points
            )
            if found is not None and len(content := due.make(*found)) <= LONG_BYTES:
                told.fill(content)

    async def sweep(self, feeds: Sequence[Feed]) -> None:
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
                    self.repair(feed)
                elif number < head:
                    feed.rewind(number)
