"""A load of real runs, of the agent that stamps what it says, and what became of its readers.

Invariant: every run is ended by whoever has begun it, and what its readers have is compared
with the record that is left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import httpx
from locustfiles.agent import STAMP

from benchmarks.rows import Row
from benchmarks.scale.herd import Herd
from benchmarks.scale.strain import Strain, Straining, looked
from benchmarks.stages import PlateauStage

AGENTS = "load=locustfiles.agent:load"
# Longer than anything here takes.
RUN_S = 900
PIECES = {"count": RUN_S, "pause_ms": 1000, "width": 60}
# How long each state is looked at.
LOOK_S = 15.0
AT_ONCE = 50
# For what is over at once on a machine that has time.
WAIT_S = 120.0


class Said(NamedTuple):
    """What a run has said, and how long after it was asked it began to."""

    text: str
    after_s: float


class Runs:
    """Runs of one load, and their paths."""

    def __init__(self, stage: PlateauStage) -> None:
        self.asked: list[dict[str, Any]] = []
        limits = httpx.Limits(max_connections=AT_ONCE)
        self.client = httpx.AsyncClient(
            base_url=stage.service.url, limits=limits, timeout=WAIT_S, trust_env=False
        )

    @property
    def targets(self) -> list[str]:
        return [str(run["events_url"]) for run in self.asked]

    async def start(self, count: int, options: Mapping[str, int] = PIECES) -> None:
        first = len(self.asked)
        answers = await asyncio.gather(
            *(self.ask(f"scale {first + n}", options) for n in range(count))
        )
        for answer in answers:
            answer.raise_for_status()
            self.asked.append(answer.json())

    async def ask(
        self, text: str, options: Mapping[str, int], *, cached: bool = False
    ) -> httpx.Response:
        body = {"agent": "load", "input": text, "options": options}
        headers = {"Prefer": f"wait={30 if cached else 0}"}
        if not cached:
            body["cache"] = {"mode": "off"}
        return await self.client.post("/v1/runs", json=body, headers=headers)

    async def end(self) -> list[Said]:
        """All are cancelled; what each has said by then."""
        await self.cancel()
        return list(await asyncio.gather(*(self._said(run["id"]) for run in self.asked)))

    async def cancel(self) -> None:
        await asyncio.gather(*(self.client.post(run["cancel_url"]) for run in self.asked))

    async def _said(self, run_id: str) -> Said:
        async with asyncio.timeout(WAIT_S):
            while True:
                answer = await self.client.get(f"/v1/runs/{run_id}")
                answer.raise_for_status()
                record = answer.json()
                if record["status"] not in ("queued", "running"):
                    text = "".join(part["text"] for part in record["parts"])
                    stamp = STAMP.match(text)
                    began_s = int(stamp[2]) / 1e6 if stamp else float("inf")
                    return Said(text, began_s - record["created_at"])
                await asyncio.sleep(0.2)


class Ended(NamedTuple):
    """What readers had in the end; `after_s` is how long each run waited to say anything."""

    readers: int
    after_s: list[float]
    whole: int
    lost: int
    repeated: int
    errors: Counter[str]

    def rows(self, name: str) -> list[Row]:
        errors = "; ".join(f"{what} x {n}" for what, n in self.errors.most_common(3))
        return [
            Row(f"{name}: readers with all of it", self.whole, "", self.readers, most=False),
            Row(f"{name}: events lost", self.lost, "", 0),
            Row(f"{name}: events repeated", self.repeated, "", 0, peers=errors),
        ]


async def ended(runs: Runs, herd: Herd) -> Ended:
    said = await runs.end()
    await herd.until_ended(WAIT_S)
    whole = herd.whole([run.text for run in said])
    after_s = [run.after_s for run in said]
    return Ended(len(herd.readers), after_s, whole, herd.lost, herd.repeated, herd.errors)


async def strained(
    stage: PlateauStage, herd: Herd, more: Callable[[], list[int]] = list
) -> Strain:
    """For `LOOK_S`; `more` are processes of the service beside the stage's own."""
    straining = Straining(stage, herd.lags_ms, more)
    await asyncio.sleep(LOOK_S)
    return await straining.ended()


async def until(
    stage: PlateauStage, condition: Callable[[dict[str, Any]], bool], what: str
) -> None:
    """Until the service says so of itself; TimeoutError."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition(await looked(stage)):
        if loop.time() - began > WAIT_S:
            raise TimeoutError(f"not within {WAIT_S:g} s: {what}")
        await asyncio.sleep(0.5)
