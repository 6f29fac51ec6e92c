"""The whole picture, for `/api/admin/metrics`, the ops page and `plateau top`.

Invariant: a figure that cannot be had is null and its section says why; the names are part of
the contract: `jq .memory`, `.cache` and `.sse` give what they say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plateau_sse.ops import cgroup, process
from plateau_sse.ops.advice import advise
from plateau_sse.ops.hosts import hosts_of
from plateau_sse.ops.watch import Seen
from plateau_sse.settings import Settings
from plateau_sse.store.figures.by_agent import PREFIX
from plateau_sse.store.figures.stats import summed
from plateau_sse.store.figures.tally import BUCKETS, CLOSED_BY, DEATHS, DIALECTS, NAMES
from plateau_sse.store.figures.workers import SILENT_S, Figures

# Of a stream: the promise.
ENTRIES_MOST = 100
_SERVERS = ("redis", "valkey")
# Of a process: what only processes beside it can make use of.
_INWARD = ("space", "born")

Section = dict[str, Any]
# Of a counter's name: its value over all hosts, None where the store does not say.
Counted = Callable[[str], int | None]


def overview(seen: Seen, settings: Settings, host: str) -> Section:
    """`host` is the one whose memory is summed up; processes are shown of all."""
    counted: Counted = _unknown if seen.depth is None else summed(seen.by_host).__getitem__
    picture: Section = {
        "memory": _memory(seen, settings, host),
        "cache": _cache(seen, counted),
        "sse": _sse(seen, counted),
        "runs": _runs(seen, counted),
        "redis": {"streams": _server(seen.streams), "cache": _server(seen.cache)},
        "workers": _workers(seen, counted),
        "lately": {"seconds": round(seen.lately_s, 1), **_moved(seen.lately)},
    }
    picture["hosts"] = hosts_of(picture["memory"]["processes"], picture["workers"]["processes"])
    picture["advice"] = advise(picture, settings)
    return picture


def _unknown(_: str) -> None:
    return None


def _memory(seen: Seen, settings: Settings, host: str) -> Section:
    rows = [_row(worker, worker["role"], worker["pid"], "") for worker in seen.workers]
    # Each of its workers tells of a master: the one who last did is right.
    masters = {
        (worker["host"], worker["master"]): worker
        for worker in sorted(seen.workers, key=lambda it: -float(it["age_s"]))
        if worker.get("master")
    }
    rows += [_row(worker, "master", worker["master"], "master_") for worker in masters.values()]
    # One server for both roles is one process.
    found = {
        int(server["process_id"] or 0): role
        for role, server in (("cache", seen.cache), ("streams", seen.streams))
        if isinstance(server, dict)
    }
    for pid, role in found.items():
        if pid and _is_server(pid):
            pss, rss = process.memory(pid)
            row = {"role": f"redis-{role}", "host": host, "pid": pid}
            rows.append({**row, "pss_bytes": pss, "rss_bytes": rss})
    here = [row for row in rows if row["host"] == host]
    used, limit = cgroup.memory()
    # Without those who say what they use it would be the sum of the rest.
    total = sum(row["pss_bytes"] for row in here) if seen.workers else None
    return {
        "total_bytes": total,
        "total_mb": total and round(total / 1024**2, 1),
        "rss_bytes": total and sum(row["rss_bytes"] for row in here),
        "warn_mb": settings.memory_warn_mb,
        "cgroup": {"used_bytes": used, "limit_bytes": limit},
        "cgroups": _groups(seen),
        "host": host,
        "processes": rows,
    }


def _groups(seen: Seen) -> list[Section]:
    """What may kill the processes of a role on a host: of several groups the fullest. Of those
    with a limit."""
    found: dict[tuple[Any, Any], Section] = {}
    for worker in seen.workers:
        used, limit = int(worker.get("group_used", 0)), int(worker.get("group_limit", 0))
        whose = worker["host"], worker["role"]
        before = found.get(whose)
        if limit and (
            before is None or used / limit > before["used_bytes"] / before["limit_bytes"]
        ):
            row = {"host": whose[0], "role": whose[1]}
            found[whose] = {**row, "used_bytes": used, "limit_bytes": limit}
    return list(found.values())


def _row(worker: Figures, role: Any, pid: Any, of: str) -> Section:
    sizes = {"pss_bytes": worker.get(f"{of}pss", 0), "rss_bytes": worker.get(f"{of}rss", 0)}
    return {"role": role, "host": worker["host"], "pid": pid, **sizes}


def _is_server(pid: int) -> bool:
    """Whether that process is here, and is a Redis: one far away has its pid there."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return False
    return name.startswith(_SERVERS)


