"""A service with two workers and the agents of these tests."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.dialects import agents
from tests.processes import Serving, serving, wait_until

NAMES = (
    *("told", "takes_turns", "calls", "fails", "stumbles", "concludes", "goes_on"),
    *("cut_off", "options", "narrates"),
)
ENV = {
    "AGENTS": ",".join(f"{name}={agents.__name__}:{name}" for name in NAMES),
    "WEB_CONCURRENCY": "2",
    "API_KEYS": "the-key-of-ann,the-key-of-bob",
    "OPENAI_MODEL": "small-1",
    "OPENAI_MODELS": "large-1,meta/large-2",
    # Long enough for a client that is started anew.
    "QUEUE_TIMEOUT_S": "60",
}
KEY = {"Authorization": "Bearer the-key-of-ann"}


@dataclass
class Stage:
    plateau: Serving
    folder: Path

    @property
    def url(self) -> str:
        return self.plateau.url

    @contextmanager
    def gate(self) -> Iterator[Path]:
        """A file that is not there, and is when the block ends: no run stays for ever."""
        path = self.folder / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.touch()

    def replace_workers(self) -> None:
        """As a deploy does: those that are there are told to leave. Who asks while one of them
        has not heard of it may be taken by it, and is told to ask again, too."""
        leaving = self.plateau.pids("gunicorn: worker")
        for worker in leaving:
            os.kill(worker, signal.SIGTERM)
        wait_until(
            lambda: not set(leaving) & set(self.plateau.pids("gunicorn: worker")),
            "they have left",
        )
        wait_until(self.plateau.is_ready, "others are there")

    def record(self, run_id: str) -> dict[str, Any]:
        found = httpx.get(f"{self.url}/v1/runs/{run_id}", headers=KEY)
        assert found.status_code == 200, found.text
        record: dict[str, Any] = found.json()
        return record


@contextmanager
def staged(folder: Path, **env: str) -> Iterator[Stage]:
    with serving(folder / "data", env=ENV | env) as plateau:
        yield Stage(plateau, folder)


def anew() -> str:
    """A question that no cache has seen."""
    return uuid.uuid4().hex
