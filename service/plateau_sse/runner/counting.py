"""What is counted of a run that has ended here."""

from __future__ import annotations

import msgspec

from plateau_sse.runner.execution import Execution
from plateau_sse.store.figures.stats import Stats


def count_end(stats: Stats, execution: Execution) -> None:
    """How it ended, how long it took, and how long its asker waited for the first text."""
    last = execution.last
    if last is None:
        return
    if last.arg == "failed":
        stats.count(f"runs_failed_{msgspec.json.decode(last.data)['code']}")
    else:
        stats.count(f"runs_{last.arg}")
    stats.observe("run_time", execution.elapsed_s)
    if execution.first_text_s is not None:
        stats.observe("first_token", execution.first_text_s)
