"""Memory of the service, once a second: of its processes where they are ours, else as it says.

Invariant: what could not be measured is None, never 0.
"""

from __future__ import annotations

import csv
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from benchmarks.measuring import TICKS, cpu_s, pss_kib
from tests.processes import Serving

SERVERS = ("redis-streams", "redis-cache")
# All but Redis, web workers, runners, Redis.
Sizes = tuple[float | None, float | None, float | None, float | None]
NO_SIZES: Sizes = (None, None, None, None)


@dataclass(frozen=True, slots=True)
class Sample:
    """PSS in MiB; `readers` are the open event streams, `slow` and `resumed` have been so, as
    the service counts them. CPU in seconds so far, of processes that are here: `kit` is this
    one and the lone reader, `machine` all, ours or not, and what other machines took of it."""

    at_s: float
    all_but_redis: float | None
    workers: float | None
    runner: float | None
    redis: float | None
    readers: int | None
    slow: int | None
    resumed: int | None
    service_cpu_s: float | None
    redis_cpu_s: float | None
    generator_cpu_s: float | None
    kit_cpu_s: float | None
    machine_cpu_s: float


class Sampler:
    """Of the service at `url`; `service` are its processes, where they are ours. Without them
    and without an `admin_token` nothing is known."""

    def __init__(self, url: str, admin_token: str, service: Serving | None) -> None:
        self._service = service
        self._token = admin_token
        self._client = httpx.Client(base_url=url, timeout=5, trust_env=False)
        self._cpu_s: dict[str, dict[int, float]] = {}
        self.samples: list[Sample] = []
        self.generator: int | None = None
        self.kit = [os.getpid()]

    def take(self) -> Sample:
        told = self._told()
        memory = self._processes() if self._service else _sizes(told)
        if self._service is None:
            self._count_told(told)
        sse = told.get("sse", {})
        self._count("kit", self.kit)
        if self.generator is not None:
            self._count("generator", [self.generator, *_children(self.generator)])
        sample = Sample(
            round(time.time(), 2),
            *memory,
            sse.get("open"),
            sse.get("slow"),
            sse.get("resumed"),
            self._used_s("service"),
            self._used_s("redis"),
            self._used_s("generator"),
            self._used_s("kit"),
            machine_s(),
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

    def _processes(self) -> Sizes:
        assert self._service is not None
        tree = self._service.tree()
        # `[plateau streams]`, `[plateau cache]`.
        redis = [pid for pid, title in tree.items() if "[plateau " in title]
        others = [pid for pid in tree if pid not in redis]
        workers = [pid for pid in others if "gunicorn: worker" in tree[pid]]
        runner = [pid for pid in others if "plateau: runner" in tree[pid]]
        self._count("service", others)
        self._count("redis", redis)
        try:
            mib = [pss_kib(pids) / 1024 for pids in (others, workers, runner, redis)]
        except (FileNotFoundError, ProcessLookupError):
            # A worker was replaced meanwhile.
            return NO_SIZES
        return mib[0], mib[1], mib[2], mib[3]

    def _count(self, name: str, pids: Iterable[int]) -> None:
        """Of a process that has gone the last is kept."""
        for pid in pids:
            with suppress(FileNotFoundError, ProcessLookupError):
                self._cpu_s.setdefault(name, {})[pid] = cpu_s([pid])

    def _count_told(self, told: dict[str, Any]) -> None:
        """Of the processes that it tells of, those of this machine."""
        host = socket.gethostname()
        for row in told.get("memory", {}).get("processes", []):
            if row["host"] == host:
                name = "redis" if row["role"] in SERVERS else "service"
                self._count(name, [int(row["pid"])])

    def _used_s(self, name: str) -> float | None:
        if name not in self._cpu_s:
            return None
        return round(sum(self._cpu_s[name].values()), 2)

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


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _sizes(told: dict[str, Any]) -> Sizes:
    """Of all processes that `/api/admin/metrics` tells of, on whatever machine."""
    rows = told.get("memory", {}).get("processes", [])
    if not rows:
        return NO_SIZES

    def mib(*roles: str) -> float:
        sizes = (int(row["pss_bytes"]) for row in rows if row["role"] in roles)
        return sum(sizes) / 1024**2

    others = {row["role"] for row in rows}.difference(SERVERS)
    return mib(*others), mib("web"), mib("runner"), mib(*SERVERS)


def machine_s() -> float:
    """CPU that this machine has spent, over all cores: user, nice, system, interrupts, and
    what its host gave to others."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return round(sum(float(fields[column]) for column in (1, 2, 3, 6, 7, 8)) / TICKS, 2)


def write(samples: Iterable[Sample], path: Path) -> None:
    with path.open("w", newline="") as file:
        lines = csv.DictWriter(file, [field.name for field in fields(Sample)])
        lines.writeheader()
        lines.writerows(asdict(sample) for sample in samples)
