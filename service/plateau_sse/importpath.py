"""Where modules are looked for.

Invariant: the current directory, where agents are, comes last: a file there cannot stand in for
a module that the service itself needs, such as `redis.py` or `queue.py`.
"""

from __future__ import annotations

import os
import sys


def put_current_directory_last() -> None:
    """Console scripts do not see it at all, `python -m` sees it first. Where PYTHONPATH names
    it, it stays where that says."""
    here = os.getcwd()
    if sys.path[:1] in ([""], [here]):
        del sys.path[0]
    if here not in sys.path:
        sys.path.append(here)
