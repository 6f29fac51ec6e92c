"""OpenAI's own package, unchanged but for its URL, and the Responses of a service of two
workers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.dialects.agents import LONG, TEXT, THOUGHT, WORDS
from tests.dialects.stage import KEY, Stage, anew, staged
from tests.processes import wait_until

USAGE = {
    "input_tokens": 7,
    "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 10,
}
DELTAS = {"response.output_text.delta": "text", "response.reasoning_text.delta": "reasoning"}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("responses")) as found:
        yield found


@pytest.fixture
def client(stage: Stage) -> Iterator[OpenAI]:
    with client_of(stage) as found:
        yield found


def client_of(stage: Stage, **more: Any) -> OpenAI:
    options: dict[str, Any] = {"api_key": "the-key-of-ann", "max_retries": 0, "timeout": 30}
    return OpenAI(base_url=f"{stage.url}/v1", **(options | more))


class Read:
    """What a stream has said, put together as an application does."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.last = -1

    def take(self, event: Any) -> None:
        assert event.sequence_number > self.last, "numbers grow"
        self.last = event.sequence_number
        self.events.append(event)

    def all_of(self, stream: Iterable[Any]) -> Read:
        for event in stream:
            self.take(event)
        return self

    def until(self, text: str, stream: Iterator[Any]) -> Read:
        while text not in self.said("text"):
            self.take(next(stream))
        return self

    def said(self, kind: str) -> str:
        return "".join(it.delta for it in self.events if DELTAS.get(it.type) == kind)

    @property
    def response(self) -> Any:
        return self.events[-1].response

    @property
    def id(self) -> str:
        found: str = self.events[0].response.id
        return found

    def folded(self) -> list[dict[str, Any]]:
        """Without numbers, and what is cut in pieces as one."""
        found: list[dict[str, Any]] = []
        for event in self.events:
            told = event.to_dict()
            del told["sequence_number"]
            if found and told["type"] in DELTAS:
                if {**found[-1], "delta": ""} == {**told, "delta": ""}:
                    found[-1]["delta"] += told["delta"]
                    continue
            found.append(told)
        return found


def asked(client: OpenAI, model: str, text: Any, body: Any = None, **more: Any) -> Any:
    return client.responses.with_raw_response.create(
        model=model, input=text, extra_body=body or {}, **more
    )


def streamed(client: OpenAI, model: str, text: Any, **more: Any) -> tuple[Any, Read]:
    raw = asked(client, model, text, stream=True, **more)
    return raw, Read().all_of(raw.parse())


def shapes(response: Any) -> list[Any]:
    """Of its output: what each item is, and what it says."""
    return [
        (it.type, "".join(part.text for part in it.content or []), it.status)
        if it.type in ("message", "reasoning")
        else (it.type, it.call_id, it.name, it.arguments)
        for it in response.output
    ]


def check_told(response: Any) -> None:
    assert response.status == "completed" and response.error is None
    assert response.output_text == TEXT
    assert shapes(response) == [
        ("reasoning", THOUGHT, "completed"),
        ("message", TEXT, "completed"),
    ]
    assert response.usage.to_dict() == USAGE


def test_a_stream_is_what_the_record_says(stage: Stage, client: OpenAI) -> None:
    text = anew()
    raw, read = streamed(client, "told", text, metadata={"mine": "1"})
    assert (read.said("text"), read.said("reasoning")) == (TEXT, THOUGHT)
    check_told(read.response)
    run_id = raw.headers["x-plateau-run"]
    assert read.id == f"resp_{run_id}" and raw.headers["x-cache"] == "miss"
    assert read.response.metadata == {"mine": "1"} and read.response.model == "told"
    assert read.response.created_at == int(stage.record(run_id)["created_at"])
    raw, cached = streamed(client, "told", text)
    assert raw.headers["x-cache"] == "hit"
    check_told(cached.response)
    raw = asked(client, "told", text)
    check_told(raw.parse())
    assert raw.headers["x-cache"] == "hit"
    found = client.responses.retrieve(read.id)
    check_told(found)
    assert found.to_dict()["output"] == read.response.to_dict()["output"]


def test_a_document_is_what_the_record_says(client: OpenAI) -> None:
    raw = asked(client, "told", anew())
    found = raw.parse()
    check_told(found)
    assert raw.headers["x-cache"] == "miss"
    again = client.responses.retrieve(found.id)
    assert again.to_dict()["output"] == found.to_dict()["output"]
    assert again.created_at == found.created_at


