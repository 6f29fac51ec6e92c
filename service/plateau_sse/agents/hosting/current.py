"""The run on whose behalf a hosted agent's code is executed, and the threads for its tools.

Invariant: it is a variable of the run's own context, so that runs side by side in one loop, and
tools in threads of theirs, each have their own.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from plateau_sse.agents import Run

CURRENT: ContextVar[Run | None] = ContextVar("plateau_run", default=None)
# For frameworks that do not take those of the loop; None where nobody keeps any.
TOOLS: ContextVar[Executor | None] = ContextVar("plateau_tools", default=None)


def run_of() -> Run:
    """The run that this is a part of; RuntimeError outside of one."""
    run = CURRENT.get()
    if run is None:
        raise RuntimeError("no run of Plateau is being executed here")
    return run
