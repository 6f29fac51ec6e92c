"""Hearing that the server is to end, where nobody says so.

Invariant: open responses end when their server is told to. uvicorn tells an application when
they have ended, for which it waits: a reload would take as long as its readers stay.
"""

from __future__ import annotations

import asyncio
import signal

from plateau_sse.live.hub import Hub

LOOK_S = 0.25


async def leave_with_server(hub: Hub) -> None:
    """Drain the hub once the server is about to end. It is found by its handler of signals."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    while not getattr(server, "should_exit", False):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    if not hub.draining:
        await hub.drain()
