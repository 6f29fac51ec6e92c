"""The exposition for Prometheus.

Invariant: counters are the hosts' own, that survive their processes: whichever worker answers,
none ever falls. Labels come from sets that are bounded: hosts, error codes, reasons, roles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from service import __version__
from service.ops.watch import Seen
from service.store.tally import BUCKETS, DEATHS, NAMES

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Counter(NamedTuple):
    """Of one of `tally.NAMES`, or of all that begin with `name`, told apart by `label`."""

    name: str
    help: str
    label: str = ""


COUNTERS = (
    Counter("cache_hits", "Answers served from the cache"),
    Counter("cache_misses", "Lookups that found no answer"),
    Counter("cache_refused", "Answers too large to cache"),
    Counter("cache_errors", "Lookups that the cache did not answer"),
    Counter("conversations_evicted", "Conversations that made room for others"),
    Counter("runs_created", "Runs taken on"),
    Counter("runs_joined", "Callers who joined a run that was on"),
    Counter("runs_completed", "Runs that completed"),
    Counter("runs_cancelled", "Runs that were cancelled"),
    Counter("runs_restarted", "Attempts begun after a runner was lost"),
    Counter("runs_failed", "Runs that failed", "code"),
    Counter("runs_refused", "Runs that were not taken on", "code"),
    Counter("outputs_too_large", "Answers that passed 256 KiB"),
    Counter("responses_opened", "Event streams opened"),
    Counter("responses_resumed", "Event streams opened with the id of a last event"),
    Counter("responses_closed", "Event streams that ended", "reason"),
    Counter("events_delivered", "Events pushed to readers"),
    Counter("snapshots", "Snapshots sent to readers"),
    Counter("readers_slow", "Readers who left the live path since they did not read"),
    Counter("feeds_repaired", "Followed runs read anew since a message was missing"),
    Counter("feeds_resubscribed", "Followed runs subscribed to anew"),
    Counter("swept_consumers", "Runners' names swept from the queue"),
    Counter("swept_entries", "Entries swept that stood for no run"),
)
HISTOGRAMS = {
    "first_token": ("time_to_first_token_seconds", "From asking to the first text"),
    "run_time": ("run_duration_seconds", "From a run's claim to its end"),
    "event_lag": ("event_lag_seconds", "From writing an event to pushing it"),
}
# Of a server: its figure here, and whether it only grows.
SERVER = {
    "used_memory": ("redis_used_memory_bytes", "Memory in use", False),
    "used_memory_rss": ("redis_rss_bytes", "Memory as the kernel accounts it", False),
    "maxmemory": ("redis_max_memory_bytes", "The bound, 0 for none", False),
    "mem_fragmentation_ratio": ("redis_fragmentation_ratio", "RSS over memory in use", False),
    "mem_clients_normal": ("redis_clients_memory_bytes", "Buffers of clients", False),
    "connected_clients": ("redis_clients", "Connections", False),
    "blocked_clients": ("redis_clients_blocked", "Connections that wait", False),
    "keys": ("redis_keys", "Keys", False),
    "evicted_keys": ("redis_evicted_keys", "Keys evicted", True),
    "evicted_clients": ("redis_evicted_clients", "Clients cut for their buffers", True),
    "expired_keys": ("redis_expired_keys", "Keys expired", True),
}


def exposition(seen: Seen, memory: dict[str, Any]) -> bytes:
    """The text format; `memory` is that section of the overview."""
    return generate_latest(_Collected([*_metrics(seen, memory)]))


class _Collected:
    """As much of a registry as `generate_latest` asks of it."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _metrics(seen: Seen, memory: dict[str, Any]) -> Iterator[Metric]:
    about = GaugeMetricFamily("plateau_info", "What answers", labels=["version"])
    about.add_metric([__version__], 1)
    yield about
    for counter in COUNTERS:
        yield _counter(counter, seen.by_host)
    for name, (title, text) in HISTOGRAMS.items():
        yield _histogram(name, f"plateau_{title}", text, seen.by_host)
    yield from _workers(seen)
    yield from _servers(seen)
    if seen.depth is not None:
        depth = seen.depth
        for title, text, value in (
            ("runs_waiting", "Runs that wait for a runner", depth.waiting),
            ("runs_running", "Runs that are executed", depth.running),
            ("runners", "Living runners", depth.runners),
            ("queue_oldest_seconds", "How long the first in line has waited", depth.oldest_s),
        ):
            yield GaugeMetricFamily(f"plateau_{title}", text, value=value)
    yield from _memory(memory)


