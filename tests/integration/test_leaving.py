"""Workers that leave under hundreds of open streams: recycled, replaced, stopped.

Invariant of these tests: every open response ends in good order, and its reader goes on
elsewhere with nothing lost and nothing repeated.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.far import skip_unless_asked
from tests.faults import append, check_log, output_of, record_of, start_run
from tests.processes import Serving, await_banner, free_ports, launch, serving, wait_until
from tests.sample_agents import words_of
from tests.watched import Pace, Watched, until

WORKER, RUNNER = "gunicorn: worker", "plateau: runner"
AGENTS = {"AGENTS": "words=tests.sample_agents:words"}
READERS = 300
WORDS_LEFT = 40
# A worker ends its responses within 2 s; the rest is what a busy machine may add.
WITHIN_S, MARGIN_S = 2.0, 2.0

YOUNG_WORKERS = """
from plateau_sse.cli import main
from plateau_sse.serve.worker import PlateauWorker

PlateauWorker.min_age_s = 0
raise SystemExit(main(["serve"]))
"""


@dataclass
class Crowd:
    """`READERS` readers of a few runs of `words` words, which say `WORDS_LEFT` of them once
    `gate` is there: whatever the machine is busy with, they are on until then."""

    url: str
    words: int
    gate: Path
    texts: Sequence[str] = ("one", "two", "three", "four", "five", "six")
    runs: list[dict[str, str]] = field(default_factory=list)
    readers: list[Watched] = field(default_factory=list)
    following: list[asyncio.Task[None]] = field(default_factory=list)

    def options(self, count: int) -> dict[str, object]:
        gate = {"gate": str(self.gate), "hold_at": self.words - WORDS_LEFT}
        return {"count": count, "pause_ms": 100, **gate}

    async def gather(self) -> None:
        for text in self.texts:
            options = self.options(self.words)
            self.runs.append(
                await asyncio.to_thread(lambda: start_run(self.url, "words", text, **options))  # noqa: B023
            )
        self.readers = [
            Watched([self.url], self.runs[index % len(self.runs)]["events_url"])
            for index in range(READERS)
        ]
        self.following = [asyncio.create_task(reader.follow()) for reader in self.readers]
        await until(lambda: all(reader.delivered for reader in self.readers), "all are told")

    async def to_the_end(self) -> None:
        await asyncio.gather(*self.following)

    def check(self) -> None:
        for index, reader in enumerate(self.readers):
            text = self.texts[index % len(self.texts)]
            reader.check_whole("".join(words_of(text, self.words)))
            reader.check_clean(responses=reader.connections)
        for text, run in zip(self.texts, self.runs, strict=True):
            assert output_of(self.url, run) == "".join(words_of(text, self.words))

    def first_ends_within(self, began: float) -> None:
        """Of those that had to leave, the last one did so in time."""
        ended = [
            reader.ends[0].at
            for reader in self.readers
            if reader.ends and (len(reader.ends) > 1 or reader.end is None)
        ]
        assert len(ended) == READERS, "not all of them had to leave"
        assert max(ended) - began < WITHIN_S + MARGIN_S


@contextmanager
def knocking(url: str) -> Iterator[Callable[[], int]]:
    """New connections, one after the other; a failed one fails the test. Gives how many. By
    hand: what a library does for each would hold up the readers, who live in this process."""
    stop = threading.Event()
    answered = 0
    failed: list[str] = []

    def knock() -> None:
        nonlocal answered
        while not stop.is_set():
            try:
                with closing(HTTPConnection(urlsplit(url).netloc, timeout=15)) as connection:
                    connection.request("GET", "/v1/models")
                    answer = connection.getresponse()
                    assert answer.status == 200, answer.read()
                answered += 1
            except (HTTPException, OSError, AssertionError) as error:
                failed.append(f"{error!r} after {answered}")

    threads = [threading.Thread(target=knock) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: answered
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not failed, failed


def test_recycling_under_hundreds_of_streams(tmp_path: Path) -> None:
    env = {**AGENTS, "MAX_REQUESTS": "40", "MAX_REQUESTS_JITTER": "5"}

    async def scenario(running: Serving) -> None:
        crowd = Crowd(running.url, words=300, gate=tmp_path / "gate")
        first = set(running.pids(WORKER))
        await crowd.gather()
        with knocking(running.url):
            await asyncio.to_thread(
                wait_until,
                lambda: not first & set(running.pids(WORKER)),
                "both are replaced",
                timeout_s=40,
            )
        crowd.gate.touch()
        await crowd.to_the_end()
        crowd.check()
        assert not sum(reader.refused for reader in crowd.readers)
        # All but those who chanced upon a new worker.
        assert sum(len(reader.ends) > 1 for reader in crowd.readers) > READERS / 2
        # The runner is no part of it.
        assert {record_of(running.url, run)["attempt"] for run in crowd.runs} == {1}

    with serving(tmp_path, arguments=["-c", YOUNG_WORKERS], env=env) as running:
        asyncio.run(scenario(running))
        assert "recycled after" in running.stderr
        assert "died" not in running.stderr and "cut" not in running.stderr
        check_log(running.stderr)


def test_sighup_under_hundreds_of_streams(tmp_path: Path) -> None:
    async def scenario(running: Serving) -> None:
        crowd = Crowd(running.url, words=60, gate=tmp_path / "gate")
        old = {*running.pids(WORKER), *running.pids(RUNNER)}
        await crowd.gather()
        with knocking(running.url):
            began = time.monotonic()
            running.send(signal.SIGHUP)
            crowd.gate.touch()
            await crowd.to_the_end()
            await asyncio.to_thread(
                wait_until, lambda: not old & running.tree().keys(), "the old ones have gone"
            )
        crowd.check()
        assert not sum(reader.refused for reader in crowd.readers)
        crowd.first_ends_within(began)
        # The old runner has finished what it had.
        assert {record_of(running.url, run)["attempt"] for run in crowd.runs} == {1}

    with serving(tmp_path, env=AGENTS) as running:
        asyncio.run(scenario(running))
        assert "died" not in running.stderr and "cut" not in running.stderr
        check_log(running.stderr)


def test_a_host_that_leaves_refuses_no_run_while_the_store_stays(
    tmp_path: Path, streams_url: str, cache_url: str
) -> None:
    """What it takes on then has a place in the queue, and is another's."""
    gate = tmp_path / "gate"
    env = {**AGENTS, "REDIS_URL": streams_url, "CACHE_REDIS_URL": cache_url}
    with serving(tmp_path / "one", env=env) as running:
        held = start_run(running.url, "words", count=9, hold_at=3, gate=str(gate))
        wait_until(lambda: record_of(running.url, held)["status"] == "running", "it is on")
        running.send(signal.SIGTERM)
        wait_until(lambda: not running.is_ready(), "it is stopping")
        late = start_run(running.url, "words", "late", count=3)
        gate.touch()
        assert running.stop() == 0
        check_log(running.stderr)
    with serving(tmp_path / "two", env=env) as running:
        for run, text, count in ((held, "anything", 9), (late, "late", 3)):
            wait_until(lambda: record_of(running.url, run)["ended_at"], "it has ended")  # noqa: B023
            assert output_of(running.url, run) == "".join(words_of(text, count))
            assert record_of(running.url, run)["attempt"] == 1


