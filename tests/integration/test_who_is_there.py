"""Which processes there are, and how they ended: told at once, and told as it was."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from plateau_sse import tasks
from plateau_sse.ops import process
from plateau_sse.ops.reporting import Reporter
from plateau_sse.store.figures.workers import Workers
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from tests.integration.test_serve import RUNNER, WORKER, linux_only
from tests.processes import Serving, serving, wait_until
from tests.store import until

TOKEN = "the-operators-own-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ENV = {"ADMIN_TOKEN": TOKEN, "WEB_CONCURRENCY": "4"}
ROLES = ["master", "redis-cache", "redis-streams", "runner", *["web"] * 4]


def picture(running: Serving) -> dict[str, Any]:
    # Over a connection of its own: whichever worker the kernel chooses.
    answer = httpx.get(f"{running.url}/api/admin/metrics", headers=BEARER, timeout=10)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def processes(running: Serving) -> dict[int, str]:
    return {row["pid"]: row["role"] for row in picture(running)["memory"]["processes"]}


def health(running: Serving) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{running.url}/health", headers=BEARER).json()
    return found


def test_whoever_asks_first_is_told_of_all_processes(tmp_path: Path) -> None:
    """Also of a worker that has looked around before the others were there."""
    with serving(tmp_path, env=ENV) as running:
        told = [processes(running) for _ in range(30)]
        assert [sorted(one.values()) for one in told] == [ROLES] * 30
        assert set(told[0]) == set(running.tree())


@linux_only
def test_a_killed_serve_leaves_no_figures_behind(tmp_path: Path) -> None:
    """Those of another host, and of pids that are not ours to look at, do stay."""
    with serving(tmp_path, env=ENV) as running:
        wait_until(lambda: len(processes(running)) == len(ROLES), "all have said something")
        running.stop(signal.SIGKILL)
    with serving(tmp_path, env=ENV) as again:
        # Its runner may have to be waited for: the dead one's places are known.
        assert set(processes(again)) <= set(again.tree())
        wait_until(lambda: set(processes(again)) == set(again.tree()), "the new ones are there")
        assert not any(one["silent"] for one in picture(again)["workers"]["processes"])
        assert health(again)["status"] == "up"


def test_only_who_is_known_to_be_gone_is_forgotten(streams_url: str) -> None:
    """Of one's own host, and among pids that can be looked at from here."""

    async def scenario(living: int, another: int) -> None:
        redis: Any = connect(streams_url, "test")
        here = {"space": process.space(), "born": process.born()}
        host, ours = socket.gethostname(), os.getpid()
        others = {
            f"{host}:{living}": {**here, "born": process.born(living)},
            # As they are told of by releases that say no more.
            f"{host}:999999": {},
            f"{host}:999998": {**here, "space": "another kernel's"},
            "elsewhere:999997": here,
        }
        gone = {
            f"{host}:999996": here,
            # Of a pid that another process has by now.
            f"{host}:{another}": {**here, "born": process.born(another) - 100},
        }
        for name, figures in (others | gone).items():
            where, _, pid = name.partition(":")
            said = {"role": "web", "host": where, "pid": pid, **figures}
            await redis.hset(keys.worker(name), mapping={**said, "at": time.time()})
            await redis.expire(keys.worker(name), 60)
            await redis.zadd(keys.WORKERS, {name: time.time()})
        workers = Workers(redis, "web")
        reporting = asyncio.create_task(Reporter(workers, dict).keep_reporting())

        async def are_there() -> bool:
            found = {f"{it['host']}:{it['pid']}" for it in await workers.all()}
            return found == {*others, f"{host}:{ours}"}

        await until(are_there, "the gone are forgotten, the others are not")
        await tasks.end(reporting)
        await redis.aclose()

    waiting = [sys.executable, "-c", "input()"]
    with (
        subprocess.Popen(waiting, stdin=subprocess.PIPE) as living,
        subprocess.Popen(waiting, stdin=subprocess.PIPE) as another,
    ):
        asyncio.run(scenario(living.pid, another.pid))


@contextmanager
def asking(running: Serving) -> Iterator[list[int]]:
    """POSTs one question after the other meanwhile; gives the statuses of the answers."""
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            body = {"agent": "study", "input": f"Some text to sum up. {uuid4()}"}
            try:
                statuses.append(
                    httpx.post(f"{running.url}/v1/runs", json=body, timeout=20).status_code
                )
            except httpx.TransportError:
                # A worker that leaves closes connections that have asked nothing.
                continue
            time.sleep(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        over.set()
        thread.join(30)


def reload(running: Serving) -> None:
    running.send(signal.SIGHUP)


def reload_twice(running: Serving) -> None:
    """The second finds the workers of the first on their way up."""
    running.send(signal.SIGHUP)
    before = set(running.pids(WORKER))
    wait_until(lambda: set(running.pids(WORKER)) - before, "the first is under way")
    running.send(signal.SIGHUP)


def dismiss_the_runner(running: Serving) -> None:
    os.kill(running.pids(RUNNER)[0], signal.SIGTERM)


@pytest.mark.parametrize("restart", [reload, reload_twice, dismiss_the_runner])
def test_an_end_that_was_asked_for_is_no_death(tmp_path: Path, restart: Any) -> None:
    with serving(tmp_path, env=ENV) as running:
        old = set(running.pids(RUNNER))
        if restart is not dismiss_the_runner:
            old |= set(running.pids(WORKER))
        with asking(running) as statuses:
            wait_until(lambda: statuses, "somebody asks")
            restart(running)
            wait_until(lambda: not old & running.tree().keys(), "the old ones have gone")
            wait_until(lambda: len(running.pids(RUNNER)) == 1, "another runner is there")
            wait_until(lambda: len(running.pids(WORKER)) == 4, "as many workers as before")
            so_many = len(statuses)
            wait_until(lambda: len(statuses) > so_many + 5, "it goes on")
        wait_until(lambda: set(processes(running)) == set(running.tree()), "all are told of")
        found = picture(running)
        ends = {name: found["workers"][name] for name in ("workers_died", "runners_died")}
        assert ends == {"workers_died": 0, "runners_died": 0}
        assert health(running)["status"] == "up", health(running)
        assert "died" not in running.stderr
        assert set(statuses) == {202}


def test_nobody_is_turned_away_while_a_dead_runner_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path, env=ENV) as running, asking(running) as statuses:
        (old,) = running.pids(RUNNER)
        wait_until(lambda: statuses, "somebody asks")
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: running.pids(RUNNER) not in ([], [old]), "another is there")
        so_many = len(statuses)
        wait_until(lambda: len(statuses) > so_many + 5, "it goes on")
        assert set(statuses) == {202}
        assert picture(running)["workers"]["runners_died"] == 1
