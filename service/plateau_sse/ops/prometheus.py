"""The exposition for Prometheus, written by its client library.

Invariant: counters are the hosts' own, that survive their processes: whichever worker answers,
none ever falls. Labels come from sets that are bounded: hosts, error codes, reasons, roles,
dialects, releases, and as many agents as a host tells apart.
Nothing is registered: each scrape makes its metrics from what is seen, so none is left behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from plateau_sse import __version__
from plateau_sse.errors import PROBLEMS
from plateau_sse.ops.watch import Seen
from plateau_sse.store.figures.by_agent import ENDS, PREFIX, parted
from plateau_sse.store.figures.tally import BUCKETS, DEATHS, DIALECTS, NAMES
from plateau_sse.store.figures.workers import SILENT_S, Figures
from plateau_sse.store.redis.servers import CACHE, CLOSED, STREAMS, faults, fullness

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

RELEASES_MOST = 10
# Of a process whose release is too old to say.
UNSAID = "unknown"

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
    _told_apart("responses_opened", "Event streams opened", "dialect"),
    Counter("responses_resumed", "Event streams opened with the id of a last event"),
    _told_apart("responses_closed", "Event streams that ended", "reason"),
    Counter("streams_put_off", "Event streams that found no room and are to come back"),
    Counter("bodies_refused", "Bodies that found no room beside others"),
    _told_apart(
        "connections_cut",
        "Connections cut for what their peers did not do, or for want of room",
        "reason",
    ),
    _told_apart("events_delivered", "Events pushed to readers", "dialect"),
    Counter("readers_slow", "Readers who left the live path since they did not read"),
    Counter("feeds_repaired", "Followed runs read anew since a message was missing"),
    Counter("feeds_resubscribed", "Followed runs subscribed to anew"),
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
# Of the queue, without labels.
DEPTH = {
    "waiting": ("runs_waiting", "Runs that wait for a runner"),
    "running": ("runs_running", "Runs that are executed"),
    "runners": ("runners", "Living runners"),
    "oldest_s": ("queue_oldest_seconds", "How long the first in line has waited"),
}
# Of a host's processes of a role, each from what they say of themselves.
OF_PROCESSES = {
    "processes": "Processes that say something of themselves",
    "processes_silent": f"Of which have said nothing for {SILENT_S:g} s",
    "processes_cpu_ratio": "Cores that they use",
}
# Of a host's web workers.
OF_WORKERS = {
    "workers_deaf": "Workers that do not hear the events that are written",
    "workers_heavy": "Workers above WORKER_MAX_MEMORY, which take no more streams",
    "connections": "Connections that are open",
    "connections_most": "Connections that there may be",
    "runs_followed": "Runs that readers follow",
}


class Family:
    """A metric and its series; `labels` are those that one may have."""

    def __init__(self, title: str, kind: str, text: str, labels: tuple[str, ...] = ()) -> None:
        self.metric = Metric(f"plateau_{title}", text, kind)
        self.labels = labels

    def add(self, labels: Mapping[str, str], value: float, suffix: str = "") -> None:
        self.metric.add_sample(f"{self.metric.name}{suffix}", dict(labels), value)


class _Collected(Collector):
    """As much of a registry as is asked of it."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Without the metrics that have no series."""
        return (family.metric for family in self._families if family.metric.samples)


def exposition(seen: Seen, memory: dict[str, Any], streams_bound: int) -> bytes:
    """The text; `memory` is that section of the overview, `streams_bound` STREAM_MAX_MEMORY."""
    return generate_latest(_Collected(families(seen, memory, streams_bound)))


def families(seen: Seen, memory: dict[str, Any], streams_bound: int) -> Iterator[Family]:
    """All there are, with labels, also those that have no series now."""
    about = Family("info", "gauge", "Releases of the processes that are there", ("version",))
    for version in _releases(seen.workers):
        about.add({"version": version}, 1)
    yield about
    for counter in COUNTERS:
        yield _counter(counter, seen.by_host)
    yield _problems(seen.by_host)
    yield from _of_agents(seen.by_host)
    for name, (title, text) in HISTOGRAMS.items():
        yield _histogram(name, Family(title, "histogram", text, ("host", "le")), seen.by_host)
    yield _open(seen)
    yield from _of_processes(seen.workers)
    yield from _servers(seen, streams_bound)
    for name, (title, text) in DEPTH.items():
        family = Family(title, "gauge", text)
        if seen.depth is not None:
            family.add({}, getattr(seen.depth, name))
        yield family
    apart = Family("agents_apart", "gauge", "Agents of which runners have different versions")
    if seen.depth is not None:
        apart.add({}, len(seen.apart))
    yield apart
    yield from _memory(memory)


def _releases(workers: Sequence[Figures]) -> list[str]:
    """Of all processes, first of this one: who scrapes one address meets one of them at a
    time."""
    others = {str(one.get("version", UNSAID)) for one in workers} - {__version__}
    return [__version__, *sorted(others)][:RELEASES_MOST]


def _counter(counter: Counter, by_host: ByHost) -> Family:
    labels = ("host", counter.label) if counter.label else ("host",)
    family = Family(counter.title, "counter", counter.help, labels)
    for host, counts in by_host.items():
        for value, name in counter.series():
            labels_now = {"host": host, counter.label: value} if value else {"host": host}
            family.add(labels_now, counts.get(name, 0), "_total")
    return family


