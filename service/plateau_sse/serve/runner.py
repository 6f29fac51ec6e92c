"""The runner as a child of `plateau serve`.

Invariant: it is forked from the master after the application was loaded there, so that the two
share its pages, and imports agents only in the child, so that workers never have them.
"""

from __future__ import annotations

import gc
import signal
import socket
from collections.abc import Callable

from plateau_sse.serve.child import Child, fork
from plateau_sse.serve.titles import set_title
from plateau_sse.settings import Settings
from plateau_sse.store.figures.tally import Board


class Runner(Child):
    """`release` closes in the child what belongs to the master and its workers; it counts on
    `board`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("The runner")
        self.board: Board | None = None
        self._settings = settings
        # A successor of the same name takes its predecessor's runs at once.
        self._consumer = f"{socket.gethostname()}:{settings.port}"
        self.release: Callable[[], None] = lambda: None

    def spawn(self) -> int:
        gc.collect()
        gc.freeze()
        # Its runs are in Redis, and another runner takes them over: no need to be gentle when
        # the master is no more.
        return fork(self._main, death_signal=signal.SIGKILL)

    def _main(self) -> int:
        self.release()
        set_title("plateau: runner")
        from plateau_sse.runner.process import run

        return run(self._settings, self._consumer, self.board)