def test_the_packages_own_stream_puts_it_together(client: OpenAI) -> None:
    """It insists on the order of items and parts."""
    text = anew()
    for _ in range(2):
        with client.responses.stream(model="told", input=text) as stream:
            done = [it.text for it in stream if it.type == "response.output_text.done"]
            check_told(stream.get_final_response())
        assert done == [TEXT]
    with client.responses.stream(model="calls", input=anew()) as stream:
        final = stream.get_final_response()
    assert [it.type for it in final.output] == ["message", *["function_call"] * 2]


def test_dropped_at_every_event_it_goes_on_where_it_was(client: OpenAI) -> None:
    for model in ("told", "calls"):
        _, whole = streamed(client, model, anew())
        for number, event in enumerate(whole.events, 1):
            rest = client.responses.retrieve(
                whole.id, stream=True, starting_after=event.sequence_number
            )
            read = Read()
            read.events = whole.events[:number]
            read.last = event.sequence_number
            expected = Read()
            expected.events = whole.events
            read.events = [*read.events, *rest]
            told, all_of = read.folded(), expected.folded()
            for it in (*told, *all_of):
                # What was asked is not kept with a run.
                it.pop("response", None)
            # That it waits is told to whoever is there while it does.
            told, all_of = (
                [it for it in events if it["type"] != "response.queued"]
                for events in (told, all_of)
            )
            assert told == all_of, event.type


@pytest.mark.parametrize("model", ["told", "takes_turns", "goes_on"])
def test_who_is_cut_off_while_it_is_on_goes_on_where_it_was(
    stage: Stage, client: OpenAI, model: str
) -> None:
    """Also behind more events than are kept one by one, and with more text than is pushed."""
    until = {"told": WORDS[0], "takes_turns": "word 89", "goes_on": LONG[:2]}[model]
    with stage.gate() as gate:
        raw = asked(client, model, anew(), {"gate": str(gate)}, stream=True)
        read = Read().until(until, iter(raw.parse()))
        raw.http_response.close()
        rest = client.responses.retrieve(read.id, stream=True, starting_after=read.last)
        late = iter(client.responses.retrieve(read.id, stream=True))
        other = Read().until(until, late)
        gate.touch()
        read.all_of(rest)
        other.all_of(late)
    record = stage.record(read.id.removeprefix("resp_"))
    thoughts = "".join(it["text"] for it in record["parts"] if it["type"] == "reasoning")
    for found in (read, other):
        assert (found.said("text"), found.said("reasoning")) == (record["output"], thoughts)
        assert found.response.status == "completed"
        assert found.response.output_text == record["output"]
        done = [it.text for it in found.events if it.type == "response.output_text.done"]
        assert "".join(done) == record["output"]


def test_many_readers_of_one_run_are_told_the_same(stage: Stage, client: OpenAI) -> None:
    """What they have been told is read once for those of a worker."""
    with stage.gate() as gate:
        text, body = anew(), {"gate": str(gate)}
        streams = []
        for _ in range(6):
            raw = asked(client, "told", text, body, stream=True)
            events = iter(raw.parse())
            streams.append((Read().until(WORDS[0], events), events))
        chat = client.chat.completions.create(
            model="told",
            messages=[{"role": "user", "content": text}],
            stream=True,
            extra_body=body,
        )
        gate.touch()
        for read, events in streams:
            check_told(read.all_of(events).response)
        assert "".join(it.choices[0].delta.content or "" for it in chat) == TEXT
    # That it waits is told to whoever is there while it does: by an event, and by what it is
    # when it is created.
    found = []
    for read, _ in streams:
        told = [it for it in read.folded() if it["type"] != "response.queued"]
        assert told[0]["response"].pop("status") in ("queued", "in_progress")
        found.append(told)
    assert found == [found[0]] * len(found)


def test_a_response_in_the_background_is_polled_and_streamed(
    stage: Stage, client: OpenAI
) -> None:
    with stage.gate() as gate:
        body = {"gate": str(gate)}
        found = client.responses.create(
            model="told", input=anew(), background=True, extra_body=body
        )
        assert found.status in ("queued", "in_progress") and found.output == []
        assert found.background
        stream = iter(client.responses.retrieve(found.id, stream=True))
        read = Read().until(WORDS[0], stream)
        assert client.responses.retrieve(found.id).status == "in_progress"
        gate.touch()
        read.all_of(stream)
    check_told(read.response)
    check_told(client.responses.retrieve(found.id))


