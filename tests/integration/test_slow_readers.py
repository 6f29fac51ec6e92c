"""Readers that are slow, stuck or gone: what they cost, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path

import httpx
import pytest
from redis import Redis

from plateau_sse.store.redis import keys
from tests.deployment import Deployment, deployed
from tests.far import skip_unless_asked
from tests.faults import (
    append,
    append_characters,
    check_log,
    complete,
    kernel_tcp_bytes,
    open_connections,
    open_stuck,
    output_of,
    pss_bytes,
    send_queues,
    start_run,
    stuck_readers,
    subscriptions,
    worker_of,
)
from tests.processes import serving, wait_until
from tests.sample_agents import words_of
from tests.watched import Chunks, Pace, Watched, until

log = logging.getLogger(__name__)

STUCK = 200
CHARACTERS = 100_000
MOST_BYTES_A_READER = 64 * 1024
# From getting stuck: 30 s, and each is looked at every five.
CLOSED_WITHIN_S = 45


@pytest.fixture
def one_web(tmp_path: Path, streams_url: str, cache_url: str) -> Iterator[Deployment]:
    with deployed(
        tmp_path, streams_url=streams_url, cache_url=cache_url, webs=1, runners=0
    ) as deployment:
        yield deployment


@pytest.fixture
def report(
    record_testsuite_property: Callable[[str, object], None],
) -> Callable[[str, object], None]:
    """Figures, for `--junitxml` and for `--log-cli-level=info`."""

    def reported(name: str, figure: object) -> None:
        log.info("%s: %s", name, figure)
        record_testsuite_property(name, figure)

    return reported


@contextmanager
def in_thread(work: Callable[[], None]) -> Iterator[threading.Thread]:
    """Runs beside the block; what it raises is raised at the end."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(100)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def client_of(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60, trust_env=False)


def text_of(length: int) -> str:
    return "".join(random.Random(length).choices("abcdefghij klmnop", k=length))


def warm_up(url: str, client: httpx.Client) -> None:
    """What a worker allocates once, whatever comes later."""
    run = start_run(url, "external")
    with stuck_readers(url, run["events_url"], 20):
        append_characters(client, run, text_of(5000))
    complete(client, run)


def test_200_readers_that_never_read(
    one_web: Deployment, tmp_path: Path, report: Callable[[str, object], None]
) -> None:
    skip_unless_asked("a measurement of half a minute")
    (url,) = one_web.urls
    worker = worker_of(one_web.webs[0])
    text = text_of(CHARACTERS)
    with client_of(url) as client, ExitStack() as stack:
        warm_up(url, client)
        wait_until(lambda: open_connections(worker, url) == 1, "only the producer is there")
        run = start_run(url, "external")
        healthy = Watched([url], run["events_url"])
        stack.enter_context(in_thread(lambda: asyncio.run(healthy.follow(timeout_s=90))))
        wait_until(lambda: healthy.delivered, "the healthy reader follows")
        before, kernel_before = pss_bytes(worker), kernel_tcp_bytes()
        stack.enter_context(stuck_readers(url, run["events_url"], STUCK))
        wait_until(lambda: open_connections(worker, url) >= STUCK + 2, "all are connected")

        began = time.monotonic()
        append_characters(client, run, text)
        waiting = send_queues(url)
        kernel = (kernel_tcp_bytes() - kernel_before) / STUCK
        each = (pss_bytes(worker) - before) / STUCK
        complete(client, run)
        assert sum(1 for queue in waiting if queue > 0) >= STUCK, "not all of them are stuck"

        wait_until(lambda: healthy.end, "the healthy reader has everything", timeout_s=30)
        healthy.check_whole(text)
        healthy.check_clean()
        assert output_of(url, run) == text
        each = max(each, (pss_bytes(worker) - before) / STUCK)
        left_s = began + CLOSED_WITHIN_S - time.monotonic()
        wait_until(lambda: len(send_queues(url)) <= 1, "the stuck are closed", timeout_s=left_s)
        closed_s = time.monotonic() - began
        assert open_connections(worker, url) <= 1
        report("worker_kib_a_reader", round(each / 1024, 1))
        report("kernel_kib_a_reader", round(kernel / 1024, 1))
        report("send_queue_kib_a_reader", round(sum(waiting) / STUCK / 1024, 1))
        report("closed_after_s", round(closed_s, 1))
        assert each < MOST_BYTES_A_READER, f"{each / 1024:.1f} KiB of worker a reader"
    check_log((tmp_path / "web0.log").read_text())


