"""LangGraph's graphs through AI SDK's own client: in order and whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.packages import install
from tests.dialects.stage import Stage
from tests.dialects.test_ai_sdk import Told, chat
from tests.hosting.graph_scripts import ANSWER, words
from tests.hosting.hosts import Host
from tests.hosting.scripts import CITE
from tests.hosting.test_langgraph import graphs

SETTLED: list[Any] = ["settled"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if cause := install():
        pytest.skip(cause)
    with graphs(tmp_path_factory.mktemp("langgraph")) as found:
        yield found


def told(host: Host, agent: str, *actions: list[Any], **more: Any) -> Told:
    stage = Stage(host.plateau, host.folder)
    return chat(stage, agent, ["send", "Why?"], SETTLED, *actions, **more)


def test_text_thoughts_and_sources(host: Host) -> None:
    assert told(host, "plain").text == ANSWER
    thoughtful = told(host, "thoughts")
    assert [it["text"] for it in thoughtful.parts("reasoning")] == ["Three times three."]
    assert thoughtful.text == "Nine."
    (source,) = told(host, "cites").parts("source-url")
    assert source["url"] == CITE


def test_tools_have_their_results_and_rounds_are_steps(host: Host) -> None:
    answer = told(host, "tools_chat")
    kinds = [it["type"] for it in answer.answer["parts"]]
    assert kinds.count("step-start") == 2
    tools = [it for it in answer.answer["parts"] if "toolCallId" in it]
    assert {it["output"] for it in tools} == {"cold in Rome", "noon in UTC"}
    assert answer.text.endswith("It is cold in Rome at noon.")
    assert (answer.status, answer.error) == ("ready", None)


def test_two_nodes_side_by_side_are_two_texts(host: Host) -> None:
    texts = [it["text"] for it in told(host, "side_by_side").parts("text")]
    assert sorted(texts) == [words("a"), words("b")]


def test_data_and_errors(host: Host) -> None:
    (data,) = told(host, "structured").parts("data-output")
    assert data["data"] == {"city": "Rome", "degrees": 7}
    failed = told(host, "limited")
    assert failed.status == "error" and "rate limiting" in (failed.error or "")


@pytest.mark.parametrize("approved", [True, False])
def test_an_approval_goes_on_in_its_message(host: Host, approved: bool) -> None:
    answer = told(
        host, "approve", ["approve", approved], ["answered", 2], SETTLED, automatic="approvals"
    )
    assert answer.text == "I will delete it." + ("Done." if approved else "Then not.")
    assert (answer.status, answer.error) == ("ready", None)
    (tool,) = [it for it in answer.answer["parts"] if "toolCallId" in it]
    assert tool["approval"]["approved"] is approved
    if approved:
        assert (tool["state"], tool["output"]) == ("output-available", "deleted /a")
