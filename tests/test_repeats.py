"""Questions asked again word for word: what is kept of them, and when it is not said."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from starlette.responses import Response

from plateau_sse.api import repeats
from plateau_sse.api.access import Caller
from plateau_sse.api.repeats import Repeat, Repeats
from plateau_sse.intake import versions
from plateau_sse.intake.ask import Ask, Taken
from plateau_sse.intake.intake import Intake
from plateau_sse.live.paced import LARGE_BYTES, Pacer, paced
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.queue.announcements import About, Announced, Announcements
from tests.intakes import QUESTION, RUNNER, Desk, at_desk

ANN = Caller("ann")
WHERE, BODY = "/v1/runs", b'{"agent":"notes","input":"Why?"}'
SAID = Response(b'{"output":"Because."}')


@pytest.fixture(autouse=True)
def looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(versions, "FRESH_S", -1.0)
        yield


def scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "headers": list(headers)}


class Worker:
    """With an answer to `QUESTION` in the cache."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.intake: Intake = desk.intake()
        self.repeats = Repeats(self.intake, desk.cache, desk.stats, None)

    async def answered(self, ask: Ask = QUESTION) -> Taken:
        run_id = (await self.intake.take(ask)).run_id
        await self.desk.start(run_id)
        await self.desk.complete(run_id)
        taken = await self.intake.take(ask)
        assert taken.how == "hit"
        return taken

    def keep(
        self,
        taken: Taken,
        response: Response = SAID,
        *names: str,
        body: bytes = BODY,
        ask: Ask = QUESTION,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        known: Mapping[str, Announced] | None = None,
    ) -> None:
        known = self.repeats.known if known is None else known
        asked = (scope(*headers), ANN, WHERE, body, ask)
        self.repeats.keep(*asked, taken, response, known, *names)

    async def find(
        self,
        *headers: tuple[bytes, bytes],
        caller: Caller = ANN,
        where: str = WHERE,
        body: bytes = BODY,
    ) -> Repeat | None:
        return await self.repeats.find(scope(*headers), caller, where, body)


async def is_kept(worker: Worker, body: bytes = BODY) -> bool:
    return await worker.find(body=body) is not None


