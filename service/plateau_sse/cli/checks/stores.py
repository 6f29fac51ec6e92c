"""Both Redis servers: do they answer, and are they of the kind that their roles need."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from plateau_sse.cli.checks import Finding, error, ok, warning
from plateau_sse.cli.checks.bounds import bounds
from plateau_sse.cli.checks.seen import Seen, look
from plateau_sse.cli.checks.versions import REDIS, numbers
from plateau_sse.cli.servers import Server, each
from plateau_sse.redis_urls import joined, template
from plateau_sse.serve.redis_cli import setting
from plateau_sse.settings import Settings

# Each event waits for an answer of the streams, each question for one of the cache.
SLOW_MS = 5.0


async def check(roles: tuple[Server, ...], settings: Settings) -> list[Finding]:
    findings: list[Finding] = []
    # Each has its time to answer, and this check has one for all.
    found = await asyncio.gather(*map(each, roles))
    servers = [server for servers in found for server in servers]
    ids: set[str] = set()
    for seen in await asyncio.gather(*map(look, servers)):
        if isinstance(seen, Finding):
            findings.append(seen)
        elif seen.info["run_id"] in ids:
            # What one role needs of it is wrong for the other: of its kind no more is said.
            findings.append(_one_server(seen.server))
        else:
            ids.add(seen.info["run_id"])
            findings.extend(_judge(seen, settings))
    return findings


def _one_server(server: Server) -> Finding:
    return warning(
        f"{server.role}.one_server",
        "it is the server of the streams, too: it evicts live runs, or the cache fills it",
        f"unset {server.variable}; plateau serve",
    )


def _judge(seen: Seen, settings: Settings) -> Iterator[Finding]:
    unfit = list(_kind(seen))
    if unfit:
        yield from unfit
        return
    yield from _speed(seen)
    if seen.denied.what:
        yield error(
            f"{seen.server.role}.rights",
            f"the user {seen.user} has no right to {', '.join(seen.denied.what)}",
            seen.server.cli("ACL", "SETUSER", seen.user, *seen.denied.grants),
        )
    yield from bounds(seen, settings)


def _kind(seen: Seen) -> Iterator[Finding]:
    """Why it cannot be used at all."""
    info, role = seen.info, seen.server.role
    if numbers(info["redis_version"]) < REDIS:
        text = f"Redis {info['redis_version']} is too old: 7.0 or newer, or Valkey"
        yield error(f"{role}.version", text, f"unset {seen.server.variable}; plateau serve")
    mode = info.get("redis_mode", info.get("server_mode"))
    if mode == "sentinel":
        mend = f"{seen.server.variable}=redis+sentinel://HOST,HOST,HOST/SERVICE"
        yield error(f"{role}.mode", "it is a Sentinel, which keeps nothing", mend)
    elif info.get("cluster_enabled") and seen.server.is_one_of != "cluster":
        mend = f"{seen.server.variable}=redis+cluster://HOST,HOST,HOST"
        yield error(f"{role}.mode", "it is a node of a cluster", mend)
    elif info["role"] != "master":
        text = "it is a replica, and takes no writes"
        place = joined(info["master_host"], int(info["master_port"]))
        mend = setting(seen.server.variable, template(seen.server.url, place=place))
        if seen.server.is_one_of != "server":
            mend = "plateau doctor  # once more: a failover may be under way"
        yield error(f"{role}.replica", text, mend)


def _speed(seen: Seen) -> Iterator[Finding]:
    role, info = seen.server.role, seen.info
    valkey = info.get("valkey_version")
    engine = f"Valkey {valkey}" if valkey else f"Redis {info['redis_version']}"
    yield ok(role, f"{seen.server.shown} is {engine}")
    text = f"it answers in {seen.round_trip_ms:.1f} ms"
    if seen.round_trip_ms <= SLOW_MS:
        yield ok(f"{role}.latency", text)
    else:
        measured = seen.server.cli("--latency")
        yield warning(f"{role}.latency", f"{text}, and every event waits for it", measured)
