"""OpenAI's own package, unchanged but for its URL, at a service of two workers."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI, Stream
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.dialects.agents import TEXT, THOUGHT, WORDS
from tests.dialects.stage import KEY, Stage, anew, staged
from tests.processes import wait_until
from tests.scrapes import parsed

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("openai")) as found:
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
        self.chunks: list[ChatCompletionChunk] = []
        self.text = self.thoughts = self.finish = self.role = ""
        self.calls: dict[int, dict[str, str]] = {}
        self.usage: dict[str, Any] | None = None

    def take(self, chunk: ChatCompletionChunk) -> None:
        self.chunks.append(chunk)
        if chunk.usage is not None:
            self.usage = chunk.usage.model_dump(exclude_none=True)
        for choice in chunk.choices:
            delta = choice.delta
            self.role = delta.role or self.role
            self.text += delta.content or ""
            self.thoughts += getattr(delta, "reasoning_content", "")
            self.finish = choice.finish_reason or self.finish
            for call in delta.tool_calls or []:
                at = self.calls.setdefault(call.index, {"id": "", "name": "", "arguments": ""})
                assert call.function is not None
                at["id"] += call.id or ""
                at["name"] += call.function.name or ""
                at["arguments"] += call.function.arguments or ""

    def all_of(self, stream: Stream[ChatCompletionChunk]) -> Read:
        for chunk in stream:
            self.take(chunk)
        return self


def asked(
    client: OpenAI, model: str, text: str, *, body: dict[str, Any] | None = None, **more: Any
) -> Any:
    return client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        extra_body=body or {},
        **more,
    )


def streamed(client: OpenAI, model: str, text: str, **more: Any) -> tuple[Any, Read]:
    raw = asked(client, model, text, stream=True, **more)
    return raw, Read().all_of(raw.parse())


def whole(client: OpenAI, model: str, text: str, **more: Any) -> tuple[Any, ChatCompletion]:
    raw = asked(client, model, text, **more)
    return raw, raw.parse()


def check_told(read: Read) -> None:
    assert (read.role, read.text, read.thoughts) == ("assistant", TEXT, THOUGHT)
    # The agent has executed its tools itself.
    assert (read.finish, read.calls) == ("stop", {})
    assert {chunk.model for chunk in read.chunks} == {"told"}
    assert len({(chunk.id, chunk.created) for chunk in read.chunks}) == 1


def check_told_whole(found: ChatCompletion) -> None:
    (choice,) = found.choices
    assert choice.message.content == TEXT and choice.message.role == "assistant"
    assert choice.message.model_extra == {"reasoning_content": THOUGHT}
    assert choice.finish_reason == "stop" and choice.message.tool_calls is None
    assert found.usage is not None
    assert found.usage.model_dump(exclude_none=True) == USAGE
    assert found.model == "told"


def test_a_stream_is_what_the_record_says(stage: Stage, client: OpenAI) -> None:
    text = anew()
    raw, read = streamed(client, "told", text, stream_options={"include_usage": True})
    check_told(read)
    assert read.usage == USAGE and read.chunks[-1].choices == []
    run_id = raw.headers["x-plateau-run"]
    assert read.chunks[0].id == f"chatcmpl-{run_id}"
    assert raw.headers["x-cache"] == "miss" and raw.request_id
    assert stage.record(run_id)["output"] == TEXT
    raw, cached = streamed(client, "told", text)
    check_told(cached)
    assert raw.headers["x-cache"] == "hit" and cached.usage is None
    raw, document = whole(client, "told", text)
    check_told_whole(document)
    assert raw.headers["x-cache"] == "hit"


def test_a_document_is_what_the_record_says(stage: Stage, client: OpenAI) -> None:
    raw, found = whole(client, "told", anew())
    check_told_whole(found)
    run_id = raw.headers["x-plateau-run"]
    assert found.id == f"chatcmpl-{run_id}" and raw.headers["x-cache"] == "miss"
    assert found.created == int(stage.record(run_id)["created_at"])


def test_a_link_leads_to_the_run(stage: Stage, client: OpenAI) -> None:
    raw, _ = streamed(client, "told", anew())
    url = raw.headers["link"].partition("<")[2].partition(">")[0]
    events = httpx.get(stage.url + url)
    assert events.status_code == 200 and '"type":"run.completed"' in events.text


def test_equal_questions_share_one_run(stage: Stage, client: OpenAI) -> None:
    with stage.gate() as gate:
        body = {"gate": str(gate)}
        text = anew()
        first = asked(client, "told", text, stream=True, body=body)
        chunks = iter(first.parse())
        read = Read()
        while WORDS[0] not in read.text:
            read.take(next(chunks))
        second = asked(client, "told", text, stream=True, body=body)
        assert second.headers["x-cache"] == "joined"
        assert second.headers["x-plateau-run"] == first.headers["x-plateau-run"]
        gate.touch()
        for chunk in chunks:
            read.take(chunk)
        check_told(read)
        check_told(Read().all_of(second.parse()))


def test_who_comes_late_to_a_long_answer_is_told_all_of_it(
    stage: Stage, client: OpenAI
) -> None:
    """Behind more events than are kept one by one."""
    with stage.gate() as gate:
        body = {"gate": str(gate)}
        text = anew()
        first = asked(client, "takes_turns", text, stream=True, body=body)
        chunks = iter(first.parse())
        read = Read()
        while "word 89" not in read.text:
            read.take(next(chunks))
        second = asked(client, "takes_turns", text, stream=True, body=body)
        late = Read()
        others = iter(second.parse())
        while "word 89" not in late.text:
            late.take(next(others))
        gate.touch()
        for chunk in chunks:
            read.take(chunk)
        for chunk in others:
            late.take(chunk)
    assert second.headers["x-cache"] == "joined"
    record = stage.record(first.headers["x-plateau-run"])
    thoughts = "".join(it["text"] for it in record["parts"] if it["type"] == "reasoning")
    for found in (read, late):
        assert (found.text, found.thoughts) == (record["output"], thoughts)
        assert found.finish == "stop"


def test_a_tool_goes_round(stage: Stage, client: OpenAI) -> None:
    """The answer calls, its caller executes, and the next answer knows what came of it."""
    question: dict[str, Any] = {"role": "user", "content": anew()}
    _, read = streamed(client, "calls", question["content"])
    assert read.text == "Let me see. " and read.finish == "tool_calls"
    assert read.calls == {
        0: {"id": "call-1", "name": "weather", "arguments": '{"city": "Oslo"}'},
        1: {"id": "call-2", "name": "weather", "arguments": '{"city":"Rome"}'},
    }
    _, document = whole(client, "calls", question["content"])
    message = document.choices[0].message
    assert document.choices[0].finish_reason == "tool_calls" and message.tool_calls
    called = [call.function for call in message.tool_calls if call.type == "function"]
    assert [it.arguments for it in called] == ['{"city": "Oslo"}', '{"city":"Rome"}']
    results: list[Any] = [
        {"role": "tool", "tool_call_id": "call-1", "content": "cold"},
        {"role": "tool", "tool_call_id": "call-2", "content": "warm"},
    ]
    final = client.chat.completions.create(
        model="calls",
        messages=[question, message, *results],  # type: ignore[list-item]
    )
    assert final.choices[0].message.content == "It is warm."


@pytest.mark.parametrize(
    ("failure", "error", "status"),
    [
        ({"code": "invalid_options"}, openai.BadRequestError, 400),
        ({"code": "upstream_rate_limited", "retryable": True}, openai.RateLimitError, 429),
        ({"code": "upstream_error"}, openai.InternalServerError, 502),
        ({"code": "upstream_error", "retryable": True}, openai.InternalServerError, 503),
        ({"code": "upstream_timeout"}, openai.InternalServerError, 504),
    ],
)
def test_a_failure_is_an_error_of_the_package(
    client: OpenAI, failure: dict[str, Any], error: type[openai.APIStatusError], status: int
) -> None:
    with pytest.raises(error) as caught:
        whole(client, "fails", anew(), body=failure)
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"] == "It broke."
    retries = caught.value.response.headers["x-should-retry"]
    assert retries == ("true" if failure.get("retryable") else "false")


def test_a_failure_within_a_stream_is_an_error_of_the_package(client: OpenAI) -> None:
    raw = asked(client, "fails", anew(), stream=True, body={"before": True})
    read = Read()
    with pytest.raises(openai.APIError, match="It broke"):
        read.all_of(raw.parse())
    assert read.text == "Half an " and not read.finish


def counted(stage: Stage, what: str) -> float:
    """How many runs were joined, say, so far; it is told within seconds."""
    text = httpx.get(f"{stage.url}/metrics", timeout=10).text
    return parsed(text).total(f"plateau_runs_{what}_total")


@pytest.mark.parametrize("stream", [True, False])
def test_a_cancelled_answer_is_an_error_of_the_package(
    stage: Stage, client: OpenAI, stream: bool
) -> None:
    with stage.gate() as gate:
        text, body = anew(), {"gate": str(gate)}
        raw = asked(client, "told", text, stream=True, body=body)
        run_id = raw.headers["x-plateau-run"]
        caught: list[Exception] = []

        def read() -> None:
            try:
                if stream:
                    Read().all_of(raw.parse())
                else:
                    whole(client, "told", text, body=body)
            except openai.APIError as error:
                caught.append(error)

        before = counted(stage, "joined")
        reading = threading.Thread(target=read)
        reading.start()
        wait_until(lambda: stage.record(run_id)["status"] == "running", "it runs")
        if not stream:
            # Who comes later asks for another one.
            wait_until(lambda: counted(stage, "joined") > before, "it is asked for")
        httpx.post(f"{stage.url}/v1/runs/{run_id}/cancel", headers=KEY).raise_for_status()
        reading.join(20)
        assert len(caught) == 1 and "cancelled" in str(caught[0])


def test_a_client_that_leaves_cancels_where_it_says_so(stage: Stage, client: OpenAI) -> None:
    """The answer that two wait for ends with the second of them that leaves."""
    with stage.gate() as gate:
        body = {"gate": str(gate)}
        headers = {"X-Plateau-On-Disconnect": "cancel"}
        text = anew()
        raw = asked(client, "told", text, stream=True, body=body, extra_headers=headers)
        chunks = iter(raw.parse())
        next(chunks)
        run_id = raw.headers["x-plateau-run"]
        with client_of(stage, timeout=2) as impatient, pytest.raises(openai.APITimeoutError):
            whole(impatient, "told", text, body=body, extra_headers=headers)
        assert stage.record(run_id)["status"] == "running"
        raw.http_response.close()
        wait_until(lambda: stage.record(run_id)["status"] == "cancelled", "it is cancelled")
        assert stage.record(run_id)["error"]["message"] == "its client has left"


def test_a_client_that_waits_for_a_document_and_leaves_cancels(
    stage: Stage, client: OpenAI
) -> None:
    with stage.gate() as gate:
        text, body = anew(), {"gate": str(gate)}
        first = asked(client, "told", text, stream=True, body=body)
        chunks = iter(first.parse())
        next(chunks)
        run_id = first.headers["x-plateau-run"]
        cancel_url = first.headers["link"].split("<")[2].partition(">")[0]
        headers = {"X-Plateau-On-Disconnect": "cancel"}
        caught = threading.Event()

        def ask() -> None:
            with (
                client_of(stage, timeout=2) as impatient,
                pytest.raises(openai.APITimeoutError),
            ):
                whole(impatient, "told", text, body=body, extra_headers=headers)
            caught.set()

        asking = threading.Thread(target=ask)
        asking.start()
        # Both have a share then, and only the one who leaves still holds it.
        asking.join(1)
        assert httpx.post(stage.url + cancel_url).status_code == 202
        assert stage.record(run_id)["status"] == "running"
        asking.join(20)
        assert caught.is_set()
        wait_until(lambda: stage.record(run_id)["status"] == "cancelled", "it is cancelled")


def test_a_client_that_leaves_takes_nothing_from_others(stage: Stage, client: OpenAI) -> None:
    text = anew()
    with stage.gate() as gate:
        body = {"gate": str(gate)}
        headers = {"X-Plateau-On-Disconnect": "cancel"}
        first = asked(client, "told", text, stream=True, body=body, extra_headers=headers)
        second = asked(client, "told", text, stream=True, body=body)
        assert second.headers["x-cache"] == "joined"
        first.http_response.close()
        read = Read()
        chunks = iter(second.parse())
        while WORDS[0] not in read.text:
            read.take(next(chunks))
    for chunk in chunks:
        read.take(chunk)
    check_told(read)


def test_a_client_that_leaves_lets_the_answer_be_finished(stage: Stage, client: OpenAI) -> None:
    text = anew()
    with stage.gate() as gate:
        body = {"gate": str(gate)}
        raw = asked(client, "told", text, stream=True, body=body)
        next(iter(raw.parse()))
        raw.http_response.close()
    run_id = raw.headers["x-plateau-run"]
    wait_until(lambda: stage.record(run_id)["status"] == "completed", "it is finished")
    raw, read = streamed(client, "told", text, body=body)
    check_told(read)
    assert raw.headers["x-cache"] == "hit"


def test_an_answer_that_is_no_text_is_its_content(client: OpenAI) -> None:
    text = anew()
    assert streamed(client, "concludes", text)[1].text == "What was meant."
    _, found = whole(client, "concludes", text)
    assert found.choices[0].message.content == "What was meant."


def test_what_is_not_known_is_an_option_and_a_member_of_a_message_left_out(
    client: OpenAI,
) -> None:
    found = client.chat.completions.create(
        model="options",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": anew()}], "name": "ann"},
            {"role": "assistant", "content": None, "refusal": "No.", "audio": None},
            {"role": "user", "content": "And now?"},
        ],
        temperature=0.5,
        user="someone" * 100,
        seed=None,
        extra_body={"made_up": {"x": 1}, "task": "quiz"},
    )
    said = found.choices[0].message.content or ""
    assert said.startswith("[('made_up', {'x': 1}), ('task', 'quiz'), ('temperature', 0.5)]")
    assert "'content': 'No.'" in said and "audio" not in said and "Be brief." in said


def test_who_asks_anew_is_answered_anew(client: OpenAI) -> None:
    text = anew()
    streamed(client, "told", text)
    raw, read = streamed(client, "told", text, extra_headers={"Cache-Control": "no-cache"})
    check_told(read)
    assert raw.headers["x-cache"] == "miss"


def test_the_models_are_the_agents(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"told", "study", "openai", "small-1", "large-1", "meta/large-2"} <= set(names)
    assert "external" not in names
    assert client.models.retrieve("meta/large-2").id == "meta/large-2"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


def test_a_model_that_the_service_may_ask_for_is_asked_of_openai(client: OpenAI) -> None:
    # It has no endpoint here, and says so.
    with pytest.raises(openai.APIStatusError) as caught:
        whole(client, "large-1", anew())
    assert caught.value.code == "upstream_not_configured"


Bad = Callable[[OpenAI], Any]
REFUSED: dict[str, tuple[Bad, type[openai.APIStatusError], str | None]] = {
    "no such model": (
        lambda it: whole(it, "nobody", "Hi"),
        openai.NotFoundError,
        "model_not_found",
    ),
    "external": (
        lambda it: whole(it, "external", "Hi"),
        openai.NotFoundError,
        "model_not_found",
    ),
    "no messages": (
        lambda it: it.chat.completions.create(model="told", messages=[]),
        openai.BadRequestError,
        "invalid_request",
    ),
    "only instructions": (
        lambda it: it.chat.completions.create(
            model="told", messages=[{"role": "system", "content": "Hi"}]
        ),
        openai.BadRequestError,
        "invalid_request",
    ),
    "two choices": (
        lambda it: whole(it, "told", "Hi", n=2),
        openai.BadRequestError,
        "invalid_request",
    ),
    "a message of another kind": (
        lambda it: it.post(
            "/chat/completions", cast_to=object, body={"model": "told", "messages": [3]}
        ),
        openai.BadRequestError,
        "invalid_request",
    ),
    "another method": (
        lambda it: it.get("/chat/completions", cast_to=object),
        openai.APIStatusError,
        "method_not_allowed",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_an_error_of_the_package(client: OpenAI, name: str) -> None:
    ask, error, code = REFUSED[name]
    with pytest.raises(error) as caught:
        ask(client)
    assert caught.value.code == code and caught.value.status_code < 500
    assert isinstance(caught.value.body, dict) and caught.value.body["message"]


def test_a_wrong_key_is_an_error_of_the_package(stage: Stage) -> None:
    with client_of(stage, api_key="nobody's") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            whole(client, "told", "Hi")
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_the_wire_is_as_it_is_known(stage: Stage) -> None:
    """No ids, no retry, no names of events; each block has data, and the last is `[DONE]`."""
    body = {"model": "told", "messages": [{"role": "user", "content": anew()}], "stream": True}
    answer = httpx.post(f"{stage.url}/v1/chat/completions", json=body, headers=KEY)
    assert answer.headers["content-type"] == "text/event-stream"
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == "" and blocks[-1] == "data: [DONE]"
    for block in blocks[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        assert len(lines) == 1 and lines[0].startswith("data: {")
        assert json.loads(lines[0][6:])["object"] == "chat.completion.chunk"


def test_a_worker_that_leaves_is_told_and_who_asks_again_goes_on(tmp_path: Path) -> None:
    """A stream ends with an error, a document is asked for again by the package itself."""
    with staged(tmp_path) as stage, stage.gate() as gate, client_of(stage) as client:
        text, body = anew(), {"gate": str(gate)}
        raw = asked(client, "told", text, stream=True, body=body)
        chunks = iter(raw.parse())
        read = Read()
        while WORDS[0] not in read.text:
            read.take(next(chunks))
        found: list[Any] = []

        def ask() -> None:
            with client_of(stage, max_retries=5) as patient:
                found.append(whole(patient, "told", text, body=body))

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: counted(stage, "joined") >= 1, "it has joined")
        stage.replace_workers()
        with pytest.raises(openai.APIError, match="ask again"):
            for chunk in chunks:
                read.take(chunk)
        assert not read.finish
        again = asked(client, "told", text, stream=True, body=body)
        assert again.headers["x-plateau-run"] == raw.headers["x-plateau-run"]

        # Twice by the package, once by us.
        wait_until(lambda: counted(stage, "joined") >= 3, "it has asked again")
        gate.touch()
        check_told(Read().all_of(again.parse()))
        asking.join(30)
        ((document, answer),) = found
        check_told_whole(answer)
        # Who is late has the answer that is there: what was refused had joined, too.
        run = document.headers["x-plateau-run"]
        assert run == raw.headers["x-plateau-run"] or run.startswith("hit-")
        # And whoever asked, it was executed once.
        assert counted(stage, "created") == 1


def test_an_attempt_that_begins_again_behind_text_is_an_error(tmp_path: Path) -> None:
    """And whoever waits for a document has the answer of the later one alone."""
    with staged(tmp_path) as stage, stage.gate() as gate, client_of(stage) as client:
        text, body = anew(), {"gate": str(gate)}
        raw = asked(client, "stumbles", text, stream=True, body=body)
        chunks = iter(raw.parse())
        read = Read()
        while "attempt 1" not in read.text:
            read.take(next(chunks))
        for runner in stage.plateau.pids("runner"):
            os.kill(runner, signal.SIGKILL)
        with pytest.raises(openai.APIError, match="begun again"):
            for chunk in chunks:
                read.take(chunk)
        assert read.text == "attempt 1 " and not read.finish
        _, answer = whole(client, "stumbles", text, body=body)
        assert answer.choices[0].message.content == "attempt 2 is over."


def test_a_page_of_another_origin_may_ask(tmp_path: Path) -> None:
    with staged(tmp_path, ALLOWED_ORIGINS="https://page.test") as stage:
        url = f"{stage.url}/v1/chat/completions"
        origin = {"Origin": "https://page.test"}
        asking = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,x-stainless-os,traceparent",
        }
        preflight = httpx.options(url, headers=origin | asking)
        assert preflight.status_code == 200
        assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
        body = {"model": "told", "messages": [{"role": "user", "content": "Hi"}]}
        answer = httpx.post(url, json=body, headers=origin | KEY)
        assert answer.headers["access-control-allow-origin"] == "https://page.test"
        assert "X-Plateau-Run" in answer.headers["access-control-expose-headers"]
        refused = httpx.post(url, json={}, headers=origin | KEY)
        assert refused.status_code == 400
        assert refused.headers["access-control-allow-origin"] == "https://page.test"
