"""What a web worker may see, made by hand: a service that is well, and what differs from it.

Invariant: it goes through `overview`, so that a rule is tried on what it will be given.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from plateau_sse import __version__
from plateau_sse.ops.overview import overview
from plateau_sse.ops.watch import Seen
from plateau_sse.settings import Settings
from plateau_sse.store.figures.workers import Figures
from plateau_sse.store.queue.queue import Depth
from plateau_sse.store.redis.servers import SHOWN

HOST = "box"
MIB = 1024**2


def server(policy: str, **changed: Any) -> dict[str, Any]:
    """One that is well, as `servers.look` gives it."""
    figures: dict[str, Any] = dict.fromkeys(SHOWN, 0)
    found = {
        "version": "9.1.2",
        "policy": policy,
        "keys": 10,
        # Of nobody here.
        "process_id": 2**22 + 1,
        "aof_enabled": 1,
        **figures,
        "used_memory": 2 * MIB,
        "maxmemory": 64 * MIB,
    }
    return found | changed


def worker(role: str = "web", pid: int = 11, **changed: Any) -> Figures:
    """One that is well, as `Workers.all` gives it."""
    found: Figures = {
        "role": role,
        "host": HOST,
        "pid": pid,
        "started": 1_700_000_000,
        "pss": 20 * MIB,
        "rss": 40 * MIB,
        "cpu": 0.01,
        "age_s": 1.0,
        "version": __version__,
    }
    if role == "web":
        found |= {"master": 10, "master_pss": 18 * MIB, "master_rss": 40 * MIB}
        found |= {"open": 3, "open_native": 1, "open_chat": 2, "followed": 2, "oldest_s": 5}
        found |= {"connections": 5, "connections_most": 900}
        found |= {"connected": 1, "deaf": 0, "lag_ms": 0.7}
    else:
        found |= {"running": 1, "places": 32}
    return found | changed


def seen(**changed: Any) -> Seen:
    """A service of two workers and a runner that is well."""
    workers = [worker("runner", 13), worker(pid=11), worker(pid=12)]
    well = Seen(
        at=1000.0,
        streams=server("noeviction"),
        cache=server("allkeys-lru", maxmemory=10 * MIB),
        depth=Depth(0, 1, 1, 0.0),
        by_host={HOST: {"cache_hits": 90, "cache_misses": 10}},
        workers=workers,
        lately=Counter({"cache_hits": 90, "cache_misses": 10}),
        lately_s=60.0,
        apart={},
    )
    return well._replace(**changed)


def picture(seen_now: Seen, settings: Settings | None = None) -> dict[str, Any]:
    return overview(seen_now, settings or Settings(), HOST)
