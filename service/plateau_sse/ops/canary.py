"""A run of this worker's own, whose events travel as all others do: written by the script,
published, heard by the subscribing connection, pushed to a follower.

Invariant: while it is well, an event has been heard in the last few seconds. A connection that
answers pings and hears nothing is found out, though everything else is well: what a repair has
read from the stream was not heard.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from plateau_sse.errors import StoreError, WritesRefused
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.streams import Claimed, Streams

log = logging.getLogger("plateau.ops")

SING_S = 2.0
# While one has not been heard.
AGAIN_S = 0.5
# An event takes milliseconds.
DEAF_S = 3.0
# A connection made anew is given the time to prove itself.
RECONNECT_S = 10.0
OWNER = "plateau"
AGENT = "canary"


class Ears(Protocol):
    """What is asked of the hub, whose `Follower` this is."""

    draining: bool

    @property
    def connected(self) -> bool: ...
    async def join(self, run_id: str) -> Any: ...
    def part(self, feed: Any) -> None: ...
    def attach(self, feed: Any, follower: Any) -> bool: ...
    def reconnect(self) -> None: ...


def _refusal(error: StoreError) -> str:
    """What the server said: not that it is silent, nor that it is full, when readers are
    served all the same."""
    answered = type(error) is StoreError and error.__cause__ is not None
    return str(error) if answered or isinstance(error, WritesRefused) else ""


class _Song(msgspec.Struct):
    """Of its event; `message` is when it was written, by this process' clock."""

    message: str


class Canary:
    """Follows its own run; what each event took goes into `stats`."""

    # It is told nothing.
    stand = None

    def __init__(self, hub: Ears, streams: Streams, stats: Stats) -> None:
        self._hub = hub
        self._streams = streams
        self._stats = stats
        self._run_id = ""
        self._feed: Any = None
        # When the latest song that was heard was written.
        self._heard = 0.0
        self._unheard_since: float | None = None
        self._reconnect_at = 0.0
        self.position = self.states = self.generation = 0
        # Why the store does not take what is written, '' where it does.
        self.refusal = ""
        # Of the latest event that was pushed, in milliseconds.
        self.lag_ms: float | None = None

    @property
    def deaf(self) -> bool:
        """Whether events are written and not heard."""
        since = self._unheard_since
        return since is not None and time.monotonic() - since > DEAF_S

    async def keep_singing(self) -> None:
        """For ever; the run ends with it."""
        try:
            while True:
                try:
                    await self._sing()
                    self.refusal = ""
                except StoreError as error:
                    # Nothing was written, so nothing was to be heard.
                    self._unheard_since = None
                    self.refusal = _refusal(error)
                is_well = self._unheard_since is None and not self.refusal
                await asyncio.sleep(SING_S if is_well else AGAIN_S)
        finally:
            await self._end()

    async def _sing(self) -> None:
        now = time.monotonic()
        if not self._hub.connected:
            self._reconnect_at = max(self._reconnect_at, now + DEAF_S)
        elif self.deaf and now >= self._reconnect_at:
            log.error("Events are written and not heard: subscribing anew.")
            self._reconnect_at = now + RECONNECT_S
            self._hub.reconnect()
        if not self._run_id:
            await self._begin()
        if self._feed is None:
            await self._listen()
        # A state, which takes no place on the tape: that has an end.
        sung_at = f"{time.monotonic():.6f}"
        song = events.progress(0, 0, AGENT, sung_at, 0)
        appended = await self._streams.append(self._run_id, 1, [song])
        if appended.code != "ok":
            self._forget()
        elif self._heard < float(sung_at) and self._unheard_since is None:
            self._unheard_since = time.monotonic()

    async def _begin(self) -> None:
        run_id = ids.new_run_id()
        await self._streams.create(
            run_id, agent=AGENT, owner=OWNER, token=ids.new_token(), request=b"{}"
        )
        first = events.started(run_id, AGENT, 1)
        claimed = await self._streams.claim(run_id, 1, AGENT, first)
        if not isinstance(claimed, Claimed):
            raise StoreError(f"the store has lost run {run_id}")
        self._run_id = run_id
        # Behind its first mark.
        self.position, self.states = ids.number(1, 1), 0

    async def _listen(self) -> None:
        """Where that is not to be had, what is written next is not heard."""
        with suppress(StoreError):
            self._feed = feed = await self._hub.join(self._run_id)
            # What has come since it was confirmed was heard, and nobody need read it.
            self.position = max(self.position, feed.newest)
            self.generation = feed.generation
            self._hub.attach(feed, self)

    def _forget(self) -> None:
        """Another run, then."""
        feed, self._feed = self._feed, None
        self._run_id = ""
        if feed is not None:
            feed.live.discard(self)
            self._hub.part(feed)

    async def _end(self) -> None:
        run_id = self._run_id
        self._forget()
        if run_id:
            with suppress(StoreError):
                last = events.completed(None, cached=False, duration_ms=0)
                await self._streams.end(run_id, 1, last)

    # As the feed's follower

    def push(self, frame: Any) -> bool:
        if frame.number:
            # It sings states alone. The store was started anew, and what was left of this run
            # has become another attempt: another run, then.
            return False
        written_at = float(msgspec.json.decode(frame.data, type=_Song).message)
        took_s = time.monotonic() - written_at
        self._stats.observe("event_lag", took_s)
        self.lag_ms = took_s * 1000
        if self._feed.repairing is None:
            self._heard = written_at
            self._unheard_since = None
        return True

    def lag(self, *, slow: bool) -> None:
        self._forget()

    def lose(self) -> None:
        self._forget()
