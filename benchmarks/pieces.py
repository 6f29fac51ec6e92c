"""The agent of `scripts/bench dialects`: it says a piece whenever it is told to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.stages import TEXT
from plateau_sse.agents import Run, Yielded

AGENT = f"pieces={__name__}:pieces"
MORE, END = b"more", b"end"


async def pieces(run: Run) -> AsyncIterator[Yielded]:
    """A piece for each `MORE` that comes to the socket at the option `inbox`, until `END`."""
    path = Path(str(run.options["inbox"]))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.setblocking(False)
        # Of an attempt before.
        path.unlink(missing_ok=True)  # noqa: ASYNC240
        inbox.bind(str(path))
        loop = asyncio.get_running_loop()
        while await loop.sock_recv(inbox, len(MORE)) != END:
            yield TEXT
