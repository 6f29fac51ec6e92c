"""What has to be read before it can be told: once for all who are live, or by each where it is
long; and told of the attempt that it is of, or not at all."""

from __future__ import annotations

import asyncio
import json
import random
import re
from functools import partial
from typing import Any

import pytest

from plateau_sse.dialects import agui, responses
from plateau_sse.dialects.chat_completions import chunks
from plateau_sse.live.dialect import Stand
from plateau_sse.store.runs import events
from tests.store import claim, done, running, texts
from tests.test_subscriber import Bench, Reader, on_bench

OWN = b'"model":"m"'
CONTENT = re.compile(rb'"content":("(?:[^"\\]|\\.)*")')


async def follow(b: Bench, run_id: str) -> Reader:
    stand = Stand(responses.RESPONSES, responses.start_of(run_id, 5))
    return await b.reader(run_id, stand=stand, own=OWN)


def told(reader: Reader) -> list[dict[str, Any]]:
    return [event.data for event in reader.socket.told]


def done_texts(reader: Reader) -> list[str]:
    return [it["text"] for it in told(reader) if it["type"] == "response.output_text.done"]


async def live(*readers: Reader) -> None:
    for reader in readers:
        await reader.has(partial(_is_live, reader), "it is live")


def _is_live(reader: Reader, _: Any) -> bool:
    return reader.subscriber in reader.subscriber._feed.live


def _is_done(reader: Reader, _: Any) -> bool:
    return bool(done_texts(reader))


class Counted:
    """In place of the store's `recall`."""

    def __init__(self, b: Bench) -> None:
        self.calls = 0
        self._recall = b.streams.recall
        b.streams.recall = self  # type: ignore[method-assign]

    async def __call__(self, *args: Any, **more: Any) -> Any:
        self.calls += 1
        return await self._recall(*args, **more)


def test_what_is_due_is_read_once_for_all_who_are_live(streams_url: str) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        native = await b.reader(run_id)
        readers = [await follow(b, run_id) for _ in range(5)]
        await live(*readers, native)
        counted = Counted(b)
        await b.streams.append(run_id, 1, texts("Snow ", "and é🏔."), first_seq=2)
        await b.streams.append(run_id, 1, [events.step("next")], first_seq=4)
        for reader in readers:
            await reader.has(partial(_is_done, reader), "the part is done")
            assert done_texts(reader) == ["Snow and é🏔."]
        assert counted.calls == 1
        await b.streams.finish(run_id, 1, [*texts("More."), done()], first_seq=5)
        for reader in readers:
            await reader.has(lambda socket: socket.ended, "it ends")
            assert b"".join(reader.socket.written) == b"".join(readers[0].socket.written)
            final = told(reader)[-1]["response"]
            said = [item["content"][0]["text"] for item in final["output"]]
            assert said == ["Snow and é🏔.", "More."] and final["model"] == "m"
        # The end of the second part is that of the run.
        assert counted.calls == 2
        await native.has_types("message.delta", "run.completed")
        native.checked()

    on_bench(streams_url, scenario)


def test_what_is_long_is_read_by_each_as_its_socket_takes_it(streams_url: str) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        quick, slow = await follow(b, run_id), await follow(b, run_id)
        await live(quick, slow)
        text = "snow é🏔 " * 5000
        pieces = [text[at : at + 2000] for at in range(0, len(text), 2000)]
        slow.socket.take(0)
        await b.streams.finish(run_id, 1, [*texts(*pieces), done()], first_seq=2)
        await quick.has(lambda socket: socket.ended, "it ends")
        while not slow.socket.ended:
            slow.socket.take(9000)
            await asyncio.sleep(0)
        for reader in (quick, slow):
            assert done_texts(reader) == [text]
            (item,) = told(reader)[-1]["response"]["output"]
            assert item["content"][0]["text"] == text
            # In slices: nothing of it is held for a socket.
            assert max(map(len, reader.socket.written)) < 40_000

    on_bench(streams_url, scenario)


@pytest.mark.parametrize("is_live", [True, False])
def test_what_is_due_of_an_attempt_that_is_gone_is_never_told(
    streams_url: str, monkeypatch: pytest.MonkeyPatch, is_live: bool
) -> None:
    """It begins again while that is read."""
    monkeypatch.setattr(random, "uniform", lambda *_: 0.01)

    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        reader = await follow(b, run_id)
        await live(reader)
        recall = b.streams.recall

        async def late(*args: Any, **more: Any) -> Any:
            b.streams.recall = recall  # type: ignore[method-assign]
            await claim(b.streams, run_id, 2)
            await b.streams.append(
                run_id, 2, texts("Another text of that length."), first_seq=2
            )
            return await recall(*args, **more)

        await b.streams.append(run_id, 1, texts("One."), first_seq=2)
        await reader.has(lambda _: len(told(reader)) > 3, "the text")
        b.streams.recall = late  # type: ignore[method-assign]
        if not is_live:
            reader.subscriber._feed.scatter()
        await b.streams.append(run_id, 1, [events.step("next")], first_seq=3)
        await reader.has(lambda socket: socket.ended, "it ends")
        last = told(reader)[-1]
        assert last["type"] == "error" and last["code"] == "restarted"
        assert done_texts(reader) == []

    on_bench(streams_url, scenario)


def test_readers_share_frames_whatever_their_own(streams_url: str) -> None:
    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        stand = Stand(agui.AGUI, agui.AGUI.start)
        readers = [
            await b.reader(run_id, stand=stand, own=agui.own_of("t", f"r{n}")) for n in range(3)
        ]
        await live(*readers)
        await b.streams.finish(run_id, 1, [*texts("Snow."), done()], first_seq=2)
        said = []
        for number, reader in enumerate(readers):
            await reader.has(lambda socket: socket.ended, "it ends")
            first, *middle, last = told(reader)
            assert first["runId"] == last["runId"] == f"r{number}"
            said.append(middle)
        assert said[0] == said[1] == said[2] and said[0]

    on_bench(streams_url, scenario)


@pytest.mark.parametrize("words", [1, 5000])
def test_whether_an_answer_was_told_is_read_once_for_all(streams_url: str, words: int) -> None:
    """Of a dialect that recalls nothing before the end, and whatever the length of the text."""
    text, output = "snow " * words, '{"it": 5}'

    async def scenario(b: Bench) -> None:
        run_id = await running(b.streams)
        chat = chunks("m", usage=False)
        readers = [await b.reader(run_id, stand=Stand(chat, chat.start)) for _ in range(4)]
        await live(*readers)
        counted = Counted(b)
        pieces = [text[at : at + 2000] for at in range(0, len(text), 2000)]
        await b.streams.append(run_id, 1, texts(*pieces), first_seq=2)
        await b.streams.finish(run_id, 1, [done()], first_seq=2 + len(pieces), output=output)
        for reader in readers:
            await reader.has(lambda socket: socket.ended, "it ends")
            written = b"".join(reader.socket.written)
            deltas = [json.loads(it) for it in CONTENT.findall(written)]
            assert "".join(deltas) == f"{text}\n\n{output}"
        assert counted.calls == 1

    on_bench(streams_url, scenario)