def test_sigterm_and_a_new_start_under_hundreds_of_streams(tmp_path: Path) -> None:
    """What the runner can finish in its grace is read to its end; the rest is handed back, and
    the next one begins anew."""
    skip_unless_asked("a restart of half a minute")
    env = {**AGENTS, "GRACEFUL_TIMEOUT_S": "17", "PORT": str(free_ports())}
    longer = "a long one"

    def is_too_late() -> bool:
        """Who is quicker than the signal is taken on."""
        body = {"agent": "words", "input": "too late", "options": {"count": 1}}
        return (
            httpx.post(f"http://127.0.0.1:{env['PORT']}/v1/runs", json=body).status_code == 503
        )

    async def scenario(first: Serving, second: list[Serving]) -> None:
        crowd = Crowd(first.url, words=60, gate=tmp_path / "gate")
        long_run = start_run(first.url, "words", longer, **crowd.options(200))
        reader = Watched([first.url], long_run["events_url"])
        following = asyncio.create_task(reader.follow())
        await crowd.gather()
        crowd.gate.touch()
        first.send(signal.SIGTERM)
        await asyncio.to_thread(wait_until, is_too_late, "nobody is taken on any more")
        await asyncio.to_thread(wait_until, lambda: not first.is_ready(), "it says so")
        assert record_of(first.url, long_run)["status"] == "running"
        assert await asyncio.to_thread(first.stop) == 0
        check_log(first.stderr)
        assert "cut" not in first.stderr
        assert all(reader.connections == 1 for reader in crowd.readers)
        second.append(launch(tmp_path / "data", env=env))
        await asyncio.to_thread(await_banner, second[0])
        await crowd.to_the_end()
        await following
        crowd.check()
        assert {record_of(first.url, run)["attempt"] for run in crowd.runs} == {1}
        reader.check_whole("".join(words_of(longer, 200)))
        # The store is another one, which may have lost the second attempt.
        assert reader.restarts == 1 and record_of(first.url, long_run)["attempt"] > 2

    second: list[Serving] = []
    try:
        with serving(tmp_path / "data", env=env) as first:
            asyncio.run(scenario(first, second))
        assert second[0].stop() == 0
        check_log(second[0].stderr)
    finally:
        for running in second:
            running.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_whoever_waits_for_an_end_is_answered_before_the_worker_goes(
    tmp_path: Path, number: signal.Signals
) -> None:
    """`Prefer: wait`: the client learns the run's address, and follows it elsewhere."""
    answers: list[httpx.Response] = []

    def ask(url: str) -> None:
        body = {"agent": "words", "input": "x", "options": {"count": 200, "pause_ms": 50}}
        wait = {"Prefer": "wait=60"}
        answers.append(httpx.post(f"{url}/v1/runs", json=body, headers=wait, timeout=70))

    with serving(tmp_path, env={**AGENTS, "GRACEFUL_TIMEOUT_S": "5"}) as running:
        asking = threading.Thread(target=ask, args=(running.url,))
        asking.start()

        def is_waiting() -> bool:
            health = httpx.get(f"{running.url}/health", timeout=10).json()
            return bool(health["components"]["runner"]["running"])

        wait_until(is_waiting, "the run is under way")
        began = time.monotonic()
        running.send(number)
        asking.join(20)
        assert not asking.is_alive()
        assert [answer.status_code for answer in answers] == [202]
        assert answers[0].json()["status"] == "running"
        # Where the runner may finish there is something to wait for, but not for ever.
        grace_s = 5 if number == signal.SIGTERM else 0
        assert time.monotonic() - began < grace_s + WITHIN_S + MARGIN_S
        if number == signal.SIGHUP:
            wait_until(running.is_ready, "another worker is there")
            assert record_of(running.url, answers[0].json())["status"] == "running"


