"""Memory of the running service, and of a reader, with the kernel's socket memory beside it.

Each row has a service of its own, started as it is shipped; PSS, so that what its processes
share counts once.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from benchmarks.measuring import kernel_socket_kib, open_files_most, pss_kib
from benchmarks.peers.xread import xread
from benchmarks.readers import Crowd
from benchmarks.rows import Row, report
from benchmarks.stages import PlateauStage, Stage, plateau

IDLE_MIB, TEN_MIB, THOUSAND_MIB, ALL_MIB = 80, 90, 100, 256
READER_KIB, GROWTH_MIB = 12, 2
# Opened and closed, this many at once.
VISITS, VISITS_AT_ONCE = 10_000, 500
# What the first requests cost a worker, whatever follows, is not a reader's cost.
WARM_UP = 100


async def visit(stage: Stage, readers: int, streams: int) -> None:
    """Open that many, see an event each, and leave."""
    crowd = Crowd(stage.port, stage.opened_by)
    names = await stage.start(streams)
    await crowd.open([stage.target(names[n % streams]) for n in range(readers)])
    already = crowd.delivered
    await stage.publish(names)
    await crowd.until_delivered(already + readers)
    crowd.leave()


async def held(stage: Stage, readers: int, streams: int, rounds: int = 5) -> dict[str, float]:
    """While that many are open and get events: KiB a reader in the processes that hold the
    sockets, in the kernel, and MiB in all."""
    try:
        await visit(stage, WARM_UP, 1)
        before, kernel_before = pss_kib(stage.web()), kernel_socket_kib()
        crowd = Crowd(stage.port, stage.opened_by)
        names = await stage.start(streams)
        await crowd.open([stage.target(names[n % streams]) for n in range(readers)])
        for _ in range(rounds):
            already = crowd.delivered
            await stage.publish(names)
            await crowd.until_delivered(already + readers)
        found = {
            "reader": (pss_kib(stage.web()) - before) / readers,
            "kernel": (kernel_socket_kib() - kernel_before) / readers,
        }
        if isinstance(stage, PlateauStage):
            found["all_but_redis"] = pss_kib(stage.all_but_redis()) / 1024
            found["everything"] = pss_kib(stage.everything()) / 1024
        else:
            found["all_but_redis"] = pss_kib(stage.web()) / 1024
        crowd.leave()
        return found
    finally:
        await stage.close()


async def growth_mib() -> float:
    """Of the workers, over `VISITS` opened and closed responses."""
    # No worker is replaced meanwhile: what it keeps stays with it.
    with plateau({"MAX_REQUESTS": "0"}) as stage:
        try:
            await visit(stage, VISITS_AT_ONCE, 10)
            await visit(stage, VISITS_AT_ONCE, 10)
            before = pss_kib(stage.web())
            for _ in range(VISITS // VISITS_AT_ONCE):
                await visit(stage, VISITS_AT_ONCE, 10)
            return (pss_kib(stage.web()) - before) / 1024
        finally:
            await stage.close()


def measure() -> list[Row]:
    with plateau() as stage:
        rows = [
            Row(
                "idle, everything but Redis",
                pss_kib(stage.all_but_redis()) / 1024,
                "MiB",
                IDLE_MIB,
                peers="predecessor 40-80 without a runner",
            )
        ]
        ten = asyncio.run(held(stage, 10, 10))
    rows.append(
        Row("10 readers", ten["all_but_redis"], "MiB", TEN_MIB, peers="predecessor 120-150")
    )
    with xread() as usual:
        beside = asyncio.run(held(usual, 1000, 1))
    with plateau() as stage:
        one = asyncio.run(held(stage, 1000, 1))
    rows.append(
        Row(
            "1,000 readers of one run",
            one["all_but_redis"],
            "MiB",
            THOUSAND_MIB,
            peers=f"XREAD each: {beside['all_but_redis']:.0f} MiB in its workers alone",
        )
    )
    rows.append(
        Row(
            "a reader of 1,000 of one run",
            one["reader"],
            "KiB",
            READER_KIB,
            peers=f"XREAD each {beside['reader']:.1f}; kernel {one['kernel']:.1f} and "
            f"{beside['kernel']:.1f}",
        )
    )
    with plateau() as stage:
        many = asyncio.run(held(stage, 10_000, 1000))
    rows.append(
        Row(
            "10,000 readers of 1,000 runs, Redis and all",
            many["everything"],
            "MiB",
            ALL_MIB,
            peers=f"{many['reader']:.1f} KiB a reader, kernel {many['kernel']:.1f}",
        )
    )
    with plateau() as stage:
        each = asyncio.run(held(stage, 10_000, 10_000))
    rows.append(
        Row(
            "10,000 readers of 10,000 runs, Redis and all",
            each["everything"],
            "MiB",
            peers=f"{each['reader']:.1f} KiB a reader, kernel {each['kernel']:.1f}",
        )
    )
    rows.append(
        Row(
            "growth over 10,000 opened and closed responses",
            asyncio.run(growth_mib()),
            "MiB",
            GROWTH_MIB,
            peers="predecessor 5.23 over 10 requests",
        )
    )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench memory", description=__doc__)
    parser.parse_args(arguments)
    open_files_most()
    return report("memory", measure())


if __name__ == "__main__":
    sys.exit(main())
