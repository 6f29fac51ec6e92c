"""A proxy before Redis that loses what is published.

Invariant: every reply reaches its client unchanged, pings' among them, but for the messages of
subscriptions, which are dropped, each as a whole, and counted.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.store import skip_what_is_hidden


class MessageDropper:
    """`url` is where to connect; `dropped` counts the messages that never arrived, while it is
    `dropping`."""

    def __init__(self, target_url: str) -> None:
        skip_what_is_hidden(target_url)
        parts = urlsplit(target_url)
        assert parts.hostname and parts.port
        self._target = (parts.hostname, parts.port)
        self.url = ""
        self.dropped = 0
        self.dropping = True

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}/0"
        ready.set()
        await stop.wait()
        server.close()

    async def _connection(
        self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        try:
            server_in, server_out = await asyncio.open_connection(*self._target)
        except BaseException:
            client_out.close()
            raise
        subscribed = asyncio.Event()

        async def up() -> None:
            while data := await client_in.read(65536):
                if b"SSUBSCRIBE" in data:
                    subscribed.set()
                server_out.write(data)
                await server_out.drain()

        async def down() -> None:
            pending = bytearray()
            while data := await server_in.read(65536):
                pending += data
                kept = (
                    self._without_messages(pending) if subscribed.is_set() else bytes(pending)
                )
                if not subscribed.is_set():
                    pending.clear()
                client_out.write(kept)
                await client_out.drain()

        tasks = [asyncio.create_task(up()), asyncio.create_task(down())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            client_out.close()
            server_out.close()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _without_messages(self, pending: bytearray) -> bytes:
        """Take the whole replies off `pending`; those that are not messages, as bytes."""
        kept = b""
        while (end := _end_of_reply(pending)) is not None:
            reply = bytes(pending[:end])
            del pending[:end]
            if self.dropping and b"\r\nsmessage\r\n" in reply[:24]:
                self.dropped += 1
            else:
                kept += reply
        return kept


def _end_of_reply(data: bytearray, at: int = 0) -> int | None:
    """Where the RESP2 reply that begins at `at` ends; None while it is not all there."""
    line_end = data.find(b"\r\n", at)
    if line_end < 0:
        return None
    kind, after = data[at : at + 1], line_end + 2
    if kind == b"$":
        length = int(data[at + 1 : line_end])
        end = after + length + 2 if length >= 0 else after
        return end if end <= len(data) else None
    if kind == b"*":
        for _ in range(int(data[at + 1 : line_end])):
            end_of_item = _end_of_reply(data, after)
            if end_of_item is None:
                return None
            after = end_of_item
    return after


@contextmanager
def dropping_messages(target_url: str) -> Iterator[MessageDropper]:
    """A MessageDropper in a thread of its own."""
    dropper = MessageDropper(target_url)
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(_run(dropper, ready, stop))
    )
    thread.start()
    try:
        assert ready.wait(10)
        yield dropper
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


async def _run(dropper: MessageDropper, ready: threading.Event, stop: asyncio.Event) -> None:
    await dropper.serve(ready, stop)
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
