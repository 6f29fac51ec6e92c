"""gunicorn's view of Plateau: its settings and the application that it preloads.

Invariant: the master imports everything that a worker runs, and opens nothing: no loop, client
or thread exists before a fork.
"""

from __future__ import annotations

import os
import tempfile
from importlib import import_module
from typing import Any

from gunicorn.app.base import BaseApplication

from plateau_sse.settings import Settings
from plateau_sse.store.figures.tally import SHARED_MEMORY, Board

KEEP_ALIVE_S = 75
# uvicorn imports these by name when a worker starts, each worker for itself.
PRELOADED = ("uvicorn.lifespan.on", "uvicorn.loops.uvloop", "plateau_sse.live.protocol")


def bind_address(settings: Settings) -> str:
    host = settings.host.strip("[]")
    return f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"


def gunicorn_settings(settings: Settings) -> dict[str, Any]:
    from plateau_sse.serve.worker import PlateauWorker

    return {
        "bind": bind_address(settings),
        "workers": settings.web_concurrency,
        "worker_class": PlateauWorker,
        "worker_tmp_dir": SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None,
        "timeout": settings.worker_timeout_s,
        "graceful_timeout": settings.graceful_timeout_s,
        "keepalive": KEEP_ALIVE_S,
        "max_requests": settings.max_requests,
        "max_requests_jitter": settings.max_requests_jitter,
        "preload_app": True,
        "proc_name": "plateau",
        "control_socket_disable": True,
        # As it is in the path already: gunicorn would put another spelling of it first.
        "chdir": os.getcwd(),
        "accesslog": None,
        # plateau_sse.serve.logs has given its logger a handler.
        "errorlog": None,
    }


class PlateauApplication(BaseApplication):  # type: ignore[misc]
    """`turn` is locked by the worker being recycled; each writes to `booted` once it is up, and
    counts on `board`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.turn = tempfile.TemporaryFile()
        self.board = Board()
        self.booted_fd, self.booted = os.pipe()
        os.set_blocking(self.booted_fd, False)
        os.set_blocking(self.booted, False)
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_settings(self.settings).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        for name in PRELOADED:
            import_module(name)
        from plateau_sse.app import create_app

        return create_app(self.settings, self.board)
