"""The events of one response, as they arrive.

Invariant: an event is handed over as soon as its last byte is there, and its time is that at
which the kernel had it, not that at which this process came to look: a generator that is busy
with other readers does not lengthen what it measures. Where the kernel does not say (TLS, not
Linux, what came in one piece with the head) it is the time of the look, which is later.
"""

from __future__ import annotations

import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import msgspec
from geventhttpclient.response import HTTPSocketPoolResponse
from locust.contrib.fasthttp import FastResponse

# Of asm-generic/socket.h; Python's `socket` does not name it.
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_ROOM_FOR_STAMP = socket.CMSG_SPACE(_TIMESPEC.size) if sys.platform != "win32" else 0
AT_A_TIME = 65_536
LONGEST = 1024 * 1024
# Of a receive buffer; the kernel doubles it.
LITTLE = 2048


class Malformed(Exception):
    """Not the framing that is promised: LF line ends, `id:`, one `data:` line of JSON."""


class Cut(ConnectionError):
    """The connection ended before its response did."""


class Event(NamedTuple):
    """`id` is "" where there was none. `at_s` is when the kernel had its last byte, `seen_s`
    when this process had: seconds since the epoch."""

    id: str
    data: dict[str, Any]
    at_s: float
    seen_s: float


class Arrivals:
    """Iterate it for the events of `response`, which was asked for with `stream=True`; raises
    Malformed, Cut and, after a silence as long as the socket's timeout, OSError. With a `bite`
    it takes no more bytes at a time; `rest()` is called before each, and then the kernel is
    told to hold little, too. `retry_s` is what the last `retry:` said."""

    def __init__(
        self,
        response: FastResponse,
        *,
        bite: int = AT_A_TIME,
        rest: Callable[[], None] | None = None,
    ) -> None:
        self.retry_s: float | None = None
        self.pings = 0
        self._raw = cast(HTTPSocketPoolResponse, response._response)
        self._bite = bite
        self._frames = bytearray()
        self._rest = rest
        self._stamped = _stamp(self._raw._sock)
        if rest is not None and self._raw._sock is not None:
            self._raw._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)

    def __iter__(self) -> Iterator[Event]:
        frames = self._frames
        while True:
            data, at_s = self._receive()
            if not data:
                if frames:
                    raise Malformed(f"ends within a frame: {bytes(frames[:80])!r}")
                return
            frames += data
            seen_s = time.time()
            while (end := frames.find(b"\n\n")) >= 0:
                frame = bytes(frames[:end])
                del frames[: end + 2]
                found = self._parse(frame)
                if found is not None:
                    yield Event(*found, at_s or seen_s, seen_s)
            if len(frames) > LONGEST:
                raise Malformed(f"a frame of more than {LONGEST} bytes")

    def close(self) -> None:
        """Drop the connection, unless its response has ended."""
        self._raw.release()

    def _receive(self) -> tuple[bytes, float]:
        """What is there, at least a byte of it, and when it came (0: unknown); nothing at the
        end. geventhttpclient's own `read(n)` waits for n bytes."""
        raw = self._raw
        at_s = 0.0
        while not raw._body_buffer:
            if raw.message_complete:
                return b"", 0.0
            sock = raw._sock
            if sock is None:
                raise Cut("closed")
            if self._rest is not None:
                self._rest()
            if self._stamped:
                data, ancillary, _, _ = sock.recvmsg(self._bite, _ROOM_FOR_STAMP)
                for _level, _kind, stamp in ancillary:
                    seconds, nanoseconds = _TIMESPEC.unpack(stamp)
                    at_s = seconds + nanoseconds / 1e9
            else:
                data = sock.recv(self._bite)
            if not data:
                raise Cut("closed in the middle of a response")
            raw.feed(data)
        body = bytes(raw._body_buffer)
        raw._body_buffer.clear()
        return body, at_s

    def _parse(self, frame: bytes) -> tuple[str, dict[str, Any]] | None:
        """Of a frame its id and data; None for one that dispatches nothing."""
        if frame.startswith(b": "):
            self.pings += 1
            return None
        if frame.startswith(b"retry: ") and frame[7:].isdigit():
            self.retry_s = int(frame[7:]) / 1000
            return None
        head, _, rest = (
            frame.partition(b"\n") if frame.startswith(b"id: ") else (b"", b"", frame)
        )
        if not rest.startswith(b"data: ") or b"\n" in rest or b"\r" in frame:
            raise Malformed(f"not a frame: {frame[:80]!r}")
        try:
            data = msgspec.json.decode(rest[6:])
        except msgspec.DecodeError as error:
            raise Malformed(f"no JSON: {error}") from None
        if not isinstance(data, dict) or "type" not in data:
            raise Malformed(f"no event: {rest[:80]!r}")
        return head[4:].decode("latin-1"), data


def _stamp(sock: Any) -> bool:
    """Ask the kernel to say when what is read came in; whether it will."""
    if sock is None or sys.platform != "linux" or isinstance(sock, ssl.SSLSocket):
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True
