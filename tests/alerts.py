"""What each alert is for: the fault that it must fire on, as series of our own exposition that
go another way than those of a service that is well.

Invariant: a fault changes only series that the service shows; one that it does not show fails.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from plateau_sse.ops.prometheus import exposition
from tests.pictures import HOST, picture, seen
from tests.scrapes import Series, parsed

# Longer than the longest window and the longest `for` together.
MINUTES = 75
# Of a service that is well: what happens in a minute.
HURRY = {
    "plateau_runs_completed_total": 100,
    "plateau_cache_hits_total": 300,
    "plateau_cache_misses_total": 100,
    "plateau_problems_total": 0,
}
MIB = 1024**2


class Change(NamedTuple):
    """All series of that name with these labels are `at` first, and `by` more each minute."""

    name: str
    at: float = 0
    by: float = 0
    labels: Mapping[str, str] = {}
    le_over: float = 0

    def concerns(self, series: Series) -> bool:
        if series.name != self.name or not set(self.labels.items()) <= series.labels:
            return False
        return not self.le_over or float(series.label("le")) > self.le_over

    @property
    def values(self) -> str:
        return f"{self.at:g}+{self.by:g}x{MINUTES}"


def _is(name: str, at: float, **labels: str) -> Change:
    return Change(name, at, 0, labels)


def _grows(name: str, by: float, **labels: str) -> Change:
    return Change(name, 0, by, labels)


STREAMS_FULL = "plateau_streams_full_ratio"
FIRST_TOKEN = "plateau_time_to_first_token_seconds_bucket"
LAG = "plateau_event_lag_seconds_bucket"

FAULTS: dict[str, list[Change]] = {
    "PlateauStreamsDown": [_is("plateau_redis_up", 0, role="streams")],
    "PlateauCacheDown": [_is("plateau_redis_up", 0, role="cache")],
    "PlateauRedisWrong": [_is("plateau_redis_wrong", 1, role="streams")],
    "PlateauStreamsEvict": [_grows("plateau_redis_evicted_keys_total", 5, role="streams")],
    "PlateauNoRunner": [_is("plateau_runners", 0)],
    "PlateauDeaf": [_is("plateau_workers_deaf", 1)],
    "PlateauSilent": [_is("plateau_processes_silent", 1, role="runner")],
    "PlateauProcessesDie": [_grows("plateau_process_ends_total", 1, how="workers_died")],
    "PlateauStreamsFilling": [_is(STREAMS_FULL, 0.6)],
    "PlateauStreamsFull": [_is(STREAMS_FULL, 0.9)],
    "PlateauMemory": [_is("plateau_memory_pss_bytes", 500 * MIB, role="web")],
    "PlateauCgroup": [_is("plateau_cgroup_used_bytes", 500 * MIB, role="runner")],
    "PlateauQueueWaits": [_is("plateau_queue_oldest_seconds", 30)],
    "PlateauQueueFull": [_grows("plateau_runs_refused_total", 5, code="queue_full")],
    "PlateauRunsFail": [_grows("plateau_runs_failed_total", 20, code="agent_error")],
    "PlateauModelFails": [_grows("plateau_runs_failed_total", 10, code="upstream_timeout")],
    "PlateauFirstTokenSlow": [Change(FIRST_TOKEN, by=60, le_over=10)],
    "PlateauLag": [Change(LAG, by=60, le_over=0.25)],
    "PlateauConnections": [_is("plateau_connections", 1750)],
    "PlateauTurnedAway": [_grows("plateau_streams_put_off_total", 10)],
    "PlateauSlowReaders": [_grows("plateau_readers_slow_total", 30)],
    "PlateauCacheSmall": [
        _grows("plateau_cache_hits_total", 10),
        _grows("plateau_redis_evicted_keys_total", 50, role="cache"),
    ],
    "PlateauCpu": [_is("plateau_processes_cpu_ratio", 1.9, role="web")],
    "PlateauInternalErrors": [_grows("plateau_problems_total", 1, code="internal_error")],
}
# What a service that is well does all the time, and what comes near a fault without being one.
NO_FAULTS: dict[str, list[Change]] = {
    "well": [],
    "a deploy": [_grows("plateau_process_ends_total", 4, how="workers_recycled")],
    "a full cache": [_grows("plateau_redis_evicted_keys_total", 50, role="cache")],
    "no lookups": [
        _grows("plateau_cache_hits_total", 0),
        _grows("plateau_cache_misses_total", 0),
    ],
    "an owner's share": [_grows("plateau_runs_refused_total", 50, code="owner_limit")],
    "bad requests": [_grows("plateau_problems_total", 50, code="bad_json")],
    "some fail": [_grows("plateau_runs_failed_total", 4, code="agent_error")],
}


def shown() -> list[Series]:
    """All series of a service that is well, and of its cgroup, wherever this runs."""
    now = seen()
    memory = picture(now)["memory"]
    memory["cgroups"] = [
        {"host": HOST, "role": role, "used_bytes": 100 * MIB, "limit_bytes": 512 * MIB}
        for role in ("web", "runner")
    ]
    scrape = parsed(exposition(now, memory, 64 * MIB).decode())
    _LEVELS.update(scrape.values)
    return list(scrape.values)


_LEVELS: dict[Series, float] = {}


def series_of(changes: list[Change], instance: str = "a:8000") -> Iterator[dict[str, str]]:
    """As promtool reads them; AssertionError for a change that concerns nothing."""
    everything = shown()
    for change in changes:
        assert any(map(change.concerns, everything)), f"nothing is shown that is {change}"
    usual = [Change(name, 0, by) for name, by in HURRY.items()]
    for series in everything:
        level = Change(series.name, _LEVELS[series])
        found = [it for it in (level, *usual, *changes) if it.concerns(series)]
        labels = {**dict(series.labels), "job": "plateau", "instance": instance}
        yield {"series": _written(series.name, labels), "values": found[-1].values}
    up = _written("up", {"job": "plateau", "instance": instance})
    yield {"series": up, "values": f"1x{MINUTES}"}


def _written(name: str, labels: Mapping[str, str]) -> str:
    inside = ",".join(f"{key}={json.dumps(value)}" for key, value in sorted(labels.items()))
    return f"{name}{{{inside}}}"


__all__ = ["FAULTS", "HOST", "MINUTES", "NO_FAULTS", "Change", "series_of"]
