"""The runner as a child of `plateau serve`.

Invariant: it is forked from the master after the application was loaded there, so that the two
share its pages, and imports agents only in the child, so that workers never have them. One that
computes and gives no sign of life is ended, in words that name its agent.
"""

from __future__ import annotations

import dataclasses
import secrets
import signal
import socket
import time
from collections.abc import Callable

from plateau_sse.runner.beat import STACKS, Beat, Before
from plateau_sse.serve.child import Child, fork
from plateau_sse.serve.inheritance import settle
from plateau_sse.serve.silence import CLOSELY_S, Silence
from plateau_sse.serve.titles import set_title
from plateau_sse.settings import Settings
from plateau_sse.store.figures.tally import Board

# For writing down the stacks of a silent one, which needs nothing of the interpreter.
LAST_WORDS_S = 0.3
# A worker ends its responses within 2 s.
WEB_S = 5.0


def web_share_s(settings: Settings) -> float:
    """Of GRACEFUL_TIMEOUT_S, for web workers to end in when the runner has gone."""
    return min(WEB_S, settings.graceful_timeout_s / 3)


class Runner(Child):
    """`release` closes in the child what belongs to the master and its workers; it counts on
    `board`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("The runner")
        self.board: Board | None = None
        self.release: Callable[[], None] = lambda: None
        # What is left of the grace is for those who read what it has said last.
        grace_s = max(1, int(settings.graceful_timeout_s - web_share_s(settings)))
        self._settings = dataclasses.replace(settings, graceful_timeout_s=grace_s)
        self._name = ""
        self._beat = Beat(settings.runner_concurrency)
        self._silence = Silence(self._beat)
        self._before: Before | None = None
        self._ended: Before | None = None

    def spawn(self) -> int:
        # A name that no other has, whatever hosts and ports are called alike: two that share
        # one could not tell their runs apart.
        word = secrets.token_hex(4)
        self._name = f"{socket.gethostname()}:{self._settings.port}:{word}"
        self._beat = Beat(self._settings.runner_concurrency)
        self._silence = Silence(self._beat)
        settle()
        # Its runs are in Redis, and another runner takes them over: no need to be gentle when
        # the master is no more.
        return fork(self._main, death_signal=signal.SIGKILL)

    def look_after(self) -> None:
        if self.pid and self._silence.look(self.pid) and self._kill_at is None:
            inside, is_sure = self._silence.culprits(self.pid)
            self._ended = Before(self._name, inside, self._silence.silent_s, is_sure)
            self.send(STACKS)
            self._kill_at = time.monotonic() + LAST_WORDS_S
        super().look_after()

    @property
    def has_begun(self) -> bool:
        """Whether the latest one has served: what it ended with then is no word of its
        settings, but an agent's."""
        return self._beat.has_begun

    @property
    def due_s(self) -> float:
        if self.pid and self._silence.is_close:
            return min(CLOSELY_S, super().due_s)
        return super().due_s

    def exited(self, status: int) -> str:
        pid, ended, self._ended = self.pid, self._ended, None
        # Whatever it held is its successor's.
        self._before = ended or Before(self._name)
        words = super().exited(status)
        if ended is None:
            return words
        agents = ", ".join(f"agent {agent} (run {run_id})" for run_id, agent in ended.inside)
        return (
            f"The runner (pid {pid}) gave no sign of life for {ended.silent_s:.0f} s and was "
            f"ended; it was in {agents or 'no code of an agent'}. Its threads' stacks are "
            "above. Starting it again."
        )

    def _main(self) -> int:
        self.release()
        set_title("plateau: runner")
        from plateau_sse.runner.process import run

        return run(self._settings, self._name, self.board, self._beat, self._before)
