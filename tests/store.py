"""The store as tests use it: clients for one scenario, and runs at every stage.

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("a", "b"))

    on_streams(streams_url, scenario)

Invariant: `redis` is a second client, which looks at the keys past the code that is tested.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
import pytest
from redis import Redis

from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.streams import Claimed, Streams
from plateau_sse.store.runs.tape import Entry, Tape

T = TypeVar("T")

ALIVE_S = 120
RECORD_S = 600
TOKEN = "token-of-the-first-caller"
ANSWER_TOKEN = "AbCdEfGhIjKlMnOpQrStUg"
# In an address: who may do what the service needs, and no more.
LEAST_USER = "least:secret@"


def admin_url(url: str) -> str:
    """Where a test looks that may do everything, whoever the service is there."""
    return url.replace(LEAST_USER, "")


def skip_what_is_hidden(url: str) -> None:
    """For what stands between, and reads or replaces what passes."""
    if url.startswith("rediss"):
        pytest.skip("TLS hides what passes from who stands between")


def on_streams(url: str, scenario: Callable[[Streams, Any], Awaitable[T]]) -> T:
    """Run `scenario` in a loop of its own, over clients of its own."""

    async def opened() -> T:
        redis: Any = connect(url, "test")
        looking: Any = connect(admin_url(url), "test-looking", connections=2)
        try:
            streams = Streams(redis, alive_s=ALIVE_S, record_s=RECORD_S)
            return await scenario(streams, looking)
        finally:
            await looking.aclose()
            await redis.aclose()

    return asyncio.run(opened())


async def queued(streams: Streams, request: bytes = b"{}") -> str:
    run_id = ids.new_run_id()
    await streams.create(run_id, agent="notes", owner="ann", token=TOKEN, request=request)
    return run_id


async def claim(streams: Streams, run_id: str, attempt: int, runner: str = "r1") -> Claimed:
    first = events.started(run_id, "notes", attempt)
    claimed = await streams.claim(run_id, attempt, runner, first)
    assert isinstance(claimed, Claimed), claimed
    return claimed


async def running(streams: Streams, request: bytes = b"{}") -> str:
    run_id = await queued(streams, request)
    await claim(streams, run_id, 1)
    return run_id


async def finished(streams: Streams, *pieces: str) -> str:
    run_id = await running(streams)
    batch = [*texts(*pieces), done()]
    assert (await streams.finish(run_id, 1, batch, first_seq=2)).code == "ok"
    return run_id


async def counters(stats: Stats) -> dict[str, int]:
    """Of this host, what its process has not added yet among them."""
    return (await stats.by_host()).get(socket.gethostname(), {})


async def began(redis: Any, run_id: str, age_s: int) -> None:
    """As if its first attempt had begun so long ago."""
    seconds, _ = await redis.time()
    await redis.hset(keys.run(run_id).record, "begun_ms", (seconds - age_s) * 1000)


def run_of(channel: bytes) -> str:
    """The run whose channel this is."""
    return channel[5:-1].decode()


def texts(*pieces: str) -> list[Event]:
    return [events.delta(piece) for piece in pieces]


def done() -> Event:
    return events.completed(None, cached=False, duration_ms=1)


def tape_of(run_id: str, *said: Event, attempt: int = 1) -> Tape:
    """Of an attempt that has said this."""
    tape = Tape(attempt)
    for event in (events.started(run_id, "notes", attempt), *said):
        tape.add(event)
    return tape


def shown(entries: Sequence[Entry]) -> list[str]:
    return [ids.show(entry.number) for entry in entries]


def decoded(data: bytes) -> dict[str, Any]:
    return msgspec.json.decode(data, type=dict[str, Any])


async def forget(redis: Any, run_id: str) -> None:
    """As if the store had lost the run."""
    await redis.delete(*keys.run(run_id))


async def everything(redis: Any, run_id: str) -> tuple[Any, ...]:
    """All that the store knows of a run."""
    key = keys.run(run_id)
    return (
        await redis.hgetall(key.record),
        await redis.get(key.text),
        await redis.xrange(key.events),
        await redis.smembers(key.tokens),
        await redis.xrange(key.marks),
    )


async def stream_of(redis: Any, run_id: str) -> list[tuple[str, bytes]]:
    entries = await redis.xrange(keys.run(run_id).events)
    return [(entry_id.decode(), fields[b"e"]) for entry_id, fields in entries]


async def ids_of(redis: Any, run_id: str) -> list[str]:
    return [entry_id for entry_id, _ in await stream_of(redis, run_id)]


async def head_of(streams: Streams, run_id: str) -> int:
    """Where the tape ends."""
    (number,) = await streams.last_numbers([run_id])
    assert number is not None
    return number


async def exchange_server(redis: Any, *run_ids: str) -> None:
    """As if the server were another than when these runs were last written to."""
    for run_id in run_ids:
        await redis.hset(keys.run(run_id).record, "server", "0" * 8)
        await without_age(redis, run_id)


async def without_age(redis: Any, run_id: str) -> None:
    """What is skipped grows with a run's age; for it, this one is never older than now."""
    await redis.hset(keys.run(run_id).record, "created_ms", 2**42)


async def kept(redis: Any, run_id: str) -> list[tuple[str, bytes | None]]:
    """The keys of a run as they are now, to be put back later: what was written meanwhile is
    what a server loses that comes back from an older copy."""
    return [(name, await redis.dump(name)) for name in keys.run(run_id)]


async def put_back(redis: Any, run_id: str, copy: list[tuple[str, bytes | None]]) -> None:
    for name, dumped in copy:
        await redis.delete(name)
        if dumped is not None:
            await redis.restore(name, ALIVE_S * 1000, dumped)
    await exchange_server(redis, run_id)


async def text_of(redis: Any, run_id: str) -> str:
    text: bytes | None = await redis.get(keys.run(run_id).text)
    return (text or b"").decode()


async def until(
    condition: Callable[[], Awaitable[object]], what: str, *, timeout_s: float = 15
) -> None:
    """Return as soon as `condition()` is true; fail, naming `what`, when it never is."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s: {what}") from None


@contextmanager
def own_bound(url: str) -> Iterator[None]:
    """A block in which the test may lower `maxmemory`; the server has none of the scripts."""
    with Redis.from_url(url, protocol=2) as client:
        settings: Any = client.config_get("maxmemory")
        client.script_flush()
        try:
            yield
        finally:
            client.config_set("maxmemory", settings["maxmemory"])


@contextmanager
def full(url: str) -> Iterator[None]:
    """A block in which the server uses twice its `maxmemory`."""
    with own_bound(url), Redis.from_url(url, protocol=2) as client:
        memory: Any = client.info("memory")
        client.config_set("maxmemory", memory["used_memory"] // 2)
        yield


def answer(text: str = "Because.", **changed: Any) -> Answer:
    usual = Answer(
        text=text.encode(),
        stored_s=1_700_000_000,
        token=ANSWER_TOKEN,
        tag="3fa29c",
        duration_ms=12,
        agent="notes",
        owner="ann",
    )
    return msgspec.structs.replace(usual, **changed)
