"""How a Redis server is configured, beside how `serve` would configure it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from plateau_sse.cli.checks import Finding, error, ok, warning
from plateau_sse.cli.checks.seen import Seen
from plateau_sse.cli.servers import size
from plateau_sse.serve.redis_server import options
from plateau_sse.settings import Settings
from plateau_sse.store.redis.fullness import CLOSED, TIGHT
from plateau_sse.values import parse_size

CLIENTS, BUFFERS = "maxmemory-clients", "client-output-buffer-limit"
# Of the bound, that one client's buffer may take where serve would allow it less.
BUFFER_SHARE = 8
# What other clients than ours, such as redis-cli, may want.
OTHER_CLIENTS = 20


def bounds(seen: Seen, settings: Settings) -> Iterator[Finding]:
    wanted = options(seen.server.role, settings, Path(), 0)
    yield _policy(seen, wanted["maxmemory-policy"])
    if seen.server.role == "streams":
        yield _bound(seen, "STREAM_MAX_MEMORY", settings.stream_max_memory)
        yield _fullness(seen, settings)
        yield _kept(seen)
    else:
        yield _bound(seen, "CACHE_MAX_MEMORY", settings.cache_max_memory)
        yield _not_kept(seen)
    yield _connections(seen, settings)
    configuration = seen.configuration
    if configuration is None:
        yield _closed(seen)
        return
    yield _clients(seen, configuration[CLIENTS], wanted[CLIENTS])
    yield _buffers(seen, configuration[BUFFERS], wanted[BUFFERS])


def _closed(seen: Seen) -> Finding:
    mend = f"see that {CLIENTS} and {BUFFERS} are set"
    if seen.wants_right:
        mend = seen.server.cli("ACL", "SETUSER", seen.user, "+config|get")
    text = "CONFIG is closed to us: what clients' buffers may take is not known"
    return warning(f"{seen.server.role}.config", text, mend)


def _policy(seen: Seen, wanted: str) -> Finding:
    role, policy = seen.server.role, str(seen.info["maxmemory_policy"])
    name = f"{role}.policy"
    if policy == wanted:
        return ok(name, f"maxmemory-policy is {policy}")
    who = "live runs need" if role == "streams" else "a cache needs"
    text = f"maxmemory-policy is {policy}, where {who} {wanted}"
    return error(name, text, seen.set("maxmemory-policy", wanted))


def _bound(seen: Seen, setting: str, wanted: int) -> Finding:
    """`maxmemory` beside the setting of that name, which is `wanted`."""
    name, bound = f"{seen.server.role}.bound", int(seen.info["maxmemory"])
    if not bound:
        text = "maxmemory is not set: it grows until the machine is full"
        return error(name, text, seen.set("maxmemory", str(wanted)))
    if bound == wanted:
        return ok(name, f"maxmemory is {setting}, {size(bound)}")
    text = f"maxmemory is {size(bound)}, and {setting} {size(wanted)}"
    if seen.server.is_ours:
        return warning(name, text, f"{setting}={bound}  # as serve has it, or start it again")
    if seen.server.role == "streams" and bound > wanted:
        # Somebody meant it to be that large.
        return warning(name, f"{text}: the smaller counts", f"{setting}={bound}")
    return warning(name, text, seen.set("maxmemory", str(wanted)))


def _fullness(seen: Seen, settings: Settings) -> Finding:
    name, used = "streams.fullness", int(seen.info["used_memory"])
    own = int(seen.info["maxmemory"])
    bound = min(own or settings.stream_max_memory, settings.stream_max_memory)
    share = used / bound
    text = f"{size(used)} are used, {100 * share:.0f} % of the bound"
    if share < TIGHT:
        return ok(name, text)
    # What is used may be far above a bound that is wrong by its unit.
    wanted = 2 * max(bound, used)
    if own and own <= settings.stream_max_memory and not seen.server.is_ours:
        mend = seen.set("maxmemory", str(wanted))
    else:
        mend = f"STREAM_MAX_MEMORY={wanted}"
    if share < CLOSED:
        return warning(name, f"{text}: records of finished runs live for a minute only", mend)
    return error(name, f"{text}: new runs are refused", mend)


def _kept(seen: Seen) -> Finding:
    """What the streams have acknowledged, over a restart."""
    name, info, configured = "streams.persistence", seen.info, seen.configuration or {}
    if info.get("aof_last_write_status") == "err" or _refuses(seen):
        text = "it cannot write to its disk, and refuses writes"
        where = seen.server.cli("CONFIG", "GET", "dir")
        return error(name, text, f"{where}  # make room there")
    if not info.get("aof_enabled"):
        text = "appendonly is off: a restart loses runs and conversations"
        return warning(name, text, seen.set("appendonly", "yes"))
    sync = configured.get("appendfsync", "everysec")
    if sync == "no":
        text = "appendfsync is no: a crash of the machine may lose much more than a second"
        return warning(name, text, seen.set("appendfsync", "everysec"))
    return ok(name, f"append-only file, appendfsync {sync}")


def _not_kept(seen: Seen) -> Finding:
    name = "cache.persistence"
    if seen.info.get("aof_enabled"):
        text = "appendonly is on: nothing reads a cache from a disk"
        return warning(name, text, seen.set("appendonly", "no"))
    if _refuses(seen):
        text = "it cannot save to its disk, and refuses writes"
        return error(name, text, seen.set("save", ""))
    if (seen.configuration or {}).get("save"):
        text = "it saves to disk: each time it is forked, which may take its memory twice"
        return warning(name, text, seen.set("save", ""))
    return ok(name, "not on disk, as it should be")


def _refuses(seen: Seen) -> bool:
    """Redis takes no writes where it is to save and could not (stop-writes-on-bgsave-error)."""
    saves = seen.configuration is None or bool(seen.configuration["save"])
    return saves and seen.info.get("rdb_last_bgsave_status") == "err"


def _connections(seen: Seen, settings: Settings) -> Finding:
    """What web workers (one more while one is replaced) and a runner open, at most."""
    role, most = seen.server.role, int(seen.info["maxclients"])
    name, workers = f"{role}.connections", settings.web_concurrency + 1
    need = OTHER_CLIENTS + (10 * workers + 20 if role == "streams" else 3 * workers + 8)
    others = int(seen.info["connected_clients"])
    text = f"{others} of {most} connections are taken; the service needs {need}"
    if need <= most and others <= most * 9 // 10:
        return ok(name, text)
    return error(name, text, seen.set("maxclients", str(max(1000, 2 * need, 2 * others))))


def _clients(seen: Seen, most: str, wanted: str) -> Finding:
    name = f"{seen.server.role}.clients"
    if most != "0":
        shown = size(int(most)) if most.isdecimal() else most
        return ok(name, f"clients' buffers take {shown} at most")
    text = "maxmemory-clients is 0: buffers of slow clients may take the whole bound"
    return warning(name, text, seen.set(CLIENTS, wanted))


def _buffers(seen: Seen, configured: str, wanted: str) -> Finding:
    """One client's; a hard limit of 0 is none."""
    name = f"{seen.server.role}.buffers"
    most = int(seen.info["maxmemory"]) // BUFFER_SHARE
    have = _hard_limits(configured)
    loose = [
        f"{kind} {size(have[kind]) if have[kind] else 'unlimited'}"
        for kind, limit in _hard_limits(wanted).items()
        if not have[kind] or have[kind] > max(limit, most)
    ]
    if not loose:
        return ok(name, "no client's output buffer may take much of it")
    text = f"client-output-buffer-limit is loose: {', '.join(loose)}"
    return warning(name, text, seen.set(BUFFERS, wanted))


def _hard_limits(text: str) -> dict[str, int]:
    """By class, from `normal 0 0 0 pubsub 4mb 1mb 10`."""
    words = text.split()
    return {
        kind: parse_size(hard) if hard != "0" else 0
        for kind, hard in zip(words[::4], words[1::4], strict=True)
    }
