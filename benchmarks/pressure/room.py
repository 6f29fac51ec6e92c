"""3,000 readers of one worker that finds room for 840, and POSTs meanwhile.

Runs end one after the other, so there is room for more as time goes by. Who follows from the
start does so to the end, the others are told to come back, and are told all of it then: a run
that has ended is told for as long as its record lives.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import NamedTuple

import httpx

from benchmarks.pressure.visitors import Visitors
from benchmarks.rows import Row
from benchmarks.scale.load import WAIT_S, Runs
from benchmarks.scale.strain import TOKEN
from benchmarks.stages import PlateauStage
from plateau_sse.api.opening import BUSY_TIMES
from plateau_sse.files import connections_most, streams_most

# After which all are served, in any case: each has come back a few times by then.
WITHIN_S = 240.0
POST_EVERY_S = 0.1
# Figures of a process are a few seconds old.
SAID_S = 20.0
SHORT = {"count": 1, "pause_ms": 1, "width": 40}
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
# What is logged for the first of them.
LINE = "a stream is put off"


class Load(NamedTuple):
    """`files` of each process; the first of the `runs` lasts for `first_s`, the last for
    `last_s`. `recovers`: it is waited until /health says nothing of it any more, a minute."""

    files: int = 1024
    readers: int = 3000
    runs: int = 30
    first_s: int = 25
    last_s: int = 55
    recovers: bool = True

    @property
    def room(self) -> int:
        return streams_most(connections_most(self.files))


class Served(NamedTuple):
    """`most` were served at once, the last was first served after `last_s`; `said` is what
    /health had as the cause while there was no room."""

    load: Load
    most: int
    whole: int
    cut: int
    lost: int
    repeated: int
    resets: int
    errors: Counter[str]
    put_off: int
    retry_s: float
    last_s: float
    posts: Counter[str]
    slowest_post_s: float
    said: str
    logged: bool
    is_well_again: bool

    def rows(self) -> list[Row]:
        name = f"{self.load.readers:,} readers, {self.load.files:,} files"
        errors = "; ".join(f"{what} x {n}" for what, n in self.errors.most_common(3))
        answers = ", ".join(f"{n} {what}" for what, n in self.posts.most_common(4))
        answered = sum(n for what, n in self.posts.items() if what.isdigit())
        return [
            Row(f"{name}: served at once", self.most, "", peers=f"room for {self.load.room}"),
            Row(f"{name}: with all of it", self.whole, "", self.load.readers, most=False),
            Row(f"{name}: who were served, and cut off", self.cut, "", 0),
            Row(f"{name}: events lost", self.lost, "", 0),
            Row(f"{name}: events repeated", self.repeated, "", 0),
            Row(f"{name}: connections reset", self.resets, "", 0, peers=errors),
            Row(
                f"{name}: after how long the soonest was to come back",
                self.retry_s,
                "s",
                BUSY_TIMES,
                most=False,
                peers=f"told {self.put_off:,} times",
            ),
            Row(f"{name}: until the last was served", self.last_s, "s", WITHIN_S),
            Row(
                f"{name}: POSTs that were answered",
                answered,
                "",
                self.posts.total(),
                most=False,
                peers=f"{answers}; the slowest {self.slowest_post_s:.2f} s",
            ),
            Row(
                f"{name}: /health and the log say so, and that it is over",
                bool(self.said) + self.logged + self.is_well_again,
                "of 3",
                3 if self.load.recovers else 2,
                most=False,
                peers=self.said,
            ),
        ]


async def crowded(stage: PlateauStage, load: Load) -> Served:
    runs, posts = Runs(stage), Posts(stage)
    for number in range(load.runs):
        span_s = load.last_s - load.first_s
        lasts_s = load.first_s + span_s * number // max(1, load.runs - 1)
        await runs.start(1, {"count": lasts_s, "pause_ms": 1000, "width": 60})
    visitors = Visitors(stage.port, runs.targets)
    posting = asyncio.create_task(posts.go_on())
    try:
        await visitors.come(load.readers)
        said = await _said(stage, SAID_S, something=True)
        await visitors.until_ended(WITHIN_S)
        outputs = [said.text for said in await runs.end()]
        posts.is_over = True
        await posting
        return Served(
            load,
            visitors.most,
            visitors.whole(outputs),
            visitors.cut,
            visitors.lost,
            visitors.repeated,
            visitors.resets,
            visitors.errors,
            visitors.put_off,
            min(visitors.retries_s, default=0.0),
            max(visitors.waits_s, default=WITHIN_S),
            posts.answers,
            posts.slowest_s,
            said,
            LINE in stage.service.stderr,
            load.recovers and not await _said(stage, WAIT_S, something=False),
        )
    finally:
        posting.cancel()
        visitors.leave()
        await runs.client.aclose()
        await posts.client.aclose()


class Posts:
    """Runs that are asked for at a steady pace, by clients who keep their connections and by
    those who open one each time; `answers` are counted by status, and by error."""

    def __init__(self, stage: PlateauStage) -> None:
        self.answers: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.is_over = False
        self.client = httpx.AsyncClient(
            base_url=stage.service.url, timeout=WAIT_S, trust_env=False
        )
        self._number = 0

    async def go_on(self) -> None:
        async with asyncio.TaskGroup() as group:
            while not self.is_over:
                self._number += 1
                group.create_task(self._post(self._number))
                await asyncio.sleep(POST_EVERY_S)

    async def _post(self, number: int) -> None:
        body = {"agent": "load", "input": f"post {number}", "options": SHORT}
        headers = {} if number % 2 else {"Connection": "close"}
        began = time.monotonic()
        try:
            answer = await self.client.post("/v1/runs", json=body, headers=headers)
            self.answers[str(answer.status_code)] += 1
        except httpx.HTTPError as error:
            self.answers[type(error).__name__] += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)


async def _cause(stage: PlateauStage) -> str:
    """Why /health finds less than well what web workers do; '' for no reason."""
    async with httpx.AsyncClient(timeout=WAIT_S, trust_env=False) as client:
        answer = await client.get(f"{stage.service.url}/health", headers=ADMIN)
    return str(answer.json()["components"]["web"].get("cause", ""))


async def _said(stage: PlateauStage, within_s: float, *, something: bool) -> str:
    """What it says once it does, or does no more; what it said last where that comes late."""
    until, said = time.monotonic() + within_s, ""
    while time.monotonic() < until:
        said = await _cause(stage)
        if bool(said) is something:
            break
        await asyncio.sleep(0.5)
    return said
