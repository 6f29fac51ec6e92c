"""The 64 MB of the streams filled to the last, under 1,000 readers of 100 runs.

New runs are refused from 85 % on; what fills the rest are runs that had begun by then. Those
that are read go on all the while, and cached answers are given. Then the fillers are cancelled,
and it is looked how long it takes until a new run is taken on: records expire.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, NamedTuple

from benchmarks.rows import Row
from benchmarks.scale.herd import Herd
from benchmarks.scale.load import Ended, Runs, ended, strained, until
from benchmarks.scale.strain import Strain, looked
from benchmarks.stages import PlateauStage

READERS, RUNS, FILLERS = 1000, 100, 400
FILLING = {"count": 250, "pause_ms": 200, "width": 4000}
SHORT = {"count": 2, "pause_ms": 10}
# From there on there is no room for one entry more.
FULL = 0.99
# Above half a record lives for a minute after its run.
ROOM_S = 90.0
TRIES = 50


class Full(NamedTuple):
    """`refused` counts what became of new runs while it was full, `hits` of questions whose
    answers were cached; `share` is the most that the server had of its bound."""

    before: Strain
    strain: Strain
    share: float
    refused: Counter[str]
    hits: int
    room_s: float
    ended: Ended

    def rows(self) -> list[Row]:
        name = "streams full"
        said = ", ".join(f"{what} x {n}" for what, n in self.refused.items())
        return [
            Row(f"{name}: of their bound, at most", 100 * self.share, "%"),
            Row(
                f"{name}: new runs that were refused by `store_full`",
                self.refused["503 store_full"],
                "",
                TRIES,
                most=False,
                peers=said,
            ),
            Row(f"{name}: cached answers that were given", self.hits, "", TRIES, most=False),
            Row(
                f"{name}: lag of {READERS:,} readers, p95",
                self.strain.lag_p95_ms,
                "ms",
                peers=f"{self.strain}; before it was full {self.before.lag_p95_ms or 0:.0f} ms",
            ),
            Row(f"{name}: memory", self.strain.everything_mib, "MiB"),
            Row(f"{name}: until a new run is taken on", self.room_s, "s", ROOM_S),
            *self.ended.rows(name),
        ]


async def full_streams(stage: PlateauStage, readers: int, runs: int, fillers: int) -> Full:
    load, filling = Runs(stage), Runs(stage)
    await load.start(runs)
    herd = Herd(stage.port, load.targets)
    try:
        await load.ask("kept", SHORT, cached=True)
        await herd.open(readers)
        before = await strained(stage, herd)
        await filling.start(fillers, FILLING)
        await until(stage, lambda seen: _share_of(seen) >= FULL, "the streams are full")
        looking = asyncio.create_task(strained(stage, herd))
        refused = Counter([await _tried(load, number) for number in range(TRIES)])
        hits = [await load.ask("kept", SHORT, cached=True) for _ in range(TRIES)]
        strain = await looking
        share = max(_share_of(await looked(stage)), strain.shares["memory of the streams"])
        await filling.cancel()
        return Full(
            before,
            strain,
            share,
            refused,
            sum(hit.headers.get("x-cache") == "hit" for hit in hits),
            await _room(load),
            await ended(load, herd),
        )
    finally:
        herd.leave()
        await load.client.aclose()
        await filling.client.aclose()


def _share_of(seen: dict[str, Any]) -> float:
    streams = seen["redis"]["streams"]
    return float(streams["used_memory"] / streams["maxmemory"])


async def _tried(load: Runs, number: int) -> str:
    """What is answered to a new run."""
    answer = await load.ask(f"new {number}", SHORT)
    return f"{answer.status_code} {answer.json().get('code', '')}".strip()


async def _room(load: Runs) -> float:
    """Seconds until a new run is taken on, `ROOM_S` and more where it is not."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < 2 * ROOM_S:
        if (await _tried(load, int(loop.time() * 1000))).startswith("202"):
            break
        await asyncio.sleep(0.5)
    return loop.time() - began
