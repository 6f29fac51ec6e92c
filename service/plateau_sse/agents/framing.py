"""What the body of an answer is made of: server-sent events, or JSON as a document or by lines.

Invariant: what came is what counts, not what it is called: there are streams that are called
documents, pages that are called streams, and events whose fields have no name. However the
bytes are cut, the messages are the same, and none is longer than MAX_MESSAGE.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING

from plateau_sse.agents import Yielded
from plateau_sse.agents.complaints import broken
from plateau_sse.agents.completion import Answer
from plateau_sse.eventsource import EventReader, ServerSentMessage, TooLong

if TYPE_CHECKING:
    from plateau_sse.agents.upstream import Response

# An image of 4K is up to 10 MB, and a third more in base64.
MAX_MESSAGE = 16 * 1024 * 1024
# White space, and a byte order mark, may come before what tells a stream from a document.
WHITE, MAX_WHITE = b" \t\r\n\xef\xbb\xbf", 64 * 1024
# For what may follow the last word (usage, `[DONE]`), and for what may follow `[DONE]`: the end
# of the body.
USAGE_S = 1.2
REST_S, REST_BYTES = 0.05, 4096


class Events(EventReader):
    """Events as endpoints write them: llama.cpp has a field `error`, and there are gateways
    that forget the name before the last chunk."""

    def __init__(self) -> None:
        super().__init__(MAX_MESSAGE)

    def _line(self, line: bytes) -> ServerSentMessage | None:
        if line.startswith(b"error:"):
            self._event = "error"
            line = line.replace(b"error:", b"data:", 1)
        elif line.lstrip(b" \t").startswith(b"{"):
            line = b"data:" + line
        return super()._line(line)


class Lines:
    """JSON without events: a document, or one a line where the first line is one by itself."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._searched = 0
        self._is_document: bool | None = None

    def feed(self, chunk: bytes) -> Iterator[ServerSentMessage]:
        self._held += chunk
        while not self._is_document:
            end = self._held.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._held)
                break
            line = bytes(self._held[:end])
            if self._is_document is None and line.strip(WHITE):
                self._is_document = not _is_json(line)
                continue
            del self._held[: end + 1]
            self._searched = 0
            yield from _message(line)
        if len(self._held) > MAX_MESSAGE:
            raise TooLong(f"a document of more than {MAX_MESSAGE} bytes")

    def finish(self) -> Iterator[ServerSentMessage]:
        # There are endpoints that end a document as if it were a stream.
        yield from _message(self._held.rstrip().removesuffix(b"data: [DONE]"))
        self._held.clear()


def _message(line: bytes | bytearray) -> Iterator[ServerSentMessage]:
    text = line.strip(WHITE).removeprefix(b"data:").decode("utf-8", "replace")
    if text.strip():
        yield ServerSentMessage(text)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return False
    return True


async def read_answer(response: Response, answer: Answer) -> AsyncGenerator[Yielded, None]:
    """What the body adds to the answer, up to its end or the answer's."""
    head = await _head(response)
    reader = Lines() if head.lstrip(WHITE)[:1] in (b"{", b"[") else Events()
    chunk, by = head, None
    while chunk:
        messages = reader.feed(chunk)
        for message in messages:
            for part in answer.take(message.data, message.event):
                yield part
            if answer.is_done:
                if next(messages, None) is None:
                    await _read_rest(reader, response)
                return
        if not answer.is_whole:
            by = None
        elif by is None:
            by = asyncio.get_running_loop().time() + USAGE_S
        chunk = await response.read(by)
    for message in reader.finish():
        for part in answer.take(message.data, message.event):
            yield part


async def _head(response: Response) -> bytes:
    """Up to where it is seen what it is; none where it has nothing but white space."""
    head = b""
    while not head.strip(WHITE):
        piece = await response.read()
        if not piece or len(head) > MAX_WHITE:
            return b""
        head += piece
    if head.lstrip(WHITE).startswith(b"<"):
        raise broken("it answered with a page, is OPENAI_BASE_URL right?")
    return head


async def _read_rest(reader: Events | Lines, response: Response) -> None:
    """To the end of the body, so that the connection can be kept. One that says anything more,
    or too much of nothing, is not read to its end, and so is closed."""
    by, left = asyncio.get_running_loop().time() + REST_S, REST_BYTES
    while left > 0 and (chunk := await response.read(by)):
        left -= len(chunk)
        if next(reader.feed(chunk), None) is not None:
            return
