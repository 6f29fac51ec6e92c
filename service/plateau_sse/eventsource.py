"""Server-sent events, read: bytes in as they arrive, whole messages out.

Invariant: however the bytes are cut into chunks (inside a line end, inside a character), the
messages are the same; and no upstream can make the reader hold more than `MAX_EVENT` bytes.
The format is https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_EVENT = 1024 * 1024
BOM = b"\xef\xbb\xbf"
LINE_END = re.compile(rb"\r\n|\r|\n")


class TooLong(ValueError):
    """A line, or the data of one event, passed the reader's bound."""


@dataclass(frozen=True, slots=True)
class ServerSentMessage:
    """One dispatched event; `id` is None where it had no `id:` line of its own."""

    data: str
    event: str = "message"
    id: str | None = None


class EventReader:
    """Feed it chunks. `retry_ms` is the latest `retry:`, `comments` the number of pings."""

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self.retry_ms: int | None = None
        self.comments = 0
        self._max_event = max_event
        self._partial = bytearray()
        self._after_cr = False
        self._first_line = True
        self._forget()

    def _forget(self) -> None:
        self._data: list[str] = []
        self._size = 0
        self._event = ""
        self._id: str | None = None

    def feed(self, chunk: bytes) -> Iterator[ServerSentMessage]:
        """The messages that `chunk` completes; raises TooLong."""
        if self._after_cr and chunk:
            self._after_cr = False
            # A line end CR LF that was cut in two is one line end, not two.
            chunk = chunk[1:] if chunk.startswith(b"\n") else chunk
        if not chunk:
            return
        self._after_cr = chunk.endswith(b"\r")
        first, *rest = LINE_END.split(chunk)
        self._extend(first)
        for part in rest:
            line = bytes(self._partial)
            self._partial.clear()
            self._extend(part)
            message = self._line(line)
            if message is not None:
                yield message

    def finish(self) -> Iterator[ServerSentMessage]:
        """What a stream that ended without its last blank line still holds."""
        self._after_cr = False
        yield from self.feed(b"\n\n")

    def _extend(self, part: bytes) -> None:
        self._partial += part
        if len(self._partial) > self._max_event:
            raise TooLong(f"a line of more than {self._max_event} bytes")

    def _line(self, line: bytes) -> ServerSentMessage | None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(BOM)
        if not line:
            return self._dispatch()
        name, _, raw = line.partition(b":")
        value = raw.removeprefix(b" ").decode("utf-8", "replace")
        if not name:
            self.comments += 1
        elif name == b"data":
            self._size += len(raw) + 1
            if self._size > self._max_event:
                raise TooLong(f"an event of more than {self._max_event} bytes")
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id" and "\0" not in value:
            self._id = value
        elif name == b"retry" and value.isascii() and value.isdigit():
            self.retry_ms = min(int(value[:9]), 600_000)
        return None

    def _dispatch(self) -> ServerSentMessage | None:
        message = None
        if self._data:
            message = ServerSentMessage(
                "\n".join(self._data), self._event or "message", self._id
            )
        self._forget()
        return message
