"""Workers that have no room for a stream, or are about to go, asked in other protocols: nothing
is executed for a client that is told nothing of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from plateau_sse.live.seats import Seats
from plateau_sse.owners import ANONYMOUS
from plateau_sse.store.queue.announcements import Announcements
from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.runs.shares import Shares
from plateau_sse.store.runs.streams import Streams
from tests.processes import wait_until
from tests.queues import sign_of_life, waiting
from tests.store import on_streams
from tests.test_growth import Worker

SAID = {"role": "user", "content": "Why?"}
CHAT = {"model": "notes", "messages": [SAID]}
UI = {
    "id": "c1",
    "agent": "notes",
    "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": "Why?"}]}],
}
STREAMS = {
    "chat": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "ui": ("/api/chat", UI),
    "responses": ("/v1/responses", {"model": "notes", "input": "Why?", "stream": True}),
    "agui": ("/agui/notes", {"threadId": "c1", "runId": "r1", "messages": [SAID]}),
}
RESUMED = {"ui": "/api/chat/c1/stream", "agui": "/agui/c1/events"}
DOCUMENT = ("/v1/chat/completions", CHAT)


@pytest.fixture
def worker(streams_url: str) -> Iterator[Worker]:
    """With a runner that takes nothing."""

    async def announce(_: Any, redis: Any) -> None:
        await Announcements(redis).say("r1", {"notes": "1"})
        await sign_of_life(Queue(redis), "r1")

    with Worker(streams_url) as running:
        on_streams(streams_url, announce)
        yield running


def state_of(worker: Worker) -> Any:
    return worker._server.lifespan.state


def post(worker: Worker, asked: tuple[str, Any], **headers: str) -> httpx.Response:
    path, body = asked
    return httpx.post(
        f"http://127.0.0.1:{worker.port}{path}", json=body, headers=headers, timeout=20
    )


def runs(worker: Worker) -> list[str]:
    """But for its canary's."""
    return [
        key.decode()[5:-1]
        for key in worker.redis.keys("run:*}")
        if worker.redis.hget(key, "agent") == b"notes"
    ]


def statuses(worker: Worker) -> list[bytes]:
    return [worker.redis.hget(f"run:{{{run_id}}}", "state") for run_id in runs(worker)]


def places(worker: Worker) -> list[str]:
    async def look(_: Any, redis: Any) -> list[str]:
        return await waiting(redis)

    return on_streams(worker.url, look)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("why", ["full", "leaving"])
def test_who_finds_no_room_begins_no_run(worker: Worker, name: str, why: str) -> None:
    state = state_of(worker)
    if why == "full":
        state["guard"].streams_most = 0
    else:
        state["hub"].draining = True
    answer = post(worker, STREAMS[name])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "No room" in answer.text
    assert runs(worker) == [] == places(worker)


def test_a_document_needs_no_room_but_a_worker_that_stays(worker: Worker) -> None:
    state = state_of(worker)
    state["guard"].streams_most = 0
    state["hub"].draining = True
    assert post(worker, DOCUMENT).status_code == 503
    assert runs(worker) == []
    state["hub"].draining = False
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"http://127.0.0.1:{worker.port}{DOCUMENT[0]}", json=CHAT, timeout=0.5)
    assert len(places(worker)) == 1
    (run_id,) = runs(worker)

    async def end(streams: Streams, _: Any) -> None:
        # Its response waits for that: it cannot tell a client that has gone.
        assert await streams.ask_to_cancel(run_id, "requested") == "cancelled"

    on_streams(worker.url, end)


def test_who_would_wait_takes_not_the_last_room(worker: Worker) -> None:
    """Else those who wait for runs that take long would leave none for anybody's request."""
    guard = state_of(worker)["guard"]
    assert guard.streams_most < guard.waits_most < guard.most
    guard.waits_most = 0
    answer = post(worker, DOCUMENT)
    assert answer.status_code == 503 and "No room" in answer.text and runs(worker) == []
    # A preference can be done without: the run is begun, and can be asked for.
    asked = ("/v1/runs", {"agent": "notes", "input": "Why?"})
    answer = post(worker, asked, Prefer="wait=60")
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0")
    assert runs(worker) == [answer.json()["id"]]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("who", ["alone", "keyed", "shared"])