def _problems(by_host: ByHost) -> Family:
    """A code has one status."""
    family = Family(
        "problems", "counter", "Requests answered by a problem", ("host", "code", "status")
    )
    for host, counts in by_host.items():
        for code, (status, _) in PROBLEMS.items():
            labels = {"host": host, "code": code, "status": str(status)}
            family.add(labels, counts.get(f"problems_{code}", 0), "_total")
    return family


def _of_agents(by_host: ByHost) -> tuple[Family, Family]:
    """What has never happened has no series here: agents times codes are many."""
    ends = Family(
        "agent_runs",
        "counter",
        "Runs that ended, by agent; of those that failed with the code",
        ("host", "agent", "status", "code"),
    )
    tokens = Family(
        "agent_tokens", "counter", "Tokens that runs took", ("host", "agent", "kind")
    )
    for host, counts in by_host.items():
        for field, value in counts.items():
            if not field.startswith(PREFIX):
                continue
            agent, what = parted(field)
            labels = {"host": host, "agent": agent}
            if what.endswith("_tokens"):
                kind = what.removesuffix("_tokens")
                tokens.add({**labels, "kind": kind}, value, "_total")
            elif what in ENDS:
                ends.add({**labels, "status": what}, value, "_total")
            else:
                ends.add({**labels, "status": "failed", "code": what}, value, "_total")
    return ends, tokens


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
    family = Family("responses_open", "gauge", "Event streams open", ("host", "dialect"))
    readers = (
        ((str(one["host"]), dialect), int(one.get(f"open_{dialect}", 0)))
        for one in seen.workers
        for dialect in DIALECTS
    )
    for (host, dialect), count in _summed(readers).items():
        family.add({"host": host, "dialect": dialect}, count)
    return family


def _of_processes(workers: Sequence[Figures]) -> Iterator[Family]:
    for name, text in OF_PROCESSES.items():
        family = Family(name, "gauge", text, ("host", "role"))
        rows = (((str(it["host"]), str(it["role"])), _of_process(name, it)) for it in workers)
        for (host, role), value in _summed(rows).items():
            family.add({"host": host, "role": role}, value)
        yield family
    web = [one for one in workers if one["role"] == "web"]
    for name, text in OF_WORKERS.items():
        family = Family(name, "gauge", text, ("host",))
        said = name.removeprefix("workers_").removeprefix("runs_")
        for host, value in _summed(
            (str(it["host"]), int(it.get(said, 0))) for it in web
        ).items():
            family.add({"host": host}, value)
        yield family


def _of_process(name: str, one: Figures) -> float:
    if name == "processes_silent":
        return float(one["age_s"]) > SILENT_S
    return float(one.get("cpu", 0)) if name == "processes_cpu_ratio" else 1


def _servers(seen: Seen, streams_bound: int) -> Iterator[Family]:
    found = {"streams": seen.streams, "cache": seen.cache}
    up = Family("redis_up", "gauge", "Whether it answers", ("role",))
    for role, server in found.items():
        if server is not None:
            # Where its user may not ask, it answers all the same.
            up.add({"role": role}, int(isinstance(server, dict) or server == CLOSED))
    yield up
    for name, (title, text, grows) in SERVER.items():
        family = Family(title, "counter" if grows else "gauge", text, ("role",))
        for role, server in found.items():
            if isinstance(server, dict) and server.get(name) is not None:
                family.add({"role": role}, server[name], "_total" if grows else "")
        yield family
    bound = Family(
        "streams_bound_bytes", "gauge", "STREAM_MAX_MEMORY, or less; of all primaries"
    )
    full = Family("streams_full_ratio", "gauge", "Of that bound, of the fullest primary")
    if isinstance(seen.streams, dict):
        share, together = fullness(seen.streams, streams_bound)
        full.add({}, share)
        bound.add({}, together)
    else:
        # Of one, as far as is known.
        bound.add({}, streams_bound)
    yield bound
    yield full
    wrong = Family(
        "redis_wrong", "gauge", "Settings of it that its role cannot do with", ("role",)
    )
    for needed in (STREAMS, CACHE):
        server = found[needed.name]
        if isinstance(server, dict):
            wrong.add({"role": needed.name}, len(faults(needed, server)))
    yield wrong


def _memory(memory: dict[str, Any]) -> Iterator[Family]:
    pss = Family("memory_pss_bytes", "gauge", "Proportional set size", ("host", "role"))
    rows = (((row["host"], row["role"]), row["pss_bytes"]) for row in memory["processes"])
    for (host, role), size in _summed(rows).items():
        pss.add({"host": host, "role": role}, size)
    yield pss
    warn = Family("memory_warn_bytes", "gauge", "MEMORY_WARN_MB, of one host in all")
    warn.add({}, memory["warn_mb"] * 1024**2)
    yield warn
    for name in ("used_bytes", "limit_bytes"):
        text = "Of the cgroup that a host's processes of a role are in, where it has a limit"
        family = Family(f"cgroup_{name}", "gauge", text, ("host", "role"))
        for group in memory["cgroups"]:
            family.add({"host": group["host"], "role": group["role"]}, group[name])
        yield family


def _summed(pairs: Iterable[tuple[Any, float]]) -> dict[Any, float]:
    total: dict[Any, float] = {}
    for key, value in pairs:
        total[key] = total.get(key, 0) + value
    return total
