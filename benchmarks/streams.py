"""The streams instance: whether it stays on a level, and how long a stream gets.

A thousand runs of 2 KB are answered and end in each `STREAM_TTL_S` (the shortest that there is,
61 s), for several of them: in the first one memory rises, from then on as many records expire
as are made. Level means that the mean of the last period is over that of the second by no more
than `GROWTH_MIB`. Before that a producer sends many thousands of deltas, as fast as the service
takes them, while another connection asks for the length of its stream.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx
from tests.readers import Reader

from benchmarks import plots
from benchmarks.rows import Row, report
from benchmarks.stages import TEXT, PlateauStage, plateau
from benchmarks.trend import mean
from benchmarks.visitors import AGENTS
from plateau_sse import tasks
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect

CAP = 100
GROWTH_MIB = 0.5
TTL_S, RUNS_A_PERIOD, PERIODS = 61, 1000, 5
# 2 KB in about as many events as a short answer has.
OPTIONS = {"count": 20, "pause_ms": 10, "width": 100}
DELTAS, DELTAS_AT_ONCE = 10_000, 500
WAIT = {"Prefer": "wait=30"}


class Lengths(NamedTuple):
    """Of one stream: the most seen in so many looks, and the last one."""

    most: int
    looks: int
    last: int


async def lengths(stage: PlateauStage) -> Lengths:
    redis: Any = connect(stage.service.streams_url, "bench", connections=2)
    most = looks = 0
    async with httpx.AsyncClient(base_url=stage.service.url, timeout=30) as client:
        run = (await client.post("/v1/runs", json={"agent": "external"})).json()
        events = keys.run(run["id"]).events

        async def look() -> None:
            nonlocal most, looks
            while True:
                most = max(most, await redis.xlen(events))
                looks += 1

        looking = asyncio.create_task(look())
        try:
            batch = [{"type": "message.delta", "part": 0, "text": TEXT}] * DELTAS_AT_ONCE
            for _ in range(DELTAS // DELTAS_AT_ONCE):
                answer = await client.post(f"/v1/runs/{run['id']}/events", json=batch)
                answer.raise_for_status()
            await client.post(f"/v1/runs/{run['id']}/events", json={"type": "run.completed"})
            last = await redis.xlen(events)
            return Lengths(max(most, last), looks, last)
        finally:
            await tasks.end(looking)
            await redis.aclose()


class Level(NamedTuple):
    """`used` is the server's memory in MiB each second; `finished` counts the runs."""

    used: list[float]
    finished: int

    def period(self, number: int) -> float:
        return mean(self.used[number * TTL_S : (number + 1) * TTL_S])


async def level(stage: PlateauStage, periods: int) -> Level:
    redis: Any = connect(stage.service.streams_url, "bench", connections=1)
    loop = asyncio.get_running_loop()
    used: list[float] = []
    finished = 0
    limits = httpx.Limits(max_connections=50)
    async with httpx.AsyncClient(
        base_url=stage.service.url, timeout=60, limits=limits
    ) as client:

        async def run(number: int) -> None:
            nonlocal finished
            body = {"agent": "story", "input": f"level {number}", "options": OPTIONS}
            answer = await client.post("/v1/runs", json=body, headers=WAIT)
            if answer.status_code == 202:
                # Its worker was replaced meanwhile, which keeps nobody waiting; nor need the
                # next one stay until the run has ended: it is followed as browsers do.
                reader = Reader([stage.service.url], answer.json()["events_url"])
                await reader.follow()
                became = (reader.end or {}).get("type", "nothing")
            else:
                became = answer.text if answer.status_code != 200 else answer.json()["status"]
            is_done = became in ("completed", "run.completed")
            finished += is_done
            if not is_done:
                sys.stdout.write(f"run {number}: {answer.status_code}: {became:.200}\n")

        async def sample() -> None:
            began = loop.time()
            while True:
                info = await redis.info("memory")
                used.append(int(info["used_memory"]) / 1024**2)
                await asyncio.sleep(began + len(used) - loop.time())

        sampling = asyncio.create_task(sample())
        began = loop.time()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(periods * RUNS_A_PERIOD):
                    await asyncio.sleep(began + number * TTL_S / RUNS_A_PERIOD - loop.time())
                    group.create_task(run(number))
            return Level(used, finished)
        finally:
            await tasks.end(sampling)
            await redis.aclose()


def rows(lengths: Lengths, level: Level, periods: int) -> list[Row]:
    means = [level.period(number) for number in range(periods)]
    each = ", ".join(f"{value:.2f}" for value in means)
    return [
        Row(
            "entries in a stream, the most seen",
            lengths.most,
            "",
            CAP,
            peers=f"{lengths.looks} looks at {DELTAS:,} deltas; {lengths.last} in the end",
        ),
        Row(
            f"streams at {RUNS_A_PERIOD:,} runs a STREAM_TTL_S: last period over the second",
            means[-1] - means[1],
            "MiB",
            GROWTH_MIB,
            peers=f"MiB in each of {periods}: {each}; {level.finished:,} runs finished",
        ),
        Row(
            "streams: runs that did not finish",
            periods * RUNS_A_PERIOD - level.finished,
            "",
            0,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench streams", description=__doc__)
    parser.add_argument("--periods", type=int, default=PERIODS, help=f"3 at least [{PERIODS}]")
    options = parser.parse_args(arguments)
    with plateau({"AGENTS": AGENTS, "STREAM_TTL_S": str(TTL_S)}) as stage:
        most = asyncio.run(lengths(stage))
        found = asyncio.run(level(stage, options.periods))
    made = rows(most, found, options.periods)
    return report(
        "streams",
        made,
        lambda path: plots.periods(
            found.used, TTL_S, made[1].measured or 0, f"{RUNS_A_PERIOD:,} runs a period", path
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
