"""The crowd: runs, each started once whatever it takes, and their readers of five kinds.

Invariant: every choice comes from the seed: which input, how long, who reads how.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
from tests.readers import Agreed, Reader

from benchmarks.chaos.story import OTHER, STORY, pieces_of

# steady reads on; dropping and restless break off, seldom and often, and resume at the other
# worker (restless resets its connections); slow reads a little at a time; late joins later, or
# after the end.
KINDS = ("steady", "dropping", "slow", "late", "restless")
DROPS = {"dropping": 0.03, "restless": 0.15}
BACK_AFTER_S = (0.05, 0.4)
SLOW_BITE = 1024
SLOW_PAUSE_S = (0.0, 0.12)
# Of the runs a fifth are long enough to fill the socket of a slow reader.
WIDE, WIDE_SHARE = 700, 0.2
# A tenth are of an agent that one runner alone has.
OTHER_SHARE = 0.1
LEAST_PIECES, MOST_PIECES = 20, 150
# A run's length on its own, in shares of the time of faults.
LENGTHS = (0.05, 0.5)
ASK_AGAIN_S = (0.1, 0.6)
TWICE_SHARE = 0.3
# Its connection is closed as its time is over.
LOOK_BEFORE_S = 2.0
LOOKS = asyncio.Semaphore(4)


@dataclass
class Asked:
    """One run: what is asked, when, and what came of it."""

    text: str
    options: dict[str, int]
    at_s: float
    # A client that does not wait for its first answer asks both workers at once.
    twice: bool = False
    agent: str = STORY
    answer: dict[str, Any] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)
    agreed: Agreed = field(default_factory=Agreed)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """What the record must say once the run has completed."""
        return "".join(pieces_of(self.text, self.options["count"], self.options["width"]))

    @property
    def length_s(self) -> float:
        """Of an attempt that nothing disturbs."""
        return self.options["count"] * self.options["pause_ms"] / 1000

    @property
    def query(self) -> str:
        return str(self.answer["events_url"]).partition("?")[2]


@dataclass
class Follower:
    """A reader and its run; `failure` is what it ran into."""

    kind: str
    asked: Asked
    reader: Reader
    delay_s: float | None = 0.0
    failure: str = ""


def plan_runs(seed: int, count: int, seconds: float) -> list[Asked]:
    """Runs that start while faults happen, or before."""
    chances = random.Random(f"runs {seed}")
    planned = []
    for index in range(count):
        pieces = chances.randint(LEAST_PIECES, MOST_PIECES)
        length_s = seconds * chances.uniform(*LENGTHS)
        options = {
            "count": pieces,
            "pause_ms": max(20, int(1000 * length_s / pieces)),
            "width": WIDE if chances.random() < WIDE_SHARE else 0,
        }
        at_s = seconds * chances.uniform(0, 0.9)
        twice = chances.random() < TWICE_SHARE
        agent = OTHER if chances.random() < OTHER_SHARE else STORY
        planned.append(Asked(f"story {seed} {index}", options, at_s, twice, agent))
    return planned


def plan_readers(
    seed: int, count: int, runs: list[Asked], urls: list[str], seconds: float
) -> list[Follower]:
    """As many readers of each kind as of any other, spread over the runs."""
    return [
        _follower(seed, i, runs[i % len(runs)], len(runs), urls, seconds) for i in range(count)
    ]


def _follower(
    seed: int, index: int, asked: Asked, runs: int, urls: list[str], seconds: float
) -> Follower:
    chances = random.Random(f"reader {seed} {index}")
    kind = KINDS[(index // runs + index) % len(KINDS)]
    first = chances.randrange(len(urls))
    reader = Reader(
        urls[first:] + urls[:first],
        "",
        wait_s=lambda: chances.uniform(*BACK_AFTER_S),
        reset=kind == "restless",
        agreed=asked.agreed,
    )
    if kind in DROPS:
        reader.drop = lambda: chances.random() < DROPS[kind]
    delay_s: float | None = 0.0
    if kind == "slow":
        reader.bite = SLOW_BITE
        reader.pace_s = lambda: chances.uniform(*SLOW_PAUSE_S)
    elif kind == "late":
        delay_s = None if chances.random() < 0.3 else chances.uniform(0, seconds / 2)
    return Follower(kind, asked, reader, delay_s)


async def ask(client: httpx.AsyncClient, asked: Asked, urls: list[str], seed: int) -> None:
    """Start the run, once, however often it is asked for: always under the same key."""
    first = random.Random(f"asking {asked.text}").randrange(len(urls))
    orders = [urls[first:] + urls[:first]]
    if asked.twice:
        orders.append(orders[0][::-1])
    key = f"chaos-{seed}-{asked.text.rpartition(' ')[2]}"
    answers = await asyncio.gather(*(_ask(client, asked, order, key) for order in orders))
    run_ids = {answer["id"] for answer in answers}
    assert len(run_ids) == 1, f"one key, {len(run_ids)} runs: {run_ids}"
    asked.answer = answers[-1]


async def _ask(
    client: httpx.AsyncClient, asked: Asked, urls: list[str], key: str
) -> dict[str, Any]:
    """A refusal is asked again, elsewhere."""
    chances = random.Random(f"asking {asked.text} {urls[0]}")
    body = {"agent": asked.agent, "input": asked.text, "options": asked.options}
    for url in itertools.cycle(urls):
        try:
            headers = {"Idempotency-Key": key}
            answer = await client.post(f"{url}/v1/runs", json=body, headers=headers)
        except httpx.TransportError as error:
            asked.refusals[type(error).__name__] += 1
        else:
            found: dict[str, Any] = answer.json()
            if answer.status_code in (200, 202):
                return found
            asked.refusals[f"{answer.status_code} {found.get('code')}"] += 1
            assert answer.status_code in (429, 503), answer.text
        await asyncio.sleep(chances.uniform(*ASK_AGAIN_S))
    raise AssertionError("there is always another worker to ask")


async def follow(follower: Follower, first: Reader, timeout_s: float) -> None:
    """Read to the end; a `late` one joins after its delay, or once `first` has ended."""
    if follower.delay_s is None:
        await first.finished.wait()
    else:
        await asyncio.sleep(follower.delay_s)
    reader = follower.reader
    reader.path = follower.asked.answer["events_url"]
    following = asyncio.ensure_future(reader.follow(timeout_s=timeout_s))
    try:
        await asyncio.wait({following}, timeout=timeout_s - LOOK_BEFORE_S)
        sockets = "" if following.done() else await kernel_says(reader.port)
        await following
    except TimeoutError:
        follower.failure = f"no end within {timeout_s:.0f} s; its sockets: {sockets}"
    except Exception as error:
        follower.failure = f"{type(error).__name__}: {error}"
    finally:
        following.cancel()
        # Whoever waits for its end waits no longer.
        reader.finished.set()


async def kernel_says(port: int) -> str:
    """Of both ends of the connection: what is unread, unsent and unacknowledged, timers, and
    what was sent again. It tells a kernel that waits from a worker that has written nothing."""
    if not shutil.which("ss"):
        return "ss (iproute2) is not installed"
    asking = ("ss", "-Htinoem", f"( sport = :{port} or dport = :{port} )")
    async with LOOKS:
        process = await asyncio.create_subprocess_exec(*asking, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
    return " ".join(said.decode().split()) or "none"
