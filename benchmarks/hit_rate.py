"""The cache's hit rate under a Zipf load, beside an ideal LRU of the same size.

Ten times more distinct answers than fit are asked for, each as often as its rank says (s = 1).
Both caches see the same requests: the real one through the code of the service, the ideal one
as a plain list in order of use, with as many bytes as the real one turned out to hold.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from bisect import bisect
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import end_server, start_server

from benchmarks import capacity, corpus
from benchmarks.rows import Row, report
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.cache import Cache, Question, key_of
from plateau_sse.store.answers.packing import pack
from plateau_sse.store.redis.connections import connect

BOUND_POINTS = 3.0
TIMES_MORE = 10


class Result(NamedTuple):
    """Rates are shares of the requests that were measured."""

    fit: int
    requests: int
    real: float
    ideal: float

    @property
    def points(self) -> float:
        """By how many points the real cache stays behind."""
        return 100 * (self.ideal - self.real)


class IdealLru:
    """Evicts what has not been used for longest, until what is new fits."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._kept: OrderedDict[int, int] = OrderedDict()

    def get(self, name: int) -> bool:
        if name not in self._kept:
            return False
        self._kept.move_to_end(name)
        return True

    def put(self, name: int, size: int) -> None:
        self._kept[name] = size
        self._used += size
        while self._used > self._size:
            self._used -= self._kept.popitem(last=False)[1]


class Load:
    """Answer `n` is asked for with a probability of 1/(n + 1); its size is that of its entry's
    value."""

    def __init__(self, distinct: int, seed: int) -> None:
        self._weights = list(accumulate(1 / (rank + 1) for rank in range(distinct)))
        self._random = random.Random(seed)
        self._words = "\n".join(corpus.unseen()).split(" ")
        self._sizes: dict[int, int] = {}

    def next(self) -> int:
        return bisect(self._weights, self._random.random() * self._weights[-1])

    def answer(self, number: int) -> Answer:
        """About 2 KB, between 1 and 3; always the same text for a number."""
        chosen = random.Random(number)
        start = chosen.randrange(len(self._words) - 600)
        words = self._words[start : start + chosen.randint(170, 500)]
        usage = {"input_tokens": 500, "output_tokens": len(words)}
        text = f"{number} " + " ".join(words)
        return capacity.answered(text, usage=usage, duration_ms=2000)

    def size(self, number: int) -> int:
        if number not in self._sizes:
            self._sizes[number] = len(pack(self.answer(number)))
        return self._sizes[number]


def key(number: int) -> str:
    messages = [{"role": "user", "content": f"question {number}"}]
    return key_of(Question("study", "1", "anonymous", "", "", messages, {}))


async def fill(cache: Cache, redis: Any, load: Load) -> tuple[int, float]:
    """How many answers fit, and the bytes that one takes on average."""
    empty = (await redis.info("memory"))["used_memory"]
    before = (await redis.info("stats"))["evicted_keys"]
    number, evicted = 0, before
    while evicted == before:
        for _ in range(500):
            await cache.put(key(-number - 1), load.answer(number))
            number += 1
        evicted = (await redis.info("stats"))["evicted_keys"]
    fit: int = await redis.dbsize()
    taken: int = (await redis.info("memory"))["used_memory"] - empty
    await redis.flushall()
    return fit, taken / fit


async def measure(url: str, *, turnovers: int, seed: int = 1) -> Result:
    """Fill the cache, then measure while its content is replaced `turnovers` times."""
    redis: Any = connect(url, "bench")
    try:
        cache = Cache(redis, ttl_s=86_400, max_bytes=10 * 1024**2)
        fit, each = await fill(cache, redis, Load(1000, seed))
        load = Load(TIMES_MORE * fit, seed)
        # What an entry takes beside its value.
        overhead = each - sum(load.size(number) for number in range(500)) / 500
        ideal = IdealLru(int(fit * each))
        asked = real = best = stored = 0
        while stored < (1 + turnovers) * fit:
            if stored < fit:
                asked = real = best = 0
            number = load.next()
            asked += 1
            if await cache.get(key(number)) is not None:
                real += 1
            else:
                await cache.put(key(number), load.answer(number))
                stored += 1
            if ideal.get(number):
                best += 1
            else:
                ideal.put(number, int(load.size(number) + overhead))
        return Result(fit, asked, real / asked, best / asked)
    finally:
        await redis.aclose()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench hit_rate", description=__doc__)
    parser.add_argument("--turnovers", type=int, default=4, help="contents measured [4]")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        server = start_server("cache", Path(folder))
        try:
            result = asyncio.run(measure(server.url, turnovers=options.turnovers))
        finally:
            end_server(server)
    return report(
        "hit_rate",
        [
            Row(
                "hit rate, points behind an ideal LRU",
                result.points,
                "points",
                BOUND_POINTS,
                peers=f"{result.real:.1%}, ideal LRU {result.ideal:.1%}; {result.fit:,} of "
                f"{TIMES_MORE * result.fit:,} answers fit, {result.requests:,} requests",
                figures={"Plateau": 100 * result.real, "ideal LRU": 100 * result.ideal},
                figures_in="%",
            )
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
