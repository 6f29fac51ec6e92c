"""Memory of the running service, and of a reader, with the kernel's socket memory beside it.

Each row has a service of its own, started as it is shipped; PSS, so that what its processes
share counts once.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from benchmarks import plots
from benchmarks.measuring import kernel_socket_kib, open_files_most, private_kib, pss_kib
from benchmarks.peers import Absent
from benchmarks.peers.nchan import nchan
from benchmarks.peers.xread import xread
from benchmarks.readers import Crowd
from benchmarks.rows import Row, report
from benchmarks.stages import PlateauStage, Stage, plateau

IDLE_MIB, TEN_MIB, THOUSAND_MIB, ALL_MIB = 76, 90, 92, 256
READER_KIB, GROWTH_MIB = 8.5, 2
LARGEST = "10,000 readers of 1,000 runs, Redis and all"
# Opened and closed, this many at once.
VISITS, VISITS_AT_ONCE = 10_000, 500
# The kernel shares connections out unevenly: by then each worker has had its largest share, and
# what it took for that, up to 2 MiB, is not what it keeps of each reader.
VISITS_BEFORE = 5000
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


async def bursts(stage: Stage, visits: int) -> None:
    """So many opened and closed, `VISITS_AT_ONCE` at once."""
    for _ in range(visits // VISITS_AT_ONCE):
        await visit(stage, VISITS_AT_ONCE, 10)


async def growth_mib() -> tuple[float, float]:
    """Of the workers, over `VISITS` opened and closed responses: of PSS, and of what they
    share with nobody, which other processes of the same Python do not move."""
    # No worker is replaced meanwhile: what it keeps stays with it.
    with plateau({"MAX_REQUESTS": "0"}) as stage:
        try:
            await bursts(stage, VISITS_BEFORE)
            before, private = pss_kib(stage.web()), private_kib(stage.web())
            await bursts(stage, VISITS)
            after, still_private = pss_kib(stage.web()), private_kib(stage.web())
            return (after - before) / 1024, (still_private - private) / 1024
        finally:
            await stage.close()


def nchan_reader() -> str:
    """KiB, or why there is none."""
    try:
        with nchan() as stage:
            return f"{asyncio.run(held(stage, 1000, 1))['reader']:.1f}"
    except Absent as error:
        sys.stderr.write(f"skipped: {error}\n")
        return "skipped"


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
    nginx = nchan_reader()
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
            peers=f"nchan {nginx}, XREAD each {beside['reader']:.1f}; kernel "
            f"{one['kernel']:.1f} and {beside['kernel']:.1f}",
        )
    )
    with plateau() as stage:
        many = asyncio.run(held(stage, 10_000, 1000))
    rows.append(
        Row(
            LARGEST,
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
    grown, alone = asyncio.run(growth_mib())
    rows.append(
        Row(
            "growth over 10,000 opened and closed responses",
            grown,
            "MiB",
            GROWTH_MIB,
            peers=f"predecessor 5.23 over 10 requests; {alone:.2f} of private memory",
        )
    )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench memory", description=__doc__)
    parser.parse_args(arguments)
    open_files_most()
    rows = measure()
    in_mib = [(row.what, row.measured or 0, row.bound) for row in rows if row.unit == "MiB"]
    bounded = [row for row in rows if row.unit == "MiB" and row.bound is not None]
    kept = sum(not row.missed for row in bounded)
    largest = next(row.measured for row in rows if row.what == LARGEST)
    finding = f"{largest:.0f} MiB for {LARGEST}: {kept} of {len(bounded)} bounds kept"
    return report("memory", rows, lambda path: plots.memory(in_mib, finding, path))


if __name__ == "__main__":
    sys.exit(main())
