"""Readers that do not read a document: what each costs the worker, and that it has all of it in
the end, or knows that it has not."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import logging
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec
import psutil
import pytest
from redis import Redis

from plateau_sse.eventsource import EventReader
from plateau_sse.live.paced import HELD_S
from plateau_sse.store.answers import pointers
from plateau_sse.store.answers.answer import Answer, answer_of
from plateau_sse.store.answers.cache import Question, key_of
from plateau_sse.store.answers.packing import pack
from plateau_sse.store.conversations.conversations import (
    Conversations,
    answered,
    asked,
    place_of,
)
from plateau_sse.store.queue.announcements import Announcements
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.runs import events, ids
from tests.deployment import Deployment, deployed
from tests.executions import LIMITS
from tests.far import skip_unless_asked
from tests.faults import (
    STUCK_BUFFER,
    append,
    check_log,
    open_connections,
    pss_bytes,
    send_queues,
    start_run,
    worker_of,
)
from tests.processes import wait_until
from tests.store import tape_of, texts

log = logging.getLogger(__name__)

FIRST, STUCK = 20, 40
MOST_BYTES_A_READER = 48 * 1024
SIZE = 240_000
JSON, SSE = "application/json", "text/event-stream"
Report = Callable[[str, object], None]


class Asked(NamedTuple):
    """A request whose answer is large."""

    path: str
    accept: str = JSON
    body: bytes = b""

    def head(self, url: str, version: str) -> bytes:
        method = "POST" if self.body else "GET"
        lines = [f"{method} {self.path} HTTP/{version}", f"Host: {urlsplit(url).netloc}"]
        lines += [f"Accept: {self.accept}", f"Content-Length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode()


def text_of(size: int, seed: int = 1) -> str:
    """So many bytes of characters of every length, and of such as JSON escapes."""
    characters = random.Random(seed).choices('abc defgh ijkl mé雪🏔"\\\n', k=size)
    sizes = itertools.accumulate(len(it.encode()) for it in characters)
    return "".join(it for it, end in zip(characters, sizes, strict=True) if end <= size)


@pytest.fixture
def one_web(tmp_path: Path, streams_url: str, cache_url: str) -> Iterator[Deployment]:
    with deployed(
        tmp_path, streams_url=streams_url, cache_url=cache_url, webs=1, runners=0
    ) as deployment:
        yield deployment
    check_log((tmp_path / "web0.log").read_text())


@pytest.fixture
def report(record_testsuite_property: Report) -> Report:
    return record_testsuite_property


def kept_answer(run_id: str, **changed: Any) -> Answer:
    """Thoughts and text, a tool between, and an output that is not the text."""
    text = text_of(SIZE)
    half = len(text) // 2
    tape = tape_of(
        run_id,
        events.delta(text[:half], "r"),
        events.tool_call("1", "look", {"at": text[:5000]}),
        *texts(text[half:]),
    )
    how: dict[str, Any] = {"agent": "notes", "owner": "anonymous", "usage": None}
    made = answer_of(tape=tape, run_id=run_id, output=None, duration_ms=1, **how)
    return msgspec.structs.replace(made, **changed)


def a_hit(cache_url: str, body: dict[str, Any]) -> Answer:
    """The cached answer to this request, and the id of the hit."""
    messages = [{"role": "user", "content": body["input"]}]
    question = Question("notes", "1", "anonymous", "", "", messages, {})
    with Redis.from_url(cache_url, protocol=2) as cache:
        answer = kept_answer(ids.new_run_id())
        cache.set(keys.cache(key_of(question)), pack(answer), ex=600)
    return answer


def an_external(url: str, client: httpx.Client, *, output: str | None) -> dict[str, str]:
    run = start_run(url, "external")
    text = text_of(SIZE if output is None else 100)
    for start in range(0, len(text), 10_000):
        append(client, run, [{"type": "message.delta", "text": text[start : start + 10_000]}])
    end = {"type": "run.completed"} | ({} if output is None else {"output": output})
    append(client, run, [end])
    return run


def an_expired_run(cache_url: str) -> str:
    """Its query, with the token of who asked for it; only its answer is left."""
    run_id, token, key = ids.new_run_id(), ids.new_token(), "A" * 24
    answer = kept_answer(run_id)
    with Redis.from_url(cache_url, protocol=2) as cache:
        cache.set(keys.cache(key), pack(answer), ex=600)
        cache.set(keys.left_by(run_id), pointers.pack(key, answer, [token]), ex=600)
    return f"/v1/runs/{run_id}{{}}?token={token}"


async def announce(streams_url: str) -> None:
    """An agent that no runner executes; and a conversation."""
    redis: Any = connect(streams_url, "test")
    try:
        await Announcements(redis).say("r1", {"notes": "1"})
        conversations = Conversations(redis, LIMITS, Fullness(redis, 64 * 1024**2).bound)
        place = place_of("anonymous", "", "c1")
        for number in range(5):
            run_id, text = ids.new_run_id(), text_of(40_000, number)
            question = asked(run_id, [{"role": "user", "content": "Why?"}], "")
            parts = [{"type": "text", "part": 0, "text": text}]
            await conversations.add(place, [question, answered(run_id, text, parts)])
    finally:
        await redis.aclose()


def with_token(path: str, run: dict[str, str]) -> str:
    return f"{path}?{run['events_url'].partition('?')[2]}"


def everything(
    url: str, client: httpx.Client, streams_url: str, cache_url: str
) -> dict[str, Asked]:
    """One request for each kind of document that may be large."""
    asyncio.run(announce(streams_url))
    body = {"agent": "notes", "input": "Why?"}
    answer, content = a_hit(cache_url, body), json.dumps(body).encode()
    found = client.post("/v1/runs", json=body).json()
    assert found["cached"] is True and found["events_url"].endswith(answer.token)
    hit = f"/v1/runs/{found['id']}"
    text = an_external(url, client, output=None)
    output = an_external(url, client, output=text_of(SIZE))
    late = an_expired_run(cache_url)
    return {
        "a hit's record": Asked(with_token(hit, found)),
        "a hit's stream": Asked(found["events_url"], SSE),
        "a hit, posted": Asked("/v1/runs", JSON, content),
        "a hit's stream, posted": Asked("/v1/runs", SSE, content),
        "a record": Asked(with_token(f"/v1/runs/{text['id']}", text)),
        "a record with an output": Asked(with_token(f"/v1/runs/{output['id']}", output)),
        "a stream": Asked(text["events_url"], SSE),
        "a stream with an output": Asked(output["events_url"], SSE),
        "an expired run's record": Asked(late.format("")),
        "an expired run's stream": Asked(late.format("/events"), SSE),
        "a conversation": Asked("/v1/conversations/c1"),
    }


@contextmanager
def stuck(url: str, asked_for: Asked, version: str = "1.1") -> Iterator[socket.socket]:
    """Ask, and read nothing; the kernel takes next to nothing for it."""
    parts = urlsplit(url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STUCK_BUFFER)
        connection.settimeout(60)
        connection.connect((parts.hostname, parts.port))
        connection.sendall(asked_for.head(url, version) + asked_for.body)
        yield connection


def body_of(connection: socket.socket, accept: str) -> object:
    """All that comes; raises what http.client does where that is not the whole."""
    with http.client.HTTPResponse(connection) as response:
        response.begin()
        assert response.status == 200
        return said(response.read(), accept)


def said(body: bytes, accept: str) -> object:
    """A document as it is. The events of a stream however they were cut: what each part says,
    and the marks between."""
    if accept != SSE:
        return body
    reader, found = EventReader(), list[dict[str, Any]]()
    for message in [*reader.feed(body), *reader.finish()]:
        event = json.loads(message.data)
        if found and "part" in event and event["part"] == found[-1].get("part"):
            found[-1]["text"] += event["text"]
        else:
            found.append(event)
    assert found[0]["type"] == "run.started" and found[-1]["type"] == "run.completed"
    return found


def whole_of(client: httpx.Client, asked_for: Asked) -> object:
    method = "POST" if asked_for.body else "GET"
    headers = {"Accept": asked_for.accept}
    answer = client.request(method, asked_for.path, content=asked_for.body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) > 200_000
    return said(answer.content, asked_for.accept)


def are_stuck(url: str, count: int) -> None:
    wait_until(
        lambda: sum(1 for queue in send_queues(url) if queue > 0) >= count, "all are stuck"
    )


@contextmanager
def all_stuck(
    url: str, asked_for: Asked, count: int, others: int = 0
) -> Iterator[list[socket.socket]]:
    """One after another: a cache that so many large answers are asked of at once is too slow
    for some of those who ask, and theirs are no hits then."""
    with ExitStack() as stack:
        readers = []
        for number in range(1, count + 1):
            readers.append(stack.enter_context(stuck(url, asked_for)))
            are_stuck(url, number + others)
        yield readers


def settled(worker: psutil.Process) -> int:
    """What it takes once nothing is given back any more: for a moment a few documents are
    kept, for those who are only a little slow."""
    least, since = pss_bytes(worker), time.monotonic()

    def is_settled() -> bool:
        nonlocal least, since
        now = pss_bytes(worker)
        if now < least:
            least, since = now, time.monotonic()
        return time.monotonic() > since + 4 * HELD_S

    wait_until(is_settled, "it gives nothing back any more", timeout_s=30)
    return least


def client_of(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60, trust_env=False)


@pytest.mark.timeout(300)
def test_what_a_reader_costs_that_never_reads(
    one_web: Deployment, streams_url: str, cache_url: str, report: Report
) -> None:
    skip_unless_asked("a measurement of a minute")
    (url,) = one_web.urls
    worker = worker_of(one_web.webs[0])
    costs: dict[str, float] = {}
    with client_of(url) as client:
        kinds = everything(url, client, streams_url, cache_url)
        for kind, asked_for in kinds.items():
            whole = whole_of(client, asked_for)
            # What is allocated once, whatever comes later, the first ones pay for.
            with all_stuck(url, asked_for, FIRST):
                before = settled(worker)
                with all_stuck(url, asked_for, STUCK, FIRST) as readers:
                    each = (settled(worker) - before) / STUCK
                    costs[kind] = round(each / 1024, 1)
                    # And in the end they have all of it.
                    for reader in readers[::20]:
                        assert body_of(reader, asked_for.accept) == whole
            wait_until(lambda: open_connections(worker, url) == 1, "they have gone")
    log.info("KiB of worker a reader: %s", costs)
    report("worker_kib_a_stuck_reader", costs)
    assert max(costs.values()) <= MOST_BYTES_A_READER / 1024, costs


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_reader_in_bursts_has_every_byte(
    one_web: Deployment, streams_url: str, cache_url: str, version: str
) -> None:
    """The document is made again for each."""
    (url,) = one_web.urls
    with client_of(url) as client:
        kinds = everything(url, client, streams_url, cache_url)
        for asked_for in kinds.values():
            whole = whole_of(client, asked_for)
            with stuck(url, asked_for, version) as reader:
                are_stuck(url, 1)
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
                assert body_of(reader, asked_for.accept) == whole


def cut(reader: socket.socket, accept: str) -> bool:
    """Whether what comes is known not to be the whole."""
    try:
        body_of(reader, accept)
    except (http.client.IncompleteRead, ConnectionError):
        return True
    return False


def test_a_document_that_goes_or_changes_meanwhile_is_cut(
    one_web: Deployment, streams_url: str, cache_url: str
) -> None:
    (url,) = one_web.urls
    with client_of(url) as client, ExitStack() as stack:
        kinds = everything(url, client, streams_url, cache_url)
        cache = stack.enter_context(Redis.from_url(cache_url, protocol=2))
        streams = stack.enter_context(Redis.from_url(streams_url, protocol=2))
        del kinds["a stream"], kinds["a stream with an output"], kinds["a conversation"]
        readers = {
            kind: stack.enter_context(stuck(url, asked_for))
            for kind, asked_for in kinds.items()
        }
        are_stuck(url, len(readers))
        worker = worker_of(one_web.webs[0])
        # Whoever reads on at once has what was kept for it.
        settled(worker)
        # The one is replaced by another answer of the same size, the other evicted.
        other = kept_answer(ids.new_run_id())
        expired = keys.cache("A" * 24)
        for name in cache.scan_iter("cache:*"):
            if name.decode() != expired:
                cache.set(name, pack(other), ex=600)
        assert cache.delete(expired)
        for name in streams.scan_iter("run:*"):
            streams.delete(name)
        for kind, reader in readers.items():
            assert cut(reader, kinds[kind].accept), kind
        wait_until(lambda: open_connections(worker, url) == 1, "nobody is left")


def test_a_store_that_is_away_for_a_moment_costs_a_slow_reader_nothing(
    one_web: Deployment, streams_url: str, cache_url: str
) -> None:
    (url,) = one_web.urls
    with client_of(url) as client:
        asked_for = everything(url, client, streams_url, cache_url)["a hit's record"]
        whole = whole_of(client, asked_for)
        with stuck(url, asked_for) as reader, Redis.from_url(cache_url, protocol=2) as cache:
            are_stuck(url, 1)
            cache.client_pause(3000)
            assert body_of(reader, asked_for.accept) == whole
