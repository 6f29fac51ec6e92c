"""The whole picture, for `/api/admin/metrics`, the ops page and `plateau top`.

Invariant: a figure that cannot be had is null and its section says why; the names are part of
the contract: `jq .memory`, `.cache` and `.sse` give what they say.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from service.ops import process
from service.ops.advice import advise
from service.ops.watch import Seen
from service.settings import Settings
from service.store.stats import summed
from service.store.tally import BUCKETS, CLOSED_BY, DEATHS, NAMES
from service.store.workers import SILENT_S, Figures

# Of a stream: the promise.
ENTRIES_MOST = 100
_SERVERS = ("redis", "valkey")

Section = dict[str, Any]


def overview(seen: Seen, settings: Settings, host: str) -> Section:
    """`host` is the one whose memory is summed up; processes are shown of all."""
    total = summed(seen.by_host)
    picture: Section = {
        "memory": _memory(seen, settings, host),
        "cache": _cache(seen, total),
        "sse": _sse(seen, total),
        "runs": _runs(seen, total),
        "redis": {"streams": _server(seen.streams), "cache": _server(seen.cache)},
        "workers": _workers(seen),
        "lately": {"seconds": round(seen.lately_s, 1), **_moved(seen.lately)},
    }
    picture["advice"] = advise(picture, settings)
    return picture


def _memory(seen: Seen, settings: Settings, host: str) -> Section:
    rows: list[Section] = []
    masters: dict[tuple[Any, Any], Section] = {}
    for worker in seen.workers:
        at = {"host": worker["host"]}
        rows.append({"role": worker["role"], **at, "pid": worker["pid"], **_sizes(worker)})
        if worker["role"] == "web" and worker.get("master_pss"):
            masters[worker["host"], worker["master"]] = {
                "role": "master",
                **at,
                "pid": worker["master"],
                **_sizes(worker, "master_"),
            }
    rows += masters.values()
    for role, server in (("streams", seen.streams), ("cache", seen.cache)):
        pid = server.get("process_id") if isinstance(server, dict) else None
        if pid and _is_server(int(pid)):
            pss, rss = process.memory(int(pid))
            row = {"role": f"redis-{role}", "host": host, "pid": int(pid)}
            rows.append({**row, "pss_bytes": pss, "rss_bytes": rss})
    here = [row for row in rows if row["host"] == host]
    used, limit = process.cgroup()
    total = sum(row["pss_bytes"] for row in here)
    return {
        "total_bytes": total,
        "total_mb": round(total / 1024**2, 1),
        "rss_bytes": sum(row["rss_bytes"] for row in here),
        "warn_mb": settings.memory_warn_mb,
        "cgroup": {"used_bytes": used, "limit_bytes": limit},
        "host": host,
        "processes": rows,
    }


def _sizes(worker: Figures, of: str = "") -> Section:
    return {"pss_bytes": worker.get(f"{of}pss", 0), "rss_bytes": worker.get(f"{of}rss", 0)}


def _is_server(pid: int) -> bool:
    """Whether that process is here, and is a Redis: one far away has its pid there."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return False
    return name.startswith(_SERVERS)


def _cache(seen: Seen, total: Counter[str]) -> Section:
    server = seen.cache if isinstance(seen.cache, dict) else None
    asked = total["cache_hits"] + total["cache_misses"]
    return {
        "state": _state(seen.cache),
        "items": server and server["keys"],
        "used_bytes": server and server["used_memory"],
        "max_bytes": server and server["maxmemory"],
        "policy": server and server["policy"],
        "hits": total["cache_hits"],
        "misses": total["cache_misses"],
        "hit_rate": round(total["cache_hits"] / asked, 4) if asked else None,
        "evicted": server and server["evicted_keys"],
        "refused": total["cache_refused"],
        "errors": total["cache_errors"],
    }


def _sse(seen: Seen, total: Counter[str]) -> Section:
    web = [worker for worker in seen.workers if worker["role"] == "web"]
    lags = [float(worker.get("lag_ms", -1)) for worker in web]
    return {
        "open": sum(int(worker.get("open", 0)) for worker in web),
        "max_entries": ENTRIES_MOST,
        "oldest_s": max((float(worker.get("oldest_s", 0)) for worker in web), default=0.0),
        "lag_ms": max((lag for lag in lags if lag >= 0), default=None),
        "opened": total["responses_opened"],
        "resumed": total["responses_resumed"],
        "snapshots": total["snapshots"],
        "slow": total["readers_slow"],
        "closed": {reason: total[f"responses_closed_{reason}"] for reason in CLOSED_BY},
        "events": total["events_delivered"],
        "events_per_s": _rate(seen, "events_delivered"),
    }


def _runs(seen: Seen, total: Counter[str]) -> Section:
    depth = seen.depth
    return {
        "waiting": depth and depth.waiting,
        "running": depth and depth.running,
        "runners": depth and depth.runners,
        "oldest_waiting_s": depth and round(depth.oldest_s, 1),
        "created": total["runs_created"],
        "joined": total["runs_joined"],
        "completed": total["runs_completed"],
        "cancelled": total["runs_cancelled"],
        "restarted": total["runs_restarted"],
        "failed": _by_code(total, "runs_failed_"),
        "refused": _by_code(total, "runs_refused_"),
        "first_token_ms": _quantiles(total, "first_token"),
        "run_time_ms": _quantiles(total, "run_time"),
        "event_lag_ms": _quantiles(total, "event_lag"),
    }


def _by_code(total: Counter[str], prefix: str) -> dict[str, int]:
    return {
        name.removeprefix(prefix): total[name]
        for name in NAMES
        if name.startswith(prefix) and total[name]
    }


def _quantiles(total: Counter[str], name: str) -> dict[str, float | None]:
    """The median and the 95th percentile, read off the buckets."""
    return {"p50": _quantile(total, name, 0.5), "p95": _quantile(total, name, 0.95)}


def _quantile(total: Counter[str], name: str, share: float) -> float | None:
    bounds = BUCKETS[name]
    counts = [total[f"{name}_{bucket}"] for bucket in range(len(bounds) + 1)]
    wanted = share * sum(counts)
    if not wanted:
        return None
    below, least = 0.0, 0.0
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


def _workers(seen: Seen) -> Section:
    trees = {(worker["host"], worker.get("master")): worker for worker in seen.workers}
    deaths = {
        name: sum(int(worker.get(name, 0)) for worker in trees.values()) for name in DEATHS
    }
    return {
        "restarts": deaths["workers_died"],
        **deaths,
        "processes": [
            {
                **{name: value for name, value in worker.items() if name not in DEATHS},
                "age_s": round(float(worker["age_s"]), 1),
                "silent": float(worker["age_s"]) > SILENT_S,
            }
            for worker in seen.workers
        ],
    }


def _rate(seen: Seen, name: str) -> float | None:
    return round(seen.lately[name] / seen.lately_s, 1) if seen.lately_s >= 1 else None


def _moved(lately: Counter[str]) -> dict[str, int]:
    """What has moved in the last minute; of histograms only their counts would say anything."""
    histograms = tuple(f"{name}_" for name in BUCKETS)
    return {
        name: n for name, n in sorted(lately.items()) if n and not name.startswith(histograms)
    }
