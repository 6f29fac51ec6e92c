"""Readers alone, and beside connections that keep the service waiting.

In turns: how late events are alone, then beside those from the first of them on. Then it is
waited until they are gone, which they must be after 40 s, and all begins anew.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from statistics import median, quantiles
from typing import NamedTuple

from tests.processes import REPOSITORY

from benchmarks.measuring import pss_kib
from benchmarks.rows import Row
from benchmarks.scale.herd import Herd
from benchmarks.scale.load import Runs, ended
from benchmarks.stages import PlateauStage

TIMES, MORE_MIB, GONE_S = 2.0, 20.0, 40.0
LOOK_S = 12.0


class Load(NamedTuple):
    readers: int = 500
    runs: int = 50
    heads: int = 200
    bodies: int = 200
    silent: int = 2000
    rounds: int = 3
    look_s: float = LOOK_S

    @property
    def peers(self) -> int:
        return self.heads + self.bodies + self.silent


class Round(NamedTuple):
    """Lags are the p95 in ms; `more_mib` is what the workers took at most beside what they had
    before; `gone_s` is when the last connection was gone, counted from the first."""

    alone_ms: float
    beside_ms: float
    more_mib: float
    opened: int
    gone_s: float


class Beside(NamedTuple):
    load: Load
    rounds: list[Round]
    whole: int
    lost: int
    cut: int
    errors: Counter[str]

    @property
    def times(self) -> float:
        return median(one.beside_ms / one.alone_ms for one in self.rounds)

    def rows(self) -> list[Row]:
        load = self.load
        name = f"{load.readers} readers beside {load.peers:,} hostile"
        lags = ", ".join(f"{one.alone_ms:.1f} and {one.beside_ms:.1f}" for one in self.rounds)
        errors = "; ".join(f"{what} x {n}" for what, n in self.errors.most_common(3))
        return [
            Row(f"{name}: lag, p95, of alone", self.times, "x", TIMES, peers=f"{lags} ms"),
            Row(
                f"{name}: the workers take more",
                max(one.more_mib for one in self.rounds),
                "MiB",
                MORE_MIB,
                peers=", ".join(f"{one.more_mib:.1f}" for one in self.rounds),
            ),
            Row(
                f"{name}: until all of them are gone",
                max(one.gone_s for one in self.rounds),
                "s",
                GONE_S,
                peers=f"{min(one.opened for one in self.rounds):,} were open",
            ),
            Row(f"{name}: readers with all of it", self.whole, "", load.readers, most=False),
            Row(
                f"{name}: events lost, readers cut off",
                self.lost + self.cut,
                "",
                0,
                peers=errors,
            ),
        ]


async def besieged(stage: PlateauStage, load: Load) -> Beside:
    runs = Runs(stage)
    await runs.start(load.runs)
    herd = Herd(stage.port, runs.targets)
    try:
        await herd.open(load.readers)
        rounds = []
        for _ in range(load.rounds):
            rounds.append(await _round(stage, herd, load))
        found = await ended(runs, herd)
        return Beside(load, rounds, found.whole, found.lost, herd.cut, found.errors)
    finally:
        herd.leave()
        await runs.client.aclose()


async def _round(stage: PlateauStage, herd: Herd, load: Load) -> Round:
    workers = stage.web()
    alone_ms = await _lag_ms(herd, load.look_s)
    before_kib, began = pss_kib(workers), time.monotonic()
    peers = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.pressure.peers"),
        *map(str, (stage.port, load.heads, load.bodies, load.silent)),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        watching = asyncio.create_task(_watched(peers))
        looking = asyncio.create_task(_lag_ms(herd, load.look_s))
        most_kib = before_kib
        while not (watching.done() and looking.done()):
            await asyncio.wait([watching, looking], timeout=1.0)
            most_kib = max(most_kib, pss_kib(workers))
        opened, gone_at = await watching
        more_mib = (most_kib - before_kib) / 1024
        return Round(alone_ms, await looking, more_mib, opened, gone_at - began)
    finally:
        if peers.returncode is None:
            peers.terminate()
        await peers.wait()


async def _lag_ms(herd: Herd, look_s: float) -> float:
    del herd.lags_ms[:]
    await asyncio.sleep(look_s)
    return quantiles(herd.lags_ms, n=20)[18]


async def _watched(peers: asyncio.subprocess.Process) -> tuple[int, float]:
    """How many were open, and when the last was gone: `inf` where one stayed."""
    assert peers.stdout is not None
    opened = 0
    async for line in peers.stdout:
        what, _, count = line.decode().strip().partition(" ")
        if what == "open":
            opened = int(count)
        elif what == "left" and count == "0":
            return opened, time.monotonic()
    return opened, float("inf")
