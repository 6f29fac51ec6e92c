"""A long load of readers who come and go: whether memory stays on a level under it.

A hundred a second open a response: six in ten that of a live run (read whole, or left in
the middle, or dropped and resumed, or joined late), the others of what is in a cache that is
full from the start. No worker is replaced meanwhile, so that what one leaks stays with it.

First 5,000 come in bursts of 500, more than at any time later, so that each worker has taken
what its largest share of a burst needs. The first third is warm-up: in a soak of 30 minutes the
records of the first runs have expired by then, and as many come as go. Over the rest a line is
fitted to the workers' PSS, as `benchmarks/trend.py` says. Level means that the line grows by no
more than 2 MiB over it. So must the line through what they share with nobody, which processes
of the same Python that come and go elsewhere on the machine do not move, as they move PSS by a
MiB or two. A short soak is a try: what is warm by its second third is seen in longer ones. One
of a night (`--hours 8`) can be left alone: what it has seen is in the file each minute.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import capacity, plots, sampling
from benchmarks.measuring import open_files_most
from benchmarks.memory import VISITS_BEFORE, bursts
from benchmarks.rows import RESULTS, Row, report
from benchmarks.sampling import Sample, Sampler
from benchmarks.stages import PlateauStage, plateau
from benchmarks.trend import Trend, trend_of
from benchmarks.visitors import AGENTS, Tally, Visitors
from plateau_sse import tasks
from plateau_sse.store.answers.packing import pack
from plateau_sse.store.redis.connections import connect

GROWTH_MIB = 2
WARM_UP_SHARE = 1 / 3
# Fewer than so many of those who were to come, and the machine had no time for a soak.
SERVED_SHARE = 0.9
# As many samples as a plot can show, whatever the length.
SAMPLES, SAMPLE_EVERY_S = 360, (0.5, 10.0)
SAMPLES_FILE = RESULTS / "soak.csv"
# Reported beside the workers: the fields of a sample.
OTHERS = {"the runner": "runner", "the streams": "streams", "the cache": "cache"}
AT_ONCE = 200
ERRORS_SHOWN = 5


async def fill_cache(url: str) -> None:
    """Up to its bound, with answers that nobody asks for."""
    redis: Any = connect(url, "bench")
    try:
        async with redis.pipeline(transaction=False) as pipe:
            for number, answer in enumerate(capacity.answers()):
                pipe.set(capacity.key(number), pack(answer), ex=3600)
                if number % AT_ONCE == 0:
                    await pipe.execute()
                    if (await redis.info("stats"))["evicted_keys"]:
                        return
    finally:
        await redis.aclose()


async def soak(
    stage: PlateauStage, visitors: Visitors, minutes: float, path: Path = SAMPLES_FILE
) -> list[Sample]:
    """The samples, the warm-up's included, which are kept in `path`, too, whatever happens;
    says how it goes once a minute."""
    sampler = Sampler(stage, visitors)
    samples: list[Sample] = []
    said = 0
    coming = asyncio.create_task(visitors.come())
    loop = asyncio.get_running_loop()
    began = loop.time()
    least_s, most_s = SAMPLE_EVERY_S
    every_s = min(most_s, max(least_s, minutes * 60 / SAMPLES))
    try:
        while not coming.done() and loop.time() - began < minutes * 60:
            await asyncio.sleep(every_s)
            sample = sampler.take(loop.time() - began)
            if sample is None:
                continue
            samples.append(sample)
            if sample.at_s // 60 > said:
                said = int(sample.at_s // 60)
                _say(samples, minutes)
                # A night's are there in the morning, whatever has ended it.
                sampling.write(samples, path)
        if coming.done():
            coming.result()
        return samples
    finally:
        await tasks.end(coming)
        await visitors.leave()
        sampler.close()
        sampling.write(samples, path)


def _say(samples: Sequence[Sample], minutes: float) -> None:
    """How the last minute was."""
    last = samples[-1]
    first = next(one for one in samples if last.at_s - one.at_s < 61)
    passed_s = max(1.0, last.at_s - first.at_s)
    sys.stdout.write(
        f"minute {last.at_s / 60:.0f} of {minutes:g}: "
        f"{(last.visits - first.visits) / passed_s:.0f} readers and "
        f"{(last.events - first.events) / passed_s:.0f} events a second, {last.open} open, "
        f"workers {last.workers:.1f} MiB, runner {last.runner:.1f}, all but Redis "
        f"{last.all_but_redis:.1f}, streams {last.streams:.1f}, cache {last.cache:.1f}, "
        f"{last.errors} errors\n"
    )
    sys.stdout.flush()


def settled(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Those after the warm-up."""
    warm_s = samples[-1].at_s * WARM_UP_SHARE
    return [sample for sample in samples if sample.at_s >= warm_s]


