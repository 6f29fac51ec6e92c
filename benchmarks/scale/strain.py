"""What a service is put to for a while: CPU, memory, lag, and which of its bounds is nearest.

Invariant: a share is of what that resource has at most; of processes those count that lived
through the whole time, and of several of a kind the busiest.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Mapping
from statistics import quantiles
from typing import Any, NamedTuple

import httpx

from benchmarks.measuring import cpu_s, pss_kib
from benchmarks.stages import PlateauStage

TOKEN = "scripts-bench-scale"
KINDS = {
    "gunicorn: worker": "web worker",
    "plateau: runner": "runner",
    "[plateau streams]": "streams server",
    "[plateau cache]": "cache server",
}


class Strain(NamedTuple):
    """`memory` in MiB and `cpu` in shares of a core are by kind; `shares` of what there is at
    most, by its name. Lags in ms: None where nothing was heard."""

    memory: Mapping[str, float]
    cpu: Mapping[str, float]
    shares: Mapping[str, float]
    lag_p50_ms: float | None
    lag_p95_ms: float | None
    running: int

    @property
    def everything_mib(self) -> float:
        return sum(self.memory.values())

    def nearest(self) -> str:
        """The three bounds that are nearest, the first of which gives first."""
        first = sorted(self.shares.items(), key=lambda it: -it[1])[:3]
        return ", ".join(f"{name} {share:.0%}" for name, share in first)

    def __str__(self) -> str:
        lag = "none heard"
        if self.lag_p50_ms is not None and self.lag_p95_ms is not None:
            lag = f"{self.lag_p50_ms:.0f} and {self.lag_p95_ms:.0f} ms"
        cpu = ", ".join(f"{kind} {share:.0%}" for kind, share in self.cpu.items())
        return f"lag p50 and p95 {lag}; CPU {cpu}; nearest: {self.nearest()}"


class Straining:
    """Of the time between its making and `ended`."""

    def __init__(
        self, stage: PlateauStage, lags_ms: array[float], more: Callable[[], list[int]]
    ) -> None:
        """`more` are processes of the service beside the stage's own; `lags_ms` is emptied."""
        self._stage = stage
        self._lags_ms = lags_ms
        self._more = more
        self._loop = asyncio.get_running_loop()
        del lags_ms[:]
        self._began = self._loop.time()
        self._before = self._cpu()

    def _kinds(self) -> dict[int, str]:
        found = dict.fromkeys(self._more(), "runner")
        for pid, title in self._stage.service.tree().items():
            kind = next((kind for part, kind in KINDS.items() if part in title), "master")
            found[pid] = kind
        return found

    def _cpu(self) -> dict[int, float]:
        return {pid: cpu_s([pid]) for pid in self._kinds()}

    async def ended(self) -> Strain:
        after, kinds = self._cpu(), self._kinds()
        passed_s = self._loop.time() - self._began
        lags = list(self._lags_ms)
        cpu: dict[str, float] = {}
        memory: dict[str, float] = {}
        for pid, kind in kinds.items():
            memory[kind] = memory.get(kind, 0.0) + pss_kib([pid]) / 1024
            if pid in self._before and kind != "master":
                share = (after.get(pid, 0.0) - self._before[pid]) / passed_s
                cpu[kind] = max(cpu.get(kind, 0.0), share)
        picture = await looked(self._stage)
        shares = {f"a {kind}'s CPU": share for kind, share in cpu.items()}
        shares |= _shares(picture)
        cut = quantiles(lags, n=20) if len(lags) > 1 else [None] * 19
        return Strain(
            memory,
            cpu,
            shares,
            cut[9],
            cut[18],
            int(picture["runs"]["running"] or 0),
        )


async def looked(stage: PlateauStage) -> dict[str, Any]:
    """What the service says of itself."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        answer = await client.get(f"{stage.service.url}/api/admin/metrics", headers=headers)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _shares(picture: dict[str, Any]) -> dict[str, float]:
    web = [one for one in picture["workers"]["processes"] if one["role"] == "web"]
    files = [one["connections"] / one["connections_most"] for one in web]
    found = {"connections of a worker": max(files, default=0.0)}
    memory, streams = picture["memory"], picture["redis"]["streams"]
    if streams["state"] == "up":
        found["memory of the streams"] = streams["used_memory"] / streams["maxmemory"]
    if memory["total_mb"]:
        found["MEMORY_WARN_MB"] = memory["total_mb"] / memory["warn_mb"]
    return found
