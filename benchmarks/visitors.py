"""A load that goes on for as long as it is let: runs, and readers who come and go.

Invariant: it is bounded, in readers open at once and in what it keeps of those that have left;
a reader that finds no room is counted, and every choice comes from the seed.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
from tests.readers import OutOfLine, Reader

from benchmarks.chaos.crowd import Asked

# whole: from where the run is to its end. leaving: some events, then gone for good. dropping:
# breaks off again and again, and resumes. late: joins a run that has ended. cached: asks what
# has been answered before, and reads the hit.
SHARES = {"whole": 0.2, "leaving": 0.2, "dropping": 0.1, "late": 0.1, "cached": 0.4}
AGENTS = "story=benchmarks.chaos.story:story"
RUNS_A_S = 3.0
# Of a run: from short to longer than its stream, at about what a model says in an event.
RUN_S, PIECES, WIDTH = (4.0, 10.0), (20, 130), 24
ENDED_KEPT = 200
DROP_SHARE, BACK_AFTER_S = 0.05, (0.1, 1.0)
# Of the shortest run a few events more are certain.
LEAVES_AFTER = (1, 20)
MOST_OPEN = 2000
# Nothing here takes so long.
GIVES_UP_S = 60.0
ERRORS_KEPT = 100


class Left(Exception):
    """A reader that has seen enough."""


@dataclass
class Tally:
    """What has happened so far; `events` are those of readers that have gone."""

    visits: Counter[str] = field(default_factory=Counter)
    events: int = 0
    resumed: int = 0
    lost: int = 0
    repeated: int = 0
    turned_away: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    hits: int = 0

    def fault(self, error: Exception) -> None:
        if isinstance(error, OutOfLine):
            self.lost += error.lost
            self.repeated += not error.lost
        name = f"{type(error).__name__}: {str(error)[:200]}"
        self.errors[name if len(self.errors) < ERRORS_KEPT else "others"] += 1


class Visitors:
    """Readers of the service at `url`, `rate` a second, until `leave`."""

    def __init__(self, url: str, *, rate: float, seed: int) -> None:
        self.tally = Tally()
        self._url = url
        self._rate = rate
        self._seed = seed
        self._chances = random.Random(f"visitors {seed}")
        self._live: dict[str, Asked] = {}
        self._ended: deque[Asked] = deque(maxlen=ENDED_KEPT)
        self._open: dict[int, Reader] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        limits = httpx.Limits(max_connections=50)
        self._client = httpx.AsyncClient(
            base_url=url, timeout=GIVES_UP_S, limits=limits, trust_env=False
        )

    @property
    def open(self) -> int:
        return len(self._open)

    @property
    def events(self) -> int:
        return self.tally.events + sum(reader.heard for reader in self._open.values())

    async def come(self) -> None:
        """Runs and readers at their rates, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._at_rate(RUNS_A_S, self._run))
            group.create_task(self._at_rate(self._rate - RUNS_A_S, self._visit))

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    async def _at_rate(self, rate: float, work: Callable[[], Awaitable[None]]) -> None:
        """Start one each 1/rate s; where this process was kept from it, all that are due."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        number = 0
        while True:
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
            while number <= (loop.time() - began) * rate:
                number += 1
                if len(self._tasks) >= MOST_OPEN:
                    self.tally.turned_away += 1
                    continue
                task = loop.create_task(self._guarded(work()))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            # Whatever it is, the others go on, and the count is told.
            self.tally.fault(error)

    async def _run(self) -> None:
        """A new run, and its first reader, who stays to its end."""
        self.tally.runs += 1
        pieces = self._chances.randint(*PIECES)
        pause_ms = int(1000 * self._chances.uniform(*RUN_S) / pieces)
        options = {"count": pieces, "pause_ms": pause_ms, "width": WIDTH}
        asked = Asked(f"soak {self._seed} {self.tally.runs}", options, 0)
        answer = await self._ask(asked)
        assert answer.status_code == 202, answer.text
        asked.answer = answer.json()
        run_id = asked.answer["id"]
        self._live[run_id] = asked
        try:
            await self._read("whole", asked, asked.answer["events_url"])
        finally:
            del self._live[run_id]
        self._ended.append(asked)

    async def _ask(self, asked: Asked) -> httpx.Response:
        body = {"agent": "story", "input": asked.text, "options": asked.options}
        return await self._client.post("/v1/runs", json=body)

    async def _visit(self) -> None:
        kind = self._chances.choices(list(SHARES), list(SHARES.values()))[0]
        some = self._ended if kind in ("late", "cached") else list(self._live.values())
        if not some:
            # In the first seconds there is nothing of its kind yet.
            return
        asked = self._chances.choice(some)
        url = asked.answer["events_url"]
        if kind == "cached":
            answer = await self._ask(asked)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-cache"] == "hit", answer.headers
            self.tally.hits += 1
            url = answer.json()["events_url"]
        await self._read(kind, asked, url)

    async def _read(self, kind: str, asked: Asked, url: str) -> None:
        self.tally.visits[kind] += 1
        reader = Reader([self._url], url, wait_s=lambda: self._chances.uniform(*BACK_AFTER_S))
        if kind == "dropping":
            reader.drop = lambda: self._chances.random() < DROP_SHARE
        elif kind == "leaving":
            enough = self._chances.randint(*LEAVES_AFTER)
            reader.drop = lambda: _leave_after(reader, enough)
        self._open[id(reader)] = reader
        try:
            await reader.follow(timeout_s=GIVES_UP_S)
            reader.check_whole(asked.output)
        except Left:
            reader.check_ids()
        finally:
            del self._open[id(reader)]
            self.tally.events += reader.heard
            self.tally.resumed += reader.connections - 1


def _leave_after(reader: Reader, enough: int) -> bool:
    if reader.heard >= enough:
        raise Left
    return False
