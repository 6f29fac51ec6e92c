"""The events of one response, as they arrive.

Invariant: an event is handed over as soon as its last byte is there; its time is that at which
the kernel had it, where the kernel says so (stamps.py).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import msgspec
from geventhttpclient.response import HTTPSocketPoolResponse
from locust.contrib.fasthttp import FastResponse

from locustfiles.kit.ledger import DELTAS
from locustfiles.kit.stamps import Stamp

AT_A_TIME = 65_536
LONGEST = 1024 * 1024
# Of a frame with a piece of text or of a thought, whatever it catches up with.
LONGEST_DELTA = 8 * 1024
# Of a receive buffer; the kernel doubles it.
LITTLE = 2048


class Malformed(Exception):
    """Not the framing that is promised: LF line ends, `id:`, one `data:` line of JSON, which is
    short where it is a delta."""


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
        stamp: Stamp,
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
        self._stamp = stamp
        if rest is not None and self._raw._sock is not None:
            self._raw._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)

    def __iter__(self) -> Iterator[Event]:
        for frame, at_s, seen_s in self.frames():
            yield Event(*_parse(frame), at_s, seen_s)

    def frames(self) -> Iterator[tuple[bytes, float, float]]:
        """Without its blank line; when the kernel had its last byte, and when this process."""
        frames = self._frames
        while True:
            data = self._receive()
            if not data:
                if frames:
                    raise Malformed(f"ends within a frame: {bytes(frames[:80])!r}")
                return
            frames += data
            seen_s = time.time()
            self._take_lines()
            while (end := frames.find(b"\n\n")) >= 0:
                frame = bytes(frames[:end])
                del frames[: end + 2]
                yield frame, self._stamp.at_s or seen_s, seen_s
                self._take_lines()
            if len(frames) > LONGEST:
                raise Malformed(f"a frame of more than {LONGEST} bytes")

    def close(self) -> None:
        """Drop the connection, unless its response has ended."""
        self._raw.release()

    def _receive(self) -> bytes:
        """What is there, at least a byte of it; nothing at the end. geventhttpclient's own
        `read(n)` waits for n bytes."""
        raw = self._raw
        while not raw._body_buffer:
            if raw.message_complete:
                return b""
            sock = raw._sock
            if sock is None:
                raise Cut("closed")
            if self._rest is not None:
                self._rest()
            data = sock.recv(self._bite)
            if not data:
                raise Cut("closed in the middle of a response")
            raw.feed(data)
        body = bytes(raw._body_buffer)
        raw._body_buffer.clear()
        return body

    def _take_lines(self) -> None:
        """What stands before a frame: lines that are whole, of which none ends a block."""
        frames = self._frames
        while frames.startswith((b": ", b"retry: ")) and (end := frames.find(b"\n")) >= 0:
            line = bytes(frames[:end])
            if line.startswith(b": "):
                self.pings += 1
            elif line[7:].isdigit():
                self.retry_s = int(line[7:]) / 1000
            else:
                raise Malformed(f"not a number: {line[:80]!r}")
            del frames[: end + 1]


def _parse(frame: bytes) -> tuple[str, dict[str, Any]]:
    """Of a frame its id and data."""
    head, _, rest = frame.partition(b"\n") if frame.startswith(b"id: ") else (b"", b"", frame)
    if not rest.startswith(b"data: ") or b"\n" in rest or b"\r" in frame:
        raise Malformed(f"not a frame: {frame[:80]!r}")
    try:
        data = msgspec.json.decode(rest[6:])
    except msgspec.DecodeError as error:
        raise Malformed(f"no JSON: {error}") from None
    if not isinstance(data, dict) or "type" not in data:
        raise Malformed(f"no event: {rest[:80]!r}")
    if len(frame) > LONGEST_DELTA and data["type"] in DELTAS:
        raise Malformed(f"a delta of {len(frame)} bytes")
    return head[4:].decode("latin-1"), data
