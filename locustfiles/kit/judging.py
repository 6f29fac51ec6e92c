"""The verdict, when locust quits: printed, kept, and its exit code.

Invariant: 0 means that something was sent, nothing failed and every threshold was kept.
locust's own code is 0 for a load without a single request.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from locust.env import Environment
from locust.runners import WorkerRunner

from locustfiles.kit import rows, thresholds
from locustfiles.kit.rows import AGAIN, ANSWERS, LIMITED, MEASURED, Row

SHARES = (0.5, 0.95, 0.99)


def judge(environment: Environment, **_: Any) -> None:
    """A listener of `events.quitting`; a worker leaves it to the master, which knows all."""
    runner = environment.runner
    if runner is None or isinstance(runner, WorkerRunner):
        return
    exceptions = sum(row["count"] for row in runner.exceptions.values())
    found = thresholds.judge(environment, exceptions)
    sys.stdout.write("\n" + "\n".join(thresholds.lines(found)) + "\n")
    sys.stdout.flush()
    missed = any(one.missed for one in found)
    environment.process_exit_code = 1 if missed else 0
    options = environment.parsed_options
    if options is not None and options.results:
        _keep(environment, found, Path(options.results))


def _keep(environment: Environment, found: list[thresholds.Judged], folder: Path) -> None:
    stats = environment.stats
    failures = [
        {"what": f"{error.method} {error.name}: {error.error}", "count": error.occurrences}
        for error in stats.errors.values()
    ]
    content = {
        "shape": getattr(environment.shape_class, "name", ""),
        "host": environment.host,
        "limits": [{**asdict(one), "said": one.said} for one in found],
        "rows": [_row(environment, row) for row in (*MEASURED, AGAIN, LIMITED, *ANSWERS)],
        "requests": [
            _row(environment, Row(method, name))
            for name, method in sorted(stats.entries)
            if method != "SSE"
        ],
        "failures": sorted(failures, key=lambda one: -int(str(one["count"]))),
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "verdict.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(content)))


def _row(environment: Environment, row: Row) -> dict[str, Any]:
    entry = rows.found(environment, row)
    times = {
        f"p{share:.0%}".rstrip("%"): entry.get_response_time_percentile(share)
        for share in SHARES
        if entry.num_requests
    }
    return {
        "name": f"{row.kind} {row.name}",
        "count": entry.num_requests,
        "failures": entry.num_failures,
        **times,
        "max": entry.max_response_time,
    }
