"""Upgrades and rollbacks under way: this release and the one before on one Redis.

The one before is the last tag, else the commit before; UPGRADE_FROM names another. Releases
that keep runs in another form than this one refuse its runs, and it theirs.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from redis import Redis

from tests.deployment import Deployment, deployed
from tests.processes import REPOSITORY, environment, package_of, path_of
from tests.readers import Reader

RUNS, READERS_EACH = 8, 3
WITHIN_S = 60


class Sides(NamedTuple):
    """Where the code of each is."""

    before: Path
    after: Path


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release before, laid out in a directory of its own."""
    folder = tmp_path_factory.mktemp("before")
    _lay_out(_commit(), folder)
    if _queue(folder) != _queue(REPOSITORY):
        pytest.skip("the release before keeps runs in another form: they refuse each other's")
    return folder


def _lay_out(commit: str, folder: Path) -> None:
    archive = subprocess.run(
        ["git", "archive", commit, "service", "tests"],
        cwd=REPOSITORY,
        capture_output=True,
    )
    if archive.returncode:
        pytest.skip(f"this clone has no {commit}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)


def _queue(code: Path) -> str:
    """What the queue is called there: its name has the number of the form of its runs."""
    (keys,) = (code / "service").rglob("redis/keys.py")
    found = re.search(r'^_?QUEUE = "(.+)"$', keys.read_text(), re.MULTILINE)
    assert found
    return found[1]


def _commit() -> str:
    if named := os.environ.get("UPGRADE_FROM"):
        return named
    tag = ["git", "describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^"]
    found = subprocess.run(tag, cwd=REPOSITORY, capture_output=True, text=True)
    return found.stdout.strip() or "HEAD^"


@pytest.fixture(params=["upgrade", "rollback"])
def sides(request: pytest.FixtureRequest, other: Path) -> Sides:
    """In turn from the release before to this one, and from this one back to it."""
    return Sides(other, REPOSITORY) if request.param == "upgrade" else Sides(REPOSITORY, other)


def test_the_code_that_runs_is_the_one_that_is_meant(sides: Sides, tmp_path: Path) -> None:
    for code in sides:
        package = package_of(code)
        found = subprocess.run(
            [sys.executable, "-c", f"import {package}; print({package}.__file__)"],
            env=environment({"PYTHONPATH": path_of(code)}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        file = Path(found.stdout.strip())
        assert file.is_relative_to(code / "service"), found
        assert (file.parent.name, file.name) == (package, "__init__.py")


def test_one_s_runner_and_the_other_s_web_workers_serve_together(
    sides: Sides, tmp_path: Path, streams_url: str, cache_url: str
) -> None:
    with deployed(
        tmp_path,
        streams_url=streams_url,
        cache_url=cache_url,
        runner_code=sides.before,
        web_code=sides.after,
    ) as both:
        asyncio.run(asyncio.wait_for(_use_everything(both.urls), WITHIN_S))
    assert_nothing_was_wrong(tmp_path)


async def _use_everything(urls: list[str]) -> None:
    async with httpx.AsyncClient(timeout=30) as client:

        async def ask(number: int, **fields: Any) -> httpx.Response:
            options = {"count": 40, "pause_ms": 10}
            body = {"agent": "words", "input": f"question {number}", "options": options}
            return await client.post(f"{urls[number % 2]}/v1/runs", json=body | fields)

        runs = [(await ask(number)).json() for number in range(RUNS)]
        readers = [_reader(urls, run) for run in runs for _ in range(READERS_EACH)]
        await asyncio.gather(*(reader.follow() for reader in readers))
        outputs = [await _output(client, urls[0], run) for run in runs]
        for i, reader in enumerate(readers):
            reader.check_whole(outputs[i // READERS_EACH])
            assert reader.restarts == 0
        # A hit where both keep answers alike; else it is answered anew.
        for number, output in enumerate(outputs):
            again = await ask(number)
            assert again.status_code in (200, 202), again.text
            assert await _output(client, urls[1], again.json()) == output
        one, two = await asyncio.gather(ask(100), ask(100))
        assert one.json()["id"] == two.json()["id"]
        for turn in range(2):
            said = await ask(200 + turn, conversation_id="c1")
            await _output(client, urls[0], said.json())
        conversation = (await client.get(f"{urls[1]}/v1/conversations/c1")).json()
        assert len(conversation["messages"]) == 4, conversation
        long = (await ask(300, options={"count": 1000, "pause_ms": 30})).json()
        cancelled = await client.post(urls[1] + long["cancel_url"])
        assert cancelled.status_code < 300, cancelled.text
        reader = _reader(urls, long)
        await reader.follow()
        assert reader.end is not None
        assert reader.end["type"] == "run.cancelled"
        for url in urls:
            health = (await client.get(f"{url}/health")).json()
            assert health["status"] == "up", health


def _reader(urls: list[str], run: dict[str, Any]) -> Reader:
    """One that breaks off now and then, and goes on at the other worker."""
    chance = random.Random(run["id"])
    return Reader(urls, run["events_url"], drop=lambda: chance.random() < 0.1)


async def _output(client: httpx.AsyncClient, url: str, run: dict[str, Any]) -> str:
    """Once it has completed."""
    token = run["events_url"].partition("?")[2]
    while True:
        record = (await client.get(f"{url}/v1/runs/{run['id']}?{token}")).json()
        assert record["status"] in ("queued", "running", "completed"), record
        if record["status"] == "completed":
            return str(record["output"])
        await asyncio.sleep(0.02)


def assert_nothing_was_wrong(folder: Path, *but: str) -> None:
    """Neither a warning nor an error is in a log of any process, but what the test wants."""
    logs = sorted(folder.rglob("*.log"))
    assert logs
    for log in logs:
        for line in log.read_text().splitlines():
            if line.endswith(but):
                continue
            assert not any(word in line for word in ("WARNING", "ERROR", "Traceback")), line


@pytest.fixture
def apart(
    sides: Sides, tmp_path: Path, streams_url: str, cache_url: str
) -> Iterator[tuple[Deployment, Deployment]]:
    """A deployment of each side, both on the same servers."""
    with ExitStack() as stack:
        found = [
            stack.enter_context(
                deployed(
                    tmp_path / name,
                    streams_url=streams_url,
                    cache_url=cache_url,
                    webs=1,
                    web_code=code,
                    runner_code=code,
                )
            )
            for name, code in sides._asdict().items()
        ]
        yield found[0], found[1]


def test_readers_come_through_while_each_process_is_replaced(
    apart: tuple[Deployment, Deployment], tmp_path: Path
) -> None:
    before, after = apart
    urls = before.urls + after.urls

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            runs = []
            for number in range(RUNS):
                options = {"count": 120, "pause_ms": 20}
                body = {"agent": "words", "input": str(number), "options": options}
                runs.append((await client.post(f"{urls[0]}/v1/runs", json=body)).json())
            readers = [_reader(urls, run) for run in runs for _ in range(READERS_EACH)]
            following = [asyncio.create_task(reader.follow()) for reader in readers]
            for reader in readers:
                await reader.started.wait()
            # First what executes, then what serves.
            for process in (*before.runners, *before.webs):
                process.terminate()
                assert await asyncio.to_thread(process.wait, 30) == 0
            await asyncio.gather(*following)
            for i, reader in enumerate(readers):
                run = runs[i // READERS_EACH]
                reader.check_whole(await _output(client, after.urls[0], run))

    asyncio.run(asyncio.wait_for(scenario(), WITHIN_S))
    assert_nothing_was_wrong(tmp_path)


# The last commit whose runs were no tapes.
BEFORE_THE_TAPE = "76e7dec"
OTHER_QUEUE = "runs:queue"


def test_releases_with_another_form_of_runs_refuse_each_other_s(
    tmp_path: Path, streams_url: str, cache_url: str
) -> None:
    code = tmp_path / "before"
    code.mkdir()
    _lay_out(BEFORE_THE_TAPE, code)

    def one(name: str, side: Path, runners: int) -> AbstractContextManager[Deployment]:
        return deployed(
            tmp_path / name,
            streams_url=streams_url,
            cache_url=cache_url,
            webs=1,
            runners=runners,
            web_code=side,
            runner_code=side,
        )

    def ask(url: str, text: str) -> httpx.Response:
        body = {"agent": "words", "input": text, "options": {"count": 5, "pause_ms": 1}}
        return httpx.post(f"{url}/v1/runs", json=body, timeout=30)

    with one("old", code, 1) as old, one("new", REPOSITORY, 0) as new:
        # The other's runner is none.
        refused = ask(new.urls[0], "one")
        assert (refused.status_code, refused.json()["code"]) == (503, "no_runner")
        theirs = ask(old.urls[0], "two").json()
        with one("newer", REPOSITORY, 1) as newer:
            ours = ask(newer.urls[0], "three").json()
            for url, run, expected in (
                (old.urls[0], ours, (404, "run_not_found")),
                (newer.urls[0], theirs, (409, "other_release")),
            ):
                token = run["events_url"].partition("?")[2]
                for path in ("", "/events"):
                    found = httpx.get(f"{url}/v1/runs/{run['id']}{path}?{token}", timeout=30)
                    assert (found.status_code, found.json()["code"]) == expected
            for url, run in ((old.urls[0], theirs), (newer.urls[0], ours)):
                asyncio.run(_completes(url, run))
    assert_nothing_was_wrong(
        tmp_path,
        "a run was refused: no runner is alive",
        # Who is asked for the other's run subscribes to it before it reads what it is.
        "a message that is not an event was published",
    )
    with Redis.from_url(streams_url) as redis:
        # The other's queue is empty, and stays as this one's does.
        assert redis.xlen(OTHER_QUEUE) == 0
        redis.delete(OTHER_QUEUE)


async def _completes(url: str, run: dict[str, Any]) -> None:
    async with httpx.AsyncClient(timeout=30) as client, asyncio.timeout(WITHIN_S):
        assert await _output(client, url, run)
