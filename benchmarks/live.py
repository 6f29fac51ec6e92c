"""The live path, measured on a real `plateau serve` with its shipped defaults.

Memory is PSS, CPU the operating system's own accounting of the server's processes and of Redis;
the generator, this process, is in neither. No time is a bound here: the machine may be shared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from service.store import events, ids
from service.store.connections import connect
from service.store.streams import Streams
from tests.processes import Serving, serving

TICKS = os.sysconf("SC_CLK_TCK")
TOKEN = "benchmark"
AT_ONCE = 50
OPEN_S, DELIVER_S = 60, 300


def pss_kib(pids: Iterable[int]) -> int:
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def cpu_s(pids: Iterable[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def kernel_socket_kib() -> int:
    """Of all TCP sockets of the machine, both ends of ours among them."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * resource.getpagesize() // 1024
    return 0


class Reader(asyncio.Protocol):
    """One open response: asks like a browser, counts ids, keeps nothing."""

    def __init__(self, target: str, counter: Counter) -> None:
        self._target = target
        self._counter = counter
        self._started = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(
            f"GET {self._target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n"
            "Accept-Language: en\r\nAccept-Encoding: gzip, deflate, br\r\n"
            "Cache-Control: no-cache\r\nReferer: http://127.0.0.1/\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._counter.add(data.count(b"\nid: ") + data.startswith(b"id: "))
        if not self._started and b"run.started" in data:
            self._started = True
            self._counter.opened()


class Counter:
    """Deliveries and opened readers, each with a target that can be awaited."""

    def __init__(self) -> None:
        self.delivered = self._open = 0
        self._delivered_target = self._open_target = 0
        self._reached = asyncio.Event()

    def add(self, count: int) -> None:
        self.delivered += count
        self._look()

    def opened(self) -> None:
        self._open += 1
        self._look()

    def _look(self) -> None:
        if self.delivered >= self._delivered_target and self._open >= self._open_target:
            self._reached.set()

    async def until(self, *, delivered: int = 0, opened: int = 0, timeout_s: float) -> None:
        self._delivered_target, self._open_target = delivered, opened
        self._reached.clear()
        self._look()
        async with asyncio.timeout(timeout_s):
            await self._reached.wait()


class Bench:
    """A producer and its readers beside a running service."""

    def __init__(self, service: Serving, streams: Streams) -> None:
        self._service = service
        self._streams = streams
        self.web = service.pids("gunicorn: worker")
        self.redis = service.pids("[plateau streams]")
        self.all = [p for p, title in service.tree().items() if "redis" not in title.lower()]
        self.all = [p for p in self.all if p not in [*self.redis, *self._cache()]]

    def _cache(self) -> list[int]:
        return self._service.pids("[plateau cache]")

    async def start_runs(self, count: int) -> list[str]:
        run_ids = [ids.new_run_id() for _ in range(count)]
        for run_id in run_ids:
            await self._streams.create(
                run_id, agent="bench", owner="anonymous", token=TOKEN, request=b"{}"
            )
            await self._streams.claim(run_id, 1, "bench", events.started(run_id, "bench", 1))
        return run_ids

    async def open(self, run_ids: list[str], readers: int, counter: Counter) -> list[Reader]:
        loop = asyncio.get_running_loop()
        made: list[Reader] = []
        for start in range(0, readers, AT_ONCE):
            batch = range(start, min(readers, start + AT_ONCE))
            targets = [
                f"/v1/runs/{run_ids[i % len(run_ids)]}/events?token={TOKEN}" for i in batch
            ]
            pairs = await asyncio.gather(
                *(
                    loop.create_connection(
                        lambda target=target: Reader(target, counter),  # type: ignore[misc]
                        "127.0.0.1",
                        self._service.port,
                    )
                    for target in targets
                )
            )
            made += [reader for _, reader in pairs]
            await counter.until(opened=len(made), timeout_s=OPEN_S)
        return made

    async def publish(self, run_ids: list[str], rounds: int) -> None:
        batch = [events.delta("some words of an answer ")]
        for _ in range(rounds):
            for start in range(0, len(run_ids), AT_ONCE):
                some = run_ids[start : start + AT_ONCE]
                await asyncio.gather(*(self._streams.append(run, 1, batch) for run in some))


async def fanout(bench: Bench, readers: int, runs: int, rounds: int) -> dict[str, Any]:
    """Memory a reader and CPU a delivery for `readers` spread over `runs`."""
    before_kib, kernel_before_kib = pss_kib(bench.web), kernel_socket_kib()
    counter = Counter()
    run_ids = await bench.start_runs(runs)
    made = await bench.open(run_ids, readers, counter)
    opened_kib, kernel_kib = pss_kib(bench.web), kernel_socket_kib()
    total_kib = pss_kib(bench.all)
    web_s, redis_s, already = cpu_s(bench.web), cpu_s(bench.redis), counter.delivered
    await bench.publish(run_ids, rounds)
    expected = already + readers * rounds
    await counter.until(delivered=expected, timeout_s=DELIVER_S)
    deliveries = counter.delivered - already
    result = {
        "shape": f"{runs} x {readers // runs}",
        "readers": readers,
        "kib_a_reader": round((opened_kib - before_kib) / readers, 2),
        "kernel_kib_a_reader": round((kernel_kib - kernel_before_kib) / readers, 2),
        "all_but_redis_mib": round(total_kib / 1024, 1),
        "deliveries": deliveries,
        "web_us_a_delivery": round((cpu_s(bench.web) - web_s) / deliveries * 1e6, 1),
        "redis_us_a_delivery": round((cpu_s(bench.redis) - redis_s) / deliveries * 1e6, 1),
    }
    for reader in made:
        assert reader.transport is not None
        reader.transport.abort()
    return result


async def measure(service: Serving, shapes: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
    redis = connect(service.streams_url, "bench", connections=AT_ONCE)
    try:
        bench = Bench(service, Streams(redis, alive_s=600, record_s=600))
        rows = [{"shape": "idle", "all_but_redis_mib": round(pss_kib(bench.all) / 1024, 1)}]
        # What the first requests cost a worker, whatever follows, is not a reader's cost.
        await fanout(bench, 100, 1, 10)
        for readers, runs, rounds in shapes:
            rows.append(await fanout(bench, readers, runs, rounds))
        return rows
    finally:
        await redis.aclose()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench live", description=__doc__)
    parser.add_argument("--readers", type=int, default=1000, help="open responses [1000]")
    parser.add_argument("--json", action="store_true", help="one JSON document, no table")
    options = parser.parse_args(arguments)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    n = options.readers
    rows = []
    # A service of its own for each shape: memory that one has left behind would hide the next.
    for shape in ((n, 1, 200), (n, n, 20)):
        with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as service:
            rows += asyncio.run(measure(service, [shape]))
    if options.json:
        json.dump(rows, sys.stdout, indent=2)
        return 0
    for row in rows:
        sys.stdout.write("  ".join(f"{name}={value}" for name, value in row.items()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
