"""Subscribers: one for each open response.

Invariant: a subscriber has no queue. While its socket takes bytes, events are pushed through it
the moment they come; when it does not, the subscriber is a position in the stream and nothing
more, and reads on from there once the socket takes bytes again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Send

from service.errors import StoreError
from service.live import sse
from service.live.feed import Feed
from service.live.sse import Frame, next_turn
from service.store import events
from service.store.streams import Reading, Streams

if TYPE_CHECKING:
    from service.live.hub import Hub

log = logging.getLogger("plateau.hub")

# What a reader that must catch up is handed at a time: the socket's pace decides the rest.
PIECE_BYTES = 8 * 1024


class _NeverWritable:
    """For servers other than uvicorn: nothing is pushed, everything is read and awaited."""

    write_paused = True

    async def drain(self) -> None:
        return


class Subscriber:
    """Follows one run for one response, and parts from its feed at the end. `position` is the
    number of the last event it was given."""

    __slots__ = (
        "_catching_up",
        "_done",
        "_feed",
        "_flow",
        "_hub",
        "_leaving",
        "_named",
        "_reading",
        "_send",
        "_streams",
        "position",
        "turn",
    )

    def __init__(
        self,
        hub: Hub,
        streams: Streams,
        feed: Feed,
        reading: Reading,
        send: Send,
        *,
        position: int,
        named: bool,
    ) -> None:
        self._hub = hub
        self._streams = streams
        self._feed = feed
        self._reading: Reading | None = reading
        self._send = send
        # Event routes stand ahead of all middleware, so `send` is uvicorn's own bound method,
        # and its object knows whether the socket takes more.
        self._flow: Any = getattr(getattr(send, "__self__", None), "flow", _NeverWritable())
        self._named = named
        self._catching_up: asyncio.Task[None] | None = None
        self._done = False
        self._leaving = False
        self.position = position
        self.turn = next_turn()

    async def run(self, receive: Receive) -> None:
        """From the first reading to the end of the response, or of the client's patience."""
        self._hub.enter(self)
        try:
            await self._catch_up(self._take_reading())
            while not self._done:
                if (await receive())["type"] == "http.disconnect":
                    return
        finally:
            self._hub.exit(self)
            self._feed.live.discard(self)
            self._hub.part(self._feed)
            if self._catching_up is not None:
                self._catching_up.cancel()

    def _take_reading(self) -> Reading | None:
        # Not kept: a parked reader must not hold on to what it has delivered.
        reading, self._reading = self._reading, None
        return reading

    # The live path: called by the feed and the hub's timer

    def push(self, frame: Frame) -> bool:
        """Hand the frame to the socket; False where that would have to wait."""
        if self._flow.write_paused:
            return False
        self.position = frame.number
        self._write(frame.named() if self._named else frame.message)
        self._done = frame.terminal
        return True

    def ping(self) -> None:
        """Only on the live path: whoever catches up may be in the middle of a frame."""
        if self in self._feed.live and not self._flow.write_paused:
            self._write(sse.PING)

    def lag(self) -> None:
        """Leave the live path; a task of its own, for as long as it takes, reads on."""
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.ensure_future(self._catch_up_later())

    def lose(self) -> None:
        if self._flow.write_paused:
            self.lag()
        else:
            self._end(_lost())

    def leave(self) -> None:
        """The worker goes: end in good order, the client comes back to another one."""
        self._leaving = True
        if self in self._feed.live and not self._flow.write_paused:
            self._feed.live.discard(self)
            self._end(sse.retry())

    def abort(self) -> None:
        """Cut a connection that neither reads nor ends."""
        transport = getattr(getattr(self._send, "__self__", None), "transport", None)
        if transport is not None:
            transport.abort()

    def _end(self, content: bytes) -> None:
        if not self._done and not self._flow.write_paused:
            self._done = True
            self._write(sse.body(content, last=True))

    def _write(self, message: sse.Message) -> None:
        # A socket that is not paused takes the bytes at once: uvicorn's send then never waits,
        # so one step runs it whole, without a task.
        step = self._send(message)
        try:
            step.send(None)  # type: ignore[attr-defined]
        except StopIteration:
            return
        step.close()  # type: ignore[attr-defined]
        raise RuntimeError("a send that should not have to wait did")

    # Catching up: at the start, and after the socket was full

    async def _catch_up_later(self) -> None:
        try:
            await self._flow.drain()
            await self._catch_up(None)
        except Exception:
            log.exception("a reader could not catch up")
            self.abort()

    async def _catch_up(self, reading: Reading | None) -> None:
        """Deliver `reading`, read again, and so on, until nothing newer is known."""
        try:
            await self._read_on(reading or await self._read())
        except StoreError as error:
            log.warning("a reader has to come back: %s", error)
            await self._send_in_pieces(sse.retry(), last=True)

    def _read(self) -> Awaitable[Reading | None]:
        return self._streams.read(self._feed.run_id, self.position)

    async def _read_on(self, reading: Reading | None) -> None:
        feed = self._feed
        while True:
            if reading is None:
                await self._send_in_pieces(_lost(), last=True)
                return
            await self._deliver(reading)
            if self._done:
                return
            if self._leaving:
                await self._send_in_pieces(sse.retry(), last=True)
                return
            if self._hub.attach(feed, self):
                return
            expected = feed.newest
            reading = await self._read()
            if reading is not None and reading.number < expected <= feed.newest:
                feed.rewind(reading.number)

    async def _deliver(self, reading: Reading) -> None:
        entries = reading.entries
        if reading.snapshot is not None:
            entries = [reading.snapshot, *entries]
        content = sse.encode_all(entries, named=self._named)
        await self._send_in_pieces(content, last=reading.ended)
        self.position = reading.number

    async def _send_in_pieces(self, content: bytes, *, last: bool) -> None:
        for start in range(0, len(content), PIECE_BYTES):
            rest = start + PIECE_BYTES < len(content)
            piece = content[start : start + PIECE_BYTES]
            await self._send(sse.body(piece, last=last and not rest))
        self._done = last


def _lost() -> bytes:
    """Without an id: it is in no stream, and a client that comes back learns 404 or 410."""
    end = events.failed("record_lost", "the store lost this run", retryable=True)
    return sse.encode(0, end.data)
