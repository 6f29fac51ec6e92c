"""The exposition for Prometheus, written by its client library.

Invariant: counters are the hosts' own, that survive their processes: whichever worker answers,
none ever falls. Labels come from sets that are bounded: hosts, error codes, reasons, roles.
Nothing is registered: each scrape makes its metrics from what is seen, so none is left behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from plateau_sse import __version__
from plateau_sse.ops.watch import Seen
from plateau_sse.store.figures.tally import BUCKETS, DEATHS, NAMES

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

ByHost = Mapping[str, Mapping[str, int]]


class Counter(NamedTuple):
    """`title` without its `_total`; where it has a `label`, one series for each of its values,
    which are what follows `title` in `names`, or the names themselves."""

    title: str
    help: str
    label: str = ""
    names: tuple[str, ...] = ()

    def series(self) -> Iterator[tuple[str, str]]:
        """The value of the label, '' where there is none, and the name in `tally.NAMES`."""
        if not self.label:
            yield "", self.title
        for name in self.names:
            yield name.removeprefix(f"{self.title}_"), name


def _told_apart(title: str, text: str, label: str) -> Counter:
    names = tuple(name for name in NAMES if name.startswith(f"{title}_"))
    return Counter(title, text, label, names)


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
    _told_apart("runs_failed", "Runs that failed", "code"),
    _told_apart("runs_refused", "Runs that were not taken on", "code"),
    Counter("outputs_too_large", "Answers that passed a bound of the tape"),
    Counter("responses_opened", "Event streams opened"),
    Counter("responses_resumed", "Event streams opened with the id of a last event"),
    _told_apart("responses_closed", "Event streams that ended", "reason"),
    Counter("events_delivered", "Events pushed to readers"),
    Counter("readers_slow", "Readers who left the live path since they did not read"),
    Counter("feeds_repaired", "Followed runs read anew since a message was missing"),
    Counter("feeds_resubscribed", "Followed runs subscribed to anew"),
    Counter("swept_consumers", "Runners' names swept from the queue"),
    Counter("swept_entries", "Entries swept that stood for no run"),
    Counter("process_ends", "Processes that ended, by how", "how", DEATHS),
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


class Family:
    """A metric and its series."""

    def __init__(self, title: str, kind: str, text: str) -> None:
        self.metric = Metric(f"plateau_{title}", text, kind)

    def add(self, labels: Mapping[str, str], value: float, suffix: str = "") -> None:
        self.metric.add_sample(f"{self.metric.name}{suffix}", dict(labels), value)


class _Collected(Collector):
    """As much of a registry as is asked of it."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Without the metrics that have no series."""
        return (family.metric for family in self._families if family.metric.samples)


def exposition(seen: Seen, memory: dict[str, Any]) -> bytes:
    """The text; `memory` is that section of the overview."""
    return generate_latest(_Collected(_families(seen, memory)))


def _families(seen: Seen, memory: dict[str, Any]) -> Iterator[Family]:
    about = Family("info", "gauge", "What answers")
    about.add({"version": __version__}, 1)
    yield about
    for counter in COUNTERS:
        yield _counter(counter, seen.by_host)
    for name, (title, text) in HISTOGRAMS.items():
        yield _histogram(name, Family(title, "histogram", text), seen.by_host)
    yield _open(seen)
    yield from _servers(seen)
    if seen.depth is not None:
        depth = seen.depth
        for title, text, value in (
            ("runs_waiting", "Runs that wait for a runner", depth.waiting),
            ("runs_running", "Runs that are executed", depth.running),
            ("runners", "Living runners", depth.runners),
            ("queue_oldest_seconds", "How long the first in line has waited", depth.oldest_s),
        ):
            family = Family(title, "gauge", text)
            family.add({}, value)
            yield family
    yield from _memory(memory)


def _counter(counter: Counter, by_host: ByHost) -> Family:
    family = Family(counter.title, "counter", counter.help)
    for host, counts in by_host.items():
        for value, name in counter.series():
            labels = {"host": host, counter.label: value} if counter.label else {"host": host}
            family.add(labels, counts.get(name, 0), "_total")
    return family


def _histogram(name: str, family: Family, by_host: ByHost) -> Family:
    for host, counts in by_host.items():
        so_far = 0
        for cell, bound in enumerate((*BUCKETS[name], math.inf)):
            so_far += counts.get(f"{name}_{cell}", 0)
            le = "+Inf" if bound == math.inf else f"{bound:g}"
            family.add({"host": host, "le": le}, so_far, "_bucket")
        family.add({"host": host}, so_far, "_count")
        family.add({"host": host}, counts.get(f"{name}_us", 0) / 1e6, "_sum")
    return family


def _open(seen: Seen) -> Family:
    family = Family("responses_open", "gauge", "Event streams open")
    readers = ((str(one["host"]), int(one.get("open", 0))) for one in seen.workers)
    for host, count in _summed(readers).items():
        family.add({"host": host}, count)
    return family


def _servers(seen: Seen) -> Iterator[Family]:
    found = {"streams": seen.streams, "cache": seen.cache}
    up = Family("redis_up", "gauge", "Whether it answers")
    for role, server in found.items():
        if server is not None:
            up.add({"role": role}, int(isinstance(server, dict)))
    yield up
    for name, (title, text, grows) in SERVER.items():
        family = Family(title, "counter" if grows else "gauge", text)
        for role, server in found.items():
            if isinstance(server, dict) and server.get(name) is not None:
                family.add({"role": role}, server[name], "_total" if grows else "")
        yield family


def _memory(memory: dict[str, Any]) -> Iterator[Family]:
    pss = Family("memory_pss_bytes", "gauge", "Proportional set size")
    rows = (((row["host"], row["role"]), row["pss_bytes"]) for row in memory["processes"])
    for (host, role), size in _summed(rows).items():
        pss.add({"host": host, "role": role}, size)
    yield pss
    for name, size in memory["cgroup"].items():
        if size is not None:
            family = Family(f"cgroup_{name}", "gauge", "Of the cgroup")
            family.add({}, size)
            yield family


def _summed(pairs: Iterable[tuple[Any, int]]) -> dict[Any, int]:
    total: dict[Any, int] = {}
    for key, value in pairs:
        total[key] = total.get(key, 0) + value
    return total
