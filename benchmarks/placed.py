"""Plateau on hosts of its own: network namespaces, each with a web worker and a runner.

Invariant: what was started is ended, by its id, when the block ends; a host that is drained or
cut off keeps its address.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests import netns
from tests.deployment import AGENTS
from tests.netns import Host
from tests.nginx import PLAIN, Proxy, nginx
from tests.processes import environment, free_ports, wait_until

from benchmarks.chaos.fleet import Member
from plateau_sse.serve.redis_server import Role, options, server_binary
from plateau_sse.settings import Settings

KEY, ADMIN = "a-key-of-the-load", "the-operators-own-token"
PORT = 8000
GRACE_S = 10
# A runner keeps 2 s of it for handing back.
ENDS_WITHIN_S = GRACE_S + 5
# nginx counts by address, and all readers have one here.
MANY = {"rate=50r/s": "rate=5000r/s", "open 500;": "open 20000;"}


@dataclass
class Placed:
    """A host, and what of Plateau runs there."""

    host: Host
    members: list[Member]

    @property
    def url(self) -> str:
        return f"http://{self.host.address}:{PORT}"

    def is_up(self) -> bool:
        """By what its own worker says."""
        with suppress(httpx.HTTPError, KeyError):
            health = self.health()
            parts = health["components"]
            its = health["hosts"][self.host.name]["status"]
            return its == "up" and all(
                parts[name]["status"] == "up" for name in ("streams", "delivery", "runner")
            )
        return False

    def health(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {ADMIN}"}
        answer = httpx.get(f"{self.url}/health", headers=headers, timeout=5, trust_env=False)
        found: dict[str, Any] = answer.json()
        return found

    def drain(self) -> float:
        """As an operator does: SIGTERM to all of it; the seconds until it is gone."""
        began = time.monotonic()
        for member in self.members:
            member.send(signal.SIGTERM)
        wait_until(
            lambda: not any(member.alive for member in self.members),
            f"{self.host.name} has gone",
            timeout_s=ENDS_WITHIN_S + 15,
        )
        return time.monotonic() - began

    def start(self) -> None:
        for member in self.members:
            member.start()

    def badly_ended(self) -> list[str]:
        """Who broke something off, or failed, in words."""
        found = [f"{it.name} ended with {it.code}" for it in self.members if it.code]
        for member in self.members:
            said = member.log.read_text(errors="replace").splitlines()
            found += [line for line in said if "are cut" in line or "Traceback" in line]
        return found


@contextmanager
def staged(folder: Path) -> Iterator[tuple[tuple[Placed, ...], Proxy]]:
    """Two hosts that are up, and nginx before them."""
    with ExitStack() as stack:
        machines = stack.enter_context(netns.hosts("one", "two"))
        gateways = [machine.gateway for machine in machines]
        urls = {}
        for role in ("streams", "cache"):
            server, port = _server(role, folder)
            stack.callback(server.end)
            server.start()
            # Each host reaches it by the end of its own link.
            urls[role] = [f"redis://{gateway}:{port}/0" for gateway in gateways]
        stores = list(zip(urls["streams"], urls["cache"], strict=True))
        places = stack.enter_context(served(machines, stores, folder))
        shipped = f"server 127.0.0.1:{PORT} max_fails=0;"
        servers = (shipped.replace("127.0.0.1", it.address) for it in machines)
        changes = {**PLAIN, **MANY, shipped: "\n    ".join(servers)}
        yield places, stack.enter_context(nginx(folder / "nginx", PORT, changes))


@contextmanager
def served(
    machines: Sequence[Host], stores: Sequence[tuple[str, str]], folder: Path
) -> Iterator[tuple[Placed, ...]]:
    """A web worker and a runner on each, over its own addresses of the streams and the
    cache; all are up when the block begins."""
    with ExitStack() as stack:
        places = []
        for machine, (streams_url, cache_url) in zip(machines, stores, strict=True):
            placed = _placed(machine, streams_url, cache_url, folder)
            for member in placed.members:
                stack.callback(member.end)
            placed.start()
            places.append(placed)
        for placed in places:
            wait_until(placed.is_up, f"{placed.host.name} is up", timeout_s=60)
        yield tuple(places)


def _server(role: Role, folder: Path) -> tuple[Member, int]:
    port, data = free_ports(1), folder / role
    data.mkdir(parents=True)
    settings = Settings(redis_server_bin=os.environ.get("REDIS_SERVER_BIN", ""))
    words = [server_binary(settings)]
    given = options(role, settings, data, port) | {"bind": "*", "protected-mode": "no"}
    for name, value in given.items():
        words += [f"--{name}", value]
    return Member(role, words, environment({}), folder), port


def _placed(host: Host, streams_url: str, cache_url: str, folder: Path) -> Placed:
    env = {
        "AGENTS": AGENTS,
        "REDIS_URL": streams_url,
        "CACHE_REDIS_URL": cache_url,
        "API_KEYS": KEY,
        "ADMIN_TOKEN": ADMIN,
        "HOST": host.address,
        "PORT": str(PORT),
        "WEB_CONCURRENCY": "1",
        "RUNNER_CONCURRENCY": "64",
        "GRACEFUL_TIMEOUT_S": str(GRACE_S),
    }
    members = []
    for command in ("runner", "web"):
        name = f"{host.name}-{command}"
        words = [*host.within, sys.executable, "-m", "plateau_sse", command]
        settings = environment({"DATA_DIR": str(folder / name), **env})
        members.append(Member(name, words, settings, folder))
    return Placed(host, members)
