"""A run of this worker's own, whose events travel as all others do: written by the script,
published, heard by the subscribing connection, pushed to a follower.

Invariant: while it is well, an event has been heard in the last few seconds. A connection that
answers pings and hears nothing is found out, though everything else is well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any, Protocol

from service.errors import StoreError
from service.store import events, ids
from service.store.stats import Stats
from service.store.streams import Claimed, Streams

log = logging.getLogger("plateau.ops")

SING_S = 2.0
# An event takes milliseconds; one that had to be found by the sweep was not heard.
LATE_S = 2.0
DEAF_S = 3.0
OWNER = "plateau"
AGENT = "canary"


class Ears(Protocol):
    """What is asked of the hub."""

    draining: bool

    @property
    def connected(self) -> bool: ...
    async def join(self, run_id: str) -> Any: ...
    def part(self, feed: Any) -> None: ...
    def attach(self, feed: Any, follower: Any) -> bool: ...
    def reconnect(self) -> None: ...


class Canary:
    """Follows its own run; what each event took goes into `stats`."""

    def __init__(self, hub: Ears, streams: Streams, stats: Stats) -> None:
        self._hub = hub
        self._streams = streams
        self._stats = stats
        self._run_id = ""
        self._feed: Any = None
        self._sung_at = 0.0
        self._unheard_since: float | None = None
        self.position = 0
        # Of the latest event that was heard, in milliseconds.
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
                with suppress(StoreError):
                    await self._sing()
                await asyncio.sleep(SING_S)
        finally:
            await self._end()

    async def _sing(self) -> None:
        if self.deaf:
            log.error("Events are written and not heard: subscribing anew.")
            self._hub.reconnect()
        if self._feed is None:
            await self._begin()
        if self._feed is None:
            return
        self._sung_at = time.monotonic()
        note = events.progress(0, 0, AGENT, "", 0)
        appended = await self._streams.append(self._run_id, 1, [note])
        if appended.code != "ok":
            self._forget()
        elif self._unheard_since is None and self.position < ids.number(1, appended.seq):
            self._unheard_since = self._sung_at

    async def _begin(self) -> None:
        run_id = ids.new_run_id()
        await self._streams.create(
            run_id, agent=AGENT, owner=OWNER, token=ids.new_token(), request=b"{}"
        )
        claimed = await self._streams.claim(run_id, 1, AGENT, events.started(run_id, AGENT, 1))
        if not isinstance(claimed, Claimed):
            return
        self._run_id = run_id
        self._feed = await self._hub.join(run_id)
        self.position = ids.number(1, claimed.seq)
        self._hub.attach(self._feed, self)

    def _forget(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.live.discard(self)
            self._hub.part(feed)
        self._unheard_since = None

    async def _end(self) -> None:
        run_id = self._run_id
        self._forget()
        if run_id:
            with suppress(StoreError):
                last = events.completed(None, cached=False, duration_ms=0)
                await self._streams.end(run_id, 1, last)

    # As the feed's follower

    def push(self, frame: Any) -> bool:
        self.position = frame.number
        took_s = time.monotonic() - self._sung_at
        self._stats.observe("event_lag", took_s)
        # The hub has just counted it, and no reader has had it.
        self._stats.count("events_delivered", -1)
        self.lag_ms = took_s * 1000
        if took_s < LATE_S:
            self._unheard_since = None
        return True

    def lag(self) -> None:
        self._forget()

    def lose(self) -> None:
        self._forget()
