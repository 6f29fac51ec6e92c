"""Plateau as one would run it on several machines: `web` and `runner` processes of their own.

Invariant: what it starts it ends, by id, when the `with` block ends.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from tests.processes import (
    REPOSITORY,
    environment,
    free_ports,
    package_of,
    path_of,
    wait_until,
)

AGENTS = "words=tests.sample_agents:words"


@dataclass
class Deployment:
    """`urls` is one for each web process; `runners` are the processes of the runners."""

    urls: list[str] = field(default_factory=list)
    webs: list[subprocess.Popen[bytes]] = field(default_factory=list)
    runners: list[subprocess.Popen[bytes]] = field(default_factory=list)


@contextmanager
def deployed(
    folder: Path,
    *,
    streams_url: str,
    cache_url: str = "",
    webs: int = 2,
    runners: int = 1,
    web_streams_url: str = "",
    env: Mapping[str, str] | None = None,
    web_code: Path = REPOSITORY,
    runner_code: Path = REPOSITORY,
) -> Iterator[Deployment]:
    """`webs` processes of one worker each, and `runners`; ready when the block begins.

    `web_streams_url` is what the web processes get as REDIS_URL where it is to differ; of
    `web_code` and `runner_code` each may be another checkout.
    """
    common = {"AGENTS": AGENTS, "CACHE_REDIS_URL": cache_url, **(env or {})}
    folder.mkdir(parents=True, exist_ok=True)
    result = Deployment()
    with ExitStack() as stack:
        for index in range(runners):
            overrides = common | {"REDIS_URL": streams_url}
            name = f"runner{index}"
            result.runners.append(_start(stack, folder, name, runner_code, "runner", overrides))
        for index in range(webs):
            port = free_ports(1)
            overrides = common | {
                "REDIS_URL": web_streams_url or streams_url,
                "PORT": str(port),
                "WEB_CONCURRENCY": "1",
            }
            name = f"web{index}"
            result.webs.append(_start(stack, folder, name, web_code, "web", overrides))
            result.urls.append(f"http://127.0.0.1:{port}")
        for url in result.urls:
            wait_until(partial(_is_up, url, bool(runners)), f"{url} is up", timeout_s=30)
        yield result


def _start(
    stack: ExitStack,
    folder: Path,
    name: str,
    code: Path,
    command: str,
    overrides: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    log = stack.enter_context((folder / f"{name}.log").open("wb"))
    process = subprocess.Popen(
        [sys.executable, "-m", package_of(code), command],
        env=environment(
            {"DATA_DIR": str(folder / name), "PYTHONPATH": path_of(code), **overrides}
        ),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
        raise


def _is_up(url: str, with_runner: bool) -> bool:
    try:
        health = httpx.get(f"{url}/health", timeout=5).json()
    except httpx.TransportError:
        return False
    needed = ("streams", "runner") if with_runner else ("streams",)
    return all(health["components"][part]["status"] == "up" for part in needed)
