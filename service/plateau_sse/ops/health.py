"""Is it well: the components, each with its state and the cause.

Invariant: a check asks the component itself, now; nothing is reported well because it once was.
Not ready means that traffic must go elsewhere, and only that: a runner or a cache that is down
is told, and readers are served. What everybody is told names no address and no process, and
costs next to nothing however often it is asked for.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from plateau_sse.errors import StoreError, WritesRefused
from plateau_sse.ops.advice import Picture, died, silent
from plateau_sse.ops.canary import Canary, Ears
from plateau_sse.ops.fitness import Fitness
from plateau_sse.ops.overview import overview
from plateau_sse.ops.watch import CHECK_S, Watch
from plateau_sse.settings import Settings
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.redis.servers import CACHE, CLOSED, STREAMS, faults

Component = dict[str, Any]

# As where a cluster's node, or a replica, names another.
_ADDRESS = re.compile(r"\S+:\d{2,5}\b")
# How long the short report is given out; one of what is not well is soon made anew, since
# somebody may wait for it to be.
SHORT_S, SHORT_ILL_S = 1.0, 0.1


class Health:
    """Checks for one web worker."""

    def __init__(
        self,
        streams: Redis,
        hub: Ears,
        canary: Canary,
        watch: Watch,
        fitness: Fitness,
        settings: Settings,
        host: str,
        is_leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        self._streams = streams
        self._hub = hub
        self._canary = canary
        self._watch = watch
        self._fitness = fitness
        self._settings = settings
        self._host = host
        self._is_leaving = is_leaving
        self._short: dict[str, Any] = {}
        self._short_until = float("-inf")
        self._shortening = asyncio.Lock()

    async def ready(self) -> Component:
        """May this worker get traffic: the streams instance answers, takes writes and is
        heard."""
        if self._hub.draining:
            return {"status": "down", "cause": "this worker is being replaced"}
        if self._is_leaving():
            return {"status": "down", "cause": "this server is stopping"}
        redis = await self._ping()
        if redis["status"] == "up" and (cause := self._unusable):
            return {"status": "down", "cause": _ADDRESS.sub("…", cause)}
        if redis["status"] == "up" and not self._hub.connected:
            return {"status": "down", "cause": "the subscribing connection is being made"}
        if redis["status"] == "up" and self._canary.deaf:
            return {"status": "down", "cause": "this worker does not hear the events written"}
        return redis

    @property
    def _unusable(self) -> str:
        """Why the streams instance, which answers, is of no use; '' where it is."""
        return self._fitness.cause or self._canary.refusal

    async def short(self) -> dict[str, Any]:
        """The states alone: for whoever asks."""
        async with self._shortening:
            if time.monotonic() >= self._short_until:
                report = await self.whole()
                parts = report["components"].items()
                states = {name: {"status": part["status"]} for name, part in parts}
                self._short = {"status": report["status"], "components": states}
                life_s = SHORT_S if report["status"] == "up" else SHORT_ILL_S
                self._short_until = time.monotonic() + life_s
            return self._short

    async def whole(self) -> dict[str, Any]:
        """Every component, and the worst of what they say; and each host, with its state."""
        ready, seen = await asyncio.gather(self.ready(), self._watch.look(within_s=0))
        picture = overview(seen, self._settings, self._host)
        said = {advice["rule"]: advice["says"] for advice in picture["advice"]}
        for advice in picture["advice"]:
            if advice["rule"] == "versions":
                # What is wrong is nothing that its runners could say in their logs.
                said["versions"] += f". {advice['change']}"
        components = {
            "streams": _server(picture["redis"]["streams"], STREAMS),
            "cache": _server(picture["redis"]["cache"], CACHE),
            "delivery": self._delivery(ready, said),
            "runner": _runner(picture["runs"]),
            "queue": {"status": "up", "oldest_waiting_s": picture["runs"]["oldest_waiting_s"]},
            "memory": {
                "status": "up",
                "total_mb": picture["memory"]["total_mb"],
                "warn_mb": picture["memory"]["warn_mb"],
            },
            "web": {"status": ready["status"], "pid": os.getpid()},
        }
        causes_of = _causes(picture, said)
        causes_of["streams"].append(self._unusable)
        for name, found in causes_of.items():
            causes = [cause for cause in found if cause]
            if causes and components[name]["status"] == "up":
                components[name] |= {"status": "degraded", "cause": "; ".join(causes)}
        if "evictions" in said and components["cache"]["status"] == "up":
            # Told, and no fault: a full cache that evicts does what it is for.
            components["cache"]["cause"] = said["evictions"]
        if ready["status"] == "down":
            components["web"]["cause"] = ready["cause"]
        if components["streams"]["status"] == "down":
            status = "down"
        elif any(part["status"] != "up" for part in components.values()):
            status = "degraded"
        else:
            status = "up"
        hosts = {
            it["host"]: {
                "status": it["state"],
                **({"cause": it["cause"]} if it["cause"] else {}),
            }
            for it in picture["hosts"]
        }
        return {"status": status, "components": components, "hosts": hosts}

    async def _ping(self) -> Component:
        try:
            async with asyncio.timeout(CHECK_S):
                with store_errors():
                    await self._streams.ping()
        except TimeoutError:
            return {"status": "down", "cause": f"no answer within {CHECK_S:g} s"}
        except WritesRefused as error:
            return {"status": "down", "cause": _ADDRESS.sub("…", str(error))}
        except StoreError:
            # What it says names the address.
            return {"status": "down", "cause": "the streams instance does not answer"}
        return {"status": "up"}

    def _delivery(self, ready: Component, said: dict[str, str]) -> Component:
        """Of events, by the canaries of all workers."""
        if self._canary.deaf or not self._hub.connected:
            return {"status": "down", "cause": ready.get("cause", "events are not heard")}
        if "deaf" in said:
            return {"status": "degraded", "cause": said["deaf"]}
        return {"status": "up", "lag_ms": self._canary.lag_ms}


def _causes(picture: Picture, said: dict[str, str]) -> dict[str, list[str | None]]:
    """What makes which component less than well, though it answers."""
    return {
        "streams": [said.get("full")],
        "runner": [
            silent(picture, "runner"),
            died(picture, {"runners_died": "runner"}),
            said.get("hanging"),
            said.get("versions"),
        ],
        "queue": [said.get("queue")],
        "memory": [said.get("memory"), said.get("cgroup")],
        "web": [
            silent(picture, "web"),
            died(picture, {"workers_died": "worker"}),
            said.get("timeouts"),
            said.get("connections"),
            said.get("heavy"),
        ],
    }


def _server(server: dict[str, Any], role: Any) -> Component:
    if server["state"] == "not configured":
        return {"status": "up", "cause": "not configured: every lookup is a miss"}
    if server["state"] == CLOSED:
        return {"status": "degraded", "cause": CLOSED}
    if server["state"] != "up":
        return {"status": "down", "cause": server["state"]}
    found = {
        "version": server["version"],
        "policy": server["policy"],
        "used_bytes": server["used_memory"],
        "max_bytes": server["maxmemory"],
    }
    wrong = faults(role, server)
    if wrong:
        return {"status": "degraded", "cause": "; ".join(wrong), **found}
    return {"status": "up", **found}


def _runner(runs: dict[str, Any]) -> Component:
    found = {"alive": runs["runners"], "waiting": runs["waiting"], "running": runs["running"]}
    if runs["runners"]:
        return {"status": "up", **found}
    cause = "no runner is alive: new runs are refused, cached answers are served"
    if runs["runners"] is None:
        cause = "the streams instance does not say"
    return {"status": "down", "cause": cause, **found}
