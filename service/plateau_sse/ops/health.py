"""Is it well: the components, each with its state and the cause.

Invariant: a check asks the component itself, now; nothing is reported well because it once was.
Not ready means that traffic must go elsewhere, and only that: a runner or a cache that is down
is told, and readers are served.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from redis.asyncio import Redis

from plateau_sse.errors import StoreError
from plateau_sse.ops.advice import Picture, died, silent
from plateau_sse.ops.canary import Canary, Ears
from plateau_sse.ops.overview import overview
from plateau_sse.ops.watch import CHECK_S, Watch
from plateau_sse.settings import Settings
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.redis.servers import CACHE, STREAMS, faults

Component = dict[str, Any]


class Health:
    """Checks for one web worker."""

    def __init__(
        self,
        streams: Redis,
        hub: Ears,
        canary: Canary,
        watch: Watch,
        settings: Settings,
        host: str,
    ) -> None:
        self._streams = streams
        self._hub = hub
        self._canary = canary
        self._watch = watch
        self._settings = settings
        self._host = host

    async def ready(self) -> Component:
        """May this worker get traffic: the streams instance answers and is heard."""
        if self._hub.draining:
            return {"status": "down", "cause": "this worker is being replaced"}
        redis = await self._ping()
        if redis["status"] == "up" and not self._hub.connected:
            return {"status": "down", "cause": "the subscribing connection is being made"}
        if redis["status"] == "up" and self._canary.deaf:
            return {"status": "down", "cause": "this worker does not hear the events written"}
        return redis

    async def whole(self) -> dict[str, Any]:
        """Every component, and the worst of what they say."""
        ready, seen = await asyncio.gather(self.ready(), self._watch.look(within_s=0))
        picture = overview(seen, self._settings, self._host)
        said = {advice["rule"]: advice["says"] for advice in picture["advice"]}
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
        for name, found in _causes(picture, said).items():
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
        return {"status": status, "components": components}

    async def _ping(self) -> Component:
        try:
            async with asyncio.timeout(CHECK_S):
                with store_errors():
                    await self._streams.ping()
        except TimeoutError:
            return {"status": "down", "cause": f"no answer within {CHECK_S:g} s"}
        except StoreError as error:
            return {"status": "down", "cause": str(error)}
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
        "runner": [silent(picture, "runner"), died(picture, {"runners_died": "runner"})],
        "queue": [said.get("queue")],
        "memory": [said.get("memory"), said.get("cgroup")],
        "web": [
            silent(picture, "web"),
            died(picture, {"workers_died": "worker"}),
            said.get("timeouts"),
        ],
    }


def _server(server: dict[str, Any], role: Any) -> Component:
    if server["state"] == "not configured":
        return {"status": "up", "cause": "not configured: every lookup is a miss"}
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
