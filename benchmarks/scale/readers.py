"""16,000 readers on the two workers, and one worker less.

That many is what the files of one process allow: behind the kill nearly all are on the worker
that is left. They come back as browsers do, after the `retry:` of 1 to 3 s that they were told.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from statistics import median
from typing import NamedTuple

from benchmarks.measuring import pss_kib
from benchmarks.rows import Row
from benchmarks.scale.herd import Herd
from benchmarks.scale.load import WAIT_S, Ended, Runs, ended, strained
from benchmarks.scale.strain import Strain, looked
from benchmarks.stages import PlateauStage

READERS, RUNS = 16_000, 400
# Each worker tells of itself every few seconds.
TOLD_S = 30.0
BACK_S, ALL_MIB = 10.0, 320


class Cut(NamedTuple):
    """`back_s` is how long each who was cut off was away, `WAIT_S` for ever."""

    reader_kib: float
    before: Strain
    after: Strain
    cut: int
    back_s: list[float]
    ended: Ended

    def rows(self) -> list[Row]:
        all_, back = f"{self.ended.readers:,} readers", self.back_s
        killed = f"{all_}, a worker killed"
        parts = ", ".join(f"{kind} {mib:.0f}" for kind, mib in self.after.memory.items())
        return [
            Row(f"{all_}: lag, p95", self.before.lag_p95_ms, "ms", peers=str(self.before)),
            Row(f"{all_}: a reader", self.reader_kib, "KiB"),
            Row(f"{all_}: memory", self.before.everything_mib, "MiB", ALL_MIB),
            Row(
                f"{killed}: until the last is back",
                max(back, default=None),
                "s",
                BACK_S,
                peers=f"{self.cut:,} were on it, median {median(back or [0]):.1f} s, of which "
                "1 to 3 are the client's own `retry:`",
            ),
            Row(f"{killed}: memory", self.after.everything_mib, "MiB", ALL_MIB, peers=parts),
            Row(f"{killed}: lag, p95", self.after.lag_p95_ms, "ms", peers=str(self.after)),
            *self.ended.rows(killed),
        ]


async def many_readers(stage: PlateauStage, readers: int, runs: int) -> Cut:
    load = Runs(stage)
    await load.start(runs)
    herd = Herd(stage.port, load.targets)
    try:
        empty_kib = pss_kib(stage.web())
        await herd.open(readers)
        reader_kib = (pss_kib(stage.web()) - empty_kib) / readers
        before = await strained(stage, herd)
        os.kill(await _busiest(stage, readers), signal.SIGKILL)
        # Nobody comes back earlier, and by then everybody knows.
        await asyncio.sleep(1)
        cut = herd.cut
        with suppress(RuntimeError):
            await herd.until_there(WAIT_S)
        back_s = [*herd.back_s, *[WAIT_S] * herd.away]
        after = await strained(stage, herd)
        return Cut(reader_kib, before, after, cut, back_s, await ended(load, herd))
    finally:
        herd.leave()
        await load.client.aclose()


async def _busiest(stage: PlateauStage, readers: int) -> int:
    """The id of the worker that has most of them. What is told of before they came might name
    another one."""
    deadline = time.monotonic() + TOLD_S
    while True:
        processes = (await looked(stage))["workers"]["processes"]
        web: dict[int, int] = {
            one["pid"]: one["open"] for one in processes if one["role"] == "web"
        }
        if sum(web.values()) >= readers:
            return max(web, key=lambda pid: web[pid])
        if time.monotonic() > deadline:
            raise RuntimeError(f"of {readers} readers, workers tell of {web}")
        await asyncio.sleep(0.2)
