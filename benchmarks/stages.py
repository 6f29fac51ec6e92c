"""What the live path is measured on: Plateau, and peers that do the same.

Invariant: a stage is what its users would run, with two workers and a Redis behind it, and its
readers get the same events: `publish` gives each of these streams one more.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha1
from pathlib import Path
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from tests.processes import REPOSITORY, Serving, path_of, serving

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect, single_connection
from plateau_sse.store.redis.wire import Wire
from plateau_sse.store.runs import appending, events, ids
from plateau_sse.store.runs.streams import Streams

# About what a model says in 30 ms.
TEXT = "some words of an answer "
AT_ONCE = 50


class Stage(Protocol):
    """Opened in a `with` block, which ends whatever it has started."""

    name: str
    port: int
    # What an open response begins with.
    opened_by: bytes

    def web(self) -> list[int]:
        """The processes that hold the sockets."""

    def redis(self) -> list[int]:
        """The Redis that the events go through."""

    async def start(self, count: int) -> list[str]:
        """So many streams: their names."""

    def target(self, stream: str) -> str | bytes:
        """The path at which a stream is followed, or the whole request that asks for it."""

    async def publish(self, streams: Sequence[str]) -> None: ...

    async def close(self) -> None: ...


class PlateauStage:
    name = "plateau"
    opened_by = b"run.started"
    _token = "benchmark"

    def __init__(self, service: Serving) -> None:
        self.port = service.port
        self.service = service
        self._redis: Any = None
        self._publishers: list[Publisher] = []

    def web(self) -> list[int]:
        return self.service.pids("gunicorn: worker")

    def redis(self) -> list[int]:
        return self.service.pids("[plateau streams]")

    def all_but_redis(self) -> list[int]:
        servers = {*self.redis(), *self.service.pids("[plateau cache]")}
        return [pid for pid in self.service.tree() if pid not in servers]

    def everything(self) -> list[int]:
        return list(self.service.tree())

    @property
    def _streams(self) -> Streams:
        if self._redis is None:
            self._redis = connect(self.service.streams_url, "bench", connections=AT_ONCE)
        return Streams(self._redis, alive_s=600, record_s=600)

    async def start(self, count: int) -> list[str]:
        run_ids = [ids.new_run_id() for _ in range(count)]
        streams = self._streams
        for run_id in run_ids:
            await streams.create(
                run_id, agent="bench", owner="anonymous", token=self._token, request=b"{}"
            )
            await streams.claim(run_id, 1, "bench", events.started(run_id, "bench", 1))
        return run_ids

    def target(self, stream: str) -> str:
        return f"/v1/runs/{stream}/events?token={self._token}"

    async def publish(self, streams: Sequence[str]) -> None:
        url, most = self.service.streams_url, min(AT_ONCE, len(streams))
        while len(self._publishers) < most:
            self._publishers.append(await Publisher.connect(url))
        for start in range(0, len(streams), AT_ONCE):
            some = streams[start : start + AT_ONCE]
            both = zip(self._publishers, some, strict=False)
            await asyncio.gather(*(publisher.append(run) for publisher, run in both))

    async def finish(self, streams: Sequence[str]) -> None:
        """Each of them completes."""
        last = [events.completed(None, cached=False, duration_ms=0)]
        for run in streams:
            await self._streams.append(run, 1, last)

    async def close(self) -> None:
        for publisher in self._publishers:
            publisher.close()
        self._publishers.clear()
        if self._redis is not None:
            await self._redis.aclose()
            self._redis = None


class Publisher:
    """One kept connection that appends, one event at a time, and as quickly as the peer's: what
    a client needs for a command decides how many messages a worker then finds at once. One by
    one they cost it half as much again."""

    # The claims of `start` have loaded it.
    _SCRIPT = sha1(appending.SCRIPT.encode()).hexdigest()
    _ARGS = tuple(
        arg if isinstance(arg, bytes) else str(arg)
        for arg in appending.append_args(
            "append", 1, 0, (600, 600, 60), [events.delta(TEXT)], ()
        )
    )

    def __init__(self, connection: AbstractConnection) -> None:
        self._wire = Wire(connection, self._hear)
        self._reply: asyncio.Future[Any] | None = None

    @classmethod
    async def connect(cls, url: str) -> Publisher:
        connection = single_connection(url, "bench")
        await connection.connect()  # type: ignore[no-untyped-call]
        return cls(connection)

    def _hear(self, reply: Any) -> None:
        assert self._reply is not None
        self._reply.set_result(reply)

    async def append(self, run_id: str) -> None:
        self._reply = asyncio.get_running_loop().create_future()
        key = keys.run(run_id)
        self._wire.send("EVALSHA", self._SCRIPT, str(len(key)), *key, *self._ARGS)
        reply = await self._reply
        if isinstance(reply, Exception) or reply[0] != b"ok":
            raise RuntimeError(f"append.lua answered {reply!r}")

    def close(self) -> None:
        self._wire.close()


SERVE = ("-m", "plateau_sse", "serve")
# As `ulimit -n` of the shell, or LimitNOFILE of the unit, that it is started from.
_LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))
from plateau_sse.cli import main
raise SystemExit(main(["serve"]))
"""


@contextmanager
def plateau(
    env: Mapping[str, str] | None = None, *, commit: str = "", files: int = 0
) -> Iterator[PlateauStage]:
    """`plateau serve` as it is shipped, with its own servers; that of an earlier `commit` in
    this one's environment; each process with so many `files`, where any are given."""
    arguments = ("-c", _LIMITED.format(files=files)) if files else SERVE
    with tempfile.TemporaryDirectory() as folder:
        settings = dict(env or {})
        if commit:
            code = Path(folder) / "code"
            _unpack(commit, code)
            settings["PYTHONPATH"] = path_of(code)
        with serving(Path(folder) / "data", arguments=arguments, env=settings) as service:
            yield PlateauStage(service)


def _unpack(commit: str, code: Path) -> None:
    code.mkdir()
    archive = subprocess.run(
        ["git", "archive", commit, "service"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        check=True,
    )
    subprocess.run(["tar", "-x", "-C", str(code)], input=archive.stdout, check=True)
