"""The whole picture: its sums, its quantiles, and what it says of what it does not know."""

from __future__ import annotations

import asyncio
import os
from collections import Counter

import pytest

from plateau_sse.ops import process
from plateau_sse.ops.overview import quantiles
from plateau_sse.store.figures.tally import BUCKETS, Row
from plateau_sse.store.figures.workers import Workers
from plateau_sse.store.redis.connections import connect
from tests.pictures import HOST, MIB, picture, seen, server, worker


def observed(name: str, *seconds: float) -> Counter[str]:
    row = Row()
    for one in seconds:
        row.observe(name, one)
    batch = row.batch()
    return Counter(batch.counts if batch else {})


@pytest.mark.parametrize(
    ("seconds", "p50", "p95"),
    [
        ([], None, None),
        # One value is somewhere in its bucket, which is 5 to 10 ms.
        ([0.007], 7.5, 9.8),
        # All below the first bound, and all beyond the last.
        ([0.0001] * 10, 0.5, 0.95),
        ([77.0] * 10, 5000.0, 5000.0),
        # On the bounds: 1 to 2 ms, and 2 to 5.
        ([0.002] * 9 + [0.005], 1.6, 3.5),
        # A bucket that is empty in between.
        ([0.0005] * 50 + [0.2] * 50, 1.0, 235.0),
    ],
)
def test_quantiles(seconds: list[float], p50: float | None, p95: float | None) -> None:
    found = quantiles(observed("event_lag", *seconds).__getitem__, "event_lag")
    if p50 is None:
        assert found == {"p50": None, "p95": None}
    else:
        # Tenths of a millisecond.
        assert found == pytest.approx({"p50": p50, "p95": p95}, abs=0.051)


@pytest.mark.parametrize("name", BUCKETS)
def test_a_quantile_is_within_its_bucket(name: str) -> None:
    """Of whatever was observed: between the bounds around the true value, never falling."""
    bounds = [0.0, *BUCKETS[name]]
    for value in [bound * 0.99 for bound in BUCKETS[name]]:
        found = quantiles(observed(name, *[value] * 100).__getitem__, name)
        above = next(at for at, bound in enumerate(bounds) if value <= bound)
        assert found["p50"] is not None and found["p95"] is not None
        assert bounds[above - 1] * 1000 <= found["p50"] <= found["p95"] <= bounds[above] * 1000


def test_what_one_host_uses_is_summed_up_and_all_are_shown() -> None:
    other = [worker(pid=91, host="other"), worker("runner", 92, host="other")]
    now = seen(workers=[worker("runner", 13), worker(pid=11), worker(pid=12), *other])
    memory = picture(now)["memory"]
    here = [row for row in memory["processes"] if row["host"] == HOST]
    # Two workers, a runner, and their master, once.
    assert sorted(row["role"] for row in here) == ["master", "runner", "web", "web"]
    assert len(memory["processes"]) == len(here) + 3
    assert memory["total_bytes"] == sum(row["pss_bytes"] for row in here) == (3 * 20 + 18) * MIB
    assert memory["total_mb"] == 78.0
    assert memory["rss_bytes"] == sum(row["rss_bytes"] for row in here)
    assert (memory["host"], memory["warn_mb"]) == (HOST, 400)


def test_of_a_master_the_latest_word_counts() -> None:
    now = seen(
        workers=[
            worker(pid=11, age_s=0.5, master_pss=20 * MIB),
            worker(pid=12, age_s=4.0, master_pss=90 * MIB),
        ]
    )
    (master,) = [row for row in picture(now)["memory"]["processes"] if row["role"] == "master"]
    assert master["pss_bytes"] == 20 * MIB


def test_one_server_for_both_roles_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plateau_sse.ops.overview._is_server", lambda pid: True)
    both = server("noeviction", process_id=os.getpid())
    memory = picture(seen(streams=both, cache=both))["memory"]
    rows = [row for row in memory["processes"] if row["role"].startswith("redis")]
    assert [row["role"] for row in rows] == ["redis-streams"]
    assert rows[0]["pss_bytes"] == pytest.approx(process.memory()[0], rel=0.2)


def test_a_server_far_away_uses_nothing_here() -> None:
    """Its pid may be that of something else here; this process is no Redis."""
    now = seen(streams=server("noeviction", process_id=os.getpid()))
    roles = {row["role"] for row in picture(now)["memory"]["processes"]}
    assert roles == {"master", "runner", "web"}


def test_hosts_add_up() -> None:
    by_host = {
        HOST: {"cache_hits": 3, "cache_misses": 1, "runs_failed_timeout": 2, "workers_died": 1},
        "other": {"cache_hits": 4, "responses_closed_left": 5, "workers_died": 2},
    }
    found = picture(seen(by_host=by_host))
    assert (found["cache"]["hits"], found["cache"]["hit_rate"]) == (7, 0.875)
    assert found["runs"]["failed"] == {"timeout": 2}
    assert found["sse"]["closed"]["left"] == 5
    assert (found["workers"]["restarts"], found["workers"]["workers_died"]) == (3, 3)
    assert found["sse"]["open"] == 6


def test_what_nobody_knows_is_null_and_not_nothing() -> None:
    away = seen(
        streams="away", cache="away too", depth=None, by_host={}, workers=[], lately=Counter()
    )
    found = picture(away._replace(lately_s=0.0))
    assert found["redis"] == {"streams": {"state": "away"}, "cache": {"state": "away too"}}
    for section, names in {
        "cache": ("items", "used_bytes", "hits", "misses", "hit_rate", "evicted", "refused"),
        "sse": ("open", "oldest_s", "lag_ms", "opened", "events", "events_per_s"),
        "runs": ("waiting", "running", "runners", "oldest_waiting_s", "created", "completed"),
        "memory": ("total_bytes", "total_mb", "rss_bytes"),
        "workers": ("restarts", "workers_died"),
    }.items():
        assert [found[section][name] for name in names] == [None] * len(names), section
    assert found["cache"]["state"] == "away too"
    assert found["runs"]["event_lag_ms"] == {"p50": None, "p95": None}


def test_a_host_may_have_any_name(streams_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's is twelve hexadecimal digits, which may look like a number."""

    async def reported(name: str) -> object:
        redis = connect(streams_url, "test")
        monkeypatch.setattr("socket.gethostname", lambda: name)
        workers = Workers(redis, "web")
        await workers.report({"open": 1, "cpu": 0.25})
        (report,) = await workers.all()
        await workers.leave()
        assert await workers.all() == []
        await redis.aclose()
        assert (report["open"], report["cpu"], report["pid"]) == (1, 0.25, os.getpid())
        return report["host"]

    for name in ("480911234567", "12e456789012", "nan", "box"):
        assert asyncio.run(reported(name)) == name