def _cache(seen: Seen, counted: Counted) -> Section:
    server = seen.cache if isinstance(seen.cache, dict) else None
    hits, misses = counted("cache_hits"), counted("cache_misses")
    asked = (hits or 0) + (misses or 0)
    return {
        "state": _state(seen.cache),
        # Two of each answer: itself, and the pointer of the run that left it.
        "items": server and server["keys"],
        "used_bytes": server and server["used_memory"],
        "max_bytes": server and server["maxmemory"],
        "policy": server and server["policy"],
        "hits": hits,
        "misses": misses,
        "hit_rate": round((hits or 0) / asked, 4) if asked else None,
        "evicted": server and server["evicted_keys"],
        "refused": counted("cache_refused"),
        "errors": counted("cache_errors"),
    }


def _sse(seen: Seen, counted: Counted) -> Section:
    web = [worker for worker in seen.workers if worker["role"] == "web"]
    lags = [float(worker.get("lag_ms", -1)) for worker in web]
    return {
        "open": _summed(web, "open"),
        "max_entries": ENTRIES_MOST,
        "oldest_s": max((float(worker.get("oldest_s", 0)) for worker in web), default=None),
        "lag_ms": max((lag for lag in lags if lag >= 0), default=None),
        "opened": counted("responses_opened"),
        "resumed": counted("responses_resumed"),
        "slow": counted("readers_slow"),
        "put_off": counted("streams_put_off"),
        "connections": _summed(web, "connections"),
        "closed": {reason: counted(f"responses_closed_{reason}") for reason in CLOSED_BY},
        "events": counted("events_delivered"),
        "events_per_s": _rate(seen, "events_delivered"),
        "dialects": {
            dialect: {
                "open": _summed(web, f"open_{dialect}"),
                "opened": counted(f"responses_opened_{dialect}"),
                "events": counted(f"events_delivered_{dialect}"),
            }
            for dialect in DIALECTS
        },
    }


def _summed(web: Sequence[Figures], name: str) -> int | None:
    """A worker that answers has told of itself, unless the store is away."""
    return sum(int(worker.get(name, 0)) for worker in web) if web else None


def _runs(seen: Seen, counted: Counted) -> Section:
    depth = seen.depth
    return {
        "waiting": depth and depth.waiting,
        "running": depth and depth.running,
        "runners": depth and depth.runners,
        "oldest_waiting_s": depth and round(depth.oldest_s, 1),
        "apart": seen.apart,
        "created": counted("runs_created"),
        "joined": counted("runs_joined"),
        "completed": counted("runs_completed"),
        "cancelled": counted("runs_cancelled"),
        "restarted": counted("runs_restarted"),
        "failed": _by_code(counted, "runs_failed_"),
        # Among them as `other`.
        "own_failures": dict(seen.own_failures),
        "refused": _by_code(counted, "runs_refused_"),
        "first_token_ms": quantiles(counted, "first_token"),
        "run_time_ms": quantiles(counted, "run_time"),
        "event_lag_ms": quantiles(counted, "event_lag"),
    }


def _by_code(counted: Counted, prefix: str) -> dict[str, int]:
    found = {
        name.removeprefix(prefix): counted(name) for name in NAMES if name.startswith(prefix)
    }
    return {code: n for code, n in found.items() if n}


def quantiles(counted: Counted, name: str) -> dict[str, float | None]:
    """The median and the 95th percentile of a histogram in milliseconds, read off its buckets;
    a value beyond the last bound is that bound, no values are None."""
    return {"p50": _quantile(counted, name, 0.5), "p95": _quantile(counted, name, 0.95)}


def _quantile(counted: Counted, name: str, share: float) -> float | None:
    bounds = BUCKETS[name]
    counts = [counted(f"{name}_{bucket}") or 0 for bucket in range(len(bounds) + 1)]
    wanted = share * sum(counts)
    if not wanted:
        return None
    below, least = 0, 0.0
    for count, most in zip(counts, bounds, strict=False):
        if count and below + count >= wanted:
            return round((least + (most - least) * (wanted - below) / count) * 1000, 1)
        below, least = below + count, most
    return least * 1000


def _server(server: dict[str, Any] | str | None) -> Section:
    if isinstance(server, dict):
        return {"state": "up", **server}
    return {"state": _state(server)}


def _state(server: dict[str, Any] | str | None) -> str:
    if isinstance(server, dict):
        return "up"
    return "not configured" if server is None else server


def _workers(seen: Seen, counted: Counted) -> Section:
    return {
        "restarts": counted("workers_died"),
        **{name: counted(name) for name in DEATHS},
        "processes": [
            {
                **{name: it for name, it in worker.items() if name not in _INWARD},
                "age_s": round(float(worker["age_s"]), 1),
                "silent": float(worker["age_s"]) > SILENT_S,
            }
            for worker in seen.workers
        ],
    }


def _rate(seen: Seen, name: str) -> float | None:
    return round(seen.lately[name] / seen.lately_s, 1) if seen.lately_s >= 1 else None


def _moved(lately: Counter[str]) -> dict[str, int]:
    """What has moved in the last minute; of histograms only their counts would say anything,
    and agents have their runs' ends there already."""
    others = (*(f"{name}_" for name in BUCKETS), PREFIX)
    return {name: n for name, n in sorted(lately.items()) if n and not name.startswith(others)}
