"""The load: many readers of event streams in one process, each as cheap as a socket.

Invariant: they ask like a browser, count what comes and keep none of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

AT_ONCE = 50
OPEN_S, DELIVER_S = 120, 300

_HEAD = (
    "GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n"
    "Accept-Language: en\r\nAccept-Encoding: gzip, deflate, br\r\n"
    "Cache-Control: no-cache\r\nReferer: http://127.0.0.1/\r\n\r\n"
)


class Reader(asyncio.Protocol):
    """One open response; it is open once its head and, where there is one, the first event
    have come. `target` is a path, or a whole request."""

    def __init__(self, target: str | bytes, crowd: Crowd) -> None:
        self._target = target
        self._crowd = crowd
        self._started = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if isinstance(self._target, bytes):
            transport.write(self._target)
        else:
            transport.write(_HEAD.format(target=self._target).encode())

    def data_received(self, data: bytes) -> None:
        self._crowd.delivered += data.count(b"data: ")
        if not self._started and self._crowd.opened_by in data:
            self._started = True
            self._crowd.opened += 1
        self._crowd.look()


class Crowd:
    """All readers of one measurement. `opened_by` is what an open response has begun with."""

    def __init__(self, port: int, opened_by: bytes) -> None:
        self.opened_by = opened_by
        self.delivered = self.opened = 0
        self.readers: list[Reader] = []
        self._port = port
        self._targets = (0, 0)
        self._reached = asyncio.Event()

    def look(self) -> None:
        delivered, opened = self._targets
        if self.delivered >= delivered and self.opened >= opened:
            self._reached.set()

    async def open(self, targets: Sequence[str | bytes]) -> None:
        """One more reader for each of these."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(targets), AT_ONCE):
            pairs = await asyncio.gather(
                *(
                    loop.create_connection(
                        lambda target=target: Reader(target, self),  # type: ignore[misc]
                        "127.0.0.1",
                        self._port,
                    )
                    for target in targets[start : start + AT_ONCE]
                )
            )
            self.readers += [reader for _, reader in pairs]
            await self._until(opened=len(self.readers), timeout_s=OPEN_S)

    async def until_delivered(self, count: int) -> None:
        await self._until(delivered=count, timeout_s=DELIVER_S)

    async def _until(self, *, delivered: int = 0, opened: int = 0, timeout_s: float) -> None:
        self._targets = (delivered, opened)
        self._reached.clear()
        self.look()
        try:
            async with asyncio.timeout(timeout_s):
                await self._reached.wait()
        except TimeoutError:
            raise RuntimeError(
                f"{self.opened} of {opened} opened, {self.delivered} of {delivered} delivered "
                f"within {timeout_s} s"
            ) from None

    def leave(self) -> None:
        """All at once, as when a network goes."""
        for reader in self.readers:
            if reader.transport is not None:
                reader.transport.abort()
        self.readers.clear()
