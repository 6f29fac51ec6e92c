"""What is counted of a run that has ended here."""

from __future__ import annotations

from plateau_sse.runner.execution import Execution
from plateau_sse.store.figures.stats import Stats


def count_end(stats: Stats, execution: Execution) -> None:
    """How it ended, what it used, how long it took, and how long its asker waited for the first
    text."""
    if not execution.end:
        return
    stats.count_end(execution.agent, execution.end, execution.usage)
    stats.observe("run_time", execution.elapsed_s)
    if execution.first_text_s is not None:
        stats.observe("first_token", execution.first_text_s)
