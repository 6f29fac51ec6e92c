"""50 requests of 10 users who ask one after the other: how many get a complete answer.

Each posts a text to the shipped agent `study`, follows its events and compares what it has read
with the run's record.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from statistics import quantiles

import httpx
from tests.readers import Reader

from benchmarks import corpus
from benchmarks.rows import Row, report
from benchmarks.stages import plateau

REQUESTS, USERS = 50, 10
BOUND = 100.0
ANSWERS_WITHIN_S = 60.0


async def load(url: str) -> tuple[list[float], list[str]]:
    """How long each complete answer took, in seconds, and what went wrong with the others."""
    took: list[float] = []
    failures: list[str] = []
    texts = iter(list(corpus.answers(REQUESTS)))

    async def user(client: httpx.AsyncClient) -> None:
        for text in texts:
            began = time.perf_counter()
            try:
                await _ask(client, url, text)
            except Exception as error:
                failures.append(f"{type(error).__name__}: {error}"[:200])
            else:
                took.append(time.perf_counter() - began)

    async with (
        httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(USERS):
            group.create_task(user(client))
    return took, failures


async def _ask(client: httpx.AsyncClient, url: str, text: str) -> None:
    answer = await client.post("/v1/runs", json={"agent": "study", "input": text})
    answer.raise_for_status()
    run = answer.json()
    reader = Reader([url], run["events_url"])
    await reader.follow(timeout_s=ANSWERS_WITHIN_S)
    query = run["events_url"].partition("?")[2]
    record = (await client.get(f"/v1/runs/{run['id']}?{query}")).json()
    assert record["status"] == "completed", record
    assert record["output"]
    reader.check_whole(record["output"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench smoke", description=__doc__)
    parser.parse_args(arguments)
    with plateau() as stage:
        took, failures = asyncio.run(load(stage.service.url))
    share = 100 * len(took) / REQUESTS
    times = ""
    if len(took) > 1:
        cuts = quantiles(took, n=20)
        times = f"; median {cuts[9] * 1000:.0f} ms, p95 {cuts[18] * 1000:.0f} ms"
    return report(
        "smoke",
        [
            Row(
                f"{REQUESTS} requests, {USERS} users: complete answers",
                share,
                "%",
                BOUND,
                most=False,
                peers=f"predecessor 100 of 50{times}"
                + "".join(f"; {failure}" for failure in failures[:3]),
            )
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
