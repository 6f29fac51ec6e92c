"""One owner's runs alone, and beside another's who asks for ten times what one may have.

In the shipped settings: half of QUEUE_LIMIT an owner, RUNNER_CONCURRENCY places. The other's
runs go on for as long as a run may, so whoever waited for one of them to end would wait for
minutes. What is compared is how long a run waits until it is started, by the server's clock;
how long its owner waits for the first words is told beside it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from statistics import median, quantiles
from typing import Any, NamedTuple

import httpx
import msgspec
from tests.processes import REPOSITORY

from benchmarks.rows import Row
from benchmarks.scale.load import WAIT_S, until
from benchmarks.stages import PlateauStage
from plateau_sse.settings import Settings

GREEDY, OTHER = "key-of-the-greedy-one", "key-of-the-other-one"
TIMES = 2.0
PIECES = {"count": 10, "pause_ms": 100, "width": 60}
SHIPPED = Settings.from_env({})
# Of an owner, at once.
LIMIT = SHIPPED.queue_limit // 2


class Load(NamedTuple):
    """`runs` of the one owner, `every_s`, of a second each; the other asks for `asks`."""

    runs: int = 80
    every_s: float = 0.5
    asks: int = 10 * LIMIT
    rounds: int = 3


class Waits(NamedTuple):
    """Of one run, in ms: until it was started, and until its first words were heard."""

    started_ms: float
    heard_ms: float


class Round(NamedTuple):
    alone: list[Waits]
    beside: list[Waits]
    answers: dict[str, int]


class Beside(NamedTuple):
    load: Load
    rounds: list[Round]

    def times(self, share: int, heard: bool = False) -> float:
        """Of alone, at the median (50) or the p95: the median of the rounds."""
        return median(
            at(one.beside, share, heard) / at(one.alone, share, heard) for one in self.rounds
        )

    def rows(self) -> list[Row]:
        last = self.rounds[-1].answers
        answers = ", ".join(f"{n:,} {what}" for what, n in last.items())
        found = []
        for share, called in ((50, "median"), (95, "p95")):
            for heard, what in ((False, "until a run is started"), (True, "until it is heard")):
                pairs = ", ".join(
                    f"{at(one.alone, share, heard):.1f} and {at(one.beside, share, heard):.1f}"
                    for one in self.rounds
                )
                name = f"beside an owner at ten times its limits: {what}, {called}, of alone"
                bound = None if heard else TIMES
                peers = f"{pairs} ms"
                found.append(Row(name, self.times(share, heard), "x", bound, peers=peers))
        refused = last.get("owner_limit", 0)
        what = "an owner at ten times its limits: refused"
        found.append(Row(what, refused, "", 1, most=False, peers=answers))
        return found


def at(waits: list[Waits], share: int, heard: bool) -> float:
    values = [one.heard_ms if heard else one.started_ms for one in waits]
    # The store's clock tells milliseconds.
    return max(1.0, quantiles(values, n=100)[share - 1])


async def shared(stage: PlateauStage, load: Load) -> Beside:
    headers = {"Authorization": f"Bearer {OTHER}"}
    async with httpx.AsyncClient(
        base_url=stage.service.url, headers=headers, timeout=WAIT_S, trust_env=False
    ) as client:
        # What is loaded first is none of it.
        await asks(client, load._replace(runs=10))
        return Beside(load, [await _round(stage, client, load) for _ in range(load.rounds)])


async def _round(stage: PlateauStage, client: httpx.AsyncClient, load: Load) -> Round:
    alone = await asks(client, load)
    lasts_s = load.runs * load.every_s
    greedy = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.pressure.greedy", stage.service.url, GREEDY),
        *map(str, (load.asks, max(1, int(load.asks / lasts_s)))),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert greedy.stdout is not None
    try:
        async with asyncio.timeout(WAIT_S):
            assert await greedy.stdout.readline() == b"full\n"
        beside = await asks(client, load)
        async with asyncio.timeout(WAIT_S):
            said, _ = await greedy.communicate(b"")
    finally:
        if greedy.returncode is None:
            greedy.kill()
            await greedy.wait()
    await until(
        stage,
        lambda seen: not (seen["runs"]["running"] or seen["runs"]["waiting"]),
        "the other has left",
    )
    answers: dict[str, int] = msgspec.json.decode(said, type=dict[str, int])
    return Round(alone, beside, answers)


async def asks(client: httpx.AsyncClient, load: Load) -> list[Waits]:
    """Runs at a steady pace, however long each takes."""
    asking = []
    for number in range(load.runs):
        asking.append(asyncio.create_task(_asks(client, number)))
        await asyncio.sleep(load.every_s)
    return list(await asyncio.gather(*asking))


async def _asks(client: httpx.AsyncClient, number: int) -> Waits:
    body: dict[str, Any] = {
        "agent": "load",
        "input": f"other {number}",
        "options": PIECES,
        "cache": {"mode": "off"},
    }
    began, heard_ms = time.monotonic(), 0.0
    headers = {"Accept": "text/event-stream"}
    async with client.stream("POST", "/v1/runs", json=body, headers=headers) as answer:
        answer.raise_for_status()
        url = answer.headers["location"].partition("/events")[0]
        async for line in answer.aiter_lines():
            if not heard_ms and "message.delta" in line:
                heard_ms = (time.monotonic() - began) * 1000
    record = (await client.get(url)).json()
    return Waits((record["started_at"] - record["created_at"]) * 1000, heard_ms)
