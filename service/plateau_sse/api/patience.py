"""One document for an answer that is still being made: what is sent meanwhile is white space.

Invariant: what goes out is one valid JSON document however long it takes, with the status that
its answer deserves as long as nothing has gone out yet. Who leaves is noticed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from plateau_sse import tasks
from plateau_sse.errors import StoreError
from plateau_sse.live.paced import Delivery, Pacer, paced

log = logging.getLogger("plateau.api")

# Proxies and clients that wait for a head give up after 30 s and more; until then the status is
# still to be said.
HEAD_S = 25.0
# White space, as often as streams are pinged.
SPACE_S = 15.0
LOOK_AGAIN_S = 1.0

# Waits so many seconds at most for the end of the answer. Raises StoreError.
Wait = Callable[[float], Awaitable[None]]
# What there is to say now; None while the answer is not there.
Find = Callable[[], Awaitable[Response | None]]
# For a worker that leaves before the answer is there.
Leave = Callable[[], Response]


class PatientResponse(Response):
    """`headers` are those of a response whose head goes out before its answer is known."""

    def __init__(
        self,
        wait: Wait,
        find: Find,
        leave: Leave,
        is_leaving: Callable[[], bool],
        on_left: Callable[[], Awaitable[None]] | None,
        pacer: Pacer,
        headers: dict[str, str],
    ) -> None:
        super().__init__(None, 200, headers, "application/json")
        self.raw_headers = [it for it in self.raw_headers if it[0] != b"content-length"]
        self._wait = wait
        self._find = find
        self._leave = leave
        self._is_leaving = is_leaving
        self._on_left = on_left
        self._pacer = pacer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await self._answer(scope, receive, send, leaving)
        finally:
            await tasks.end(leaving)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, leaving: asyncio.Task[None]
    ) -> None:
        now = asyncio.get_running_loop().time
        begun, space_at = False, now() + HEAD_S
        while True:
            if await self._leaves_within(max(0.0, space_at - now()), leaving):
                if self._on_left is not None:
                    await self._on_left()
                return
            found = await self._find()
            if found is None and self._is_leaving():
                if begun:
                    # Half a document is no document: its client asks again.
                    _abort(send)
                    return
                found = self._leave()
            if found is not None:
                if begun:
                    rest = Delivery(bytes(found.body), self._again, self._pacer, send)
                    await rest.run(receive)
                else:
                    await paced(found, self._again, self._pacer)(scope, receive, send)
                return
            if now() < space_at:
                # The wait is over early, and for nothing: whatever that is, it may be so again.
                pause_s = min(LOOK_AGAIN_S, space_at - now())
                await asyncio.wait({leaving}, timeout=pause_s)
                continue
            space_at = now() + SPACE_S
            if not begun:
                begun = True
                head = {"status": 200, "headers": self.raw_headers}
                await send({"type": "http.response.start", **head})
            await send({"type": "http.response.body", "body": b" ", "more_body": True})

    async def _again(self) -> bytes | None:
        """What has been said, for a reader that is slow."""
        found = await self._find()
        return None if found is None else bytes(found.body)

    async def _leaves_within(self, wait_s: float, leaving: asyncio.Task[None]) -> bool:
        """Wait for the end of the answer; whether the client left first."""
        waiting = asyncio.ensure_future(self._wait_safely(wait_s))
        try:
            await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await tasks.end(waiting)
        return leaving.done()

    async def _wait_safely(self, wait_s: float) -> None:
        try:
            await self._wait(wait_s)
        except StoreError as error:
            # The answer is on its way all the same.
            log.warning("who waits for an answer waits for the store: %s", error)
        except Exception:
            log.exception("who waits for an answer looks for it from time to time")


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def _abort(send: Send) -> None:
    connection: Any = getattr(send, "__self__", None)
    transport = getattr(connection, "transport", None)
    if transport is not None:
        transport.abort()