PIECES, PIECE = 240, "x" * 1000


def test_who_is_in_the_middle_of_a_long_answer_goes_on_at_the_next_worker(
    tmp_path: Path,
) -> None:
    """A worker that is due waits for readers up to four times as many requests, and for nobody
    then: the rest of 240 KB is read from its position."""
    # Fewer are asked while it starts.
    env = {"MAX_REQUESTS": "300", "MAX_REQUESTS_JITTER": "0", "WEB_CONCURRENCY": "1"}
    slow = Pace(size=4096, pause_s=lambda: 0.2, buffer=8192)

    async def scenario(running: Serving, client: httpx.Client, run: dict[str, str]) -> None:
        reader = Watched([running.url], run["events_url"], pace=slow)
        following = asyncio.create_task(reader.follow())
        await until(lambda: reader.delivered, "it has begun")
        workers = running.pids(WORKER)
        await asyncio.to_thread(
            lambda: [client.get("/v1/models").raise_for_status() for _ in range(1300)]
        )
        await until(lambda: running.pids(WORKER) != workers, "another has come")
        assert not following.done() and len(reader.text) < PIECES * len(PIECE)
        await asyncio.to_thread(
            append, client, run, [{"type": "run.completed", "finish_reason": "stop"}]
        )
        await following
        reader.check_whole(PIECES * PIECE)
        assert reader.connections > 1 and reader.restarts == 0

    with (
        serving(tmp_path, arguments=["-c", YOUNG_WORKERS], env=env) as running,
        httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client,
    ):
        run = start_run(running.url, "external")
        delta = {"type": "message.delta", "part": 0, "text": PIECE}
        append(client, run, [delta] * PIECES)
        asyncio.run(scenario(running, client, run))
        assert "recycled after" in running.stderr
