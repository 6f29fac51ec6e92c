"""Limits how often the same line is logged: a few times, then its number.

Invariant: of one kind of line (a logger and a template) `BURST` pass in `WINDOW_S`; how many
more there were is said once, when the window is over.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

BURST = 10
WINDOW_S = 60.0
# Kinds of lines stand in the code; a library that formats its own is one kind at the most.
KINDS_MOST = 500


@dataclass(slots=True)
class _Kind:
    began_at: float
    passed: int = 0
    held: int = 0
    last: logging.LogRecord | None = None


class Damper(logging.Filter):
    """For a handler; `tell` is called now and then, for counts that no line comes after."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, int, str], _Kind] = {}
        self._lock = threading.Lock()
        self._telling = False

    def filter(self, record: logging.LogRecord) -> bool:
        if self._telling:
            return True
        self.tell()
        now = time.monotonic()
        with self._lock:
            key = (record.name, record.levelno, str(record.msg))
            kind = self._kinds.get(key)
            if kind is None:
                if len(self._kinds) >= KINDS_MOST:
                    return True
                kind = self._kinds[key] = _Kind(now)
            if kind.passed < BURST:
                kind.passed += 1
                return True
            kind.held += 1
            kind.last = record
            return False

    def tell(self) -> None:
        """Say how many were held back in the windows that are over."""
        now, told = time.monotonic(), []
        with self._lock:
            for key, kind in list(self._kinds.items()):
                if now - kind.began_at >= WINDOW_S:
                    del self._kinds[key]
                    if kind.held and kind.last is not None:
                        told.append((kind, kind.last))
        for kind, last in told:
            self._say(kind, last)

    def _say(self, kind: _Kind, last: logging.LogRecord) -> None:
        count = f"{kind.held} more in the last minute, the latest: "
        last.msg, last.args = count + last.getMessage(), None
        last.exc_info = last.exc_text = None
        with self._lock:
            self._telling = True
        try:
            logging.getLogger(last.name).handle(last)
        finally:
            self._telling = False


def tell_held() -> None:
    """Whatever the handlers of this process hold back and is due."""
    for handler in logging.root.handlers:
        for found in handler.filters:
            if isinstance(found, Damper):
                found.tell()
