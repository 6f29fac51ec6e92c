"""nchan: pub/sub in nginx, in C, over the same Redis."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
from tests.conftest import Server, end_server, start_server
from tests.processes import free_ports, wait_until

from benchmarks.peers import need
from benchmarks.stages import AT_ONCE, TEXT
from plateau_sse.store.runs import events, ids

MODULE = "/usr/lib/nginx/modules/ngx_nchan_module.so"
# Two workers, and a stream of 100 as ours are.
CONFIG = """
load_module {module};
daemon off;
pid {folder}/pid;
error_log {folder}/error.log warn;
worker_processes 2;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  # Publishers keep their connection.
  keepalive_requests 10000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  nchan_shared_memory_size 256M;
  upstream redis {{ nchan_redis_server redis://127.0.0.1:{redis}; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location ~ ^/pub/(\\w+)$ {{
      nchan_publisher;
      nchan_channel_id $1;
      nchan_redis_pass redis;
      nchan_message_buffer_length 100;
      nchan_message_timeout 10m;
    }}
    location ~ ^/sub/(\\w+)$ {{
      nchan_subscriber eventsource;
      nchan_channel_id $1;
      nchan_redis_pass redis;
      nchan_subscriber_first_message oldest;
      nchan_eventsource_ping_interval 15;
    }}
  }}
}}
"""


class NchanStage:
    name = "nchan over Redis"
    opened_by = b"run.started"

    def __init__(self, port: int, master: int, server: Server) -> None:
        self.port = port
        self._master = master
        self._server = server
        self._publishers: list[Publisher] = []

    def web(self) -> list[int]:
        return [child.pid for child in psutil.Process(self._master).children()]

    def redis(self) -> list[int]:
        return [self._server.process.pid]

    async def start(self, count: int) -> list[str]:
        names = [ids.new_run_id() for _ in range(count)]
        await self._post(names, [events.started(name, "bench", 1).data for name in names])
        return names

    def target(self, stream: str) -> str:
        return f"/sub/{stream}"

    async def publish(self, streams: Sequence[str]) -> None:
        await self._post(streams, [events.delta(TEXT).data] * len(streams))

    async def _post(self, streams: Sequence[str], bodies: Sequence[bytes]) -> None:
        """Over as many kept connections as ours has to Redis."""
        while len(self._publishers) < min(AT_ONCE, len(streams)):
            self._publishers.append(await Publisher.connect(self.port))
        for start in range(0, len(streams), AT_ONCE):
            some = list(zip(streams, bodies, strict=True))[start : start + AT_ONCE]
            await asyncio.gather(
                *(
                    publisher.post(f"/pub/{stream}", body)
                    for publisher, (stream, body) in zip(self._publishers, some, strict=False)
                )
            )

    async def close(self) -> None:
        for publisher in self._publishers:
            publisher.close()
        self._publishers.clear()


class Publisher:
    """One kept connection that posts, one message at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> Publisher:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(self, path: str, body: bytes) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        if not answer.startswith((b"HTTP/1.1 201", b"HTTP/1.1 202", b"HTTP/1.1 200")):
            raise RuntimeError(f"nchan answered {answer[:60]!r}")
        for line in answer.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await self._reader.readexactly(int(line.split(b":")[1]))

    def close(self) -> None:
        self._writer.close()


@contextmanager
def nchan() -> Iterator[NchanStage]:
    """Raises Absent where it cannot be had."""
    need("nginx", "/usr/sbin/nginx")
    need("libnginx-mod-nchan", MODULE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Its workers are of another user, if root starts them.
        folder.chmod(0o777)
        server = start_server("streams", folder / "redis")
        port = free_ports(1)
        config = folder / "nginx.conf"
        config.write_text(
            CONFIG.format(module=MODULE, folder=folder, redis=server.port, port=port)
        )
        user = ["-g", "user root;"] if os.geteuid() == 0 else []
        process = subprocess.Popen(
            ["/usr/sbin/nginx", "-c", str(config), "-p", name, *user],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(
                lambda: len(psutil.Process(process.pid).children()) == 2 and _answers(port),
                "nginx answers",
            )
            yield NchanStage(port, process.pid, server)
        finally:
            process.terminate()
            process.wait(20)
            end_server(server)


def _answers(port: int) -> bool:
    """Only once it has its Redis does it take messages."""
    try:
        return httpx.post(f"http://127.0.0.1:{port}/pub/probe", content="x").is_success
    except httpx.HTTPError:
        return False
