"""kill -9 of one of the two web workers while 4,000 readers of live runs are on both.

Readers behave as a browser does: they come back to the same address after a `retry:` of 1 to 3
s with their `Last-Event-ID`, and check of every event that it begins where the last one ended.
Events go on all the while.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import psutil
from tests.readers import Agreed, Reader

from benchmarks import plots
from benchmarks.measuring import open_files_most
from benchmarks.rows import Row, report
from benchmarks.stages import TEXT, PlateauStage, plateau
from benchmarks.visitors import Tally
from plateau_sse import tasks

READERS, MOST_READERS = 4000, 8000
# Of them on the worker that is killed, at least.
LEAST = 1000
RUNS = 100
PUBLISH_EVERY_S = 1.0
AT_ONCE = 50
RETRY_S = (1.0, 3.0)
# Of events before the kill, and after the last one is back.
AROUND_S = 2.0
BACK_WITHIN_S, END_WITHIN_S = 60.0, 60.0


@dataclass
class Outcome:
    """`back_s` is when each reader of the killed worker had its next event, from the kill;
    `whole` counts those of them who ended with the whole answer."""

    readers: int
    cut: int = 0
    back_s: list[float] = field(default_factory=list)
    whole: int = 0
    events: int = 0
    tally: Tally = field(default_factory=Tally)


class Following:
    """Readers of `runs`, opened a few at a time, each in a task of its own."""

    def __init__(self, stage: PlateauStage, runs: Sequence[str]) -> None:
        self.readers: list[Reader] = []
        self.tally = Tally()
        self._stage = stage
        self._runs = runs
        self._tasks: list[asyncio.Task[None]] = []
        self._agreed = {run: Agreed() for run in runs}

    async def open(self, count: int) -> None:
        some = []
        for _ in range(count):
            run = self._runs[len(self.readers) % len(self._runs)]
            reader = Reader(
                [self._stage.service.url],
                self._stage.target(run),
                wait_s=lambda: random.uniform(*RETRY_S),
                agreed=self._agreed[run],
            )
            self.readers.append(reader)
            some.append(reader)
            self._tasks.append(asyncio.create_task(self._follow(reader)))
        async with asyncio.timeout(END_WITHIN_S):
            await asyncio.gather(*(reader.started.wait() for reader in some))

    async def _follow(self, reader: Reader) -> None:
        try:
            await reader.follow(timeout_s=10 * END_WITHIN_S)
        except Exception as error:
            self.tally.fault(error)

    async def end(self) -> None:
        await asyncio.wait(self._tasks, timeout=END_WITHIN_S)
        await tasks.end(*self._tasks)


def readers_of(pid: int, port: int) -> int:
    """Connections that this worker has accepted and holds."""
    found = psutil.Process(pid).net_connections()
    return sum(bool(one.raddr) and one.laddr.port == port for one in found)


async def kill_a_worker(stage: PlateauStage, count: int, least: int) -> Outcome:
    """With `count` readers, or as many more as it takes to have `least` on one worker."""
    runs = await stage.start(RUNS)
    over = asyncio.Event()
    publishing = asyncio.create_task(_publish(stage, runs, over))
    following = Following(stage, runs)
    try:
        victim = await _crowded(stage, following, count, least)
        await asyncio.sleep(AROUND_S)
        outcome = Outcome(len(following.readers), tally=following.tally)
        os.kill(victim, signal.SIGKILL)
        await _all_back(following.readers, outcome)
        await asyncio.sleep(AROUND_S)
        over.set()
        text = TEXT * await publishing
        await stage.finish(runs)
    finally:
        await tasks.end(publishing)
        await following.end()
        await stage.close()
    for reader in following.readers:
        outcome.events += reader.heard
        try:
            reader.check_whole(text)
            outcome.whole += reader.connections > 1
        except AssertionError as error:
            outcome.tally.fault(error)
    return outcome


async def _publish(stage: PlateauStage, runs: Sequence[str], over: asyncio.Event) -> int:
    """One more event for each run, again and again: how many each got."""
    rounds = 0
    while not over.is_set():
        await stage.publish(runs)
        rounds += 1
        await asyncio.sleep(PUBLISH_EVERY_S)
    return rounds


async def _crowded(stage: PlateauStage, following: Following, count: int, least: int) -> int:
    """The worker that holds the most readers, once these are `least` of `count`: the kernel
    shares connections out as it pleases."""
    while len(following.readers) < MOST_READERS:
        await following.open(AT_ONCE)
        if len(following.readers) >= count:
            counts = {pid: readers_of(pid, stage.port) for pid in stage.web()}
            victim = max(counts, key=counts.__getitem__)
            if counts[victim] >= least:
                sys.stderr.write(f"readers by worker: {sorted(counts.values())}\n")
                return victim
    raise RuntimeError(f"of {MOST_READERS} readers no worker got {least}")


async def _all_back(readers: Sequence[Reader], outcome: Outcome) -> None:
    """Until each reader whose connection broke has had an event over another one."""
    loop = asyncio.get_running_loop()
    killed_at = loop.time()
    back: set[int] = set()
    passed_s = 0.0
    while passed_s < BACK_WITHIN_S:
        await asyncio.sleep(0.02)
        passed_s = loop.time() - killed_at
        for index, reader in enumerate(readers):
            if index not in back and reader.connections > 1 and reader.visits[-1].seen:
                back.add(index)
                outcome.back_s.append(passed_s)
        outcome.cut = sum(bool(reader.visits[0].ended) for reader in readers)
        # Nobody comes back earlier, and by then everybody knows.
        if passed_s > RETRY_S[0] and len(back) == outcome.cut:
            return


def rows(outcome: Outcome) -> list[Row]:
    tally = outcome.tally
    errors = "; ".join(name for name, _ in tally.errors.most_common(3))
    back = outcome.back_s
    return [
        Row(
            "kill -9 a worker: readers that resumed",
            outcome.whole,
            "",
            max(LEAST, outcome.cut),
            most=False,
            peers=f"{outcome.cut} of {outcome.readers} were on it; whole at the end",
        ),
        Row(
            "kill -9 a worker: bytes and marks lost",
            tally.lost,
            "",
            0,
            peers=f"of {outcome.events:,}",
        ),
        Row("kill -9 a worker: events repeated", tally.repeated, "", 0),
        Row(
            "kill -9 a worker: readers with an error", tally.errors.total(), "", 0, peers=errors
        ),
        Row(
            "kill -9 a worker: until the last one is back",
            max(back) if back else None,
            "s",
            peers=f"median {median(back):.2f} s, of which 1 to 3 are the client's own `retry:`"
            if back
            else "nobody came back",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench resume", description=__doc__)
    parser.parse_args(arguments)
    open_files_most()
    with plateau() as stage:
        outcome = asyncio.run(kill_a_worker(stage, READERS, LEAST))
    found = rows(outcome)
    last_s = max(outcome.back_s, default=0)
    finding = f"{outcome.whole:,} readers of a killed worker are back within {last_s:.1f} s"
    return report(
        "resume",
        found,
        lambda path: plots.arrivals(finding, {"readers back": outcome.back_s}, None, path),
    )


if __name__ == "__main__":
    sys.exit(main())
