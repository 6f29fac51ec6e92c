"""One attempt's events on their way into the stream.

Invariant: events enter the stream in the order in which they were put, each once, whatever the
connection does: a batch is sent again under the same number until the script answers. What
waits here is bounded; a producer that is faster than Redis waits.

The tape has each event the moment that it is put, and nothing regroups what was put: so it is
the one in the store, position by position.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from plateau_sse.errors import StoreFull, StoreUnavailable
from plateau_sse.runner.holding import COALESCE_S, Drafts, Held
from plateau_sse.runner.yields import Draft, Piece
from plateau_sse.store.runs import events
from plateau_sse.store.runs.appending import Appended
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.streams import Streams
from plateau_sse.store.runs.tape import Tape

# What may wait for Redis before the agent has to.
PENDING_EVENTS = 100
PENDING_CHARS = 64 * 1024
# The stream keeps as many: what is gone from there cannot be asked for again.
RING = 100
RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)
# Runs that end make room in a full store: who is at its end waits so long for that.
FULL_S = 30.0

T = TypeVar("T")


async def insist(
    call: Callable[[], Awaitable[T]], full_s: Callable[[], float] = lambda: FULL_S
) -> T:
    """What `call` gives once the store answers. Whether it was done before it fell silent is
    unknown: `call` must bear repeating. The attempt's lease bounds how long this goes on; where
    the store has been full for `full_s()` it raises StoreFull."""
    tries, full_since = 0, float("inf")
    while True:
        try:
            return await call()
        except StoreUnavailable:
            full_since = float("inf")
        except StoreFull:
            full_since = min(full_since, time.monotonic())
            if time.monotonic() - full_since >= full_s():
                raise
        await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
        tries += 1


def without_room(last: Event) -> Event:
    """How a run ends of which some is lost for good: that is no answer."""
    if last.arg == "cancelled":
        return last
    message = f"The store has been full for {FULL_S:g} s."
    return events.failed("store_full", message, retryable=True)


class Refused(Exception):
    """The script refused: `code` is fenced, ended, gone, version, full, part or gap
    (beyond the ring)."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Writer:
    """`seq` is that of the attempt's last event, the one that claimed it, which is on `tape`
    already."""

    def __init__(self, streams: Streams, run_id: str, seq: int, tape: Tape) -> None:
        self._streams = streams
        self._run_id = run_id
        self._seq = seq
        self.tape = tape
        self._held = Held(tape)
        self._drafts = Drafts()
        self._pending: list[Event] = []
        self._chars = 0
        self._ring: deque[Event] = deque(maxlen=RING)
        self._sent_at = self._opened_at = float("-inf")
        self._hurried = asyncio.Event()
        # While the agent is on, its time bounds how long a full store is waited for.
        self._full_s = float("inf")
        self._flushing: asyncio.Task[None] | None = None

    async def say(self, piece: Piece) -> None:
        """Add to the answer, or to what is thought. Raises TooLarge."""
        self._held.add(piece)
        await self._added()

    async def event(self, event: Event) -> None:
        """A mark, after all that was said before it; or a state, which ends no part: where
        parts take turns too often it goes before what waits. Raises TooLarge."""
        if event.op == "m":
            self._held.check_mark()
            self._put_held(ending=True)
        else:
            self._put_held(opening=self._held.keeps_order)
        self._put([event])
        await self._added()

    async def call(self, call_id: str, event: Event) -> None:
        """A tool's call: nothing more is told of how it was written."""
        self._drafts.drop(call_id)
        await self.event(event)

    async def draft(self, draft: Draft) -> None:
        """As far as a call has been written."""
        self._drafts.add(draft)
        await self._added()

    async def step(self, event: Event) -> None:
        """The mark of a new step, whose calls are others than those before."""
        self._drafts.begin_step()
        await self.event(event)

    async def close(self, last: Event) -> None:
        """All that was said is on the tape, and on its way, before the end that is to come.
        Raises StoreFull where there is no room for it: then `finish` ends it without."""
        # Nobody waits for what a cancelled one had still to say, and its end makes room.
        self._full_s = 0.0 if last.arg == "cancelled" else FULL_S
        self._drafts.clear()
        self._put_held(ending=True)
        self._hurried.set()
        await self._added()

    async def finish(self, last: Event, *, output: str | None = None) -> Event:
        """Everything that waits, then the terminal event, with the record's end. Gives the
        event that the run has ended with: another one where the store stays full."""

        def send(batch: list[Event], first_seq: int) -> Awaitable[Appended]:
            return self._streams.finish(
                self._run_id, self.tape.attempt, batch, first_seq=first_seq, output=output
            )

        try:
            await self.close(last)
            await self._settle()
            self._put([last])
            await self._send_pending(send)
        except StoreFull:
            return await self._end_alone(last)
        return last

    async def _end_alone(self, last: Event) -> Event:
        """The script has room for an end."""
        last = without_room(last)
        end = partial(self._streams.end, self._run_id, self.tape.attempt, last)
        ended = await insist(end)
        if ended.code != "ok":
            raise Refused(ended.code)
        return last

    async def abandon(self) -> None:
        """Send nothing more."""
        if self._flushing is not None:
            self._flushing.cancel()
            # Also where it has ended: what it was refused with is nobody's business any more.
            await asyncio.gather(self._flushing, return_exceptions=True)
        # What it was refused with remembers where: here.
        self._flushing = None

    async def _added(self) -> None:
        if self._flushing is None or self._flushing.done():
            # What the script refused ends the agent.
            await self._settle()
            if self._wait_s() is not None:
                self._flushing = asyncio.create_task(self._flush())
                # On its way before the agent goes on, which may have a whole burst at hand.
                await asyncio.sleep(0)
        if (
            self._chars + self._held.chars > PENDING_CHARS
            or len(self._pending) > PENDING_EVENTS
        ):
            self._hurried.set()
            await self._settle()

    async def _settle(self) -> None:
        """Wait until nothing waits. Who is cancelled meanwhile leaves the batch on its way: cut
        off, it might be in the stream, and the next would be taken for its repeat."""
        if self._flushing is not None:
            await asyncio.shield(self._flushing)

    async def _flush(self) -> None:
        while (wait_s := self._wait_s()) is not None:
            if wait_s > 0 and not self._hurried.is_set():
                # What is put meanwhile may not have to wait as long.
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(wait_s, COALESCE_S)):
                        await self._hurried.wait()
                continue
            self._put_ripe()
            self._hurried.clear()
            await self._send_pending(self._append)

    def _wait_s(self) -> float | None:
        """Until the next of it is to be sent; None where nothing is."""
        goes_on, opens = self._held.what_waits()
        times: list[float] = []
        if self._pending or goes_on:
            times.append(self._sent_at + COALESCE_S)
        if opens:
            times.append(max(self._sent_at + COALESCE_S, self._opened_at + self._held.hold_s))
        if (due := self._drafts.due) is not None:
            times.append(max(self._sent_at + COALESCE_S, due))
        return min(times) - time.monotonic() if times else None

    def _put_ripe(self) -> None:
        now, hurried = time.monotonic(), self._hurried.is_set()
        self._put_held(opening=hurried or now >= self._opened_at + self._held.hold_s)
        self._put(self._drafts.take(now))

    def _put_held(self, *, opening: bool = True, ending: bool = False) -> None:
        points = len(self.tape.points)
        self._put(self._held.take(opening=opening, ending=ending))
        if len(self.tape.points) > points:
            self._opened_at = time.monotonic()

    def _put(self, batch: list[Event]) -> None:
        """The one place at which the tape grows; in this order it is sent."""
        for event in batch:
            self._pending.append(event)
            self._chars += len(event.data)
            self.tape.add(event)

    def _append(self, batch: list[Event], first_seq: int) -> Awaitable[Appended]:
        return self._streams.append(self._run_id, self.tape.attempt, batch, first_seq=first_seq)

    async def _send_pending(
        self, send: Callable[[list[Event], int], Awaitable[Appended]]
    ) -> None:
        batch, self._pending, self._chars = self._pending, [], 0
        self._sent_at = time.monotonic()
        first = self._seq + 1
        while batch:
            # The script recognises a repeat.
            appended = await insist(partial(send, batch, first), lambda: self._full_s)
            if appended.code in ("ok", "dup"):
                break
            lost = first - 1 - appended.seq
            if appended.code != "gap" or not 0 < lost <= len(self._ring):
                raise Refused(appended.code)
            # The store came back without its last second: send that again, too.
            batch = [*list(self._ring)[-lost:], *batch]
            for _ in range(lost):
                self._ring.pop()
            first = appended.seq + 1
        self._ring.extend(batch)
        self._seq = first + len(batch) - 1