def test_late_readers_that_never_read(
    one_web: Deployment, report: Callable[[str, object], None]
) -> None:
    """Each comes at a moment of its own, to a long answer that is still growing: what it has to
    be sent first is large, and like nobody else's."""
    (url,) = one_web.urls
    worker = worker_of(one_web.webs[0])
    with client_of(url) as client, ExitStack() as stack:
        warm_up(url, client)
        run = start_run(url, "external")
        for _ in range(4):
            append(client, run, [delta(text_of(50_000))])
        before = pss_bytes(worker)
        for number in range(STUCK):
            stack.enter_context(_stuck(url, run["events_url"]))
            append_characters(client, run, text_of(10 + number % 10))
        wait_until(lambda: open_connections(worker, url) >= STUCK + 1, "all are connected")
        wait_until(
            lambda: sum(1 for queue in send_queues(url) if queue > 0) >= STUCK, "all are stuck"
        )
        each = (pss_bytes(worker) - before) / STUCK
        complete(client, run)
        report("worker_kib_a_late_reader", round(each / 1024, 1))
        assert each < MOST_BYTES_A_READER, f"{each / 1024:.1f} KiB of worker a reader"


@contextmanager
def _stuck(url: str, path: str) -> Iterator[None]:
    with open_stuck(url, path):
        yield


def test_slow_readers_end_with_the_whole_text(one_web: Deployment) -> None:
    """A byte at a time, or in bursts with seconds between them, while the answer grows."""
    (url,) = one_web.urls
    chances = random.Random(3)
    pauses = cycle([0.0, 0.1, 2.5, 0.0, 1.0])
    paces = [
        Pace(size=1, buffer=4096),
        Pace(size=512, pause_s=lambda: chances.uniform(0, 0.02), buffer=4096),
        Pace(size=65_536, pause_s=lambda: next(pauses), buffer=65_536),
        Pace(size=8192, pause_s=lambda: chances.choice([0, 0, 0, 0.5]), buffer=8192),
        Pace(),
    ]
    text = text_of(12_000)

    def produce(run: dict[str, str]) -> None:
        with client_of(url) as client:
            for start in range(0, len(text), 250):
                append_characters(client, run, text[start : start + 250])
                time.sleep(0.05)
            complete(client, run)

    async def scenario() -> None:
        run = await asyncio.to_thread(start_run, url, "external")
        readers = [Watched([url], run["events_url"], pace=pace) for pace in paces]
        following = [asyncio.create_task(reader.follow(timeout_s=60)) for reader in readers]
        await until(lambda: all(reader.delivered for reader in readers), "all follow")
        await asyncio.gather(asyncio.to_thread(produce, run), *following)
        for reader in readers:
            reader.check_whole(text)
            reader.check_clean()

    asyncio.run(scenario())
    # Otherwise nobody was slow.
    assert counted(url, "plateau_readers_slow_total") > 0


def counted(url: str, name: str) -> float:
    found = re.search(rf"^{name}(?:\{{.*\}})? (\S+)$", httpx.get(f"{url}/metrics").text, re.M)
    assert found is not None, name
    return float(found[1])


