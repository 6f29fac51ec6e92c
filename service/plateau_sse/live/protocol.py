"""uvicorn's HTTP protocol with the bounds that long-lived responses need, and with what stock
clients send beside a request: an `Upgrade`, the end of what they have to say.

Invariant: a peer that stops reading costs a bounded number of bytes, in this process and in the
kernel, and is cut within `STUCK_S` by the kernel itself: an ASGI application cannot close a
stuck socket, since a transport waits to flush before it closes. What was asked whole is
answered whole, unless its answer is a stream whose reader goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import Any, Literal

import httptools
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
NEWCOMER_S = 1.0

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


class Waiting(deque[Any]):
    """Requests that wait for the answer to an earlier one, the latest first, each a cycle of
    uvicorn's and its application; and that earlier one's cycle, which uvicorn forgets."""

    __slots__ = ("answering",)

    def __init__(self, answering: Any) -> None:
        super().__init__()
        self.answering = answering

    def pop(self) -> Any:  # type: ignore[override]
        """The next to be answered."""
        waiting = super().pop()
        self.answering = waiting[0]
        return waiting


class LiveProtocol(HttpToolsProtocol):
    """Used by every worker of ours; plain uvicorn serves the same application without it."""

    # One attribute and no more: past thirty, CPython gives each instance a dictionary of its
    # own layout, which costs every reader half a kilobyte.
    _head_bytes = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Of 760 bytes, and needed by who asks before it is answered.
        self.pipeline: Waiting | tuple[()] = ()  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._head_bytes != BODY:
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response("The request's head is too large.")
                return
            # A body may begin in the same piece: what counts is where the next one begins.
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")

    def _parse(self, data: bytes | memoryview) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
                self._ignore_upgrade()

    def _ignore_upgrade(self) -> None:
        """RFC 9110, 7.8. The parser takes what follows such a head for another protocol, a body
        and the next request alike, so a new one is given the same head without the header."""
        method = self.scope["method"]
        if method == "CONNECT":
            raise httptools.HttpParserInvalidMethodError("no tunnel begins here")
        version = self.scope.get("http_version", "1.1")
        head = [method.encode(), b" ", self.url, b" HTTP/", version.encode(), b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += (name, b": ", value, b"\r\n")
        self.parser = httptools.HttpRequestParser(self)
        # As uvicorn does.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"".join([*head, b"\r\n"]))

    def send_400_response(self, msg: str) -> None:
        """For what cannot be read. It comes in no other answer's place, nor in the middle of
        one: what could be read is answered, and the connection closed behind it."""
        answering = self._answering()
        if self.eof_received():
            self.transport.pause_reading()
        elif answering and answering.response_started and not answering.response_complete:
            self.transport.close()
        else:
            super().send_400_response(msg)

    def _answering(self) -> Any:
        """The cycle of the request that is being answered, or was last; None for none yet."""
        return self.pipeline.answering if self.pipeline else self.cycle

    def _should_upgrade(self) -> bool:
        # Asked where the parser has seen an upgrade: uvicorn then makes nothing of the head.
        return True

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_bytes = BODY
        if self.cycle and not self.cycle.response_complete and not self.pipeline:
            self.pipeline = Waiting(self.cycle)
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            self.cycle.message_event = LeanEvent()  # type: ignore[assignment]
            if self.scope["http_version"] == "1.0":
                self.cycle.__class__ = OldCycle
                # It would take the 100 for the answer (RFC 9110, 15.2).
                self.cycle.waiting_for_100_continue = False

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays for what is still to be answered. Who has nothing more
        to say may still listen, but the reader of a stream under way has gone, as anywhere: a
        socket that is closed looks the same until something is sent."""
        last = self.cycle
        if last is None or last.response_complete:
            return False
        answering = self._answering()
        if answering.response_started:
            return False
        if last.more_body:
            # It will never be whole.
            if not self.pipeline:
                return False
            self.pipeline.popleft()
            last = self.cycle = self.pipeline[0][0] if self.pipeline else answering
        last.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self.pipeline:
            # uvicorn tells the last request, which is not the one under way.
            self.pipeline.answering.disconnected = True
            self.pipeline.answering.message_event.set()
            self.pipeline = ()
        super().connection_lost(exc)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers of a chunked body come this way, too, and nothing reads them.
        if self._head_bytes != BODY:
            # The parser leaves what may stand behind a value (RFC 9110, 5.5).
            super().on_header(name, value.rstrip(b" \t"))

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
