"""Keeping the leases of a runner's runs, from a thread of its own.

Invariant: a living process keeps its leases even while an agent blocks its loop; a run whose
lease another runner has got is reported once and renewed no more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from plateau_sse.errors import StoreError
from plateau_sse.store.queue.queue import RENEW_S, Leases, Ticket

log = logging.getLogger("plateau.runner")

# After a failure: several more tries fit into a lease.
RETRY_S = 0.5


class LeaseKeeper:
    """`on_lost(run_id)` is called from the thread, once for each lease that is gone."""

    def __init__(self, leases: Leases, runner: str, on_lost: Callable[[str], None]) -> None:
        self._leases = leases
        self._runner = runner
        self._on_lost = on_lost
        # Runs, with their lines.
        self._held: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=3)

    def hold(self, ticket: Ticket) -> None:
        with self._lock:
            self._held[ticket.run_id] = ticket.line

    def lines(self) -> set[str]:
        """Those of what is held."""
        with self._lock:
            return set(self._held.values())

    def release(self, run_id: str) -> None:
        with self._lock:
            self._held.pop(run_id, None)

    def _keep(self) -> None:
        wait_s = RENEW_S
        while not self._stopping.wait(wait_s):
            with self._lock:
                held = dict(self._held)
            wait_s = RENEW_S
            if not held:
                continue
            try:
                lost = self._leases.renew(self._runner, held)
            except StoreError as error:
                log.warning("leases could not be renewed, trying again: %s", error)
                wait_s = RETRY_S
                continue
            for run_id in lost:
                # Released meanwhile: it ended, nobody took it.
                with self._lock:
                    taken = self._held.pop(run_id, None) is not None
                if taken:
                    self._on_lost(run_id)
