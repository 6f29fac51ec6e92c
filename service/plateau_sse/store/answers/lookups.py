"""GET over one connection, pipelined: all that a cached answer costs of Redis.

Invariant: a reply belongs to the oldest command that has none. Where one is overdue the
connection is given up with all that waits on it, for no later reply could be told apart. At
most `WINDOW` commands are under way, so Redis never holds more replies for a worker.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from plateau_sse import tasks
from plateau_sse.errors import StoreError, StoreUnavailable
from plateau_sse.store.redis.connections import dialing
from plateau_sse.store.redis.patience import Rest, retrieved
from plateau_sse.store.redis.pools import CONNECT_S
from plateau_sse.store.redis.wire import Wire

WINDOW = 16
# The second is for a connection that Redis had closed while nobody used it.
ATTEMPTS = 2


class Lookup(NamedTuple):
    value: asyncio.Future[bytes | None]
    # By the loop's clock.
    sent_at: float


class Lookups:
    """One a worker, made in its loop. Who asks waits `timeout_s` for a connection, and as long
    for a reply; a connection that takes longer is there for who asks next."""

    def __init__(self, url: str, name: str, *, timeout_s: float) -> None:
        self._dial = dialing(url, name)
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        # Taken by who sends, given back by what came of it: also where nobody waits any more.
        self._window = asyncio.Semaphore(WINDOW)
        self._sent: deque[Lookup] = deque()
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[Wire] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rest = Rest()

    async def get(self, key: str) -> bytes | None:
        """The value, None where there is none. Raises StoreError."""
        for _ in range(ATTEMPTS):
            await self._window.acquire()
            try:
                wire = self._wire or await self._connected()
            except BaseException:
                self._window.release()
                raise
            try:
                return await self._send(wire, key)
            except ConnectionError as error:
                broken = error
        raise StoreUnavailable(str(broken))

    def _send(self, wire: Wire, key: str) -> asyncio.Future[bytes | None]:
        now = self._loop.time()
        value: asyncio.Future[bytes | None] = self._loop.create_future()
        self._sent.append(Lookup(value, now))
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._timeout_s, self._look_for_overdue)
        wire.send_soon("GET", key)
        return value

    def _reply(self, reply: Any) -> None:
        value = self._sent.popleft().value
        self._window.release()
        if value.done():
            # Whoever asked has gone.
            return
        if isinstance(reply, Exception):
            value.set_exception(StoreError(str(reply)))
        else:
            value.set_result(reply)

    def _look_for_overdue(self) -> None:
        """One timer for all, that runs while anything is under way."""
        self._timer = None
        if not self._sent:
            return
        due_at = self._sent[0].sent_at + self._timeout_s
        if self._loop.time() < due_at:
            self._timer = self._loop.call_at(due_at, self._look_for_overdue)
        else:
            # Else each request would wait for the timeout in turn.
            self._rest.begin()
            self._give_up(StoreUnavailable(f"no reply within {self._timeout_s:g} s"))

    def _give_up(self, error: Exception) -> None:
        """Close the connection; `error` is for all that wait on it."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()
        sent, self._sent = self._sent, deque()
        for lookup in sent:
            self._window.release()
            if not lookup.value.done():
                lookup.value.set_exception(error)

    def open(self) -> None:
        """Connect already: whoever asks first has no patience for that."""
        self._dialled()

    def _dialled(self) -> asyncio.Task[Wire]:
        if self._connecting is None:
            self._connecting = self._loop.create_task(self._connect())
            self._connecting.add_done_callback(retrieved)
        return self._connecting

    async def _connected(self) -> Wire:
        self._rest.check()
        connecting = self._dialled()
        # The others who wait for it must not suffer where one of them goes.
        await asyncio.wait({connecting}, timeout=self._timeout_s)
        if not connecting.done():
            self._rest.begin()
            raise StoreUnavailable(f"no connection within {self._timeout_s:g} s")
        return await tasks.shared(connecting)

    async def _connect(self) -> Wire:
        connection = self._dial()
        try:
            async with asyncio.timeout(max(self._timeout_s, CONNECT_S)):
                await connection.connect()  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            self._rest.begin()
            with suppress(Exception):
                await connection.disconnect(nowait=True)
            raise StoreUnavailable(str(error) or "it does not answer") from error
        finally:
            self._connecting = None
        self._wire = wire = Wire(connection, self._reply)
        wire.closed.add_done_callback(lambda closed: self._lost(wire, closed))
        return wire

    def _lost(self, wire: Wire, closed: asyncio.Future[None]) -> None:
        error = closed.exception()
        if self._wire is wire:
            self._give_up(ConnectionError(str(error or "the cache closed the connection")))

    def reconnect(self) -> None:
        """The next is asked over another connection."""
        if self._wire is not None:
            self._wire.close()

    async def close(self) -> None:
        if self._connecting is not None:
            await tasks.end(self._connecting)
        self._give_up(StoreUnavailable("this worker goes"))
        if self._timer is not None:
            self._timer.cancel()
