"""Waiting for a run's end without reading its events.

Invariant: whoever waits is told by the event that ends the run, or finds it ended on looking;
nobody is kept waiting by a worker that goes.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from plateau_sse.live.dialect import Stand
from plateau_sse.live.hub import Hub
from plateau_sse.live.sse import Frame


class Waiter:
    """A follower that only looks at whether an event is the last."""

    def __init__(self) -> None:
        self.position = 0
        self.states = -1
        self.generation = 0
        self.stand: Stand | None = None
        self.woken = asyncio.Event()

    def push(self, frame: Frame) -> bool:
        self.position = frame.number or self.position
        if frame.terminal:
            self.woken.set()
        return True

    def take(self, number: int, data: bytes, tag: bytes) -> bool:
        return False

    def lag(self, *, slow: bool) -> None:
        self.woken.set()

    def lose(self) -> None:
        self.woken.set()


async def until_ended(hub: Hub, run_id: str, *, timeout_s: float) -> None:
    """Return when the run has ended or is gone, after `timeout_s`, or when the worker goes."""
    feed = await hub.join(run_id)
    waiter = Waiter()
    hub.waiting.add(waiter.woken)
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout_s
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while not hub.draining:
                    waiter.woken.clear()
                    reading = await hub.read(feed, waiter)
                    # A command of redis-py's may swallow the timeout before Python 3.12.
                    if reading is None or reading.ended or clock() >= deadline:
                        return
                    waiter.position, waiter.states = reading.head, reading.states
                    if hub.attach(feed, waiter):
                        await waiter.woken.wait()
    finally:
        hub.waiting.discard(waiter.woken)
        feed.live.discard(waiter)
        hub.part(feed)
