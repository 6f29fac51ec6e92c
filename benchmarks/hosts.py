"""Two hosts behind one nginx, under load: one is drained, then the other is cut off.

Invariant: each host is a network namespace with workers and a runner of its own; between it and
everybody else there is a link that can be cut. Each request is made once, or again under the
same Idempotency-Key; each reader comes by way of nginx, checks the position of every event, and
ends with what the record of its run has.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx
from tests import netns
from tests.nginx import NGINX, Proxy
from tests.processes import wait_until

from benchmarks.followers import Following, Load, begin, record_of, waits_s, wrong
from benchmarks.measuring import open_files_most
from benchmarks.placed import ENDS_WITHIN_S, KEY, Placed, staged
from benchmarks.rows import Row, report
from plateau_sse import tasks

# nginx takes a silent response for broken after 25 s, and a host that does not answer after 2.
BACK_WITHIN_S = 35
START_S, END_S = 60.0, 240.0
NEW_EVERY_S, ANSWER_S, AGAIN_S, LOOK_S = 0.25, 8.0, 0.5, 0.5
ON_ITS_WAY_S = 5.0
DRAIN, CUT, REST = "a host is drained", "a host is cut off", "before and between"
# What is asked while a host goes: it ends well within the grace.
BRIEF = Load(pieces=15, pause_ms=100)
BRIEF_WITHIN_S = 15.0


class Sizes(NamedTuple):
    """`long` outlasts both faults, `brief` runs are begun all the while."""

    long: Load
    brief_every_s: float = NEW_EVERY_S


FULL = Sizes(Load(runs=50, readers=500, pieces=450, pause_ms=200))
SHORT = Sizes(Load(runs=6, readers=48, pieces=500, pause_ms=150), 0.5)


@dataclass
class Outcome:
    """`asked` and `refused` count requests by what was done meanwhile, `anew` runs that were
    begun during the drain and had to begin again; `seen` has the states in which the other
    host showed the one that was drained, or cut off."""

    drained_s: float = 0.0
    back_s: list[float] = field(default_factory=list)
    up_again_s: float = 0.0
    seen: dict[str, list[str]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    anew: int = 0
    faults: list[str] = field(default_factory=list)


class Crowd:
    """Readers of long runs, and somebody who begins short ones until told to stop."""

    def __init__(self, client: httpx.AsyncClient, url: str, sizes: Sizes, outcome: Outcome):
        self._client, self._url, self._sizes, self._outcome = client, url, sizes, outcome
        self._runs: list[dict[str, str]] = []
        self._begun_in: list[str] = []
        self._readers: list[tuple[Following, int]] = []
        self._following: list[asyncio.Task[None]] = []
        self._newcomers: asyncio.Task[None] | None = None
        self.phase = REST

    async def gather(self, draw: random.Random) -> None:
        long = self._sizes.long
        for n in range(long.runs):
            await self._begin(n, long)
        for n in range(long.readers):
            self._follow(n % long.runs, draw.random)
        async with asyncio.timeout(START_S):
            await asyncio.gather(*(reader.started.wait() for reader, _ in self._readers))
        self._newcomers = asyncio.create_task(self._keep_asking(draw))

    async def brief_have_ended(self) -> None:
        """Those that were begun while a host was drained: what is done next is not theirs."""
        followed = zip(self._readers, self._following, strict=True)
        own = [task for (_, n), task in followed if self._begun_in[n] == DRAIN]
        if own:
            await asyncio.wait(own, timeout=BRIEF_WITHIN_S)

    async def all_hear_again(self) -> list[float]:
        # What was on its way when the host was cut off is no word of another.
        await asyncio.sleep(ON_ITS_WAY_S)
        readers = [reader for reader, _ in self._readers]
        waits = await waits_s(readers, self._following)
        return [ON_ITS_WAY_S + wait_s for wait_s in waits]

    async def finish(self) -> None:
        """Everybody has come to an end; what is wrong with whom."""
        await tasks.end(*([self._newcomers] if self._newcomers else []))
        ended = await asyncio.gather(*self._following, return_exceptions=True)
        records = [await record_of(self._client, self._url, run) for run in self._runs]
        outcome = self._outcome
        for (reader, n), end in zip(self._readers, ended, strict=True):
            outcome.told += reader.told
            fault = wrong(reader, end, records[n])
            if fault:
                outcome.faults.append(fault)
        for record, phase in zip(records, self._begun_in, strict=True):
            outcome.statuses[str(record.get("status", "gone"))] += 1
            if phase == DRAIN:
                outcome.anew += int(record.get("attempt", 1)) > 1

    async def leave(self) -> None:
        await tasks.end(*self._following, *([self._newcomers] if self._newcomers else []))

    def _follow(self, n: int, wait_s: Callable[[], float]) -> None:
        reader = Following([self._url], self._runs[n]["events_url"], wait_s=wait_s)
        self._readers.append((reader, n))
        self._following.append(asyncio.create_task(reader.follow(timeout_s=END_S)))

    async def _keep_asking(self, draw: random.Random) -> None:
        while True:
            await self._begin(len(self._runs), BRIEF)
            self._follow(len(self._runs) - 1, draw.random)
            await asyncio.sleep(self._sizes.brief_every_s)

    async def _begin(self, number: int, load: Load) -> None:
        """Until it has been taken on; each time that it was not is counted."""
        phase = self.phase
        while True:
            self._outcome.asked[phase] += 1
            try:
                run = await begin(self._client, [self._url], number, load, f"run-{number}")
            except httpx.HTTPError as error:
                self._outcome.refused[phase] += 1
                self._outcome.said.append(f"{phase}: {_told(error)}")
                await asyncio.sleep(AGAIN_S)
            else:
                self._runs.append(run)
                self._begun_in.append(phase)
                return


def _told(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"{error.response.status_code} {error.response.text[:200]}"
    return repr(error)


@asynccontextmanager
async def _seen(by: Placed, name: str) -> AsyncIterator[list[str]]:
    """The states in which a host shows another meanwhile, each once."""
    states: list[str] = []

    async def look() -> None:
        while True:
            with suppress(httpx.HTTPError):
                shown = (await asyncio.to_thread(by.health))["hosts"]
                state = shown.get(name, {"status": "gone"})["status"]
                if state not in states:
                    states.append(state)
            await asyncio.sleep(LOOK_S)

    looking = asyncio.create_task(look())
    try:
        yield states
    finally:
        await tasks.end(looking)


async def through(
    places: Sequence[Placed], proxy: Proxy, sizes: Sizes, *, seed: int
) -> Outcome:
    """The first is drained and started again; the second is cut off until all its readers
    are served by the other, and comes back."""
    one, two = places
    outcome, draw = Outcome(), random.Random(seed)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(headers=headers, timeout=ANSWER_S, trust_env=False) as client:
        crowd = Crowd(client, proxy.url, sizes, outcome)
        try:
            await crowd.gather(draw)
            crowd.phase = DRAIN
            async with _seen(two, one.host.name) as outcome.seen["drained"]:
                outcome.drained_s = await asyncio.to_thread(one.drain)
            outcome.faults += one.badly_ended()
            crowd.phase = REST
            one.start()
            await asyncio.to_thread(wait_until, one.is_up, "it is back", timeout_s=60)
            await crowd.brief_have_ended()
            crowd.phase = CUT
            two.host.cut()
            async with _seen(one, two.host.name) as outcome.seen["cut off"]:
                outcome.back_s = await crowd.all_hear_again()
            two.host.heal()
            began = time.monotonic()
            await asyncio.to_thread(wait_until, two.is_up, "it is whole", timeout_s=60)
            outcome.up_again_s = time.monotonic() - began
            crowd.phase = REST
            await crowd.finish()
        finally:
            await crowd.leave()
    return outcome


def rows_of(outcome: Outcome) -> list[Row]:
    told = ", ".join(f"{n} {reason}" for reason, n in sorted(outcome.told.items())) or "nobody"
    became = ", ".join(f"{n} {status}" for status, n in sorted(outcome.statuses.items()))
    failed = sum(outcome.statuses.values()) - outcome.statuses["completed"]
    seen = {what: ", ".join(states) for what, states in outcome.seen.items()}
    unseen = ("leaving" not in seen["drained"]) + ("down" not in seen["cut off"])
    return [
        Row("the drained host has gone after", outcome.drained_s, "s", ENDS_WITHIN_S),
        Row(
            "requests that failed while a host was drained",
            outcome.refused[DRAIN],
            "",
            0,
            peers=f"of {outcome.asked[DRAIN]}",
        ),
        Row(
            "runs begun while a host was drained that had to begin anew",
            outcome.anew,
            "",
            0,
        ),
        Row(
            "a host is cut off: its last reader hears again",
            max(outcome.back_s, default=0.0),
            "s",
            BACK_WITHIN_S,
            peers=f"{len(outcome.back_s)} readers",
        ),
        Row(
            "requests that had to be made again while a host was cut off",
            outcome.refused[CUT],
            "",
            peers=f"of {outcome.asked[CUT]}",
        ),
        Row("healed: it is whole again after", outcome.up_again_s, "s"),
        Row(
            "readers that hang, or lack or repeat something",
            len(outcome.faults),
            "",
            0,
            peers=f"begun anew: {told}",
        ),
        Row("runs that did not complete", failed, "", 0, peers=became),
        Row(
            "states in which the other host did not show them",
            unseen,
            "",
            0,
            peers="; ".join(f"{what}: {states}" for what, states in seen.items()),
        ),
    ]


def run(sizes: Sizes, *, seed: int) -> list[Row]:
    open_files_most()
    with tempfile.TemporaryDirectory() as name, staged(Path(name)) as (places, proxy):
        outcome = asyncio.run(through(places, proxy, sizes, seed=seed))
    for line in [*outcome.faults[:5], *outcome.said[:5]]:
        sys.stdout.write(f"  {line}\n")
    return rows_of(outcome)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench hosts", description=__doc__)
    parser.add_argument("--seed", type=int, default=20_261_129)
    parser.add_argument("--short", action="store_true", help="6 runs, 48 readers")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        return report("hosts", run(SHORT if options.short else FULL, seed=options.seed))
    why = netns.missing() or ("" if NGINX else "there is no nginx")
    if why:
        return report("hosts", [Row("two hosts behind one nginx", None, "", peers=why)])
    words = [sys.executable, "-m", "benchmarks.hosts", "--inside", f"--seed={options.seed}"]
    inside = netns.entering(*words, *(["--short"] if options.short else []))
    return subprocess.run(inside).returncode


if __name__ == "__main__":
    sys.exit(main())