def _counter(counter: Counter, by_host: dict[str, dict[str, int]]) -> Metric:
    labels = ["host", *([counter.label] if counter.label else [])]
    family = CounterMetricFamily(f"plateau_{counter.name}", counter.help, labels=labels)
    prefix = f"{counter.name}_"
    for host, counts in by_host.items():
        if not counter.label:
            family.add_metric([host], counts.get(counter.name, 0))
            continue
        for name in NAMES:
            if name.startswith(prefix):
                family.add_metric([host, name.removeprefix(prefix)], counts.get(name, 0))
    return family


def _histogram(
    name: str, title: str, text: str, by_host: dict[str, dict[str, int]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(title, text, labels=["host"])
    for host, counts in by_host.items():
        buckets, so_far = [], 0
        for cell, bound in enumerate((*BUCKETS[name], math.inf)):
            so_far += counts.get(f"{name}_{cell}", 0)
            buckets.append(("+Inf" if bound == math.inf else f"{bound:g}", so_far))
        family.add_metric([host], buckets, counts.get(f"{name}_us", 0) / 1e6)
    return family


def _workers(seen: Seen) -> Iterator[Metric]:
    open_ = GaugeMetricFamily("plateau_responses_open", "Event streams open", labels=["host"])
    deaths = CounterMetricFamily(
        "plateau_process_ends", "Processes that ended, by how", labels=["host", "how"]
    )
    by_host: dict[str, int] = {}
    trees: dict[str, Any] = {}
    for worker in seen.workers:
        host = str(worker["host"])
        by_host[host] = by_host.get(host, 0) + int(worker.get("open", 0))
        if worker["role"] == "web":
            trees[host] = worker
    for host, count in by_host.items():
        open_.add_metric([host], count)
    for host, worker in trees.items():
        for name in DEATHS:
            deaths.add_metric([host, name], int(worker.get(name, 0)))
    yield open_
    yield deaths


def _servers(seen: Seen) -> Iterator[Metric]:
    found = {"streams": seen.streams, "cache": seen.cache}
    up = GaugeMetricFamily("plateau_redis_up", "Whether it answers", labels=["role"])
    for role, server in found.items():
        if server is not None:
            up.add_metric([role], float(isinstance(server, dict)))
    yield up
    for name, (title, text, grows) in SERVER.items():
        kind = CounterMetricFamily if grows else GaugeMetricFamily
        family = kind(f"plateau_{title}", text, labels=["role"])
        for role, server in found.items():
            if isinstance(server, dict) and server.get(name) is not None:
                family.add_metric([role], float(server[name]))
        yield family


def _memory(memory: dict[str, Any]) -> Iterator[Metric]:
    pss = GaugeMetricFamily(
        "plateau_memory_pss_bytes", "Proportional set size", labels=["host", "role"]
    )
    by_role: dict[tuple[str, str], int] = {}
    for row in memory["processes"]:
        at = (str(row["host"]), str(row["role"]))
        by_role[at] = by_role.get(at, 0) + int(row["pss_bytes"])
    for at, size in by_role.items():
        pss.add_metric(list(at), size)
    yield pss
    for name, size in memory["cgroup"].items():
        if size is not None:
            yield GaugeMetricFamily(f"plateau_cgroup_{name}", "Of the cgroup", value=size)
