"""gunicorn's master as the supervisor of the whole tree: workers, runner, Redis servers.

Invariant: every child is reaped here and nowhere else, so each death is seen, logged with its
cause and answered; on the way out nothing new is taken on, the runner goes first, then the
workers, by whom its last words are read, and the Redis servers last. Whatever the way out,
nothing is left behind.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from gunicorn import sock
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from plateau_sse.files import raise_files
from plateau_sse.serve.application import PlateauApplication
from plateau_sse.serve.child import (
    Backoff,
    Child,
    cause_of_death,
    leave,
    left_in_order,
    signals_held,
)
from plateau_sse.serve.inheritance import settle
from plateau_sse.serve.redis_server import STOP_WITHIN_S, RedisServer
from plateau_sse.serve.reload import Watcher
from plateau_sse.serve.runner import Runner, web_share_s

# For those that are asked to be quick, before they are killed.
QUICK_S = 2.0
# How soon the master sees that the workers have come up.
BOOT_POLL_S = 0.05
# Workers without a runner, or without their Redis, are announced all the same.
HEALTHY_WITHIN_S = 5.0
SETTINGS_ERROR = 2


def has_terminal() -> bool:
    """Whether this process belongs to a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


class PlateauArbiter(Arbiter):  # type: ignore[misc]
    """`listener` is a bound socket's descriptor; `servers` run. Once the workers have booted
    `is_up` is asked until it agrees, then `on_up` is called, once."""

    def __init__(
        self,
        app: PlateauApplication,
        listener: int,
        *,
        runner: Runner | None,
        servers: Sequence[RedisServer],
        is_up: Callable[[], bool],
        on_up: Callable[[], None],
        watcher: Watcher | None = None,
    ) -> None:
        super().__init__(app)
        # gunicorn keeps these two on the class.
        self.LISTENERS: list[Any] = []
        self.WORKERS: dict[int, Any] = {}
        self.changed: list[str] = []
        self._listener = listener
        self._runner = runner
        self._servers = servers
        self._children: list[Child] = [*servers, *([runner] if runner else [])]
        self._is_up = is_up
        self._on_up = on_up
        self._watcher = watcher
        self._up = False
        self._booted = 0
        self._booted_at = 0.0
        self._stopping = False
        self._born: dict[int, float] = {}
        self._asked: set[int] = set()
        self._backoff = Backoff()
        self._has_terminal = self._ignores_hangup = False
        if runner is not None:
            runner.release = self._release
            runner.board = app.board

    def start(self) -> None:
        raise_files()
        self._has_terminal = has_terminal()
        self._ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        (address,) = self.cfg.address
        kind = sock.TCP6Socket if ":" in address[0] else sock.TCPSocket
        self.LISTENERS = [kind(address, self.cfg, self.log, fd=self._listener)]
        super().start()

    def _release(self) -> None:
        """In the runner: close what is the master's and its workers'."""
        for listener in self.LISTENERS:
            listener.close()
        for worker in self.WORKERS.values():
            worker.tmp.close()

    # What happens each turn of gunicorn's loop

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        waits = [child.due_s for child in self._children]
        if len(self.WORKERS) < self.num_workers:
            waits.append(self._backoff.left_s())
        if not self._up:
            waits.append(BOOT_POLL_S)
        signals = super().wait_for_signals(max(0.01, min([timeout, *waits])))
        # A terminal that is resized is no news.
        return [number for number in signals if number != signal.SIGWINCH]

    def manage_workers(self) -> None:
        for child in self._children:
            child.look_after()
        if len(self.WORKERS) >= self.num_workers or not self._backoff.left_s():
            super().manage_workers()
        if not self._up:
            self._announce_when_up()
        if self._watcher is not None and (changed := self._watcher.changed()):
            self.changed = changed
            raise StopIteration

    def _announce_when_up(self) -> None:
        try:
            self._booted += len(os.read(self.app.booted_fd, 1024))
            self._booted_at = time.monotonic()
        except BlockingIOError:
            pass
        if self._booted < self.num_workers:
            return
        self._up = self._is_up()
        if not self._up and time.monotonic() > self._booted_at + HEALTHY_WITHIN_S:
            self.log.warning("Not healthy yet: /health says what is missing.")
            self._up = True
        if self._up:
            self._on_up()

    def spawn_worker(self) -> int:
        settle()
        master = os.getpid()
        try:
            with signals_held():
                pid = int(super().spawn_worker())
        except BaseException as end:
            if os.getpid() == master:
                raise
            code = end.code if isinstance(end, SystemExit) else 1
            leave(code if isinstance(code, int) else 1)
        self._born[pid] = time.monotonic()
        return pid

    # Deaths

    def kill_worker(self, pid: int, sig: int) -> None:
        if sig == signal.SIGTERM:
            self._asked.add(pid)
        super().kill_worker(pid, sig)

    def reap_workers(self) -> None:
        """Reap whoever has ended; gunicorn's own way swallows what became of the others."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for child in self._children:
                if child.pid == pid:
                    self._child_ended(child, status)
            if pid in self.WORKERS:
                self._worker_ended(pid, status)

    def _child_ended(self, child: Child, status: int) -> None:
        first = child.starts == 1
        # Whoever ends a Redis server ends what it keeps for the others.
        planned = child is self._runner and child.was_asked(status)
        words = child.exited(status)
        if self._stopping:
            return
        if planned:
            self.log.info(words)
            return
        self.app.board.died("runners_died" if child is self._runner else "redis_died")
        self.log.warning(words)
        if (
            child is self._runner
            and first
            and not child.has_begun
            and os.waitstatus_to_exitcode(status) == SETTINGS_ERROR
        ):
            self._give_up("The runner cannot start with these settings.", SETTINGS_ERROR)

    def _worker_ended(self, pid: int, status: int) -> None:
        worker = self.WORKERS.pop(pid)
        worker.tmp.close()
        lived_s = time.monotonic() - self._born.pop(pid, 0.0)
        asked = pid in self._asked
        self._asked.discard(pid)
        if self._stopping:
            return
        if left_in_order(status, asked=asked):
            self.app.board.died("workers_recycled")
            return
        self.app.board.died("workers_died")
        # gunicorn's word to one that has been silent for too long.
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGABRT:
            self.app.board.died("workers_timed_out")
        delay_s = self._backoff.died(lived_s)
        cause = cause_of_death(status)
        self.log.error("Worker (pid %s) died: %s. Another in %g s.", pid, cause, delay_s)
        if not self._up and os.WIFEXITED(status):
            self._give_up("A worker failed to boot.", 1)

    def _give_up(self, reason: str, code: int) -> None:
        # While developing, the next change may mend it.
        if self._watcher is None:
            raise HaltServer(reason, code)
        self.log.error("%s Waiting for a change.", reason)

    # Ways out

    def handle_hup(self) -> None:
        if self._has_terminal and not has_terminal():
            # Not somebody's wish for a reload: the window was closed that it runs in.
            if self._ignores_hangup:
                return
            raise StopIteration
        self.log.info("SIGHUP: replacing the workers and restarting the runner.")
        if self._runner is not None and self._runner.pid:
            self._runner.restart(self.cfg.graceful_timeout)
        for _ in range(self.num_workers):
            self.spawn_worker()
        self.manage_workers()

    def handle_usr2(self) -> None:
        self.log.warning(
            "SIGUSR2 does nothing here: start a second serve behind a proxy instead."
        )

    def halt(self, reason: str | None = None, exit_status: int = 0) -> NoReturn:
        self.stop(graceful=not self.changed)
        if reason is not None:
            self.log.error(reason)
        sys.exit(exit_status)

    def stop(self, graceful: bool = True) -> None:
        """End the tree: gracefully within GRACEFUL_TIMEOUT_S, otherwise within seconds."""
        if self._stopping:
            return
        self._stopping = True
        # Where the store stays, other runners do, and what is taken on has a place there.
        self.app.board.leave(with_store=any(it.role == "streams" for it in self._servers))
        deadline = time.monotonic() + self.cfg.graceful_timeout
        if graceful and self._runner is not None:
            graceful = self._end_runner(deadline - web_share_s(self.app.settings))
        sock.close_sockets(self.LISTENERS, unlink=False)
        self.LISTENERS = []
        self._end_workers_and_runner(graceful, deadline)
        for server in self._servers:
            server.stop(STOP_WITHIN_S)

    def _end_runner(self, deadline: float) -> bool:
        """While its runs can still be read; False where somebody lost patience."""
        runner = self._runner
        assert runner is not None
        runner.send(signal.SIGTERM)
        while runner.pid and (left_s := deadline - time.monotonic()) > 0:
            for number in super().wait_for_signals(min(left_s, 0.5)):
                if number in (signal.SIGINT, signal.SIGQUIT):
                    return False
            self.reap_workers()
        return True

    def _end_workers_and_runner(self, graceful: bool, deadline: float) -> None:
        self._ask_to_go(graceful)
        if not graceful:
            deadline = time.monotonic() + QUICK_S
        while self._anyone_left() and (left_s := deadline - time.monotonic()) > 0:
            for number in super().wait_for_signals(min(left_s, 0.5)):
                hurried = number in (signal.SIGINT, signal.SIGQUIT)
                if graceful and hurried:
                    deadline = time.monotonic() + QUICK_S
                    graceful = self._ask_to_go(False)
            if graceful and deadline - time.monotonic() < QUICK_S:
                # They take more time than there is: what is open is cut in good order.
                graceful = self._ask_to_go(False)
            self.reap_workers()
        self.kill_workers(signal.SIGKILL)
        if self._runner is not None:
            self._runner.send(signal.SIGKILL)
        while self._anyone_left():
            self.reap_workers()
            time.sleep(0.01)

    def _anyone_left(self) -> bool:
        return bool(self.WORKERS) or bool(self._runner and self._runner.pid)

    def _ask_to_go(self, graceful: bool) -> bool:
        self.kill_workers(signal.SIGTERM if graceful else signal.SIGQUIT)
        if self._runner is not None:
            self._runner.send(signal.SIGTERM)
        return graceful
