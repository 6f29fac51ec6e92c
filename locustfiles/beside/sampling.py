"""Memory of the service, once a second: of its processes where they are ours, else as it says.

Invariant: what could not be measured is None, never 0.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.measuring import pss_kib
from tests.processes import Serving

SERVERS = ("redis-streams", "redis-cache")


@dataclass(frozen=True, slots=True)
class Sample:
    """PSS in MiB; `readers` are the open event streams, as the service counts them."""

    at_s: float
    all_but_redis: float | None
    redis: float | None
    readers: int | None
    slow: int | None = None
    resumed: int | None = None


class Sampler:
    """Of the service at `url`; `service` are its processes, where they are ours. Without them
    and without an `admin_token` nothing is known."""

    def __init__(self, url: str, admin_token: str, service: Serving | None) -> None:
        self._service = service
        self._token = admin_token
        self._client = httpx.Client(base_url=url, timeout=5, trust_env=False)
        self.samples: list[Sample] = []

    def take(self) -> Sample:
        told = self._told()
        memory = self._processes() if self._service else _sizes(told)
        sse = told.get("sse", {})
        sample = Sample(
            round(time.time(), 2), *memory, sse.get("open"), sse.get("slow"), sse.get("resumed")
        )
        self.samples.append(sample)
        return sample

    def usual(self, count: int, every_s: float = 0.5) -> float | None:
        """The median of some samples, all but Redis."""
        some = []
        for _ in range(count):
            some.append(self.take().all_but_redis)
            time.sleep(every_s)
        known = [one for one in some if one is not None]
        return median(known) if known else None

    def _processes(self) -> tuple[float | None, float | None]:
        assert self._service is not None
        tree = self._service.tree()
        servers = [pid for pid, title in tree.items() if "[plateau " in title]
        # A master's title has it, too.
        redis = [pid for pid in servers if "gunicorn" not in tree[pid]]
        try:
            return (
                pss_kib(pid for pid in tree if pid not in redis) / 1024,
                pss_kib(redis) / 1024,
            )
        except (FileNotFoundError, ProcessLookupError):
            # A worker was replaced meanwhile.
            return None, None

    def _told(self) -> dict[str, Any]:
        if not self._token:
            return {}
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            answer = self._client.get("/api/admin/metrics", headers=headers)
            found: dict[str, Any] = answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            return {}
        return found

    def close(self) -> None:
        self._client.close()


def _sizes(told: dict[str, Any]) -> tuple[float | None, float | None]:
    """Of all processes that `/api/admin/metrics` tells of, on whatever machine."""
    rows = told.get("memory", {}).get("processes", [])
    if not rows:
        return None, None
    redis = sum(row["pss_bytes"] for row in rows if row["role"] in SERVERS)
    return (sum(row["pss_bytes"] for row in rows) - redis) / 1024**2, redis / 1024**2


def write(samples: Iterable[Sample], path: Path) -> None:
    with path.open("w", newline="") as file:
        lines = csv.DictWriter(file, [field.name for field in fields(Sample)])
        lines.writeheader()
        lines.writerows(asdict(sample) for sample in samples)
