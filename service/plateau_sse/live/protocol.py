"""uvicorn's HTTP protocol with the bounds that long-lived responses need.

Invariant: a peer that stops reading costs a bounded number of bytes, in this process and in the
kernel, and is cut within `STUCK_S` by the kernel itself: an ASGI application cannot close a
stuck socket, since a transport waits to flush before it closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

STUCK_S = 30
# The kernel doubles what it is told; 32 KiB holds a hundred events.
SEND_BUFFER_BYTES = 32 * 1024
# What may wait in the process, beyond the kernel's buffer, before a subscriber counts as slow.
HIGH_WATER_BYTES = 8 * 1024
# uvloop's own low-water mark is 16 bytes: a slow reader would be woken for next to nothing.
LOW_WATER_BYTES = 2 * 1024

# What a request may take to arrive on a new connection when the worker goes: its client knows
# itself connected, and another worker would have answered.
NEWCOMER_S = 0.5

# The parser below keeps whatever a client calls headers; nginx stops at 32 KiB.
HEAD_BYTES = 64 * 1024
# In place of their number once the head is over.
BODY = -1


class LeanEvent:
    """What uvicorn uses of `asyncio.Event`, which holds 700 bytes for its waiters though there
    is one at most times, or none; an open response has two of them."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self, *, is_set: bool = False) -> None:
        self._is_set = is_set
        self._waiters: list[asyncio.Future[None]] = []

    def set(self) -> None:
        self._is_set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> Literal[True]:
        if self._is_set:
            return True
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)
        return True


class OldCycle(RequestResponseCycle):
    """A request by HTTP/1.0, which knows no chunks (RFC 9112, 6.1): what has no length ends
    with the connection, and the head says so."""

    _has_length = False

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [it for it in message["headers"] if it[0].lower() != b"connection"]
            self._has_length = any(name.lower() == b"content-length" for name, _ in headers)
            # Decided: uvicorn would choose chunks otherwise.
            self.chunked_encoding = None if self._has_length else False
            message = {**message, "headers": headers}
        elif not self._has_length:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class LiveProtocol(HttpToolsProtocol):
    """Used by every worker of ours; plain uvicorn serves the same application without it."""

    # One attribute and no more: past thirty, CPython gives each instance a dictionary of its
    # own layout, which costs every reader half a kilobyte.
    _head_bytes = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Of 760 bytes, and needed by who asks before it is answered.
        self.pipeline = ()  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._head_bytes != BODY:
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response("The request's head is too large.")
                return
            # A body may begin in the same piece: what counts is where the next one begins.
            self._head_bytes += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_bytes = BODY
        if self.cycle and not self.cycle.response_complete and not self.pipeline:
            self.pipeline = deque()
        super().on_headers_complete()
        self.cycle.message_event = LeanEvent()  # type: ignore[assignment]
        if self.scope["http_version"] == "1.0":
            self.cycle.__class__ = OldCycle

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers of a chunked body come this way, too, and nothing reads them.
        if self._head_bytes != BODY:
            super().on_header(name, value)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow._is_writable_event = LeanEvent(is_set=True)  # type: ignore[assignment]
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
        """The worker goes: a connection that it has just taken from others still gets its
        answer. Whoever does not read is cut by the hub, or when the grace is over."""
        # A cycle is what uvicorn makes of the first request.
        if not self.cycle:
            self.loop.call_later(NEWCOMER_S, self._close_if_silent)
            return
        super().shutdown()

    def _close_if_silent(self) -> None:
        if not self.cycle:
            self.transport.close()
