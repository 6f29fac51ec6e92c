"""What a runner's core holds, and what a new run costs the queue's server.

Invariant: agents compute nothing: what is measured is what runs cost whatever their agents do.
CPU is the operating system's accounting of the runners and of the streams' server.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
from tests.conftest import end_server, start_server
from tests.deployment import Deployment, deployed

from benchmarks.followers import Load, begin, record_of
from benchmarks.measuring import cpu_s
from benchmarks.rows import Row, report

# As a model that says 30 pieces a second.
TALKING = Load(runs=64, pieces=300, pause_ms=33)
# Nearly nothing is said: what is left is what each run costs.
BRIEF = Load(runs=400, pieces=1, pause_ms=0)
PLACES = 64
END_S, LOOK_S = 120.0, 0.2


class Cost(NamedTuple):
    """Of all runs of a load, in CPU seconds."""

    runners: float
    server: float


async def executed(deployment: Deployment, server_pid: int, load: Load) -> Cost:
    """All of them begun at once, and waited for."""
    pids = [process.pid for process in deployment.runners]
    url = deployment.urls[0]
    async with httpx.AsyncClient(timeout=END_S, trust_env=False) as client:
        before = cpu_s(pids), cpu_s([server_pid])
        runs = [await begin(client, [url], n, load) for n in range(load.runs)]
        async with asyncio.timeout(END_S):
            for run in runs:
                while (await record_of(client, url, run))["status"] != "completed":  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_S)
        return Cost(cpu_s(pids) - before[0], cpu_s([server_pid]) - before[1])


def measured(talking: Load = TALKING, brief: Load = BRIEF) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        streams = start_server("streams", Path(name) / "streams")
        try:
            with deployed(
                Path(name) / "service",
                streams_url=streams.url,
                webs=1,
                runners=1,
                env={"RUNNER_CONCURRENCY": str(PLACES), "STREAM_MAX_MEMORY": "256mb"},
            ) as deployment:
                pid = streams.process.pid
                said = asyncio.run(executed(deployment, pid, talking))
                begun = asyncio.run(executed(deployment, pid, brief))
        finally:
            end_server(streams)
    pieces = talking.runs * talking.pieces
    a_piece = said.runners / pieces
    return [
        Row("a runner's CPU a piece of a run that says 30 a second", a_piece * 1e6, "µs"),
        Row("such runs that a core of a runner holds", 1 / (30 * a_piece), "runs"),
        Row("Redis' CPU a piece", said.server / pieces * 1e6, "µs"),
        Row("a runner's CPU a run of one piece", begun.runners / brief.runs * 1e3, "ms"),
        Row(
            "Redis' CPU a run of one piece, from its POST to its end",
            begun.server / brief.runs * 1e3,
            "ms",
            peers="the benchmark's own looks at its record among it",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench runners", description=__doc__)
    parser.parse_args(arguments)
    return report("runners", measured())


if __name__ == "__main__":
    sys.exit(main())
