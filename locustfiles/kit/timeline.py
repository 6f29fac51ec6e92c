"""How the load went, every few seconds: a line of CSV each.

Invariant: a line tells of the seconds since the last one alone, not of all since the start, and
is in the file as soon as they are over.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import gevent
from locust.env import Environment
from locust.runners import WorkerRunner

from locustfiles.kit.rows import MEASURED, Row, found

# Workers report every three.
EVERY_S = 3.0
FILE = "timeline.csv"


def begin(environment: Environment, **_: Any) -> None:
    """A listener of `events.init`."""
    options = environment.parsed_options
    if isinstance(environment.runner, WorkerRunner) or options is None or not options.results:
        return
    gevent.spawn(_write, environment, Path(options.results))


def _write(environment: Environment, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("w", newline="") as file:
        lines = csv.writer(file)
        heads = ["at_s", "users", "requests", "failures"]
        for row in MEASURED:
            heads += [f"{row.name} {what}" for what in ("count", "p50", "p95")]
        lines.writerow(heads)
        file.flush()
        _go_on(environment, lines, file)


def _go_on(environment: Environment, lines: Any, file: TextIO) -> None:
    before: dict[Row, Counter[int]] = {row: Counter() for row in MEASURED}
    while True:
        gevent.sleep(EVERY_S)
        runner, total = environment.runner, environment.stats.total
        users = runner.user_count if runner is not None else 0
        cells: list[Any] = [f"{time.time():.1f}", users, total.num_requests, total.num_failures]
        for row in MEASURED:
            times = Counter(found(environment, row).response_times)
            lately = times - before[row]
            before[row] = times
            cells += [lately.total(), share_of(lately, 0.5), share_of(lately, 0.95)]
        lines.writerow(cells)
        file.flush()


def share_of(times: Counter[int], share: float) -> int | str:
    """The time within which that share of them lies; "" of none."""
    wanted = share * times.total()
    seen = 0
    for ms in sorted(times):
        seen += times[ms]
        if seen >= wanted:
            return ms
    return ""
