"""One connection on which several answers are told, one behind the other.

Invariant: what ends one of them does not end the response; whoever tells one is told that its
reader has gone once that reader has, or once it has told its end.
"""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Send


class Wire:
    """In place of the `send` of a response whose head was sent. Close it at the end."""

    def __init__(self, send: Send, receive: Receive) -> None:
        self._send = send
        # Whoever pushes asks the server's own object whether the socket takes more.
        self.__self__ = getattr(send, "__self__", None)
        self._leaving = asyncio.ensure_future(_until_left(receive))
        self._over = asyncio.get_running_loop().create_future()

    @property
    def left(self) -> bool:
        """Whether the reader has gone."""
        return self._leaving.done()

    def begin(self) -> None:
        """The next answer."""
        self._over = asyncio.get_running_loop().create_future()

    async def __call__(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            return
        if message.get("body"):
            await self._send({**message, "more_body": True})
        if not message.get("more_body") and not self._over.done():
            self._over.set_result(None)

    async def receive(self) -> Message:
        waits = {self._leaving, self._over}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return {"type": "http.disconnect"}

    async def until(self, woken: asyncio.Event, timeout_s: float) -> None:
        """It was woken, the reader has gone, or the time is over."""
        waiting = asyncio.ensure_future(woken.wait())
        try:
            await asyncio.wait(
                {waiting, self._leaving},
                timeout=timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            waiting.cancel()

    async def say(self, content: bytes, *, last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": not last})

    def close(self) -> None:
        self._leaving.cancel()


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
