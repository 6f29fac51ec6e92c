"""Whatever breaks is told within ten seconds, where operators look, in the right words; and no
more once it is mended.

The faults are independent of each other, so they happen at the same time.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.conftest import Server, end_server, start_server
from tests.integration.told import HURRIED, TOKEN, WITHIN_S, Told, hurried
from tests.processes import Serving, serving, wait_until
from tests.proxy import MessageDropper, dropping_messages

RUNNER = "plateau: runner"
NO_RUNNER = "no runner is alive: new runs are refused, cached answers are served"


@dataclass
class Site:
    """Two web workers, one of them behind a proxy, and a runner of their own; `told` looks at
    the one that is not."""

    folder: Path
    env: dict[str, str]
    streams: Server
    cache: Server
    dropper: MessageDropper
    runner: Serving
    told: Told
    behind: Told
    stack: ExitStack

    def break_policies(self) -> None:
        for server, right, wrong, component in (
            (self.streams, "noeviction", "allkeys-lru", "streams"),
            (self.cache, "allkeys-lru", "volatile-ttl", "cache"),
        ):
            with server.client() as redis:
                redis.config_set("maxmemory-policy", wrong)
                self.told.within(
                    component,
                    f"the policy of the {component} is {wrong}",
                    "policy",
                    f"CONFIG SET maxmemory-policy {right}",
                )
                redis.config_set("maxmemory-policy", right)
                self.told.no_more(component, "policy")

    def stop_the_runner(self) -> None:
        self.runner.send(signal.SIGSTOP)
        self.told.within("runner", NO_RUNNER, "no_runner")
        assert self.told.health()["components"]["runner"]["alive"] == 0
        self.runner.send(signal.SIGKILL)
        self.stack.enter_context(hurried(self.folder / "another", "runner", self.env))
        # It had no master, so nobody knows more of it than that it has fallen silent.
        self.told.no_more("runner", "no_runner")
        self.told.no_more("runner", "silent")
        assert self.told.health()["components"]["runner"]["alive"] == 1

    def deafen_a_worker(self) -> None:
        worker = self.behind.health()["components"]["web"]["pid"]
        says = f"web worker {socket.gethostname()}:{worker} does not hear the events"
        self.dropper.dropping = True
        self.told.within("delivery", says, "deaf")
        self.behind.within("delivery", "does not hear the events written", "deaf", says)
        assert self.behind.is_ready() == (False, "this worker does not hear the events written")
        assert self.told.is_ready() == (True, "")
        assert self.told.health()["components"]["web"]["status"] == "up"
        self.dropper.dropping = False
        wait_until(lambda: self.behind.is_ready()[0], "it hears again")
        for told in (self.told, self.behind):
            told.no_more("delivery", "deaf")

    def use_more_memory_than_one_should(self) -> None:
        env = {**self.env, "MEMORY_WARN_MB": "1"}
        with hurried(self.folder / "small", "web", env) as web, Told(web.url) as told:
            told.within("memory", "MiB in use, over MEMORY_WARN_MB=1", "memory")
            # The line is each service's own.
            assert self.told.said("memory", "memory") == ("", "", "")
        with hurried(self.folder / "large", "web", self.env) as web, Told(web.url) as told:
            told.no_more("memory", "memory")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        streams = start_server("streams", tmp_path / "streams")
        stack.callback(end_server, streams)
        cache = start_server("cache", tmp_path / "cache")
        stack.callback(end_server, cache)
        dropper = stack.enter_context(dropping_messages(streams.url))
        dropper.dropping = False
        env = {
            "REDIS_URL": streams.url,
            "CACHE_REDIS_URL": cache.url,
            "WEB_CONCURRENCY": "1",
        }
        behind = {**env, "REDIS_URL": dropper.url}
        runner = stack.enter_context(hurried(tmp_path / "runner", "runner", env))
        urls = [
            stack.enter_context(hurried(tmp_path / name, "web", its_env)).url
            for name, its_env in (("web", env), ("behind", behind))
        ]
        told = [stack.enter_context(Told(url)) for url in urls]
        wait_until(lambda: all(one.is_well() for one in told), "all is well")
        near, far = told
        yield Site(tmp_path, env, streams, cache, dropper, runner, near, far, stack)


@dataclass
class Whole:
    """A `serve` with all that it starts."""

    running: Serving
    told: Told
    streams: Any
    cache: Any

    def evict(self) -> None:
        for number in range(150):
            self.cache.set(f"answer{number}", os.urandom(100_000), ex=60)
        self.told.within("cache", "answers were evicted in the last minute", "evictions")
        # Which a full cache may do for ever.
        assert self.told.health()["components"]["cache"]["status"] == "up"
        self.told.no_more("cache", "evictions")

    def fill_the_streams(self) -> None:
        bound = self.streams.config_get("maxmemory")["maxmemory"]
        self.streams.config_set("maxmemory", self.streams.info("memory")["used_memory"])
        self.told.within("streams", "% full: new runs are refused", "full")
        wait_until(lambda: _age_of_the_web_s(self.told) < 1, "it goes on telling of itself")
        self.streams.config_set("maxmemory", bound)
        self.told.no_more("streams", "full")

    def kill_the_runner(self) -> None:
        """It is started again at once."""
        (runner,) = self.running.pids(RUNNER)
        os.kill(runner, signal.SIGKILL)
        says = "died and were started again in the last minute: 1 runner"
        self.told.within("runner", says, "died")
        wait_until(
            lambda: runner not in _pids(self.told), "it is forgotten", timeout_s=WITHIN_S
        )
        assert "silent" not in {advice["rule"] for advice in self.told.metrics()["advice"]}
        self.told.no_more("runner", "died")
        assert self.running.pids(RUNNER) not in ([], [runner])


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Whole]:
    env = {"ADMIN_TOKEN": TOKEN, "WEB_CONCURRENCY": "1"}
    arguments = ["-c", HURRIED, "serve"]
    with (
        serving(tmp_path / "whole", arguments=arguments, env=env) as running,
        Told(running.url) as told,
        Redis.from_url(running.streams_url, protocol=2) as streams,
        Redis.from_url(running.cache_url, protocol=2) as cache,
    ):
        yield Whole(running, told, streams, cache)


def at_once(*acts: Callable[[], None]) -> None:
    """Each to its end; the first failure is the test's."""
    with ThreadPoolExecutor(len(acts)) as pool:
        for done in [pool.submit(act) for act in acts]:
            done.result()


def test_what_breaks_is_told_and_no_more_once_it_is_mended(site: Site, whole: Whole) -> None:
    at_once(
        site.break_policies,
        site.stop_the_runner,
        site.deafen_a_worker,
        site.use_more_memory_than_one_should,
        whole.evict,
        whole.fill_the_streams,
        whole.kill_the_runner,
    )
    for told in (site.told, whole.told):
        try:
            wait_until(told.is_well, "all is well again")
        except AssertionError as error:
            error.add_note(str(told.health()))
            raise
        assert told.metrics()["advice"] == []


def _pids(told: Told) -> set[int]:
    """Of those whose memory is in the picture, or who are shown."""
    picture = told.metrics()
    rows = [*picture["memory"]["processes"], *picture["workers"]["processes"]]
    return {row["pid"] for row in rows}


def _age_of_the_web_s(told: Told) -> float:
    """Since its worker has said something."""
    (web,) = [one for one in told.metrics()["workers"]["processes"] if one["role"] == "web"]
    return float(web["age_s"])
