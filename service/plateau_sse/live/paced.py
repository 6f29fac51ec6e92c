"""Documents that are too large to be held for a socket that takes no more.

Invariant: what waits for a slow reader is its place in the document, not the document: that is
made again when the socket takes more, and goes on from there. Where it is another by then, or
gone, the connection is cut: nobody takes half of a document for the whole.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from plateau_sse.errors import StoreError
from plateau_sse.heap import give_back_free_pages
from plateau_sse.live import sse

log = logging.getLogger("plateau.api")

# Up to this it goes out in one write, and may wait in the process.
LARGE_BYTES = 16 * 1024
PIECE_BYTES = 4 * 1024
# A reader that reads is back for more within this: until then its document is kept, as long as
# those that are do not exceed the worker's allowance.
HELD_S = 0.25
HELD_BYTES = 2 * 1024 * 1024
# Of documents that were let go of, so many seconds' are given back to the kernel at once.
TRIM_S = 0.5
# Made at a time, each from what a store sends.
MADE_AT_ONCE = 4
# A store that is away for longer ends the response, which its reader then asks for again.
PATIENCE_S = 30.0

# The document as it was; None where there is none any more. Raises StoreError.
Make = Callable[[], Awaitable[bytes | None]]


class Pacer:
    """One a worker: what its documents may take of its memory at any time."""

    def __init__(self, held_bytes: int = HELD_BYTES) -> None:
        self._free = held_bytes
        self._making = asyncio.Semaphore(MADE_AT_ONCE)
        self._trimming: asyncio.TimerHandle | None = None

    async def drains_soon(self, flow: Any, size: int) -> bool:
        """Whether the socket took more while there was room to keep the document for it."""
        if size > self._free:
            return False
        self._free -= size
        try:
            async with asyncio.timeout(HELD_S):
                await flow.drain()
        except TimeoutError:
            return False
        finally:
            self._free += size
        return True

    def let_go(self) -> None:
        """A document has just been. What it was made of was small, and leaves holes in the
        heap into which nothing else may fit."""
        if self._trimming is None:
            loop = asyncio.get_running_loop()
            self._trimming = loop.call_later(TRIM_S, self._trim)

    def _trim(self) -> None:
        self._trimming = None
        give_back_free_pages()

    async def make(self, make: Make) -> bytes | None:
        """None also where the store stays away."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        while True:
            try:
                async with self._making:
                    return await make()
            except StoreError as error:
                if loop.time() > until:
                    log.warning("a document could not be read again: %s", error)
                    return None
            await asyncio.sleep(random.uniform(0.5, 1.5))


class Delivery:
    """One document on its way to one socket; `send` is uvicorn's own bound method, whose object
    knows whether the socket takes more."""

    __slots__ = ("_connection", "_content", "_make", "_pacer", "_send")

    def __init__(self, content: bytes, make: Make, pacer: Pacer, send: Send) -> None:
        self._content = content
        self._make = make
        self._pacer = pacer
        self._send = send
        self._connection: Any = getattr(send, "__self__", None)

    async def run(self, receive: Receive) -> bool:
        """To the end of the document, or of the client's patience. False: nothing is left to
        be done."""
        content, self._content = self._content, b""
        flow = getattr(self._connection, "flow", None)
        if flow is None:
            # Another server than uvicorn: whether it would wait is not known.
            await self._push(content, 0, _Unbounded())
            return False
        size, digest = len(content), b""
        at = await self._push(content, 0, flow)
        while at < size and not self._connection.disconnected:
            if not await self._pacer.drains_soon(flow, size):
                digest = digest or _digest(content)
                content = b""
                self._pacer.let_go()
                await flow.drain()
                again = await self._pacer.make(self._make)
                if again is None or len(again) != size or _digest(again) != digest:
                    await self._cut(receive)
                    return False
                content = again
                del again
            at = await self._push(content, at, flow)
        return False

    async def _push(self, content: bytes, at: int, flow: Any) -> int:
        """Hand over what the socket takes: how far that is. uvicorn's `send` does not wait
        while the socket is not paused."""
        while at < len(content) and not flow.write_paused:
            piece = content[at : at + PIECE_BYTES]
            at += len(piece)
            await self._send(sse.body(piece, last=at == len(content)))
        return at

    async def _cut(self, receive: Receive) -> None:
        if not self._connection.disconnected:
            log.info("a document is another by now: its slow reader has to ask again")
            self._connection.transport.abort()
            # uvicorn would miss the end of the response before it hears of it.
            while (await receive())["type"] != "http.disconnect":
                continue


class _Unbounded:
    write_paused = False


class PacedResponse(Response):
    """What `whole` says, as its reader takes it."""

    def __init__(self, whole: Response, make: Make, pacer: Pacer) -> None:
        self._whole = whole
        self._make = make
        self._pacer = pacer
        self.status_code = whole.status_code
        self.raw_headers = whole.raw_headers
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await self._whole(scope, receive, send)
            return
        delivery = await self.begin(send)
        await delivery.run(receive)

    async def begin(self, send: Send) -> Delivery:
        """Send the head; what is delivered then needs this response no more."""
        content = bytes(self._whole.body)
        self._whole.body = b""
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        return Delivery(content, self._make, self._pacer, send)


def paced(whole: Response, make: Make, pacer: Pacer) -> Response:
    """The response itself where it is small enough to be held; `make` makes its body again,
    byte for byte while it is the same document."""
    return whole if len(whole.body) <= LARGE_BYTES else PacedResponse(whole, make, pacer)


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()
