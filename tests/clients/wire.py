"""The wire between a client and the service: what went over it, and a cut of it.

    with Wires(port) as wires:
        wire = wires.open(cut_after=b'"tool.call"')
        httpx.get(wire.url + "/health")

Invariant: what is forwarded is forwarded unchanged, in both directions, and kept in `visits`.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from types import TracebackType


@dataclass
class Visit:
    """One connection: all that the client said, and all that it was answered."""

    asked: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)


@dataclass
class Wire:
    """An address of a client's own. The first connection over which `cut_after` is answered is
    closed behind these bytes, wherever in a chunk and in an event that is."""

    url: str
    cut_after: bytes
    was_cut: bool = False
    visits: list[Visit] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """How often it was asked; Node opens a connection now and then and says nothing."""
        return sum(bool(visit.asked) for visit in self.visits)

    def count(self, part: bytes) -> int:
        """How often that was answered."""
        return sum(visit.answered.count(part) for visit in self.visits)

    def uncut(self, visit: Visit, data: bytes) -> bytes:
        """What of `data` is let through."""
        before = len(visit.answered)
        visit.answered += data
        at = visit.answered.find(self.cut_after) if self.cut_after else -1
        if self.was_cut or at < 0:
            return data
        self.was_cut = True
        del visit.answered[at + len(self.cut_after) :]
        return bytes(visit.answered[before:])


class Wires:
    """All wires to the service at `port`, in a thread of their own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Wires:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def open(self, *, cut_after: bytes = b"") -> Wire:
        return asyncio.run_coroutine_threadsafe(self._open(cut_after), self._loop).result(10)

    async def _open(self, cut_after: bytes) -> Wire:
        wire = Wire("", cut_after)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._forward(wire, reader, writer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self._servers.append(server)
        wire.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return wire

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _forward(
        self, wire: Wire, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        visit = Visit()
        wire.visits.append(visit)
        try:
            server_in, server_out = await asyncio.open_connection("127.0.0.1", self._port)
        except BaseException:
            client_out.close()
            raise

        async def up() -> None:
            while data := await client_in.read(65536):
                visit.asked += data
                server_out.write(data)
                await server_out.drain()

        async def down() -> None:
            while data := await server_in.read(65536):
                cut_before = wire.was_cut
                client_out.write(wire.uncut(visit, data))
                await client_out.drain()
                if wire.was_cut and not cut_before:
                    return

        both = [asyncio.ensure_future(up()), asyncio.ensure_future(down())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            client_out.close()
            server_out.close()
            await asyncio.gather(*both, return_exceptions=True)
