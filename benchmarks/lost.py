"""kill -9 of the only runner while it answers: how long its readers wait for word.

Word is `run.restarted` (an attempt more) or a terminal event. Two cases: the runner of `plateau
serve`, which is started again under its name; and a `plateau runner` of its own that nobody
starts again, so that a web worker has to end its runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
from tests.conftest import end_server, start_server
from tests.deployment import AGENTS, deployed
from tests.processes import serving
from tests.readers import Reader

from benchmarks import plots
from benchmarks.measuring import open_files_most
from benchmarks.rows import Row, report
from plateau_sse import tasks

BOUND_S = 15
RUNS, READERS = 30, 300
# None of them ends by itself meanwhile.
OPTIONS = {"count": 1200, "pause_ms": 50}
BEFORE_S = 2.0
WAITS_S, START_S = 60.0, 30.0

# What the readers ask, and what kills the runner.
Place = tuple[list[str], Callable[[], None]]


@contextmanager
def of_serve() -> Iterator[Place]:
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), env={"AGENTS": AGENTS}) as service,
    ):
        (runner,) = service.pids("plateau: runner")
        yield [service.url], lambda: os.kill(runner, signal.SIGKILL)


@contextmanager
def of_its_own() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        streams = start_server("streams", folder / "streams")
        cache = start_server("cache", folder / "cache")
        try:
            with deployed(folder, streams_url=streams.url, cache_url=cache.url) as deployment:
                yield deployment.urls, deployment.runners[0].kill
        finally:
            end_server(streams)
            end_server(cache)


async def waits(urls: Sequence[str], kill: Callable[[], None]) -> list[float]:
    """Seconds from the kill to the word that each reader gets; `WAITS_S` for none."""
    async with httpx.AsyncClient(timeout=START_S, trust_env=False) as client:
        started = await asyncio.gather(*(_start(client, urls[0], n) for n in range(RUNS)))
    readers = [
        Reader([urls[n % len(urls)]], started[n % RUNS], wait_s=lambda: 1.0)
        for n in range(READERS)
    ]
    following = [asyncio.create_task(one.follow(timeout_s=10 * WAITS_S)) for one in readers]
    try:
        async with asyncio.timeout(START_S):
            await asyncio.gather(*(reader.started.wait() for reader in readers))
        await asyncio.sleep(BEFORE_S)
        kill()
        return await _words(readers, following)
    finally:
        await tasks.end(*following)


async def _start(client: httpx.AsyncClient, url: str, number: int) -> str:
    body = {"agent": "words", "input": f"lost {number}", "options": OPTIONS}
    answer = await client.post(f"{url}/v1/runs", json=body)
    answer.raise_for_status()
    return str(answer.json()["events_url"])


async def _words(
    readers: Sequence[Reader], following: Sequence[asyncio.Task[None]]
) -> list[float]:
    loop = asyncio.get_running_loop()
    killed_at = loop.time()
    found = dict.fromkeys(range(len(readers)), WAITS_S)
    silent = set(found)
    while silent and loop.time() - killed_at < WAITS_S:
        await asyncio.sleep(0.02)
        for index in list(silent):
            if readers[index].restarts or readers[index].end:
                found[index] = loop.time() - killed_at
                silent.discard(index)
            elif following[index].done():
                # What went wrong with it is not a wait.
                following[index].result()
    return list(found.values())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench lost", description=__doc__)
    parser.parse_args(arguments)
    open_files_most()
    found: dict[str, list[float]] = {}
    for name, opened in (("started again by serve", of_serve), ("gone for good", of_its_own)):
        with opened() as (urls, kill):
            found[name] = asyncio.run(waits(urls, kill))
    rows = [
        Row(
            f"kill -9 the runner, {name}: last reader has word",
            max(waited),
            "s",
            BOUND_S,
            peers=f"median {median(waited):.1f} s of {len(waited)} readers of {RUNS} runs",
        )
        for name, waited in found.items()
    ]
    worst = max(max(waited) for waited in found.values())
    finding = f"Every reader of a killed runner has word within {worst:.1f} s"
    return report("lost", rows, lambda path: plots.arrivals(finding, found, BOUND_S, path))


if __name__ == "__main__":
    sys.exit(main())