def trend(samples: Sequence[Sample], what: str) -> Trend:
    """Of one field after the warm-up, in minutes."""
    some = settled(samples)
    return trend_of([one.at_s / 60 for one in some], [getattr(one, what) for one in some])


def rows(samples: Sequence[Sample], tally: Tally, rate: float, tracebacks: int) -> list[Row]:
    """`rate` is how many readers a second were to come."""
    workers, private = trend(samples, "workers"), trend(samples, "private")
    first, last = samples[0], samples[-1]
    minutes = f"{workers.span:.0f} min"
    served = (last.visits - first.visits) / (last.at_s - first.at_s)
    visits = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.visits.items()))
    errors = "; ".join(f"{n} x {name}" for name, n in tally.errors.most_common(ERRORS_SHOWN))
    return [
        Row(
            f"soak, growth of the workers over {minutes}, by the line",
            workers.growth,
            "MiB",
            GROWTH_MIB,
            peers=f"{workers.growth_most:.2f} by the upper end of its slope; "
            f"{first.workers:.1f} at the start, {last.workers:.1f} at the end",
        ),
        Row(
            "soak, slope of the workers",
            workers.slope * 60,
            "MiB/h",
            peers=f"95 %: {60 * (workers.slope - workers.margin):+.2f} to "
            f"{60 * (workers.slope + workers.margin):+.2f}",
        ),
        Row(
            "soak, growth of what they share with nobody",
            private.growth,
            "MiB",
            GROWTH_MIB,
            peers=f"{60 * private.slope:+.2f} ± {60 * private.margin:.2f} MiB/h; "
            f"{first.private:.1f} at the start, {last.private:.1f} at the end",
        ),
        *(
            Row(
                f"soak, growth of {name}",
                trend(samples, what).growth,
                "MiB",
                peers=f"{getattr(first, what):.1f} at the start, "
                f"{getattr(last, what):.1f} at the end",
            )
            for name, what in OTHERS.items()
        ),
        Row("soak, readers", served, "a second", SERVED_SHARE * rate, most=False, peers=visits),
        Row("soak, lost events", tally.lost, "", 0, peers=f"of {last.events}"),
        Row("soak, repeated events", tally.repeated, "", 0, peers=f"{tally.resumed} resumed"),
        Row(
            "soak, errors",
            tally.errors.total() + tracebacks,
            "",
            0,
            peers=errors or f"{tally.turned_away} readers found no room in the generator",
        ),
    ]


def draw(samples: Sequence[Sample], path: Path) -> None:
    plots.soak(samples, trend(samples, "workers"), settled(samples)[0].at_s, path)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench soak", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=30, help="[30]")
    length.add_argument("--hours", type=float, help="a night: --hours 8")
    parser.add_argument("--rate", type=float, default=100, help="readers a second [100]")
    parser.add_argument("--seed", type=int, default=1, help="of every choice [1]")
    parser.add_argument(
        "--recycle", action="store_true", help="replace workers as shipped, and see nobody lose"
    )
    parser.add_argument(
        "--plot", type=Path, help="measure nothing: draw the last soak into this file"
    )
    options = parser.parse_args(arguments)
    if options.hours is not None:
        options.minutes = 60 * options.hours
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    if options.plot:
        draw(sampling.read(SAMPLES_FILE), options.plot)
        return 0
    open_files_most()
    env = {"AGENTS": AGENTS} | ({} if options.recycle else {"MAX_REQUESTS": "0"})

    async def measured(stage: PlateauStage) -> tuple[list[Sample], Tally]:
        await fill_cache(stage.service.cache_url)
        await bursts(stage, VISITS_BEFORE)
        await stage.close()
        visitors = Visitors(stage.service.url, rate=options.rate, seed=options.seed)
        return await soak(stage, visitors, options.minutes), visitors.tally

    with plateau(env) as stage:
        samples, tally = asyncio.run(measured(stage))
        tracebacks = stage.service.stderr.count("Traceback (most recent call last)")
    found = rows(samples, tally, options.rate, tracebacks)
    return report("soak", found, lambda path: draw(samples, path))


if __name__ == "__main__":
    sys.exit(main())
