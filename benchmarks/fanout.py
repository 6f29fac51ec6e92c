"""CPU a delivered event, of the processes that hold the sockets and of Redis.

Shapes: one stream with 1,000 readers; 2,000 streams with one each, less what the same streams
cost without readers; 5,000 open streams of which 50 are active, beside 50 of 50.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

from benchmarks import plots
from benchmarks.measuring import cpu_s, open_files_most
from benchmarks.peers import Absent
from benchmarks.peers.nchan import nchan
from benchmarks.peers.xread import xread
from benchmarks.readers import Crowd
from benchmarks.rows import Row, report
from benchmarks.stages import Stage, plateau

ONE_BOUND, MANY_BOUND, IDLE_BOUND = 0.85, 0.42, 1.3


class Shape(NamedTuple):
    """`publishing` is taken off: what the same events cost where nobody follows."""

    streams: int
    readers: int
    active: int
    rounds: int
    publishing: bool = False


ONE = Shape(streams=1, readers=1000, active=1, rounds=300)
MANY = Shape(streams=2000, readers=2000, active=2000, rounds=15, publishing=True)
FEW = Shape(streams=50, readers=50, active=50, rounds=400)
IDLE = Shape(streams=5000, readers=5000, active=50, rounds=400)
# So often the two sides of a ratio are measured in turn, and what is heard and what is not.
PAIRS, TURNS = 3, 5


class Cost(NamedTuple):
    """Microseconds a delivery."""

    web: float
    redis: float

    @property
    def both(self) -> float:
        return self.web + self.redis

    def __str__(self) -> str:
        return f"{self.both:.1f} us ({self.web:.1f} + Redis {self.redis:.1f})"


async def deliver(stage: Stage, shape: Shape) -> Cost:
    """Open the readers, publish `rounds` events to the active streams."""
    crowd = Crowd(stage.port, stage.opened_by)
    try:
        streams = await stage.start(shape.streams)
        each = shape.readers // shape.streams
        unheard = await stage.start(shape.active) if shape.publishing else []
        await crowd.open([stage.target(name) for name in streams for _ in range(each)])
        publishing = delivering = (0.0, 0.0)
        rounds = shape.rounds // TURNS
        for _ in range(TURNS):
            before = spent(stage)
            for _ in range(rounds if unheard else 0):
                await stage.publish(unheard)
            between, already = spent(stage), crowd.delivered
            for done in range(1, rounds + 1):
                await stage.publish(streams[: shape.active])
                # The readers keep pace: nobody is measured falling behind.
                await crowd.until_delivered(already + shape.active * each * done)
            publishing = plus(publishing, minus(between, before))
            delivering = plus(delivering, minus(spent(stage), between))
        web, redis = minus(delivering, publishing)
        deliveries = shape.active * each * rounds * TURNS
        return Cost(web / deliveries * 1e6, redis / deliveries * 1e6)
    finally:
        crowd.leave()
        await stage.close()


def spent(stage: Stage) -> tuple[float, float]:
    return cpu_s(stage.web()), cpu_s(stage.redis())


def plus(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return one[0] + other[0], one[1] + other[1]


def minus(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return one[0] - other[0], one[1] - other[1]


def cost(opened: Callable[[], AbstractContextManager[Stage]], shape: Shape) -> Cost | None:
    """On a stage of its own: memory that one shape has left behind would cost the next. None
    for a peer that is not to be had, which is said."""
    try:
        with opened() as stage:
            sys.stderr.write(f"{stage.name}: {shape}\n")
            return asyncio.run(deliver(stage, shape))
    except Absent as error:
        sys.stderr.write(f"skipped: {error}\n")
        return None


def by_turns(
    one: Callable[[], Cost | None], other: Callable[[], Cost | None], turns: int = PAIRS
) -> tuple[str, Cost, Cost | None]:
    """Both costs, so many times in turn: those whose ratio is the median, and all the ratios. A
    machine that is slower for half a minute is slower for one of many, and readers who hear
    nothing cost by the second (pings, sweeps), not by the event."""
    pairs = []
    for _ in range(turns):
        ours, theirs = one(), other()
        assert ours is not None
        if theirs is None:
            return "", ours, None
        pairs.append((ours.both / theirs.both, ours, theirs))
    pairs.sort()
    _, ours, theirs = pairs[len(pairs) // 2]
    return "median of " + ", ".join(f"{ratio:.2f}" for ratio, _, _ in pairs), ours, theirs


def compared(what: str, shape: Shape, bound: float) -> Row:
    """Ours over nchan's, in one run."""
    ratios, ours, theirs = by_turns(partial(cost, plateau, shape), partial(cost, nchan, shape))
    usual = cost(xread, shape)
    named = {"Plateau": ours, "nchan over Redis": theirs, "sse-starlette, XREAD each": usual}
    return Row(
        what,
        None if theirs is None else ours.both / theirs.both,
        "x nchan",
        bound,
        peers=f"{ours}; nchan over Redis {theirs or 'skipped'}; XREAD each "
        f"{usual or 'skipped'}; {ratios}",
        figures={name: found.both for name, found in named.items() if found is not None},
        figures_in="us",
    )


def against_idle() -> Row:
    """5,000 open streams beside 50."""
    ratios, idle, few = by_turns(partial(cost, plateau, IDLE), partial(cost, plateau, FEW))
    assert few is not None
    return Row(
        "CPU a delivery, 5,000 open and 50 active",
        idle.both / few.both,
        "x 50 of 50",
        IDLE_BOUND,
        peers=f"{idle}; 50 of 50: {few}; {ratios}; a prototype with one XREAD over all: 13 x",
        figures={"50 of 5,000 active": idle.both, "50 of 50 active": few.both},
        figures_in="us",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench fanout", description=__doc__)
    parser.parse_args(arguments)
    open_files_most()
    rows = [
        compared("CPU a delivery, 1 stream x 1,000 readers", ONE, ONE_BOUND),
        compared("CPU a delivery, 2,000 x 1, less publishing", MANY, MANY_BOUND),
        against_idle(),
    ]
    ratios = [f"{row.measured:.2f}" for row in rows[:2] if row.measured is not None]
    finding = (
        f"A delivered event costs {' and '.join(ratios) or '?'} of what it costs nchan in C"
    )
    details = "µs of CPU a delivery, of the processes that hold the sockets and of Redis."
    panels = [(row.what, row.figures) for row in rows]
    return report("fanout", rows, lambda path: plots.compared(panels, finding, details, path))


if __name__ == "__main__":
    sys.exit(main())
