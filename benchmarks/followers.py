"""Runs that say so many words, and readers of them who count why they were begun anew.

Invariant: every reader checks the position of every event, and ends with what the record of its
run has; what is wrong with one is told in words.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
from tests.readers import Reader

# For whoever has heard nothing until then.
END_S = 120.0


class Load(NamedTuple):
    """`pieces` of each run, so far apart that it outlasts what is done meanwhile."""

    runs: int = 50
    readers: int = 500
    pieces: int = 100
    pause_ms: int = 200


@dataclass
class Following(Reader):
    """A reader that counts why it was begun anew."""

    told: Counter[str] = field(default_factory=Counter)

    def take(self, event_id: str, event: dict[str, Any]) -> None:
        if event["type"] == "run.restarted":
            self.told[str(event["reason"])] += 1
        super().take(event_id, event)


def wrong(reader: Reader, end: BaseException | None, record: dict[str, Any]) -> str:
    """What is wrong with a reader that has ended, in words; '' where nothing is. `end` is what
    its task raised; `record` is {} where the run is gone."""
    if end is not None:
        visits = " / ".join(str(visit)[-200:] for visit in reader.visits[-3:])
        return f"{end!r} {visits}"
    if not record:
        # The store has lost all of the run: its readers were told that, by its end.
        code = (reader.end or {}).get("code")
        return "" if code == "record_lost" else f"a run is gone, and its reader was told {code}"
    try:
        reader.check_parts(record)
    except AssertionError as error:
        return f"not what the record has: {str(error)[:200]}"
    return ""


async def begin(
    client: httpx.AsyncClient, urls: Sequence[str], number: int, load: Load, key: str = ""
) -> dict[str, str]:
    """A run that has been taken on; raises httpx.HTTPError. `key` is its Idempotency-Key."""
    body = {
        "agent": "words",
        "input": f"words {number}",
        "options": {"count": load.pieces, "pause_ms": load.pause_ms},
        "cache": {"mode": "off"},
    }
    headers = {"Idempotency-Key": key} if key else {}
    answer = await client.post(
        f"{urls[number % len(urls)]}/v1/runs", json=body, headers=headers
    )
    answer.raise_for_status()
    run: dict[str, str] = answer.json()
    return run


async def record_of(client: httpx.AsyncClient, url: str, run: dict[str, str]) -> dict[str, Any]:
    """{} for one that is gone."""
    query = run["events_url"].partition("?")[2]
    answer = await client.get(f"{url}/v1/runs/{run['id']}?{query}")
    if answer.status_code == 404:
        return {}
    answer.raise_for_status()
    record: dict[str, Any] = answer.json()
    return record


async def waits_s(
    readers: Sequence[Reader], following: Sequence[asyncio.Task[None]]
) -> list[float]:
    """Seconds until each has heard something, or has come to its end."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    heard = [reader.heard for reader in readers]
    waiting = {n for n, task in enumerate(following) if not task.done()}
    waits: list[float] = []
    while waiting and loop.time() - began < END_S:
        await asyncio.sleep(0.02)
        for n in list(waiting):
            if readers[n].heard > heard[n] or following[n].done():
                waits.append(loop.time() - began)
                waiting.discard(n)
    return waits + [END_S] * len(waiting)
