"""`plateau agents`: what a runner with these settings would serve, and what that takes.

Invariant: the agents are imported and opened as a runner does it, and closed again; no server
is asked. Standard output has the list and nothing else, whatever the agents' modules print.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack, redirect_stdout
from typing import Any

import psutil

from plateau_sse.agents.registry import RegisteredAgent, load_agents, open_agents
from plateau_sse.cli.units import MIB
from plateau_sse.owners import scope_of
from plateau_sse.settings import Settings


def run(options: argparse.Namespace) -> int:
    """Prints them. Raises SettingsError where one cannot be imported, or opened."""
    settings = Settings.from_env()
    began = time.monotonic()
    with redirect_stdout(sys.stderr):
        # All that a runner has in its memory.
        import plateau_sse.runner.process  # noqa: F401

        agents, memory_mib = asyncio.run(_opened(settings))
    took_s = round(time.monotonic() - began, 2)
    told = {
        "agents": [_shown(agent, settings) for agent in agents],
        "runner": {"memory_mib": round(memory_mib, 1), "opened_s": took_s},
    }
    print(json.dumps(told, indent=2) if options.json else _as_text(told))
    return 0


async def _opened(settings: Settings) -> tuple[list[RegisteredAgent], float]:
    async with AsyncExitStack() as stack:
        agents = await open_agents(load_agents(settings), stack)
        return list(agents.values()), _memory_mib()


def _memory_mib() -> float:
    """Of this process: what it shares with others counts in parts, where the kernel says so."""
    process = psutil.Process()
    try:
        found: Any = process.memory_full_info()
    except psutil.AccessDenied:
        found = process.memory_info()
    return float(getattr(found, "pss", found.rss)) / MIB


def _shown(agent: RegisteredAgent, settings: Settings) -> dict[str, Any]:
    hosted = agent.hosted
    most_s = float(settings.run_timeout_s)
    own_s = most_s if hosted is None else min(hosted.timeout_s or most_s, most_s)
    return {
        "name": agent.name,
        "version": agent.version,
        "kind": agent.kind,
        "from": agent.origin or "shipped",
        "cache": True if hosted is None else hosted.cache,
        "cache_scope": scope_of(agent.version),
        "memory": hosted is not None,
        "max_steps": None if hosted is None else hosted.max_steps,
        "attempts": settings.max_attempts
        if hosted is None
        else min(hosted.attempts, settings.max_attempts),
        "timeout_s": own_s,
        "input_bytes": agent.input_bytes or settings.max_body_bytes,
        "note": agent.note,
    }


def _as_text(told: dict[str, Any]) -> str:
    rows = [("AGENT", "VERSION", "KIND", "FROM", "CACHE", "STEPS", "TRIES", "SECONDS")]
    for it in told["agents"]:
        rows.append(
            (
                it["name"],
                it["version"],
                it["kind"],
                it["from"],
                it["cache_scope"] if it["cache"] else "off",
                str(it["max_steps"] or "–"),
                str(it["attempts"]),
                f"{it['timeout_s']:g}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    runner = told["runner"]
    lines += [
        "",
        f"A runner with them: {runner['memory_mib']:g} MiB, opened in "
        f"{runner['opened_s']:g} s.",
    ]
    notes = [f"{it['name']}: {it['note']}" for it in told["agents"] if it["note"]]
    return "\n".join([*lines, *notes])
