"""By how much a full cache passes its 10 MB: `used_memory`, clients' buffers included.

Entries as the service packs them, of 1 KB to the twentieth of the cache that is the most it
takes, as many bytes of each size, go through it several times over. A server evicts before a
command, INFO included, and not after it: so the memory is read in the same transaction as each
entry is stored.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import end_server, start_server

from benchmarks import capacity, hit_rate
from benchmarks.rows import Row, report
from plateau_sse.store.answers.cache import LARGEST_SHARE
from plateau_sse.store.answers.packing import pack
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect

BOUND_MIB = 10
TIMES_OVER = 10
# More would be cut now and then: entries on their way count towards `maxmemory-clients`, too.
AT_ONCE = 2
SIZES, LEAST_BYTES = 60, 1000
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 "


class Found(NamedTuple):
    """Memory in bytes; `most` and `largest` (an item with its key) are the highest seen."""

    maxmemory: int
    most: int
    largest: int
    stored: int
    evicted: int

    @property
    def over(self) -> int:
        return max(0, self.most - self.maxmemory)


def entries(most_bytes: int, seed: int) -> list[bytes]:
    """Of sizes that grow by the same factor, the largest as large as may be."""
    chances = random.Random(seed)
    found = []
    for number in range(SIZES):
        size = LEAST_BYTES * (most_bytes / LEAST_BYTES) ** (number / (SIZES - 1))
        # One of 37 letters packs to a little more than 5 bits.
        text = "".join(chances.choices(LETTERS, k=int(size * 1.48)))
        packed = pack(capacity.answered(text, usage=None, duration_ms=1))
        if len(packed) <= most_bytes:
            found.append(packed)
    return found


async def measure(url: str, *, times_over: int = TIMES_OVER, seed: int = 1) -> Found:
    redis: Any = connect(url, "bench", connections=AT_ONCE)
    try:
        bound = int((await redis.config_get("maxmemory"))["maxmemory"])
        packed = entries(bound // LARGEST_SHARE, seed)
        weights = [1 / len(entry) for entry in packed]
        count = int(times_over * bound * sum(weights) / len(packed))
        chances = random.Random(seed)
        most = largest = number = 0

        async def store() -> None:
            nonlocal most, largest, number
            while number < count:
                number += 1
                name = keys.cache(hit_rate.key(number))
                async with redis.pipeline(transaction=True) as step:
                    step.set(name, chances.choices(packed, weights)[0], ex=3600)
                    step.info("memory")
                    step.memory_usage(name)
                    _, memory, size = await step.execute()
                most, largest = max(most, int(memory["used_memory"])), max(largest, size)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(store())
        evicted = int((await redis.info("stats"))["evicted_keys"])
        return Found(bound, most, largest, number, evicted)
    finally:
        await redis.aclose()


def rows(found: Found) -> list[Row]:
    return [
        Row("cache: maxmemory", found.maxmemory / 1024**2, "MiB", BOUND_MIB),
        Row(
            "cache: most over it; the bound is one item, the largest",
            found.over / 1024,
            "KiB",
            round(found.largest / 1024, 1),
            peers=f"{found.stored:,} stored, {found.evicted:,} evicted; used_memory "
            f"{found.most / 1024**2:.3f} MiB at most",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench overshoot", description=__doc__)
    parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        server = start_server("cache", Path(folder))
        try:
            found = asyncio.run(measure(server.url))
        finally:
            end_server(server)
    return report("overshoot", rows(found))


if __name__ == "__main__":
    sys.exit(main())
