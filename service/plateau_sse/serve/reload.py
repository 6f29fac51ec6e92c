"""`plateau serve --reload`: which source files have changed.

Invariant: looking costs one `stat` a file and reads none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

EVERY_S = 1.0
# Environments and caches: large, and nobody edits them.
SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})


class Watcher:
    """Follows the `*.py` files under `folders`."""

    def __init__(self, folders: list[Path]) -> None:
        resolved = sorted({folder.resolve() for folder in folders})
        # One that lies within another would be looked at twice.
        self._folders = [
            folder
            for folder in resolved
            if not any(other in folder.parents for other in resolved)
        ]
        self._seen = self._look()
        self._next_at = 0.0

    def changed(self) -> list[str]:
        """Files that are new, changed or gone since the last call; looks once a second."""
        if time.monotonic() < self._next_at:
            return []
        self._next_at = time.monotonic() + EVERY_S
        before, self._seen = self._seen, self._look()
        return sorted(
            path
            for path in before.keys() | self._seen.keys()
            if before.get(path) != self._seen.get(path)
        )

    def wait(self) -> list[str]:
        """Block until something has changed."""
        while not (changed := self.changed()):
            time.sleep(EVERY_S)
        return changed

    def _look(self) -> dict[str, int]:
        return {path: at for folder in self._folders for path, at in _sources(str(folder))}


def _sources(folder: str) -> Iterator[tuple[str, int]]:
    """Path and time of change, in nanoseconds, of each source file below `folder`."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith(".") and entry.name not in SKIPPED:
                    yield from _sources(entry.path)
            elif entry.name.endswith(".py"):
                yield entry.path, entry.stat().st_mtime_ns
        except OSError:
            continue