def test_what_was_said_is_said_again_as_long_as_the_answer_stands(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        worker = Worker(desk)
        taken = await worker.answered()
        assert await worker.find() is None
        worker.keep(taken)
        for _ in range(3):
            found = await worker.find()
            assert found is not None and found.content == SAID.body
            assert (found.taken.run_id, found.taken.token) == (taken.run_id, taken.token)
            assert found.taken.answer is not None and taken.answer is not None
            assert found.taken.answer.stored_s == taken.answer.stored_s
            # Who needs it has what was said.
            assert found.taken.answer.text == b""
        assert await desk.cache.clear() > 0
        assert await worker.find() is None
        # And it was let go of.
        assert not worker.repeats._kept and not worker.repeats._bytes

    at_desk(streams_url, cache_url, scenario)


def test_another_answer_to_the_question_is_not_taken_for_it(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        worker = Worker(desk)
        first = await worker.answered()
        worker.keep(first)
        refreshed = QUESTION._replace(mode="refresh")
        run_id = (await worker.intake.take(refreshed)).run_id
        await desk.start(run_id)
        await desk.complete(run_id, "After all not.")
        second = await worker.intake.take(QUESTION)
        assert second.run_id == first.run_id and second.token != first.token
        assert await worker.find() is None

    at_desk(streams_url, cache_url, scenario)


@pytest.mark.parametrize(
    "other",
    [
        {"caller": Caller("bob")},
        {"caller": Caller("ann", "eve")},
        {"where": "/ai/v1/runs"},
        {"body": BODY + b" "},
    ],
    ids=["owner", "user", "url", "words"],
)
def test_to_nobody_else_and_nowhere_else(
    streams_url: str, cache_url: str, other: dict[str, Any]
) -> None:
    async def scenario(desk: Desk) -> None:
        worker = Worker(desk)
        worker.keep(await worker.answered())
        assert await worker.find(**other) is None
        assert await is_kept(worker)

    at_desk(streams_url, cache_url, scenario)


@pytest.mark.parametrize(
    "header", [(b"cache-control", b"no-cache"), (b"idempotency-key", b"k")], ids=["new", "key"]
)
def test_a_header_that_asks_otherwise_is_heard(
    streams_url: str, cache_url: str, header: tuple[bytes, bytes]
) -> None:
    async def scenario(desk: Desk) -> None:
        worker = Worker(desk)
        taken = await worker.answered()
        worker.keep(taken, headers=(header,))
        assert await worker.find() is None
        worker.keep(taken)
        assert await worker.find(header) is None
        assert await is_kept(worker)

    at_desk(streams_url, cache_url, scenario)


@pytest.mark.parametrize(
    "ask",
    [
        QUESTION._replace(mode="refresh"),
        QUESTION._replace(conversation_id="c"),
        QUESTION._replace(thread="t"),
    ],
    ids=["new", "conversation", "thread"],
)
def test_what_may_be_answered_otherwise_next_time_is_not_kept(
    streams_url: str, cache_url: str, ask: Ask
) -> None:
    async def scenario(desk: Desk) -> None:
        worker = Worker(desk)
        worker.keep(await worker.answered(), ask=ask)
        assert not await is_kept(worker)

    at_desk(streams_url, cache_url, scenario)


@pytest.mark.parametrize(
    ("agents", "about"),
    [
        ({"notes": "2"}, {}),
        ({"notes": "1", "gpt": "1"}, {}),
        ({"notes": "1"}, {"notes": About(cache=False)}),
        ({"notes": "1"}, {"notes": About(input_bytes=1)}),
    ],
    ids=["version", "name", "no cache", "bound"],
)
def test_other_agents_are_asked(
    streams_url: str, cache_url: str, agents: dict[str, str], about: dict[str, About]
) -> None:
    """Another version, one that has the model's name, and one that is other than it was."""

    async def scenario(desk: Desk) -> None:
        worker = Worker(desk)
        worker.keep(await worker.answered(), SAID, "gpt")
        assert await is_kept(worker)
        await Announcements(desk.redis).say(RUNNER, agents, about)
        assert not await is_kept(worker)

    at_desk(streams_url, cache_url, scenario)


@pytest.mark.parametrize(
    ("agents", "about"),
    [
        ({"notes": "2"}, {}),
        ({"notes": "1", "gpt": "1"}, {}),
        ({"notes": "1"}, {"notes": About(input_bytes=1)}),
        ({"notes": "1"}, {"notes": About(cache=False)}),
    ],
    ids=["version", "name", "bound", "no cache"],
)
def test_what_was_understood_by_others_is_not_kept(
    streams_url: str, cache_url: str, agents: dict[str, str], about: dict[str, About]
) -> None:
    """They became others while the answer was looked up."""

    async def scenario(desk: Desk) -> None:
        worker = Worker(desk)
        taken = await worker.answered()
        known = worker.repeats.known
        await Announcements(desk.redis).say(RUNNER, agents, about)
        assert await worker.intake.agents() != known
        worker.keep(taken, SAID, "gpt", known=known)
        assert not await is_kept(worker)
        # Nor if those that there were come back.
        worker.keep(taken, SAID, "gpt", known=known)
        await Announcements(desk.redis).say(RUNNER, {"notes": "1"})
        assert await worker.intake.agents() == known
        assert not await is_kept(worker)

    at_desk(streams_url, cache_url, scenario)


@pytest.mark.parametrize(
    "about", [About(memory=True), About(cache=False)], ids=["memory", "no cache"]
)
def test_of_an_agent_whose_answers_may_differ_nothing_is_kept(
    streams_url: str, cache_url: str, about: About
) -> None:
    async def scenario(desk: Desk) -> None:
        worker = Worker(desk)
        taken = await worker.answered()
        await Announcements(desk.redis).say(RUNNER, {"notes": "1"}, {"notes": about})
        await worker.intake.agents()
        worker.keep(taken)
        assert not await is_kept(worker)

    at_desk(streams_url, cache_url, scenario)


def test_a_cache_out_of_reach_has_it_no_more(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        worker = Worker(desk)
        taken = await worker.answered()
        away = Cache(None, ttl_s=60, max_bytes=1)
        worker.repeats = Repeats(worker.intake, away, desk.stats, None)
        worker.keep(taken)
        assert len(worker.repeats._kept) == 1
        assert not await is_kept(worker)

    at_desk(streams_url, cache_url, scenario)


def test_what_is_large_is_not_kept_and_all_of_it_is_bounded(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        worker = Worker(desk)
        taken = await worker.answered()

        async def again() -> bytes | None:
            return None

        whole = paced(Response(b"x" * (LARGE_BYTES + 1)), again, Pacer())
        worker.keep(taken, whole)
        assert not await is_kept(worker)
        long = BODY + b" " * repeats.BODY_BYTES
        worker.keep(taken, body=long)
        assert not await is_kept(worker, long) and not worker.repeats._kept

        bodies = [BODY + b" " * more for more in range(500)]
        for body in bodies:
            worker.keep(taken, body=body)
            assert await is_kept(worker, bodies[0])
        found = [await is_kept(worker, body) for body in bodies]
        # Who is asked goes last.
        assert found[0] and found[-1] and not found[1]
        kept = worker.repeats._kept
        assert len(kept) == sum(found) < repeats.KEPT_BYTES // repeats.EACH_BYTES
        sizes = [repeats._size(key, repeat.content) for key, repeat in kept.items()]
        assert worker.repeats._bytes == sum(sizes) <= repeats.KEPT_BYTES

    at_desk(streams_url, cache_url, scenario)


def test_what_nobody_asks_goes(
    streams_url: str, cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "LIFE_S", 0.05)

    async def scenario(desk: Desk) -> None:
        worker = Worker(desk)
        worker.keep(await worker.answered())
        async with asyncio.timeout(10):
            while worker.repeats._kept:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not worker.repeats._bytes and worker.repeats._timer is None

    at_desk(streams_url, cache_url, scenario)