def test_slow_readers_who_come_late(one_web: Deployment) -> None:
    """What they are sent first is much longer than may wait for them, and the answer goes on
    growing meanwhile. Every kind of character is cut through somewhere."""
    (url,) = one_web.urls
    chances = random.Random(4)
    pauses = cycle([0.0, 0.0, 1.5])
    paces = [
        Pace(size=97, buffer=2048),
        Pace(size=2048, pause_s=lambda: chances.uniform(0, 0.03), buffer=4096),
        Pace(size=30_000, pause_s=lambda: next(pauses), buffer=16_384),
        Pace(),
    ]
    long = "".join(chances.choices('aé雪🏔"\\\n\u2028\x01', k=40_000))
    rest = "".join(chances.choices("xyz", k=2000))

    def produce(client: httpx.Client, run: dict[str, str]) -> None:
        for start in range(0, len(rest), 100):
            append_characters(client, run, rest[start : start + 100])
            time.sleep(0.05)
        complete(client, run)

    async def scenario() -> None:
        with client_of(url) as client:
            run = await asyncio.to_thread(start_run, url, "external")
            for start in range(0, len(long), 5000):
                append(client, run, [delta(long[start : start + 5000])])
            append_characters(client, run, "." * 200)
            readers = [Watched([url], run["events_url"], pace=pace) for pace in paces]
            following = [asyncio.create_task(reader.follow(timeout_s=60)) for reader in readers]
            await asyncio.gather(asyncio.to_thread(produce, client, run), *following)
        for reader in readers:
            reader.check_whole(long + "." * 200 + rest)
            reader.check_clean()

    asyncio.run(scenario())


def test_a_run_that_goes_before_its_slow_reader_has_all_of_it(
    one_web: Deployment, streams_url: str
) -> None:
    """What it was given are whole events, then it is told."""
    (url,) = one_web.urls
    with client_of(url) as client, Redis.from_url(streams_url, protocol=2) as redis:
        run = start_run(url, "external")
        append(client, run, [delta(text_of(60_000)) for _ in range(4)])
        with open_stuck(url, run["events_url"]) as connection:
            connection.settimeout(20)
            received = connection.recv(100)
            assert received.startswith(b"HTTP/1.1 200")
            wait_until(lambda: max(send_queues(url), default=0) > 10_000, "it is stuck")
            redis.delete(*keys.run(run["id"]))
            while not received.endswith(b"0\r\n\r\n"):
                received += connection.recv(65_536)
        assert len(received) < 200_000
        chunks = Chunks()
        body = chunks.feed(received.partition(b"\r\n\r\n")[2])
        *told, last = body.decode().removesuffix("\n\n").split("\n\n")
        assert chunks.done and "record_lost" in last
        assert all(block.endswith("}") for block in told)
        assert client.get(run["events_url"]).status_code == 404


def delta(text: str) -> dict[str, str]:
    return {"type": "message.delta", "text": text}


def test_sigterm_in_the_middle_of_stuck_readers(tmp_path: Path) -> None:
    env = {"AGENTS": "words=tests.sample_agents:words", "WEB_CONCURRENCY": "2"}
    with serving(tmp_path, env=env) as running, client_of(running.url) as client:
        run = start_run(running.url, "external")
        with stuck_readers(running.url, run["events_url"], 100):
            append_characters(client, run, text_of(10_000))
            wait_until(
                lambda: sum(1 for queue in send_queues(running.url) if queue > 0) >= 100,
                "all are stuck",
            )
            began = time.monotonic()
            assert running.stop() == 0
            # They are cut after 1.5 s; what the rest takes is the machine's doing.
            assert time.monotonic() - began < 12
        check_log(running.stderr)


def test_a_reader_that_goes_leaves_nothing_behind(
    tmp_path: Path, streams_url: str, cache_url: str
) -> None:
    with (
        deployed(
            tmp_path, streams_url=streams_url, cache_url=cache_url, webs=1, runners=1
        ) as deployment,
        Redis.from_url(streams_url, protocol=2) as redis,
    ):
        (url,) = deployment.urls
        worker = worker_of(deployment.webs[0])
        text = "goes on without readers"
        run = start_run(url, "words", text, count=120, pause_ms=30)

        async def scenario() -> None:
            readers = [Watched([url], run["events_url"]) for _ in range(50)]
            following = [asyncio.create_task(reader.follow()) for reader in readers]
            await until(lambda: all(len(r.delivered) > 3 for r in readers), "all are told")
            assert subscriptions(redis, run) == 1
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)

        asyncio.run(scenario())
        wait_until(lambda: subscriptions(redis, run) == 0, "nobody follows the run any more")
        wait_until(lambda: open_connections(worker, url) == 0, "no connection is left")
        # The run goes on all the same, and whoever comes later has all of it.
        late = Watched([url], run["events_url"])
        asyncio.run(late.follow())
        late.check_whole("".join(words_of(text, 120)))
        assert output_of(url, run) == late.text
    check_log((tmp_path / "web0.log").read_text())
