"""One attempt's events on their way into the stream.

Invariant: events enter the stream in the order in which they were put, each once, whatever the
connection does: a batch is sent again under the same number until the script answers. What
waits here is bounded; a producer that is faster than Redis waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from plateau_sse.errors import StoreUnavailable
from plateau_sse.store.runs import events
from plateau_sse.store.runs.appending import Appended
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.streams import Streams

# The first piece at once, then pieces of this age: a token a piece would fill the 100 entries
# with less than most answers.
COALESCE_S = 0.03
# What may wait for Redis before the agent has to.
PENDING_EVENTS = 100
PENDING_CHARS = 64 * 1024
# The stream keeps as many: what is gone from there cannot be asked for again.
RING = 100
RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)


T = TypeVar("T")


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """What `call` gives once the store answers. Whether it was done before it fell silent is
    unknown: `call` must bear repeating. The attempt's lease bounds how long this goes on."""
    tries = 0
    while True:
        try:
            return await call()
        except StoreUnavailable:
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
            tries += 1


class Refused(Exception):
    """The script refused: `code` is fenced, ended, gone or gap (beyond the ring)."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Writer:
    """`seq` is that of the attempt's last event, the one that claimed it."""

    def __init__(self, streams: Streams, run_id: str, attempt: int, seq: int) -> None:
        self._streams = streams
        self._run_id = run_id
        self._attempt = attempt
        self._seq = seq
        self._text: list[str] = []
        self._pending: list[Event] = []
        self._chars = 0
        self._ring: deque[Event] = deque(maxlen=RING)
        self._sent_at = float("-inf")
        self._flushing: asyncio.Task[None] | None = None

    async def text(self, piece: str) -> None:
        """Add to the answer."""
        self._text.append(piece)
        await self._added(len(piece))

    async def event(self, event: Event) -> None:
        """Anything else, after the text that came before it."""
        self._close_text()
        self._pending.append(event)
        await self._added(len(event.data))

    async def finish(
        self, last: Event, *, usage: dict[str, int] | None = None, output: str | None = None
    ) -> None:
        """Everything that waits, then the terminal event, with the record's end."""
        await self._settle()
        self._close_text()
        self._pending.append(last)

        def send(batch: list[Event], first_seq: int) -> Awaitable[Appended]:
            return self._streams.finish(
                self._run_id,
                self._attempt,
                batch,
                first_seq=first_seq,
                usage=usage,
                output=output,
            )

        await self._send_pending(send)

    async def abandon(self) -> None:
        """Send nothing more."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)

    async def _added(self, chars: int) -> None:
        self._chars += chars
        if self._flushing is None or self._flushing.done():
            # What the script refused ends the agent.
            await self._settle()
            self._flushing = asyncio.create_task(self._flush())
            # On its way before the agent goes on, which may have a whole burst at hand.
            await asyncio.sleep(0)
        if self._chars > PENDING_CHARS or len(self._pending) > PENDING_EVENTS:
            await self._settle()

    async def _settle(self) -> None:
        """Wait until nothing waits. Who is cancelled meanwhile leaves the batch on its way: cut
        off, it might be in the stream, and the next would be taken for its repeat."""
        if self._flushing is not None:
            await asyncio.shield(self._flushing)

    async def _flush(self) -> None:
        while self._text or self._pending:
            wait_s = self._sent_at + COALESCE_S - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self._close_text()
            await self._send_pending(self._append)

    def _close_text(self) -> None:
        if self._text:
            self._pending.append(events.delta("".join(self._text)))
            self._text.clear()

    def _append(self, batch: list[Event], first_seq: int) -> Awaitable[Appended]:
        return self._streams.append(self._run_id, self._attempt, batch, first_seq=first_seq)

    async def _send_pending(
        self, send: Callable[[list[Event], int], Awaitable[Appended]]
    ) -> None:
        batch, self._pending, self._chars = self._pending, [], 0
        self._sent_at = time.monotonic()
        first = self._seq + 1
        while batch:
            # The script recognises a repeat.
            appended = await insist(partial(send, batch, first))
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
