"""What a connection has of its requests, in place of what uvicorn has, whose word for a request
and its answer is a cycle.

Invariant: an open response has nothing here that it does not need; one by HTTP/1.0 is ended as
its client understands it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


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
    uvicorn's and its application; and that earlier one's cycle, which uvicorn forgets. `held`
    are bytes of which requests are made when there are fewer, from `held_from` on."""

    __slots__ = ("answering", "held", "held_from")

    def __init__(self, answering: Any) -> None:
        super().__init__()
        self.answering = answering
        self.held = b""
        self.held_from = 0

    def pop(self) -> Any:  # type: ignore[override]
        """The next to be answered."""
        waiting = super().pop()
        self.answering = waiting[0]
        return waiting
