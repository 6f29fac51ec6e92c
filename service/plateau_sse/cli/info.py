"""`plateau info`: what both Redis servers say of their memory, and what that means.

Invariant: what a server says is shown as it said it, nothing left out and nothing in between;
with --raw, byte for byte. How to read it stands below, where a terminal's screen ends.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from plateau_sse.cli.output import gone
from plateau_sse.cli.servers import (
    Server,
    Trouble,
    each,
    find,
    opened,
    result_of,
    size,
    trouble,
)
from plateau_sse.errors import StoreError
from plateau_sse.serve.child import leave
from plateau_sse.serve.redis_server import Role, options
from plateau_sse.settings import Settings

# In at most 41 characters: with figure and name, a line then has 80.
MEANINGS: dict[Role, dict[str, str]] = {
    "streams": {
        "used_memory": "from 85 % of the bound on, no new runs",
        "used_memory_peak": "the most since the server started",
        "used_memory_rss": "what the process takes of the machine",
        "used_memory_dataset": "runs, their texts and conversations",
        "maxmemory": "the bound: beyond it nothing is stored",
        "maxmemory_policy": "right: no run is ever dropped for another",
        "mem_fragmentation_ratio": "rss / used: high while little is used",
        "mem_clients_normal": "clients' buffers, which are part of used",
        "mem_aof_buffer": "stored, and not yet in the file on disk",
        "evicted_keys": "from INFO stats: each one was a loss",
    },
    "cache": {
        "used_memory": "full is normal: old answers make room",
        "used_memory_peak": "may pass the bound by one answer",
        "used_memory_rss": "what the process takes of the machine",
        "used_memory_dataset": "answers, compressed",
        "maxmemory": "the bound: beyond it answers make room",
        "maxmemory_policy": "right: the answer longest unused goes",
        "mem_fragmentation_ratio": "rss / used: high while little is used",
        "mem_clients_normal": "clients' buffers: answers make room, too",
        "evicted_keys": "from INFO stats: answers that made room",
    },
}
WRONG = "WRONG: plateau doctor says what to do"


@dataclass(frozen=True, slots=True)
class Memory:
    """`text` as it came; `evicted_keys` is the one figure that INFO has elsewhere."""

    text: str
    evicted_keys: str

    def figures(self) -> dict[str, str]:
        pairs = (line.partition(":")[::2] for line in self.text.splitlines())
        return {name: value for name, value in pairs if value} | {
            "evicted_keys": self.evicted_keys
        }


def run(arguments: argparse.Namespace) -> NoReturn:
    """Prints it and leaves: 0, or 1 where a server that was asked for cannot be shown."""
    settings = Settings.from_env()
    wanted = [server for server in find(settings) if arguments.role in (None, server.role)]
    wanted, answers = result_of(_ask_all(wanted))
    try:
        _show(list(zip(wanted, answers, strict=True)), settings, raw=arguments.raw)
    except OSError as error:
        leave(gone(error, "info"))
    leave(int(any(isinstance(answer, Trouble) for answer in answers)))


async def _ask_all(roles: list[Server]) -> tuple[list[Server], list[Memory | Trouble]]:
    servers = [server for role in roles for server in await each(role)]
    return servers, await asyncio.gather(*map(_ask, servers))


async def _ask(server: Server) -> Memory | Trouble:
    if not server.url:
        return server.unknown
    try:
        async with opened(server, "plateau-info") as redis:
            stats = await redis.info("stats")
            text = await verbatim(redis)
            return Memory(text, str(stats["evicted_keys"]))
    except StoreError as error:
        return trouble(server, error)


async def verbatim(redis: Any) -> str:
    """What the server says, which redis-py would take apart."""
    redis.set_response_callback("INFO", lambda reply, **_: reply)
    return bytes(await redis.execute_command("INFO", "memory")).decode()


def _show(
    answers: list[tuple[Server, Memory | Trouble]], settings: Settings, *, raw: bool
) -> None:
    readings = []
    for server, answer in answers:
        if isinstance(answer, Trouble):
            continue
        if not raw:
            print(f"$ {server.cli('INFO', 'memory')}")
            print("\n".join(answer.text.splitlines()), end="\n\n")
            several = sum(it.role == server.role for it, _ in answers) > 1
            where = f" at {_place(server)}" if several else ""
            readings.append(reading(server.role, answer.figures(), settings, where))
            continue
        if len(answers) > 1:
            # As INFO marks what is no figure.
            print(f"# {server.role}: {server.shown}")
        print(answer.text, end="")
    if readings:
        print("\n\n".join(readings))
    sys.stdout.flush()
    for server, answer in answers:
        if isinstance(answer, Trouble):
            what, remedy = answer
            print(f"plateau info: {server.role}: {what}: {remedy}.", file=sys.stderr)


def _place(server: Server) -> str:
    parts = urlsplit(server.url)
    return f"{parts.hostname}:{parts.port}"


def reading(role: Role, figures: dict[str, str], settings: Settings, where: str = "") -> str:
    """How to read what `INFO memory` says of this role, a line a figure; `where` tells one of
    several servers from the others."""
    used, bound = int(figures["used_memory"]), int(figures["maxmemory"])
    policy = options(role, settings, Path(), 0)["maxmemory-policy"]
    lines = [f"{role}{where}: {size(used)} used, {_share(role, used, bound, settings)}"]
    for name, meaning in MEANINGS[role].items():
        if name not in figures:
            continue
        shown = figures[name]
        if (name == "maxmemory" and not bound) or (
            name == "maxmemory_policy" and shown != policy
        ):
            meaning = WRONG
        if shown.isdecimal() and name != "evicted_keys":
            shown = size(int(shown))
        lines.append(f"  {name:<23} {shown:>11}  {meaning}")
    return "\n".join(lines)


def _share(role: Role, used: int, bound: int, settings: Settings) -> str:
    ours = settings.stream_max_memory
    if role == "streams" and (not bound or ours < bound):
        # The smaller of the two counts.
        return f"{100 * used // ours} % of STREAM_MAX_MEMORY, {size(ours)}"
    return f"{100 * used // bound} % of its bound" if bound else "and there is no bound"
