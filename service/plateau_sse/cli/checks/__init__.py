"""What `plateau doctor` looks at, a module a subject.

Invariant: a check changes nothing, and its findings hold no secret. What is not well comes with
the command or the setting that mends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` is `subject` or `subject.detail` and stays what it is, for scripts; `text` is one
    line; `mend` can be pasted, but for what only a person can do."""

    check: str
    level: Level
    text: str
    mend: str = ""

    @property
    def subject(self) -> str:
        return self.check.partition(".")[0]


def ok(check: str, text: str) -> Finding:
    return Finding(check, "ok", text)


def warning(check: str, text: str, mend: str) -> Finding:
    return Finding(check, "warning", text, mend)


def error(check: str, text: str, mend: str) -> Finding:
    return Finding(check, "error", text, mend)