def test_who_is_refused_after_all_gives_the_run_up(worker: Worker, name: str, who: str) -> None:
    """It goes on where somebody wants it: another who shares it, or who comes again with the
    key that it stands for."""
    state = state_of(worker)
    guard, room = state["guard"], iter([True, False])

    def takes_stream(_: int) -> bool:
        is_first = next(room)
        if not is_first and who == "shared":
            (run_id,) = runs(worker)

            async def share(_: Any, redis: Any) -> None:
                await Shares(redis).share(run_id, "another")

            # This is called from the worker's loop.
            thread = threading.Thread(target=lambda: on_streams(worker.url, share))
            thread.start()
            thread.join()
        return is_first

    guard.takes_stream = takes_stream
    headers = {"Idempotency-Key": "k"} if who == "keyed" else {}
    answer = post(worker, STREAMS[name], **headers)
    assert answer.status_code == 503 and "No room" in answer.text
    assert next(room, None) is None
    if who == "alone":
        assert statuses(worker) == [b"cancelled"] and places(worker) == []
        if name in RESUMED:
            resumed = httpx.get(f"http://127.0.0.1:{worker.port}{RESUMED[name]}")
            assert resumed.status_code == 204
    else:
        assert statuses(worker) == [b"queued"]
        assert places(worker) == runs(worker)


@pytest.mark.parametrize("name", STREAMS)
def test_who_has_no_share_after_all_gives_the_run_up(worker: Worker, name: str) -> None:
    """Another stream of the owner's has begun since it was asked."""
    state = state_of(worker)
    state["seats"] = seats = Seats(1)
    seats.claim()
    record = state["placement"].record

    async def record_and_be_late(*args: Any) -> Any:
        recorded = await record(*args)
        assert seats.take(ANONYMOUS)
        return recorded

    state["placement"].record = record_and_be_late
    answer = post(worker, STREAMS[name])
    assert answer.status_code == 429 and "streams may be open" in answer.text
    assert statuses(worker) == [b"cancelled"] and places(worker) == []
    # The next is not begun at all.
    assert post(worker, STREAMS[name]).status_code == 429
    assert len(runs(worker)) == 1 and state["guard"].promised == 0


@pytest.mark.parametrize("name", STREAMS)
def test_of_a_burst_those_begin_a_run_for_whom_there_is_room(worker: Worker, name: str) -> None:
    """Between the look at what room there is and the stream there is time for many."""
    state = state_of(worker)
    room, burst = 2, 6
    # The canary follows a run, too.
    state["guard"].streams_most = state["hub"].following + room
    opened = threading.Event()
    record = state["placement"].record

    async def record_late(*args: Any) -> Any:
        while not opened.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return await record(*args)

    state["placement"].record = record_late
    path, body = STREAMS[name]
    refused: list[httpx.Response] = []
    streaming: list[httpx.Response] = []

    def ask(number: int) -> None:
        said = json.loads(json.dumps(body).replace("Why?", f"Why {number}?"))
        said |= {"id": f"c{number}"} if name == "ui" else {}
        url = f"http://127.0.0.1:{worker.port}{path}"
        with httpx.stream("POST", url, json=said, timeout=20) as answer:
            (streaming if answer.status_code == 200 else refused).append(answer)
            answer.read()

    def are_refused() -> bool:
        return len(refused) == burst - room

    def are_told() -> bool:
        return len(streaming) == room

    with ThreadPoolExecutor(burst) as pool:
        asking = [pool.submit(ask, number) for number in range(burst)]
        try:
            wait_until(are_refused, "those without room are refused")
            assert runs(worker) == []
            opened.set()
            wait_until(are_told, "the others are told")
            begun = runs(worker)
            assert len(begun) == room and statuses(worker) == [b"queued"] * room
            # What they were promised is theirs now, and no more than that.
            assert state["guard"].promised == 0
        finally:
            opened.set()

            async def end(streams: Streams, _: Any) -> None:
                for run_id in runs(worker):
                    await streams.ask_to_cancel(run_id, "requested")

            on_streams(worker.url, end)
        for one in asking:
            one.result()