def test_a_response_is_cancelled_as_often_as_one_likes(stage: Stage, client: OpenAI) -> None:
    with stage.gate() as gate:
        raw = asked(client, "told", anew(), {"gate": str(gate)}, stream=True)
        events = iter(raw.parse())
        read = Read().until(WORDS[0], events)
        for _ in range(2):
            found = client.responses.cancel(read.id)
            assert found.status == "cancelled"
        read.all_of(events)
    assert read.events[-1].type == "response.failed" and read.response.status == "cancelled"
    assert shapes(read.response)[-1] == ("message", WORDS[0], "incomplete")
    assert shapes(client.responses.retrieve(read.id)) == shapes(read.response)


def test_a_response_that_is_deleted_is_gone(stage: Stage, client: OpenAI) -> None:
    text = anew()
    found = asked(client, "told", text).parse()
    hit = asked(client, "told", text)
    assert hit.headers["x-cache"] == "hit"
    client.responses.delete(found.id)
    for gone in (found.id, hit.parse().id):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(gone)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(found.id)
    # Not what was deleted.
    assert asked(client, "told", text).headers["x-cache"] == "miss"
    with stage.gate() as gate:
        body = {"gate": str(gate)}
        on = client.responses.create(
            model="told", input=anew(), background=True, extra_body=body
        )
        client.with_options(max_retries=3).responses.delete(on.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(on.id)


def test_a_response_of_another_is_none(stage: Stage, client: OpenAI) -> None:
    found = asked(client, "told", anew()).parse()
    with client_of(stage, api_key="the-key-of-bob") as bob:
        for ask in (bob.responses.retrieve, bob.responses.cancel, bob.responses.delete):
            with pytest.raises(openai.NotFoundError):
                ask(found.id)
        with pytest.raises(openai.NotFoundError):
            bob.responses.retrieve(found.id, stream=True, starting_after=3)
        with pytest.raises(openai.BadRequestError):
            bob.responses.create(model="told", input="Hi", previous_response_id=found.id)
    check_told(client.responses.retrieve(found.id))


def test_a_tool_goes_round(client: OpenAI) -> None:
    question = anew()
    _, read = streamed(client, "calls", question)
    calls = [it for it in read.response.output if it.type == "function_call"]
    assert [(it.call_id, it.name, it.arguments) for it in calls] == [
        ("call-1", "weather", '{"city": "Oslo"}'),
        ("call-2", "weather", '{"city":"Rome"}'),
    ]
    results: Any = [
        {"type": "function_call_output", "call_id": "call-1", "output": "cold"},
        {"type": "function_call_output", "call_id": "call-2", "output": "warm"},
    ]
    on = client.responses.create(
        model="calls",
        input=results,
        previous_response_id=read.id,
    )
    assert on.output_text == "It is warm."
    items: Any = [{"role": "user", "content": question}, *read.response.to_dict()["output"]]
    all_of = client.responses.create(model="calls", input=[*items, *results])
    assert all_of.output_text == "It is warm."


def test_a_response_goes_on_from_another(client: OpenAI) -> None:
    """From any that was, as from where one turns off; what told it how to answer is not
    carried over."""
    first = client.responses.create(model="told", input=anew(), instructions="Be brief.")
    names = [anew(), anew()]
    ones = [
        client.responses.create(model="options", input=name, previous_response_id=first.id)
        for name in names
    ]
    for one, name, other in zip(ones, names, names[::-1], strict=True):
        assert WORDS[0] in one.output_text and name in one.output_text
        assert other not in one.output_text and "Be brief." not in one.output_text
        assert one.previous_response_id == first.id
    last = client.responses.create(
        model="options", input="And?", previous_response_id=ones[0].id, store=False
    )
    assert names[0] in last.output_text and WORDS[0] in last.output_text
    for nowhere in (last.id, "resp_" + "0" * 32, "resp_1", "x"):
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
            client.responses.create(model="options", input="And?", previous_response_id=nowhere)
        assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_conversation_is_the_services(client: OpenAI) -> None:
    conversation, word = anew(), anew()
    for text in (word, "And?"):
        found = client.responses.create(model="options", input=text, conversation=conversation)
    assert word in found.output_text
    assert found.conversation and found.conversation.id == conversation


@pytest.mark.parametrize(
    ("failure", "error", "status"),
    [
        ({"code": "invalid_options"}, openai.BadRequestError, 400),
        ({"code": "upstream_error", "retryable": True}, openai.InternalServerError, 503),
    ],
)
def test_a_failure_is_an_error_of_the_package(
    client: OpenAI, failure: dict[str, Any], error: type[openai.APIStatusError], status: int
) -> None:
    with pytest.raises(error) as caught:
        asked(client, "fails", anew(), failure)
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"] == "It broke."


def test_a_failure_within_a_stream_is_told_with_what_was_said(client: OpenAI) -> None:
    _, read = streamed(client, "fails", anew(), body={"before": True})
    assert read.events[-1].type == "response.failed"
    assert read.response.error.message == "It broke."
    assert shapes(read.response) == [("message", "Half an ", "completed")]
    found = client.responses.retrieve(read.id)
    assert (found.status, shapes(found)) == ("failed", shapes(read.response))


def test_what_is_cut_off_is_incomplete(client: OpenAI) -> None:
    _, read = streamed(client, "cut_off", anew())
    assert read.events[-1].type == "response.incomplete"
    assert read.response.incomplete_details.reason == "max_output_tokens"
    assert shapes(read.response) == [("message", "As much as ", "incomplete")]
    assert shapes(client.responses.retrieve(read.id)) == shapes(read.response)


def test_an_answer_that_is_no_text_is_its_message(client: OpenAI) -> None:
    text = anew()
    _, read = streamed(client, "concludes", text)
    assert read.said("text") == read.response.output_text == "What was meant."
    assert asked(client, "concludes", text).parse().output_text == "What was meant."


def test_options_are_those_of_chat_completions(client: OpenAI) -> None:
    found = client.responses.create(
        model="options",
        instructions="Be brief.",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": anew()}]},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "x"},
                    {"type": "input_image", "image_url": "data:,", "detail": "low"},
                ],
            },
        ],
        max_output_tokens=5,
        reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
        tools=[{"type": "function", "name": "f", "parameters": {}, "strict": True}],
        metadata={"x": "y"},
        extra_body={"made_up": 1},
    ).output_text
    for expected in (
        "('made_up', 1), ('max_completion_tokens', 5)",
        "('reasoning_effort', 'low')",
        "('response_format', {'type': 'json_schema', 'json_schema': {",
        "('tools', [{'type': 'function', 'function': {",
        "('verbosity', 'low')",
        "{'role': 'system', 'content': 'Be brief.'}",
        "'image_url': {'url': 'data:,', 'detail': 'low'}",
    ):
        assert expected in found, found
    assert "metadata" not in found


