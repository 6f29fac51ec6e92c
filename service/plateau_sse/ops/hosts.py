"""The hosts that serve together: what each uses and does, and whether it is well.

Invariant: a host is known by what its processes say of themselves, by the store's clock. One
that says nothing any more is shown as down until all of it is forgotten. Hosts of one name are
one here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Section = dict[str, Any]

UP, LEAVING, DEGRADED, DOWN = "up", "leaving", "degraded", "down"


def hosts_of(memory: Sequence[Section], processes: Sequence[Section]) -> list[Section]:
    """By their names, each with its sums; `memory` and `processes` are the rows that the
    picture has of all of them, the first also of masters and Redis servers."""
    names = sorted({str(row["host"]) for row in (*memory, *processes)})
    return [
        _host(
            name,
            [row for row in memory if row["host"] == name],
            [one for one in processes if one["host"] == name],
        )
        for name in names
    ]


def _host(name: str, memory: Sequence[Section], processes: Sequence[Section]) -> Section:
    web = [one for one in processes if one["role"] == "web"]
    runners = [one for one in processes if one["role"] == "runner"]
    state, cause = _state(processes, web, runners)
    return {
        "host": name,
        "state": state,
        "cause": cause,
        "web": len(web),
        "runners": len(runners),
        "open": sum(int(one.get("open", 0)) for one in web),
        "running": sum(int(one.get("running", 0)) for one in runners),
        "places": sum(int(one.get("places", 0)) for one in runners),
        "pss_bytes": sum(row["pss_bytes"] for row in memory),
        "rss_bytes": sum(row["rss_bytes"] for row in memory),
        # Of all cores: 2.0 are two that are busy.
        "cpu": round(sum(float(one.get("cpu", 0)) for one in processes), 4),
        "age_s": min((one["age_s"] for one in processes), default=None),
    }


def _state(
    processes: Sequence[Section], web: Sequence[Section], runners: Sequence[Section]
) -> tuple[str, str]:
    silent = [one for one in processes if one["silent"]]
    if processes and len(silent) == len(processes):
        age_s = min(one["age_s"] for one in silent)
        return DOWN, f"nothing of it has said anything for {age_s:.0f} s"
    deaf = [one for one in web if one.get("deaf")]
    causes = [
        f"{len(found)} of {len(among)} {words}"
        for found, among, words in (
            (silent, processes, "processes have said nothing for too long"),
            (deaf, web, "web workers do not hear the events that are written"),
        )
        if found
    ]
    if causes:
        return DEGRADED, "; ".join(causes)
    # One worker that is replaced leaves the others; a host that leaves begins with its runners.
    for role, among in (("runners", runners), ("web workers", web)):
        if among and all(one.get("leaving") for one in among):
            return LEAVING, f"its {role} finish what they have, and take on nothing new"
    return UP, ""
