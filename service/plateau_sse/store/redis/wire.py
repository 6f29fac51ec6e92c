"""A connection to Redis of which replies are heard as they come, once redis-py has opened it.

Invariant: each reply is handed on in order, in the turn of the loop in which its last byte
came: no task is woken and no future made for it. A connection that has ended sends nothing:
whoever uses it learns that from `closed`, a few turns of the loop later, and must not meet an
error of the transport before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection

# As it is typed it takes one word.
_pack = cast("Callable[[tuple[str | bytes, ...]], bytes]", hiredis.pack_command)


class Wire(asyncio.Protocol):
    """`on_reply` gets each reply as hiredis gives it; `closed` is done when the peer, or
    `close`, has ended the connection, or an error has, which it then holds."""

    def __init__(self, connection: AbstractConnection, on_reply: Callable[[Any], None]) -> None:
        # redis-py knows how to connect: addresses, TLS, passwords, names. It has no public way
        # to let go of the socket afterwards. The writer is kept since it would close it.
        self._writer = writer = cast(Any, connection._writer)
        self._transport = writer.transport
        connection._reader = connection._writer = None
        self._on_reply = on_reply
        self._unsent: list[bytes] = []
        self._parser = hiredis.Reader()
        # Asking for the running loop is a system call each time.
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        return not (self.closed.done() or self._transport.is_closing())

    def send(self, *command: str | bytes) -> None:
        if self.is_open:
            self._transport.write(_pack(command))

    def send_soon(self, *command: str | bytes) -> None:
        """In one write with what else this turn of the loop has to send."""
        self._unsent.append(_pack(command))
        if len(self._unsent) == 1:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        unsent = b"".join(self._unsent)
        self._unsent.clear()
        if self.is_open:
            self._transport.write(unsent)

    def close(self) -> None:
        """At once: what waits to be sent is of no use to anybody."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        try:
            while (reply := self._parser.gets()) is not False:
                self._on_reply(reply)
        except Exception as error:
            # What comes next on this connection can no longer be told apart.
            self._end(error)
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        if self.closed.done():
            return
        if error is None:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(error)
