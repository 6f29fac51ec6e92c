"""uvicorn's HTTP protocol with the bounds that long-lived responses need, and with what stock
clients send beside a request: an `Upgrade`, the end of what they have to say.

Invariant: a peer that stops reading costs a bounded number of bytes, in this process and in the
kernel, and is cut soon (`live/stuck.py`): an ASGI application cannot close a stuck socket,
since a transport waits to flush before it closes. What was asked whole is answered whole,
unless its answer is a stream whose reader goes. One request is under way and `WAITING_MOST`
wait: what comes behind them stays bytes, and no more of those are read. So what was sent costs
no more than about what it is, and what does not come in its time, or is too much, is refused
(`live/guard.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import termios
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from plateau_sse.live.cycles import LeanEvent, OldCycle, Waiting
from plateau_sse.live.guard import Guard, Owed
from plateau_sse.live.stuck import leave_tail, reset, taken_of

# The kernel doubles what it is told; 32 KiB holds a hundred events.
SEND_BUFFER_BYTES = 32 * 1024
# What may wait in the process, beyond the kernel's buffer, before a subscriber counts as slow.
HIGH_WATER_BYTES = 8 * 1024
# uvloop's own low-water mark is 16 bytes: a slow reader would be woken for next to nothing.
LOW_WATER_BYTES = 2 * 1024

# What a request may take to arrive on a new connection when the worker goes: its client knows
# itself connected, and another worker would have answered. A packet that is lost is sent again
# after a second.
NEWCOMER_S = 3.0
# A kept connection is closed when its client may just be asking on it: a proxy passes most of
# those errors on. What is on its way has arrived by then.
KEPT_S = 0.1

# The parser below keeps whatever a client calls headers; nginx stops at 32 KiB. Of an empty one
# it makes a hundred times what was sent.
HEAD_BYTES = 64 * 1024
HEADERS_MOST = 100
# In place of their number once the head is over, and once all is there.
BODY, WHOLE = -1, -2

# An object of a request is a hundred times its smallest bytes.
WAITING_MOST = 4
ON_DISCONNECT = b"x-plateau-on-disconnect"
# With this each head ends. Many of them are taken one by one, and others have their turns.
HEAD_END = b"\r\n\r\n"
PIECES_A_TURN = 500


def _minds_leaving(scope: Any) -> bool:
    """Whether the client has said what is to be done when it leaves: it leaves by closing."""
    return any(name == ON_DISCONNECT for name, _ in scope["headers"])


class _TooManyHeaders(Exception):
    """Raised within the parser, so that it stops."""


class LiveProtocol(HttpToolsProtocol):
    """Used by every worker of ours; plain uvicorn serves the same application without it."""

    # One attribute and no more: past thirty, CPython gives each instance a dictionary of its
    # own layout, which costs every reader half a kilobyte.
    _head_bytes = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Of 760 bytes, and needed by who asks before it is answered.
        self.pipeline: Waiting | tuple[()] = ()  # type: ignore[assignment]

        if "guard" not in self.app_state:
            # Another application than ours.
            self.app_state["guard"] = Guard()

    @property
    def _guard(self) -> Guard:
        guard: Guard = self.app_state["guard"]
        return guard

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._head_bytes == WHOLE:
            self._head_bytes = 0
        if isinstance(self.pipeline, Waiting) and self.pipeline.held:
            self._hold(self.pipeline.held[self.pipeline.held_from :] + data, 0)
        # Most requests come alone, and are not cut in pieces.
        elif len(self.pipeline) + data.count(HEAD_END) <= WAITING_MOST:
            self._take(data)
        else:
            self._take_pieces(data, 0)
        self._watch()

    def _watch(self) -> None:
        """For what is still to come of a request, or for the next one."""
        if self._head_bytes != WHOLE:
            if not self.transport.is_closing():
                owed: Owed = "body" if self._head_bytes == BODY else "head"
                self._guard.expect(self, owed, self.loop)
        elif self.cycle and self.cycle.response_complete and not self.transport.is_closing():
            # It was the rest of a body that nobody read, and ended the keep-alive's clock.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _holds(self) -> bool:
        return isinstance(self.pipeline, Waiting) and bool(self.pipeline.held)

    def _take_pieces(self, data: bytes, start: int) -> bool:
        """One by one, until as many requests wait as may, or others have waited enough; whether
        what comes next can be read, too."""
        for _ in range(PIECES_A_TURN):
            if start == len(data):
                return True
            if len(self.pipeline) >= WAITING_MOST:
                # `on_response_complete` goes on.
                self._hold(data, start)
                return True
            found = data.find(HEAD_END, start)
            end = found + len(HEAD_END) if found >= 0 else len(data)
            if not self._take(memoryview(data)[start:end]):
                return False
            start = end
        self._hold(data, start)
        self.loop.call_soon(self._go_on)
        return True

    def _hold(self, data: bytes, start: int) -> None:
        """Make no requests of it for now, and read no more."""
        if self.transport.is_closing():
            return
        if not isinstance(self.pipeline, Waiting):
            self.pipeline = Waiting(self.cycle)
        self.pipeline.held, self.pipeline.held_from = data, start
        if not self.flow.read_paused:
            self.transport.pause_reading()
        # uvicorn's own resuming, for each request, does nothing then.
        self.flow.read_paused = False

    def _go_on(self) -> None:
        """With what is held, as far as there is room for it."""
        waiting = self.pipeline
        if not isinstance(waiting, Waiting) or not waiting.held or self.transport.is_closing():
            return
        data, waiting.held = waiting.held, b""
        self._unset_keepalive_if_required()
        # As uvicorn has it where requests wait.
        self.flow.read_paused = True
        reads_on = self._take_pieces(data, waiting.held_from) and not self._holds()
        if reads_on and not self.pipeline and not self.transport.is_closing():
            self.flow.resume_reading()
        self._watch()

    def _take(self, data: bytes | memoryview) -> bool:
        """Whether what comes next can be read, too."""
        if self._head_bytes != BODY:
            if self._head_bytes > HEAD_BYTES:
                self._refuse(HTTPStatus.BAD_REQUEST, "The request's head is too large.")
                return False
            # A body may begin in the same piece: what counts is where the next one begins.
            self._head_bytes = max(0, self._head_bytes) + len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _TooManyHeaders):
                self._guard.count("connections_cut_headers")
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                self._refuse(status, f"A request may have {HEADERS_MOST} headers.")
            else:
                self.logger.warning("Invalid HTTP request received.")
                self._refuse(HTTPStatus.BAD_REQUEST, "Invalid HTTP request received.")
            return False
        return True

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

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """For what cannot be read. It comes in no other answer's place, nor in the middle of
        one: what could be read is answered, and the connection closed behind it."""
        answering = self._answering()
        if self.eof_received():
            self.transport.pause_reading()
        elif answering and answering.response_started and not answering.response_complete:
            self.transport.close()
        else:
            self._say_and_close(status, text)

    def _say_and_close(self, status: HTTPStatus, text: str) -> None:
        lines = [b"HTTP/1.1 %d %b" % (status, status.phrase.encode())]
        lines += (b"%b: %b" % pair for pair in self.server_state.default_headers)
        lines += (
            b"content-type: text/plain; charset=utf-8",
            b"content-length: %d" % len(text),
            b"connection: close",
        )
        self.transport.write(b"\r\n".join([*lines, b"", text.encode()]))
        self.transport.close()

    def _answering(self) -> Any:
        """The cycle of the request that is being answered, or was last; None for none yet."""
        return self.pipeline.answering if self.pipeline else self.cycle

    def _should_upgrade(self) -> bool:
        # Asked where the parser has seen an upgrade: uvicorn then makes nothing of the head.
        return True

    def on_message_begin(self) -> None:
        self._head_bytes = 1
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

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head_bytes = WHOLE
        self._guard.settle(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._holds():
            # Not within the application's `send`.
            self.loop.call_soon(self._go_on)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays for what is still to be answered. Who has nothing more
        to say may still listen, but the reader of a stream under way has gone, as anywhere: a
        socket that is closed looks the same until something is sent."""
        last = self.cycle
        if last is None or last.response_complete:
            return False
        answering = self._answering()
        if answering.response_started or _minds_leaving(answering.scope):
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
        self._guard.forget(self)
        if exc is None and self.taken() is not None:
            leave_tail(self.transport.get_extra_info("socket"))
        if self.pipeline:
            # uvicorn tells the last request, which is not the one under way.
            self.pipeline.answering.disconnected = True
            self.pipeline.answering.message_event.set()
        # With what is held.
        self.pipeline = ()
        # uvicorn leaves it where the end is an error: all of this would stay for a keep-alive.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers of a chunked body come this way, too, and nothing reads them.
        if self._head_bytes != BODY:
            if len(self.headers) >= HEADERS_MOST:
                raise _TooManyHeaders
            # The parser leaves what may stand behind a value (RFC 9110, 5.5).
            super().on_header(name, value.rstrip(b" \t"))

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._guard.expect(self, "head", self.loop)
        self.flow._is_writable_event = LeanEvent(is_set=True)  # type: ignore[assignment]
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)
        connection = transport.get_extra_info("socket")
        if connection is None:
            return
        # A Unix socket has none.
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        connections: Any = self.connections
        if not self._guard.admit(self, connections):
            self.cut()

    # What the guard asks

    @property
    def is_idle(self) -> bool:
        return not (self._is_asked() or self._holds() or self.transport.is_closing())

    def give_up(self, owed: Owed) -> bool:
        answering = self._answering()
        if self.pipeline or self.flow.read_paused or self._holds():
            # It is we who do not read.
            return False
        if answering is None or answering.response_complete:
            # Who has said nothing expects nothing; the rest of a body that nobody read is none.
            if owed == "head" and self._head_bytes > 0:
                self._say_and_close(HTTPStatus.REQUEST_TIMEOUT, "The request did not come.")
            else:
                self.transport.close()
            return True
        if owed == "head" or answering.response_started:
            return False
        self._say_and_close(HTTPStatus.REQUEST_TIMEOUT, "The body did not come.")
        return True

    def taken(self) -> int | None:
        connection = self.transport.get_extra_info("socket")
        return None if connection is None else taken_of(connection)

    def cut(self) -> None:
        self._guard.settle(self)
        self.transport.abort()

    def reset(self) -> None:
        reset(self.transport)

    def shutdown(self) -> None:
        """The worker goes: a connection that it has just taken from others still gets its
        answer. Whoever does not read is cut by the hub, or when the grace is over."""
        if self._is_asked():
            super().shutdown()
            return
        # A cycle is what uvicorn makes of the first request.
        self.loop.call_later(KEPT_S if self.cycle else NEWCOMER_S, self._close_if_silent)

    def _is_asked(self) -> bool:
        return bool(self.pipeline) or bool(self.cycle and not self.cycle.response_complete)

    def _close_if_silent(self) -> None:
        # What was asked meanwhile is answered, and told that nothing follows.
        if self._is_asked() or self.transport.is_closing():
            return
        if self._has_unread():
            # With them the kernel would reset the connection, and its client not know why.
            self.loop.call_later(KEPT_S, self._close_if_silent)
            return
        self.transport.close()

    def _has_unread(self) -> bool:
        """Bytes of the peer's that the loop has not come to."""
        if self.flow.read_paused:
            return False
        count = fcntl.ioctl(self.transport.get_extra_info("socket"), termios.FIONREAD, bytes(4))
        return any(count)
