"""What takes a browser, Node, several servers or hosts, or a benchmark: minutes, which not
everybody who changes a line has.

Invariant: CI runs all of it. Elsewhere it runs where it is asked for: `scripts/test --all`, or
a file that is named. `tests/conftest.py` says which it is, to all processes.
"""

from __future__ import annotations

import os

import pytest

ASKED = "PLATEAU_TEST_ALL"


def skip_unless_asked(what: str) -> None:
    """Skips the test that calls it, with the cause in words."""
    if os.environ.get("CI") != "true" and os.environ.get(ASKED) != "1":
        pytest.skip(f"{what}: CI runs it, and so does scripts/test --all")
