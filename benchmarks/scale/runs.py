"""2,000 runs at once, of two runners, with a reader each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from statistics import median
from typing import NamedTuple

from benchmarks.rows import Row
from benchmarks.scale.herd import Herd
from benchmarks.scale.load import AT_ONCE, Ended, Runs, ended, strained, until
from benchmarks.scale.strain import Strain
from benchmarks.stages import PlateauStage

RUNS, RUNNERS = 2000, 2


class Crowded(NamedTuple):
    at_once: int
    strain: Strain
    ended: Ended

    def rows(self) -> list[Row]:
        name = f"{self.ended.readers:,} runs at once"
        runner = self.strain.memory.get("runner", 0.0)
        each = runner * 1024 / max(1, self.at_once)
        return [
            Row(f"{name}: under way", self.at_once, "", self.ended.readers, most=False),
            Row(
                f"{name}: until the last has said something",
                max(self.ended.after_s),
                "s",
                peers=f"median {median(self.ended.after_s):.2f} s; asked {AT_ONCE} at once",
            ),
            Row(f"{name}: lag, p95", self.strain.lag_p95_ms, "ms", peers=str(self.strain)),
            Row(
                f"{name}: memory",
                self.strain.everything_mib,
                "MiB",
                peers=f"{RUNNERS} runners {runner:.0f} MiB, {each:.0f} KiB a run",
            ),
            *self.ended.rows(name),
        ]


async def many_runs(stage: PlateauStage, count: int, pids: Callable[[], list[int]]) -> Crowded:
    load = Runs(stage)
    await until(stage, lambda seen: seen["runs"]["runners"] == RUNNERS, "all runners are there")
    await load.start(count)
    herd = Herd(stage.port, load.targets)
    try:
        await herd.open(count)
        with suppress(TimeoutError):
            await until(stage, lambda seen: seen["runs"]["running"] >= count, "all are on")
        strain = await strained(stage, herd, pids)
        return Crowded(strain.running, strain, await ended(load, herd))
    finally:
        herd.leave()
        await load.client.aclose()
