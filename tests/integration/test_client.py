"""The Python client against a real service: what it gives, what it says where it cannot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given

from plateau_sse.client import (
    Answer,
    Event,
    Following,
    Refused,
    ask,
    ask_async,
    cancel,
    cancel_async,
    follow,
)
from plateau_sse.store.runs.tape import Tape
from tests.dialects.agents import TEXT, THOUGHT
from tests.dialects.machines import TAPES
from tests.dialects.stage import KEY, Stage, anew, staged

TOKEN = KEY["Authorization"].split()[1]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("client")) as found:
        yield found


def all_of(stream: Following, *, awaited: bool) -> list[Event]:
    async def gathered() -> list[Event]:
        return [event async for event in stream]

    return asyncio.run(gathered()) if awaited else list(stream)


BOTH = pytest.mark.parametrize("awaited", [False, True])


@BOTH
def test_an_answer_is_told_and_folded(stage: Stage, awaited: bool) -> None:
    asked: dict[str, Any] = {"key": TOKEN, "agent": "told", "input": anew()}
    run = asyncio.run(ask_async(stage.url, **asked)) if awaited else ask(stage.url, **asked)
    stream = follow(run)
    events = all_of(stream, awaited=awaited)
    assert (events[-1]["type"], stream.answer.status) == ("run.completed", "completed")
    answer = stream.answer
    assert (answer.text, answer.output, answer.finish_reason) == (TEXT, TEXT, "stop")
    assert (answer.parts[0]["type"], answer.parts[0]["text"]) == ("reasoning", THOUGHT)
    assert answer.usage is not None and answer.usage["input_tokens"] == 7
    assert [tool["name"] for tool in answer.tools] == ["search", "fetch"]
    assert [source["id"] for source in answer.sources] == ["s1", "s2"]
    of_record = Answer()
    of_record.take_record(stage.record(run.id))
    assert of_record.parts == answer.parts
    # The same from the cache.
    again = ask(stage.url, **asked)
    assert (run.cache, again.cache) == ("miss", "hit")
    cached = follow(again)
    all_of(cached, awaited=awaited)
    assert cached.answer.cached and cached.answer.parts == answer.parts


@BOTH
def test_whoever_stops_goes_on_behind_what_was_told(stage: Stage, awaited: bool) -> None:
    with stage.gate() as gate:
        run = ask(stage.url, key=TOKEN, agent="told", input=anew(), options={"gate": str(gate)})
        stream = follow(run)
        before = []
        for event in stream:
            before.append(event)
            if event["type"] == "message.delta":
                break
        gate.touch()
        after = all_of(stream, awaited=awaited)
    said = [event["text"] for event in before + after if event["type"] == "message.delta"]
    assert "".join(said) == TEXT == stream.answer.text
    assert len([event for event in after if event["type"] == "run.started"]) == 0
    assert all_of(stream, awaited=awaited) == []


def test_it_goes_on_within_a_part(stage: Stage) -> None:
    run = ask(stage.url, key=TOKEN, agent="told", input=anew())
    whole = follow(run)
    for event in whole:
        if event["type"] == "message.delta":
            break
    tag, attempt, at = whole.last_event_id.split("-")
    within = f"{tag}-{attempt}-{int(at) - 2}"
    stream = follow(run.events_url, last_event_id=within)
    all_of(stream, awaited=False)
    assert TEXT.endswith(stream.answer.text) and stream.answer.status == "completed"
    all_of(whole, awaited=False)
    assert whole.answer.text == TEXT


@BOTH
def test_a_run_is_cancelled(stage: Stage, awaited: bool) -> None:
    with stage.gate() as gate:
        run = ask(stage.url, key=TOKEN, agent="told", input=anew(), options={"gate": str(gate)})
        stream = follow(run)
        for event in stream:
            if event["type"] == "message.delta":
                asyncio.run(cancel_async(run)) if awaited else cancel(run)
    assert (stream.answer.status, stream.answer.reason) == ("cancelled", "requested")
    # What has ended stays as it is.
    cancel(run.cancel_url)


def test_a_failure_is_an_end_like_another(stage: Stage) -> None:
    run = ask(stage.url, key=TOKEN, agent="fails", input=anew(), options={"before": True})
    stream = follow(run)
    assert all_of(stream, awaited=False)[-1]["type"] == "run.failed"
    assert stream.answer.error is not None and stream.answer.error["message"] == "It broke."


def test_one_key_is_one_run(stage: Stage) -> None:
    text, name = anew(), anew()
    first, second = (
        ask(stage.url, key=TOKEN, idempotency_key=name, agent="told", input=text)
        for _ in range(2)
    )
    assert first.id == second.id and first.events_url != second.events_url


def test_a_refusal_says_why(stage: Stage) -> None:
    with pytest.raises(Refused) as refused:
        ask(stage.url, key="nobody's", agent="told", input="x")
    assert (refused.value.code, refused.value.status) == ("unauthorized", 401)
    run = ask(stage.url, key=TOKEN, agent="told", input=anew())
    with pytest.raises(Refused) as refused:
        list(follow(run.events_url.replace("token=", "token=x")))
    assert refused.value.code == "invalid_token"


def test_a_client_of_the_other_kind_is_named(stage: Stage) -> None:
    url = f"{stage.url}/v1/runs/none/events"
    with httpx.Client() as http:
        with pytest.raises(TypeError, match=r"pass an httpx\.AsyncClient"):
            all_of(follow(url, http=http), awaited=True)
    with pytest.raises(TypeError, match=r"pass an httpx\.Client"):
        list(follow(url, http=httpx.AsyncClient()))


@given(tape=TAPES)
def test_what_is_folded_is_what_the_record_has(tape: Tape) -> None:
    told, of_record = Answer(), Answer()
    for entry in tape.entries():
        told.take(json.loads(entry.data))
    of_record.take_record({"parts": tape.shown()})
    assert told.parts == of_record.parts
    assert told.text == tape.said()
