"""A document for an answer that is still being made: valid JSON however long it takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.responses import Response

from plateau_sse.api import patience
from plateau_sse.api.patience import PatientResponse
from plateau_sse.errors import StoreUnavailable
from plateau_sse.live.paced import Pacer

DOCUMENT = {"text": "x" * 100}


class Asked:
    """One who asked, and the run that answers."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.ended = asyncio.Event()
        self.gone = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.spaced = asyncio.Event()
        self.failures = 0
        self.error: Exception = StoreUnavailable("as it was asked to be")
        # What comes back at once, and how often it was asked.
        self.is_hasty = False
        self.waits = 0
        self.answer: Response | None = None
        self.leaves = False
        self.aborted = False
        # As uvicorn's own `send` has them.
        self.transport = self

    def abort(self) -> None:
        self.aborted = True

    async def wait(self, timeout_s: float) -> None:
        self.waits += 1
        if self.is_hasty:
            return
        if self.failures:
            self.failures -= 1
            if not self.failures:
                self.end()
            raise self.error
        try:
            async with asyncio.timeout(timeout_s):
                await self.ended.wait()
        except TimeoutError:
            return

    async def find(self) -> Response | None:
        return self.answer

    async def cancel(self) -> None:
        self.cancelled.set()

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message.get("body") == b" ":
            self.spaced.set()

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    def end(self, status: int = 200) -> None:
        self.answer = Response(json.dumps(DOCUMENT), status, {"X-Own": "1"}, "application/json")
        self.ended.set()

    async def answered(self) -> None:
        response = PatientResponse(
            self.wait,
            self.find,
            lambda: Response("{}", 503),
            lambda: self.leaves,
            self.cancel,
            Pacer(),
            {"X-Own": "1"},
        )
        await response({"type": "http", "method": "POST"}, self.receive, self.send)

    @property
    def status(self) -> int:
        (head,) = (it for it in self.sent if it["type"] == "http.response.start")
        found: int = head["status"]
        return found

    @property
    def body(self) -> bytes:
        return b"".join(it.get("body", b"") for it in self.sent)


def play(scenario: Callable[[Asked], Awaitable[None]]) -> Asked:
    async def opened() -> Asked:
        asked = Asked()
        async with asyncio.timeout(10):
            await scenario(asked)
        return asked

    return asyncio.run(opened())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "HEAD_S", 0.02)
    monkeypatch.setattr(patience, "SPACE_S", 0.02)
    monkeypatch.setattr(patience, "LOOK_AGAIN_S", 0.01)


@pytest.mark.parametrize("status", [200, 429])
def test_what_comes_in_time_has_its_own_status(status: int) -> None:
    async def scenario(asked: Asked) -> None:
        answering = asyncio.ensure_future(asked.answered())
        asked.end(status)
        await answering

    asked = play(scenario)
    assert asked.status == status and json.loads(asked.body) == DOCUMENT
    assert asked.sent[-1].get("more_body", False) is False


@pytest.mark.usefixtures("quick")
def test_what_takes_long_is_one_document_behind_white_space() -> None:
    async def scenario(asked: Asked) -> None:
        answering = asyncio.ensure_future(asked.answered())
        for _ in range(3):
            await asked.spaced.wait()
            asked.spaced.clear()
        asked.end(502)
        await answering

    asked = play(scenario)
    assert asked.status == 200
    assert asked.body.startswith(b"   ") and json.loads(asked.body) == DOCUMENT
    assert asked.sent[-1].get("more_body", False) is False
    names = [name for name, _ in asked.sent[0]["headers"]]
    assert b"content-length" not in names and b"x-own" in names


@pytest.mark.parametrize("error", [StoreUnavailable("away"), KeyError("whatever it is")])
def test_a_store_that_is_away_is_waited_for(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(patience, "LOOK_AGAIN_S", 0.01)

    async def scenario(asked: Asked) -> None:
        asked.failures, asked.error = 3, error
        await asked.answered()
        assert not asked.failures

    assert play(scenario).status == 200
    assert len(caplog.records) == 3
    assert bool(caplog.records[0].exc_info) == isinstance(error, KeyError)


@pytest.mark.parametrize("leaves", [False, True])
def test_a_wait_that_comes_back_for_nothing_does_not_spin(
    leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LOOK_AGAIN_S", 10 if leaves else 0.05)

    async def scenario(asked: Asked) -> None:
        asked.is_hasty = True
        answering = asyncio.ensure_future(asked.answered())
        await asyncio.sleep(0.2)
        assert 0 < asked.waits < 10
        # Who leaves meanwhile is noticed at once.
        asked.gone.set() if leaves else asked.end()
        await answering
        assert asked.cancelled.is_set() == leaves

    play(scenario)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("begun", [False, True])
def test_who_leaves_is_noticed(begun: bool) -> None:
    async def scenario(asked: Asked) -> None:
        answering = asyncio.ensure_future(asked.answered())
        if begun:
            await asked.spaced.wait()
        asked.gone.set()
        await answering
        assert asked.cancelled.is_set()

    play(scenario)


def test_a_worker_that_leaves_says_so_before_the_head() -> None:
    async def scenario(asked: Asked) -> None:
        asked.leaves = True
        asked.ended.set()
        await asked.answered()

    asked = play(scenario)
    assert asked.status == 503 and not asked.aborted


@pytest.mark.usefixtures("quick")
def test_a_worker_that_leaves_later_gives_no_half_of_a_document() -> None:
    async def scenario(asked: Asked) -> None:
        answering = asyncio.ensure_future(asked.answered())
        await asked.spaced.wait()
        asked.leaves = True
        asked.ended.set()
        await answering

    asked = play(scenario)
    assert asked.aborted and asked.body.strip() == b""
    assert all(it.get("more_body", True) for it in asked.sent)
