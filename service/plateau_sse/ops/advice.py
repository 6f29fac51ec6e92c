"""What to do about what is seen: the rules, in one table.

Invariant: a rule says what it saw, with the figure, and what to change; one that has too little
to go by says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from plateau_sse.settings import Settings
from plateau_sse.store.redis import servers
from plateau_sse.store.redis.fullness import CLOSED, TIGHT

MISSES_MOST = 0.7
# A rate over fewer says nothing.
LOOKUPS_LEAST = 50
CPU_MOST = 0.8
CGROUP_MOST = 0.9
WAIT_MOST_S = 10.0
# In a minute.
EVICTIONS_STEADY = 10
SLOW_MANY = 20
CONNECTIONS_MOST = 0.9
# Of agents, and of runners of each version, that are named.
NAMED_MOST = 3

KINDS = {"workers_died": "worker", "runners_died": "runner", "redis_died": "Redis server"}

Level = Literal["warning", "error"]
Picture = dict[str, Any]


class Rule(NamedTuple):
    """`sees` gives what it saw, in words, or None."""

    name: str
    level: Level
    sees: Callable[[Picture, Settings], str | None]
    change: str


def advise(picture: Picture, settings: Settings) -> list[dict[str, str]]:
    """What the rules have to say, the worst first."""
    found = []
    for rule in RULES:
        says = rule.sees(picture, settings)
        if says:
            row = {"rule": rule.name, "level": rule.level, "says": says, "change": rule.change}
            found.append(row)
    return sorted(found, key=lambda row: row["level"] != "error")


def _lately(picture: Picture, name: str) -> int:
    return int(picture["lately"].get(name, 0))


def _processes(picture: Picture, role: str) -> Iterator[dict[str, Any]]:
    return (one for one in picture["workers"]["processes"] if one["role"] == role)


def _streams_down(picture: Picture, _: Settings) -> str | None:
    state = picture["redis"]["streams"]["state"]
    return (
        None
        if state in ("up", servers.CLOSED)
        else f"the streams instance does not answer: {state}"
    )


def _cache_down(picture: Picture, _: Settings) -> str | None:
    state = picture["cache"]["state"]
    if state in ("up", "not configured", servers.CLOSED):
        return None
    return f"the cache does not answer, every lookup is a miss: {state}"


def _policy(picture: Picture, _: Settings) -> str | None:
    found = []
    for role in (servers.STREAMS, servers.CACHE):
        server = picture["redis"][role.name]
        if server["state"] == "up":
            found += servers.faults(role, server)
    return "; ".join(found) or None


def _no_runner(picture: Picture, _: Settings) -> str | None:
    if picture["runs"]["runners"] != 0:
        return None
    return "no runner is alive: new runs are refused, cached answers are served"


def _versions(picture: Picture, _: Settings) -> str | None:
    """About which agents runners disagree, and which runners."""
    apart: dict[str, dict[str, list[str]]] = picture["runs"]["apart"]
    told = []
    for agent in sorted(apart)[:NAMED_MOST]:
        versions = (
            f"{version} ({_some(runners)})" for version, runners in sorted(apart[agent].items())
        )
        told.append(f"agent {agent} is {' and '.join(versions)}")
    if len(apart) > len(told):
        told.append(f"and {len(apart) - len(told)} more agents")
    return f"runners have different versions: {'; '.join(told)}" if told else None


def _some(names: list[str]) -> str:
    more = len(names) - NAMED_MOST
    return ", ".join(names[:NAMED_MOST]) + (f" and {more} more" if more > 0 else "")


def silent(picture: Picture, role: str = "") -> str | None:
    """Which processes of that role, or of any, have said nothing for too long."""
    found = (
        f"{one['role']} {one['host']}:{one['pid']} has said nothing for {one['age_s']:.0f} s"
        for one in picture["workers"]["processes"]
        if one["silent"] and role in ("", one["role"])
    )
    return "; ".join(found) or None


def _hanging(picture: Picture, _: Settings) -> str | None:
    """Which runners have threads that nobody waits for any more, and that do not end."""
    return (
        "; ".join(
            f"threads of agents hang in runner {one['host']}:{one['pid']}: {one['hanging']}"
            for one in _processes(picture, "runner")
            if one.get("hanging")
        )
        or None
    )


def _deaf(picture: Picture, _: Settings) -> str | None:
    deaf = [one for one in _processes(picture, "web") if one.get("deaf")]
    return "; ".join(
        f"web worker {one['host']}:{one['pid']} does not hear the events that are written"
        for one in deaf
    )


def _memory(picture: Picture, settings: Settings) -> str | None:
    memory = picture["memory"]
    if memory["total_mb"] is None or memory["total_mb"] <= settings.memory_warn_mb:
        return None
    return f"{memory['total_mb']:g} MiB in use, over MEMORY_WARN_MB={settings.memory_warn_mb}"


def _cgroup(picture: Picture, _: Settings) -> str | None:
    memory = picture["memory"]
    groups = [(*memory["cgroup"].values(), "this host")]
    # A container of its own has a limit of its own.
    groups += [
        (it["used_bytes"], it["limit_bytes"], f"the {it['role']} of {it['host']}")
        for it in memory["cgroups"]
        if it["host"] != memory["host"]
    ]
    return (
        "; ".join(
            f"{used / limit:.0%} of the {limit / 1024**2:.0f} MiB that {whose} may use"
            for used, limit, whose in groups
            if used and limit and used >= CGROUP_MOST * limit
        )
        or None
    )


def died(picture: Picture, kinds: Mapping[str, str] = KINDS) -> str | None:
    """How many processes of these kinds; a kind is its counter and what it is called."""
    found = [(kind, _lately(picture, name)) for name, kind in kinds.items()]
    words = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in found if n)
    return f"died and were started again in the last minute: {words}" if words else None


def _timeouts(picture: Picture, settings: Settings) -> str | None:
    n = _lately(picture, "workers_timed_out")
    return (
        f"{n} workers were silent for WORKER_TIMEOUT_S={settings.worker_timeout_s}"
        if n
        else None
    )


def _misses(picture: Picture, _: Settings) -> str | None:
    hits, misses = _lately(picture, "cache_hits"), _lately(picture, "cache_misses")
    asked = hits + misses
    if asked < LOOKUPS_LEAST or misses <= MISSES_MOST * asked:
        return None
    return f"{misses / asked:.0%} of {asked} lookups in the last minute were misses"


def _evictions(picture: Picture, _: Settings) -> str | None:
    n = _lately(picture, "cache_evicted_keys")
    if n < EVICTIONS_STEADY:
        return None
    return f"{n} answers were evicted in the last minute: the cache is full"


def _cpu(picture: Picture, _: Settings) -> str | None:
    busy = [one for one in _processes(picture, "web") if float(one.get("cpu", 0)) > CPU_MOST]
    return "; ".join(
        f"web worker {one['host']}:{one['pid']} uses {float(one['cpu']):.0%} of a core"
        for one in busy
    )


def _queue(picture: Picture, settings: Settings) -> str | None:
    runs = picture["runs"]
    if not runs["waiting"] or runs["oldest_waiting_s"] < WAIT_MOST_S:
        return None
    return (
        f"{runs['waiting']} runs wait, the first for {runs['oldest_waiting_s']:.0f} s; "
        f"{runs['running']} are executed"
    )


def _full(picture: Picture, settings: Settings) -> str | None:
    server = picture["redis"]["streams"]
    if server["state"] != "up":
        return None
    share, _ = servers.fullness(server, settings.stream_max_memory)
    if share < TIGHT:
        return None
    result = "new runs are refused" if share >= CLOSED else "records live a minute only"
    return f"the streams instance is {share:.0%} full: {result}"


def _refused(picture: Picture, _: Settings) -> str | None:
    prefix = "runs_refused_"
    found = {
        name.removeprefix(prefix): n
        for name, n in picture["lately"].items()
        if name.startswith(prefix)
    }
    words = ", ".join(f"{n} by {code}" for code, n in found.items())
    return f"runs refused in the last minute: {words}" if words else None


def _slow(picture: Picture, _: Settings) -> str | None:
    n = _lately(picture, "readers_slow")
    return f"{n} readers were too slow in the last minute" if n >= SLOW_MANY else None


def _connections(picture: Picture, _: Settings) -> str | None:
    found = []
    for one in _processes(picture, "web"):
        now, most = int(one.get("connections", 0)), int(one.get("connections_most", 0))
        if most and now > CONNECTIONS_MOST * most:
            who = f"web worker {one['host']}:{one['pid']}"
            found.append(f"{who} has {now} of the {most} connections that it may have")
    for name, words in (
        ("streams_put_off", "streams found no room"),
        ("connections_cut_refused", "connections found none"),
        ("connections_cut_room", "connections that asked nothing were closed for others"),
        ("bodies_refused", "large bodies found no room beside others"),
    ):
        if n := _lately(picture, name):
            found.append(f"{n} {words} in the last minute")
    return "; ".join(found) or None


def _heavy(picture: Picture, _: Settings) -> str | None:
    found = [
        f"web worker {one['host']}:{one['pid']} has {int(one.get('pss', 0)) / 1024**2:.1f} of "
        f"the {int(one.get('memory_most', 0)) / 1024**2:.1f} MiB that it may have, and takes "
        "no more streams"
        for one in _processes(picture, "web")
        if one.get("heavy")
    ]
    return "; ".join(found) or None


RULES = (
    Rule("streams_down", "error", _streams_down, "Start it, or look at REDIS_URL."),
    Rule(
        "deaf", "error", _deaf, "Look at the network to REDIS_URL; it subscribes anew itself."
    ),
    Rule("no_runner", "error", _no_runner, "Start one: plateau runner, or plateau serve."),
    Rule("policy", "error", _policy, "Set it there, and in that server's configuration."),
    Rule("memory", "error", _memory, "Lower WEB_CONCURRENCY or STREAM_MAX_MEMORY, or grow."),
    Rule("cgroup", "error", _cgroup, "The host kills at the limit: grow, or lower the bounds."),
    Rule(
        "silent",
        "error",
        lambda it, _: silent(it),
        "It is frozen, cut off or dead: look at its log.",
    ),
    Rule(
        "hanging",
        "warning",
        _hanging,
        "What their agents wait for needs a timeout; at RUNNER_CONCURRENCY the runner leaves.",
    ),
    Rule(
        "connections",
        "warning",
        _connections,
        "Raise what a process may open (LimitNOFILE, ulimit -Hn), then WEB_CONCURRENCY; where "
        "few clients have many, bound those in the proxy.",
    ),
    Rule(
        "heavy",
        "warning",
        _heavy,
        "Raise WEB_CONCURRENCY, so that each has fewer readers, or WORKER_MAX_MEMORY where the "
        "machine has more; with neither many readers nor large documents it is a leak.",
    ),
    Rule(
        "versions",
        "warning",
        _versions,
        "Each answers what it was asked, the latest what is asked now: give their runners the "
        "same code and settings (OPENAI_MODEL, AGENT_VERSION), or the agents other names.",
    ),
    Rule("cache_down", "warning", _cache_down, "Start it, or look at CACHE_REDIS_URL."),
    Rule("died", "warning", lambda it, _: died(it), "Their last words are in the log."),
    Rule(
        "timeouts",
        "warning",
        _timeouts,
        "The machine is too busy, or something blocks: fewer workers, or a larger machine.",
    ),
    Rule(
        "queue",
        "warning",
        _queue,
        "Raise RUNNER_CONCURRENCY, or start another plateau runner.",
    ),
    Rule("full", "warning", _full, "Raise STREAM_MAX_MEMORY or lower STREAM_TTL_S."),
    Rule("refused", "warning", _refused, "QUEUE_LIMIT, runners or memory: see the others."),
    Rule("evictions", "warning", _evictions, "Raise CACHE_MAX_MEMORY, or lower CACHE_TTL_S."),
    Rule(
        "misses",
        "warning",
        _misses,
        "Where answers are evicted raise CACHE_MAX_MEMORY, else CACHE_TTL_S; questions that "
        "are never asked twice can go with cache mode off.",
    ),
    Rule("cpu", "warning", _cpu, "Raise WEB_CONCURRENCY up to the cores, then add a machine."),
    Rule("slow", "warning", _slow, "Their networks, or a proxy that buffers: look at it."),
)
