"""Samples of a running service: memory of each process and of both Redis servers, and its load.

Invariant: a sample is a few numbers; what is kept of a measurement grows by one line a sample.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import msgspec
from redis import Redis

from benchmarks.measuring import private_kib, pss_kib
from benchmarks.stages import PlateauStage
from benchmarks.visitors import Visitors


@dataclass(frozen=True, slots=True)
class Sample:
    """Sizes in MiB, PSS where nothing else is said; counts since the start. The first worker is
    the older one; `private` is what the workers share with nobody."""

    at_s: float
    workers: float
    first_worker: float
    second_worker: float
    private: float
    runner: float
    all_but_redis: float
    streams: float
    cache: float
    open: int
    visits: int
    events: int
    errors: int


class Sampler:
    """Of one service, whose processes may come and go."""

    def __init__(self, stage: PlateauStage, visitors: Visitors) -> None:
        self._stage = stage
        self._visitors = visitors
        self._streams = Redis.from_url(stage.service.streams_url, protocol=2)
        self._cache = Redis.from_url(stage.service.cache_url, protocol=2)

    def take(self, at_s: float) -> Sample | None:
        """None where a process went away meanwhile."""
        try:
            return self._take(at_s)
        except (FileNotFoundError, ProcessLookupError):
            return None

    def _take(self, at_s: float) -> Sample:
        tree = self._stage.service.tree()
        # Only the Redis servers are not of Python: theirs is `used_memory`.
        pss = {pid: pss_kib([pid]) for pid, title in tree.items() if "[plateau " not in title}
        workers = sorted(pid for pid, title in tree.items() if "gunicorn: worker" in title)
        each = [_mib(pss[pid]) for pid in workers] + [0.0, 0.0]
        tally = self._visitors.tally
        return Sample(
            at_s=round(at_s, 2),
            workers=_mib(sum(pss[pid] for pid in workers)),
            first_worker=each[0],
            second_worker=each[1],
            private=_mib(private_kib(workers)),
            runner=_mib(sum(pss[pid] for pid in tree if "plateau: runner" in tree[pid])),
            all_but_redis=_mib(sum(pss.values())),
            streams=_used_mib(self._streams),
            cache=_used_mib(self._cache),
            open=self._visitors.open,
            visits=tally.visits.total(),
            events=self._visitors.events,
            errors=tally.errors.total(),
        )

    def close(self) -> None:
        self._streams.close()
        self._cache.close()


def _used_mib(redis: Redis) -> float:
    info: Any = redis.info("memory")
    return round(int(info["used_memory"]) / 1024**2, 3)


def _mib(kib: int) -> float:
    return round(kib / 1024, 3)


def write(samples: Iterable[Sample], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        lines = csv.DictWriter(file, [field.name for field in fields(Sample)])
        lines.writeheader()
        lines.writerows(asdict(sample) for sample in samples)


def read(path: Path) -> list[Sample]:
    with path.open(newline="") as file:
        return [msgspec.convert(line, Sample, strict=False) for line in csv.DictReader(file)]
