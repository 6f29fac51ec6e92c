"""A proxy before Redis with the faults of a network, each on demand.

    async with FlakyRedis(url) as flaky:
        redis = connect(flaky.url, "test")
        flaky.lose_replies(2)      # done by Redis, but its client never learns
        flaky.hold_replies()       # done by Redis, and its client waits …
        flaky.go_on()              # … until now
        await flaky.go_away()      # every connection is closed, at once
        flaky.come_back()

Invariant: what is forwarded is forwarded whole and unchanged, in both directions.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from urllib.parse import urlsplit

from tests.store import skip_what_is_hidden

# The one way in which a run changes.
SCRIPT = b"EVALSHA"


class FlakyRedis:
    """`lost` counts the replies that never arrived, `refused` the connections while away."""

    def __init__(self, target_url: str) -> None:
        skip_what_is_hidden(target_url)
        parts = urlsplit(target_url)
        self._user = "".join(parts.netloc.rpartition("@")[:2])
        assert parts.hostname and parts.port
        self._target = (parts.hostname, parts.port)
        self._to_lose = 0
        self._going = asyncio.Event()
        self._going.set()
        self._connections: set[asyncio.Task[None]] = set()
        self._port = 0
        self._away = False
        self.lost = 0
        self.refused = 0

    @property
    def url(self) -> str:
        return f"redis://{self._user}127.0.0.1:{self._port}/0"

    async def __aenter__(self) -> FlakyRedis:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        await self.go_away()
        await self._server.wait_closed()

    def lose_replies(self, count: int) -> None:
        """Cut the connection instead of answering the next `count` scripts."""
        self._to_lose = count

    def hold_replies(self) -> None:
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    def lead_to(self, target_url: str) -> None:
        """Whoever connects from now on; who is connected stays."""
        parts = urlsplit(target_url)
        assert parts.hostname and parts.port
        self._target = (parts.hostname, parts.port)

    async def go_away(self) -> None:
        self._away = True
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def come_back(self) -> None:
        self._away = False

    def _accept(
        self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        if self._away:
            self.refused += 1
            client_out.close()
            return
        task = asyncio.create_task(self._forward(client_in, client_out))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _forward(
        self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        try:
            server_in, server_out = await asyncio.open_connection(*self._target)
        except BaseException:
            client_out.close()
            raise
        script = losing = False

        async def up() -> None:
            nonlocal script, losing
            while data := await client_in.read(65536):
                if SCRIPT in data:
                    script, losing = True, self._to_lose > 0
                    self._to_lose -= losing
                server_out.write(data)
                await server_out.drain()

        async def down() -> None:
            while data := await server_in.read(65536):
                if losing:
                    self.lost += 1
                    return
                if script:
                    await self._going.wait()
                client_out.write(data)
                await client_out.drain()

        both = [asyncio.create_task(up()), asyncio.create_task(down())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            # First: `go_away` may come while the end of both is waited for.
            client_out.close()
            server_out.close()
            await asyncio.gather(*both, return_exceptions=True)
