"""uvicorn's HTTP protocol with the bounds that long-lived responses need.

Invariant: a peer that stops reading costs a bounded number of bytes, in this process and in the
kernel, and is cut within `STUCK_S` by the kernel itself: an ASGI application cannot close a
stuck socket, since a transport waits to flush before it closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

STUCK_S = 30
# The kernel doubles what it is told; 32 KiB holds a hundred events.
SEND_BUFFER_BYTES = 32 * 1024
# What may wait in the process, beyond the kernel's buffer, before a subscriber counts as slow.
HIGH_WATER_BYTES = 8 * 1024
# uvloop's own low-water mark is 16 bytes: a slow reader would be woken for next to nothing.
LOW_WATER_BYTES = 2 * 1024


class LiveProtocol(HttpToolsProtocol):
    """Used by every worker of ours; plain uvicorn serves the same application without it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)
        connection = transport.get_extra_info("socket")
        if connection is None:
            return
        # A Unix socket has none of these.
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                connection.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_S * 1000
                )

    def shutdown(self) -> None:
        """The worker goes: a response whose peer does not read is cut, not waited for."""
        super().shutdown()
        if self.flow.write_paused:
            self.transport.abort()
