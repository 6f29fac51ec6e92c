"""What the service does at its limits, through all of it: a runner's agent says a piece a
second in each run, and readers that come back as a browser does check every event.

readers  16,000 on the two workers, of which the one that has more of them is killed
runs     2,000 at once, of two runners, with a reader each
full     the 64 MB of the streams filled to the last, under 1,000 readers of 100 runs

Each says what it takes in memory, lag and CPU, and which bounds are nearest. No worker is
replaced meanwhile: the kill is the only fault.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop
from tests.processes import environment

from benchmarks import plots
from benchmarks.chaos.fleet import Member
from benchmarks.measuring import open_files_most
from benchmarks.rows import Row, report
from benchmarks.scale import full, readers, runs
from benchmarks.scale.load import AGENTS, RUN_S
from benchmarks.scale.readers import Cut
from benchmarks.scale.strain import TOKEN
from benchmarks.stages import PlateauStage, plateau
from plateau_sse.files import connections_most, files_most, streams_most

ENV = {
    "AGENTS": AGENTS,
    "ADMIN_TOKEN": TOKEN,
    "MAX_REQUESTS": "0",
    "QUEUE_LIMIT": str(4 * runs.RUNS),
    "RUN_TIMEOUT_S": str(RUN_S),
    "RUNNER_CONCURRENCY": str(runs.RUNS // runs.RUNNERS),
}
# With more than `ENV` has places for, most would wait.
RUNS_MOST = runs.RUNS


def of_readers(count: int, of_runs: int) -> Cut:
    with plateau(ENV) as stage:
        return uvloop.run(readers.many_readers(stage, count, of_runs))


def of_runs(count: int) -> list[Row]:
    with plateau(ENV) as stage, tempfile.TemporaryDirectory() as folder:
        runner = another_runner(stage, Path(folder))
        runner.start()
        try:
            return uvloop.run(runs.many_runs(stage, count, runner.pids)).rows()
        except BaseException:
            # On Ctrl+C the servers have gone already, and it would wait for them.
            runner.send(signal.SIGKILL)
            raise
        finally:
            runner.end()


def another_runner(stage: PlateauStage, folder: Path) -> Member:
    """Beside the one of `serve`."""
    urls = {
        "REDIS_URL": stage.service.streams_url,
        "CACHE_REDIS_URL": stage.service.cache_url,
        "DATA_DIR": str(folder),
    }
    command = [sys.executable, "-m", "plateau_sse", "runner"]
    return Member("runner", command, environment(ENV | urls), folder)


def of_full() -> list[Row]:
    with plateau(ENV) as stage:
        found = uvloop.run(full.full_streams(stage, full.READERS, full.RUNS, full.FILLERS))
    return found.rows()


def _whole(most: int) -> Callable[[str], int]:
    def parsed(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"a whole number from 1 to {most:,}")
        return int(text)

    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="readers, runs, full [all of them]"
    )
    open_files_most()
    # Behind the kill one worker has them all.
    files = streams_most(connections_most(files_most()))
    readers_most = min(files, readers.READERS)
    add = parser.add_argument
    add(
        "--readers",
        type=_whole(files),
        metavar="N",
        default=readers_most,
        help="[16,000, or as many as the limit of files allows]",
    )
    add("--runs", type=_whole(RUNS_MOST), metavar="N", default=runs.RUNS, help="[2,000]")
    options = parser.parse_args(arguments)
    cut: list[Cut] = []

    def cut_off() -> list[Row]:
        cut.append(of_readers(options.readers, readers.RUNS))
        return cut[0].rows()

    parts: dict[str, Callable[[], list[Row]]] = {
        "readers": cut_off,
        "runs": lambda: of_runs(options.runs),
        "full": of_full,
    }
    if unknown := set(options.parts) - parts.keys():
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(parts)}")
    rows = [row for name in options.parts or parts for row in parts[name]()]
    if not cut:
        return report("scale", rows)
    back = cut[0].back_s
    finding = f"{len(back):,} readers of a killed worker are back within {max(back):.1f} s"
    return report(
        "scale",
        rows,
        lambda path: plots.arrivals(finding, {"readers back": back}, readers.BACK_S, path),
    )


if __name__ == "__main__":
    sys.exit(main())
