"""Event streams as HTTP responses.

Invariant: a live response is one task, parked in `receive()`: the hub pushes through its
`send`, and no task, timer or queue of its own is spent on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from plateau_sse.live import sse
from plateau_sse.live.dialect import Stand
from plateau_sse.live.feed import Feed
from plateau_sse.live.hub import Hub
from plateau_sse.live.subscriber import Subscriber
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.streams import Streams


class _Nothing:
    """The content of a response that is driven from elsewhere."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


_nothing = _Nothing()


class EventStream(EventSourceResponse):
    """The head of every event stream; without `content` it is driven from elsewhere. `options`
    are sse-starlette's."""

    def __init__(
        self,
        content: AsyncIterator[Any] = _nothing,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        own = {
            # Without a charset: clients compare it as a whole.
            "Content-Type": "text/event-stream",
            # What may be transformed is held back by a proxy that compresses.
            "Cache-Control": "no-store, no-transform",
        }
        headers = {**(headers or {}), **own}
        super().__init__(content, headers=headers, sep="\n", ping=0, **options)
        # Whether it is kept the server knows, and says.
        self.raw_headers = [it for it in self.raw_headers if it[0] != b"connection"]


class LiveResponse(EventStream):
    """Follows a run from `reading` on, through the `feed` that the caller has joined, which was
    of this `generation` then; it parts from it at the end. A reading that begins anew is told
    with a `run.restarted`, in the dialect and from the state at `stand` on; `own` stands in
    what is said where that is the reader's; it ends by `until_s`, since the epoch, and calls
    `leave_seat`."""

    def __init__(
        self,
        hub: Hub,
        streams: Streams,
        feed: Feed,
        reading: Reading,
        *,
        position: int,
        generation: int,
        stand: Stand,
        own: bytes = b"",
        headers: Mapping[str, str] | None = None,
        until_s: float | None = None,
        leave_seat: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(headers={**(headers or {}), **stand.dialect.headers})
        self._hub = hub
        self._streams = streams
        self._feed = feed
        self._reading = reading
        self._position = position
        self._generation = generation
        self._stand = stand
        self._own = own
        self._until_s = until_s
        self._leave_seat = leave_seat
        # What is to be done where the client leaves before the end.
        self.on_left: Callable[[], Awaitable[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            self._part()
            await super().__call__(scope, receive, send)
            return
        subscriber = await self.begin(send)
        if await subscriber.run(receive) and self.on_left is not None:
            await self.on_left()

    def _part(self) -> None:
        self._hub.part(self._feed)
        if self._leave_seat is not None:
            self._leave_seat()

    async def begin(self, send: Send) -> Subscriber:
        """Send the head; what is to be driven then needs this response no more."""
        try:
            await send(start(self))
            if opening := self._stand.dialect.opening():
                await send(sse.body(opening))
        except BaseException:
            self._part()
            raise
        return Subscriber(
            self._hub,
            self._streams,
            self._feed,
            self._reading,
            send,
            position=self._position,
            generation=self._generation,
            stand=self._stand,
            own=self._own,
            until_s=self._until_s,
            leave_seat=self._leave_seat,
        )


class WholeResponse(EventStream):
    """A stream that is complete already: `content` goes out in one write."""

    def __init__(self, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers=headers)
        self.body = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await super().__call__(scope, receive, send)
            return
        await send(start(self))
        await send(sse.body(bytes(self.body), last=True))


class _Gathered:
    """In place of a transport: what uvicorn would write to it."""

    __slots__ = ("_closes", "_parts", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []
        self._closes = False

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def close(self) -> None:
        self._closes = True

    def is_closing(self) -> bool:
        return self._closes or self._transport.is_closing()

    def flush(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        if self._closes:
            self._transport.close()


async def send_at_once(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a response that is there already in one write, head and body; uvicorn's two are a
    fifth of a worker's time on a hit. Under another server it is sent as usual."""
    connection: Any = getattr(send, "__self__", None)
    transport = getattr(connection, "transport", None)
    if transport is None:
        await response(scope, receive, send)
        return
    gathered = connection.transport = _Gathered(transport)
    try:
        await response(scope, receive, send)
    finally:
        connection.transport = transport
        gathered.flush()


def start(response: EventStream) -> sse.Message:
    return {
        "type": "http.response.start",
        "status": response.status_code,
        "headers": response.raw_headers,
    }


def come_back_later(
    headers: Mapping[str, str] | None = None, *, times: int = 1
) -> WholeResponse:
    """A passing fault on a stream: `EventSource` never comes back from another status. `times`
    as in `retry`. Whom this worker has no room for is to try others: on the connection that is
    there, which browsers keep for seconds, it would be this one again."""
    response = WholeResponse(sse.retry(times), headers)
    if times > 1:
        response.raw_headers.append((b"connection", b"close"))
    return response
