"""Storms of faults over a fleet of its own, and the table of what happened."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import resource
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from redis import Redis

from benchmarks.chaos import checks, fleet, table
from benchmarks.chaos.storm import ENV, Outcome, Plan, storm
from benchmarks.rows import Row, report
from benchmarks.soak import WARM_UP_SHARE
from benchmarks.trend import BLOCKS, trend_of

# As the workers' in a soak, for all processes that live through the storms.
GROWTH_MIB = 2


class Weathered(NamedTuple):
    """One storm; sizes in MiB, once it was over: `kept` of each process, by its id, to which
    nothing was done."""

    outcome: Outcome
    checks: list[checks.Check]
    kept: dict[int, float]
    streams: float

    @property
    def processes(self) -> float:
        return sum(self.kept.values())

    @property
    def failed(self) -> list[str]:
        return [check.name for check in self.checks if not check.ok]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every check holds."""
    options = _parsed(arguments)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    folder = Path(tempfile.mkdtemp(prefix="plateau-chaos-"))
    ok, code = False, 1
    try:
        with fleet.running(folder, env=ENV) as members:
            found = [*_weather(members, options)]
        ok = not any(one.failed for one in found)
        sys.stdout.write("\n")
        code = report("chaos", _rows(found))
    finally:
        if options.keep and not ok:
            sys.stdout.write(f"logs: {folder}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return code


def _weather(members: fleet.Fleet, options: argparse.Namespace) -> Iterator[Weathered]:
    """One storm after the other, over the same fleet and store."""
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    known: frozenset[str] = frozenset()
    for number in range(options.storms):
        plan = Plan(seed + number, options.seconds, options.runs, options.readers)
        sys.stdout.write(f"seed {plan.seed}\n")
        sys.stdout.flush()
        outcome = asyncio.run(storm(members, plan, known))
        known |= outcome.made
        with Redis.from_url(members.streams_url, protocol=2) as redis:
            used = redis.info("memory")["used_memory"] / 2**20
        one = Weathered(outcome, checks.check_all(outcome), members.kept_mib(), used)
        if options.storms == 1 or one.failed:
            for line in table.lines(outcome, one.checks):
                sys.stdout.write(line + "\n")
        each = ", ".join(f"{size:.1f}" for size in one.kept.values())
        sys.stdout.write(
            f"{len(one.failed)} of {len(one.checks)} checks failed in {outcome.took_s:.0f} s "
            f"and {len(outcome.happened)} faults; processes that live {each} MiB, streams "
            f"{one.streams:.1f} MiB, {len(known)} runs so far\n"
        )
        sys.stdout.flush()
        yield one


def _rows(found: Sequence[Weathered]) -> list[Row]:
    plan = found[0].outcome.plan
    failed = [name for one in found for name in one.failed]
    faults = sum(len(one.outcome.happened) for one in found)
    count = len(found[0].checks) * len(found)
    rows = [
        Row(
            f"chaos, {len(found)} x {plan.runs} runs and {plan.readers:,} readers: checks that "
            "failed",
            len(failed),
            "",
            0,
            peers="; ".join(failed)
            or f"of {count}; {faults} faults in {len(found)} x {plan.seconds:g} s, from seed "
            f"{plan.seed}",
        ),
        Row(
            "chaos, processes that died though nothing was done to them",
            sum(
                len(one.kept.keys() - later.kept.keys())
                for one, later in itertools.pairwise(found)
            ),
            "",
            0,
            peers=f"of {len(found[0].kept)}",
        ),
    ]
    warm = int(len(found) * WARM_UP_SHARE)
    ends = itertools.accumulate(one.outcome.took_s / 60 for one in found)
    settled = [*zip(ends, found, strict=True)][warm:]
    if len(settled) >= BLOCKS:
        minutes = [at for at, _ in settled]
        for name, what, bound in (
            ("the processes that live through it", "processes", GROWTH_MIB),
            ("the streams", "streams", None),
        ):
            line = trend_of(minutes, [getattr(one, what) for _, one in settled])
            name = f"chaos, growth of {name} over {line.span:.0f} min, by the line"
            peers = f"{line.at(minutes[0]):.1f} MiB after the warm-up"
            rows.append(Row(name, line.growth, "MiB", bound, peers=peers))
    return rows


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    defaults = Plan(0)
    parser = argparse.ArgumentParser(
        prog="scripts/bench chaos",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=int, help="makes the same choices again")
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="of faults")
    parser.add_argument("--runs", type=int, default=defaults.runs, help="in a storm")
    parser.add_argument("--readers", type=int, default=defaults.readers, help="in a storm")
    parser.add_argument(
        "--storms", type=int, default=1, help="one after the other; 18 take half an hour"
    )
    parser.add_argument("--keep", action="store_true", help="keep the logs of a failed one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
