"""A web worker: gunicorn's process, uvicorn's server, our way of leaving.

Invariant: a worker that leaves breaks off no response within its grace: the hub ends each live
one with a `retry:`, and keep-alive connections are told to close before they are closed. Only
what has not ended by then is cut. Recycling takes one worker at a time and none before its age.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import random
import signal
import socket
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Any, ClassVar

import uvicorn
from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from plateau_sse import tasks
from plateau_sse.heap import give_back_large_blocks
from plateau_sse.serve.child import FROM_TERMINAL, HANDLED, die_with_parent, leave

log = logging.getLogger("plateau.worker")

# At a thousand cached answers a second every worker would be recycled each second.
MIN_AGE_S = 60.0
# Its readers would all have to come back: with some it gives so many times as many responses,
# unless the last of them leaves before.
WITH_READERS = 4
# Long enough for clients that keep a connection busy to hear `Connection: close` on it.
FAREWELL_S = 2.0
# Kept of the grace, so that a worker has gone before its master loses patience.
RESERVE_S = 3.0
QUICK_S = 1.0
# For the application to close what it opened, once no response is left.
CLOSE_S = 2.0
TICKS_A_SECOND = 10


class WorkerServer(uvicorn.Server):
    """uvicorn's server, with recycling and an orderly end. `patience_s` bounds the end."""

    def __init__(self, config: uvicorn.Config, worker: PlateauWorker) -> None:
        super().__init__(config)
        self._worker = worker
        self._born_at = time.monotonic()
        self._leave_at: float | None = None
        self._patience_s = max(1.0, worker.cfg.graceful_timeout - RESERVE_S)
        self._ending: asyncio.Timeout | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        # Bound methods: sse-starlette finds the server, and its should_exit, through them.
        for number in (signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, self.handle_exit)
        await self._serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: leave in an orderly way. SIGQUIT: the same within QUICK_S."""
        self.should_exit = True
        if sig == signal.SIGQUIT:
            self._patience_s = QUICK_S
            if self._ending is not None:
                self._ending.reschedule(asyncio.get_running_loop().time() + QUICK_S)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._worker.has_booted()

    async def on_tick(self, counter: int) -> bool:
        if await super().on_tick(counter):
            return True
        if counter % TICKS_A_SECOND == 0:
            self._recycle_when_due(time.monotonic())
            self._worker.notify()
            # Where the kernel does not end us with the master.
            self.should_exit |= os.getppid() != self._worker.ppid
        return False

    def _recycle_when_due(self, now: float) -> None:
        if self._leave_at is not None:
            self.should_exit |= now >= self._leave_at
            return
        if not self._is_old(now):
            return
        # Not what uvicorn counts: whoever asks for nothing that there is, or for a page, would
        # have the readers of each worker sent away once a minute.
        guard, readers = self.lifespan.state["guard"], self.lifespan.state["hub"].readers
        responses = guard.served
        # What its readers have left behind may stay: it would take no stream ever again.
        is_heavy = bool(responses) and not readers and guard.weight.is_too_much
        times = WITH_READERS if readers else 1
        if responses < times * self._worker.max_requests and not is_heavy:
            return
        if self._worker.takes_turn():
            why = f" with {guard.weight.bytes / 1024**2:.1f} MiB" if is_heavy else ""
            log.info("Worker recycled after %d responses%s.", responses, why)
            self._leave_at = now + FAREWELL_S
            self._say_farewell()

    def _say_farewell(self) -> None:
        """On every response from now on: none will be followed by another."""
        farewell = (b"connection", b"close")
        if farewell not in self.config.encoded_headers:
            self.config.encoded_headers.append(farewell)
            self.server_state.default_headers = [
                *self.server_state.default_headers,
                farewell,
            ]

    def _is_old(self, now: float) -> bool:
        return now - self._born_at >= self._worker.min_age_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Nothing new may come in behind the hub's back.
        self._say_farewell()
        await self._close_listeners(sockets or [])
        # There are no ticks any more, and the grace may be longer than a silence.
        beating = asyncio.create_task(self._beat())
        try:
            async with asyncio.timeout(self._patience_s) as self._ending:
                await self.lifespan.state["hub"].drain()
                await super().shutdown(sockets)
        except TimeoutError:
            await self._cut()
        finally:
            await tasks.end(beating)

    async def _close_listeners(self, sockets: list[socket.socket]) -> None:
        """The kernel resets whoever is connected and was not accepted: they are taken first."""
        accepted = []
        for listener in sockets:
            listener.setblocking(False)
            with suppress(OSError):
                # More of them cannot wait there; who goes on coming is not gone on with.
                for _ in range(self.config.backlog):
                    accepted.append(listener.accept()[0])
        for server in self.servers:
            server.close()
        for connection in accepted:
            with suppress(OSError):
                await asyncio.get_running_loop().connect_accepted_socket(
                    self._newcomer, connection
                )

    def _newcomer(self) -> asyncio.Protocol:
        protocol: Any = self.config.http_protocol_class
        made: asyncio.Protocol = protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def _beat(self) -> None:
        while True:
            self._worker.notify()
            await asyncio.sleep(1)

    async def _wait_tasks_to_complete(self) -> None:
        await super()._wait_tasks_to_complete()
        # What is left of the grace was for responses, and there are none any more.
        if self._ending is not None:
            self._ending.reschedule(asyncio.get_running_loop().time() + CLOSE_S)

    async def _cut(self) -> None:
        """Break off what is still open; the application still gets to close its connections."""
        connections = list(self.server_state.connections)
        if not connections:
            log.warning("The application did not close within %g s.", CLOSE_S)
            return
        log.warning(
            "%d connections did not end within %g s and are cut.",
            len(connections),
            self._patience_s,
        )
        for connection in connections:
            connection.transport.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.lifespan.shutdown()


class PlateauWorker(UvicornWorker):  # type: ignore[misc]
    """Constructed in the master, runs in the child."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "plateau_sse.live.protocol:LiveProtocol",
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "access_log": False,
        "server_header": False,
        # Nothing reads what they would change: the client's address, the scheme.
        "proxy_headers": False,
        # Whatever is said: no browser is to take it for something else.
        "headers": [("X-Content-Type-Options", "nosniff")],
        "log_level": "warning",
        # uvicorn's own count would recycle a young worker, and all of them at once.
        "limit_max_requests": None,
        # uvicorn beats by the wall clock, gunicorn judges by the monotonic one: set back by a
        # minute, all workers would be taken for dead at once. A method of its own would also be
        # a cycle, which the master does not collect once the next fork has frozen it.
        "callback_notify": None,
    }
    min_age_s: ClassVar[float] = MIN_AGE_S

    def init_process(self) -> None:
        die_with_parent(self.ppid, signal.SIGKILL)
        give_back_large_blocks()
        random.seed()
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        for number in FROM_TERMINAL:
            signal.signal(number, signal.SIG_IGN)
        # Held back since before the fork.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*HANDLED, *FROM_TERMINAL})

    def has_booted(self) -> None:
        with suppress(OSError):
            os.write(self.app.booted, b".")

    def takes_turn(self) -> bool:
        """True for one worker at a time, until it has gone: the kernel then lets go of it."""
        try:
            # Unlike flock's, these locks are a process' own though all have the file by fork.
            fcntl.lockf(self.app.turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = WorkerServer(self.config, self)
        # The sockets themselves: uvloop detaches them; gunicorn's wrappers it closes twice.
        await server.serve(sockets=[listener.sock for listener in self.sockets])
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        # Closing the loop would wait for threads, and log each response that was cut.
        leave(0)
