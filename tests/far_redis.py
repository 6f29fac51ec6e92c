"""Redis far away: a relay that hands each command on so much later.

    with far(0.1, streams_url, cache_url) as (streams, cache):
        ...

Invariant: what is sent at once arrives at once, in its order, and replies are not held up: a
round trip takes `distance_s` more, whatever is in it, and so does being told what another has
sent. So time counts those that follow each other, and nothing that goes beside them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from urllib.parse import urlsplit

from tests.store import skip_what_is_hidden


@contextmanager
def far(distance_s: float, *urls: str) -> Iterator[list[str]]:
    """Where to connect in place of these, from a thread of its own."""
    for url in urls:
        skip_what_is_hidden(url)
    ports: list[int] = []
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        servers = []
        for url in urls:
            handle = partial(_connection, url, distance_s)
            servers.append(await asyncio.start_server(handle, "127.0.0.1", 0))
            ports.append(servers[-1].sockets[0].getsockname()[1])
        started.set()
        await stop.wait()
        for server in servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(10)
        yield [f"redis://127.0.0.1:{port}/0" for port in ports]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


async def _connection(
    url: str, distance_s: float, client: asyncio.StreamReader, to_client: asyncio.StreamWriter
) -> None:
    parts = urlsplit(url)
    server, to_server = await asyncio.open_connection(parts.hostname, parts.port)
    loop = asyncio.get_running_loop()

    async def up() -> None:
        while data := await client.read(65536):
            loop.call_later(distance_s, to_server.write, data)

    async def down() -> None:
        while data := await server.read(65536):
            to_client.write(data)

    both = [asyncio.create_task(up()), asyncio.create_task(down())]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in both:
            task.cancel()
        for writer in (to_client, to_server):
            with suppress(OSError):
                writer.transport.abort()
        await asyncio.gather(*both, return_exceptions=True)
