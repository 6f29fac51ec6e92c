"""sse-starlette, one `XREAD BLOCK` a connection, under gunicorn with two uvicorn workers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from tests.conftest import Server, end_server, start_server
from tests.processes import REPOSITORY, environment, free_ports, wait_until

from benchmarks.stages import TEXT
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids


class XreadStage:
    name = "sse-starlette, XREAD each"
    opened_by = b"run.started"

    def __init__(self, port: int, master: int, server: Server) -> None:
        self.port = port
        self._master = master
        self._server = server
        self._redis: Any = connect(server.url, "bench")

    def web(self) -> list[int]:
        return [child.pid for child in psutil.Process(self._master).children()]

    def all_but_redis(self) -> list[int]:
        return [self._master, *self.web()]

    def redis(self) -> list[int]:
        return [self._server.process.pid]

    async def start(self, count: int) -> list[str]:
        names = [ids.new_run_id() for _ in range(count)]
        async with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.xadd(name, {"e": events.started(name, "bench", 1).data})
            await pipe.execute()
        return names

    def target(self, stream: str) -> str:
        return f"/sub/{stream}"

    async def publish(self, streams: Sequence[str]) -> None:
        data = events.delta(TEXT).data
        async with self._redis.pipeline(transaction=False) as pipe:
            for stream in streams:
                pipe.xadd(stream, {"e": data}, maxlen=100, approximate=False)
            await pipe.execute()

    async def close(self) -> None:
        await self._redis.aclose()


@contextmanager
def xread() -> Iterator[XreadStage]:
    with tempfile.TemporaryDirectory() as name:
        server = start_server("streams", Path(name) / "redis")
        port = free_ports(1)
        process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "gunicorn", "benchmarks.peers.xread_app:app", "--preload"),
                *("-k", "uvicorn_worker.UvicornWorker", "-w", "2", "-b", f"127.0.0.1:{port}"),
            ],
            cwd=REPOSITORY,
            env=environment({"REDIS_URL": server.url}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        workers: list[psutil.Process] = []
        try:
            with server.client() as client:
                # A connection a reader: their buffers are part of its memory.
                client.config_set("maxmemory", "1gb")
                client.config_set("maxmemory-clients", "0")
                client.config_set("maxclients", "15000")
            wait_until(
                lambda: len(psutil.Process(process.pid).children()) == 2, "two workers run"
            )
            workers = psutil.Process(process.pid).children()
            yield XreadStage(port, process.pid, server)
        finally:
            process.kill()
            process.wait(20)
            # uvicorn's workers outlive a master that is killed.
            for worker in workers:
                worker.kill()
            end_server(server)