def test_the_wire_is_as_it_is_known(stage: Stage) -> None:
    """Each block has the name of its event, and data."""
    body = {"model": "told", "input": anew(), "stream": True}
    answer = httpx.post(f"{stage.url}/v1/responses", json=body, headers=KEY)
    assert answer.headers["content-type"] == "text/event-stream"
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == ""
    for block in blocks:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        name, data = lines
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    assert "\0" not in answer.text


def test_a_number_that_never_was_is_an_error(client: OpenAI) -> None:
    _, read = streamed(client, "told", anew())
    stream = client.responses.retrieve(read.id, stream=True, starting_after=2**40)
    (event,) = stream
    assert event.type == "error" and event.code == "restarted"
    for text in ("x", "-1"):
        with pytest.raises(openai.BadRequestError):
            client.responses.retrieve(
                read.id, stream=True, extra_query={"starting_after": text}
            )
    assert list(client.responses.retrieve(read.id, stream=True, starting_after=read.last)) == []


def test_a_worker_that_leaves_breaks_off_and_another_goes_on(tmp_path: Path) -> None:
    """A clean end would be taken for the answer's."""
    with staged(tmp_path) as stage, stage.gate() as gate, client_of(stage) as client:
        raw = asked(client, "told", anew(), {"gate": str(gate)}, stream=True)
        events = iter(raw.parse())
        read = Read().until(WORDS[0], events)
        stage.replace_workers()
        with pytest.raises(openai.APIConnectionError):
            read.all_of(events)
        willing = client.with_options(max_retries=5)
        rest = willing.responses.retrieve(read.id, stream=True, starting_after=read.last)
        gate.touch()
        check_told(read.all_of(rest).response)


def test_an_attempt_that_begins_again_behind_text_is_an_error(tmp_path: Path) -> None:
    """To who reads, and to who comes back with a number of before."""
    with staged(tmp_path) as stage, stage.gate() as gate, client_of(stage) as client:
        raw = asked(client, "stumbles", anew(), {"gate": str(gate)}, stream=True)
        events = iter(raw.parse())
        read = Read().until("attempt 1", events)
        number = read.last
        for runner in stage.plateau.pids("runner"):
            os.kill(runner, signal.SIGKILL)
        read.all_of(events)
        assert read.events[-1].type == "error" and read.events[-1].code == "restarted"
        (again,) = client.responses.retrieve(read.id, stream=True, starting_after=number)
        assert again.type == "error" and again.code == "restarted"
        wait_until(
            lambda: client.responses.retrieve(read.id).status == "completed", "it is whole"
        )
        whole = Read().all_of(client.responses.retrieve(read.id, stream=True))
        assert whole.said("text") == "attempt 2 is over."
