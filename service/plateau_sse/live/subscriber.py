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
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Send

from plateau_sse.errors import StoreError, StoreUnavailable
from plateau_sse.live import sse, telling
from plateau_sse.live.dialect import OWN, Stand
from plateau_sse.live.feed import Feed
from plateau_sse.live.sse import TURNS, Frame, Told, next_turn
from plateau_sse.live.stuck import reset
from plateau_sse.live.telling import PIECE_BYTES, Group
from plateau_sse.store.queue.queue import LEASE_S
from plateau_sse.store.runs import ids
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
    """Follows one run for one response, and parts from its feed at the end. `position` is where
    the events end that it was given, `states` how many states there were when it last read or
    was told one, -1 before that; `generation` is the feed's from when `reading` was begun. It
    ends by `until_s`, since the epoch, and calls `leave_seat`."""

    __slots__ = (
        "_catching_up",
        "_connection",
        "_done",
        "_feed",
        "_flow",
        "_hub",
        "_leave_seat",
        "_leaving",
        "_own",
        "_pushes",
        "_quiet_turns",
        "_reading",
        "_seen_at_turn",
        "_send",
        "_sent",
        "_shares",
        "_streams",
        "_until_s",
        "generation",
        "opened_at",
        "position",
        "stand",
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
        generation: int,
        stand: Stand,
        own: bytes = b"",
        until_s: float | None = None,
        leave_seat: Callable[[], None] | None = None,
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
        # Behind what was said.
        self.stand = stand
        # What stands in what is said where that is the reader's.
        self._own = own
        self._until_s = until_s
        self._leave_seat = leave_seat
        self._shares = getattr(self._connection, "chunked_encoding", None) is True
        self._catching_up: asyncio.Task[None] | None = None
        self._done = False
        # Why this response ends before its run does: moved, stale, lost or expired.
        self._leaving = ""
        self._quiet_turns = 0
        self._seen_at_turn = position
        # Bytes of the next event that the socket has taken already.
        self._sent = 0
        self.states = -1
        # In the hub's seconds.
        self.opened_at = hub.second
        self.generation = generation
        self.position = position
        self.turn = next_turn()

    @property
    def dialect(self) -> str:
        """The name of the one in which it is told."""
        return self.stand.dialect.name

    @property
    def told_all(self) -> bool:
        """Whether its reader was told the run's end."""
        return self._done and not self._leaving

    async def run(self, receive: Receive) -> bool:
        """From the first reading to the end of the response, or of the client's patience;
        whether it was the latter."""
        self._hub.enter(self)
        self._hub.count(f"responses_opened_{self.dialect}")
        if self._seen_at_turn:
            self._hub.count("responses_resumed")
        ending: asyncio.TimerHandle | None = None
        if self._until_s is not None:
            left_s = max(0.0, self._until_s - time.time())
            ending = asyncio.get_running_loop().call_later(left_s, self.leave, "expired")
        try:
            await self._catch_up()
            while not self._done:
                if (await receive())["type"] == "http.disconnect":
                    return not (self._done or self._leaving)
            return False
        finally:
            if ending is not None:
                ending.cancel()
            reason = self._leaving or ("ended" if self._done else "left")
            self._hub.count(f"responses_closed_{reason}")
            self._hub.exit(self)
            self._feed.live.discard(self)
            self._hub.part(self._feed)
            if self._leave_seat is not None:
                self._leave_seat()
            if self._catching_up is not None:
                self._catching_up.cancel()

    # The live path: called by the feed and the hub's timer

    def push(self, frame: Frame) -> bool:
        """Hand the frame to the socket; False where that would have to wait."""
        if self._flow.write_paused:
            return False
        if (told := frame.latest).before is not self.stand:
            told = frame.told(self.stand)
        if told.is_plain and self._shares:
            # One that is not there takes nothing any more, and this response is about to end.
            if not self._connection.disconnected:
                # What `send` would do, without a coroutine, and the chunk made anew, for each.
                self._connection.transport.write(told.chunk)
                # Only now: where the socket refuses, what is read next begins with this.
                self.stand, self.position = told.then, frame.number or self.position
                told.taken += 1
            return True
        self._tell(frame, told)
        return True

    def take(self, number: int, data: bytes, tag: bytes) -> bool:
        """`push` for one who shares nothing with others: what would be looked at is left to
        it."""
        connection, stand = self._connection, self.stand
        if self._flow.write_paused or not self._shares or connection.disconnected:
            return False
        state, content, last, due = stand.dialect.say(stand.state, number, data, tag)
        if last or due is not None or not content or OWN in content:
            return False
        connection.transport.write(b"%x\r\n%b\r\n" % (len(content), content))
        if state is not stand.state:
            self.stand = Stand(stand.dialect, state)
        self.position = number
        return True

    def _tell(self, frame: Frame, told: Told) -> None:
        """What is looked at before it is written."""
        if self._connection.disconnected:
            return
        if frame.is_long_state and self._waits():
            # What a stuck reader may cost has no room for it, and a later one replaces it.
            return
        if told.due is not None:
            # Nobody has read it for all.
            self._feed.live.discard(self)
            self.lag(slow=False)
            return
        if told.last:
            # Nobody is told more than the end, which a dialect may find before the run does.
            self._feed.live.discard(self)
            self._write(sse.body(sse.signed(told.content, self._own), last=True))
            self._done = True
        elif told.chunk and self._shares:
            self._connection.transport.write(told.chunk)
        elif told.content:
            self._write(sse.body(sse.signed(told.content, self._own)))
        self.stand, self.position = told.then, frame.number or self.position
        told.taken += 1

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
                self._part()
            elif not writable:
                self.abort()
        elif live:
            self._write(sse.body(self.stand.dialect.ping))

    def lag(self, *, slow: bool) -> None:
        """Leave the live path; a task of its own, for as long as it takes, reads on."""
        if self._catching_up is None or self._catching_up.done():
            if slow:
                self._hub.count("readers_slow")
                log.info("run %s: a reader is too slow for the live path", self._feed.run_id)
            self._catching_up = asyncio.ensure_future(self._catch_up_later())

    def lose(self) -> None:
        self._leaving = "lost"
        if self._flow.write_paused:
            self.lag(slow=True)
        else:
            self._end(telling.lost(self.stand))

    def leave(self, reason: str = "moved") -> None:
        """The worker goes, or the token with which it was asked for: end in good order, the
        client comes back to another worker, or is told to fetch another token."""
        self._leaving = reason
        if self in self._feed.live and not self._flow.write_paused:
            self._feed.live.discard(self)
            self._part()

    def abort(self) -> None:
        """Cut a connection that neither reads nor ends."""
        transport = getattr(self._connection, "transport", None)
        if transport is None:
            return
        if self._shares:
            transport.abort()
        else:
            # A clean end, as the kernel else has it, is that of a response that is not chunked.
            reset(transport)

    def _close(self) -> None:
        """Cut the connection behind what it was given, so that nobody takes that for all."""
        if not self._shares:
            self.abort()
            return
        transport = getattr(self._connection, "transport", None)
        if transport is not None:
            transport.close()

    def _part(self) -> None:
        words = telling.parting(self.stand)
        if words is None:
            self._close()
        else:
            self._end(words)

    def _waits(self) -> bool:
        """Whether the socket has not taken yet what it was given last."""
        transport = getattr(self._connection, "transport", None)
        return transport is not None and transport.get_write_buffer_size() > 0

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
                    await self._send(sse.body(self.stand.dialect.ping))
                await asyncio.sleep(random.uniform(0.5, 1.5))
            if self._leaving and not self._done:
                if self._sent:
                    self.abort()
                    return
                words = telling.parting(self.stand)
                if words is None:
                    self._close()
                    return
                await self._send_in_pieces(words, last=True)

    def _gone(self) -> bool:
        return self._done or bool(getattr(self._connection, "disconnected", False))

    async def _read_on(self) -> bool:
        """One reading, delivered; whether the live path has taken over."""
        feed = self._feed
        reading, self._reading = self._reading, None
        if reading is None:
            reading = await self._hub.read(feed, self)
        if reading is None:
            if self._sent:
                # Within an event that cannot be finished.
                self.abort()
            else:
                await self._send_in_pieces(telling.lost(self.stand), last=True)
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
            await self._send_all(items, last=last)
        elif not await self._push_at_once(items, last=last):
            # The socket takes no more. The rest is read anew when it does.
            return False
        self.position = reached
        if not whole or self._done:
            return False
        self.states = states
        # Whoever has gone meanwhile must not come back: nobody would take it off again.
        stays = not ended and not self._leaving and self in self._hub.subscribers
        self.stand = feed.shared(self.stand)
        return stays and self._hub.attach(feed, self)

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
        said = telling.whole(self.stand.dialect, self.stand.state, [begun_anew], self._feed.tag)
        self.stand = self.stand.behind(said.state)
        await self._send_in_pieces(said.content, last=said.last)

    async def _said(self, some: Group, number: int) -> bytes:
        """The content of a group whose first entry has this number. Raises StoreError also
        where what is due is there no more: who reads again learns why."""
        content, due = some.content, some.due
        if due is not None:
            attempt, _ = ids.split(number)
            found = await self._streams.recall(
                self._feed.run_id, attempt, due.start, due.end, points=due.points
            )
            if found is None:
                raise StoreUnavailable("what was said before is gone")
            content = due.make(*found)
        return sse.signed(content, self._own)

    async def _send_all(self, items: Sequence[Entry], *, last: bool) -> None:
        """To a server that waits by itself."""
        at = 0
        while at < len(items) and not self._done:
            some = telling.group(self.stand, items, at, self._feed.tag)
            ends = some.last or (last and some.end == len(items))
            await self._send_in_pieces(await self._said(some, items[at].number), last=ends)
            self._hub.count(f"events_delivered_{self.dialect}", some.end - at)
            at, self.stand = some.end, some.stand
            self.position = items[at - 1].number or self.position

    async def _push_at_once(self, items: Sequence[Entry], *, last: bool) -> bool:
        """Hand over as many as the socket takes; whether those were all."""
        at = 0
        while at < len(items) and not self._done:
            if self._flow.write_paused or self._gone():
                return False
            some = telling.group(self.stand, items, at, self._feed.tag)
            ends = some.last or (last and some.end == len(items))
            # To read what is due is all that takes time here.
            content = await self._said(some, items[at].number)
            if self._gone() or not self._push_slices(content, last=ends):
                return False
            self._hub.count(f"events_delivered_{self.dialect}", some.end - at)
            at, self.stand = some.end, some.stand
            self.position = items[at - 1].number or self.position
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
        if rest or last:
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
