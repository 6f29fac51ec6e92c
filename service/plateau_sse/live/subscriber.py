"""Subscribers: one for each open response.

Invariant: a subscriber has no queue. While its socket takes bytes, events are pushed through it
the moment they come; when it does not, the subscriber is a position on the tape (and a place
within an event that is larger than a piece) and nothing more, and reads on from there once the
socket takes bytes again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Send

from plateau_sse.errors import StoreError
from plateau_sse.live import sse, telling
from plateau_sse.live.feed import Feed
from plateau_sse.live.sse import TURNS, Frame, next_turn
from plateau_sse.live.telling import PIECE_BYTES
from plateau_sse.store.queue.queue import LEASE_S
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.streams import Streams
from plateau_sse.store.runs.tape import Entry

if TYPE_CHECKING:
    from plateau_sse.live.hub import Hub

log = logging.getLogger("plateau.hub")

# How often a reader looks that has seen more than the store has.
LOOK_AGAIN_S = 0.5
# Neither an event nor progress for so long: longer than a run may be silent as shipped.
STALE_S = 600


class _NeverWritable:
    """For servers other than uvicorn: nothing is pushed, everything is read and awaited."""

    write_paused = True

    async def drain(self) -> None:
        return


class Subscriber:
    """Follows one run for one response, and parts from its feed at the end. `position` is the
    where the events end that it was given, `states` the count of the last state it was told, -1
    before any."""

    __slots__ = (
        "_catching_up",
        "_connection",
        "_done",
        "_feed",
        "_flow",
        "_hub",
        "_leaving",
        "_named",
        "_pushes",
        "_quiet_turns",
        "_reading",
        "_seen_at_turn",
        "_send",
        "_sent",
        "_shares",
        "_streams",
        "opened_at",
        "position",
        "states",
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
        self._connection: Any = getattr(send, "__self__", None)
        self._flow: Any = getattr(self._connection, "flow", _NeverWritable())
        self._pushes = not isinstance(self._flow, _NeverWritable)
        self._named = named
        self._shares = not named and getattr(self._connection, "chunked_encoding", None) is True
        self._catching_up: asyncio.Task[None] | None = None
        self._done = False
        # Why this response ends before its run does: moved, stale or lost.
        self._leaving = ""
        self._quiet_turns = 0
        self._seen_at_turn = position
        # Bytes of the next event that the socket has taken already.
        self._sent = 0
        self.states = -1
        # In the hub's seconds.
        self.opened_at = hub.second
        self.position = position
        self.turn = next_turn()

    async def run(self, receive: Receive) -> None:
        """From the first reading to the end of the response, or of the client's patience."""
        self._hub.enter(self)
        self._hub.count("responses_opened")
        if self._seen_at_turn:
            self._hub.count("responses_resumed")
        try:
            await self._catch_up()
            while not self._done:
                if (await receive())["type"] == "http.disconnect":
                    return
        finally:
            reason = self._leaving or ("ended" if self._done else "left")
            self._hub.count(f"responses_closed_{reason}")
            self._hub.exit(self)
            self._feed.live.discard(self)
            self._hub.part(self._feed)
            if self._catching_up is not None:
                self._catching_up.cancel()

    # The live path: called by the feed and the hub's timer

    def push(self, frame: Frame) -> bool:
        """Hand the frame to the socket; False where that would have to wait."""
        if self._flow.write_paused:
            return False
        if frame.number:
            self.position = frame.number
        if self._shares and not frame.terminal:
            # What `send` would do, without making a coroutine, and the chunk anew, for each.
            if not self._connection.disconnected:
                self._connection.transport.write(frame.chunk)
            return True
        self._write(frame.named() if self._named else frame.message())
        self._done = frame.terminal
        return True

    def beat(self) -> None:
        """Once every `TURNS` seconds: a ping, or the end of a response that has gone stale."""
        seen = self.position + self.states
        self._quiet_turns = self._quiet_turns + 1 if seen == self._seen_at_turn else 0
        self._seen_at_turn = seen
        writable = not self._flow.write_paused
        # Whoever catches up may be in the middle of a frame.
        live = self in self._feed.live and writable
        if self._quiet_turns * TURNS >= STALE_S:
            self._leaving = "stale"
            log.info("run %s: a response is swept, nothing came for so long", self._feed.run_id)
            if live:
                self._end(sse.retry())
            elif not writable:
                self.abort()
        elif live:
            self._write(sse.PING)

    def lag(self) -> None:
        """Leave the live path; a task of its own, for as long as it takes, reads on."""
        if self._catching_up is None or self._catching_up.done():
            self._hub.count("readers_slow")
            log.info("run %s: a reader is too slow for the live path", self._feed.run_id)
            self._catching_up = asyncio.ensure_future(self._catch_up_later())

    def lose(self) -> None:
        self._leaving = "lost"
        if self._flow.write_paused:
            self.lag()
        else:
            self._end(telling.lost())

    def leave(self) -> None:
        """The worker goes: end in good order, the client comes back to another one."""
        self._leaving = "moved"
        if self in self._feed.live and not self._flow.write_paused:
            self._feed.live.discard(self)
            self._end(sse.retry())

    def abort(self) -> None:
        """Cut a connection that neither reads nor ends."""
        transport = getattr(self._connection, "transport", None)
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
            await self._catch_up()
        except Exception:
            log.exception("a reader could not catch up")
            self.abort()

    async def _catch_up(self) -> None:
        """Read and deliver until nothing newer is known, then take to the live path. While the
        store is away the response stays open: whoever waits need not come back."""
        turn = 0
        while not self._gone():
            try:
                # Nothing is read, and held, for a socket that takes no more.
                await self._flow.drain()
                if await self._read_on():
                    return
            except StoreError as error:
                if turn == 0:
                    log.warning("a reader waits for the store: %s", error)
                turn += 1
                if turn % TURNS == 0 and not self._sent:
                    await self._send(sse.PING)
                await asyncio.sleep(random.uniform(0.5, 1.5))
            if self._leaving and not self._done:
                if self._sent:
                    self.abort()
                    return
                await self._send_in_pieces(sse.retry(), last=True)

    def _gone(self) -> bool:
        return self._done or bool(getattr(self._connection, "disconnected", False))

    async def _read_on(self) -> bool:
        """One reading, delivered; whether the live path has taken over."""
        feed = self._feed
        reading, self._reading = self._reading, None
        if reading is None:
            reading = await self._read_anew(feed)
        if reading is None:
            await self._send_in_pieces(telling.lost(), last=True)
            return False
        if reading.is_ahead:
            await self._wait_for_tape(reading)
            return False
        if reading.restarts and not self._begin_anew():
            return False
        items = telling.items(reading, self.states)
        whole, ended, states = reading.is_whole, reading.ended, reading.states
        reached = reading.reached
        del reading
        last = ended and whole
        if last and not items:
            await self._send_in_pieces(b"", last=True)
            return False
        if not self._pushes:
            content = sse.encode_all(items, tag=feed.tag, named=self._named)
            await self._send_in_pieces(content, last=last)
        elif not self._push_at_once(items, last=last):
            # The socket takes no more. The rest is read anew when it does.
            return False
        self.position = reached
        if not whole:
            return False
        self.states = states
        # Whoever has gone meanwhile must not come back: nobody would take it off again.
        stays = not ended and not self._leaving and self in self._hub.subscribers
        return stays and self._hub.attach(feed, self)

    async def _read_anew(self, feed: Feed) -> Reading | None:
        """What is not told yet; where it has less than messages told of, the feed learns it."""
        expected, progress = feed.newest, feed.progress
        reading = await self._streams.read(feed.run_id, self.position)
        if reading is not None:
            feed.believe(reading.head, reading.states, progress)
            if reading.head < expected <= feed.newest:
                feed.rewind(reading.head)
        return reading

    def _begin_anew(self) -> bool:
        """What was told is void, unless it ends within an event, which cannot be finished."""
        if self._sent:
            self.abort()
            return False
        # The store may have lost the count as well.
        self.states = -1
        return True

    async def _wait_for_tape(self, reading: Reading) -> None:
        """The store has come back without its last second. Its producer sends that again, byte
        for byte, within a lease's time; where nobody does, what was seen is not what the tape
        says now."""
        now = asyncio.get_running_loop().time
        deadline = now() + LEASE_S
        while not reading.ended and now() < deadline:
            await asyncio.sleep(LOOK_AGAIN_S)
            again = await self._streams.read(self._feed.run_id, self.position)
            if again is None or not again.is_ahead or self._gone() or self._leaving:
                return
            reading = again
        if self._sent:
            self.abort()
            return
        begun_anew = telling.restarted(reading, "rewound")
        self.position, self.states = begun_anew.number, -1
        content = sse.encode(*begun_anew, tag=self._feed.tag, named=self._named)
        await self._send_in_pieces(content, last=False)

    def _push_at_once(self, items: Sequence[Entry], *, last: bool) -> bool:
        """Hand over as many as the socket takes; whether those were all."""
        at = 0
        while at < len(items):
            if self._flow.write_paused:
                return False
            some, at = telling.group(items, at)
            content = sse.encode_all(some, tag=self._feed.tag, named=self._named)
            if not self._push_slices(content, last=last and at == len(items)):
                return False
            self.position = some[-1].number or self.position
            self._hub.count("events_delivered", len(some))
        return True

    def _push_slices(self, content: bytes, *, last: bool) -> bool:
        """What is larger than a piece goes in slices: `_sent` says how far it has come."""
        while len(content) - self._sent > 2 * PIECE_BYTES:
            if self._flow.write_paused:
                return False
            self._write(sse.body(content[self._sent : self._sent + PIECE_BYTES]))
            self._sent += PIECE_BYTES
        if self._flow.write_paused:
            return False
        rest = content[self._sent :]
        self._done, self._sent = last, 0
        self._write(sse.body(rest, last=last))
        return True

    async def _send_in_pieces(self, content: bytes, *, last: bool) -> None:
        for start in range(0, len(content), PIECE_BYTES):
            rest = start + PIECE_BYTES < len(content)
            piece = content[start : start + PIECE_BYTES]
            await self._send(sse.body(piece, last=last and not rest))
        if last and not content:
            await self._send(sse.body(b"", last=True))
        self._done = last
